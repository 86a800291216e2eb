"""The paper's comparisons, over several seeds.

    python tests/bench/experiment.py --seeds 5 --selfplay_rounds 2 --out runs/experiment

trains every system with every seed, then reads test once.  Tables 2 and 3 (systems), Fig. 3 (EX by
round), Fig. 4 (synthetic pairs by round), Table 12 (consistency of the SQL-to-Text direction) and
Table 14 (cost against SFT) of the paper, in OUT/report.md, experiment.json and report.png.  Seeds
that ran are not run again: some may run side by side, and a last call over all compares them.
Other options are those of spft.py.
"""

import argparse
import os
import shutil
import sys
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
import torch                                                                        # noqa: E402

import model as lm                                                                  # noqa: E402
from data.prompts.tokenizer import Tokenizer                                        # noqa: E402
from data.report.files import read_lines, write_text                                # noqa: E402
from data.report.resume import forget                                               # noqa: E402
from data.report.tables import percent                                              # noqa: E402
from data.report.terminal import run_command                                        # noqa: E402
from model import join_ranks, leave_ranks, on_rank0                                 # noqa: E402
from spft import (                                                                  # noqa: E402
    BASE, CHOICES, Run, Task, answer_rows, best, complete, load_model, parse_config,
    run_selfplay,
    write_json, write_lines)
from sqlexec import DataError, Verifier                                             # noqa: E402

LOSSES = CHOICES["loss"]

# System -> (end of its run's folder, its line of candidates, the system it is measured against)
SYSTEMS = {
    "base": ("", "base", None),
    "SFT": ("", "sft", "base"),
    "SFT + self-play": ("-direct", "selfplay", "SFT"),
    "VBI-FT": ("", "vbift", "SFT"),
    "VBI-FT + SFT continued": ("", "continued", "VBI-FT"),
    "VBI-FT + DPO": ("", "dpo", "VBI-FT + SFT continued"),
    "VBI-FT + SPIN": ("", "spin", "VBI-FT + SFT continued"),
    "VBI-FT + self-play (SPFT)": ("", "selfplay", "VBI-FT + SFT continued"),
}


def run_experiment(cfg, task, seeds):
    """Train every system with every seed, then read test once; tables, a JSON and a picture."""
    runs = []
    for seed in range(cfg.seed, cfg.seed + seeds):
        for end, loss, change in [("", loss, {}) for loss in LOSSES] + [
                ("-direct", "spft", {"rounds": 0})]:
            own = replace(cfg, seed=seed, loss=loss, out=f"{cfg.out}/seed-{seed}{end}", **change)
            run = Run(own, task)
            if end:                             # what would be trained alike is trained once
                on_rank0(lambda: lend(runs[-1].out, run.out, ("base", "sft")))
            run_selfplay(own, task, run)
            if loss == LOSSES[-1]:
                runs.append(run)
    write_report(cfg, task, runs)


def lend(source, target, names):
    """Copy candidates from one run directory to another, each whole or not at all."""
    for name in names:
        if not (target / name).exists():
            shutil.copytree(source / name, target / f"{name}.tmp", dirs_exist_ok=True)
            os.replace(target / f"{name}.tmp", target / name)


