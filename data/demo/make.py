"""Write data/demo: eight databases and their questions, byte for byte the same on every run.

    python -m data.demo.make              rewrite data/demo and print the counts
    python -m data.demo.make --show 100   print 100 random questions with SQL and first row

Every query is executed while drawing: one that returns nothing, only NULLs, a tie under its LIMIT
or the same rows without one of its conditions is thrown away. A query's text belongs to one split
only. Phrasings marked ~ (in domains.txt and questions.txt) occur in test only, in about a quarter
of its questions; the count is printed.
"""

import argparse
import bisect
import itertools
import json
import random
import re
import sqlite3
from pathlib import Path

from data.demo.domains import DOMAINS, fill_rows, sql_script
from data.demo.phrases import Asker
from data.demo.questions import KINDS, draw
from data.pretraining.asking import Reject

DEMO = Path(__file__).resolve().parent
SPLITS = {"train": 500, "val": 1000, "test": 1100}
FIRST = SPLITS | {"val": 300}      # drawn first: what a split gets later leaves the others alone
AGAIN = 0.15                 # share of questions that ask for a query of their split once more
MAX_ROWS = 40                # nobody reads a longer answer


# ---------------------------------------------------------------------------------------------
# Keeping what is sound

ORDERED = re.compile(r"SELECT (?:DISTINCT )?.*?( FROM .*) ORDER BY (.+?)( DESC)?(?: LIMIT (\d+))?")


def sound(q, sql):
    """Does the query find rows that are worth asking for? One in order needs something to order
    and no ties in it, up to the row after the LIMIT."""
    rows = q.rows(sql)
    if not rows or len(rows) > MAX_ROWS or all(v is None for r in rows for v in r):
        return False
    if rows == [(0,)] or "COUNT(DISTINCT" in sql and rows == [(1,)]:
        return False
    if re.search(r"GROUP BY \S+$", sql) and len(rows) < 3:
        return False
    match = ORDERED.fullmatch(sql)
    if not match:
        return True
    tail, key, down, limit = match.groups("")
    keys = [r[0] for r in q.rows(f"SELECT {key}{tail} ORDER BY {key}{down}")]
    seen = keys[:int(limit) + 1] if limit else keys
    return len(keys) > int(limit or 1) + 1 and len(set(seen)) == len(seen)


class Splits:
    """Questions drawn so far and what must not be drawn again."""

    def __init__(self, rng):
        self.rng, self.items, self.new = rng, {split: [] for split in SPLITS}, 0
        self.owner, self.seen, self.draws = {}, set(), {}   # of a query, questions, (kind, seed)

    def add(self, q, split, kind):
        """One more question about the domain of q, of this kind unless it is used up there."""
        q.test, db = split == "test", q.domain.db_id
        old = self.draws.setdefault((split, db), [])
        again = old and self.rng.random() < AGAIN
        for n in itertools.count():
            again, seed = again and n < 20, self.rng.getrandbits(48)
            if again:
                kind, seed = self.rng.choice(old)
            elif n % 300 == 299:
                kind = self.rng.choice(KINDS)[1]
            try:
                words, sql = draw(q, kind, seed, self.rng)
            except Reject:
                continue
            known = self.owner.get((db, sql.lower()))
            if known == (split if again else None) and (db, words.lower()) not in self.seen \
                    and sound(q, sql):
                break
        old.append((kind, seed))
        self.owner[db, sql.lower()] = split
        self.seen.add((db, words.lower()))
        self.new += q.new
        self.items[split].append({"db_id": db, "question": words, "query": sql})


def make_questions(askers, rng):
    """The filled splits; every kind and every domain has its share of each."""
    weights, kinds = zip(*KINDS)
    ends = list(itertools.accumulate(weights))
    splits = Splits(rng)
    for start, stop in (dict.fromkeys(SPLITS, 0), FIRST), (FIRST, SPLITS):
        slots = []
        for split, first in start.items():
            n = stop[split] - first
            slots += [(askers[(first + i) % len(askers)], split, kinds[bisect.bisect(
                ends, (i + 0.5) / n * ends[-1])]) for i in range(n)]
        rng.shuffle(slots)
        for slot in slots:
            splits.add(*slot)
    return splits


# ---------------------------------------------------------------------------------------------
# Files

def make_demo(folder, seed=0):
    """Write databases and questions to the folder; returns the Splits and the Askers."""
    rng, askers = random.Random(seed), []
    for domain in DOMAINS:
        script = sql_script(domain, fill_rows(domain, rng))
        path = folder / "database" / domain.db_id / f"{domain.db_id}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
        db = sqlite3.connect(":memory:")
        db.executescript(script)
        askers.append(Asker(domain, db))
    splits = make_questions(askers, rng)
    for split, items in splits.items.items():
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        (folder / f"{split}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return splits, askers


SET = r"\(SELECT| INTERSECT | UNION | EXCEPT "
CONSTRUCTS = {                             # name: pattern in the SQL
    "where": r" WHERE ", "and": r" WHERE [^(]* AND ", "or": r" OR ", "!=": r" != ",
    "like": r" LIKE ", "between": r" BETWEEN ", "aggregate": r"(AVG|MAX|MIN|SUM)\(",
    "count": r"COUNT\(", "count distinct": r"COUNT\(DISTINCT", "distinct": r"SELECT DISTINCT",
    "group by": r" GROUP BY ", "having": r" HAVING ", "order by": r" ORDER BY ",
    "limit": r" LIMIT ", "join of 2": r"^(?!.* AS T3).* AS T2", "join of 3": r" AS T3",
    "scalar sub-query": r"[<>] \(SELECT", "in": r"(?<!NOT) IN \(", "not in": r" NOT IN \(",
    "intersect": r" INTERSECT ", "union": r" UNION ", "except": r" EXCEPT ",
    "single table, flat": rf"^(?!.*( JOIN |{SET}))", "joined, flat": rf"^(?!.*({SET})).* JOIN ",
    "nested or set operator": SET}


def print_counts(splits):
    groups = splits.items.values()
    rows = {f"db {d.db_id}": [sum(i["db_id"] == d.db_id for i in g) for g in groups]
            for d in DOMAINS}
    rows |= {name: [sum(bool(re.search(pattern, i["query"])) for i in g) for g in groups]
             for name, pattern in CONSTRUCTS.items()}
    rows["questions"] = [len(g) for g in groups]
    rows["distinct queries"] = [len({(i["db_id"], i["query"]) for i in g}) for g in groups]
    print(f"{'':24}" + "".join(f"{s:>8}" for s in splits.items))
    for name, counts in rows.items():
        print(f"{name:24}" + "".join(f"{n:8}" for n in counts))
    print(f"test questions with a phrase of their own: {splits.new} of {len(splits.items['test'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--show", type=int, default=0, help="print so many random questions")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    args = parser.parse_args()
    splits, askers = make_demo(DEMO)
    databases = {q.domain.db_id: q.db for q in askers}
    items = [(split, item) for split, items in splits.items.items() for item in items]
    for split, item in random.Random(args.seed).sample(items, args.show):
        row = databases[item["db_id"]].execute(item["query"]).fetchone()
        print(f"{split} {item['db_id']}: {item['question']}\n    {item['query']}\n    {row}")
    print_counts(splits)


if __name__ == "__main__":
    main()
