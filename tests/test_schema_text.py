"""Schemas as prompt text: both forms, the order of tables, and what a budget leaves."""

import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from data.prompts.schema_text import compact, ddl, gold_first, narrow, rank
from data.schema import Column, Schema, Table, read_schema

ROOT = Path(__file__).resolve().parents[1]

SHOP = Schema("shop", (
    Table("customer", (Column("customer_id", "number", True), Column("name", "text"),
                       Column("Home City", "text", comment="where they live, if known"))),
    Table("orders", (Column("order_id", "number", True), Column("customer_id", "number"),
                     Column("placed", "time"))),
    Table("order item", (Column("order_id", "number", True), Column("line", "number", True),
                         Column("product_id", "number"), Column("gift", "boolean"))),
    Table("product", (Column("product_id", "number", True), Column("title", "text"),
                      Column("picture", "others"))),
    Table("weather", (Column("day", "time"), Column("rain", "number")))),
    (("orders", "customer_id", "customer", "customer_id"),
     ("order item", "order_id", "orders", "order_id"),
     ("order item", "product_id", "product", "product_id")))
NAMES = [table.name for table in SHOP.tables]


def test_compact_form():
    assert compact(SHOP).splitlines()[:3] == [
        'customer(customer_id number key, name text, "Home City" text: where they live, if known)',
        "orders(order_id number key, customer_id number > customer.customer_id, placed time)",
        '"order item"(order_id number key > orders.order_id, line number key, '
        "product_id number > product.product_id, gift boolean)"]


def test_ddl_form():
    assert ddl(replace(SHOP, tables=SHOP.tables[:2])) == """CREATE TABLE customer (
  customer_id NUMBER,
  name TEXT,
  "Home City" TEXT, -- where they live, if known
  PRIMARY KEY (customer_id)
);
CREATE TABLE orders (
  order_id NUMBER,
  customer_id NUMBER,
  placed TIME,
  PRIMARY KEY (order_id),
  FOREIGN KEY (customer_id) REFERENCES customer (customer_id)
);"""


def test_a_view_is_marked(tmp_path):
    schema = replace(SHOP, tables=(Table("two words", (Column("id", "number"),), view=True),),
                     foreign_keys=())
    assert compact(schema) == 'view "two words"(id number)'
    assert ddl(schema) == 'CREATE TABLE "two words" ( -- view\n  id NUMBER\n);'
    sqlite3.connect(":memory:").executescript(ddl(schema))


def test_what_a_view_computes_has_the_type_of_its_first_values(tmp_path, monkeypatch):
    script = """CREATE TABLE sale (day TEXT, price REAL, amount INTEGER);
        INSERT INTO sale VALUES ('2024-01-01', 2.5, NULL), ('2024-01-02', 3, 4);
        CREATE VIEW total AS SELECT day, price * amount AS paid, substr(day, 1, 7) AS month,
            NULL AS gone FROM sale;
        CREATE VIEW none AS SELECT SUM(price) AS paid FROM sale GROUP BY day HAVING day = '';
        CREATE VIEW endless AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)
            SELECT MAX(i) AS most FROM n;
        CREATE VIEW failing AS SELECT json_extract(day, '$.x') AS x FROM sale;"""
    with closing(sqlite3.connect(tmp_path / "any.sqlite")) as db:
        db.executescript(script)
    monkeypatch.setattr("data.schema.STEPS", 100_000)
    tables = {t.name: {c.name: c.type for c in t.columns}
              for t in read_schema(tmp_path / "any.sqlite").tables if t.view}
    assert tables == {
        "total": {"day": "text", "paid": "number", "month": "text", "gone": "text"},
        "none": {"paid": "text"}, "endless": {"most": "text"}, "failing": {"x": "text"}}


def random_schema(rng):
    """Odd names, comments, composite and missing keys, references to itself."""
    names = rng.sample(["t", "two words", 'a"b', "select", "Änd", "x-y", "v1", "Group"], 5)
    kinds = ("text", "number", "time", "boolean", "others")
    tables = []
    for name in names[:rng.randrange(1, 6)]:
        columns = [Column(f"{rng.choice(('id', 'long name', 'from'))}{i}", rng.choice(kinds),
                          rng.random() < 0.3, rng.choice(("", "", "what, it -- means")))
                   for i in range(rng.randrange(1, 7))]
        tables.append(Table(name, tuple(columns)))
    keys = {}
    for _ in range(rng.randrange(0, 6)):
        child, parent = rng.choice(tables), rng.choice(tables)
        keys[child.name, rng.choice(child.columns).name] = (
            parent.name, rng.choice(parent.columns).name)
    return Schema("any", tuple(tables), tuple(sorted(
        child + parent for child, parent in keys.items())))


def bare(schema):
    """A schema as a database tells it: without comments, keys in any order."""
    tables = tuple(replace(t, columns=tuple(replace(c, comment="") for c in t.columns))
                   for t in schema.tables)
    return tables, set(schema.foreign_keys)


@pytest.mark.parametrize("seed", range(30))
def test_sqlite_reads_the_ddl_as_the_same_schema(tmp_path, seed):
    schema = random_schema(random.Random(seed))
    with closing(sqlite3.connect(tmp_path / "any.sqlite")) as db:
        db.executescript(ddl(schema))
    assert bare(read_schema(tmp_path / "any.sqlite")) == bare(schema)


# ---------------------------------------------------------------------------------------------
# Order

