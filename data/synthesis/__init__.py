"""Synthetic SQL from templates (section 3.1.1), standard library only.

    templates.py     queries to templates with typed slots, and the pool they are drawn from
    profiles.py      statistics of a database's columns
    fill.py          a template on another database: tables, columns and values for its slots
    quality.py       which templates, columns and results are rejected
    synthesize.py    draw, fill, execute, judge, until there are enough queries
    run.py           all of it for a folder: python -m data.synthesis --data DIR --out OUT
"""
