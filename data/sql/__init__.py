"""SQL queries as trees: read (parse), bound to a schema (resolve), printed (render)."""

from data.sql.tree import (
    MAX_DEPTH, Between, Binary, Call, Column, In, Item, Literal, Logic, Node, Order, Query, Select,
    Source, SQLError, Star, Subquery, Unary, Window, With, canonical_sql, conjunction, conjuncts,
    fold, keeps_meaning, literal, normalise, parse, quote_name, quote_text, resolve, rewrite,
    to_sql, tokenise, walk)
