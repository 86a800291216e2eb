"""One's own databases: keys that nobody declared, and the queries that analysts ask."""

import json
import random
import re
import sqlite3
import sys
from contextlib import closing
from datetime import date, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "bench"))

import bench_keys
from data.benchmarks.reader import Data
from data.prompts.prompts import text_values
from data.prompts.schema_text import compact
from data.schema import Column, read_schema
from data.synthesis.keys import with_inferred_keys
from data.synthesis.profiles import Profile, typed_by_values
from data.synthesis.quality import suits
from data.synthesis.run import analyst_queries, run_synth, template_sources
from data.synthesis.templates import TemplatePool
from sqlexec import Connection, Limits

ROOT = Path(__file__).resolve().parents[1]


def build(path, script, *rows):
    """A database file; rows: (table, [values, ...])."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)
        for table, values in rows:
            marks = ", ".join("?" * len(values[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", values)
        connection.commit()
    return path


def inferred(path):
    schema = read_schema(path)
    return [".".join(key[:2]) + " > " + ".".join(key[2:])
            for key in with_inferred_keys(schema, path).foreign_keys[len(schema.foreign_keys):]]


def numbers(n, *more):
    return [(i, *more) for i in range(1, n + 1)]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A small shop: dates in text, flags and codes in numbers, NULLs, views, no declared key."""
    rng, start = random.Random(0), date(2022, 1, 3)

    def day(most):
        return start + timedelta(days=rng.randint(0, most))

    orders = []
    for i in range(1, 401):
        ordered, status = day(1000), rng.choice((1, 2, 2, 3))
        shipped = None if status == 1 else str(ordered + timedelta(days=rng.randint(1, 9)))
        orders.append((i, rng.randint(1, 60), str(ordered), shipped, status,
                       rng.choice(("web", "phone", "shop"))))
    return build(tmp_path_factory.mktemp("own") / "shop.sqlite", """
        CREATE TABLE tblCustomer (CustomerID INTEGER PRIMARY KEY, CustomerName TEXT, City TEXT,
                                  Signup TEXT);
        CREATE TABLE products (id INTEGER PRIMARY KEY, label TEXT, category TEXT, stopped INTEGER);
        CREATE TABLE orders (id INTEGER PRIMARY KEY, customer_id INTEGER, order_date TEXT,
                             shipped_date TEXT, status INTEGER, channel TEXT);
        CREATE TABLE order_lines (id INTEGER PRIMARY KEY, order_id INTEGER, product_id INTEGER,
                                  quantity INTEGER, price REAL, note TEXT);
        CREATE VIEW monthly_sales AS SELECT substr(order_date, 1, 7) AS month,
            COUNT(DISTINCT order_id) AS orders, SUM(quantity * price) AS revenue
            FROM orders JOIN order_lines ON order_id = orders.id GROUP BY 1;
        CREATE VIEW open_orders AS SELECT CustomerName, order_date, channel FROM orders
            JOIN tblCustomer ON CustomerID = customer_id WHERE shipped_date IS NULL;""",
        ("tblCustomer", [(i, f"{rng.choice(('Ann', 'Ben', 'Eva'))} Berg {i % 40}",
                          rng.choice(("Oslo", "Lyon", None, "Porto")), str(day(700)))
                         for i in range(1, 61)]),
        ("products", [(i, f"{rng.choice(('Oak', 'Steel'))} Lamp {i}",
                       rng.choice(("light", "kitchen")), rng.randint(0, 1)) for i in range(1, 21)]),
        ("orders", orders),
        ("order_lines", [(i, rng.randint(1, 400), rng.randint(1, 20), rng.randint(1, 20),
                          round(rng.uniform(5, 400), 2), rng.choice((None, "gift", "fragile")))
                         for i in range(1, 1001)]))


# ---------------------------------------------------------------------------------------------
# Keys

