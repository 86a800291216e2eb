"""The schema of a database: its tables, columns and keys, as a query can use them.

    read_schema     the Schema that a SQLite file declares
    listed_schema   the Schema in an entry of Spider's or BIRD's tables.json

What no query could read (a module, collation or function is missing, a name is not UTF-8) is left
out, and Schema.left_out says why.
"""

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from data.report.terminal import sqlite_callback
from sqlexec import DataError, authorize_reading, database_uri, quoted


# Spider's column types, each with what a declared SQL type has in it, by the rules that made
# tables.json.
DECLARED = {"text": r"char|text|var|^\Z",
            "number": "int|numeric|decimal|number|id|real|double|float",
            "time": "date|time|year", "boolean": "boolean", "others": ""}
STEPS = 20_000_000      # of SQLite's machine, about half a second, that a view may take


@dataclass(frozen=True)
class Column:
    name: str
    type: str                # a key of DECLARED
    primary: bool = False    # part of the table's primary key
    comment: str = ""        # a description, where the data set has one (BIRD)


@dataclass(frozen=True)
class Table:
    name: str
    columns: tuple           # of Column
    view: bool = False       # a stored query: it has no keys


@dataclass(frozen=True)
class Schema:
    db_id: str
    tables: tuple            # of Table
    foreign_keys: tuple      # of (table, column, referenced table, referenced column)
    composite: tuple = ()    # of tuples of foreign_keys, each one key of several columns
    left_out: tuple = ()     # of lines: what the file holds and a query cannot use, and why
    inferred: tuple = ()     # of lines: foreign keys that nobody declared, and their evidence

    def with_columns(self, change):
        """The schema with change(table, column) for each column; without it where that is None."""
        return replace(self, tables=tuple([
            replace(table, columns=tuple([new for column in table.columns
                                          if (new := change(table, column)) is not None]))
            for table in self.tables]))


def spider_type(declared):
    """The first of Spider's column types that fits a declared SQL type, which BIRD's tables.json
    has in their place; each of them fits itself."""
    declared = declared.lower()
    return next(kind for kind, words in DECLARED.items() if re.search(words, declared))


def listed_schema(record, place):
    """The Schema in an entry of tables.json; DataError, naming the place, for another format."""
    try:
        primary = {part for key in record["primary_keys"]   # BIRD nests those of several columns
                   for part in (key if isinstance(key, list) else [key])}
        names, columns = record["table_names_original"], record["column_names_original"]
        if not all(isinstance(text, str) for text in [*names, *[name for _, name in columns]]):
            raise TypeError("a name is not a string")
        tables, places = [[] for _ in names], {}    # places: column index -> (table, column)
        for index, ((table, column), kind) in enumerate(
                zip(columns, record["column_types"], strict=True)):
            if table != -1:                         # the column named *
                places[index] = names[table], column
                tables[table].append(Column(column, spider_type(kind), index in primary))
        keys = [places[child] + places[parent] for child, parent in record["foreign_keys"]]
    except (KeyError, TypeError, ValueError, IndexError, AttributeError) as problem:
        raise DataError(f"{place}: not Spider's tables.json format ({problem!r})") from problem
    return Schema(record["db_id"], tuple(map(Table, names, map(tuple, tables))), tuple(keys))


def read_schema(db_path):
    """The Schema that a database file declares; DataError where it cannot be read."""
    try:
        with closing(sqlite3.connect(database_uri(db_path), uri=True)) as connection:
            return schema_of(connection, Path(db_path).stem)
    except (sqlite3.Error, OSError) as problem:
        raise DataError(f"{db_path}: {problem}") from problem


# Suffixes of the tables in which a virtual table keeps its data, for any SQLite: PRAGMA table_list
# knows them from 3.37 on, and only those of modules that are there.
SHADOWS = {
    **dict.fromkeys(("fts3", "fts4"), "content|docsize|segdir|segments|stat"),
    "fts5": "config|content|data|docsize|idx",
    **dict.fromkeys(("rtree", "rtree_i32", "geopoly"), "node|parent|rowid"),
    "vec0": r"auxiliary|chunks|info|rowids|(vector_|metadata)chunks\d\d|metadatatext\d\d"}


