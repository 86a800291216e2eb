"""The candidates of a run on Spider's dev questions and their variants, read once at the end.

    python tests/bench/spider.py --run RUN --data SPIDER --out OUT [--samples 1 8]
        [--splits dev dev_syn dev_dk] [--candidates base sft vbift-1 ...] [spft.py's settings]

Answers each split with each candidate of the run directory, greedily and by a vote of execution,
through `spft.py --stage eval` (what is in OUT, or greedily in the run, is not answered again), and
prints: EX with its 95% interval, by hardness, the gain on the candidate it came from (paired
bootstrap over distinct queries, all splits together), kinds of error, hours and memory of the
training. OUT/spider.json holds it all, OUT/predictions.jsonl every answer.
"""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import torch  # noqa: E402

import spft  # noqa: E402
from data.benchmarks import scoring  # noqa: E402
from data.benchmarks.reader import Data, Example  # noqa: E402
from data.report.files import read_lines, write_json, write_lines  # noqa: E402
from data.report.tables import errors, interval, percent  # noqa: E402
from experiment import paired_gain  # noqa: E402
from sqlexec import Verifier  # noqa: E402

LEVELS = ("easy", "medium", "hard", "extra")


def answered(options, words, name, folder, split, samples):
    """Verdicts of a candidate on a split, answered where they are not in OUT yet."""
    out = options.out / f"{name}-{samples}"
    path, kept = out / f"eval-{split}" / "verdicts.jsonl", options.run / name / f"{split}.jsonl"
    if not path.exists() and samples == 1 and kept.exists():
        rows = read_lines(kept)
        with Verifier() as verifier:
            scoring.report(Data(options.data), split, [
                Example(r["db_id"], r["question"], r["gold"]) for r in rows],
                [r["pred"] for r in rows], verifier, path.parent)
    elif not path.exists():
        print(f"\n== {name}, {split}, {samples} samples", flush=True)
        code = spft.main(["--stage", "eval", "--data", str(options.data), "--split", split,
                          "--model", folder, "--samples", str(samples), "--out", str(out), *words])
        if code:
            sys.exit(code)
    return read_lines(path)


def gain(rows, parent):
    """Points that a candidate's rows are above its parent's, and the 95% interval."""
    a, b = (torch.tensor([[float(r["correct"]) for r in one]]) for one in (rows, parent))
    return paired_gain(a, b, [(r["db_id"], r["gold"]) for r in rows])


def row_of(candidate, samples, by_split, parent):
    """What is said of a candidate; by_split: {split: verdicts}; parent: the same, or None."""
    row = {"model": candidate["name"], "from": candidate["parent"], "samples": samples,
           "val": round(candidate["ex"], 1), "hours": round(candidate["seconds"] / 3600, 2),
           **{key: candidate["metrics"][key] for key in ("steps", "peak GB")
              if key in candidate["metrics"]}}
    for split, rows in by_split.items():
        low, high = interval(rows)
        row[split] = {"n": len(rows), "ex": round(percent(rows), 1), "low": round(low, 1),
                      "high": round(high, 1), "errors": errors(rows),
                      **{level: round(percent([r for r in rows if r["level"] == level]), 1)
                         for level in LEVELS}}
    if parent:
        row["gain"] = gain(*(sum(verdicts.values(), []) for verdicts in (by_split, parent)))
    return row


def table(rows, splits):
    """The rows in Markdown."""
    head = ["model", "answers", "val", *splits, *LEVELS, "gain on its parent", "hours"]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        change = "{:+.1f} ({:+.1f} to {:+.1f})".format(*row["gain"]) if "gain" in row else ""
        answers = "greedy" if row["samples"] == 1 else f"vote of {row['samples']}"
        shares = ["{ex} ({low} to {high})".format(**row[split]) for split in splits]
        lines.append([row["model"], answers, row["val"], *shares,
                      *(row[splits[0]][level] for level in LEVELS), change, row["hours"]])
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--splits", nargs="+", default=["dev", "dev_syn", "dev_dk"])
    parser.add_argument("--samples", nargs="+", type=int, default=[1])
    parser.add_argument("--candidates", nargs="+")
    options, words = parser.parse_known_args()
    paths = sorted(options.run.glob("*/candidate.json"), key=lambda path: path.stat().st_mtime)
    records = {p.parent.name: json.loads(p.read_text()) for p in paths
               if p.parent.name in (options.candidates or [p.parent.name])}
    rows, answers, seen = [], [], {}
    for samples in options.samples:
        for name, record in records.items():           # parents first
            folder = record["folder"] if name == "base" else str(options.run / name)
            found = {split: answered(options, words, name, folder, split, samples)
                     for split in options.splits}
            seen[name, samples] = found
            rows.append(row_of(record, samples, found, seen.get((record["parent"], samples))))
            answers += [{"model": name, "samples": samples, "split": split, **{
                key: r[key] for key in ("index", "pred", "correct")}}
                for split, verdicts in found.items() for r in verdicts]
    write_json(options.out / "spider.json", rows)
    write_lines(options.out / "predictions.jsonl", answers)
    print("\n" + table(rows, options.splits))
    for row in rows:
        print(f"{row['model']}, {row['samples']} samples, wrong on {options.splits[0]}: "
              f"{row[options.splits[0]]['errors']}")


if __name__ == "__main__":
    sys.exit(main())
