"""SQL out of answers, onto one line, onto any terminal."""

import io
import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing, redirect_stdout

import pytest
from conftest import PAIRS, ROOT

from data.prompts.answers import one_line, sql_of_answer
from data.report.terminal import printable, safe_output

SHARED = ROOT.parent / "shared"
LONG = "SELECT name, -- who\n  age\nFROM animal\n\nWHERE kind = 'lion'"

WRAPPED = {
    "fence": ("```sql\nSELECT 1\n```", "SELECT 1"),
    "fence without a language": ("```\nSELECT 1\n```", "SELECT 1"),
    "fence of tildes": ("~~~sqlite\nSELECT 1\n~~~", "SELECT 1"),
    "fence in one line": ("```sql SELECT 1```", "SELECT 1"),
    "fence that was cut off": ("Sure!\n```SQL\nSELECT name\nFROM t", "SELECT name\nFROM t"),
    "fence that only closes": ("SELECT 1\n```\nDone.", "SELECT 1"),
    "prose around a fence": (f"The query is:\n\n```sql\n{LONG};\n```\n\nIt lists names.", LONG),
    "the last of two fences": ("```sql\nSELECT 1\n```\nBetter:\n```sql\nSELECT 2\n```", "SELECT 2"),
    "a fence that holds no query": ("```text\na | b\n```\nSELECT 1", "SELECT 1"),
    "the result behind the query": ("```sql\nSELECT 1\n```\nOutput:\n```\n1\n```", "SELECT 1"),
    "thoughts": ("<think>SELECT 2, or else?</think>\n\nSELECT 3", "SELECT 3"),
    "thoughts and a fence": ("<think>a\nb</think>```sql\nSELECT 3\n```", "SELECT 3"),
    "the end of thoughts": ("I must count ...\n</think>\nSELECT 4", "SELECT 4"),
    "prose before": ("The query is:\nSELECT a FROM t", "SELECT a FROM t"),
    "prose in the same line": ("You can use SELECT a FROM t", "SELECT a FROM t"),
    "a label": ("SQL: SELECT a FROM t", "SELECT a FROM t"),
    "a label in bold": ("**Answer:** select a from t", "select a from t"),
    "a prompt": ("sqlite> SELECT a FROM t;", "SELECT a FROM t"),
    "a code span": ("Run `SELECT a FROM t` to see.", "SELECT a FROM t"),
    "prose after a semicolon": ("SELECT a FROM t; This lists all.", "SELECT a FROM t"),
    "prose after a blank line": ("SELECT a FROM t\n\nThis query lists all.", "SELECT a FROM t"),
    "a sentence like a query": ("Select the pet's name:\n```sql\nSELECT 1\n```", "SELECT 1"),
    "a sentence that selects": ("With this in mind, select names.\nSELECT b FROM t",
                                "SELECT b FROM t"),
    "a common table": ("Sure:\nWITH x AS (SELECT 1) SELECT * FROM x;",
                       "WITH x AS (SELECT 1) SELECT * FROM x"),
    "a semicolon": ("SELECT 1 ;\n", "SELECT 1"),
    "a semicolon and a comment": ("SELECT 1; -- done", "SELECT 1"),
}

AS_IT_IS = [
    "SELECT 1", LONG, "-- a\nSELECT name FROM t", "/* c */ with x as (select 1) select * from x",
    "SELECT '```' FROM t", "SELECT '<think>' FROM t", "SELECT ';' FROM t", "SELECT \"a;b\" FROM t",
    "SELECT [a;b], `c;d` FROM t", "SELECT 1 -- ; not the end\nFROM t", "SELECT a\n\nFROM t",
    "SELECT 1; DROP TABLE t", "SELECT 1; SELECT 2", "SELECT 1;; delete from t",
    "DROP TABLE t", "I cannot tell.", "", "```sql\nDROP TABLE t\n```", "SELECT 'open",
    "SELECT (1;)",
]


@pytest.mark.parametrize("kind", WRAPPED)
def test_sql_is_taken_out_of_an_answer(kind):
    answer, sql = WRAPPED[kind]
    assert sql_of_answer(answer) == sql
    assert sql_of_answer(sql) == sql
    assert sql_of_answer(f"\n {answer} \n") == sql


@pytest.mark.parametrize("text", AS_IT_IS)
def test_what_is_sql_or_holds_none_stays_as_it_is(text):
    assert sql_of_answer(text) == text


def published():
    """Every gold of Spider and its variants, and the 3,999 predictions with official verdicts."""
    for name in ("train_spider", "dev", "dev_syn", "dev_dk"):
        yield from (row["query"] for row in
                    json.loads((SHARED / f"spider/{name}.json").read_text()))
    for line in (SHARED / "verdicts/spider_exec.jsonl").read_text().splitlines():
        yield json.loads(line)["pred"]


def test_published_sql_stays_as_it_is():
    changed = [sql for sql in published()
               if sql_of_answer(sql) != sql.strip().rstrip("; \n").strip()]
    assert not changed


def test_one_line_means_the_same(world):
    queries = [sql for rows in PAIRS.values() for _, _, sql in rows] + [
        LONG, "SELECT 'a\nb', 'it''s  two' -- c\n, \"x  y\" /* d\n */ FROM (SELECT 1 AS \"x  y\")",
        "SELECT\t1\r\n-- last", "SELECT 'a\tb'"]
    with closing(sqlite3.connect(world / "database/zoo/zoo.sqlite")) as zoo, closing(
            sqlite3.connect(world / "database/shop/shop.sqlite")) as shop:
        for sql in queries:
            db = shop if "product" in sql or "sale" in sql else zoo
            assert len(one_line(sql).splitlines()) == 1 and "\t" not in one_line(sql)
            assert db.execute(one_line(sql)).fetchall() == db.execute(sql).fetchall()


def test_nothing_printed_commands_a_terminal():
    assert printable("a\x1b[31mb\x07\x9b\r\u202ec\ud800 é\n\t") == (
        "a\\x1b[31mb\\x07\\x9b\\r\\u202ec\\ud800 é\n\t")
    out = io.StringIO()
    with redirect_stdout(out), safe_output(), safe_output():
        print("\x1b]0;title\x07")
        sys.stdout.flush()
    assert out.getvalue() == "\\x1b]0;title\\x07\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_no_encoding_of_a_terminal_raises(encoding):
    code = ("import sys; from data.report.terminal import safe_output\n"
            "with safe_output():\n"
            "    print('日本 \\ud800 é', input())\n    print('日本', file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, input=b"\xff\n",
                          capture_output=True, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip()[:2] == ("日本".encode()[:2] if encoding == "utf-8" else b"\\u")
