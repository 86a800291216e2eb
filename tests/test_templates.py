"""Templates and synthesis: what is taken apart comes back, what is filled runs and makes sense."""

import json
import random
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

from bench_synthesis import LEVELS, compare, distance, level_text
from data.benchmarks.reader import Data
from data.prompts import values
from data.sql import (
    Binary, Column, Select, canonical_sql, normalise, parse, quote_name, resolve, to_sql, walk)
from data.synthesis import profiles as profiles_module
from data.synthesis.fill import Database, Unfilled, fill
from data.synthesis.profiles import Profile, Profiles
from data.synthesis.quality import comparable, is_label, suits
from data.synthesis.run import run_synth
from data.synthesis.synthesize import synthesize
from data.synthesis.templates import TemplatePool, extract, extract_bound, render
from data.schema import Column as SchemaColumn, read_schema
from sqlexec import Connection, DataError, Limits, run_sql

ROOT = Path(__file__).resolve().parents[1]
SPIDER = ROOT.parent / "shared" / "spider"
needs_spider = pytest.mark.skipif(not SPIDER.is_dir(), reason="Spider is not at ../shared")

SINGERS = """
CREATE TABLE singer (singer_id INTEGER PRIMARY KEY, name TEXT, age INT, country TEXT,
  born_year INT);
CREATE TABLE concert (concert_id INTEGER PRIMARY KEY, theme TEXT, seats INT, host_id INT
  REFERENCES singer(singer_id), guest_id INT REFERENCES singer(singer_id), held DATE);
CREATE TABLE ticket (ticket_id INTEGER PRIMARY KEY, concert_id INT REFERENCES concert, price REAL);
"""


def build(path, script, rows=()):
    """A database file; rows: [(table, [values, ...])]."""
    connection = sqlite3.connect(path)
    connection.executescript(script)
    for table, values in rows:
        marks = ", ".join("?" * len(values[0]))
        connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', values)
    connection.commit()
    connection.close()
    return read_schema(path), path


@pytest.fixture(scope="module")
def singers(tmp_path_factory):
    rng = random.Random(0)
    names = [f"{first} {last}" for first in "Ann Bob Cleo Dan".split() for last in ("Ash", "Birch")]
    return build(tmp_path_factory.mktemp("templates") / "singers.sqlite", SINGERS, [
        ("singer", [(i + 1, names[i], rng.randrange(20, 60), rng.choice(("France", "Peru", "Chad")),
                     rng.randrange(1960, 2000)) for i in range(8)]),
        ("concert", [(i + 1, f"Theme {rng.choice('ABCDEF')}x", rng.randrange(50, 900),
                      rng.randrange(1, 6), rng.randrange(3, 9), f"20{10 + i % 9}-05-0{1 + i % 8}")
                     for i in range(20)]),
        ("ticket", [(i + 1, rng.randrange(1, 16), rng.randrange(5, 60) + 0.5) for i in range(60)])])


def run(jobs):
    return [run_sql(path, sql) for path, sql in jobs]


# ---------------------------------------------------------------------------------------------
# Extraction

def test_slots_keep_type_key_and_co_reference(singers):
    template = extract("SELECT country, COUNT(*) FROM singer WHERE age > 30 GROUP BY country "
                       "ORDER BY COUNT(*) DESC LIMIT 3", singers[0])
    assert [level_text(template, level) for level in LEVELS] == [
        "SELECT column, COUNT(*) WHERE column > V GROUP BY column ORDER BY COUNT(*) DESC LIMIT V",
        "SELECT text, COUNT(*) WHERE number > V GROUP BY text ORDER BY COUNT(*) DESC LIMIT V",
        "SELECT text, COUNT(*) WHERE number > V GROUP BY text ORDER BY COUNT(*) DESC LIMIT V",
        "SELECT text_1, COUNT(*) WHERE number_1 > V0 GROUP BY text_1 "
        "ORDER BY COUNT(*) DESC LIMIT V1",
        "SELECT text_1@0, COUNT(*) FROM table0 WHERE number_1@0 > V0 GROUP BY text_1@0 "
        "ORDER BY COUNT(*) DESC LIMIT V1"]
    assert template.columns[0].uses == {"show", "group"} and template.columns[1].uses == {"range"}
    assert [slot.kind for slot in template.values] == ["range", "limit"]


def test_tables_and_keys_stand_beside_the_text(singers):
    template = extract("SELECT name FROM singer JOIN concert ON singer_id = host_id", singers[0])
    assert level_text(template, "columns") == "SELECT text_1"
    assert template.key == ("SELECT text_1@0 FROM table0, table1 | number_fk_1@1 > number_pk_1@0")
    assert template.needs == [((("text", "", frozenset({"show"})), 1),), ()]


@pytest.mark.parametrize("one, other, same", [
    ("SELECT name FROM singer WHERE age > 3", "SELECT theme FROM concert WHERE seats > 9", True),
    ("SELECT name FROM singer s JOIN concert c ON c.host_id = s.singer_id",
     "SELECT name FROM concert c JOIN singer s ON c.host_id = s.singer_id", True),
    ("SELECT name FROM singer s JOIN concert c ON c.host_id = s.singer_id",
     "SELECT theme FROM singer s JOIN concert c ON c.host_id = s.singer_id", False),
    ("SELECT name FROM singer GROUP BY name", "SELECT name FROM singer GROUP BY country", False),
    ("SELECT name FROM singer WHERE age = 3", "SELECT name FROM singer WHERE singer_id = 3", False),
    ("SELECT name FROM singer ORDER BY age LIMIT 3",
     "SELECT name FROM singer ORDER BY age LIMIT 5", True),
    ("SELECT name FROM singer ORDER BY age LIMIT 3",
     "SELECT name FROM singer ORDER BY age LIMIT 1", False),
    ("SELECT name FROM singer WHERE age > 3 INTERSECT SELECT name FROM singer WHERE age < 9",
     "SELECT name FROM singer WHERE age > 3 INTERSECT SELECT country FROM singer WHERE age < 9",
     False),
])
def test_when_two_queries_share_a_template(singers, one, other, same):
    assert (extract(one, singers[0]) == extract(other, singers[0])) is same


