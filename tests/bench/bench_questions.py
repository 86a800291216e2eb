"""Synthetic questions that a person read, and what dropping the unlikely ones does to them.

    python tests/bench/bench_questions.py

questions.json holds, of the demo and of two databases of an analyst (tests/own_databases.py),
questions that the bundled model wrote: what a reader made of each (good, awkward, wrong), log p of
the query given the question, and whether a run drops it (--least_logp, of a third at most).
"""

import json
from collections import Counter
from pathlib import Path


def shares(rows):
    """(precision, recall) in percent of dropping, where `wrong` is what should be dropped."""
    dropped = [row for row in rows if row["dropped"]]
    hits = sum(row["read"] == "wrong" for row in dropped)
    wrong = sum(row["read"] == "wrong" for row in rows)
    return 100 * hits / max(1, len(dropped)), 100 * hits / max(1, wrong)


def main():
    rows = json.loads(Path(__file__).with_name("questions.json").read_text())
    parts = {name: [row for row in rows if row["from"] == name]
             for name in ("demo", "company", "plant")}
    for name, part in {**parts, "all": rows}.items():
        precision, recall = shares(part)
        before = Counter(row["read"] for row in part)
        after = Counter(row["read"] for row in part if not row["dropped"])
        print(f"{name:<8} {len(part):>4} read: " + ", ".join(
            f"{kind} {before[kind]} -> {after[kind]}" for kind in ("good", "awkward", "wrong"))
            + f"; precision {precision:.0f}, recall {recall:.0f}")


if __name__ == "__main__":
    main()
