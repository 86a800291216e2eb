"""Speed of the verifier on the verdict pairs of ../shared, against a plain loop in the same run.

    python tests/bench/bench_verifier.py [--workers 2] [--rounds 3]

The plain loop opens a connection for each query and compares as Spider's official code does.
Both run in turns; the best of the rounds counts, because other load can only slow a run down.
CPU seconds are those of all processes, the workers' start included; "SQLite alone" runs each
distinct query once over open connections, without a sandbox or a comparison, in this process.
"""

import argparse
import json
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))
from sqlexec import Verifier, clean_text  # noqa: E402


# The official comparison (taoyds/test-suite-sql-eval, exec_eval.py), restated.

def official_equal(gold, pred, ordered):
    """Spider's execution match on two lists of rows, by trying column permutations."""
    if not gold and not pred:
        return True
    if len(gold) != len(pred) or len(gold[0]) != len(pred[0]):
        return False
    spelled = [[tuple(sorted(row, key=lambda cell: str(cell) + str(type(cell)))) for row in rows]
               for rows in (gold, pred)]
    if spelled[0] != spelled[1] if ordered else set(spelled[0]) != set(spelled[1]):
        return False
    for order in _permutations(gold, pred):
        permuted = [tuple(row[column] for column in order) for row in pred]
        if gold == permuted if ordered else Counter(gold) == Counter(permuted):
            return True
    return False


def _permutations(gold, pred):
    width = len(gold[0])
    allowed = [set(range(width)) for _ in range(width)]
    if width > 3:
        values = [set(column) for column in zip(*gold)]
        for row in random.Random(0).choices(pred, k=20):
            for column, choice in enumerate(allowed):
                choice -= {other for other in choice if row[other] not in values[column]}
    return (order for order in product(*allowed) if len(set(order)) == width)


def plain_rows(path, sql):
    connection = sqlite3.connect(path)
    connection.text_factory = lambda cell: cell.decode(errors="ignore")
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def plain_verdict(path, gold, pred):
    """The official verdict on one pair, the plain way."""
    gold, pred = clean_text(gold, "spider"), clean_text(pred, "spider")
    expected = plain_rows(path, gold)
    try:
        rows = plain_rows(path, pred)
    except sqlite3.Error:
        return False
    return official_equal(expected, rows, "order by" in gold.lower())


# Measuring

def load_pairs():
    """The verdict pairs as (db_path, gold, pred), and what the official evaluator says of each."""
    with open(SHARED / "verdicts" / "spider_exec.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file]
    folder = SHARED / "spider" / "database"
    return [(folder / r["db_id"] / f"{r['db_id']}.sqlite", r["gold"], r["pred"])
            for r in records], [bool(r["spider"]) for r in records]


def resident(verifier):
    """Largest resident memory of a worker now, in MB."""
    pids = ",".join(str(worker.process.pid) for worker in verifier.workers)
    output = subprocess.run(["ps", "-o", "rss=", "-p", pids], capture_output=True, text=True)
    return max(map(int, output.stdout.split())) / 1024


def cpu():
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def sqlite_alone(pairs):
    connections = {}
    for path, sql in sorted({(path, sql) for path, *both in pairs for sql in both}):
        if path not in connections:
            connections[path] = sqlite3.connect(path)
        try:
            connections[path].execute(sql).fetchall()
        except sqlite3.Error:
            pass
    for connection in connections.values():
        connection.close()


def latencies(verifier, pairs):
    """Sorted seconds of single verdicts, each asked for alone."""
    took = []
    for pair in pairs:
        start = time.perf_counter()
        verifier.verdicts([pair])
        took.append(time.perf_counter() - start)
    return sorted(took)


def timed(task):
    """A task's result, the seconds it took, and the CPU seconds of all processes that ended."""
    start, before = time.perf_counter(), cpu()
    result = task()
    return result, time.perf_counter() - start, cpu() - before


def pool_passes(pairs, workers, passes, ask=0):
    """Seconds of each pass over the pairs by one pool; then memory, and latencies of some pairs."""
    with Verifier(workers) as verifier:
        took = []
        for _ in range(passes):
            verdicts, seconds, _ = timed(lambda: verifier.verdicts(pairs))
            took.append(seconds)
        return verdicts, took, resident(verifier), latencies(verifier, pairs[:ask])


def one_round(pairs, expected, workers):
    """{name: (seconds, CPU seconds)}, memory of a worker in MB, latencies of single pairs."""
    plain, *plain_cost = timed(lambda: [plain_verdict(*pair) for pair in pairs])
    _, *alone_cost = timed(lambda: sqlite_alone(pairs))
    (cold, (seconds,), _, _), _, work = timed(lambda: pool_passes(pairs, workers, 1))
    # Two passes, because a worker that ran out of work takes pairs that were another's before.
    warm, (_, _, again), memory, single = pool_passes(pairs, workers, 3, ask=1000)
    for verdicts in (cold, warm):
        assert [verdict.correct for verdict in verdicts] == plain == expected
    return {"plain loop": plain_cost, "SQLite alone": alone_cost, "verifier, cold": (seconds, work),
            "verifier, warm": (again, float("nan"))}, memory, single


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    pairs, expected = load_pairs()
    rounds = [one_round(pairs, expected, options.workers) for _ in range(options.rounds)]
    best = {name: [min(costs[name][kind] for costs, _, _ in rounds) for kind in (0, 1)]
            for name in rounds[0][0]}
    for name, (seconds, work) in best.items():
        print(f"{name:15}{len(pairs) / seconds:8.0f} pairs/s{seconds:8.3f} s"
              f"{best['plain loop'][0] / seconds:7.1f} x{work:8.2f} CPU s")
    _, memory, single = min(rounds, key=lambda done: sum(done[2]))
    print(f"one warm pair asked for alone: p50 {1000 * single[len(single) // 2]:.2f} ms, "
          f"p99 {1000 * single[len(single) * 99 // 100]:.2f} ms")
    print(f"largest worker {memory:.0f} MB resident; {options.workers} workers, "
          f"SQLite {sqlite3.sqlite_version}, Python {sys.version.split()[0]}")


if __name__ == "__main__":
    main()