@pytest.mark.parametrize("sql, reason", [
    ("SELECT n FROM (SELECT name AS n FROM singer)", "sub-query in FROM"),
    ("WITH a AS (SELECT age FROM singer) SELECT COUNT(*) FROM a", "WITH"),
    ("SELECT RANK() OVER (ORDER BY age) FROM singer", "WINDOW"),
    ("SELECT nme FROM singer", "unknown column"), ("SELECT FROM singer", "expected a name"),
    ("SELECT name, name FROM singer", "duplicate items"),
    ("SELECT name FROM singer WHERE age > 3 UNION SELECT name FROM singer WHERE age > 3",
     "one arm twice"),
    ("SELECT name, MAX(age) FROM singer", "bare column beside an aggregate"),
    ("SELECT name FROM singer, ticket", "not joined"),
    ("SELECT a.name FROM singer a JOIN singer b ON a.age = b.age", "not joined"),
    ("SELECT name FROM singer WHERE born_year = CURRENT_DATE", "run to run"),
    ("SELECT DISTINCT name FROM singer ORDER BY age", "DISTINCT sorted"),
    ("SELECT age + seats FROM singer JOIN concert ON singer_id = host_id", "arithmetic across"),
    ("SELECT theme FROM concert JOIN ticket USING (concert_id)", "equal names"),
    ("SELECT theme FROM concert NATURAL JOIN ticket", "equal names"),
    ("SELECT COUNT(*) FROM singer ORDER BY age", "bare column beside an aggregate"),
    ("SELECT * FROM singer GROUP BY country", "bare column beside a group"),
    ("SELECT name FROM singer AS a WHERE age IN (SELECT a.age FROM concert)", "from outside"),
    ("SELECT country FROM singer GROUP BY country ORDER BY COUNT(*) > 3", "sorted by a condition"),
    ("SELECT COUNT(*) FROM singer a JOIN concert b ON a.singer_id = b.host_id "
     "JOIN concert c ON a.singer_id = c.guest_id", "multiplied"),
    ("SELECT SUM(age) FROM singer JOIN concert ON singer_id = host_id", "once for each child"),
])
def test_the_pool_says_what_it_skips(singers, sql, reason):
    pool = TemplatePool([(sql, singers[0])] * 2)
    assert len(pool) == 0 and pool.skipped.total() == 2
    assert reason in next(iter(pool.skipped))


@needs_spider
def test_spider_queries_come_back():
    data, connections, good, total = Data(SPIDER), {}, 0, 0
    golds = sorted({(example.db_id, example.query) for example in data.examples("train")})[::4]
    for db_id, sql in golds:
        if db_id not in connections:
            connections[db_id] = Connection(data.databases(db_id)[0], Limits(timeout=30))
        template, binding = extract_bound(sql, data.schema(db_id))
        again = render(template.pieces, binding)
        assert extract(again, data.schema(db_id)) == template, sql
        total += 1
        good += connections[db_id].run(again).rows == connections[db_id].run(sql).rows
    assert total > 900 and good / total >= 0.99


# ---------------------------------------------------------------------------------------------
# Filling

def test_names_that_need_quotes_are_quoted(tmp_path):
    schema, path = build(tmp_path / "odd.sqlite", """CREATE TABLE "the order" ("select" TEXT,
        "Free Meal (%)" REAL, "it""s" INT)""", [("the order", [("a'b", 0.5, 3), ("c", 1.5, 4)])])
    template = extract("SELECT `select` FROM `the order` WHERE `it\"s` > 1", schema)
    database = Database(schema, path)
    seen = {fill(template, database, random.Random(seed)) for seed in range(20)}
    assert '''SELECT "select" FROM "the order" WHERE "it""s" > 3''' in seen
    assert all(run_sql(path, sql).status == "ok" for sql in seen)
    equal = extract("SELECT `it\"s` FROM `the order` WHERE `select` = 'c'", schema)
    assert any("'a''b'" in fill(equal, database, random.Random(seed)) for seed in range(20))
    database.close()


def test_a_link_inside_one_table_needs_a_key_inside_one_table(singers, tmp_path):
    template = extract("SELECT singer_id FROM singer UNION SELECT age FROM singer", singers[0])
    with pytest.raises(Unfilled, match="no tables with such keys"):
        fill(template, Database(*singers), random.Random(0))
    staff = build(tmp_path / "staff.sqlite", """CREATE TABLE staff (staff_id INTEGER PRIMARY KEY,
        boss INT REFERENCES staff (staff_id), home_id INT REFERENCES home (home_id));
        CREATE TABLE home (home_id INTEGER PRIMARY KEY)""",
                  [("staff", [(1, None, 1), (2, 1, 2), (3, 1, 2)]), ("home", [(1,), (2,)])])
    made = {fill(template, Database(*staff), random.Random(seed)) for seed in range(20)}
    assert made == {"SELECT staff_id FROM staff UNION SELECT boss FROM staff",
                    "SELECT boss FROM staff UNION SELECT staff_id FROM staff"}


def test_keys_are_followed_however_they_are_spelled(singers, tmp_path):
    odd = build(tmp_path / "odd.sqlite", """CREATE TABLE Home (ID INTEGER PRIMARY KEY, Town TEXT);
        CREATE TABLE Person (Name TEXT, home INT REFERENCES HOME (id),
                             lost INT REFERENCES Home (absent));""",
                [("Home", [(1, "Rome"), (2, "Oslo")]), ("Person", [("Ann", 1, 1), ("Bob", 2, 2)])])
    template = extract("SELECT theme FROM concert JOIN singer ON host_id = singer_id "
                       "WHERE country = 'Peru'", singers[0])
    made = {fill(template, Database(*odd), random.Random(seed)) for seed in range(9)}
    assert {sql.partition(" WHERE")[0] for sql in made} == {
        "SELECT T1.Name FROM Person AS T1 JOIN Home AS T2 ON T1.home = T2.ID"}


