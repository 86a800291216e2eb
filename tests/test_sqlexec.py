"""The verifier: official verdicts, hostile queries, and a pool that neither loses nor leaks.

The official verdicts and the gold queries come from ../shared, beside the repository.
"""

import hashlib
import json
import os
import random
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "bench")]

from bench_verifier import official_equal  # noqa: E402
from data.benchmarks.reader import Data  # noqa: E402
from data.schema import read_schema  # noqa: E402
from sqlexec import (  # noqa: E402
    Connection, DataError, Limits, Result, Session, Verifier, majority_vote, run_sql, same_result)

STATUSES = {"ok", "error", "timeout", "too_big", "refused", "bad_gold"}
needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared is not here")


def processes():
    """{pid: (parent, state, command)} of all processes, from /proc or, where there is none, ps."""
    if not Path("/proc/self/stat").exists():
        table = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,ppid=,stat=,command="],
                               capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 3) for line in table.splitlines()]
        return {int(pid): (int(parent), state, rest[0] if rest else "")
                for pid, parent, state, *rest in rows}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            command = (folder / "cmdline").read_text(errors="replace").replace("\0", " ")
        except OSError:                       # it ended meanwhile
            continue
        found[int(folder.name)] = int(parent), state, command
    return found


def children():
    """Process ids of the workers that this process has now."""
    return [pid for pid, (parent, _, command) in processes().items()
            if parent == os.getpid() and "--worker" in command]


def pid_of(verifier, index=0):
    return verifier.workers[index].process.pid


def gone(pid, patience=5.0):
    """Whether a process ends within some seconds."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if processes().get(pid, (0, "Z", ""))[1][:1] == "Z":
            return True
        time.sleep(0.02)
    return False


ENDLESS = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
BLOW_UP = ("WITH c0 AS (SELECT 1 AS x)" + "".join(
    f", c{i} AS (SELECT a.x FROM c{i - 1} AS a JOIN c{i - 1} AS b)" for i in range(1, 25))
    + " SELECT count(*) FROM c24")      # SQLite does not come back from preparing it
ONE_OPCODE = "SELECT instr(printf('%.900000c', 'a'), printf('%.450000c', 'a') || 'b')"
SCRIPT = """
CREATE TABLE t (a int, b int, c text, d real);
INSERT INTO t VALUES (1, 1, 'x', 1.0), (2, 3, 'y', 1.5), (2, 3, 'y', 1.5), (4, NULL, 'z', NULL),
                     (5, 2, 'X', 2.0);
