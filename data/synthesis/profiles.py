"""Statistics of the columns of one database (section 3.1.1), read when first asked for."""

import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cache, cached_property

from data.prompts.values import Meter
from data.sql import quote_name, quote_text
from sqlexec import DataError, database_uri

ROWS = 20_000           # rows that a profile looks at: some tables have millions
SAMPLE = 300            # distinct values that it keeps
CATEGORIES = 12         # a number with more distinct values measures something
ISO_DATE = re.compile(r"\d{4}-[01]\d-[0-3]\d(?![^ T])")
CODES = re.compile("(status|state|type|kind|level|priority|severity|quality|category|class|stage|"
                   "flag)$", re.IGNORECASE)
FIGURE = re.compile(r"[-+$]?\d[\d,]*(?:\.\d+)?%?")       # $5,000 is text


@dataclass(frozen=True)
class Profile:
    """One column: counts of rows looked at, of non-NULL and of distinct values among them."""
    rows: int
    filled: int
    distinct: int
    values: tuple           # distinct ones that can be written as a literal, sorted
    numeric: bool           # all of them are numbers

    @property
    def unique(self):
        return self.filled == self.distinct == self.rows

    @property
    def identifies(self):
        """Does a value identify a row?"""
        return self.filled == self.distinct

    @cached_property
    def fractions(self):
        return self.numeric and any(value % 1 for value in self.values)

    @cached_property
    def years(self):
        return self.numeric and not self.fractions and bool(self.values) and (
            1500 <= self.values[0] <= self.values[-1] <= 2100)

    @cached_property
    def dates(self):
        """Are all values ISO dates, perhaps with a time?"""
        return bool(self.values) and all(ISO_DATE.match(str(value)) for value in self.values)

    @cached_property
    def categorical(self):
        """Do the values form categories? Numbers do if they are few and repeat."""
        figures = self.numeric or self.values and all(
            FIGURE.fullmatch(str(value)) for value in self.values)
        return not figures or (not self.fractions and self.distinct <= CATEGORIES
                               and self.distinct * 2 <= self.filled)


class Profiles:
    """Profiles of a database's columns, each read once through a read-only connection.

    skipped: a line for each column that takes too long or cannot be compared; its profile is empty.
    """

    def __init__(self, db_path):
        self.path, self._connection, self.skipped = db_path, None, []
        self.of = cache(self.of)     # a column is read once

    def of(self, table, column):
        """The Profile of a column; of an empty one where the database lacks it."""
        # A qualified name: SQLite reads an unknown bare one in double quotes as text.
        name = f"{quote_name(table)}.{quote_name(column)}"
        some = f"(SELECT {name} AS v FROM {quote_name(table)} LIMIT {ROWS})"

        def read():
            (rows, filled, distinct), = self._ask(
                f"SELECT COUNT(*), COUNT(v), COUNT(DISTINCT v) FROM {some}")
            found = [value for value, in self._ask(
                f"SELECT DISTINCT v FROM {some} WHERE v IS NOT NULL LIMIT {SAMPLE}")]
            numeric = bool(found) and all(isinstance(value, (int, float)) for value in found)
            found = sorted(filter(_writable, found), key=lambda v: (isinstance(v, str), v))
            return Profile(rows, filled, distinct, tuple(found), numeric)

        return self._safely(name, read) or Profile(0, 0, 0, (), False)

    def identify(self, places):
        """Do the values of these columns of one table, [(table, column)], identify a row?"""
        names = ", ".join(quote_name(column) for _, column in places)
        sql = (f"SELECT 1 FROM (SELECT {names} FROM {quote_name(places[0][0])} LIMIT {ROWS}) "
               f"GROUP BY {names} HAVING COUNT(*) > 1 LIMIT 1")
        return self._safely(names, lambda: not self._ask(sql))

    def unique_columns(self, table):
        """Names of the columns that a unique index has for itself."""
        sql = (f"SELECT MIN(part.name) FROM pragma_index_list({quote_text(table)}) AS i, "
               'pragma_index_info(i.name) AS part WHERE i."unique" AND NOT i.partial '
               "GROUP BY i.name HAVING COUNT(*) = 1")
        return [name for name, in self._safely(table, lambda: self._ask(sql)) or ()]

    def held(self, child, parent):
        """(how many of a sample of a column's values another column holds, size of the sample);
        both are (table, column)."""
        table, more = quote_name(child[0]), quote_name(parent[0])
        value, other = f"{table}.{quote_name(child[1])}", f"{more}.{quote_name(parent[1])}"
        sql = (f"SELECT SUM(v IN (SELECT {other} FROM {more})), COUNT(v) "
               f"FROM (SELECT {value} AS v FROM {table} LIMIT {ROWS})")
        (held, size), = self._safely(value, lambda: self._ask(sql)) or [(0, 1)]
        return held or 0, size

    def close(self):
        if self._connection:
            self._connection.close()
        self._connection = None

    def _safely(self, name, read):
        """What read() returns, or None where SQLite fails: tables.json may list what the file does
        not have, a view may never finish, a column may need a collation that SQLite lacks."""
        try:
            if self._connection is None:
                self._connection = sqlite3.connect(database_uri(self.path), uri=True)
                self._connection.text_factory = lambda cell: cell.decode("utf-8", "replace")
                self._meter = Meter(self._connection)
            with self._meter.share(1 / 20):
                return read()
        except (OSError, sqlite3.Error, UnicodeError) as problem:
            if not self._connection or not isinstance(problem, (sqlite3.OperationalError,
                                                                UnicodeError)):
                raise DataError(f"{self.path}: {problem}") from problem
            if not re.match("no such (table|column)", str(problem)):
                self.skipped.append(f"column {name}: {problem}")

    def _ask(self, sql):
        return self._connection.execute(sql).fetchall()


def typed_by_values(schema, db_path):
    """The Schema with the types that its values show: dates in text are "time", numbers without a
    declared type (a view's totals) "number", flags and codes "boolean": they are not summed."""
    with closing(Profiles(db_path)) as profiles:
        return schema.with_columns(lambda table, column: replace(
            column, type=_shown(profiles.of(table.name, column.name), column)))


def _shown(profile, column):
    kind = column.type
    if kind == "text":
        kind = "time" if profile.dates else "number" if profile.numeric else kind
    if kind == "number" and profile.categorical and (
            set(profile.values) == {0, 1} or CODES.search(column.name)):
        kind = "boolean"
    return kind


def _writable(value):
    """Can a person type it, and can it be written as an SQL literal?"""
    if isinstance(value, str):
        return (0 < len(value) <= 40 and value.isprintable() and value == value.strip()
                and "\ufffd" not in value and not re.fullmatch("[a-z]", value))
    return isinstance(value, (int, float)) and abs(value) < 1e15