def test_two_keys_between_two_tables_stay_two(singers):
    template = extract("SELECT a.name, b.name FROM singer a "
                       "JOIN concert c ON c.host_id = a.singer_id "
                       "JOIN singer b ON c.guest_id = b.singer_id", singers[0])
    database = Database(*singers)
    for seed in range(10):
        sql = fill(template, database, random.Random(seed))
        assert "host_id" in sql and "guest_id" in sql
    database.close()


def test_values_of_one_column_differ_and_keep_their_order(singers):
    database = Database(*singers)
    between = extract("SELECT name FROM singer WHERE age BETWEEN 20 AND 30", singers[0])
    twice = extract("SELECT name FROM singer WHERE country = 'x' OR country = 'y'", singers[0])
    having = extract("SELECT country FROM singer GROUP BY country HAVING COUNT(*) BETWEEN 1 AND 2",
                     singers[0])
    for seed in range(50):
        rng = random.Random(seed)
        _, low, high = fill(between, database, rng).replace(" AND ", " BETWEEN ").split(
            " BETWEEN ")
        assert float(low) < float(high)
        try:
            _, left, right = fill(twice, database, rng).split(" = ")
            assert left.split(" OR ")[0] != right
        except Unfilled:                     # a column with a single value
            pass
        _, _, high = fill(having, database, rng).partition(" BETWEEN ")
        assert int(high.split(" AND ")[0]) < int(high.split(" AND ")[1])
    database.close()


def test_like_takes_a_word_of_a_value_in_the_patterns_shape(singers):
    database, found = Database(*singers), set()
    for pattern in ("%z%", "z%", "%z"):
        template = extract(f"SELECT age FROM singer WHERE name LIKE '{pattern}'", singers[0])
        for seed in range(40):
            sql = fill(template, database, random.Random(seed))
            word = sql.split("'")[1].strip("%")
            found.add(pattern.replace("z", word))
            assert sql.split("'")[1] == pattern.replace("z", word)
    assert {"%Ash%", "Bob%", "%Birch"} <= found and "Ash%" not in found
    database.close()


@pytest.mark.parametrize("sql, reason", [
    ("SELECT AVG(born_year) FROM singer WHERE born_year > 1990", None),
    ("SELECT a.name FROM singer a JOIN singer b ON a.singer_id = b.age",
     "no tables with such keys and columns"),
    ("SELECT MAX(concert_id), MIN(host_id), name FROM singer, concert "
     "WHERE singer_id = host_id GROUP BY name", None),
])
def test_unfilled_gives_its_reason(singers, tmp_path, sql, reason):
    lonely = build(tmp_path / "lonely.sqlite", "CREATE TABLE t (a TEXT, b TEXT)",
                   [("t", [("x", "y")])])
    template = extract(sql, singers[0])
    with pytest.raises(Unfilled) as caught:
        fill(template, Database(*lonely), random.Random(0))
    assert reason is None or str(caught.value) == reason


@pytest.mark.parametrize("name, label", [
    ("student_id", True), ("StuID", True), ("zip_code", True), ("Year", True),
    ("phone_number", True), ("Rank_in_Round", True), ("age", False), ("Num_of_shops", False),
    ("total_amount", False), ("DeptNum", True), ("latitude", True), ("price", False),
    ("paid", False), ("bandmateid", True)])
def test_which_numbers_are_labels(name, label):
    assert is_label(SchemaColumn(name, "number")) is label


NUMBERS = Profile(40, 40, 20, tuple(range(3, 23)), True)
FEW = Profile(40, 40, 3, (1, 2, 3), True)
YEARS = Profile(40, 40, 20, tuple(range(1990, 2010)), True)


@pytest.mark.parametrize("name, use, profile, suited", [
    ("amount", "sum", NUMBERS, True), ("amount", "total", NUMBERS, True),
    ("founded", "sum", YEARS, False),            # the average of the years of foundation
    ("founded", "extreme", YEARS, True),
    ("advisor", "sum", NUMBERS, False), ("major", "range", NUMBERS, False),
    ("elevation", "total", NUMBERS, False), ("elevation", "sum", NUMBERS, True),
    ("seats", "group", NUMBERS, False), ("seats", "group", FEW, True),
    ("seats", "distinct", Profile(40, 5, 3, (1, 2, 3), True), False),       # hardly any come again
    ("seats", "distinct", Profile(40, 40, 3, (0.5, 1.5, 2.5), True), False),
    ("mascot", "tied", Profile(9, 9, 5, (), False), False), ("name", "tied", NUMBERS, False),
    ("name", "tied", Profile(9, 9, 8, (), False), True),
    ("velocity", "group", FEW, False), ("rating", "group", FEW, True),
    ("result", "group", Profile(8, 8, 6, ("50", "1,200", "$3.50"), False), False),
    ("result", "group", Profile(8, 8, 6, ("win", "draw", "1,200"), False), True),
    ("notes", "distinct", Profile(8, 8, 6, (), False), True),                # too long to look at
    ("password", "show", NUMBERS, False), ("amount", "show", Profile(9, 0, 0, (), False), False)])
def test_what_a_column_may_serve_for(name, use, profile, suited):
    assert suits(SchemaColumn(name, "number"), "", frozenset({use}), profile) is suited


@pytest.mark.parametrize("one, other, same", [
    ("price_in_euros", "price_in_dollars", True), ("Total_Attendance", "Average_Attendance", False),
    ("price", "weight", False), ("team_id", "team_size", False)])
