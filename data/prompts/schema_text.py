"""Schemas as text for prompts, and what of a schema a prompt has room for (section 3.1.2).

    compact(schema) -> str               a line a table: name(column type key > table.column, ...)
    ddl(schema) -> str                   CREATE TABLE statements
    rank(schema, question, links)        table names by relevance to the question
    gold_first(schema, sql, rng)         for training: the tables of the query, then random others
    narrow(schema, order, budget, size)  the part of a schema that fits, and what was dropped

A schema that fits is kept unchanged. From one that does not, comments are dropped first, then
tables from the end of `order`, then columns that are not keys. What is kept can be joined as
before: a table comes with those on its shortest foreign-key path to the tables already kept.
"""

import math
import re
from bisect import bisect_right
from collections import Counter
from dataclasses import replace

from data.sql import Source, SQLError, parse, quote_name, resolve, walk
from data.prompts.values import NAME_PART, STOP, WORD, fold


# ---------------------------------------------------------------------------------------------
# The two forms

def compact(schema):
    """A line a table: name(column type key > referenced.column: comment, ...), of a view: view
    name(...)."""
    refers = {key[:2]: f" > {quote_name(key[2])}.{quote_name(key[3])}"
              for key in schema.foreign_keys}
    return "\n".join(
        "view " * table.view + quote_name(table.name) + "(" + ", ".join(
            f"{quote_name(c.name)} {c.type}{' key' * c.primary}"
            + refers.get((table.name, c.name), "") + (f": {c.comment}" if c.comment else "")
            for c in table.columns) + ")" for table in schema.tables)


def ddl(schema):
    """CREATE TABLE statements that SQLite takes, with Spider's types and comments behind --, among
    them "view"."""
    return "\n".join(_create(table, [key for key in schema.foreign_keys if key[0] == table.name])
                     for table in schema.tables)


def _create(table, keys):
    lines = [(f"{quote_name(c.name)} {c.type.upper()}", c.comment) for c in table.columns]
    primary = [quote_name(c.name) for c in table.columns if c.primary]
    if primary:
        lines.append((f"PRIMARY KEY ({', '.join(primary)})", ""))
    lines += [(f"FOREIGN KEY ({quote_name(column)}) REFERENCES "
               f"{quote_name(parent)} ({quote_name(referred)})", "")
              for _, column, parent, referred in keys]
    last = len(lines) - 1
    return f"CREATE TABLE {quote_name(table.name)} ({' -- view' * table.view}\n" + "".join(
        f"  {text}{',' * (i < last)}{f' -- {comment}' if comment else ''}\n"
        for i, (text, comment) in enumerate(lines)) + ");"


# ---------------------------------------------------------------------------------------------
# Which tables matter

def rank(schema, question, links=()):
    """Names of all tables, those first whose names, columns and values the question mentions.

    links: (table, column, value) as ValueIndex.link() offers them. A word counts the less, the
    more tables have it, and twice in the name of a table; a linked value counts three words."""
    asked = _stems(question) - (STOP - {"order"})            # a table in many a schema
    named = {t.name: _stems(t.name) & asked for t in schema.tables}
    found = {t.name: set().union(named[t.name], *[_stems(c.name) & asked for c in t.columns])
             for t in schema.tables}
    owners = Counter(word for words in found.values() for word in words)
    linked = Counter(table for table, _ in {(table, value) for table, _, value in links})
    # fsum: a set gives its words in another order in each process.
    score = {name: math.fsum((1 + (word in named[name])) / owners[word] for word in words)
             + 3 * linked[name] for name, words in found.items()}
    return sorted(score, key=lambda name: -score[name])           # stable: ties in schema order


def _stems(text):
    """The words of a question or a name, folded, in the singular."""
    words = {fold(part) for run in WORD.findall(text) for part in NAME_PART.findall(run)}
    return {re.sub(r"(ies)$|(?<!s)s$", lambda end: "y" * bool(end[1]), word) for word in words}


def gold_tables(sql, schema):
    """Names of the tables that a query reads, in reading order; none where it cannot be read."""
    names = {table.name for table in schema.tables}
    try:
        tree = resolve(parse(sql), schema)
    except SQLError:
        return {}.keys()
    read = [part.table for part in walk(tree) if isinstance(part, Source)]
    return dict.fromkeys(name for name in read if isinstance(name, str) and name in names).keys()


def gold_first(schema, sql, rng):
    """Names of all tables: those that the query reads, then the others in random order."""
    gold = list(gold_tables(sql, schema))
    others = [table.name for table in schema.tables if table.name not in gold]
    return gold + rng.sample(others, len(others))


# ---------------------------------------------------------------------------------------------
# What fits

def narrow(schema, order, budget, size=lambda schema: len(compact(schema))):
    """(the Schema that a prompt has room for, Counter of dropped tables, columns and comments).

    order: all table names, the most important first. budget: the most that size(schema) may be,
    in whatever size counts (characters of the compact form, unless told). The first table of
    `order` stays in any case, with its keys, even where it alone is over the budget."""
    if size(schema) <= budget:
        return schema, Counter()
    plain = schema.with_columns(lambda table, column: replace(column, comment=""))
    if size(plain) <= budget:
        return plain, _dropped(schema, plain)
    near = {table.name: [] for table in schema.tables}            # joined by a foreign key
    for child, _, parent, _ in schema.foreign_keys:
        near[child].append(parent)
        near[parent].append(child)
    kept = {order[0]}
    for name in order[1:]:
        more = kept | _path(near, kept, name)
        if size(_part(plain, more)) <= budget:
            kept = more
    narrowed = _part(plain, kept)
    if size(narrowed) > budget:
        narrowed = _fewer_columns(narrowed, budget, size)
    return narrowed, _dropped(schema, narrowed)


def _part(schema, names):
    """The schema with these tables alone, and the keys between them."""
    return replace(schema, tables=tuple(t for t in schema.tables if t.name in names),
                   foreign_keys=tuple(key for key in schema.foreign_keys
                                      if key[0] in names and key[2] in names))


def _path(near, kept, name):
    """The tables on the shortest foreign-key path from name to a kept one; name alone if none."""
    paths = {name: {name}}                        # breadth first: what is found grows while read
    for table in (queue := [name]):
        if table in kept:
            return paths[table]
        for other in near[table]:
            if other not in paths:
                paths[other] = paths[table] | {other}
                queue.append(other)
    return {name}


def _fewer_columns(schema, budget, size):
    """The schema with as many columns that are no keys as fit, from the front of each table."""
    keys = {place for key in schema.foreign_keys for place in (key[:2], key[2:])}
    place = [(i, t.name, c.name) for t in schema.tables for i, c in enumerate(t.columns)
             if not c.primary and (t.name, c.name) not in keys]
    spare = [(name, column) for _, name, column in sorted(place)]      # first ones of all tables

    def first(n):
        gone = set(spare[n:])
        return schema.with_columns(lambda t, c: None if (t.name, c.name) in gone else c)

    counts = range(1, len(spare))        # first(len(spare)) is too large, first(0) is taken anyway
    return first(bisect_right(counts, budget, key=lambda n: size(first(n))))


def _dropped(whole, part):
    def counts(schema):
        columns = [column for table in schema.tables for column in table.columns]
        return Counter(tables=len(schema.tables), columns=len(columns),
                       comments=sum(bool(column.comment) for column in columns))
    return counts(whole) - counts(part)