def write_report(cfg, task, runs):
    """Score test for all candidates and compare; OUT/experiment.json, report.md and report.png."""
    direct = [Run(replace(run.cfg, out=f"{run.out}-direct", rounds=0), task) for run in runs]
    rows, correct = [], {}
    for system, (end, line, control) in SYSTEMS.items():
        chosen = [best(run.of_stage(line)) for run in (direct if end else runs)]
        scored = [test_rows(task, run, c) for run, c in zip(direct if end else runs, chosen)]
        correct[system] = torch.tensor([[float(r["correct"]) for r in one] for one in scored])
        by_seed = [percent(one) for one in scored]
        row = {"system": system, "ex": round(fmean(by_seed), 2),
               "spread": round(spread(by_seed), 2),
               "by seed": [round(ex, 2) for ex in by_seed], "n": len(scored[0]), "control": control}
        if control:
            gain, low, high = paired_gain(correct[system], correct[control],
                                          [(r["db_id"], r["gold"]) for r in scored[0]])
            row |= {"gain": gain, "low": low, "high": high}
        rows.append(row)
    trained = [c for run in runs for c in run.everyone()] + [
        c for run in direct for c in run.of_stage("selfplay")]
    settings = ("rounds", "selfplay_rounds", "lam", "selfplay_lr", "selfplay_epochs")
    result = {"data": os.path.relpath(cfg.data), "seeds": len(runs),
              "settings": {name: getattr(cfg, name) for name in settings},
              "systems": rows, "rounds": by_round(task, runs), "pairs": pairs_by_round(runs),
              "consistency": consistency(task, runs), "cost": costs(runs),
              "minutes": round(sum(c.seconds for c in trained) / 60, 1)}
    write_json(Path(cfg.out) / "experiment.json", result)
    on_rank0(lambda: draw_report(result, Path(cfg.out) / "report.png"))
    text = report_text(result)
    picture = "\n![EX of each system, and by round](report.png)\n"
    picture *= (Path(cfg.out) / "report.png").exists()
    on_rank0(lambda: write_text(Path(cfg.out) / "report.md", text + picture))
    print(text)


def test_rows(task, run, candidate):
    known = (run.out / candidate.name / "test.jsonl").exists()
    model = None if known else load_model(run.cfg, candidate.folder)
    return run.score(task, model, candidate.name, "test")


def spread(values):
    """Standard deviation over seeds; 0 of a single one."""
    return stdev(values) if len(values) > 1 else 0.0


def paired_gain(a, b, queries, draws=2000):
    """Mean of a - b in points and its 95% interval: a, b (S, N) verdicts of S seeds on the same N
    questions.  A bootstrap that draws seeds and distinct queries anew: two questions with one gold
    query (equal entries of `queries`, N of them) are not independent."""
    rng = torch.Generator().manual_seed(0)
    number = {query: i for i, query in enumerate(dict.fromkeys(queries))}
    group = torch.tensor([number[query] for query in queries])
    gains = torch.zeros(len(a), len(number)).index_add_(1, group, 100 * (a - b))    # (S, G) sums
    sizes = torch.bincount(group).float()                                           # (G,)
    seeds = torch.randint(len(a), (draws, len(a)), generator=rng)
    asked = torch.randint(len(number), (draws, len(number)), generator=rng)
    means = torch.stack([gains[s][:, q].sum() / (len(s) * sizes[q].sum())
                         for s, q in zip(seeds, asked)])
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    return round(float(100 * (a - b).mean()), 2), round(low, 2), round(high, 2)


def by_round(task, runs):
    """EX after each round, mean over seeds: {line: [[name, val EX, test EX], ...]} (Fig. 3)."""
    return {line: [[row[0].name, round(fmean([c.ex for c in row]), 2),
                    round(fmean([percent(test_rows(task, run, c))
                                 for run, c in zip(runs, row)]), 2)]
                   for row in zip(*(run.of_stage(line) for run in runs))]
            for line in ("vbift", "selfplay", "spin", "dpo", "continued")}


def pairs_by_round(runs):
    """Synthetic pairs by round, mean over seeds (Fig. 4): for training, right and wrong (Eq. 1)."""
    found = defaultdict(Counter)
    for run in runs:
        for k in range(1, run.cfg.rounds + 1):
            found[f"vbift-{k}"].update(e.part for e in run.synthetic(k))
    return {name: {part: round(parts[part] / len(runs), 1) for part in ("train", "y+", "y-")}
            for name, parts in found.items()}


def consistency(task, runs):
    """Round trip on validation: share of gold SQL that the last VBI-FT model finds again from the
    question that a model before and after VBI-FT wrote for it (Table 12), mean over seeds."""
    found = defaultdict(list)
    for run in runs:
        last = run.of_stage("vbift")[-1]
        for name in ("sft", last.name):
            path = run.out / name / "roundtrip.jsonl"
            if not path.exists():
                write_lines(path, round_trip(task, load_model(run.cfg, run.load(name).folder),
                                             load_model(run.cfg, last.folder)))
                on_rank0(lambda: forget(task.unfinished))
            found[name].append(percent(read_lines(path)))
    return {name: round(fmean(shares), 2) for name, shares in found.items()}


