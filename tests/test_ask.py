"""Asking a database: what is said where an answer may not mean what was asked."""

import csv
import sqlite3
from contextlib import closing

import pytest

import data.report.ask
from data.prompts.values import ValueIndex
from data.report.ask import TRIES, Asker, nearest, remarks
from data.schema import read_schema
from sqlexec import Limits, run_sql

SCRIPT = """
CREATE TABLE tblCustomer (CustomerId INTEGER PRIMARY KEY, FullName TEXT, Country TEXT,
                          ZipCode TEXT, Since TEXT);
CREATE TABLE "Order" (OrderId INTEGER PRIMARY KEY, CustomerId INTEGER REFERENCES tblCustomer,
                      OrderDate TEXT, UnitPrice REAL, "Ship Mode" TEXT, Quantity INTEGER);
INSERT INTO tblCustomer VALUES (1, 'Ann Lee', 'France', '75001', '2019-04-01'),
    (2, 'Bo Orr', 'Germany', '10115', '2020-11-30'), (3, 'Cy Day', 'France', '69002', '2021-02-14');
INSERT INTO "Order" VALUES (1, 1, '2023-01-05', 9.5, 'air', 2), (2, 1, '2023-03-09', 1.0, 'sea', 4),
    (3, 2, '2022-12-24', 20.0, 'air', 1);
CREATE VIEW v_sale AS SELECT C.FullName AS buyer, O.OrderDate AS sold_on
    FROM "Order" AS O JOIN tblCustomer AS C ON O.CustomerId = C.CustomerId;
"""
WRONG = [        # what a reader must be told, with a word of the remark
    ('SELECT COUNT(*) FROM "Order" WHERE "Unit Price" = 1', "UnitPrice is one"),
    ('SELECT COUNT(*) FROM "Order" WHERE 1 = "Unit Price"', "UnitPrice is one"),
    ('SELECT "Full Name" FROM tblCustomer', "FullName is one"),
    ('SELECT Country, COUNT(*) FROM tblCustomer GROUP BY "land"', '"land" is no column'),
    ('SELECT FullName FROM tblCustomer ORDER BY "name of customer"', "is no column"),
    ('SELECT SUM("Unit_Price") FROM "Order"', "UnitPrice is one"),
    ('SELECT MAX("order date") FROM "Order"', "OrderDate is one"),
    ('SELECT * FROM tblCustomer WHERE "Zip Code" IN (75001)', "ZipCode is one"),
    ('SELECT * FROM "Order" WHERE OrderDate = 2023', "compared with the number 2023"),
    ('SELECT COUNT(*) FROM "Order" WHERE OrderDate > 2022', "compared with the number 2022"),
    ('SELECT * FROM tblCustomer WHERE Since BETWEEN 2019 AND 2020', "compared with the number"),
    ('SELECT * FROM tblCustomer WHERE Country = 33', "compared with the number 33"),
    ("SELECT * FROM \"Order\" WHERE Quantity = 'two'", "compared with the text 'two'"),
    ("SELECT * FROM \"Order\" WHERE UnitPrice > 'cheap'", "compared with the text 'cheap'"),
    ("SELECT * FROM tblCustomer WHERE Country = 'france'", "'France' is there"),
    ("SELECT COUNT(*) FROM tblCustomer WHERE Country = 'Frence'", "'France' is there"),
    ("SELECT * FROM tblCustomer WHERE Country = 'Norway'", "no row has Country = 'Norway'"),
    ("SELECT * FROM tblCustomer WHERE Country IN ('Norwy', 'Sweden')", "no row has Country"),
    ("SELECT SUM(T2.UnitPrice) FROM tblCustomer AS T1 JOIN \"Order\" AS T2 ON T1.CustomerId = "
     "T2.CustomerId WHERE T1.FullName = 'Ann Le'", "'Ann Lee' is there"),
    ('SELECT * FROM "Order" WHERE "Ship Mode" = "Air"', "'air' is there"),
    ("SELECT * FROM tblCustomer WHERE Since = '2019'", "'2019-04-01' is there"),
    ("SELECT * FROM tblCustomer WHERE Since = ''", "IS NULL finds rows"),
    ("SELECT COUNT(*) FROM tblCustomer WHERE Since = NULL", "= NULL is never true"),
    ("SELECT COUNT(*) FROM tblCustomer WHERE NULL != Since", "!= NULL is never true"),
    ("SELECT * FROM v_sale WHERE buyer = 'Ann Le'", "'Ann Lee' is there"),
    ("SELECT * FROM v_sale WHERE sold_on = 2023", "compared with the number 2023"),
    ('SELECT * FROM "Order" WHERE OrderDate > \'02/28/2022\'', "holds dates such as '2023-01-05'"),
    ('SELECT * FROM "Order" WHERE OrderDate > \'2022/12/31\'', "holds dates such as"),
    ('SELECT * FROM "Order" WHERE OrderDate > date(\'now\', \'-30 days\')',
     "OrderDate goes from 2022-12-24 to 2023-03-09"),
    ("SELECT COUNT(*) FROM v_sale WHERE sold_on BETWEEN '2024-01-01' AND '2024-12-31'",
     "sold_on goes from 2022-12-24 to 2023-03-09"),
    ('SELECT FullName FROM tblCustomer WHERE CustomerId = (SELECT CustomerId FROM "Order" WHERE '
     '"Ship Mode" = \'air\')', "only the first is compared"),
    ('SELECT COUNT(*) FROM "Order" WHERE strftime(\'%Y\', OrderDate) = 2023',
     "strftime() gives text"),
    ("SELECT SUM(Country = 'France') / COUNT(*) FROM tblCustomer", "cuts off the fraction"),
    ("SELECT COUNT(CASE WHEN Country = 'France' THEN 1 END) * 100 / COUNT(*) FROM tblCustomer",
     "cuts off the fraction")]