CREATE TABLE u (s text);
INSERT INTO u VALUES (CAST(x'636166e9' AS text));
CREATE TABLE e0 (a int, b int, c int);
CREATE TABLE n (i INTEGER PRIMARY KEY, s text);
CREATE VIRTUAL TABLE word USING fts5(s);
WITH RECURSIVE k(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM k WHERE x < 1999)
INSERT INTO n SELECT x, 'name ' || x FROM k;
"""


@pytest.fixture(scope="module")
def db(tmp_path_factory):
    path = tmp_path_factory.mktemp("db") / "d.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(SCRIPT)
    return path


@pytest.fixture(scope="module")
def pool():
    with Verifier(workers=2, timeout=5.0) as verifier:
        yield verifier



# The official verdicts

@needs_shared
@pytest.mark.parametrize("mode", ["spider", "bird"])
def test_all_official_verdicts(pool, mode):
    lines = (SHARED / "verdicts" / "spider_exec.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    folder = SHARED / "spider" / "database"
    verdicts = pool.verdicts([(folder / r["db_id"] / f"{r['db_id']}.sqlite", r["gold"], r["pred"])
                              for r in records], mode)
    assert len(records) == 3999
    assert [v.correct for v in verdicts] == [bool(r[mode]) for r in records]
    assert not [v for v in verdicts if v.status == "bad_gold"]


# FIELD.md 2.4: gold, prediction, accepted by Spider with keep_distinct, accepted by BIRD EX.
ALL, BACK = "SELECT a, b FROM t", "SELECT a, b FROM t ORDER BY a DESC"
CASES = [
    ("SELECT a FROM t", "SELECT a FROM t ORDER BY a DESC", 1, 1),
    ("SELECT a FROM t ORDER BY a", "SELECT a FROM t ORDER BY a DESC", 0, 1),
    ("SELECT a FROM (SELECT a FROM t ORDER BY a)", "SELECT a FROM t ORDER BY a DESC", 0, 1),
    ("SELECT a FROM t order  by a", "SELECT a FROM t ORDER BY a DESC", 1, 1),
    ("SELECT a, b FROM t", "SELECT b, a FROM t", 1, 0),
    ("SELECT a, b FROM t ORDER BY a", "SELECT b, a FROM t ORDER BY a", 1, 0),
    ("SELECT a FROM t", "SELECT DISTINCT a FROM t", 0, 1),
    ("SELECT DISTINCT a FROM t", "SELECT a FROM t", 0, 1),
    ("SELECT a FROM t", "SELECT a FROM t GROUP BY a", 0, 1),
    ("SELECT count(DISTINCT a) FROM t", "SELECT count(a) FROM t", 0, 0),
    ("SELECT a FROM t", "SELECT a, b FROM t", 0, 0),
    ("SELECT 1 UNION ALL SELECT 1 UNION ALL SELECT 2",
     "SELECT 1 UNION ALL SELECT 2 UNION ALL SELECT 2", 0, 1),
    ("SELECT 1", "SELECT 1.0", 1, 1),
    ("SELECT 1", "SELECT a = a FROM t LIMIT 1", 1, 1),
    ("SELECT 0", "SELECT -0.0", 1, 1),
    ("SELECT 1e999", "SELECT 9e999", 1, 1),
    ("SELECT 1, 1.5", "SELECT 1.0, 1.5", 0, 1),
    ("SELECT 2, 10", "SELECT 2.0, 10", 1, 1),
    ("SELECT 0.3", "SELECT 0.1 + 0.2", 0, 0),
    ("SELECT 1", "SELECT '1'", 0, 0),
    ("SELECT 'x'", "SELECT 'X'", 0, 0),
    ("SELECT 'x'", "SELECT 'x '", 0, 0),
    ("SELECT 9007199254740993", "SELECT 9007199254740992.0", 0, 0),
    ("SELECT NULL", "SELECT NULL", 1, 1),
    ("SELECT NULL", "SELECT ''", 0, 0),
    ("SELECT NULL", "SELECT 'None'", 0, 0),
    ("SELECT NULL", "SELECT 0", 0, 0),
    ("SELECT a FROM e0", "SELECT a, b, c FROM e0", 1, 1),
    ("SELECT a FROM e0", "SELECT max(a) FROM e0", 0, 0),
    ("SELECT a FROM t", "", 0, 0),
    ("SELECT a FROM t", "SELECT nope FROM t", 0, 0),
    ("SELECT a FROM t", "SELECT a FROM t; SELECT 1", 0, 0),
    ("SELECT a FROM t", "SELECT a FROM t;", 1, 1),
    ("SELECT a FROM t", "SELECT a FROM t -- note", 1, 1),
    ("SELECT s FROM u", "SELECT 'caf'", 1, 0),
    ("SELECT x'41'", "SELECT X'41'", 1, 1),
    ("SELECT x'41'", "SELECT 'A'", 0, 0),
    ("SELECT a FROM t WHERE a >= 2", "SELECT a FROM t WHERE a > = 2", 1, 0),
    ("SELECT 2020", "SELECT YEAR(CURDATE())", 1, 0),
]
# Where the official code has an answer that we refuse to give, on purpose.
DEVIATIONS = [
    ("SELECT a FROM e0", "", "both official codes accept no SQL where the gold is empty"),
    ("SELECT a FROM e0", "DELETE FROM e0", "both accept, and run, a DELETE there"),
    ("SELECT s FROM u", "SELECT s FROM u", "BIRD's code cannot read the gold and says 0"),
]


@pytest.mark.parametrize("gold, pred, spider, bird", CASES)
def test_edge_cases_of_the_official_evaluators(pool, db, gold, pred, spider, bird):
    assert pool.verdicts([(db, gold, pred)], "spider")[0].correct == bool(spider)
    assert pool.verdicts([(db, gold, pred)], "bird")[0].correct == bool(bird)


def test_deviations_from_the_official_evaluators(pool, db):
    verdicts = [pool.verdicts([(db, gold, pred)], mode)[0][:2]
                for gold, pred, _ in DEVIATIONS for mode in ("spider", "bird")]
    assert verdicts == [("refused", False)] * 4 + [("ok", True)] * 2
    assert pool.verdicts([(db, "SELECT nope", "SELECT 1")])[0].status == "bad_gold"


# same_result

def test_same_result_agrees_with_the_official_comparison():
    rng, cells = random.Random(7), [0, 1, 2, 1.0, 1.5, 10, None, "a", "1", b"a"]
    agreed = {True: 0, False: 0}
    for _ in range(3000):
        width, kinds = rng.randint(1, 4), cells[:rng.randint(2, len(cells))]
        gold = [tuple(rng.choices(kinds, k=width)) for _ in range(rng.randint(0, 5))]
        order = rng.sample(range(width), width)
        pred = [tuple(row[column] for column in order) for row in gold]
        if rng.random() < 0.6:
            rng.shuffle(pred)
        if pred and rng.random() < 0.4:
            row = rng.randrange(len(pred))
            pred[row] = tuple(rng.choices(kinds, k=width))
        for ordered in (False, True):
            expected = official_equal(gold, pred, ordered)
            assert same_result(gold, pred, ordered) == expected, (gold, pred, ordered)
            agreed[expected] += 1
        assert same_result(gold, pred, False, "bird") == (set(gold) == set(pred))
    assert min(agreed.values()) > 500      # the draw is worth something on both sides


def test_twelve_look_alike_columns_need_no_search_of_12_to_the_12():
    rng = random.Random(3)
    gold = [tuple(rng.randint(0, 1) for _ in range(12)) for _ in range(200)]
    order = rng.sample(range(12), 12)
    pred = [tuple(row[column] for column in order) for row in gold]
    rng.shuffle(pred)
    assert same_result(gold, pred, False)
    every = [tuple(number >> bit & 1 for bit in range(10)) for number in range(1024)]
    assert same_result(every, every[::-1], False)       # all columns equal but for the order
    other = every[:-2] + [every[-1], every[-1]]
    assert not same_result(every, other, False)


def test_result_of_thousands_of_equal_columns():
    assert same_result([(1,) * 400] * 50, [(1,) * 400] * 50, False)


def test_majority_vote_counts_equal_results():
    one, same, other = [Result("ok", rows) for rows in ([(1,)], [(1.0,)], [(2,)])]
    failed = Result("error", [], "no such table")
    assert majority_vote(["a", "b", "c", "d"], [other, failed, one, same]) == ("c", one, 2)
    assert majority_vote(["a", "b"], [other, one]) == ("a", other, 1)       # a tie: the first
    assert majority_vote(["a", "b"], [failed, failed])[:2] == ("a", failed)


# Hostile and careless queries

LONG = "a" * 190
GROW = "WITH RECURSIVE g(x) AS (SELECT 'abcdefgh' UNION ALL SELECT x || x FROM g) "
COUNT = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) "
STOPPED = ("timeout", "too_big")        # whichever limit a machine's speed reaches first
CUT = ("error", "too_big")
HOSTILE = {
    # writing
    "drop": ("DROP TABLE t", "refused"),
    "delete": ("DELETE FROM t", "refused"),
    "update": ("UPDATE t SET a = 0", "refused"),
    "insert": ("INSERT INTO t VALUES (1, 1, 'x', 1)", "refused"),
    "replace into": ("REPLACE INTO t VALUES (1, 1, 'x', 1)", "refused"),
    "create table": ("CREATE TABLE z (a)", "refused"),
    "create table as": ("CREATE TABLE z AS SELECT * FROM t", "refused"),
    "create temp table": ("CREATE TEMP TABLE z (a)", "refused"),
    "create temp view": ("CREATE TEMP VIEW z AS SELECT 1", "refused"),
    "create trigger": ("CREATE TEMP TRIGGER z AFTER INSERT ON t BEGIN SELECT 1; END", "refused"),
    "create virtual table": ("CREATE VIRTUAL TABLE z USING fts5(a)", "refused"),
    "alter": ("ALTER TABLE t RENAME TO z", "refused"),
    "reindex": ("REINDEX", "refused"),
    "vacuum": ("VACUUM", "refused"),
    "vacuum into": ("VACUUM INTO 'stolen.sqlite'", "refused"),
    "attach": ("ATTACH 'new.sqlite' AS z", "refused"),
    "attach memory": ("ATTACH ':memory:' AS z", "refused"),
    "begin exclusive": ("BEGIN EXCLUSIVE", "refused"),
    "savepoint": ("SAVEPOINT z", "refused"),
    "writable_schema": ("PRAGMA writable_schema = ON", "refused"),
    "journal_mode": ("PRAGMA journal_mode = DELETE", "refused"),
    "hard_heap_limit": ("PRAGMA hard_heap_limit = 0", "refused"),
    "explain": ("EXPLAIN SELECT 1", "refused"),
    "with delete": ("WITH z AS (SELECT 1) DELETE FROM t", "refused"),
    "with insert": ("WITH z AS (SELECT 1) INSERT INTO t SELECT 1, 1, 'x', 1 FROM z", "refused"),
    "two statements": ("SELECT 1; SELECT 2", "refused"),
    "select, then drop": ("SELECT 1; DROP TABLE t", "refused"),
    "drop behind a comment": ("/* SELECT */ DROP TABLE t", "refused"),
    "delete behind a line": ("-- SELECT\nDELETE FROM t", "refused"),
    # not one SELECT
    "nothing": ("", "refused"),
    "blanks": (" \n\t", "refused"),
    "only a comment": ("-- SELECT 1", "refused"),
    "open comment": ("/* SELECT 1", "refused"),
    "not text": (None, "refused"),
    "a number": (5, "refused"),
    "values": ("VALUES (1)", "refused"),
    "prose": ("I cannot answer that.", "refused"),
    "code fence": ("```sql\nSELECT 1\n```", "refused"),
    "selection": ("SELECTION 1", "refused"),
    "open string": ("SELECT 'abc", "error"),
    "open parenthesis": ("SELECT (1", "error"),
    "parameter": ("SELECT ?", "error"),
    "named parameter": ("SELECT :x", "error"),
    "nul byte": ("SELECT 1\0, 2", "error"),
    "lone surrogate": ("SELECT '\ud800'", "error"),
    "no such table": ("SELECT * FROM nowhere", "error"),
    # looking where no answer is, or at what differs from run to run
    "sqlite_master": ("SELECT sql FROM sqlite_master", "refused"),
    "sqlite_schema": ("SELECT count(*) FROM sqlite_schema", "refused"),
    "quoted sqlite_master": ('SELECT * FROM "SQLITE_MASTER"', "refused"),
    "pragma_table_info": ("SELECT * FROM pragma_table_info('t')", "refused"),
    "pragma_database_list": ("SELECT file FROM pragma_database_list", "refused"),
    "data_version": ("PRAGMA data_version", "refused"),
    "dbstat": ("SELECT count(*) FROM dbstat", ("refused", "error")),
    "sqlite_stmt": ("SELECT count(*) FROM sqlite_stmt", ("refused", "error")),
    "pointers": ("SELECT fts3_tokenizer('simple'), fts5(1)", ("refused", "error")),
    "optimize": ("SELECT optimize(word) FROM word", ("refused", "error")),
    "load_extension": ("SELECT load_extension('z.so')", ("refused", "error")),
    "readfile": ("SELECT readfile('/etc/passwd')", "error"),
    "writefile": ("SELECT writefile('z', 'x')", "error"),
    "random": ("SELECT random()", "refused"),
    "order by random": ("SELECT a FROM t ORDER BY RANDOM() LIMIT 1", "refused"),
    "randomblob": ("SELECT length(randomblob(900000000))", "refused"),
    "version": ("SELECT sqlite_version()", "refused"),
    "source": ("SELECT sqlite_source_id(), sqlite_compileoption_used('x')", "refused"),
    "subtype": ("SELECT subtype(json('1'))", "refused"),
    "changes": ("SELECT changes(), total_changes(), last_insert_rowid()", "refused"),
    # too long, too wide or too deep
    "5,000 parentheses": ("SELECT " + "(" * 5000 + "1" + ")" * 5000, CUT),
    "3,000 terms": ("SELECT " + " + ".join(["1"] * 3000), CUT),
    "2,000 conditions": ("SELECT a FROM t WHERE " + " OR ".join(["a=1"] * 2000), CUT),
    "600 unions": (" UNION ".join(["SELECT 1"] * 600), CUT),
    "300,000 in a list": ("SELECT 1 IN (" + ", ".join(["1"] * 300_000) + ")", "refused"),
    "30,000 in a list": ("SELECT 1 IN (" + ", ".join(["1"] * 30_000) + ")", "too_big"),
    "3,000 columns": ("SELECT " + ", ".join(["1"] * 3000), CUT),
    "100 tables": ("SELECT 1 FROM " + ", ".join(["t"] * 100), CUT),
    "500 nested selects": ("SELECT * FROM (" * 500 + "SELECT 1" + ")" * 500, CUT),
    "900 nested calls": ("SELECT " + "abs(" * 900 + "1" + ")" * 900, CUT),
    "megabyte literal": ("SELECT '" + "x" * 2_000_000 + "'", "refused"),
    "5,000 cases": ("SELECT CASE " + "WHEN 1 THEN 2 " * 5000 + "END", "too_big"),
    "long pattern": ("SELECT s FROM n WHERE s LIKE '" + "%a" * 900 + "b'", CUT),
    # memory
    "zeroblob": ("SELECT hex(zeroblob(900000000))", "refused"),
    "printf of 900 MB": ("SELECT printf('%.900000000c', 'a')", STOPPED),
    "doubling": (GROW + "SELECT length(x) FROM g", "too_big"),
    "replace growth": ("SELECT length(replace(replace(printf('%.9000c', 'a'), 'a', "
                       "printf('%.900c', 'b')), 'b', 'bbbbbbbb'))", "too_big"),
    "hex growth": ("SELECT length(" + "hex(" * 30 + "'abc'" + ")" * 30 + ")", "too_big"),
    "endless rows": (COUNT + "SELECT x FROM c", STOPPED),
    "endless wide rows": (COUNT + "SELECT " + ", ".join(["printf('%.900000c', 'a')"] * 100)
                          + " FROM c", STOPPED),
    "cross join rows": ("SELECT * FROM n AS a, n AS b, n AS c", STOPPED),
    "long cells": ("SELECT printf('%.900000c', 'a') || i FROM n", STOPPED),
    "wide characters": ("SELECT replace(printf('%.200000c', 'a'), 'a', '😀') || i FROM n",
                        STOPPED),
    "sorted cross join": ("SELECT a.i FROM n AS a, n AS b, n AS c ORDER BY b.s || c.s || a.s",
                          STOPPED),
    "distinct cross join": ("SELECT DISTINCT a.i, b.i, c.i FROM n AS a, n AS b, n AS c", STOPPED),
    "grouped cross join": ("SELECT count(*) FROM n AS a, n AS b, n AS c GROUP BY a.i, b.i, c.i",
                           STOPPED),
    "united cross joins": ("SELECT a.i, b.i, c.s FROM n AS a, n AS b, n AS c UNION "
                           "SELECT a.s, b.s, c.i FROM n AS a, n AS b, n AS c", STOPPED),
    "group_concat": ("SELECT length(group_concat(a.s || b.s)) FROM n AS a, n AS b, n AS c",
                     STOPPED),
    "2,000 wide columns": ("SELECT " + ", ".join(["x"] * 1999) + " FROM (SELECT "
                           "printf('%.900000c', 'a') || i AS x FROM n)", STOPPED),
    "1,500 sorted columns": ("SELECT DISTINCT " + ", ".join(["b.s || a.s"] * 1500)
                             + " FROM n AS a, n AS b", STOPPED),
    "json_each": ("SELECT count(*) FROM json_each('[1' || replace(printf('%.900000c', 'a'), 'a', "
                  "',1') || ']') AS a, n AS b, n AS c", STOPPED),
    "json_pretty": ("SELECT length(json_pretty('[1' || replace(printf('%.400000c', 'a'), 'a', "
                    "',1') || ']', printf('%.900000c', ' ')))", (*STOPPED, "error")),
    "percentile": ("SELECT percentile(a.i, 50) FROM n AS a, n AS b, n AS c", (*STOPPED, "error")),
    "json_group_array": ("SELECT json_group_array(a.s || b.s) FROM n AS a, n AS b, n AS c",
                         STOPPED),
    "growing queue": ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT c.x + i FROM c, n) "
                      "SELECT max(x) FROM c", STOPPED),
    "growing set": (COUNT.replace("ALL ", "") + "SELECT count(*) FROM c", STOPPED),
    "materialized": ("WITH m(x) AS (SELECT a.s || b.s || c.s FROM n AS a, n AS b, n AS c) "
                     "SELECT (SELECT count(*) FROM m), (SELECT max(x) FROM m)", STOPPED),
    "window": ("SELECT sum(a.i) OVER (ORDER BY b.s || c.s) FROM n AS a, n AS b, n AS c", STOPPED),
    # time
    "endless count": (ENDLESS, "timeout"),
    "endless search": (COUNT + "SELECT x FROM c WHERE x < 0", "timeout"),
    "5-way cross join": ("SELECT count(*) FROM n a, n b, n c, n d, n e", "timeout"),
    "cross join sum": ("SELECT sum(a.i * b.i + c.i) FROM n AS a JOIN n AS b JOIN n AS c",
                       "timeout"),
    "unequal joins": ("SELECT count(*) FROM n AS a JOIN n AS b ON a.i != b.i JOIN n AS c "
                      "ON b.i != c.i", "timeout"),
    "correlated": ("SELECT count(*) FROM n AS a WHERE (SELECT count(*) FROM n AS b WHERE (SELECT "
                   "count(*) FROM n AS c WHERE c.i > a.i + b.i) > 5) > 5", "timeout"),
    "not in a cross join": ("SELECT count(*) FROM n AS a, n AS b WHERE a.i * b.i NOT IN "
                            "(SELECT c.i * d.i FROM n AS c, n AS d)", STOPPED),
    "not exists": ("SELECT count(*) FROM n AS a WHERE NOT EXISTS (SELECT 1 FROM n AS b, n AS c "
                   "WHERE a.i + b.i + c.i < 0)", "timeout"),
    # time that SQLite spends where it does not look at the clock
    "like": (f"SELECT count(*) FROM n WHERE (printf('%.512000c', 'a') || i) LIKE '%{LONG}b'",
             "timeout"),
    "glob": (f"SELECT count(*) FROM n WHERE (printf('%.512000c', 'a') || i) GLOB '*{LONG}b'",
             "timeout"),
    "instr": (ONE_OPCODE, "timeout"),
    "replace": ("SELECT length(replace(printf('%.900000c', 'a'), printf('%.450000c', 'a') || 'b', "
                "''))", "timeout"),
    "trim": ("SELECT length(trim(printf('%.900000c', 'a'), printf('%.80000c', 'b') || 'a'))",
             "timeout"),
    "blow-up while preparing": (BLOW_UP, (*STOPPED, "error")),      # 3.54 says: nested too deep
    "blow-up in unions": ("WITH c0 AS (SELECT 1 AS x)" + "".join(
        f", c{i} AS (SELECT x FROM c{i - 1} UNION ALL SELECT x FROM c{i - 1})"
        for i in range(1, 40)) + " SELECT count(*) FROM c39", ("timeout", "error", "too_big")),
}
BUDGET, MEMORY = 0.2, 256 << 20


@pytest.fixture(scope="module")
def small_pool():
    # Without the second try, which the budget of one query is not about.
    with Verifier(workers=1, timeout=BUDGET, memory=MEMORY, retry=False) as verifier:
        yield verifier


def snapshot(db):
    return hashlib.sha256(db.read_bytes()).hexdigest(), sorted(os.listdir(db.parent))


def peak_memory(pid):
    """Most bytes of memory that a process has held (macOS tells only what it holds now)."""
    status = Path(f"/proc/{pid}/status")
    if status.exists():
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024
    size = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True)
    return int(size.stdout or 0) * 1024


def test_there_are_enough_hostile_queries():
    assert len(HOSTILE) >= 80


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_query(small_pool, db, name):
    sql, status = HOSTILE[name]
    before, here = snapshot(db), sorted(os.listdir())
    elapsed = []
    while not elapsed or elapsed[-1] > BUDGET + 1 and len(elapsed) < 3:     # a machine may stall
        start = time.monotonic()
        result, = small_pool.run([(db, sql)])
        elapsed.append(time.monotonic() - start)
        worker = small_pool.workers[0].process
        assert worker is None or peak_memory(worker.pid) < MEMORY       # None: it was killed
    assert result.status in ((status,) if isinstance(status, str) else status), result
    assert result.rows == [] and result.error
    assert min(elapsed) < BUDGET + 1
    assert snapshot(db) == before and sorted(os.listdir()) == here
    assert small_pool.run([(db, "SELECT count(*) FROM t")])[0].rows == [(5,)]


def test_no_hostile_query_counts_as_correct(small_pool, db):
    quick = [sql for sql, status in HOSTILE.values() if "timeout" not in status] + [ENDLESS]
    verdicts = small_pool.verdicts([(db, gold, sql) for sql in quick for gold in
                                    ("SELECT count(*) FROM t", "SELECT a FROM e0")])
    assert not [verdict for verdict in verdicts if verdict.correct]
    assert {v.status for v in verdicts} == {"refused", "error", "too_big", "timeout"}


# Fuzzing

def mutate(rng, sql, others):
    """A gold query after one or two random edits."""
    for _ in range(rng.randint(1, 2)):
        words = sql.split(" ")
        kind, at = rng.randrange(6), rng.randrange(len(words))
        if kind == 0 and sql:
            data = bytearray(sql.encode("utf-8", "surrogatepass"))
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            sql = data.decode("utf-8", "surrogateescape")
        elif kind == 1:
            other = rng.randrange(len(words))
            words[at], words[other] = words[other], words[at]
            sql = " ".join(words)
        elif kind == 2:
            sql = sql[:rng.randrange(len(sql) + 1)]
        elif kind == 3:
            sql = rng.choice(["SELECT * FROM ({})", "SELECT ({})", "SELECT 1 WHERE 1 IN ({})",
                              "{} UNION {}", "{} EXCEPT {}"]).replace("{}", sql)
        elif kind == 4:
            words[at] = rng.choice(rng.choice(others).split(" "))
            sql = " ".join(words)
        else:
            sql = " ".join(words[:at] + words[at + 1:] + words[at:])
    return sql


@needs_shared
def test_5000_mutated_golds_all_get_a_status():
    rng, data = random.Random(11), Data(SHARED / "spider")
    examples = data.examples("dev")
    golds = [example.query for example in examples]
    pairs = [(data.databases(e.db_id)[0], e.query, mutate(rng, e.query, golds))
             for e in rng.choices(examples, k=5000)]
    before = set(children())
    with Verifier(workers=2, timeout=0.5, retry=False) as verifier:
        verdicts = verifier.verdicts(pairs)
        assert len(set(children()) - before) <= 2
        mine = [worker.process.pid for worker in verifier.workers if worker.process]
    assert set(children()) <= before
    assert len(verdicts) == 5000 and {v.status for v in verdicts} <= STATUSES - {"bad_gold"}
    assert all(gone(pid) for pid in mine)
    assert sum(v.status == "ok" for v in verdicts) > 500
    assert sum(v.status == "error" for v in verdicts) > 500


@needs_shared
def test_every_gold_gives_the_rows_of_a_plain_connection(pool):
    data, plain, golds = Data(SHARED / "spider"), {}, {}
    for example in data.examples("train") + data.examples("dev"):
        golds[data.databases(example.db_id)[0], example.query] = None
    results = pool.run(golds)
    for (path, sql), result in zip(golds, results):
        if path not in plain:
            plain[path] = sqlite3.connect(path)
            plain[path].text_factory = lambda cell: cell.decode("utf-8", "surrogateescape")
        assert result.status == "ok", (path, sql, result)
        assert result.rows == plain[path].execute(sql).fetchall(), (path, sql)
    assert len(golds) > 4000
    for connection in plain.values():
        connection.close()


# One query: run_sql and the database file

@pytest.mark.parametrize("name", ["a b.sqlite", "what?.sqlite", "c#1.sqlite", "50%25.sqlite",
                                  "é'\"&=.sqlite"])
def test_odd_file_names(tmp_path, name, pool):
    path = tmp_path / name
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE t (a); INSERT INTO t VALUES (7);")
    assert run_sql(path, "SELECT a FROM t").rows == [(7,)]
    assert pool.run([(path, "SELECT a FROM t")])[0].rows == [(7,)]
    assert read_schema(path).tables[0].name == "t"
    assert os.listdir(tmp_path) == [name]


def test_missing_database_is_an_error_and_creates_nothing(tmp_path, pool):
    path = tmp_path / "none.sqlite"
    for result in (run_sql(path, "SELECT 1"), pool.run([(path, "SELECT 1")])[0]):
        assert result.status == "error" and str(path) in result.error
    assert pool.verdicts([(path, "SELECT 1", "SELECT 1")])[0].status == "bad_gold"
    with pytest.raises(DataError, match="none.sqlite"):
        read_schema(path)
    assert os.listdir(tmp_path) == []


def test_file_that_is_no_database(tmp_path):
    path = tmp_path / "x.sqlite"
    path.write_text("not a database, but long enough to look at " * 40)
    assert run_sql(path, "SELECT 1").status == "error"
    with pytest.raises(DataError, match="x.sqlite"):
        read_schema(path)


def test_unfinished_transaction_is_not_ignored(tmp_path):
    path = tmp_path / "w.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a);")
        result = run_sql(path, "SELECT count(*) FROM t")    # lies in the -wal file still
        assert result.status == "error" and "unfinished wal" in result.error
    assert run_sql(path, "SELECT count(*) FROM t").rows == [(0,)]


def test_what_lies_beside_the_file_that_a_link_leads_to_counts(tmp_path):
    (tmp_path / "far").mkdir()
    path, link, chain = [tmp_path / name for name in ("far/w it's.sqlite", "link", "chain")]
    link.symlink_to(path)
    chain.symlink_to("link")
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode = WAL; CREATE TABLE t (a);"
                                 "INSERT INTO t VALUES (1), (2);")
        for name in (link, chain):
            result = run_sql(name, "SELECT count(*) FROM t")
            assert result.status == "error" and f"{path} has an unfinished wal" in result.error
        # The advice is a shell command that ends it, also while the file is open elsewhere.
        program, file, command = shlex.split(result.error.partition("ends it: ")[2])
        assert (program, file) == ("sqlite3", str(path))
        with closing(sqlite3.connect(file)) as other:
            other.execute(command)
        assert run_sql(chain, "SELECT count(*) FROM t").rows == [(2,)]
    (tmp_path / "link-wal").write_bytes(b"x" * 99)          # SQLite does not look there
    assert run_sql(link, "SELECT count(*) FROM t").rows == [(2,)]


@pytest.mark.parametrize("suffix, content, fine", [
    ("-wal", b"", True), ("-wal", b"x" * 32, True), ("-wal", b"x" * 33, False),
    ("-journal", b"", True), ("-journal", b"\0" * 28 + b"x" * 999, True),
    ("-journal", b"\xd9\xd5" * 300, False), ("-wal", None, False), ("-journal", None, False)])
def test_finished_files_beside_a_database_are_no_transactions(db, tmp_path, suffix, content, fine):
    path = tmp_path / "d.sqlite"
    path.write_bytes(db.read_bytes())
    beside = Path(f"{path}{suffix}")
    beside.mkdir() if content is None else beside.write_bytes(content)
    result = run_sql(path, "SELECT count(*) FROM t")
    assert result.rows == [(5,)] if fine else f"unfinished {suffix[1:]}" in result.error


@pytest.mark.parametrize("mode", ["PERSIST", "TRUNCATE", "DELETE"])
def test_journals_finished_and_hot(tmp_path, mode):
    path, hot = tmp_path / "j.sqlite", tmp_path / "hot.sqlite"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.executescript(f"PRAGMA journal_mode = {mode}; PRAGMA cache_size = 1;"
                                 "CREATE TABLE t (a); INSERT INTO t VALUES (1);")
        assert run_sql(path, "SELECT a FROM t").rows == [(1,)]
        connection.execute("BEGIN")
        connection.execute("WITH RECURSIVE k(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM k WHERE "
                           "x < 9999) INSERT INTO t SELECT printf('%.99c', 'a') FROM k")
        hot.write_bytes(path.read_bytes())                  # as after a crash
        Path(f"{hot}-journal").write_bytes(Path(f"{path}-journal").read_bytes())
        connection.execute("ROLLBACK")
    result = run_sql(hot, "SELECT count(*) FROM t")
    assert "unfinished journal" in result.error
    with closing(sqlite3.connect(hot)) as connection:
        connection.execute(shlex.split(result.error.partition("ends it: ")[2])[2])
    assert run_sql(hot, "SELECT a FROM t").rows == [(1,)]


def test_text_that_is_not_utf8_never_raises(db):
    assert run_sql(db, "SELECT s FROM u").rows == [("caf\udce9",)]
    assert run_sql(db, "SELECT s FROM u", errors="ignore").rows == [("caf",)]


def test_every_kind_of_cell_crosses_the_pipe(db, pool):
    sql = "SELECT NULL, 9223372036854775807, -0.5, 1e999, 'é', s, x'00ff', '' FROM u"
    rows = [(None, 2**63 - 1, -0.5, float("inf"), "é", "caf\udce9", b"\x00\xff", "")]
    assert pool.run([(db, sql)])[0].rows == rows == run_sql(db, sql).rows


def test_large_result_crosses_the_pipe_whole(db, pool):
    sql = "SELECT a.i, b.s, printf('%.300c', 'é') FROM n AS a, n AS b WHERE a.i < 20"
    result, = pool.run([(db, sql)])
    assert len(result.rows) == 40_000 and result.rows == run_sql(db, sql).rows


def test_wrong_mode_is_a_clear_error(db, pool):
    with pytest.raises(ValueError, match="spidr"):
        pool.verdicts([(db, "SELECT 1", "SELECT 1")], mode="spidr")


def test_limits_in_this_process(db):
    limits = Limits(timeout=0.1, max_rows=1000, max_bytes=10_000)
    assert run_sql(db, ENDLESS, limits).status == "timeout"
    assert run_sql(db, "SELECT a.i FROM n AS a, n AS b", limits).status == "too_big"
    assert run_sql(db, "SELECT printf('%.20000c', 'a')", limits).status == "too_big"
    assert run_sql(db, "DELETE FROM t").status == "refused"
    assert run_sql(db, "SELECT random()").error == "not allowed: random (SQLite action 31)"


def test_what_golds_use_is_allowed(db):
    for sql in ('SELECT c FROM t WHERE c = "x"',        # double quotes for a string
                "select count(*) from t;", "  -- note\n/* more */ SELECT 1",
                "WITH z AS (SELECT a FROM t) SELECT max(a) FROM z",
                "SELECT CAST(SUM(IIF(a > 1, 1, 0)) AS REAL) * 100 / COUNT(*) FROM t",
                "SELECT strftime('%Y', '2020-01-01'), date('now') > '2000', substr('abc', 2)",
                "SELECT rank() OVER (ORDER BY a) FROM t", "SELECT `a` FROM [t] WHERE c LIKE '%x%'",
                "SELECT json_extract('{\"a\": 1}', '$.a')", "SELECT round(1.25, 1) ESCAPED",
                "SELECT value FROM t, json_each('[1, 2]')", "SELECT s, rank FROM word",
                "SELECT highlight(word, 0, '<', '>') FROM word WHERE word MATCH 'a*' "
                "ORDER BY bm25(word)"):
        assert run_sql(db, sql).status == "ok", sql


@pytest.mark.parametrize("expression", [
    "CONCAT(a, c, NULL)", "concat_ws('-', a, b, c)", "IF(a > 1, 'x', 'y')", "octet_length(c)",
    "hex(unhex('41'))", "median(a)", "percentile(a, 50)", "percentile_cont(a, 0.5)",
    "percentile_disc(a, 0.5)", "unistr('\\u0041')", "unistr_quote(c)", "string_agg(c, ',')",
    "timediff('2020-01-02', '2020-01-01')", "soundex(c)", "json_pretty('[1]')",
    "json(jsonb('[1]'))", "json_set('[1]', '$[0]', 2)", "json_error_position('[')",
    "json(jsonb_group_array(a))", "json_patch('{}', '{\"a\": 1}')", "json_remove('[1]', '$[0]')"])
def test_functions_of_newer_versions_give_what_this_version_gives(db, expression):
    sql, answer = f"SELECT {expression} FROM t", []
    with closing(sqlite3.connect(db)) as plain:
        try:
            answer = plain.execute(sql).fetchall()
        except sqlite3.OperationalError as problem:
            assert "no such function" in str(problem)
    result = run_sql(db, sql)
    assert result.rows == answer and (result.status == "ok" or "no such function" in result.error)


# The pool

def test_answers_in_order_with_any_number_of_workers(db):
    jobs = [(db, f"SELECT {number % 7}, i FROM n WHERE i = {number}") for number in range(700)]
    expected = [[(number % 7, number)] for number in range(700)]
    for workers in (1, 3):
        with Verifier(workers) as verifier:
            assert [result.rows for result in verifier.run(jobs)] == expected
            assert verifier.run([]) == [] and verifier.verdicts([]) == []


def test_workers_import_only_the_standard_library():
    code = "import sys, sqlexec; print(*{name.partition('.')[0] for name in sys.modules})"
    output = subprocess.run([sys.executable, "-S", "-c", code], cwd=ROOT, capture_output=True,
                            text=True, check=True).stdout.split()
    assert set(output) - set(sys.stdlib_module_names) <= {"sqlexec", "__main__"}


def test_bad_gold_is_no_verdict(db, pool):
    good = "SELECT count(*) FROM t"
    golds = ["SELECT nope", "", "DELETE FROM t", None, "SELECT random()"]
    for gold, verdict in zip(golds, pool.verdicts([(db, gold, good) for gold in golds])):
        assert verdict.status == "bad_gold" and not verdict.correct and verdict.error, gold


def test_gold_that_hangs_is_bad_and_its_predictions_are_not_blamed(db):
    with Verifier(2, timeout=0.1) as verifier:
        pairs = [(db, gold, "SELECT 1") for gold in (ENDLESS, BLOW_UP, "SELECT 1")]
        pairs.append((db, "SELECT 1", ENDLESS))
        assert [verdict.status for verdict in verifier.verdicts(pairs)] == [
            "bad_gold", "bad_gold", "ok", "timeout"]


def test_timeout_is_tried_again_alone_before_it_counts(db, monkeypatch):
    calls = []
    with Verifier(2, timeout=0.1) as verifier:
        inner = verifier._map
        monkeypatch.setattr(verifier, "_map", lambda jobs: calls.append(jobs) or inner(jobs))
        results = verifier.run([(db, "SELECT 1"), (db, ENDLESS), (db, ENDLESS), (db, "SELECT 2")])
    assert [result.status for result in results] == ["ok", "timeout", "timeout", "ok"]
    assert [len(jobs) for jobs in calls] == [4, 1]      # equal queries share the second try


def test_second_try_rescues_a_query_that_was_only_unlucky(db, monkeypatch):
    with Verifier(1, timeout=5.0) as verifier:
        inner, first = verifier._map, []

        def unlucky(jobs):
            replies = inner(jobs)
            if not first:
                first.append(jobs)
                replies[0] = ("timeout", [], "over 5 s", 5.0)
            return replies

        monkeypatch.setattr(verifier, "_map", unlucky)
        assert verifier.verdicts([(db, "SELECT 1", "SELECT 1")])[0].correct


@needs_shared
def test_killing_workers_from_outside_loses_no_verdict():
    lines = (SHARED / "verdicts" / "spider_exec.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines[:1500]]
    folder = SHARED / "spider" / "database"
    pairs = [(folder / r["db_id"] / f"{r['db_id']}.sqlite", r["gold"], r["pred"])
             for r in records]
    killed = []
    with Verifier(workers=2) as verifier:
        def assassin():
            for index in range(6):
                time.sleep(0.02)
                process = verifier.workers[index % 2].process
                if process and not done.is_set():
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)

        done = threading.Event()
        thread = threading.Thread(target=assassin)
        thread.start()
        verdicts = verifier.verdicts(pairs)
        done.set()
        thread.join()
    assert len(killed) >= 2
    assert [v.correct for v in verdicts] == [bool(r["spider"]) for r in records]


def test_worker_killed_while_idle(db):
    with Verifier(1) as verifier:
        os.kill(pid_of(verifier), signal.SIGKILL)
        assert verifier.run([(db, "SELECT 5")])[0].rows == [(5,)]


def test_stopped_worker_does_not_stop_the_trainer(db):
    with Verifier(1, timeout=0.1) as verifier:
        os.kill(pid_of(verifier), signal.SIGSTOP)
        assert verifier.run([(db, "SELECT 5")])[0].rows == [(5,)]


def test_no_worker_survives_the_context_even_after_an_exception():
    before = set(children())
    with pytest.raises(ZeroDivisionError):
        with Verifier(2) as verifier:
            assert len(set(children()) - before) == 2
            verifier.run([("nowhere", "SELECT 1")])
            1 / 0
    assert set(children()) <= before


PROGRAM = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from sqlexec import Verifier
with Verifier(2, timeout=float(sys.argv[2])) as verifier:
    print(*[worker.process.pid for worker in verifier.workers], flush=True)
    verifier.run([(sys.argv[1], sys.argv[3])] * 4)
"""


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, also where the tests were started in the background, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("stop, timeout, sql", [(signal.SIGINT, 60, ENDLESS),
                                                (signal.SIGKILL, 0.5, ONE_OPCODE)])