def round_trip(task, asker, judge):
    """What judge answers to the questions that asker writes for the gold SQL of validation."""
    prompts = [task.prompts.question(e) for e in task.val]
    asked = [replace(e, question=task.text(s), evidence="")
             for e, s in zip(task.val, task.answer(asker, prompts, "questions"))]
    samples = task.answer(judge, [task.prompts.sql(e) for e in asked], "round trip")
    return answer_rows(task, asked, samples)


def costs(runs):
    """Seconds of each candidate as a multiple of SFT's (Table 14), mean over seeds.  Baselines that
    play the main line's games do not sample them again, which spares them time."""
    names = [c.name for c in runs[0].everyone() if c.name != "base"]
    return {name: round(fmean([run.load(name).seconds / run.load("sft").seconds
                               for run in runs]), 2)
            for name in names}


def report_text(result):
    """The tables in Markdown."""
    def table(title, head, rows):
        lines = ["| " + " | ".join(map(str, row)) + " |"
                 for row in (head, ["---"] * len(head), *rows)]
        return "\n".join([f"### {title}", "", *lines, ""])

    gains = [f"{r['gain']:+.1f} ({r['low']:+.1f} to {r['high']:+.1f}) against {r['control']}"
             if r["control"] else "" for r in result["systems"]]
    return "\n".join([
        table(f"Test EX over {result['seeds']} seeds, {result['systems'][0]['n']} questions",
              ["system", "EX", "spread over seeds", "gain (95% interval)"],
              [[r["system"], f"{r['ex']:.1f}", f"{r['spread']:.1f}", gain]
               for r, gain in zip(result["systems"], gains)]),
        table("EX by round", ["round", "validation", "test"],
              [row for line in result["rounds"].values() for row in line]),
        table("Synthetic pairs by round", ["round", "training", "y+", "y-"],
              [[name, *parts.values()] for name, parts in result["pairs"].items()]),
        table("Questions whose SQL is found again (validation, %)", ["who asks", "consistent"],
              result["consistency"].items()),
        table("Time as a multiple of SFT's", ["candidate", "times"], result["cost"].items())])


def draw_report(result, path):
    """Systems with their spread, and EX by round; nothing where matplotlib is absent."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    bars, lines = figure.subplots(1, 2)
    names = [row["system"] for row in result["systems"]][::-1]
    bars.barh(names, [row["ex"] for row in result["systems"]][::-1],
              xerr=[row["spread"] for row in result["systems"]][::-1])
    bars.set_xlabel("test EX, %")
    start = result["rounds"]["vbift"][-1][2]
    for line in ("selfplay", "spin", "dpo", "continued"):
        values = [start, *(row[2] for row in result["rounds"][line])]
        lines.plot(range(len(values)), values, marker="o", label=line)
    lines.set_xticks(range(len(values)))
    lines.set_xlabel("round after VBI-FT")
    lines.set_ylabel("test EX, %")
    lines.legend()
    figure.savefig(path, dpi=130)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=5, help="so many, from --seed on (5)")
    own, rest = parser.parse_known_args(arguments)

    def work():
        cfg = complete(parse_config(["--out", "runs/experiment", *rest]))
        if own.seeds < 1:
            raise DataError(f"--seeds {own.seeds}: 1 or more")
        torch.set_num_threads(cfg.threads)
        join_ranks(cfg.device)
        with Verifier(workers=lm.cpus_per_rank(), timeout=cfg.timeout) as verifier:
            tokenizer = Tokenizer(BASE if cfg.model == "random" else cfg.model)
            run_experiment(cfg, Task(cfg, tokenizer, verifier), own.seeds)
        leave_ranks()

    return run_command("experiment.py", work, lambda: True)


if __name__ == "__main__":
    sys.exit(main())
