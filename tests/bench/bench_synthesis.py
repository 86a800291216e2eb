"""Measures the SQL reader, the templates and the synthesis on a Spider folder.

    python tests/bench/bench_synthesis.py                       all figures, on ../shared/spider
    python tests/bench/bench_synthesis.py --show 100 --out F    a sample of the queries, to be read
    python tests/bench/bench_synthesis.py --fuzz 200000         a longer attack on the reader

Synthetic queries are made on the training databases alone. Times are processor time of this
process.
"""

import argparse
import random
import re
import sys
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from data.benchmarks.reader import Data                                    # noqa: E402
from data.sql import (                                                     # noqa: E402
    Binary, Column, Query, Select, SQLError, canonical_sql, normalise, parse, resolve, rewrite,
    to_sql, walk)
from data.synthesis.fill import Database, Unfilled, fill                   # noqa: E402
from data.synthesis.synthesize import PLACES, synthesize                   # noqa: E402
from data.synthesis.templates import (                                     # noqa: E402
    TemplatePool, extract_bound, render, without_from)
from sqlexec import Connection, Limits                                     # noqa: E402


class Bench:
    def __init__(self, folder):
        self.data, self.connections, self.schemas = Data(folder), {}, {}
        self.examples = {split: self.data.examples(split) for split in ("train", "dev")}
        self.golds = {split: sorted({(e.db_id, e.query) for e in examples})
                      for split, examples in self.examples.items()}

    def run(self, jobs, timeout=5.0):
        """Plain loop over open connections: one process, one core."""
        results = []
        for path, sql in jobs:
            if path not in self.connections:
                self.connections[path] = Connection(path, Limits())
            results.append(self.connections[path].run(sql, timeout=timeout))
        return results

    def gold(self, db_id, sql):
        return self.run([(self.data.databases(db_id)[0], sql)], timeout=60.0)[0]

    def train_databases(self):
        ids = sorted({example.db_id for example in self.examples["train"]})
        return [(self.data.schema(db_id), self.data.databases(db_id)[0]) for db_id in ids]

    def pool(self):
        return TemplatePool([(e.query, self.data.schema(e.db_id)) for e in self.examples["train"]])

    def known(self):
        return {normalise(sql, self.data.schema(db_id))
                for golds in self.golds.values() for db_id, sql in golds}


def table(title, rows):
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:52} {value}")


# ---------------------------------------------------------------------------------------------
# 1. The reader

def measure_reader(bench):
    for split, golds in bench.golds.items():
        found, start = Counter(), time.process_time()
        trees = {gold: parse(gold[1]) for gold in golds}
        parsing = time.process_time() - start
        for (db_id, sql), tree in trees.items():
            printed, canonical = to_sql(tree), canonical_sql(sql, bench.data.schema(db_id))
            result = bench.gold(db_id, sql)
            if result.status != "ok":
                print("does not run:", db_id, sql, result.error)
            found["same tree after print and parse"] += parse(printed) == tree
            found["same result printed"] += bench.gold(db_id, printed).rows == result.rows
            again = bench.gold(db_id, canonical)
            found["same result in canonical form"] += again.rows == result.rows
        table(f"Reader, {split}: {len(bench.examples[split])} golds, {len(golds)} different",
              [*found.items(), ("milliseconds to parse one", f"{1000 * parsing / len(golds):.2f}")])


def measure_fuzz(bench, count, rng):
    """Damaged golds: what both the reader and SQLite take must give one result."""
    golds = bench.golds["train"] + bench.golds["dev"]
    noise = "NOT - IS NULL ( ) || BETWEEN '' \"x\" `` [a] . ; -- /* UNION LEFT AS CASE CAST WITH"
    noise, found = noise.split() + ["\0"], Counter()
    for _ in range(count):
        db_id, sql = rng.choice(golds)
        tokens = sql.split()
        place, other = rng.randrange(len(tokens)), rng.choice(noise + tokens)
        tokens[place:place + rng.choice((0, 1))] = [other] * rng.choice((0, 1))
        damaged = " ".join(tokens)
        try:
            printed = to_sql(parse(damaged))
            canonical = canonical_sql(damaged, bench.data.schema(db_id))
        except SQLError:
            found["refused, though SQLite runs it" if bench.gold(db_id, damaged).status == "ok"
                  else "refused by both"] += 1
            continue
        result = bench.gold(db_id, damaged)
        if result.status != "ok":
            found["read, though SQLite refuses it"] += 1
        elif Counter(result.rows) != Counter(bench.gold(db_id, canonical).rows) \
                or Counter(result.rows) != Counter(bench.gold(db_id, printed).rows):
            found["WRONG"] += 1
            print("WRONG", db_id, damaged)
        else:
            found["same result"] += 1
    table(f"Fuzz: {count} damaged golds", sorted(found.items()))