def test_no_worker_survives_ctrl_c_or_a_killed_trainer(db, ctrl_c, stop, timeout, sql):
    trainer = subprocess.Popen([sys.executable, "-c", PROGRAM, db, str(timeout), sql],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pids = [int(pid) for pid in trainer.stdout.readline().split()]
    time.sleep(0.3)
    trainer.send_signal(stop)
    trainer.communicate(timeout=10)
    assert trainer.returncode != 0 and len(pids) == 2
    assert all(gone(pid) for pid in pids)


def test_verifier_works_on_after_ctrl_c(db, ctrl_c):
    with Verifier(1, timeout=30) as verifier:
        timer = threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT))
        timer.start()
        with pytest.raises(KeyboardInterrupt):
            verifier.run([(db, ENDLESS)])
        assert verifier.run([(db, "SELECT 6")])[0].rows == [(6,)]


def test_changed_database_is_not_answered_from_memory(tmp_path):
    path, pair = tmp_path / "c.sqlite", "SELECT a FROM t"
    with Verifier(1) as verifier:
        for value in (1, 2):
            path.unlink(missing_ok=True)
            with closing(sqlite3.connect(path)) as connection:
                connection.executescript(f"CREATE TABLE t (a); INSERT INTO t VALUES ({value});")
            assert verifier.verdicts([(path, pair, f"SELECT {value}")])[0].correct