def test_what_may_be_compared(one, other, same):
    assert comparable(SchemaColumn(one, "number"), SchemaColumn(other, "number")) is same


def test_columns_under_a_set_operator_are_shown_once(singers):
    template = extract("SELECT age FROM singer EXCEPT SELECT age FROM singer WHERE age > 3",
                       singers[0])
    assert template.columns[0].uses == {"show", "distinct", "range"}
    counted = extract("SELECT COUNT(DISTINCT age) FROM singer", singers[0])
    assert counted.columns[0].uses == {"count", "distinct"}
    tied = extract("SELECT age FROM singer WHERE name NOT IN (SELECT name FROM singer)", singers[0])
    assert tied.columns[1].uses == {"show", "tied"}


def test_profiles_survive_what_databases_hold(tmp_path):
    _, path = build(tmp_path / "bytes.sqlite", "CREATE TABLE t (a TEXT, b INT, c REAL, d TEXT)", [
        ("t", [("ok", 1, 1e300, None), ("line\nbreak", 2, float("inf"), None),
               (b"\xff\xfe", 3, 0.5, None), (" padded", None, -0.0, None),
               ("x" * 60, 5, 2.0, None)])])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE t SET a = CAST(x'636166e9' AS TEXT) WHERE b = 2")
    connection.commit()
    connection.close()
    profiles = Profiles(path)
    assert profiles.of("t", "a").values == ("ok",)
    assert profiles.of("t", "b") == Profile(5, 4, 4, (1, 2, 3, 5), True)
    assert profiles.of("t", "c").values == (-0.0, 0.5, 2.0)
    assert profiles.of("t", "d") == Profile(5, 0, 0, (), False)
    assert profiles.of("t", "not there").filled == profiles.of("no table", "a").filled == 0
    profiles.close()
    with pytest.raises(DataError):
        Profiles(tmp_path / "missing.sqlite").of("t", "a")
    content = path.read_bytes()
    (tmp_path / "torn.sqlite").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    with pytest.raises(DataError, match="torn.sqlite"):
        Profiles(tmp_path / "torn.sqlite").of("t", "a")


def test_profiles_look_at_so_many_rows_and_no_more(tmp_path, monkeypatch):
    _, path = build(tmp_path / "long.sqlite", "CREATE TABLE t (a INT)",
                    [("t", [(i % 4,) for i in range(100)])])
    assert Profiles(path).of("t", "a") == Profile(100, 100, 4, (0, 1, 2, 3), True)
    monkeypatch.setattr(profiles_module, "ROWS", 3)
    assert Profiles(path).of("t", "a") == Profile(3, 3, 3, (0, 1, 2), True)


# ---------------------------------------------------------------------------------------------
# The pool

def test_draws_follow_frequency_and_errors(singers):
    common, rare = "SELECT name FROM singer", "SELECT COUNT(*) FROM singer"
    pool = TemplatePool([(common, singers[0])] * 9 + [(rare, singers[0])])
    keys = [extract(sql, singers[0]).key for sql in (common, rare)]

    def shares():
        rng = random.Random(0)
        drawn = Counter(pool.draw(rng).key for _ in range(4000))
        return [drawn[key] / 4000 for key in keys]

    assert shares() == pytest.approx([0.9, 0.1], abs=0.02)
    pool.reweight([keys[1], "SELECT nonsense", "SELECT nonsense#1"])
    assert shares() == pytest.approx([0.45, 0.55], abs=0.03)
    pool.reweight([])
    assert shares() == pytest.approx([0.9, 0.1], abs=0.02)


def test_an_error_on_a_variant_brings_it_in(singers):
    pairs = [("SELECT MIN(age) FROM singer", singers[0])]
    variant = next(variant for seed in range(9) if (
        variant := extract(*pairs[0]).variant(seed)).pieces[0] == "SELECT MAX(")
    again = next(again for seed in range(9) if (again := variant.variant(seed)) is not variant)
    for template in (variant, again):                    # known to a pool that never drew it, too
        pool = TemplatePool(pairs)
        pool.reweight([template.key])
        drawn = {pool.draw(random.Random(seed)).key for seed in range(30)}
        assert drawn == {extract(*pairs[0]).key, template.key}
        assert to_sql(pool.find(template.key).tree) == to_sql(template.tree)


# ---------------------------------------------------------------------------------------------
# Synthesis

SEEDS = [
    "SELECT name FROM singer WHERE age > 30", "SELECT COUNT(*) FROM singer WHERE country = 'Peru'",
    "SELECT name, age FROM singer ORDER BY age DESC LIMIT 1",
    "SELECT AVG(age), MAX(age) FROM singer",
    "SELECT country, COUNT(*) FROM singer GROUP BY country",
    "SELECT country FROM singer GROUP BY country HAVING COUNT(*) > 2",
    "SELECT T1.name FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.host_id "
    "WHERE T2.seats < 100",
    "SELECT T1.name, COUNT(*) FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.host_id "
    "GROUP BY T1.singer_id ORDER BY COUNT(*) DESC LIMIT 1",
    "SELECT name FROM singer WHERE singer_id NOT IN (SELECT host_id FROM concert)",
    "SELECT name FROM singer WHERE age > (SELECT AVG(age) FROM singer)",
    "SELECT country FROM singer WHERE age > 40 INTERSECT SELECT country FROM singer WHERE age < 30",
    "SELECT T3.price FROM singer AS T1 JOIN concert AS T2 ON T1.singer_id = T2.guest_id "
    "JOIN ticket AS T3 ON T2.concert_id = T3.concert_id WHERE T1.name = 'Ann Ash'",
    "SELECT name FROM singer WHERE name LIKE 'Ann%' AND age BETWEEN 20 AND 50",
]


def make(database, n, seed=0, seeds=SEEDS, exclude=(), vary=0.3, source=None):
    schema = (source or database)[0]
    pool = TemplatePool([(sql, schema) for sql in seeds])
    return synthesize(pool, [database], n, random.Random(seed), run, exclude, vary=vary)