RIGHT = [
    'SELECT * FROM tblCustomer',
    'SELECT "FullName" FROM tblCustomer',
    'SELECT COUNT(*) FROM "Order"',
    'SELECT "Ship Mode" FROM "Order"',
    'SELECT COUNT(*) FROM "Order" WHERE "Ship Mode" = "air"',
    'SELECT * FROM tblCustomer WHERE Country = "France"',
    'SELECT 1 AS x ORDER BY "x"',
    'SELECT * FROM tblCustomer WHERE ZipCode = 75001',
    "SELECT * FROM tblCustomer WHERE Country != 'Norway'",
    'SELECT FullName AS "the name" FROM tblCustomer ORDER BY "the name"',
    'SELECT * FROM "Order" WHERE OrderDate LIKE \'2023%\'',
    'SELECT * FROM "Order" WHERE OrderDate >= \'2023-01-01\'',
    'SELECT strftime(\'%Y\', OrderDate) FROM "Order" GROUP BY 1',
    'SELECT * FROM "Order" WHERE UnitPrice = \'9.5\'',
    "SELECT COUNT(*) FROM tblCustomer WHERE Country IN ('France', 'Norway')",
    'SELECT * FROM "Order" WHERE UnitPrice > 1000',
    'SELECT * FROM "Order" WHERE Quantity BETWEEN 1 AND 3',
    "SELECT * FROM tblCustomer WHERE NOT Country = 'Germany'",
    'SELECT * FROM tblCustomer WHERE Country LIKE "%ance"',
    'SELECT T1."FullName" FROM tblCustomer AS T1',
    'SELECT * FROM tblCustomer WHERE Country IN ("France")',
    "SELECT * FROM tblCustomer WHERE Country = 'Germany' AND FullName LIKE 'Z%'",
    'SELECT * FROM tblCustomer WHERE Since IS NULL OR Since IS NOT NULL',
    "SELECT COUNT(*) FROM v_sale WHERE buyer = 'Ann Lee'",
    "SELECT * FROM v_sale WHERE sold_on LIKE '2023-0_-%' OR sold_on LIKE '%-12-%'",
    'SELECT * FROM "Order" WHERE OrderDate > \'2022\'',
    'SELECT * FROM "Order" WHERE strftime(\'%Y\', OrderDate) = \'2023\'',
    'SELECT * FROM "Order" WHERE CAST(strftime(\'%Y\', OrderDate) AS INTEGER) = 2023',
    "SELECT 100.0 * SUM(Country = 'France') / COUNT(*) FROM tblCustomer",
    'SELECT * FROM "Order" WHERE UnitPrice > (SELECT AVG(UnitPrice) FROM "Order")',
    'SELECT * FROM "Order" AS o WHERE Quantity = (SELECT MAX(Quantity) FROM "Order" AS p '
    'WHERE p.CustomerId = o.CustomerId)',
    'SELECT * FROM tblCustomer WHERE CustomerId IN (SELECT CustomerId FROM "Order")',
    'SELECT SUM(UnitPrice) / COUNT(*), AVG(Quantity / 2.0) FROM "Order"']


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = tmp_path_factory.mktemp("ask") / "shop.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SCRIPT)
    schema = read_schema(path)
    index = ValueIndex(schema, path)
    index.link("")
    return path, schema, index


