"""Synthetic SQL from templates (section 3.1.1), standard library only.

    templates.py     queries to templates with typed slots, and the pool they are drawn from
    profiles.py      statistics of a database's columns
    analyst.sql      queries that own databases get as templates, too
    keys.py          foreign keys that own databases have and do not declare
    fill.py          a template on another database: tables, columns and values for its slots
    quality.py       which templates, columns and results are rejected
    synthesize.py    draw, fill, execute, judge, until there are enough queries
    run.py           all of it for a folder: python -m data.synthesis --data DIR --out OUT
"""