def test_synthetic_queries_are_new_canonical_and_not_trivial(singers):
    schema, path = singers
    exclude = {normalise(sql, schema) for sql in SEEDS}
    kept, rejects = make(singers, 150, exclude=exclude)
    assert len(kept) == 150 and len({item.sql for item in kept}) == 150
    for item in kept:
        assert item.db_id == schema.db_id and item.sql not in exclude
        assert canonical_sql(item.sql, schema) == item.sql
        rows = run_sql(path, item.sql).rows
        assert rows and any(cell not in (0, None) for row in rows for cell in row)
    assert rejects["in train or val"] > 0 and all(rejects)


def declared_joins(sql, schema):
    """Whether every column equated with another one in ON refers to it by a declared key."""
    keys = {tuple(part.lower() for part in key) for key in schema.foreign_keys}
    for select in [part for part in walk(resolve(parse(sql), schema)) if isinstance(part, Select)]:
        if len([source for source in select.sources if source.on]) != len(select.sources) - 1:
            return False
        for part in [part for source in select.sources for part in walk(source.on)]:
            if isinstance(part, Binary) and isinstance(part.right, Column):
                ends = [(side.table.lower(), side.name.lower()) for side in (part.left, part.right)]
                if not {ends[0] + ends[1], ends[1] + ends[0]} & keys:
                    return False
    return True


def test_joins_follow_declared_keys(singers):
    kept, _ = make(singers, 150, seed=1)
    joined = [item.sql for item in kept if "JOIN" in item.sql]
    assert len(joined) > 20 and all(declared_joins(sql, singers[0]) for sql in joined)
    wrong = "SELECT name FROM singer JOIN concert ON age = seats"
    assert not declared_joins(wrong, singers[0])


def test_a_seed_makes_the_same_queries_again(singers):
    assert make(singers, 60, seed=3) == make(singers, 60, seed=3) != make(singers, 60, seed=4)


def test_an_exhausted_database_ends_the_search(singers):
    kept, rejects = make(singers, 50, seeds=["SELECT COUNT(*) FROM singer"])
    assert sorted(item.sql for item in kept) == [
        f"SELECT COUNT(*) FROM {table}" for table in ("concert", "singer", "ticket")]
    assert set(rejects) == {"made before"}


def test_operators_vary_only_if_asked(singers):
    seeds = ["SELECT MAX(age) FROM singer WHERE country = 'Peru'",
             "SELECT name FROM singer WHERE age > 30 ORDER BY age DESC"]

    def operators(vary):
        kept, _ = make(singers, 40, seeds=seeds, vary=vary)
        return {word for item in kept for word in item.sql.replace("(", " ").split()
                if word in ("MAX", "MIN", "<", ">", "DESC")} | {
                    "ascending" for item in kept if "ORDER" in item.sql and "DESC" not in item.sql}

    assert operators(0) == {"MAX", ">", "DESC"}
    assert operators(0.9) == {"MAX", "MIN", "<", ">", "DESC", "ascending"}


@pytest.mark.parametrize("sql, forms", [
    ("SELECT theme FROM concert WHERE host_id < guest_id", ["<"]),
    ("SELECT theme FROM concert WHERE seats < 9 AND seats > 5", ["<", ">"]),
    ("SELECT theme FROM concert WHERE seats < seats * 2", ["<"]),
    ("SELECT theme FROM concert WHERE seats < (SELECT AVG(seats) FROM concert)", ["<"])])
def test_only_a_threshold_of_its_own_turns_round(singers, sql, forms):
    template = extract(sql, singers[0])
    for seed in range(12):
        text = to_sql(template.variant(seed).tree)
        assert [word for word in text.split() if word in "<>"] == forms


REJECTED = {                         # what every filling on the database below deserves
    "SELECT a FROM t WHERE b > 2 AND b < 1": "empty",
    "SELECT COUNT(*) FROM t WHERE b > 2 AND b < 1": "all 0",
    "SELECT MAX(b) FROM t WHERE b > 2 AND b < 1": "all NULL",
    "SELECT MAX(b) FROM t WHERE b >= 2": "filter without effect",
    "SELECT b FROM t UNION SELECT b FROM t WHERE b > 1": "filter without effect",
    "SELECT u_id FROM u INTERSECT SELECT u_id FROM t": "set operator without effect",
    "SELECT T1.a FROM t AS T1 JOIN u AS T2 ON T1.u_id = T2.u_id": "join without effect",
    "SELECT COUNT(*) FROM t WHERE a = 'x'": "unfilled: no tables with such keys and columns",
    "SELECT COUNT(*) FROM t AS T1 JOIN u AS T2 ON T1.u_id = T2.u_id WHERE a = 'x'": "counts one",
    "SELECT a FROM t ORDER BY flag LIMIT 1": "unstable order under LIMIT",
    "SELECT MAX(b) FROM t GROUP BY t_id": "unfilled: group by a unique key",
    "SELECT b, COUNT(*) FROM t GROUP BY flag": "unfilled: bare column beside a group",
    "SELECT COUNT(DISTINCT a) FROM t": "unfilled: no tables with such keys and columns",
    "SELECT flag FROM t WHERE a LIKE '%1%'": "unfilled: no word to look for",
    "SELECT flag - b FROM t": "unfilled: nothing in common to compare",
}


@pytest.mark.parametrize("sql", REJECTED)
def test_each_reason_to_reject(tmp_path, sql):
    script = """CREATE TABLE u (u_id INTEGER PRIMARY KEY); CREATE TABLE y (y_year INT);
        CREATE TABLE t (t_id INTEGER PRIMARY KEY, a TEXT, b INT, flag BOOLEAN,
                        u_id INT REFERENCES u(u_id));"""
    rows = [(i, f"{i}{i}", i * 3, i > 2, 1 + i % 2) for i in range(1, 6)]
    database = build(tmp_path / "r.sqlite", script,
                     [("t", rows), ("u", [(1,), (2,)]), ("y", [(1999,), (2000,)])])
    kept, rejects = make(database, 20, seeds=[sql], vary=0)
    assert (kept, set(rejects) - {"made before"}) == ([], {REJECTED[sql]})


