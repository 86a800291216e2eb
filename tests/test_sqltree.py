"""The SQL reader: nothing it takes changes its meaning, everything else is an SQLError."""

import random
import sqlite3
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from data.benchmarks.reader import Data
from data.sql import (
    MAX_DEPTH, Binary, Call, Column, Literal, Query, SQLError, Subquery, Unary, canonical_sql,
    keeps_meaning, normalise, parse, resolve, to_sql, tokenise, walk)
from fuzz_canonical import fuzz
from data.schema import Column as SchemaColumn, Schema, Table, read_schema
from sqlexec import Connection, Limits

SPIDER = Path(__file__).resolve().parents[2] / "shared" / "spider"

# ---------------------------------------------------------------------------------------------
# A small database with what benchmarks trip over

SCRIPT = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, Name TEXT, age INT, country TEXT, "T1" TEXT);
INSERT INTO singer VALUES (1, 'Ann', 30, 'France', 'x'), (2, 'Bo''b', 41, 'Peru', 'y'),
  (3, 'Cy', NULL, 'France', 'x'), (4, 'Ann', 25, 'US%', NULL);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, singer_id INT, year INT,
  "Free Meal (%)" REAL);
INSERT INTO concert VALUES (1, 1, 2014, 0.5), (2, 1, 2015, 0.25), (3, 2, 2014, NULL),
  (4, 3, 2016, 1.0), (5, 9, 2014, 0.75);
CREATE TABLE "order list" ("select" TEXT, concert_id INT, "it""s" INT);
INSERT INTO "order list" VALUES ('a', 1, 7), ('b', 2, 8), ('a', 4, 9);
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp("sqltree") / "small.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(SCRIPT)
    connection.close()
    connection = Connection(path, Limits())
    yield connection, read_schema(path)
    connection.close()


