"""Synthetic SQL for the databases of a benchmark folder, without a model (section 3.1.1).

    run_synth("data/demo", "runs/synth", n=3000, show=20)

prints a sample, the rejected attempts by reason, how much of the templates was reached, and the
constructs of what was made beside those of training; it writes

    OUT/synthetic.jsonl    {"db_id", "query", "template"} for each query
    OUT/synth.json         the counts
"""

import json
import random
import sqlite3
from collections import Counter
from pathlib import Path

from data.benchmarks.reader import SPLITS, Data
from data.sql import Query, Select, SQLError, normalise, parse, resolve, walk
from data.synthesis.templates import LEVELS, TemplatePool, extract, synthesize
from sqlexec import DataError, Verifier


def run_synth(folder, out, n=3000, show=20, seed=0, split="train", timeout=5.0, workers=2):
    """Makes n synthetic queries, prints and writes what came of them, and returns the counts.

    folder: a benchmark folder; templates come from its train split. split: the one on whose
    databases queries are made; anything but train has to be asked for. timeout: seconds a query
    may run. DataError for a wrong folder, split or number, or where no template can be drawn.
    """
    if n < 1:
        raise DataError(f"--n {n}: ask for one query or more")
    data, rng = Data(folder), random.Random(f"{seed}/synth")
    examples = {name: data.usable(name)[0] for name in SPLITS
                if data.has(name) or name == "train"}
    sources = template_sources(data, examples["train"])
    pool = TemplatePool(sources)
    if not len(pool):
        raise DataError(f"{folder}: no template in {len(sources)} training queries: "
                        f"{_counted(pool.skipped + data.usable('train')[1])}")
    ids = data.db_ids() if data.own else sorted(
        {example.db_id for example in examples.get(split) or data.usable(split)[0]})
    databases = [(data.schema(db_id), data.databases(db_id)[0]) for db_id in ids]
    known = normal_forms(data, examples["train"] + examples.get("val", []))
    with Verifier(workers, timeout, retry=False) as verifier:
        made, rejects = synthesize(pool, databases, n, rng, verifier.run, known)
    ours = {normalise(item.sql, data.schema(item.db_id)) for item in made}
    counts = {"data": str(folder), "digest": data.digest("train"), "split": split, "seed": seed,
              "sqlite": sqlite3.sqlite_version, "asked": n, "made": len(made),
              "attempts": len(made) + rejects.total(), "databases": len(databases),
              "unusable": dict(data.usable("train")[1]),
              "overlap": {name: len(ours & normal_forms(data, examples[name]))
                          for name in examples if name in ("dev", "test")},
              "rejected": dict(rejects.most_common()), **_coverage(pool, made, data, examples),
              "constructs": compare(sources,
                                    [(item.sql, data.schema(item.db_id)) for item in made])}
    _write(Path(out), made, counts)
    _print(rng.sample(made, min(show, len(made))), counts)
    print(f"\n{Path(out) / 'synthetic.jsonl'}, {Path(out) / 'synth.json'}")
    return counts


def template_sources(data, examples):
    """(sql, schema) pairs to take templates from: the training examples; where the databases are
    a person's own, with few examples or none, the demo's as well."""
    demo = Data(Path(__file__).parents[1] / "demo") if data.own else None
    return ([(e.query, data.schema(e.db_id)) for e in examples]
            + [(e.query, demo.schema(e.db_id)) for e in (demo.examples("train") if demo else [])])


def normal_forms(data, examples):
    return {normalise(e.query, data.schema(e.db_id)) for e in examples}


def _coverage(pool, made, data, examples):
    """How many templates there are, how many were reached, and what they hold of each split."""
    reached = {item.template_key for item in made}
    found = {"templates": len(pool), "skipped": dict(pool.skipped.most_common()),
             "reached": len(reached), "reached_share": round(
                 sum(pool.counts[key] for key in reached) / max(1, pool.counts.total()), 4)}
    ours = {level: {template.text(level) for template in pool.templates.values()}
            for level in LEVELS}
    for split in [name for name in examples if name != "train"]:
        texts = [_levels(e.query, data.schema(e.db_id)) for e in examples[split]]
        found[f"covered_{split}"] = {"queries": len(texts), **{
            level: sum(text.get(level) in ours[level] for text in texts) for level in LEVELS}}
    return found


def _levels(sql, schema):
    """{level: text} of a query's template; empty where it has none."""
    try:
        template = extract(sql, schema)
    except SQLError:
        return {}
    return {level: template.text(level) for level in LEVELS}


# ---------------------------------------------------------------------------------------------
# Constructs

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


# ---------------------------------------------------------------------------------------------
# What a person sees

def _write(out, made, counts):
    out.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"db_id": item.db_id, "query": item.sql, "template": item.template_key},
                        ensure_ascii=False) + "\n" for item in made]
    (out / "synthetic.jsonl").write_text("".join(lines), encoding="utf-8")
    (out / "synth.json").write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


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
    _table("rejected attempts", counts["rejected"].items())
    print(f"\n{counts['templates']} templates; left out: {_counted(counts['skipped'])}")
    print(f"{counts['reached']} of them were reached; they hold "
          f"{100 * counts['reached_share']:.1f}% of the training queries")
    for name, covered in counts.items():
        if name.startswith("covered_"):
            print(f"of {covered['queries']} {name[8:]} queries the templates cover: " + ", ".join(
                f"{covered[level]} by {level}" for level in LEVELS))
    _table("constructs: distance, train -> made", [
        (name, f"{found['distance']:.3f}   " + "; ".join(
            f"{form}: {before:.3f} -> {after:.3f}" for form, (before, after) in
            found["shares"].items()))
        for name, found in counts["constructs"].items()])


def _table(title, rows):
    print(f"\n{title}")
    for name, value in rows:
        print(f"  {name:50} {value}")


def _counted(counter):
    return ", ".join(f"{count} {name}" for name, count in counter.items()) or "none"