def said(shop, sql, question="how many?"):
    path, schema, index = shop
    result = run_sql(path, sql)
    assert result.status == "ok", result.error
    return remarks(sql, result, schema, index.columns, question, lambda text: run_sql(path, text))


@pytest.mark.parametrize("sql, words", WRONG)
def test_an_answer_that_means_something_else_is_remarked_on(shop, sql, words):
    assert any(words in note for note in said(shop, sql))


@pytest.mark.parametrize("sql", RIGHT)
def test_an_answer_that_means_what_it_says_is_left_alone(shop, sql):
    assert said(shop, sql) == []


def test_a_wish_to_change_data_is_remarked_on(shop):
    for question in ("delete all orders", "Please update the price of order 3", "Drop table x"):
        assert any("nothing is changed" in note for note in said(shop, RIGHT[0], question))
    assert not said(shop, RIGHT[0], "Which customers updated their address?")


def test_a_text_that_the_index_has_not_read_is_not_called_absent(shop):
    path, schema, _ = shop
    sql = "SELECT * FROM tblCustomer WHERE Country = 'Germany' AND ZipCode = '69002'"
    known = {("tblCustomer", "Country"): ["France"], ("tblCustomer", "ZipCode"): ["69002"]}
    assert remarks(sql, run_sql(path, sql), schema, known, "",
                   lambda text: run_sql(path, text)) == []
    sql = "SELECT * FROM v_sale WHERE buyer = 'Cy Day' AND sold_on = '2023-01-05'"
    assert remarks(sql, run_sql(path, sql), schema, known, "", lambda text: run_sql(path, text))
    assert list(known) == [("tblCustomer", "Country"), ("tblCustomer", "ZipCode")]


def test_of_a_name_that_is_not_there_the_nearest_is_named(shop, capsys):
    for sql, note in (
            ("SELECT COUNT(*) FROM Customer", "no table Customer; tblCustomer is one"),
            ("SELECT COUNT(*) FROM orders", "no table orders; Order is one"),
            ("SELECT o.order_date FROM \"Order\" AS o", "no column order_date; OrderDate is one")):
        assert f"  note: there is {note}" in ask(shop, capsys, [sql] * (1 + TRIES))[1]
    assert nearest("orders", {"tblorder": "tblOrder", "order_lines": "order_lines"}) == (
        "; tblOrder is one")
    for sql in ("SELECT FullName FROM \"Order\"", "SELECT COUNT(*) FROM planet", "SELECT ("):
        assert not any("there is" in line for line in ask(shop, capsys, [sql] * (1 + TRIES))[1])