def test_all_databases_of_a_folder_must_agree(tmp_path, pool):
    paths = []
    for value in (1, 2, 3):
        paths.append(tmp_path / f"{value}.sqlite")
        with closing(sqlite3.connect(paths[-1])) as connection:
            connection.executescript(f"CREATE TABLE t (a); INSERT INTO t VALUES ({value}), (3);")
    gold, lucky = "SELECT count(DISTINCT a) FROM t", "SELECT count(a) FROM t"
    assert pool.verdicts([(paths[:2], gold, lucky)])[0].correct
    assert not pool.verdicts([(paths, gold, lucky)])[0].correct
    assert pool.verdicts([(paths, gold, gold)])[0].correct
    with closing(sqlite3.connect(paths[2])) as connection:
        connection.executescript("DROP TABLE t;")
    assert pool.verdicts([(paths, gold, lucky)])[0].status == "bad_gold"


def test_what_cannot_change_in_a_batch_is_not_run_twice(db, monkeypatch):
    """A gold that takes too long, a prediction of another width than its gold's."""
    ran, run = [], Connection.run
    monkeypatch.setattr(Connection, "run", lambda self, sql, *rest: ran.append(sql) or run(
        self, sql, *rest))
    with closing(Session(Limits(timeout=0.1))) as session:
        for pred in ("SELECT 1", "SELECT 2", "SELECT 3"):
            assert session.pair([str(db)], ENDLESS, pred, "spider").status == "bad_gold"
        for _ in range(3):
            assert not session.pair([str(db)], "SELECT 1", "SELECT 1, 2", "spider").correct
        assert session.pair([str(db)], "SELECT 1, 2", "SELECT 1, 2", "spider").correct
    assert ran.count(ENDLESS) == 1 and ran.count("SELECT 1, 2") == 2