@pytest.mark.parametrize("sql", [
    "SELECT theme FROM singer a JOIN concert b ON a.singer_id = b.host_id ORDER BY a.age LIMIT 3",
    "SELECT b.theme FROM singer a JOIN concert b ON a.singer_id = b.host_id WHERE a.age > 3",
    "SELECT name FROM singer WHERE age > 3 EXCEPT SELECT a.name FROM singer a "
    "JOIN concert b ON a.singer_id = b.host_id WHERE b.seats > 3"])
def test_probes_run(singers, sql):
    template, binding = extract_bound(sql, singers[0])
    assert template.probes
    for _, _, pieces in template.probes:
        assert run_sql(singers[1], render(pieces, binding)).status == "ok"


def test_keys_of_empty_or_absent_columns_join_nothing(singers, tmp_path):
    schema, path = build(tmp_path / "empty.sqlite", SINGERS, [
        ("singer", [(1, "Ann", 30, "Peru", 1980), (2, "Bob", 40, "Chad", 1970)])])
    assert Database(schema, path).keys == []
    connection = sqlite3.connect(path)
    connection.executescript("DROP TABLE concert; DROP TABLE ticket;")
    connection.close()
    template = extract("SELECT T2.country, COUNT(*) FROM concert AS T1 JOIN singer AS T2 "
                       "ON T1.host_id = T2.singer_id GROUP BY T1.host_id", singers[0])
    with pytest.raises(Unfilled, match="no tables with such keys"):
        fill(template, Database(schema, path), random.Random(0))


def test_fewer_databases_than_one_is_no_crash(singers):
    pool = TemplatePool([(sql, singers[0]) for sql in SEEDS])
    kept, rejects = synthesize(pool, [], 5, random.Random(0), run)
    assert kept == [] and set(rejects) == {"unfilled: no tables with such keys and columns"}
    assert synthesize(TemplatePool([]), [singers], 5, random.Random(0), run)[0] == []


# ---------------------------------------------------------------------------------------------
# The stage

def test_the_stage_prints_and_writes_what_it_made(world, tmp_path, capsys):
    counts = run_synth(world, tmp_path / "a", n=40, show=5, seed=1)
    shown = capsys.readouterr().out
    records = [json.loads(line) for line in
               (tmp_path / "a" / "synthetic.jsonl").read_text().splitlines()]
    assert len(records) == counts["made"] == 40
    assert counts == json.loads((tmp_path / "a" / "synth.json").read_text())
    assert counts["attempts"] == 40 + sum(counts["rejected"].values())
    data = Data(world)
    known = {e.query for split in ("train", "val") for e in data.examples(split)}
    templates = {extract(e.query, data.schema(e.db_id)).key for e in data.examples("train")}
    for record in records:
        path, = data.databases(record["db_id"])
        assert run_sql(path, record["query"]).rows and record["query"] not in known
        assert re.sub("#.*", "", record["template"]) in templates
    assert sum(record["query"] in shown for record in records) >= 5
    for text in ["made 40 of 40", "rejected attempts", "templates; left out: none",
                 "of them were reached", *counts["rejected"]]:
        assert text in shown
    again = run_synth(world, tmp_path / "b", n=40, show=0, seed=1)
    other = run_synth(world, tmp_path / "c", n=40, show=0, seed=2)
    texts = [(tmp_path / name / "synthetic.jsonl").read_text() for name in "abc"]
    assert again == counts != other and texts[0] == texts[1] != texts[2]


def test_the_stage_stays_on_the_databases_of_its_split(world, tmp_path, capsys):
    shutil.copytree(world, tmp_path / "data")
    zoo = [e for e in json.loads((world / "train.json").read_text()) if e["db_id"] == "zoo"]
    (tmp_path / "data" / "train.json").write_text(json.dumps(zoo))
    for split, expected in (("train", {"zoo"}), ("val", {"zoo", "shop"})):
        counts = run_synth(tmp_path / "data", tmp_path / split, n=30, show=0, split=split)
        lines = (tmp_path / split / "synthetic.jsonl").read_text().splitlines()
        assert {json.loads(line)["db_id"] for line in lines} == expected
        assert counts["databases"] == len(expected)
    assert run_synth(tmp_path / "data", tmp_path / "all", n=9999, show=0)["made"] < 9999
    assert "give no more" in capsys.readouterr().out


@pytest.mark.parametrize("change, settings, message", [
    (lambda folder: None, {"n": 0}, "--n 0"),
    (lambda folder: None, {"split": "dev"}, "no dev.json"),
    (lambda folder: (folder / "train.json").unlink(), {}, "no train.json"),
    (lambda folder: (folder / "train.json").write_text("[]"), {}, "no template in 0"),
    (lambda folder: [shutil.rmtree(path) for path in (folder / "database").iterdir()], {},
     "no template in 0 training queries: 20 no such database"),
    (lambda folder: (folder / "train.json").write_text(
        '[{"db_id": "zoo", "question": "", "query": "SELECT nope FROM animal"}]'), {},
     "no template in 1 training queries: 1 unknown column")])
def test_what_the_stage_refuses(world, tmp_path, change, settings, message):
    shutil.copytree(world, tmp_path / "data")
    change(tmp_path / "data")
    with pytest.raises(DataError, match=message) as problem:
        run_synth(tmp_path / "data", tmp_path / "out", **settings)
    assert "\n" not in str(problem.value) and not (tmp_path / "out").exists()