EQUIVALENT = """
SELECT Name FROM singer
SELECT DISTINCT NAME, Age FROM SINGER WHERE AGE >= 30 ORDER BY name ASC, age DESC;
select count ( * ) , country from singer group by country having count(*) > 1
SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T2.singer_id = T1.singer_id
SELECT a.name, b.year FROM singer a INNER JOIN concert b ON a.singer_id == b.singer_id WHERE b.year
    <> 2014
SELECT s.name FROM singer s LEFT OUTER JOIN concert c ON s.singer_id = c.singer_id WHERE c.year IS
    NULL
SELECT name, year FROM singer, concert WHERE singer.singer_id = concert.singer_id
SELECT name, year FROM singer NATURAL JOIN concert
SELECT name, year, singer_id FROM singer JOIN concert USING (singer_id)
SELECT T3.`select` FROM singer T1 JOIN concert T2 JOIN `order list` T3 ON T1.singer_id =
    T2.singer_id AND T2.concert_id = T3.concert_id WHERE T1.age > 20
SELECT name FROM singer WHERE country = "France" AND (age > 29 OR age IS NULL)
SELECT name FROM singer WHERE country = "Name"
SELECT "name", "no such column" FROM singer
SELECT name FROM singer WHERE name = 'Bo''b' OR name LIKE 'A%' OR country LIKE '%!%' ESCAPE '!'
SELECT name FROM singer WHERE age NOT BETWEEN 26 AND 35 + 2 AND country NOT IN ('Peru', "Chad")
SELECT name FROM singer WHERE singer_id IN (SELECT singer_id FROM concert WHERE year = 2014)
SELECT name FROM singer WHERE singer_id NOT IN (SELECT singer_id FROM concert)
SELECT name FROM singer WHERE NOT EXISTS (SELECT * FROM concert WHERE concert.singer_id =
    singer.singer_id)
SELECT name FROM singer AS o WHERE age > (SELECT avg(age) FROM singer AS i WHERE i.country =
    o.country)
SELECT name FROM singer AS o WHERE 1 < (SELECT COUNT(*) FROM concert c JOIN singer i ON c.singer_id
    = i.singer_id WHERE i.singer_id = o.singer_id)
SELECT name, (SELECT COUNT(*) FROM concert WHERE singer_id = singer.singer_id) FROM singer
SELECT name FROM singer WHERE age = (SELECT max(age) FROM singer)
SELECT country FROM singer UNION SELECT year FROM concert ORDER BY country LIMIT 3
SELECT name FROM singer INTERSECT SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON
    T1.singer_id = T2.singer_id EXCEPT SELECT 'Cy'
SELECT country FROM singer UNION ALL SELECT country FROM singer WHERE age > 26
SELECT COUNT(*) FROM (SELECT country FROM singer GROUP BY country HAVING count(*) > 1)
SELECT n, total FROM (SELECT s.name AS n, COUNT(c.concert_id) AS total FROM singer s JOIN concert c
    USING (singer_id) GROUP BY s.singer_id) WHERE total > 1
SELECT x.year, y.country FROM (SELECT year, singer_id FROM concert) x JOIN singer y ON x.singer_id =
    y.singer_id
WITH busy AS (SELECT singer_id, COUNT(*) AS n FROM concert GROUP BY singer_id) SELECT name, n FROM
    singer JOIN busy ON singer.singer_id = busy.singer_id WHERE n > 1
WITH a (x) AS (SELECT age FROM singer), b AS (SELECT x FROM a WHERE x > 25) SELECT MAX(x) FROM b
SELECT country, COUNT(*) AS n FROM singer GROUP BY country ORDER BY n DESC, country LIMIT 2
SELECT age + 1 AS age FROM singer ORDER BY age
SELECT country AS c FROM singer GROUP BY c HAVING c LIKE 'F%'
SELECT CASE WHEN age > 29 THEN 'old' WHEN age IS NOT NULL THEN 'young' ELSE 'who' END FROM singer
SELECT CASE country WHEN 'France' THEN 1 END FROM singer
SELECT CAST(SUM(age) AS REAL) * 100 / COUNT(singer_id), CAST(age AS VARCHAR(20)) FROM singer
SELECT IIF(age > 30, 1, 0), SUBSTR(name, 1, 2), name || '-' || country, ROUND(age / 7.0, 2) FROM
    singer
SELECT `Free Meal (%)`, [year] FROM concert WHERE `Free Meal (%)` > .3e0
SELECT T1.`Free Meal (%)` FROM concert AS T1 WHERE T1."Free Meal (%)" IS NOT NULL ORDER BY "Free
    Meal (%)"
SELECT "select", "it""s" FROM "order list" WHERE [it"s] != 8
SELECT name FROM singer WHERE age ISNULL OR NOT age > 26 OR age NOT NULL AND age NOTNULL
SELECT -age, - -age, +age, ~age, -5, - 5, 1 - -1, -(age + 1) FROM singer
SELECT 2 + 3 * 4 - 1, (2 + 3) * 4, 7 / 2 % 2, 10 - (4 - 3), 1 || 2 * 3, 6 & 3 | 8, 1 < 2 = 1, (1 =
    2) < 3
SELECT name /* the name */ FROM singer -- all of them
SELECT year, RANK() OVER (PARTITION BY year ORDER BY `Free Meal (%)` DESC) FROM concert
SELECT name FROM singer ORDER BY age DESC NULLS LAST LIMIT 1, 2
SELECT name FROM singer ORDER BY 1 LIMIT 2 OFFSET 1
SELECT COUNT(DISTINCT country), GROUP_CONCAT(name, ';'), TOTAL(age) FROM singer
SELECT T1."T1", T1.name FROM singer AS T1 WHERE T1 = 'x'
SELECT name AS 'the name', age "its age" FROM singer WHERE (age, country) IN (SELECT 30, 'France')
SELECT name FROM singer WHERE name = "" OR country COLLATE nocase = 'france'
SELECT *, T2.* FROM singer T1 JOIN concert T2 ON T1.singer_id = T2.singer_id
SELECT name FROM singer WHERE age > 20 AND age < 31 AND (country = 'France' AND singer_id > 0)
SELECT name FROM singer WHERE age > = 30 AND country ! = 'Peru'
SELECT NULL, TRUE, x'4142', 0x1F, CURRENT_DATE = CURRENT_DATE FROM singer
""".replace("\n    ", " ").strip().splitlines()


def rows(connection, sql):
    result = connection.run(sql)
    assert result.status == "ok", (sql, result.error)
    return result.rows