def test_slow_prediction_of_another_width_is_not_waited_for(db, pool):
    slow = "SELECT a.i, b.i FROM n AS a, n AS b, n AS c ORDER BY c.i + b.i"
    start = time.monotonic()
    verdict, = pool.verdicts([(db, "SELECT count(*) FROM t", slow)])
    assert verdict[:2] == ("ok", False) and time.monotonic() - start < pool.limits.timeout


def test_cut_off_results_are_not_taken_for_whole_ones(db, pool):
    rows = "SELECT i FROM n"
    pairs = [(db, "SELECT a FROM t", rows), (db, rows, rows),
             (db, "SELECT i FROM n WHERE i < 1000", rows), (db, rows, rows)]
    for _ in range(2):
        assert [v.correct for v in pool.verdicts(pairs)] == [False, True, False, True]


def test_read_schema(tmp_path):
    path = tmp_path / "s.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("""
            CREATE TABLE "order item" (a INTEGER, "b c" VARCHAR(9), d DATETIME, e BOOLEAN, f,
                                       g BLOB, h FLOAT, PRIMARY KEY (a, "b c"));
            CREATE TABLE s (x TEXT REFERENCES "ORDER ITEM", y REFERENCES nowhere (z),
                            FOREIGN KEY (y, x) REFERENCES "order item" (a, "b c"));
            CREATE TABLE r (p, q, FOREIGN KEY (p, q) REFERENCES turned);
            CREATE TABLE turned (one, two, PRIMARY KEY (two, one));
            CREATE VIEW v AS SELECT 1;""")
    schema = read_schema(path)
    assert [(table.name, table.view) for table in schema.tables] == [
        ("order item", False), ("s", False), ("r", False), ("turned", False), ("v", True)]
    assert [column.type for column in schema.tables[0].columns] == [
        "number", "text", "time", "boolean", "text", "others", "number"]
    assert [column.name for column in schema.tables[0].columns if column.primary] == ["a", "b c"]
    assert schema.foreign_keys == (("s", "x", "order item", "a"), ("s", "y", "order item", "a"),
                                   ("s", "x", "order item", "b c"),
                                   ("r", "p", "turned", "two"), ("r", "q", "turned", "one"))
    assert schema.composite == (schema.foreign_keys[1:3], schema.foreign_keys[3:])
    assert schema.left_out == ()


def database(path, script, patch=()):
    """A file made by a program with a collation and a function of its own; patch: bytes to
    replace."""
    with closing(sqlite3.connect(path)) as connection:
        connection.create_collation("phonebook", lambda a, b: (a > b) - (a < b))
        connection.create_function("mystery", 1, str, deterministic=True)
        connection.executescript(script)
    for old, new in patch:
        path.write_bytes(path.read_bytes().replace(old, new))
    return path


def test_schema_holds_what_a_query_can_use_and_says_what_else_there_is(tmp_path):
    path = database(tmp_path / "s.sqlite", """
        CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT COLLATE phonebook, cafX TEXT,
            born INT DEFAULT 'cafX', age INT GENERATED ALWAYS AS (2020 - born),
            label TEXT AS (id || born) STORED, boss INT REFERENCES person,
            secret TEXT AS (mystery(id)));
        INSERT INTO person (id, name, born) VALUES (1, 'Ann', 1990);
        CREATE TABLE sqliteversions (a); CREATE TABLE SQLiteStudio (b); CREATE TABLE "cafX" (c);
        CREATE TABLE half (x, y, FOREIGN KEY (x, y) REFERENCES pair (x, no_such));
        CREATE TABLE pair (x, y, PRIMARY KEY (x, y)) WITHOUT ROWID;
        CREATE VIEW adult AS SELECT id, age FROM person;
        CREATE VIEW old AS SELECT height FROM person; CREATE VIEW odd AS SELECT mystery(1);
        CREATE VIEW sorted AS SELECT * FROM person ORDER BY name;
        CREATE VIEW dice AS SELECT random() AS eyes; CREATE VIEW own AS SELECT * FROM sqlite_master;
        PRAGMA writable_schema = ON;
        INSERT INTO sqlite_master VALUES
            ('table', 'geo', 'geo', 0, 'CREATE VIRTUAL TABLE geo USING spatialite(a)'),
            ('table', 'vec', 'vec', 0, 'CREATE VIRTUAL TABLE vec USING vec0(a float[2])');
        CREATE TABLE vec_chunks (a); CREATE TABLE vec_vector_chunks00 (a); CREATE TABLE vec_2 (a);
        """, [(b"cafX", b"caf\xe9")])
    schema = read_schema(path)
    names = {table.name: [column.name for column in table.columns] for table in schema.tables}
    assert names == {"person": ["id", "name", "born", "age", "label", "boss"],
                     "sqliteversions": ["a"], "SQLiteStudio": ["b"], "half": ["x", "y"],
                     "pair": ["x", "y"], "vec_2": ["a"], "adult": ["id", "age"]}
    assert [table.name for table in schema.tables if table.view] == ["adult"]
    assert not any(column.primary for column in schema.tables[-1].columns)
    assert schema.foreign_keys == (("person", "boss", "person", "id"),) and not schema.composite
    unknown = next(line for line in schema.left_out if line.startswith("column person.secret: "))
    assert schema.left_out == (
        "column person.name: no such collation sequence: phonebook",
        "column person.caf?: its name is not UTF-8",
        unknown, "table caf?: its name is not UTF-8",
        "table geo: no such module: spatialite", "table vec: no such module: vec0",
        "view old: no such column: height", "view odd: no such function: mystery",
        "view sorted: no such collation sequence: phonebook",
        "view dice: not authorized to use function: random",
        "view own: access to sqlite_master.type is prohibited",
        "tables vec_chunks, vec_vector_chunks00: kept by virtual tables")
    for table, columns in names.items():
        listed = ", ".join(f'"{column}"' for column in columns)
        assert run_sql(path, f'SELECT {listed} FROM "{table}"').status == "ok"
    assert run_sql(path, "SELECT age, label FROM person").rows == [(30, "11990")]


def test_virtual_tables_are_read_and_their_shadow_tables_left_out(tmp_path, pool):
    path = database(tmp_path / "v.sqlite", """
        CREATE TABLE doc (id INTEGER PRIMARY KEY, body TEXT);
        INSERT INTO doc VALUES (1, 'a word');
        CREATE VIRTUAL TABLE doc_index USING fts5(body, content='doc');
        CREATE VIRTUAL TABLE "using fts5" USING fts4(body);
        INSERT INTO "using fts5" VALUES ('text');
        CREATE VIRTUAL TABLE note USING "fts5" (body, author); CREATE TABLE note_author (x);
        INSERT INTO note VALUES ('long text', 'Ann');
        CREATE VIRTUAL TABLE Box USING rtree(id, low, high); INSERT INTO Box VALUES (1, 2, 3);
        CREATE VIRTUAL TABLE terms USING fts5vocab(note, row);
        CREATE VIEW noted AS SELECT author FROM note;""")
    with closing(sqlite3.connect(path)) as plain:
        shadows = [row[1] for row in plain.execute("PRAGMA table_list") if row[2] == "shadow"]
        names = [name for name, in plain.execute(
            "SELECT name FROM sqlite_master WHERE type IN ('table', 'view') ORDER BY type, rowid")]
        schema = read_schema(path)
        kept = [table.name for table in schema.tables]
        assert "note_author" in kept and len(kept) == 8 and len(shadows) > 10
        assert kept == [name for name in names if name not in shadows]
        for table in schema.tables:
            sql = f'SELECT {", ".join(column.name for column in table.columns)} FROM "{table.name}"'
            assert pool.run([(path, sql)])[0].rows == plain.execute(sql).fetchall()


def test_utf16_strict_keyword_and_long_names(tmp_path):
    names = ["order", "SELECT", "count", 'a"b', "[c]", "`d`", "e'f", "x" * 500, "日本", "t\nu"]
    quoted = ['"' + name.replace('"', '""') + '"' for name in names]
    path = database(tmp_path / "n.sqlite", "PRAGMA encoding = 'UTF-16le';" + "".join(
        f"CREATE TABLE {name} ({name} INTEGER) STRICT;" for name in quoted))
    schema = read_schema(path)
    assert [(table.name, table.columns[0].name) for table in schema.tables] == [
        (name, name) for name in names] and schema.left_out == ()
    empty = database(tmp_path / "empty.sqlite", "")
    assert read_schema(empty).tables == ()


def test_star_over_as_many_columns_as_sqlite_allows(tmp_path, pool):
    columns = [f"c{number}" for number in range(2000)]
    path = database(tmp_path / "wide.sqlite", f"CREATE TABLE t ({', '.join(columns)});"
                    + f"INSERT INTO t VALUES ({', '.join(map(str, range(2000)))});" * 2)
    assert len(read_schema(path).tables[0].columns) == 2000
    assert pool.run([(path, "SELECT * FROM t")])[0].rows == [tuple(range(2000))] * 2
    backwards = f"SELECT {', '.join(columns[:0:-1])} FROM t"
    verdicts = pool.verdicts([(path, f"SELECT {', '.join(columns[1:])} FROM t", backwards),
                              (path, "SELECT * FROM t", backwards)])
    assert [verdict[:2] for verdict in verdicts] == [("ok", True), ("ok", False)]