# ---------------------------------------------------------------------------------------------
# 2. Templates

LEVELS = ("structure", "typed", "keys", "columns", "tables")


def level_text(template, level):
    """A template's text at one of LEVELS, coarse to fine; only the finest keeps the tables."""
    if level == "tables":
        return template.text()

    def label(match):
        slot = int(match[2])
        if match[1] == "v":
            return f"V{slot}" if level == "columns" else "V"
        type, role = template.columns[slot].type, template.columns[slot].role
        return {"structure": "column", "typed": type, "keys": f"{type}_{role}".rstrip("_"),
                "columns": template.label("c", slot).partition("@")[0]}[level]

    return re.sub("\0(.)(\\d+)\0", label, to_sql(rewrite(template.tree, without_from)))


def measure_templates(bench):
    keys, lost, same = {}, Counter(), Counter()
    for split, golds in bench.golds.items():
        for db_id, sql in golds:
            try:
                template, binding = extract_bound(sql, bench.data.schema(db_id))
            except SQLError as problem:
                lost[f"{split}: {problem.reason}"] += 1
                continue
            keys[split, db_id, sql] = [level_text(template, level) for level in LEVELS]
            again = bench.gold(db_id, render(template.pieces, binding))
            same[split] += again.rows == bench.gold(db_id, sql).rows
    table("Template round trip: refilled with its own names and values, same result",
          [(split, f"{same[split]} of {len(golds)} ({100 * same[split] / len(golds):.2f}%)")
           for split, golds in bench.golds.items()] + list(lost.items()))
    rows = []
    for index, level in enumerate(LEVELS):
        train = Counter(keys["train", e.db_id, e.query][index] for e in bench.examples["train"]
                        if ("train", e.db_id, e.query) in keys)
        covered = sum(keys.get(("dev", e.db_id, e.query), {index: None})[index] in train
                      for e in bench.examples["dev"])
        tops = [sum(count for _, count in train.most_common(top)) for top in range(len(train) + 1)]
        half, most = [next(top for top, held in enumerate(tops) if held >= share * train.total())
                      for share in (0.5, 0.9)]
        rows.append((level, f"{len(train):5} templates; the first {half} hold 50%, {most} 90% of "
                            f"train; {covered} of {len(bench.examples['dev'])} dev covered"))
    table("Templates by level (queries counted with repeats)", rows)


# ---------------------------------------------------------------------------------------------
# 3. Synthesis

def constructs(sql, schema):
    """{construct: its form in this query}; {} where the query cannot be read."""
    try:
        tree = resolve(parse(sql), schema)
    except SQLError:
        return {}
    parts = list(walk(tree))
    selects = [part for part in parts if isinstance(part, Select)]
    nested = sum(isinstance(part, Query) for part in parts) > 1
    return {"tables in one FROM": str(max(len(select.sources) for select in selects)),
            "nested": "yes" if nested else "no",
            "set operator": " ".join(tree.ops) or "none",
            "GROUP BY": "yes" if any(select.group for select in selects) else "no",
            "ORDER BY": "none" if not tree.order else "with LIMIT" if tree.limit else "plain"}


def distance(left, right):
    """Total variation distance of two lists: 0 for equal shares, 1 for nothing in common."""
    left, right = [{key: count / len(things) for key, count in Counter(things).items()}
                   for things in (left, right)]
    return sum(abs(left.get(key, 0) - right.get(key, 0)) for key in left | right) / 2


def compare(train, made):
    """{construct: {"distance", "shares": {form: (in train, in made)}}} for lists of (sql, schema).

    "all" has the distance of whole combinations. Empty where one list is.
    """
    sides = [[found for pair in pairs if (found := constructs(*pair))] for pairs in (train, made)]
    if not all(sides):
        return {}
    whole = [[tuple(found.values()) for found in side] for side in sides]
    result = {"all": {"distance": round(distance(*whole), 4), "shares": {}}}
    for name in sides[0][0]:
        forms = [[found[name] for found in side] for side in sides]
        result[name] = {"distance": round(distance(*forms), 4), "shares": {
            form: tuple([round(side.count(form) / len(side), 4) for side in forms])
            for form in sorted(set(forms[0] + forms[1]))}}
    return result