def test_keys_are_inferred_with_their_evidence_and_the_file_stays_as_it_is(shop):
    before = shop.read_bytes()
    schema = Data(shop).schema("shop")
    assert schema.inferred == (
        "inferred key: orders.customer_id -> tblCustomer.CustomerID (names, 400 of 400 values)",
        "inferred key: order_lines.order_id -> orders.id (names, 1,000 of 1,000 values)",
        "inferred key: order_lines.product_id -> products.id (names, 1,000 of 1,000 values)")
    assert [key[:2] for key in schema.foreign_keys] == [
        ("orders", "customer_id"), ("order_lines", "order_id"), ("order_lines", "product_id")]
    bare = Data(shop, infer_keys=False).schema("shop")
    assert bare.foreign_keys == bare.inferred == () and shop.read_bytes() == before


@pytest.mark.parametrize("child, parent", [
    ("customer_id", "customer(id)"), ("customer_id", "customers(id)"),
    ("CustomerID", "tblCustomer(CustomerID)"), ("customerid", "Customers(customerid)"),
    ("customer", "customer(id)"), ("billing_customer_id", "customer(id)"),
    ("customer_id_2", "customer(id)"), ("BillingCustomer", "Customers(CustomerId)"),
    ("dept_code", "department(dept_code)"), ("category_id", "product_category(id)")])
def test_names_that_mean_a_key(tmp_path, child, parent):
    table, _, key = parent.rstrip(")").partition("(")
    path = build(tmp_path / "a.sqlite", f"""
        CREATE TABLE {table} ({key} INTEGER PRIMARY KEY, x TEXT);
        CREATE TABLE invoice (id INTEGER PRIMARY KEY, {child} INTEGER);""",
                 (table, numbers(50, "x")), ("invoice", [(i, i % 49 + 1) for i in range(200)]))
    assert inferred(path) == [f"invoice.{child} > {table}.{key}"]


@pytest.mark.parametrize("child, parent", [
    ("id", "customer(id)"), ("status", "customer(id)"), ("quantity", "customer(id)"),
    ("home_customers", "customer(id)"), ("name", "customer(name)"), ("email", "customer(email)"),
    ("code", "customer(code)"), ("customer_name", "customer(id)"), ("year", "calendar(year)")])
def test_names_that_mean_none(tmp_path, child, parent):
    table, _, key = parent.rstrip(")").partition("(")
    extra = "email" if key != "email" else "phone"
    path = build(tmp_path / "a.sqlite", f"""CREATE TABLE {table} ({key} INTEGER, {extra} TEXT);
        CREATE TABLE invoice (number INTEGER PRIMARY KEY, {child} INTEGER);""",
                 (table, numbers(50, "x")), ("invoice", [(i, i % 5 + 1) for i in range(200)]))
    assert inferred(path) == []


def test_values_decide(tmp_path):
    def found(values, unique=True):
        path = tmp_path / "v.sqlite"
        path.unlink(missing_ok=True)
        build(path, "CREATE TABLE club (club_id INTEGER, x); CREATE TABLE game (home_club_id INT)",
              ("club", numbers(100, "x") + [(7, "twice")] * (not unique)), ("game", values))
        return inferred(path)

    inside = [(i % 100 + 1,) for i in range(98)]
    assert found(inside + [(500,), (501,)]) and found(inside + [(None,)] * 500)
    assert not found(inside + [(500,), (501,), (502,)])
    assert not found(inside, unique=False)                   # a club_id that names two rows
    assert not found([(i + 0.5,) for i in range(1, 9)])