@pytest.mark.parametrize("sql", EQUIVALENT)
def test_print_and_house_form_keep_the_result(small, sql):
    connection, schema = small
    tree = parse(sql)
    printed, canonical = to_sql(tree), canonical_sql(sql, schema)
    assert parse(printed) == tree
    assert canonical_sql(canonical, schema) == canonical
    gold = rows(connection, sql.replace("> =", ">=").replace("! =", "!="))
    assert rows(connection, printed) == gold
    assert rows(connection, canonical) == gold


CANONICAL = {
    "select  Count( * ) from SINGER ;": "SELECT COUNT(*) FROM singer",
    "SELECT s.NAME FROM singer s WHERE s.Country <> \"France\" ORDER BY s.age ASC":
        "SELECT Name FROM singer WHERE country != 'France' ORDER BY age",
    "SELECT name FROM concert c JOIN singer s ON c.singer_id = s.singer_id":
        "SELECT T2.Name FROM concert AS T1 JOIN singer AS T2 ON T1.singer_id = T2.singer_id",
    "SELECT name FROM concert c JOIN singer s ON s.singer_id = c.singer_id":
        "SELECT T2.Name FROM concert AS T1 JOIN singer AS T2 ON T1.singer_id = T2.singer_id",
    "SELECT b.year FROM singer a JOIN concert b JOIN \"order list\" c ON a.singer_id = b.singer_id"
    " AND b.concert_id = c.concert_id":
        "SELECT T2.year FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.singer_id"
        " JOIN \"order list\" AS T3 ON T2.concert_id = T3.concert_id",
    "SELECT name FROM singer o WHERE age > (SELECT AVG(age) FROM singer WHERE country = o.country)":
        "SELECT T1.Name FROM singer AS T1 WHERE T1.age > "
        "(SELECT AVG(age) FROM singer WHERE country = T1.country)",
    "SELECT `Free Meal (%)` AS m FROM concert ORDER BY m DESC":
        'SELECT "Free Meal (%)" FROM concert ORDER BY "Free Meal (%)" DESC',
    "SELECT name FROM singer WHERE ((age > 3) OR (country = 'it''s')) AND (NOT (age = 1))":
        "SELECT Name FROM singer WHERE (age > 3 OR country = 'it''s') AND NOT age = 1",
}


@pytest.mark.parametrize("sql", CANONICAL)
def test_house_style(small, sql):
    assert canonical_sql(sql, small[1]) == CANONICAL[sql]


def test_columns_bind_to_the_inner_scope_first(small):
    tree = resolve(parse("SELECT name FROM singer WHERE singer_id IN (SELECT singer_id "
                         "FROM concert WHERE year = 2014 AND country = 'Peru')"), small[1])
    bound = [(part.name, part.table) for part in walk(tree) if isinstance(part, Column)]
    assert bound == [("Name", "singer"), ("singer_id", "singer"), ("singer_id", "concert"),
                     ("year", "concert"), ("country", "singer")]


REFUSED = {
    "": (1, "expected SELECT"), "SELECT": (7, "expected a name"),
    "DELETE FROM singer": (1, "DELETE"),
    "SELECT a FROM": (14, "expected a name"), "SELECT a FROM t WHERE": (22, "expected a name"),
    "SELECT a FROM t; SELECT b FROM t": (18, "end (here is 'SELECT'"),
    "SELECT a FROM t WHERE a = 'open": (27, "no SQL token"), "SELECT 1abc": (8, "no SQL token"),
    "SELECT a b c FROM t": (12, "end (here is 'c'"), "SELECT (a FROM t": (11, "expected )"),
    "SELECT a FROM t ORDER BY a INTERSECT SELECT a FROM t": (28, "end (here is 'INTERSECT'"),
    "SELECT CASE ELSE 1 END": (13, "expected a name"), "SELECT a FROM t LIMIT": (22, "expected"),
    "WITH RECURSIVE a AS (SELECT 1) SELECT * FROM a": (6, "recursive"),
    "SELECT a IN b FROM t": (13, "IN a table"), "SELECT 'a\0b'": (8, "NUL"),
    "SELECT a FROM t GROUP BY": (25, "expected"), "SELECT a. FROM t": (11, "expected a name"),
}


@pytest.mark.parametrize("sql", REFUSED)
def test_errors_name_their_place(sql):
    with pytest.raises(SQLError) as caught:
        parse(sql)
    at, reason = REFUSED[sql]
    assert caught.value.at == at and reason in str(caught.value)


