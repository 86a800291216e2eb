"""Random queries over small hostile databases: does the canonical form give the rows of the raw?

    python tests/bench/fuzz_canonical.py [--n 10000] [--seed 0] [--show 5]
    python tests/bench/fuzz_canonical.py --data DATA_DIR    the golds of a data set instead

Counts, of the queries that SQLite runs: how many the reader takes or refuses (by reason), how many
keeps_meaning lets through, and how many verdicts change before and after that guard.
"""

import argparse
import random
import sqlite3
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from data.benchmarks.reader import Data                                               # noqa: E402
from data.sql import SQLError, canonical_sql, keeps_meaning               # noqa: E402
from data.schema import read_schema
from sqlexec import Limits, order_matters, run_sql, same_result                # noqa: E402

# Tables called like our aliases and like columns; columns called like aliases, tables, functions.
NAMES = ("T1", "T2", "t3", "item", "Name", "x", "order list")
COLUMNS = ("id", "x", "name", "T1", "n", "k", "flag", "Free Meal (%)", "select", "item", "COUNT(*)",
           "true", "oid", "y")
TYPES = ("INT", "INTEGER", "TEXT", "REAL", "NUMERIC", "", "BLOB", "VARCHAR(9)",
         "TEXT COLLATE NOCASE", "TEXT COLLATE RTRIM", "INT COLLATE NOCASE", "COLLATE NOCASE")
VALUES = ("NULL", "0", "1", "2", "2", "1.0", "2.5", "-1", "'a'", "'A'", "'a '", "'b'", "'1'", "'x'",
          "'name'", "x'61'", "''")
ALIASES = ("a", "b", "T1", "T2", "t3", "x", "n", "name", "item", "k")
JOINS = (",", "JOIN", "INNER JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "CROSS JOIN",
         "JOIN", "LEFT OUTER JOIN")
COMPARE = ("=", "==", "<>", "<", ">=", "IS", "IS NOT", "LIKE", "NOT LIKE", "IS DISTINCT FROM",
           "IS NOT DISTINCT FROM")


def quote(name, rng=None):
    plain = name.isidentifier() and name.lower() not in ("select", "true")
    if plain and (rng is None or rng.random() < 0.8):
        return name if rng is None or rng.random() < 0.7 else name.swapcase()
    return rng.choice(('"{}"', "`{}`", "[{}]")).format(name) if rng else f'"{name}"'


def database(path, rng):
    """A file of three to five tables; [(name, columns)]."""
    tables = []
    with sqlite3.connect(path) as connection:
        for name in rng.sample(NAMES, rng.randint(3, 5)):
            columns = ["id"] * (rng.random() < 0.6) + rng.sample(COLUMNS[1:], rng.randint(2, 4))
            types = [rng.choice(TYPES) for _ in columns]
            if columns[0] == "id" and rng.random() < 0.5:
                types[0] = "INTEGER PRIMARY KEY"
            declared = ", ".join([f"{quote(c)} {t}" for c, t in zip(columns, types)])
            connection.execute(f"CREATE TABLE {quote(name)} ({declared})")
            for _ in range(rng.randint(2, 6)):
                row = ["NULL" if "KEY" in t else rng.choice(VALUES) for t in types]
                connection.execute(f"INSERT INTO {quote(name)} VALUES ({', '.join(row)})")
            tables.append((name, columns))
    connection.close()
    return tables