def test_a_table_refers_to_itself_and_a_key_to_a_wider_table(tmp_path):
    path = build(tmp_path / "a.sqlite", """
        CREATE TABLE employees (id INTEGER PRIMARY KEY, manager_id INTEGER, reports_to INTEGER);
        CREATE TABLE people (people_id INTEGER PRIMARY KEY, x TEXT);
        CREATE TABLE player (people_id INTEGER PRIMARY KEY, x TEXT);""",
                 ("employees", [(i, i // 2 or None, 1) for i in range(1, 40)]),
                 ("people", numbers(40, "x")), ("player", numbers(20, "x")))
    assert inferred(path) == [
        "employees.manager_id > employees.id", "employees.reports_to > employees.id",
        "player.people_id > people.people_id"]


def test_several_parents_composite_keys_and_declared_ones_are_left_alone(tmp_path):
    script = """CREATE TABLE a (dept_id INTEGER, x TEXT); CREATE TABLE b (dept_id INTEGER, x TEXT);
        CREATE TABLE staff (id INTEGER PRIMARY KEY, dept_id INTEGER);
        CREATE TABLE room (hall INTEGER, room_id INTEGER, PRIMARY KEY (hall, room_id));
        CREATE TABLE talk (id INTEGER PRIMARY KEY, room_id INTEGER,
                           speaker INTEGER REFERENCES speaker (id), staff_id INTEGER);
        CREATE TABLE speaker (id INTEGER PRIMARY KEY, x TEXT);"""
    path = build(tmp_path / "a.sqlite", script, ("a", numbers(9, "x")), ("b", numbers(9, "x")),
                 ("staff", [(i, i % 9 + 1) for i in range(1, 30)]),
                 ("room", [(hall, room) for hall in (1, 2) for room in range(9)]),
                 ("talk", [(i, i % 9, 1, i % 9 + 1) for i in range(1, 30)]),
                 ("speaker", numbers(9, "x")))
    assert inferred(path) == []          # either of two; room_id is no key alone; talk declares one


def test_a_table_of_millions_takes_no_longer_than_its_sample(tmp_path, monkeypatch):
    from data.prompts import values
    path = build(tmp_path / "a.sqlite", """CREATE TABLE sensor (sensor_id INTEGER, kind TEXT);
        CREATE TABLE reading (sensor_id INTEGER, value REAL, log_id INTEGER);
        CREATE TABLE log (text TEXT, log_id INTEGER);""", ("sensor", numbers(60, "t")))
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""WITH RECURSIVE k(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM k
            WHERE i < 300000) INSERT INTO reading SELECT i % 60 + 1, i * 0.5, i FROM k;
            INSERT INTO log SELECT 'x', log_id FROM reading;""")
    steps = []
    tick = values.Meter._tick
    monkeypatch.setattr(values.Meter, "_tick", lambda meter: steps.append(1) or tick(meter))
    assert inferred(path)[0] == "reading.sensor_id > sensor.sensor_id"
    assert len(steps) * values.PACE < 30_000_000


def test_the_bench_of_keys(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["bench_keys.py", "--data", str(ROOT / "data/demo")])
    bench_keys.main()
    text = capsys.readouterr().out
    precision, recall = re.search(r"precision (\S+), recall (\S+);", text).groups()
    assert float(precision) >= 90 and float(recall) >= 60


# ---------------------------------------------------------------------------------------------
# What analysts ask

def test_every_analyst_query_is_a_template():
    queries = analyst_queries()
    pool = TemplatePool(queries)
    assert len(queries) > 35 and not pool.skipped and pool.counts.total() == len(queries)


def test_they_are_a_third_of_the_draws_and_only_on_own_databases(shop):
    sources = template_sources(Data(shop), [])
    own = [schema.db_id for _, schema in sources]
    assert 0.31 < own.count("analyst") / len(own) < 0.36
    demo = Data(ROOT / "data/demo")
    examples = demo.examples("train")
    assert template_sources(demo, examples) == [(e.query, demo.schema(e.db_id)) for e in examples]


def test_types_are_those_that_values_show(shop):
    schema = typed_by_values(read_schema(shop), shop)
    types = {f"{t.name}.{c.name}": c.type for t in schema.tables for c in t.columns}
    assert {types[name] for name in ("orders.order_date", "orders.shipped_date",
                                     "tblCustomer.Signup", "open_orders.order_date")} == {"time"}
    assert types["orders.status"] == types["products.stopped"] == "boolean"
    assert types["monthly_sales.revenue"] == types["order_lines.quantity"] == "number"
    assert types["monthly_sales.month"] == types["orders.channel"] == "text"


KINDS = {
    "month or year": r"STRFTIME|SUBSTR", "a date": r"'\d{4}-\d\d(-\d\d)?'|= '\d{4}'",
    "in a year": r"STRFTIME\('%Y', \S+\) = '\d{4}'", "in a month": r"'%Y-%m', \S+\) = '\d{4}-\d\d'",
    "between days": r"BETWEEN '\d{4}-\d\d-\d\d' AND|>= '\d{4}-\d\d-\d\d' AND",
    "last days": r"DATE\(MAX\(\w+\), '-\d+ days'\)", "time between": r"JULIANDAY",
    "product": r"(quantity|price) \* (T2\.)?(quantity|price)", "share": r"100\.0 \* .* / \(SELECT",
    "missing": "IS NULL", "not missing": "IS NOT NULL", "bucket": "CASE WHEN .* WHEN .* GROUP BY",
    "counted if": r"SUM\(CASE", "top of a group": r"= T1\.",
    "view": "FROM (monthly_sales|open_orders)",
    "join": "JOIN", "flag or code": "(stopped|status) = "}


@pytest.fixture(scope="module")
def made(shop, tmp_path_factory):
    out = tmp_path_factory.mktemp("synth")
    counts = run_synth(shop, out, n=200, show=5)
    lines = (out / "synthetic.jsonl").read_text().splitlines()
    return [json.loads(line)["query"] for line in lines], counts


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_occurs_among_200(made, kind):
    assert len(made[0]) == 200
    assert [sql for sql in made[0] if re.search(KINDS[kind], sql)]


def test_synthetic_sql_returns_something_and_makes_sense(made, shop):
    connection = Connection(shop, Limits())
    for sql in made[0]:
        rows = connection.run(sql).rows
        assert rows and any(cell is not None for row in rows for cell in row), sql
    text = "\n".join(made[0])
    dates = r'"?(\w+_date|Signup)"?'
    dated = re.findall(r"(?:STRFTIME\('[^']+', |JULIANDAY\(|SUBSTR\()(?:T\d\.)?(\w+)", text)
    assert dated and set(dated) <= {"order_date", "shipped_date", "Signup"}
    assert not re.search(f"{dates} (NOT )?LIKE", text)
    assert not re.search(f"(SUM|AVG)\\((T\\d\\.)?(status|stopped|{dates})", text)
    assert not re.search(r"(status|stopped) [<>]|id \* |\* (T\d\.)?\w*id\b", text)


def test_queries_for_dates_take_columns_of_iso_dates_alone():
    column, (good, other) = Column("due", "time"), [
        Profile(9, 9, 2, values, False) for values in (("2024-05-03", "2024-05-04 10:30"),
                                                       ("03/05/2024", "04/05/2024"))]
    assert suits(column, "", {"dated"}, good) and not suits(column, "", {"dated"}, other)
    assert not suits(column, "", {"null"}, good)             # there is none that is missing


def test_drops_are_printed_and_the_switch_turns_joins_off(shop, tmp_path, capsys):
    run_synth(shop, tmp_path, n=40, show=5)
    text = capsys.readouterr().out
    assert text.count("inferred key: ") == 3 and "made 40 of 40" in text
    assert re.search(r"rejected attempts\n( .* \d+\n)+", text)
    run_synth(shop, tmp_path, n=40, show=40, infer_keys=False)
    text = capsys.readouterr().out
    assert "JOIN" not in text and "inferred" not in text


def test_what_a_question_must_name():
    assert text_values("SELECT CASE WHEN a < 1 THEN 'low' ELSE 'high' END FROM t "
                       "WHERE strftime('%Y-%m', d) = '2024-05' AND b LIKE '%oak%'") == [
                           "2024", "oak"]
    assert text_values("SELECT SUM(CASE WHEN b = 'x' THEN 1 ELSE 0 END) FROM t WHERE d >= "
                       "(SELECT date(MAX(d), '-7 days') FROM t) AND d < '2024-05-01'") == [
                           "x", "2024-05-01"]


def test_prompts_show_the_keys_and_ask_says_them_once(shop, cli, base):
    words = ["--stage", "ask", "--model", base, "--db", shop, "--max_new", 4, "how many orders?"]
    _, stdout, _ = cli(*words)
    assert stdout.count("inferred key: orders.customer_id -> tblCustomer.CustomerID") == 1
    assert "inferred key" not in cli(*words, "--infer_keys", 0)[1]
    assert "customer_id number > tblCustomer.CustomerID" in compact(Data(shop).schema("shop"))