@pytest.mark.parametrize("sql, at, reason", [
    ("SELECT nme FROM singer", 8, "unknown column 'nme'"),
    ("SELECT T2.name FROM singer AS T1", 8, "unknown column 'T2.name'"),
    ("SELECT name FROM singers", 18, "unknown table 'singers'"),
    ("SELECT singer_id FROM singer, concert", 8, "ambiguous column 'singer_id'"),
    ("SELECT x.* FROM singer", 8, "unknown table 'x'"),
    ("SELECT year FROM singer WHERE EXISTS (SELECT year FROM concert)", 8, "unknown column 'year'"),
])
def test_names_that_do_not_resolve_fail_closed(small, sql, at, reason):
    with pytest.raises(SQLError) as caught:
        canonical_sql(sql, small[1])
    assert caught.value.at == at and reason in str(caught.value)


@pytest.mark.parametrize("sql", [
    "SELECT " + "(" * 5000 + "1" + ")" * 5000, "SELECT " + "NOT " * 3000 + "1",
    "SELECT " + "-" * 3000 + "1", "SELECT " + "1+" * 6000 + "1", "SELECT 1" + " = 1" * 4000,
    "SELECT " + "(SELECT " * 2000 + "1" + ")" * 2000, "SELECT " + "CASE WHEN " * 1500,
    "SELECT * FROM " + "(SELECT * FROM " * 1000, "SELECT " + "f(" * 5000, "SELECT '" + "x" * 30000,
    "SELECT " + "~ " * 9000 + "1", "SELECT " + "a." * 9000 + "b", "SELECT 1" + " ISNULL" * 2500,
    "SELECT a FROM t ORDER BY a NULLS", "SELECT a FROM t NOT", "SELECT f() OVER", "SELECT a IS NOT",
    "SELECT (" * 40 + "1" + "+1)" * 40 + "+1" * 3000,
])
def test_bombs_are_refused(sql):
    with pytest.raises(SQLError):
        to_sql(parse(sql))


