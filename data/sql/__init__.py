"""Reads, resolves and prints SQL queries (standard library only).

    parse(text) -> Query              tokens and precedence climbing, bounded in length and depth
    resolve(tree, schema) -> Query    every column bound to its table; prints in canonical form
    to_sql(tree) -> str               one line, single spaces, as few parentheses as needed
    canonical_sql(sql, schema) -> str the same query in canonical form
    keeps_meaning(sql, raw_rows, canonical_rows) -> bool     did it give the same rows?
    normalise(sql, schema) -> str     the text by which two spellings of one query compare equal

Canonical form: T1, T2, ... only where a SELECT reads several tables, names as the schema spells
them, text in single quotes, no ASC and no semicolon. It covers the SELECT statements of Spider and
BIRD (WITH and window functions included). An SQLError with its place for the rest: VALUES,
recursive WITH, window frames, FILTER, parenthesised joins, rowid, anything but one SELECT
statement, and names that SQLite might bind in another way once aliases are gone.
"""

from data.sql.parse import MAX_DEPTH, parse, tokenise
from data.sql.render import literal, quote_name, quote_text, to_sql
from data.sql.resolve import canonical_sql, keeps_meaning, normalise, resolve
from data.sql.tree import (
    Between, Binary, Call, Case, Column, In, Item, Literal, Logic, Node, Order, Query, Row,
    Select, Source, SQLError, Star, Subquery, Unary, Window, With, conjunction, conjuncts, rewrite,
    walk)