def test_a_query_that_runs_too_long_or_returns_too_much_is_not_drawn_again(shop, capsys):
    endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT "
    for sql, word in ((endless + "MAX(i) FROM n", "--timeout"), (endless + "i FROM n", "fewer")):
        code, lines, asked = ask(shop, capsys, [sql])
        assert code == 1 and asked == [(0.0, 1)] and word in lines[-1]


class Task:
    """Of spft.Task what Asker needs."""

    def __init__(self, shop):
        path, schema, index = shop
        self.data = self.prompts = self
        self.schema, self.linker = lambda db_id: schema, lambda db_id: index
        self.job = lambda example, text: (path, text)

    def run(self, jobs):
        return [run_sql(*job, Limits(timeout=0.2, max_rows=1000)) for job in jobs]


def ask(shop, capsys, answers, question="how many customers?", **options):
    """(exit code, lines, [(temperature, n)]) of a model that gives these answers."""
    asked, left = [], iter(answers)

    def sample(example, temperature, n):
        asked.append((temperature, n))
        return [next(left) for _ in range(n)]

    code = Asker(Task(shop), "shop", sample, **options)(question)
    return code, capsys.readouterr().out.splitlines(), asked


def test_a_greedy_answer_that_fails_is_followed_by_samples(shop, capsys):
    good = "SELECT COUNT(*) FROM tblCustomer"
    code, lines, asked = ask(shop, capsys, ["SELECT COUNT(*) FROM Customer", "SELECT", good,
                                            *["SELECT 1"] * (TRIES - 2)])
    assert (code, asked) == (0, [(0.0, 1), (0.7, TRIES)])
    assert lines[:3] == [good, "  COUNT(*)", "  3"]
    assert "the first answer failed (no such table: Customer); this is sample 2 of" in lines[-1]
    code, lines, _ = ask(shop, capsys, ["SELECT"] * (1 + TRIES))
    assert code == 1 and f"none of {TRIES} more samples runs" in lines[-1]
    assert ask(shop, capsys, [good])[2] == [(0.0, 1)]


def test_a_vote_says_how_many_agree(shop, capsys):
    few = ["SELECT 1", "SELECT 2", "SELECT 3", "SELECT 3", "SELECT 4"]
    code, lines, _ = ask(shop, capsys, few, samples=5)
    assert (code, lines[0]) == (0, "SELECT 3")
    assert lines[-1] == "  note: 2 of 5 samples agree on these rows, less than half"
    assert "less" not in ask(shop, capsys, few[2:4], samples=2)[1][-1]


def test_the_rows_go_to_a_csv_file(shop, capsys, tmp_path):
    out = tmp_path / "new" / "rows.csv"
    code, lines, _ = ask(shop, capsys, ["SELECT FullName, Country FROM tblCustomer"], out=str(out))
    assert list(csv.reader(out.open())) == [
        ["FullName", "Country"], ["Ann Lee", "France"], ["Bo Orr", "Germany"], ["Cy Day", "France"]]
    assert lines[-1] == f"  3 rows written to {out}"
    out.unlink()
    assert ask(shop, capsys, ["SELECT"] * 9, out=str(out))[0] == 1 and not out.exists()


def test_any_text_goes_to_the_csv_file_as_utf_8(shop, capsys, tmp_path, monkeypatch):
    """Whatever the locale."""
    monkeypatch.setattr(data.report.ask, "open", lambda *place, **options: open(
        *place, **{"encoding": "cp1252", **options}), raising=False)
    out = tmp_path / "rows.csv"
    sql = "SELECT 'Łódź, 20 °C' AS \"où\", NULL AS gone, CAST(X'E9' AS TEXT) AS latin"
    assert ask(shop, capsys, [sql], out=str(out))[0] == 0
    assert out.read_bytes() == ("où,gone,latin\r\n\"Łódź, 20 °C\",,".encode() + b"\xe9\r\n")
