"""Synthetic SQL for the databases of a benchmark folder, without a model (section 3.1.1).

    run_synth("data/demo", "runs/synth", n=3000, show=20)

prints a sample, the rejected attempts by reason and how many templates were reached; it writes

    OUT/synthetic.jsonl    {"db_id", "query", "template"} for each query
    OUT/synth.json         the counts
"""

import json
import math
import random
import re
import sqlite3
from contextlib import closing
from functools import cache
from pathlib import Path

from data.benchmarks.reader import SPLITS, Data
from data.report import files
from data.schema import schema_of
from data.sql import normalise
from data.synthesis.profiles import typed_by_values
from data.synthesis.synthesize import synthesize
from data.synthesis.templates import TemplatePool
from sqlexec import DataError, Verifier

HERE = Path(__file__).parent


def run_synth(folder, out, n=3000, show=20, seed=0, split="train", timeout=5.0, infer_keys=True):
    """Makes n synthetic queries, prints and writes what came of them, and returns the counts.

    folder: a benchmark folder; templates come from its train split. split: the one on whose
    databases queries are made; anything but train has to be asked for. timeout: seconds a query
    may run. DataError for a wrong folder, split or number, or where no template can be drawn.
    """
    if n < 1:
        raise DataError(f"--n {n}: ask for one query or more")
    data, rng = Data(folder, infer_keys), random.Random(f"{seed}/synth")
    examples = {name: data.usable(name)[0] for name in SPLITS
                if data.has(name) or name == "train"}
    sources = template_sources(data, examples["train"])
    pool = TemplatePool(sources)
    if not len(pool):
        raise DataError(f"{folder}: no template in {len(sources)} training queries: "
                        f"{_counted(pool.skipped + data.usable('train')[1])}")
    databases = databases_of(data, examples.get(split) or data.usable(split)[0])
    known = normal_forms(data, examples["train"] + examples.get("val", []))
    with Verifier(2, timeout, retry=False) as verifier:
        made, rejects = synthesize(pool, databases, n, rng, verifier.run, known)
    ours = {normalise(item.sql, data.schema(item.db_id)) for item in made}
    reached = {re.sub(r"(#\d+)+$", "", item.template_key) for item in made}     # without variants
    counts = {"data": str(folder), "digest": data.digest("train"), "split": split, "seed": seed,
              "sqlite": sqlite3.sqlite_version, "asked": n, "made": len(made),
              "attempts": len(made) + rejects.total(), "databases": len(databases),
              "unusable": dict(data.usable("train")[1]),
              "overlap": {name: len(ours & normal_forms(data, examples[name]))
                          for name in examples if name in ("dev", "test")},
              "rejected": dict(rejects.most_common()), "templates": len(pool),
              "skipped": dict(pool.skipped.most_common()), "reached": len(reached),
              "reached_share": round(sum(pool.counts[key] for key in reached)
                                     / pool.counts.total(), 4)}
    out = Path(out)
    files.write_text(out / "synthetic.jsonl", "".join(
        json.dumps({"db_id": item.db_id, "query": item.sql, "template": item.template_key},
                   ensure_ascii=False) + "\n" for item in made))
    files.write_json(out / "synth.json", counts)
    for line in [line for schema, _ in databases for line in schema.inferred]:
        print(line)
    _print(rng.sample(made, min(show, len(made))), counts)
    print(f"\n{out / 'synthetic.jsonl'}, {out / 'synth.json'}")
    return counts


def template_sources(data, examples):
    """(sql, schema) pairs to take templates from: the training examples; where the databases are
    a person's own, with few examples or none, the demo's as well, and for a third of the draws
    what analysts ask."""
    pairs = [(e.query, typed_schema(data, e.db_id)) for e in examples]
    if not data.own:
        return pairs
    demo, analyst = Data(HERE.parent / "demo"), analyst_queries()
    pairs += [(e.query, demo.schema(e.db_id)) for e in demo.examples("train")]
    return pairs + analyst * math.ceil(len(pairs) / 2 / len(analyst))


def analyst_queries():
    """[(sql, schema)] of analyst.sql."""
    script = re.sub("(?m)^--.*", "", (HERE / "analyst.sql").read_text(encoding="utf-8"))
    statements = [" ".join(statement.split()) for statement in script.split(";")]
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        schema = schema_of(connection, "analyst")
    return [(statement, schema) for statement in statements if statement.startswith("SELECT")]


@cache
def typed_schema(data, db_id):
    """The Schema of a database; the types of a person's own are those that its values show."""
    schema = data.schema(db_id)
    return typed_by_values(schema, data.databases(db_id)[0]) if db_id in data.own else schema


def databases_of(data, examples):
    """[(Schema, path)] of the databases that synthesis asks about: all that are a person's own, or
    those of the examples."""
    ids = data.db_ids() if data.own else sorted({example.db_id for example in examples})
    return [(typed_schema(data, db_id), data.databases(db_id)[0]) for db_id in ids]


def normal_forms(data, examples):
    return {normalise(e.query, data.schema(e.db_id)) for e in examples}


def _print(sample, counts):
    for item in sample:
        print(f"{item.db_id:28} {item.sql}")
    print(f"\nmade {counts['made']} of {counts['asked']} queries on {counts['databases']} "
          f"databases of {counts['split']}, in {counts['attempts']} attempts")
    if counts["made"] < counts["asked"]:
        print("the templates and databases give no more")
    if counts["unusable"]:
        print(f"training examples left out: {_counted(counts['unusable'])}")
    for name, number in counts["overlap"].items():
        print(f"{number} of them are queries of {name}, by chance")
    print("\nrejected attempts")
    for reason, number in counts["rejected"].items():
        print(f"  {reason:50} {number}")
    print(f"\n{counts['templates']} templates; left out: {_counted(counts['skipped'])}")
    print(f"{counts['reached']} of them were reached; they hold "
          f"{100 * counts['reached_share']:.1f}% of the training queries")


def _counted(counter):
    return ", ".join(f"{count} {name}" for name, count in counter.items()) or "none"