def schema_of(connection, db_id):
    """The Schema that an open database declares. sqlite3.Error where it cannot be read."""
    # Names and defaults may be any bytes. What is not UTF-8 becomes what no query can hold.
    connection.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
    rows = connection.execute("SELECT type, name, sql FROM sqlite_master "
                              "WHERE type IN ('table', 'view') ORDER BY type, rowid").fetchall()
    shadows = [re.compile(f"{re.escape(name)}_({SHADOWS[module]})", re.I)
               for _, name, sql in rows
               if (sql or "").lower().startswith("create virtual")
               for module in re.findall(r"using\W+(\w+)", sql.lower()) if module in SHADOWS]
    tables, notes, parts = {}, [], []
    for kind, name, _ in rows:
        if any(shadow.fullmatch(name) for shadow in shadows):
            parts.append(name)
        elif not name.lower().startswith("sqlite_"):
            try:
                tables[name.lower()] = _declared_table(connection, name, kind == "view", notes)
            except (sqlite3.Error, UnicodeError) as problem:
                notes.append(_note(kind, name, problem))
    if parts:
        notes.append(_note("tables", ", ".join(parts), "kept by virtual tables"))
    connection.set_authorizer(None)
    keys = [key for table in tables.values() if not table.view
            for key in _declared_keys(connection, table, tables)]
    return Schema(db_id, tuple(tables.values()), tuple([part for key in keys for part in key]),
                  tuple([key for key in keys if len(key) > 1]), tuple(notes))


def _declared_table(connection, name, view, notes):
    """The Table as queries see it; sqlite3.Error or UnicodeError for one that none can read."""
    def prepare(expression):
        connection.execute(f"EXPLAIN SELECT {expression} FROM {quoted(name)} AS t")

    columns, without, computed = [], [], {}
    connection.set_authorizer(None)
    rows = connection.execute(f"PRAGMA table_xinfo({quoted(name)})").fetchall()
    connection.set_authorizer(sqlite_callback(authorize_reading))     # a view may do more
    if view:
        computed = _computed_types(connection, name, [row[1] for row in rows if not row[2]])
    for row in rows:
        if row[6] == 1:     # hidden; 2 and 3 are generated columns
            continue
        try:
            prepare(f"t.{quoted(row[1])}")
            columns.append(Column(row[1], spider_type(row[2] or computed.get(row[1], "")),
                                  row[5] > 0 and not view))
            prepare(f"t.{quoted(row[1])} = ''")
        except (sqlite3.Error, UnicodeError) as problem:
            without.append(_note("column", f"{name}.{row[1]}", problem))
    if not columns:
        prepare("*")        # says why: a view that reads what is gone, a module that is missing
        raise sqlite3.OperationalError("no columns")
    notes += without
    return Table(name, tuple(columns), view)


def _computed_types(connection, name, columns):
    """{column: what its first values are} of columns that a view computes, for which nothing is
    declared; {} where finding out takes longer than it is worth."""
    kinds = ", ".join(f"typeof(t.{quoted(column)})" for column in columns)
    connection.set_progress_handler(sqlite_callback(lambda: 1), STEPS)
    try:
        rows = connection.execute(f"SELECT {kinds} FROM {quoted(name)} AS t LIMIT 20").fetchall()
    except (sqlite3.Error, UnicodeError):       # also where there are no such columns
        rows = []
    connection.set_progress_handler(None, 0)
    return {column: next((kind for kind in found if kind != "null"), "")
            for column, found in zip(columns, zip(*rows))}


def _declared_keys(connection, table, tables):
    """The foreign keys of a table, each a tuple of its parts; without those that name what is not
    there, which SQLite allows."""
    own, found = {column.name for column in table.columns}, {}
    for number, place, target, child, parent, *_ in connection.execute(
            f"PRAGMA foreign_key_list({quoted(table.name)})"):
        target = tables.get(target.lower(), Table("", ()))
        known = {column.name.lower(): column.name for column in target.columns}
        if parent is None:      # then part by part of the primary key, in the order declared there
            parent = next((row[1] for row in connection.execute(
                f"PRAGMA table_xinfo({quoted(target.name)})") if row[5] == place + 1), "")
        referenced = known.get(parent.lower())
        found.setdefault(number, {})[place] = child in own and referenced and (
            table.name, child, target.name, referenced)
    return [tuple([parts[place] for place in sorted(parts)])
            for _, parts in sorted(found.items(), reverse=True) if all(parts.values())]


def _note(kind, name, problem):
    """A line about what is left out; an unreadable name's bytes show as question marks."""
    if isinstance(problem, UnicodeError):
        problem = "its name is not UTF-8"
    return " ".join(f"{kind} {name}: {problem}".encode("utf-8", "replace").decode().split())
