"""What a user gains on databases of their own: right answers to questions that no run sees.

    python tests/bench/own.py --model DIR --out OUT [--only company] [--plant_rows 2500000]
        [--base_only 1] [--synthetic 400 --rounds 1 ...: spft.py's settings]
    python tests/bench/own.py --out OUT --read 30           synthetic questions of the runs, to read

Makes the two databases of tests/own_databases.py, runs self-play on each without labels and with
nine examples beside the file, and asks the model as it is and every candidate the thirteen
questions, greedily.  A run's recommendation, which its last lines give, counts as right where it
answers at least as many questions as the model as it is, and at most one fewer than the
run's best.  Databases, runs and answers in OUT are not made again; it holds those of one model and
one choice of settings.  OUT/own.json holds every answer.
"""

import argparse
import json
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
import model as lm  # noqa: E402
import own_databases  # noqa: E402
import spft  # noqa: E402
from data.benchmarks.reader import Example  # noqa: E402
from data.prompts.tokenizer import Tokenizer  # noqa: E402
from data.report.files import read_lines, write_json, write_lines  # noqa: E402
from data.report.resume import forget  # noqa: E402
from data.report.tables import recommended  # noqa: E402
from data.report.terminal import run_command  # noqa: E402
from sqlexec import DataError, Verifier  # noqa: E402

AS_IS, *CASES = "no run", "no labels", "9 examples"
SLACK = 1               # questions by which a recommended candidate may be behind the best


def refuse_others(options, words):
    """DataError where OUT holds what another model or other settings have given."""
    path, known = options.out / "settings.json", {
        "model": lm.content(options.model), "plant_rows": options.plant_rows, "settings": words}
    if path.exists() and lm.read_json(path) != known:
        raise DataError(f"--out {options.out} holds figures of another model or other settings "
                        f"({path}): choose another --out")
    write_json(path, known)


def databases(options):
    """{case: path of the database as that case's run is given it} for each database."""
    plain = dict(zip(("company", "plant"),
                     own_databases.make(options.out / "databases", options.plant_rows)))
    found = {}
    for name in options.only:
        labelled = options.out / "labelled" / name / f"{name}.sqlite"
        labelled.parent.mkdir(parents=True, exist_ok=True)
        if not labelled.exists():
            os.link(plain[name], labelled)
        write_json(labelled.with_name("examples.json"), own_databases.questions(name, "examples"))
        found[name] = dict(zip(CASES, (plain[name], labelled.parent)))
    return found


def answered(options, words, name, database, folder, path):
    """Records of a model's greedy answers to a database's questions, kept at the path."""
    examples = [Example(name, row["question"], row["sql"])
                for row in own_databases.questions(name)]
    known = read_lines(path) if path.exists() else []
    if [row["gold"] for row in known] != [e.query for e in examples]:
        cfg = spft.complete(spft.parse_config([
            "--stage", "eval", "--data", str(database), "--model", str(folder), *words]))
        cfg = replace(cfg, out=str(options.out / "asked"))
        with Verifier(timeout=cfg.timeout) as verifier:
            task = spft.Task(cfg, Tokenizer(cfg.model, cfg.base_model), verifier)
            samples = task.answer(spft.load_model(cfg, cfg.model),
                                  [task.prompts.sql(e) for e in examples], path.stem)
            known = spft.answer_rows(task, examples, samples)
            forget(task.unfinished)
        write_lines(path, known)
    right = sum(row["correct"] for row in known)
    print(f"  {path.stem}: {right} of {len(known)} right", flush=True)
    return known


def folder_of(options, name, case):
    return options.out / f"{name}-{case}".replace(", ", "-").replace(" ", "-")


def run_of(options, words, name, case, data):
    """The finished Candidates of a run of self-play on the data, made where it is not there."""
    if case == AS_IS:
        return [spft.Candidate("base", "-", options.model)]
    out = folder_of(options, name, case)
    if not (out / "results.json").exists():
        print(f"\n== {name}, {case}", flush=True)
        code = spft.main(["--stage", "selfplay", "--data", str(data), "--model", options.model,
                          "--out", str(out), *words])
        if code:
            sys.exit(code)
    names = dict.fromkeys(row["model"] for row in json.loads((out / "results.json").read_text()))
    return [replace(spft.Candidate(**lm.read_json(out / name / "candidate.json")),
                    folder=options.model if name == "base" else str(out / name)) for name in names]


def judged(right, chosen):
    """Whether the recommendation was right; right: {name: questions}."""
    return right[chosen] >= right["base"] and right[chosen] >= max(right.values()) - SLACK


def measured(options, words):
    """A record of each database and case."""
    records = []
    for name, given in databases(options).items():
        base = answered(options, words, name, given[CASES[0]], options.model,
                        options.out / f"{name}-base.jsonl")
        for case in [AS_IS] if options.base_only else CASES:
            candidates, rows = run_of(options, words, name, case, given.get(case)), {"base": base}
            for c in candidates[1:]:
                place = options.out / f"{Path(c.folder).parent.name}-{c.name}.jsonl"
                rows[c.name] = answered(options, words, name, given[CASES[0]], c.folder, place)
            right = {key: sum(row["correct"] for row in value) for key, value in rows.items()}
            chosen = (recommended(folder_of(options, name, case)) or {"name": "base"})["name"]
            records.append({"database": name, "case": case, "questions": len(base),
                            "right": right, "val": {c.name: round(c.ex, 1) for c in candidates},
                            "recommended": chosen,
                            "recommendation is right": judged(right, chosen),
                            "answers": rows})
    return records


def table(records):
    """The records in Markdown."""
    names = list(dict.fromkeys(name for record in records for name in record["right"]))
    lines = [["database", "run", *names, "recommended", "right of"], ["---"] * (len(names) + 4)]
    for r in records:
        verdict = "right" if r["recommendation is right"] else "wrong"
        lines.append([r["database"], r["case"],
                      *(f"{r['right'][n]} (val {r['val'][n]})" if n in r["right"] else ""
                        for n in names), f"{r['recommended']}: {verdict}", r["questions"]])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def show_questions(out, n):
    """n synthetic questions with their SQL of each run's last round, drawn at random."""
    for path in sorted(out.glob("*/vbift-*/synthetic.jsonl")):
        rows = read_lines(path)
        print(f"\n== {path}: {n} of {len(rows)}")
        for i, row in enumerate(random.Random(0).sample(rows, min(n, len(rows))), 1):
            print(f"{i:3} {row['question']}\n    {row['query']}")


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--model", default=str(spft.BASE))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", default=["company", "plant"])
    parser.add_argument("--plant_rows", type=int, default=own_databases.ROWS)
    parser.add_argument("--base_only", type=int, default=0)
    parser.add_argument("--read", type=int, default=0)
    options, words = parser.parse_known_args(arguments)

    def work():
        if options.read:
            return show_questions(options.out, options.read)
        refuse_others(options, words)
        records = measured(options, words)
        write_json(options.out / "own.json", records)
        print("\n" + table(records))

    return run_command("own.py", work, lambda: True)


if __name__ == "__main__":
    sys.exit(main())