class Writer:
    """Writes one random query after another. A scope is [(qualifier, columns)], inner first."""

    def __init__(self, tables, rng):
        self.tables, self.rng, self.ctes = tables, rng, []

    def maybe(self, share):
        return self.rng.random() < share

    def column(self, scopes):
        rng, scope = self.rng, scopes[0] if scopes else []
        if len(scopes) > 1 and self.maybe(0.35):
            scope = rng.choice(scopes[1:])
        if not scope:
            return rng.choice(VALUES)
        qualifier, columns = rng.choice(scope)
        name = quote(rng.choice(columns or ["x"]), rng)
        if self.maybe(0.02):
            name = rng.choice(("rowid", "oid", '"rowid"', "true", '"COUNT(*)"'))
        return f"{quote(qualifier, rng)}.{name}" if qualifier and self.maybe(0.6) else name

    def expression(self, scopes, depth=2):
        rng, pick = self.rng, self.rng.random()
        if pick < 0.45 or depth == 0:
            return self.column(scopes)
        if pick < 0.60:
            return rng.choice(VALUES + ('"text"', '"a"', '"Name"', "TRUE", "-9223372036854775808"))
        if pick < 0.64:
            return f"({self.query(scopes, width=1, depth=depth - 1)})"
        one, two = self.expression(scopes, depth - 1), self.expression(scopes, depth - 1)
        shapes = ("{} + {}", "{} || {}", "-{1}", "CAST({} AS TEXT)", "CAST({} AS INT)", "({})",
                  "COALESCE({}, {})", "CASE WHEN {} THEN {} ELSE 0 END",
                  "CASE {} WHEN {} THEN 1 END",
                  "{} COLLATE NOCASE", "{} COLLATE BINARY", "UPPER({})", "ABS({})", "{} = {}",
                  "{} = {} = 1", "NOT {} = {}", "+{}", "LENGTH({})", "TYPEOF({})")
        return rng.choice(shapes).format(one, two)

    def condition(self, scopes, depth=2):
        rng, pick = self.rng, self.rng.random()
        one = self.expression(scopes, depth - 1)
        if pick < 0.5 or depth == 0:
            return f"{one} {rng.choice(COMPARE)} {self.expression(scopes, depth - 1)}"
        if pick < 0.58:
            return f"{one} {rng.choice(('', 'NOT '))}BETWEEN 0 AND {self.expression(scopes, 0)}"
        if pick < 0.68:
            inner = self.query(scopes, width=1, depth=depth - 1)
            return f"{one} {rng.choice(('', 'NOT '))}IN ({inner})"
        if pick < 0.78:
            return (f"{rng.choice(('', 'NOT '))}EXISTS "
                    f"({self.query(scopes, width=1, depth=depth - 1)})")
        if pick < 0.84:
            return f"{one} {rng.choice(('IS NULL', 'NOTNULL', 'IN (1, 2, NULL)', 'COLLATE RTRIM'))}"
        parts = [self.condition(scopes, depth - 1) for _ in range(2)]
        return rng.choice(("{} AND {}", "({} OR {})", "NOT {}", "{} OR {}")).format(*parts)

    def source(self, scopes, depth):
        """(text, (qualifier, columns))"""
        rng, pick = self.rng, self.rng.random()
        if depth and pick < 0.2:
            columns = [rng.choice(ALIASES + ("flag", "y")) for _ in range(rng.randint(1, 3))]
            text = f"({self.query(scopes, len(columns), depth - 1, columns)})"
            alias = rng.choice(ALIASES) if self.maybe(0.8) else None
        else:
            name, columns = rng.choice(self.ctes if self.ctes and pick < 0.5 else self.tables)
            text, alias = quote(name, rng), rng.choice(ALIASES) if self.maybe(0.5) else None
            if not alias:
                return text, (name, columns)
        if alias:
            text += rng.choice((" ", " AS ")) + rng.choice(("{}", '"{}"', "{}")).format(alias)
        return text, (alias, columns)

    def sources(self, scopes, depth):
        rng, (text, first) = self.rng, self.source(scopes[1:], depth)
        scopes[0].append(first)
        while len(scopes[0]) < 3 and self.maybe(0.45):
            more, bound = self.source(scopes[1:], depth)
            join = rng.choice(JOINS)
            shared = [c for c in bound[1] if any(c in columns for _, columns in scopes[0])]
            earlier = scopes[0][-1]
            scopes[0].append(bound)
            if join == ",":
                text += f", {more}"
            elif self.maybe(0.25):
                text += f" NATURAL {join} {more}".replace("NATURAL CROSS", "NATURAL")
            elif shared and self.maybe(0.4):
                text += f" {join} {more} USING ({quote(rng.choice(shared))})"
            elif self.maybe(0.7):
                sides = [f"{quote(q or 'x')}.{quote(rng.choice(c or ['x']))}"
                         for q, c in (earlier, bound)]
                rng.shuffle(sides)
                text += f" {join} {more} ON {sides[0]} = {sides[1]}"
                if self.maybe(0.2):
                    text += f" AND {self.condition(scopes, 1)}"
            else:
                text += f" {join} {more}" + (f" ON {self.condition(scopes, 1)}" * self.maybe(0.5))
        return text

    def select(self, outer, width, depth, names=None):
        """(text, scopes, items, aliases)"""
        rng, scopes = self.rng, [[], *outer]
        text = f" FROM {self.sources(scopes, depth)}" if self.maybe(0.97) else ""
        items, aliases = [], []
        for i in range(width):
            aggregate = self.maybe(0.2)
            item = (rng.choice(("COUNT(*)", "MAX({})", "SUM({})", "COUNT(DISTINCT {})"))
                    .format(self.column(scopes)) if aggregate else self.expression(scopes, 2))
            alias = names[i] if names and self.maybe(0.8) else (
                rng.choice(ALIASES + ("flag",)) if self.maybe(0.35) else None)
            aliases.append(alias)
            items.append(item + (f" AS {alias}" if alias else ""))
        if not names and width == 1 and self.maybe(0.03):
            items = ["*"]
        known = [*filter(None, aliases)]
        body = "SELECT " + "DISTINCT " * self.maybe(0.15) + ", ".join(items) + text
        if self.maybe(0.5):
            body += f" WHERE {self.condition(scopes, 2)}"
        if self.maybe(0.25):
            key = rng.choice(known) if known and self.maybe(0.5) else self.column(scopes)
            body += f" GROUP BY {key}"
            if self.maybe(0.4):
                key = rng.choice(known) if known and self.maybe(0.5) else "COUNT(*)"
                body += f" HAVING {key} {rng.choice(COMPARE)} {rng.choice(VALUES)}"
        return body, scopes, items, known

    def order(self, scopes, items, known):
        rng, terms = self.rng, []
        for _ in range(rng.randint(1, 2)):
            pick = rng.random()
            term = (rng.choice(known) if known and pick < 0.45 else
                    str(rng.randint(1, len(items))) if pick < 0.55 else
                    rng.choice(items).split(" AS ")[0] if pick < 0.7 else
                    self.expression(scopes, 1))
            if known and self.maybe(0.1):
                term = f'"{rng.choice(known)}"'
            terms.append(term + rng.choice(("", "", " DESC", " ASC", " COLLATE NOCASE",
                                            " NULLS LAST")))
        return " ORDER BY " + ", ".join(terms)

    def query(self, scopes=(), width=None, depth=2, names=None):
        rng, outer, text = self.rng, self.ctes, ""
        width = width or rng.randint(1, 3)
        if self.maybe(0.12 if depth else 0):
            for _ in range(rng.randint(1, 2)):
                name = rng.choice(NAMES[:-1] + ("c", "busy"))
                columns = [rng.choice(ALIASES + ("y", "z")) for _ in range(rng.randint(1, 2))]
                inner = self.query(scopes, len(columns), depth - 1, columns)
                listed = f" ({', '.join(columns)})" if self.maybe(0.4) else ""
                text += (", " if text else "WITH ") + f"{quote(name)}{listed} AS ({inner})"
                self.ctes = self.ctes + [(name, columns)]
            text += " "
        body, inside, items, known = self.select(scopes, width, depth, names)
        while self.maybe(0.12):
            op = rng.choice(("UNION", "UNION ALL", "INTERSECT", "EXCEPT"))
            arm, _, _, more = self.select(scopes, width, depth, names if self.maybe(0.5) else None)
            body += f" {op} {arm}"
            known = known + more
        if self.maybe(0.4):
            body += self.order(inside, items, known)
        if self.maybe(0.2):
            body += f" LIMIT {rng.randint(0, 4)}" + rng.choice(("", "", " OFFSET 1", ", 2"))
        self.ctes = outer
        return text + body