def test_what_is_deep_enough_still_reads():
    nested = "SELECT 1"
    for _ in range(MAX_DEPTH // 2 - 1):
        nested = f"SELECT ({nested})"
    long = "SELECT 1 WHERE " + " OR ".join(f"{i} = {i}" for i in range(1000))
    for sql in (nested, long):
        assert to_sql(parse(sql)) == sql


def test_every_keyword_works_as_a_name():
    words = """
        abort action add after all alter always analyze and as asc attach before begin between
        by cascade case cast check collate column commit conflict constraint create cross
        current current_date current_time current_timestamp database default deferrable deferred
        delete desc detach distinct do drop each else end escape except exclude exclusive exists
        explain fail filter first following for foreign from full generated glob group groups
        having if ignore immediate in index indexed initially inner insert instead intersect
        into is isnull join key last left like limit match materialized natural no not nothing
        notnull null nulls of offset on or order others outer over partition plan pragma
        preceding primary query raise range recursive references regexp reindex release rename
        replace restrict returning right rollback row rows savepoint select set table temp
        temporary then ties to transaction trigger true false unbounded union unique update
        using vacuum values view virtual when where window with without""".split()
    connection = sqlite3.connect(":memory:")
    for word in words:
        schema = Schema("w", (Table(word, (SchemaColumn(word, "number"),)),), ())
        connection.execute(f'CREATE TABLE "{word}" ("{word}" INT)')
        connection.execute(f'INSERT INTO "{word}" VALUES (7)')
        sql = f"SELECT `{word}`, A.`{word}` FROM `{word}` AS A WHERE `{word}` > 3"
        sql = canonical_sql(sql, schema)
        assert connection.execute(sql).fetchall() == [(7, 7)], sql
        assert canonical_sql(sql, schema) == sql


@pytest.mark.parametrize("left, right, equal", [
    ("SELECT a.Name FROM Singer a;", "select NAME from singer", True),
    ('SELECT name FROM singer WHERE country = "Peru"',
     "SELECT name FROM singer WHERE country='Peru'", True),
    ("SELECT name FROM singer ORDER BY age ASC", "SELECT name FROM singer ORDER BY age", True),
    ("SELECT x.name FROM singer x JOIN concert y ON y.singer_id=x.singer_id",
     "SELECT name FROM singer AS T5 INNER JOIN concert ON T5.singer_id = concert.singer_id", True),
    ("SELECT name FROM singer WHERE country = 'Peru'",
     "SELECT name FROM singer WHERE country = 'peru'", False),
    ("SELECT name FROM singer", "SELECT DISTINCT name FROM singer", False),
    ("SELECT name FROM singer ORDER BY age", "SELECT name FROM singer ORDER BY age DESC", False),
    ("SELEC  name FROM\nx ;", "selec name from X", True),
])
def test_normalise(small, left, right, equal):
    assert (normalise(left, small[1]) == normalise(right, small[1])) is equal


@pytest.mark.parametrize("sql, raw, canonical, same", [
    ("SELECT a", [(1, "x"), (2, "y")], [(2, "y"), (1, "x")], True),
    ("SELECT a ORDER  BY 1", [(1, "x"), (2, "y")], [(2, "y"), (1, "x")], False),
    ("SELECT a ORDER/**/\nBY 1", [(1,), (2,)], [(2,), (1,)], False),
    ("SELECT a limit\t2", [(1,), (2,)], [(2,), (1,)], False),
    ("SELECT a", [(1,), (1,), (2,)], [(1,), (2,), (2,)], False),
    ("SELECT a", [(1, "x")], [("x", 1)], False), ("SELECT a", [(1,)], [(1.0,)], False),
    ("SELECT a", [], [], True), ("SELECT a", [], [(None,)], False),
    ("SELECT a", [(1,)], [(1, 1)], False), ("SELECT a", [(0.0,)], [(-0.0,)], False),
    ("SELECT a", [(None, b"1", 2.5)], [(None, b"1", 2.5)], True),
    ("SELECT a", [(b"1",)], [("1",)], False), ("SELECT a", [("\udc80",)], [("\udc80",)], True),
])
def test_keeps_meaning(sql, raw, canonical, same):
    assert keeps_meaning(sql, raw, canonical) is same


# ---------------------------------------------------------------------------------------------
# What changed its meaning once, over a database that is made for it

HOSTILE = """
CREATE TABLE member (id INT, name TEXT); CREATE TABLE payment (id INT, amount INT);
INSERT INTO member VALUES (1, 'a'), (2, 'b'), (NULL, 'c');
INSERT INTO payment VALUES (1, 5), (7, 9), (NULL, 3);
CREATE TABLE person (name TEXT, age INT); CREATE TABLE account (name TEXT COLLATE NOCASE, n INT);
INSERT INTO person VALUES ('Ann', 3), ('bo', 2), ('CY', 1);
INSERT INTO account VALUES ('ANN', 1), ('Bo', 2), ('cy', 3);
CREATE TABLE item (id INT, x INT, "true" INT); CREATE TABLE T1 (x INT); CREATE TABLE T2 (x, y);
INSERT INTO item VALUES (1, 10, 5), (2, 20, 6), (3, 10, 0); INSERT INTO T1 VALUES (10), (30);
INSERT INTO T2 VALUES (1, 10), (2, '10'), (10, 1.0);
CREATE TABLE accents ("É" INT, "é" INT); INSERT INTO accents VALUES (1, 2);
"""


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "hostile.sqlite"
    connection = sqlite3.connect(path)
    connection.executescript(HOSTILE)
    yield connection, read_schema(path)
    connection.close()


@pytest.mark.parametrize("sql", """
SELECT amount, member.id, payment.id FROM member RIGHT JOIN payment USING (id)
SELECT id, amount FROM member LEFT JOIN payment USING (id) ORDER BY id
SELECT * FROM member NATURAL FULL JOIN payment
SELECT person.age FROM person JOIN account ON account.name = person.name
SELECT id FROM item WHERE EXISTS (SELECT 1 FROM T1 WHERE T1.x = item.x)
SELECT id FROM item AS T2 WHERE (SELECT MAX(y) FROM T2 AS b WHERE b.x = T2.id) IS NOT NULL
WITH T1 AS (SELECT 2 AS x) SELECT id FROM item WHERE id IN (SELECT x FROM T1 WHERE T1.x = item.id)
SELECT id FROM item WHERE x IN (SELECT item.x FROM T1 WHERE T1.x IN (SELECT y FROM T2))
SELECT a.name AS x, age AS x FROM person AS a ORDER BY x
SELECT -age AS age FROM person ORDER BY age
SELECT age AS name FROM person ORDER BY name COLLATE NOCASE DESC
SELECT name AS n FROM person ORDER BY n COLLATE NOCASE LIMIT 2
SELECT n FROM (SELECT -age AS age, age AS n FROM person ORDER BY age LIMIT 1)
SELECT x AS y, y AS x FROM T2 WHERE y > 1 GROUP BY y HAVING x > 1
SELECT x, y FROM T2 WHERE x = y = 1 OR NOT y = x AND y IS DISTINCT FROM '10'
SELECT y IS NOT DISTINCT FROM 10, x NOT NULL, NOT x IS NULL, NOT x = 1 FROM T2
SELECT -9223372036854775808, - 9223372036854775808, -(9223372036854775807), - -5 FROM T1
SELECT "Ann", `name`, [age], 'name' FROM person WHERE name = "Ann"
SELECT COUNT(*) FROM person WHERE name = 'ann' COLLATE NOCASE AND name <> 'ANN'
SELECT (SELECT "name" FROM T1) FROM account
SELECT "É", "é" FROM accents
SELECT name AS 'its name' FROM person ORDER BY "its name"
SELECT x FROM T1 UNION ALL SELECT id FROM item ORDER BY x DESC LIMIT 2
SELECT b.name FROM (SELECT "Ann", 1 AS k) AS a JOIN person AS b ON b.name = Ann
""".strip().splitlines())
def test_meaning_is_kept(hostile, sql):
    connection, schema = hostile
    canonical = canonical_sql(sql, schema)
    assert canonical_sql(canonical, schema) == canonical
    rows, canonical_rows = [connection.execute(text).fetchall() for text in (sql, canonical)]
    assert rows and keeps_meaning(sql, rows, canonical_rows), canonical


UNREAD = """
SELECT id, amount FROM member RIGHT JOIN payment USING (id) | RIGHT or FULL JOIN by equal names
SELECT id FROM member FULL JOIN payment USING (id) ORDER BY 1 | RIGHT or FULL JOIN by equal names
SELECT id FROM member NATURAL RIGHT JOIN payment | RIGHT or FULL JOIN by equal names
SELECT name, 0 AS flag FROM person ORDER BY flag | alias of a constant
SELECT age AS n, 2 AS k FROM person ORDER BY k COLLATE NOCASE, -k | alias of a constant
SELECT COUNT(*), 3 AS k FROM person GROUP BY k | alias of a constant
SELECT "COUNT(*)" FROM (SELECT COUNT(*) FROM person) | column named by its expression, or text
SELECT "x:1" FROM (SELECT a.x, b.x FROM T1 a, T1 b) | column named by its expression, or text
SELECT rowid FROM person | rowid
SELECT person.OID FROM person WHERE "_rowid_" > 1 | rowid
SELECT a FROM (SELECT age AS name, name AS a FROM person ORDER BY person.name) \
    | alias that hides a column
SELECT x AS a FROM T1 UNION SELECT id AS b FROM item ORDER BY b | unknown column
SELECT x AS a FROM T1 UNION SELECT id AS b FROM item ORDER BY "b" \
    | compound not sorted by one column of its first arm
SELECT x AS a, x AS b FROM T2 UNION SELECT y, 1 FROM T2 ORDER BY b \
    | compound not sorted by one column of its first arm
SELECT true FROM item | column called TRUE or FALSE
SELECT "a" AS a FROM person WHERE a = 'a' | alias inside a sub-query, an ON or an item
SELECT age AS k FROM person WHERE EXISTS (SELECT 1 FROM T1 WHERE k > 1) \
    | alias inside a sub-query, an ON or an item
SELECT age FROM person WHERE 'Ann' IN (SELECT x FROM T1 ORDER BY "age") \
    | sorted or grouped by a column from outside
WITH person AS (SELECT 1 AS x), b AS (SELECT x FROM c), c AS (SELECT 2 AS x) SELECT x FROM b \
    | recursive or later WITH
SELECT id FROM item WHERE x IN (WITH c AS (SELECT item.x AS y) SELECT y FROM c) \\
    | WITH that reads a SELECT around it
WITH c AS (SELECT 1 AS x UNION ALL SELECT x + 1 FROM c LIMIT 3) SELECT x FROM c \
    | recursive or later WITH
WITH RECURSIVE c AS (SELECT 1 AS x) SELECT x FROM c | recursive WITH
SELECT SUM(age) OVER (ORDER BY age ROWS 1 PRECEDING) FROM person | window frame
SELECT SUM(age) OVER (ORDER BY age RANGE UNBOUNDED PRECEDING) FROM person | window frame
SELECT COUNT(*) FILTER (WHERE age > 1) FROM person | FILTER
SELECT SUM(age) OVER w FROM person WINDOW w AS (ORDER BY age) | window by name
SELECT SUM(age) OVER (w ORDER BY age) FROM person WINDOW w AS () | window by name
SELECT id FROM item WHERE x IN T1 | IN a table
SELECT amount FROM (member JOIN payment ON member.id = payment.id) | parenthesised join
SELECT x FROM (T1) | parenthesised join
WITH c (x) AS (VALUES (1), (2)) SELECT x FROM c | VALUES
SELECT * FROM (VALUES (1)) | VALUES
SELECT name FROM 'person' | name in single quotes
SELECT person.'name' FROM person | name in single quotes
SELECT '{"a": 1}' -> 'a' | JSON arrow
SELECT '{"a": 1}' ->> 'a' FROM person | JSON arrow
SELECT value FROM json_each('[1, 2]') | table-valued function
SELECT x FROM T1 NOT INDEXED | INDEXED BY
SELECT age FROM person WHERE age = ?1 | bind parameter
SELECT age FROM person WHERE age = :age | bind parameter
SELECT name FROM main.person | schema-qualified name
SELECT name FROM sqlite_master | unknown table
""".replace("\\\n   ", "").strip().splitlines()


@pytest.mark.parametrize("line", UNREAD)
def test_what_sqlite_runs_and_the_reader_refuses(hostile, line):
    sql, reason = line.rsplit(" | ", 1)
    connection, schema = hostile
    values = [1] if "?" in sql else {"age": 1}
    connection.execute(sql, values).fetchall()               # so it is a gold that a user may have
    with pytest.raises(SQLError) as caught:
        canonical_sql(sql, schema)
    assert caught.value.reason == reason


def test_random_hostile_queries_keep_their_rows(tmp_path):
    """10,000 of them: bench/fuzz_canonical.py."""
    counts, different = fuzz(300, seed=3, folder=tmp_path, each=15)
    assert counts["read"] > 200 and not different


# ---------------------------------------------------------------------------------------------
# Precedence, against SQLite itself

OPERATORS = ["OR", "AND", "=", "!=", "IS", "IS NOT", "<", "<=", ">", ">=", "&", "|", "<<", ">>",
             "+", "-", "*", "/", "%", "||", "LIKE", "NOT LIKE"]


def random_expression(rng, depth):
    """(text with every parenthesis, the same with each left out at random)."""
    if depth == 0 or rng.random() < 0.15:
        leaf = rng.choice(["0", "1", "2", "3", "-1", "NULL", "'1'", "'a'", "2.5"])
        return leaf, leaf
    kind = rng.random()
    if kind < 0.15:
        op, (full, short) = rng.choice(["NOT ", "- ", "~ "]), random_expression(rng, depth - 1)
        return f"({op}({full}))", op + (short if rng.random() < 0.5 else f"({short})")
    parts = [random_expression(rng, depth - 1) for _ in range(3)]
    short = [part[1] if rng.random() < 0.6 else f"({part[1]})" for part in parts]
    if kind < 0.25:
        full = "(({}) BETWEEN ({}) AND ({}))".format(*[part[0] for part in parts])
        return full, f"{short[0]} BETWEEN {short[1]} AND {short[2]}"
    op = rng.choice(OPERATORS)
    return f"(({parts[0][0]}) {op} ({parts[1][0]}))", f"{short[0]} {op} {short[1]}"


def test_precedence_is_that_of_sqlite():
    rng, connection, compared = random.Random(0), sqlite3.connect(":memory:"), 0
    for _ in range(2500):
        full, short = [f"SELECT {text}" for text in random_expression(rng, 4)]
        for sql in (full, short):
            try:
                printed = to_sql(parse(sql))
                gold = connection.execute(sql).fetchall()
            except (SQLError, sqlite3.Error):    # BETWEEN with a bare comparison as its bound
                continue
            assert parse(printed) == parse(sql)
            assert connection.execute(printed).fetchall() == gold, (sql, printed)
            compared += 1
    assert compared > 4500


def test_printing_builds_no_comment():
    tree = Query((parse("SELECT 1").arms[0],))
    minus = Binary("-", Literal("number", "1"), Unary("-", Unary("-", Column("a"))))
    assert to_sql(minus) == "1 - - -a"
    assert to_sql(Call("F", (Subquery(tree),))) == "F((SELECT 1))"


# ---------------------------------------------------------------------------------------------
# Spider

pytestmark_spider = pytest.mark.skipif(not SPIDER.is_dir(), reason="Spider is not at ../shared")


@pytest.fixture(scope="module")
def spider():
    data, connections = Data(SPIDER), {}

    def run(db_id, sql):
        if db_id not in connections:
            connections[db_id] = Connection(data.databases(db_id)[0], Limits(timeout=30.0))
        return connections[db_id].run(sql)

    yield data, run
    for connection in connections.values():
        connection.close()


@pytestmark_spider
@pytest.mark.parametrize("split, every", [("train", 4), ("dev", 1)])
def test_spider_golds(spider, split, every):
    """All of them are measured by bench/bench_synthesis.py."""
    data, run = spider
    golds = sorted({(example.db_id, example.query) for example in data.examples(split)})
    assert len(golds) > 500
    for db_id, sql in golds[::every]:
        tree, canonical = parse(sql), canonical_sql(sql, data.schema(db_id))
        assert parse(to_sql(tree)) == tree, sql
        assert canonical_sql(canonical, data.schema(db_id)) == canonical, sql
        gold = run(db_id, sql)
        assert gold.status == "ok", (sql, gold.error)
        assert run(db_id, to_sql(tree)).rows == gold.rows, sql
        assert run(db_id, canonical).rows == gold.rows, sql


NOISE = ["NOT", "-", "IS", "NULL", "(", ")", "||", "BETWEEN", "''", '"x"', "``", "[a]", ".", ";",
         "--", "/*", "UNION ALL", "LEFT", "NATURAL", "USING", "AS", "x'41'", "1e5",
         "CASE", "CAST", "OVER", "WITH", "EXISTS", "\0", "é", "OFFSET", "DISTINCT", ",",
         "COLLATE nocase", "\x0b", "\ud800", "->", "FILTER", "NULLS", "VALUES", "?", "ROWS",
         "NATURAL RIGHT", "DISTINCT FROM", "INDEXED BY", "IN", "rowid", "TRUE"]


@pytestmark_spider
def test_damaged_golds_give_an_error_or_the_same_result(spider):
    """A parser that guesses would show here: what both it and SQLite take must mean the same."""
    data, run = spider
    golds = sorted({(example.db_id, example.query) for example in data.examples("dev")})
    rng, same, refused = random.Random(1), 0, 0
    for _ in range(6000):
        db_id, sql = rng.choice(golds)
        tokens = sql.split(" ")
        place, other = rng.randrange(len(tokens)), rng.choice(NOISE + tokens)
        tokens[place:place + rng.choice((0, 1, 1))] = [other] * rng.choice((0, 1, 1))
        damaged = " ".join(tokens)
        try:
            tree = parse(damaged)
            printed, canonical = to_sql(tree), canonical_sql(damaged, data.schema(db_id))
        except SQLError:
            refused += 1
            continue
        assert parse(printed) == tree, damaged
        gold = run(db_id, damaged)
        if gold.status == "ok":
            same += 1
            assert run(db_id, printed).rows == gold.rows, damaged
            assert run(db_id, canonical).rows == gold.rows, damaged
    assert same > 700 and refused > 2500


def test_random_text_gives_an_error_or_a_tree():
    rng, alphabet = random.Random(2), "SELECT FROM WHERE()'\"`[].,;*-/<>=!|&~%\0\n\t éx01'"
    for _ in range(6000):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(40)))
        for sql in (text, "SELECT " + text):
            try:
                tokenise(sql)
                assert parse(to_sql(parse(sql))) == parse(sql)
            except SQLError:
                pass