def undeclared_joins(sql, schema):
    """How many equalities between columns in ON are no declared foreign key."""
    keys = {tuple(part.lower() for part in key) for key in schema.foreign_keys}
    found = 0
    for select in [part for part in walk(resolve(parse(sql), schema)) if isinstance(part, Select)]:
        for part in [part for source in select.sources for part in walk(source.on)]:
            if isinstance(part, Binary) and isinstance(part.right, Column):
                ends = [(side.table.lower(), side.name.lower()) for side in (part.left, part.right)]
                found += not {ends[0] + ends[1], ends[1] + ends[0]} & keys
    return found


def measure_fill(pool, databases, rng, draws=3000):
    """The share of draws that fill, on the first database and on one of PLACES."""
    opened, first, any_place, reasons = [Database(*pair) for pair in databases], 0, 0, Counter()
    for _ in range(draws):
        template = pool.draw(rng)
        for place, db in enumerate(rng.sample(range(len(databases)), PLACES)):
            try:
                fill(template, opened[db], rng)
                first += place == 0
                any_place += 1
                break
            except Unfilled as problem:
                reasons[str(problem)] += 1
    table(f"{draws} draws from {len(pool)} templates over {len(databases)} training databases", [
        ("filled on the first database drawn", f"{100 * first / draws:.1f}%"),
        (f"filled on one of {PLACES} databases", f"{100 * any_place / draws:.1f}%"),
        *[(f"  no place: {reason}", count) for reason, count in reasons.most_common()]])


def measure_synthesis(bench, n, rng):
    start, pool = time.process_time(), bench.pool()
    building, databases, known = time.process_time() - start, bench.train_databases(), bench.known()
    measure_fill(pool, databases, rng)
    start = time.process_time()
    kept, rejects = synthesize(pool, databases, n, rng, bench.run, known)
    seconds, attempts = time.process_time() - start, len(kept) + rejects.total()
    schemas = {schema.db_id: schema for schema, _ in databases}
    again = [bench.gold(item.db_id, item.sql) for item in kept]
    dev = {normalise(sql, bench.data.schema(db_id)) for db_id, sql in bench.golds["dev"]}
    table(f"Synthesis of {n}", [
        ("templates; seconds to build the pool", f"{len(pool)}; {building:.1f}"),
        ("skipped queries", dict(pool.skipped)),
        ("kept / attempts", f"{len(kept)} / {attempts}"),
        ("attempts per second (processor time, one core)", f"{attempts / seconds:.0f}"),
        ("different queries; templates; databases",
         f"{len({(item.db_id, item.sql) for item in kept})}; "
         f"{len({item.template_key for item in kept})}; {len({item.db_id for item in kept})}"),
        ("run with status ok and a non-trivial result", sum(
            result.status == "ok" and any(cell not in (0, None)
                                          for row in result.rows for cell in row)
            for result in again)),
        ("in canonical form as they stand", sum(
            canonical_sql(item.sql, schemas[item.db_id]) == item.sql for item in kept)),
        ("equal to a train or dev query", sum(item.sql in known for item in kept)),
        ("equal to a dev query", sum(item.sql in dev for item in kept)),
        ("joins along no declared key", sum(undeclared_joins(item.sql, schemas[item.db_id])
                                            for item in kept))])
    table("Rejected attempts by reason", rejects.most_common())
    found = compare([(e.query, bench.data.schema(e.db_id)) for e in bench.examples["train"]],
                    [(item.sql, schemas[item.db_id]) for item in kept])
    table("Constructs, train -> synthetic: total variation distance, shares", [
        (name, f"{part['distance']:.3f}   " + "; ".join(
            f"{form}: {before:.3f} -> {after:.3f}"
            for form, (before, after) in part["shares"].items())) for name, part in found.items()])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", default=ROOT.parent / "shared" / "spider", type=Path)
    parser.add_argument("--n", default=3000, type=int, help="synthetic queries to make")
    parser.add_argument("--seed", default=0, type=int)
    parser.add_argument("--show", default=0, type=int, help="only write so many of them to --out")
    parser.add_argument("--out", default="synthetic.txt", type=Path)
    parser.add_argument("--fuzz", default=0, type=int, help="only damage so many golds")
    args = parser.parse_args()
    bench, rng = Bench(args.data), random.Random(args.seed)
    if args.fuzz:
        measure_fuzz(bench, args.fuzz, rng)
    elif args.show:
        kept, _ = synthesize(bench.pool(), bench.train_databases(), args.show, rng, bench.run,
                             bench.known())
        args.out.write_text("".join(f"{item.db_id}\t{item.sql}\n" for item in kept))
    else:
        measure_reader(bench)
        measure_templates(bench)
        measure_synthesis(bench, args.n, rng)


if __name__ == "__main__":
    main()