def rows(connection, sql):
    """The rows, or why not: SQLite refuses, is interrupted, or gives more than 2,000."""
    steps = iter(range(200))
    connection.set_progress_handler(lambda: next(steps, None) is None, 10_000)
    try:
        found = connection.execute(sql).fetchmany(2001)
    except (sqlite3.Error, sqlite3.Warning) as problem:
        return str(problem)
    return found if len(found) <= 2000 else "too many rows"


def fuzz(n, seed, folder, each=100):
    """(Counter of outcomes, [(raw, canonical)] whose rows differ) of n queries that run."""
    rng, counts, different = random.Random(seed), Counter(), []
    while counts["run"] < n:
        path = Path(folder) / f"fuzz{counts['databases']}.sqlite"
        counts["databases"] += 1
        writer, schema = Writer(database(path, rng), rng), None
        schema, connection = read_schema(path), sqlite3.connect(path)
        for _ in range(each * 20):
            if counts["run"] >= min(n, each * counts["databases"]):
                break
            sql = writer.query()
            raw = rows(connection, sql)
            if isinstance(raw, str):
                counts["SQLite refuses"] += 1
                continue
            compare(sql, raw, schema, lambda text: rows(connection, text), counts, different)
        connection.close()
    return counts, different


def compare(sql, raw, schema, run, counts, different):
    """Counts what becomes of one query whose rows are `raw`."""
    counts["run"] += 1
    counts["run and give rows"] += bool(raw)
    try:
        canonical = canonical_sql(sql, schema)
    except SQLError as problem:
        counts[f"not read: {problem.reason}"] += 1
        return
    counts["read"] += 1
    told, ordered = run(canonical), order_matters(sql)
    runs = not isinstance(told, str)
    same = runs and keeps_meaning(sql, raw, told)
    counts["equal" if same else "kept raw"] += 1
    if not same:
        counts["kept raw: " + ("other rows" if runs else "it does not run")] += 1
        different.append((schema.db_id, sql, canonical, "" if runs else told))
    counts["verdicts changed before the guard"] += not (runs and same_result(raw, told, ordered))
    counts["verdicts changed after the guard"] += (
        not same_result(raw, told if same else raw, ordered))


def golds(folder):
    """(Counter, differences) of all the distinct train and validation golds of a data set."""
    data, counts, different = Data(folder), Counter(), []
    examples = {(e.db_id, e.query) for split in ("train", "dev") for e in data.examples(split)}
    for db_id, sql in sorted(examples):
        def run(text, path=data.databases(db_id)[0]):
            result = run_sql(path, text, Limits(timeout=60.0))
            return result.rows if result.status == "ok" else result.status
        raw = run(sql)
        if isinstance(raw, str):
            counts[f"do not run: {raw}"] += 1
        else:
            compare(sql, raw, data.schema(db_id), run, counts, different)
    return counts, different


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=5)
    parser.add_argument("--data", help="a data set like Spider, instead of random queries")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        counts, different = (golds(args.data) if args.data else fuzz(args.n, args.seed, folder))
    for key in ("read", "equal", "kept raw", "verdicts changed before the guard",
                "verdicts changed after the guard"):
        counts[key] += 0
    for key, count in counts.most_common():
        print(f"{count:8,}  {key}")
    for place, raw, canonical, problem in different[:args.show]:
        print(f"\n{place} {problem}\n  raw       {raw}\n  canonical {canonical}")


if __name__ == "__main__":
    main()