def test_the_command(world, tmp_path):
    command = [sys.executable, "-m", "data.synthesis", "--data", world, "--out", tmp_path / "a"]
    options = {"n": 9, "show": 2, "seed": 4, "split": "train", "timeout": 5}
    command += [f"--{name}={value}" for name, value in options.items()]
    shown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 0 and "made 9 of 9" in shown.stdout
    made = (tmp_path / "a" / "synthetic.jsonl").read_text()
    run_synth(world, tmp_path / "b", **options)
    assert made == (tmp_path / "b" / "synthetic.jsonl").read_text()
    wrong = subprocess.run([*command, "--n=0"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr == (
        "python -m data.synthesis: error: --n 0: ask for one query or more\n")


def test_distance_of_shares():
    assert distance("aab", "baa") == 0 and distance("aa", "b") == 1
    assert distance("aabb", "abbb") == pytest.approx(0.25)


def test_constructs_are_compared_by_their_shares(singers):
    plain, grouped = [(sql, singers[0]) for sql in (
        "SELECT name FROM singer", "SELECT country, COUNT(*) FROM singer GROUP BY country")]
    found = compare([plain, grouped, ("nothing", singers[0])], [grouped])
    assert found["GROUP BY"] == {"distance": 0.5, "shares": {"no": (0.5, 0), "yes": (0.5, 1)}}
    assert found["nested"]["distance"] == 0 and found["all"]["distance"] == 0.5
    assert compare([plain], []) == {}


COURSES = """
CREATE TABLE course (dept TEXT, num INT, title TEXT, credits INT, head TEXT,
  PRIMARY KEY (dept, num));
CREATE TABLE class (class_id INTEGER PRIMARY KEY, num INT, dept TEXT, room TEXT, year INT,
  FOREIGN KEY (dept, num) REFERENCES course (dept, num));
CREATE TABLE visit (visit_id INTEGER PRIMARY KEY, class_id INT REFERENCES class, who TEXT,
  paid REAL);
CREATE TABLE broken (x INT, y INT, note TEXT, FOREIGN KEY (x, y) REFERENCES visit (who, class_id));
CREATE VIEW hard AS SELECT title, credits, head FROM course WHERE credits > 2;
"""


def courses(path):
    return build(path, COURSES, [
        ("course", [(dept, num, f"{dept}{num}", (num * 7 + len(dept)) % 5 + 1, "ABC"[num % 3] * 3)
                    for dept in ("Art", "Bio", "Chem") for num in range(1, 6)]),
        ("class", [(i, i % 5 + 1, ("Art", "Bio", "Chem")[i % 3], f"Room {i % 4}", 2000 + i % 7)
                   for i in range(1, 41)]),
        ("visit", [(i, i % 20 + 1, ("Ann", "Bob", "Cleo")[i % 3], i % 9 + 0.5)
                   for i in range(1, 90)]),
        ("broken", [(i % 3, i % 5, "n" * (i % 4)) for i in range(20)])])


@pytest.mark.parametrize("listed", [False, True])
def test_a_key_of_several_columns_is_joined_whole(singers, tmp_path, listed):
    schema, path = courses(tmp_path / "courses.sqlite")
    if listed:                      # as from tables.json, which does not tell what belongs together
        schema = replace(schema, composite=())
    kept, _ = make((schema, path), 120, seed=5, source=singers)
    joined = [item.sql for item in kept if "class" in item.sql and "course" in item.sql]
    assert len(joined) > 15
    assert not [item.sql for item in kept if "broken" in item.sql and "JOIN" in item.sql]
    for sql in joined:
        assert canonical_sql(sql, schema) == sql and declared_joins(sql, schema)
        assert len(re.findall(r"T\d\.dept = T\d\.dept AND T\d\.num = T\d\.num|"
                              r"T\d\.num = T\d\.num AND T\d\.dept = T\d\.dept", sql)) == 1, sql
        assert " IN (SELECT" not in sql
    assert any("visit" in sql for sql in joined)        # three tables, two keys


def test_half_of_a_wider_key_is_completed_and_no_column_stands_twice(tmp_path):
    schema, path = courses(tmp_path / "courses.sqlite")
    seed = ("SELECT T1.title FROM course AS T1 JOIN class AS T2 ON T1.dept = T2.dept "
            "AND T1.num = T2.num WHERE T2.room = 'Room 1'")
    database, rng = Database(schema, path), random.Random(0)
    for sql in [fill(extract(seed, schema), database, rng) for _ in range(9)]:
        assert sql.count(" = T2.") == 2 and sql.count(".dept") == sql.count(".num") == 2
    half = extract("SELECT T1.title FROM course AS T1 JOIN class AS T2 ON T1.num = T2.num "
                   "WHERE T2.room = 'Room 1'", schema)
    filled = [sql for sql in [fill(half, database, rng) for _ in range(20)] if "course" in sql]
    assert filled
    for sql in filled:
        assert sql.count(" = T2.") == 2
        assert len(run_sql(path, re.sub(" WHERE.*", "", sql)).rows) == 40     # one for each class


def test_a_view_is_asked_about_alone(singers, tmp_path):
    database = courses(tmp_path / "courses.sqlite")
    kept, _ = make(database, 150, seed=2, source=singers)
    viewed = [item.sql for item in kept if "hard" in item.sql]
    assert len(viewed) > 5
    assert not [sql for sql in viewed if re.search("course|class|visit|broken", sql)]


def test_a_column_that_cannot_be_compared_stands_in_no_query(singers, tmp_path):
    path = tmp_path / "phone.sqlite"
    connection = sqlite3.connect(path)
    connection.create_collation("phonebook", lambda a, b: (a > b) - (a < b))
    connection.executescript("""
        CREATE TABLE contact (id INTEGER PRIMARY KEY, name TEXT COLLATE phonebook, city TEXT,
            age INT, doc TEXT, size INT AS (json_extract(doc, '$.size')));
        WITH RECURSIVE k(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM k WHERE x < 30) INSERT INTO
            contact SELECT x, 'n' || x, 'Town ' || (x % 4), x % 11 + 20, '{"size": 1}' FROM k;
        CREATE INDEX by_name ON contact (name);""")
    connection.close()
    path.write_bytes(path.read_bytes().replace(b'{"size": 1}', b'{"size": 1]'))
    database = read_schema(path), path
    kept, _ = make(database, 40, source=singers)
    assert len(kept) == 40 and not [item.sql for item in kept if re.search("name|size", item.sql)]
    profiles = Profiles(path)
    for column in ("name", "city", "size"):
        profiles.of("contact", column)
    assert profiles.skipped == [
        "column contact.name: no such collation sequence: phonebook",
        "column contact.size: malformed JSON"]


def test_a_view_that_takes_for_ever_is_left_alone(tmp_path, monkeypatch):
    _, path = build(tmp_path / "slow.sqlite", """CREATE TABLE t (a INT); CREATE VIEW v AS
        WITH RECURSIVE k(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM k) SELECT max(x) AS a FROM k;
        """, [("t", [(i % 4,) for i in range(100)])])
    monkeypatch.setattr(values, "STEPS", 1_000_000)
    profiles = Profiles(path)
    assert profiles.of("v", "a").filled == 0 and profiles.of("t", "a").filled == 100
    assert profiles.skipped == ["column v.a: interrupted"]
    monkeypatch.setattr(values, "SECONDS", 1)
    monkeypatch.setattr(values, "PACE", 1)
    profiles = Profiles(path)
    assert profiles.of("t", "a").filled == 100
    time.sleep(1.1)                                      # time outside queries does not count
    assert profiles.identify([("t", "a")]) is False and profiles.skipped == []


# ---------------------------------------------------------------------------------------------
# Random schemas

def random_database(rng, path):
    """Composite keys, self references, two keys between two tables, odd names, empty tables."""
    words = ["name", "City", "order", "Free Meal", "group", "price", "Age", "année", "a\"b", "x'y",
             "start date", "kind", "size", "Code", "from"]
    connection = sqlite3.connect(path)
    names = rng.sample(["T1", "t 2", "Table", "é", "a.b", "u"], 4)
    for index, table in enumerate(names[:rng.randrange(1, 5)]):
        columns = [(f"id{index}", "INTEGER PRIMARY KEY")]
        columns += [(word, rng.choice(("TEXT", "INT", "REAL", "DATE", "BOOLEAN")))
                    for word in rng.sample(words, rng.randrange(1, 6))]
        clauses = []
        for target in range(index + 1):                      # itself included
            for key in range(rng.choice((0, 1, 1, 2))):
                columns.append((f"r{target}_{key}", "INT"))
                clauses.append(f'FOREIGN KEY ("r{target}_{key}") REFERENCES '
                               + quote_name(names[target]) + f'("id{target}")')
        if index and rng.random() < 0.3:                     # a composite key
            columns += [("c1", "INT"), ("c2", "INT")]
            clauses.append(f'FOREIGN KEY (c1, c2) REFERENCES {quote_name(names[0])}(id0, id0)')
        text = ", ".join([f"{quote_name(name)} {kind}" for name, kind in columns] + clauses)
        connection.execute(f"CREATE TABLE {quote_name(table)} ({text})")
        for row in range(rng.choice((0, 1, 5, 20))):
            cells = [row if kind.endswith("KEY") else random_cell(rng, kind) for _, kind in columns]
            marks = ", ".join("?" * len(cells))
            connection.execute(f"INSERT INTO {quote_name(table)} VALUES ({marks})", cells)
    connection.commit()
    connection.close()
    return read_schema(path), path


def random_cell(rng, kind):
    if rng.random() < 0.2:
        return None
    return {"TEXT": rng.choice(("Ann", "O'Neil", "50%", "a_b", "é", "two words", "")),
            "REAL": rng.random() * 10, "BOOLEAN": rng.randrange(2),
            "DATE": f"20{rng.randrange(10, 30)}-01-01"}.get(kind, rng.randrange(6))


@pytest.mark.parametrize("block", range(4))
def test_random_schemas_fill_run_and_come_back(tmp_path, singers, block):
    templates = [extract(sql, singers[0]) for sql in SEEDS]
    rng, filled, reasons = random.Random(block), 0, Counter()
    for number in range(20):
        schema, path = random_database(rng, tmp_path / f"{number}.sqlite")
        database, connection = Database(schema, path), Connection(path, Limits())
        for template in templates * 3:
            try:
                sql = fill(template, database, rng)
            except Unfilled as problem:
                reasons[str(problem)] += 1
                continue
            filled += 1
            assert canonical_sql(sql, schema) == sql
            result = connection.run(sql)
            assert result.status == "ok", (sql, result.error)
            again, binding = extract_bound(sql, schema)
            assert connection.run(render(again.pieces, binding)).rows == result.rows
            assert declared_joins(sql, schema), sql
        database.close()
        connection.close()
    assert filled > 100 and len(reasons) > 2


def test_a_pool_keeps_nothing_of_earlier_weights(world):
    """Several runs share a pool: what one answered wrongly decides no draw of the next."""
    data = Data(world)
    sources = [(e.query, data.schema(e.db_id)) for e in data.examples("train")]
    used, fresh = TemplatePool(sources), TemplatePool(sources)
    keys = list(used.templates)
    used.reweight([f"{key}#1" for key in keys])
    assert len(used) > len(fresh)
    for wrong in ([], [f"{keys[2]}#3", f"{keys[0]}#1"]):
        for pool in (used, fresh):
            pool.reweight(wrong)
        draws = [[pool.draw(rng).key for _ in range(200)]
                 for pool, rng in ((used, random.Random(0)), (fresh, random.Random(0)))]
        assert draws[0] == draws[1] and len(used) == len(fresh)