@pytest.mark.parametrize("question, links, first", [
    ("How many products are there?", (), ["product", "order item"]),
    ("Which customers live in which city?", (), ["customer"]),
    ("What was the rain on the day?", (), ["weather"]),
    ("When were the ORDERS placed?", (), ["orders"]),
    ("Who is from Rome?", [("customer", "Home City", "Rome")], ["customer"]),
    ("List all orders", (), ["orders", "order item"]),
    ("List the deliveries", (), NAMES)])
def test_tables_that_the_question_mentions_come_first(question, links, first):
    ranked = rank(SHOP, question, links)
    assert ranked[:len(first)] == first and sorted(ranked) == sorted(NAMES)


def test_the_order_is_the_same_in_every_process():
    """Whatever the order in which a set gives its words."""
    code = ("from data.prompts.schema_text import rank; from data.schema import *;"
            "tables = [Table(name, tuple(Column(word, 'text') for word in words.split())) for name,"
            " words in (('a', 'red green day'), ('b', 'blue grey day'), ('c', 'day'))];"
            "print(*rank(Schema('x', tuple(tables), ()), 'red green blue grey day'))")
    said = {subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True,
                           env={**os.environ, "PYTHONHASHSEED": str(seed)}).stdout
            for seed in range(6)}
    assert said == {"a b c\n"}


def test_training_puts_the_tables_of_the_gold_first():
    sql = ("SELECT title FROM product AS a JOIN `order item` AS b ON a.product_id = b.product_id "
           "WHERE b.order_id IN (SELECT order_id FROM Orders)")
    orders = [gold_first(SHOP, sql, random.Random(seed)) for seed in range(20)]
    assert all(order[:3] == ["product", "order item", "orders"] for order in orders)
    assert {tuple(order[3:]) for order in orders} == {("customer", "weather"),
                                                      ("weather", "customer")}
    assert sorted(gold_first(SHOP, "no SQL", random.Random(0))) == sorted(NAMES)
    with_cte = "WITH a AS (SELECT day FROM weather) SELECT day FROM a"
    assert gold_first(SHOP, with_cte, random.Random(0))[0] == "weather"


# ---------------------------------------------------------------------------------------------
# Budget

def length(schema):
    return len(compact(schema))


def test_a_schema_that_fits_stays_as_it_is():
    assert narrow(SHOP, NAMES, length(SHOP)) == (SHOP, {})
    assert narrow(SHOP, NAMES, length(SHOP))[0] is SHOP


def test_comments_go_first():
    narrowed, dropped = narrow(SHOP, NAMES, length(SHOP) - 1)
    assert dropped == {"comments": 1} and [t.name for t in narrowed.tables] == NAMES


def test_tables_go_from_the_end_of_the_order_and_their_keys_with_them():
    order = ["product", "order item", "weather", "orders", "customer"]
    narrowed, dropped = narrow(SHOP, order, 194)
    assert [table.name for table in narrowed.tables] == ["order item", "product", "weather"]
    assert narrowed.foreign_keys == (("order item", "product_id", "product", "product_id"),)
    assert dropped == {"tables": 2, "columns": 6, "comments": 1} and length(narrowed) <= 194


def test_the_tables_between_two_kept_ones_are_kept():
    order = ["customer", "product", "weather", "orders", "order item"]
    narrowed, dropped = narrow(SHOP, order, 330)
    assert [table.name for table in narrowed.tables] == NAMES[:4]
    assert len(narrowed.foreign_keys) == 3 and dropped["tables"] == 1


def test_columns_that_are_no_keys_go_last():
    narrowed, dropped = narrow(SHOP, ["product", "orders"], 45)
    assert [[c.name for c in t.columns] for t in narrowed.tables] == [["product_id", "title"]]
    narrowed, dropped = narrow(SHOP, ["product", "orders"], 1)
    assert compact(narrowed) == "product(product_id number key)"
    assert dropped == {"tables": 4, "columns": 14, "comments": 1}


def test_any_measure_of_size_serves():
    words = lambda schema: len(ddl(schema).split())                             # noqa: E731
    narrowed, _ = narrow(SHOP, NAMES, 30, words)
    assert words(narrowed) <= 30 and narrowed.tables


@pytest.mark.parametrize("seed", range(40))
def test_what_is_kept_fits_counts_and_joins(seed):
    rng = random.Random(seed)
    schema = random_schema(rng)
    order = rng.sample([t.name for t in schema.tables], len(schema.tables))
    budget = rng.randrange(1, length(schema) + 20)
    narrowed, dropped = narrow(schema, order, budget)
    kept = {t.name for t in narrowed.tables}
    columns = [(t.name, c.name) for t in narrowed.tables for c in t.columns]
    assert order[0] in kept and len(kept) == len(narrowed.tables)
    assert dropped["tables"] == len(schema.tables) - len(kept)
    assert dropped["columns"] + len(columns) == sum(len(t.columns) for t in schema.tables)
    for key in schema.foreign_keys:
        if key[0] in kept and key[2] in kept:            # both ends of a key are still there
            assert key in narrowed.foreign_keys and {key[:2], key[2:]} <= set(columns)
    keys = {place for key in narrowed.foreign_keys for place in (key[:2], key[2:])}
    primary = {(t.name, c.name) for t in narrowed.tables for c in t.columns if c.primary}
    assert length(narrowed) <= budget or set(columns) == keys | primary
