"""The paper's comparisons, over several seeds.

    python tests/bench/experiment.py --search --seeds 3 --selfplay_lr 1e-4 --out runs/search
    python tests/bench/experiment.py --ablate --seeds 3 --selfplay_lr 1e-4 --out runs/search
    python tests/bench/experiment.py --seeds 10 --selfplay_rounds 2 --best runs/search/search.json

The first two try the same number of settings for each loss, and changes of self-play, on validation
of seeds from 100 on.  The third trains every system with every seed, then reads test once: OUT's
report.md, experiment.json and report.png.  What ran is not run again: seeds may run side by side,
and a last call over all compares them.  Other options are those of spft.py.

    --start RUN                        all seeds play from the candidates of that run directory
    --losses spin dpo                  only these; calls may run side by side, and one that has spft
                                       and sft among them compares what they trained
    --splits dev dev_syn dev_dk        compare on these, all together, instead of on test
    --table 2|3|12|14, --figure 3|4    what the paper's table or figure of that number shows, from
                                       the JSON, beside the paper's own figures
    --check                            do all figures of the READMEs follow from the JSON?
"""

import argparse
import os
import random
import re
import shutil
import sys
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))
import torch                                                                        # noqa: E402

import model as lm                                                                  # noqa: E402
from data.prompts.tokenizer import Tokenizer                                        # noqa: E402
import spft                                                                         # noqa: E402
from data.report.files import read_lines, write_text                                # noqa: E402
from data.report.resume import forget                                               # noqa: E402
from data.report.tables import SHOWN, line_of, percent                              # noqa: E402
from data.report.terminal import run_command                                        # noqa: E402
from model import join_ranks, leave_ranks, on_rank0                                 # noqa: E402
from spft import (                                                                  # noqa: E402
    BASE, CHOICES, Run, Task, answer_rows, best, complete, examples_of_round, load_model,
    parse_config, run_selfplay, run_vbift, sample_pairs, with_logprobs, write_json, write_lines)
from sqlexec import DataError, Verifier                                             # noqa: E402

LOSSES = CHOICES["loss"]
SPFT, CONTINUED = "VBI-FT + self-play (SPFT)", "VBI-FT + SFT continued"
# System -> (end of its run's folder, its line of candidates, the system it is measured against)
SYSTEMS = {
    "base": ("", "base", None),
    "SFT": ("", "sft", "base"),
    "SFT + self-play": ("-direct", "selfplay", "SFT"),
    "VBI-FT": ("", "vbift", "SFT"),
    CONTINUED: ("-sft", "continued", "VBI-FT"),
    "VBI-FT + DPO": ("-dpo", "dpo", CONTINUED),
    "VBI-FT + PPO": ("-ppo", "ppo", CONTINUED),
    "VBI-FT + SPIN": ("-spin", "spin", CONTINUED),
    SPFT: ("", "selfplay", CONTINUED),
}
LINES = {line: end for end, line, _ in SYSTEMS.values()
         if line not in ("base", "sft") and end != "-direct"}
LABELS = {"vbift": "VBI-FT", "selfplay": "self-play", "continued": "SFT continued", "dpo": "DPO",
          "ppo": "PPO", "spin": "SPIN"}
# All that is compared, of which the intervals are corrected together.
COMPARED = [(system, control) for system, (_, _, control) in SYSTEMS.items() if control] + [
    (SPFT, other) for other in ("VBI-FT", "VBI-FT + DPO", "VBI-FT + PPO", "VBI-FT + SPIN")]
CONSTRUCTS = {"one table": r"^(?!.*( JOIN |\(\s*SELECT| INTERSECT | UNION | EXCEPT ))",
              "join": r" JOIN ", "nesting": r"\(\s*SELECT",
              "set operator": r" (INTERSECT|UNION|EXCEPT) ",
              "aggregate": r"\b(COUNT|AVG|MAX|MIN|SUM)\s*\("}


# ---------------------------------------------------------------------------------------------
# Training

def train(cfg, task, seed, end, loss, source=None, opponent="weakest", R=None, consistent=False,
          **change):
    """The finished Run in OUT/seed-SEED-END.  source: the Run whose candidates it starts from;
    opponent, R: see `playing`; consistent: play on no synthetic pair whose round trip fails, in as
    many updates."""
    own = replace(cfg, seed=seed, loss=loss, out=f"{cfg.out}/seed-{seed}{end}", **change)
    run = started(own, task, source)
    if consistent:
        made, kept = run.synthetic(own.rounds), consistent_pairs(task, run)
        run.synthetic = lambda round: kept
        own = replace(own, selfplay_epochs=own.selfplay_epochs * (len(task.train) + len(made))
                      / (len(task.train) + len(kept)))
    with playing(opponent, f"{seed}{end}", R):
        run_selfplay(own, task, run)
    return run


def started(cfg, task, source):
    """A Run with the candidates of VBI-FT of another one, if any."""
    run = Run(cfg, task)
    if source:
        on_rank0(lambda: lend(source.out, run.out, ["base", "sft"] + [
            f"vbift-{r + 1}" for r in range(cfg.rounds)]))
    return run


def consistent_pairs(task, run):
    """The last round's synthetic Examples whose question leads the best candidate to their rows."""
    examples, path = run.synthetic(run.cfg.rounds), run.out / "consistent.jsonl"
    if not path.exists():
        model = load_model(run.cfg, best(run.of_stage("vbift")).folder)
        samples = task.answer(model, [task.prompts.sql(e) for e in examples], "round trip")
        write_lines(path, answer_rows(task, examples, samples))
    return [e for e, row in zip(examples, read_lines(path)) if row["correct"]]


def lend(source, target, names):
    """Candidates of one run directory in another, each whole or not at all, and the opponents'
    answers: who plays the same opponent does not ask it again."""
    for name in names:
        if not (target / name).exists():
            shutil.rmtree(target / f"{name}.tmp", ignore_errors=True)
            shutil.copytree(source / name, target / f"{name}.tmp", copy_function=os.link)
            os.replace(target / f"{name}.tmp", target / name)
    for path in source.glob("*/pairs.jsonl"):
        name = path.parent.name.removeprefix("lent-")
        lent = target / f"lent-{name}/pairs.jsonl"
        if not lent.exists() and not (target / name).exists():
            lent.parent.mkdir(exist_ok=True)
            os.link(path, lent)


@contextmanager
def playing(opponent, seed, R=None):
    """Self-play against the `weakest` candidate as in the paper, main's own start (`self`) or a
    `random` candidate; R: 0 = no sample is pushed down, 1 = all are."""
    players, reward, rng = spft.players, spft.error_reward, random.Random(seed)

    def others(loss, candidates):
        main, weakest = players(loss, candidates)
        rest = [c for c in candidates if c.name != main.name] or [main]
        return main, {"weakest": weakest, "self": main, "random": rng.choice(rest)}[opponent]

    spft.players = others
    if R is not None:
        spft.error_reward = lambda correct: torch.full(correct.shape, float(R))
    try:
        yield
    finally:
        spft.players, spft.error_reward = players, reward


def run_experiment(cfg, task, seeds, chosen, start=None, losses=LOSSES):
    """Train every system with every seed, then read test once.  chosen: {loss: settings}; start:
    the Run whose candidates all seeds play from, by default each seed makes its own."""
    runs = []
    for seed in range(cfg.seed, cfg.seed + seeds):
        first = start if start and "spft" not in losses else train(
            cfg, task, seed, "", "spft", start, **chosen.get("spft", {}))
        runs.append({"": first})
        for loss in losses:
            if loss != "spft":
                runs[-1][f"-{loss}"] = train(cfg, task, seed, f"-{loss}", loss, first,
                                             **chosen.get(loss, {}))
        if not start:
            runs[-1]["-direct"] = train(cfg, task, seed, "-direct", "spft", first, rounds=0,
                                        **chosen.get("spft", {}))
    if {"spft", "sft"} <= set(losses):
        write_report(cfg, task, runs)


# ---------------------------------------------------------------------------------------------
# Searches, on validation of seeds that no table reports

def tries(cfg, losses=LOSSES, most=8):
    """As many settings for each loss: three rates by two lambdas, or six rates where there is no
    lambda; and two rates with twice as many passes.  The first `most` of them."""
    by_lam = [{"selfplay_lr": cfg.selfplay_lr * rate, "lam": cfg.lam * lam}
              for rate in (1, 0.3, 3) for lam in (1, 0.1)]
    by_rate = [{"selfplay_lr": cfg.selfplay_lr * rate} for rate in (1, 0.3, 3, 0.1, 2, 6)]
    twice = [{"selfplay_lr": cfg.selfplay_lr * rate, "selfplay_epochs": 2 * cfg.selfplay_epochs}
             for rate in (0.3, 1)]
    return {loss: ((by_rate if loss == "sft" else by_lam) + twice)[:most] for loss in losses}


def ablations(cfg):
    """Changes of self-play, one at a time."""
    return {"spft": [{}, {"opponent": "self"}, {"opponent": "random"}, {"games": 4},
                     {"consistent": True}, {"R": 0}, {"R": 1},
                     *({"lam": cfg.lam * x} for x in (0.05, 0.25, 4))]}


def tries_of(path):
    """The tries in a search's JSON file."""
    tried = lm.read_json(Path(path)).get("tries")
    if not isinstance(tried, list) or not tried or not all(
            isinstance(row, dict) and row.keys() >= {"loss", "settings", "ex"} for row in tried):
        raise DataError(f"{path}: not the JSON of a search")
    return tried


def best_tries(cfg, rows):
    """{loss: settings}: the best on validation of each loss, all with the same number of passes,
    that with which the losses do best on average; so the updates are the same for all."""
    def winner(loss, epochs):
        return max((r for r in rows if r["loss"] == loss and epochs == r["settings"].get(
            "selfplay_epochs", cfg.selfplay_epochs)), key=lambda r: r["ex"])

    losses = dict.fromkeys(r["loss"] for r in rows)
    passes = {r["settings"].get("selfplay_epochs", cfg.selfplay_epochs) for r in rows}
    epochs = max(sorted(passes), key=lambda n: fmean(winner(loss, n)["ex"] for loss in losses))
    return {loss: winner(loss, epochs)["settings"] for loss in losses}


def search(cfg, task, seeds, settings, path, start=None):
    """Train one round with each of {loss: [settings]} on each seed from 100 on; the table of
    validation EX, and of each loss the best, written to the path.  start: as in run_experiment."""
    cfg, found, starts = replace(cfg, selfplay_rounds=1), defaultdict(list), []
    for seed in range(100 + cfg.seed, 100 + cfg.seed + seeds):
        own = replace(cfg, seed=seed, out=f"{cfg.out}/seed-{seed}")
        first = started(own, task, start)
        starts.append(best(run_vbift(own, task, first)).ex)
        for loss, changes in settings.items():
            for change in changes:
                words = "".join(f"-{name}={value:g}" if isinstance(value, (int, float)) else
                                f"-{name}={value}" for name, value in change.items())
                run = train(cfg, task, seed, f"-{loss}{words}", loss, first, **change)
                on_rank0(lambda: lend(run.out, first.out, ()))     # for the tries that follow
                found[loss, words].append(run.load(f"{line_of(run.cfg)}-1").ex)
    rows = [{"loss": loss, "settings": change, "by seed": by_seed, "ex": round(fmean(by_seed), 2),
             "gain": round(fmean(by_seed) - fmean(starts), 2)}
            for (loss, change), by_seed in zip(
                [(loss, c) for loss, changes in settings.items() for c in changes],
                found.values())]
    result = {"start": starts, "tries": rows, "best": best_tries(cfg, rows)}
    write_json(path, result)
    print(search_text(result))


def search_text(result):
    """The tries of a search in Markdown."""
    return table(f"One round on validation, {len(result['start'])} seeds, from EX "
                 f"{fmean(result['start']):.1f}", ["loss", "settings", "EX", "gain", "by seed"],
                 [[r["loss"], said(r["settings"]), f"{r['ex']:.1f}", f"{r['gain']:+.1f}",
                   ", ".join(f"{ex:.1f}" for ex in r["by seed"])] for r in result["tries"]])


def said(settings):
    return ", ".join(f"{name} {value:g}" if isinstance(value, (int, float)) else f"{name} {value}"
                     for name, value in settings.items()) or "as in the paper"


# ---------------------------------------------------------------------------------------------
# Measuring

def write_report(cfg, task, runs):
    """Score test for all candidates and compare; OUT/experiment.json, report.md and report.png."""
    scored = {system: [test_rows(task, run[end], best(run[end].of_stage(line))) for run in runs]
              for system, (end, line, _) in SYSTEMS.items() if end in runs[0]}
    rows = scored["base"][0]
    db_ids, golds = ({gold: i for i, gold in enumerate(dict.fromkeys(keys))} for keys in (
        [r["db_id"] for r in rows], [(r["db_id"], r["gold"]) for r in rows]))
    verdicts = {"of": [[db_ids[r["db_id"]], golds[r["db_id"], r["gold"]]] for r in rows],
                "correct": {system: [bits(one) for one in by_seed]
                            for system, by_seed in scored.items()}}
    systems, compared = measured(verdicts)
    for row in systems:
        row["constructs"] = by_construct(scored[row["system"]])
        row["splits"] = by_split(task, scored[row["system"]])
    alone = [run[""] for run in (runs if "-direct" in runs[0] else runs[:1])]      # one VBI-FT
    settings = ("rounds", "selfplay_rounds", "selfplay_epochs", "batch")
    result = {"data": Path(cfg.data).name, "seeds": len(runs),
              "settings": {name: getattr(cfg, name) for name in settings} | {
                  end or "-spft": {k: getattr(run.cfg, k) for k in ("lam", "selfplay_lr", "games")}
                  for end, run in runs[0].items()},
              "systems": systems, "comparisons": compared, "rounds": by_round(task, runs),
              "pairs": pairs_by_round(alone),
              **({"consistency": consistency(task, alone), "cost": costs(runs)}
                 if "-direct" in runs[0] else {}),             # each seed made its own VBI-FT
              "log p": log_p_by_round(runs), "why": why(task, [run[""] for run in runs]),
              "minutes": round(sum(c.seconds for run in runs for c in own_candidates(run)) / 60, 1),
              "verdicts": verdicts}
    write_json(Path(cfg.out) / "experiment.json", result)
    on_rank0(lambda: draw_report(result, Path(cfg.out) / "report.png"))
    text = report_text(result)
    picture = "\n![EX of each system, and by round](report.png)\n"
    picture *= (Path(cfg.out) / "report.png").exists()
    on_rank0(lambda: write_text(Path(cfg.out) / "report.md", text + picture))
    print(text)


def bits(rows):
    """Verdicts as hexadecimal digits, a bit each, from the first on."""
    return f"{int('1' + ''.join(str(int(row['correct'])) for row in rows), 2):x}"


def measured(verdicts):
    """(a record of each system, one of each comparison) from the verdicts of all seeds.

    verdicts: {"of": of each question its database's and its query's number, "correct": {system:
    bits of each seed}}."""
    correct = {system: torch.tensor([[float(bit) for bit in f"{int(one, 16):b}"[1:]]
                                     for one in by_seed])
               for system, by_seed in verdicts["correct"].items()}                      # (S, N)
    compared, systems = compare(correct, [tuple(pair) for pair in verdicts["of"]]), []
    for system, verdict in correct.items():
        by_seed, control = (100 * verdict.double().mean(1)).tolist(), SYSTEMS[system][2]
        gain = next((c for c in compared if (c["system"], c["control"]) == (system, control)), {})
        systems.append({"system": system, "ex": round(fmean(by_seed), 2),
                        "spread": round(spread(by_seed), 2),
                        "by seed": [round(ex, 2) for ex in by_seed], "n": verdict.shape[1],
                        "control": control,
                        **{k: gain[k] for k in ("gain", "low", "high") if gain}})
    return systems, compared


def test_rows(task, run, candidate):
    """A candidate's verdicts on the splits that are compared, one behind the other."""
    rows, model = [], None
    for split in task.compared:
        if not model and not (run.out / candidate.name / f"{split}.jsonl").exists():
            model = load_model(run.cfg, candidate.folder)
        rows += run.score(task, model, candidate.name, split)
    return rows


def own_candidates(run):
    """The candidates of a seed, each once: {end: Run}."""
    direct = run["-direct"].of_stage("selfplay") if "-direct" in run else []
    return run[""].everyone() + direct + [
        c for line, end in LINES.items() if end and end in run for c in run[end].of_stage(line)]


def spread(values):
    """Standard deviation over seeds; 0 of a single one."""
    return stdev(values) if len(values) > 1 else 0.0


def compare(correct, golds):
    """A record of each comparison: gain, 95% interval, p before and after Holm's correction over
    all of them, and by seed the questions won and lost.  correct: {system: (S, N)}; golds: of the
    N questions, (database, query)."""
    found = []
    for system, control in (pair for pair in COMPARED if correct.keys() >= set(pair)):
        gain, low, high, p = paired_gain(correct[system], correct[control], golds,
                                         [db for db, _ in golds])
        change = correct[system] - correct[control]
        found.append({"system": system, "control": control, "gain": gain, "low": low, "high": high,
                      "p": p, "won": (change > 0).sum(1).tolist(),
                      "lost": (change < 0).sum(1).tolist()})
    for row, p in zip(found, holm([row["p"] for row in found])):
        row["corrected"] = round(p, 4)
    return found


def holm(values):
    """p corrected for so many comparisons (Holm 1979): the k-th smallest of m times m - k + 1."""
    order, highest, found = sorted(range(len(values)), key=values.__getitem__), 0.0, list(values)
    for k, i in enumerate(order):
        found[i] = highest = max(highest, min(1.0, values[i] * (len(values) - k)))
    return found


def paired_gain(a, b, queries, databases=None, draws=4000):
    """Mean of a - b in points, its 95% interval and a two-sided p: a, b (S, N) verdicts of S seeds
    on the same N questions.  A bootstrap that draws anew seeds, databases (N of them), and of each
    database its distinct queries: questions with one gold query are not independent."""
    rng = torch.Generator().manual_seed(0)
    databases = databases or [0] * len(queries)
    number = {query: i for i, query in enumerate(dict.fromkeys(queries))}
    group = torch.tensor([number[query] for query in queries])
    gains = torch.zeros(len(a), len(number)).index_add_(1, group, 100 * (a - b))    # (S, G) sums
    sizes = torch.bincount(group).float()                                           # (G,)
    of_db = defaultdict(dict)
    for query, db in zip(queries, databases):
        of_db[db][number[query]] = None
    pools = [torch.tensor(list(pool)) for pool in of_db.values()]
    means = []
    for _ in range(draws):
        seeds = torch.randint(len(a), (len(a),), generator=rng)
        picked = torch.randint(len(pools), (len(pools),), generator=rng).tolist()
        asked = torch.cat([pools[d][torch.randint(len(pools[d]), (len(pools[d]),), generator=rng)]
                           for d in picked])
        means.append(gains[seeds].mean(0)[asked].sum() / sizes[asked].sum())
    means = torch.stack(means)
    low, high = means.quantile(torch.tensor([0.025, 0.975])).tolist()
    rarer = min(int((means <= 0).sum()), int((means >= 0).sum()))
    return (round(float(100 * (a - b).mean()), 2), round(low, 2), round(high, 2),
            min(1.0, 2 * (rarer + 1) / (draws + 1)))


def by_construct(scored):
    """{construct of the gold: [EX, questions]}, mean over seeds."""
    found = {}
    for name, pattern in CONSTRUCTS.items():
        parts = [[row for row in one if re.search(pattern, row["gold"], re.I | re.S)]
                 for one in scored]
        if parts[0]:
            found[name] = [round(fmean(map(percent, parts)), 2), len(parts[0])]
    return found


def by_split(task, scored):
    """{split: EX}, mean over seeds, where there are several."""
    sizes, found = [len(getattr(task, split)) for split in task.compared], {}
    for split, size in zip(task.compared, sizes):
        found[split] = round(fmean(percent(one[:size]) for one in scored), 4)
        scored = [one[size:] for one in scored]
    return found if len(sizes) > 1 else {}


def by_round(task, runs):
    """EX after each round, mean over seeds: {line: [[name, val EX, test EX], ...]} (Fig. 3)."""
    return {line: [[row[0].name, round(fmean([c.ex for c in row]), 2),
                    round(fmean([percent(test_rows(task, run[end], c))
                                 for run, c in zip(runs, row)]), 2)]
                   for row in zip(*(run[end].of_stage(line) for run in runs))]
            for line, end in LINES.items() if end in runs[0]}


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
    by_seed = [{c.name: c.seconds for c in own_candidates(run)
                if c.name != "base"} for run in runs]
    return {name: round(fmean([one[name] / one["sft"] for one in by_seed]), 2)
            for name in by_seed[0]}


# ---------------------------------------------------------------------------------------------
# Why: what the terms of Eq. 3 do

def log_p_by_round(runs):
    """Log p of gold and of wrong samples before and after each round of self-play, and the share of
    errors in its samples, mean over seeds."""
    found = {}
    for line, end in LINES.items():
        for row in zip(*(run[end].of_stage(line) for run in runs if end in run)):
            if "before" in row[0].metrics:
                found[row[0].name] = {"R = 1": round(100 * fmean(
                    [c.metrics["R = 1"] for c in row]), 1)} | {
                        f"{what} {when}": round(fmean([c.metrics[when][what] for c in row]), 3)
                        for what in ("gold", "wrong sample") for when in ("before", "after")}
    return found


def why(task, runs):
    """By round of Eq. 3, mean over seeds: the gradient's weight sigmoid(-z) at the start, and of
    the opponent's errors the share where main is wrong too."""
    names = [c.name for c in runs[0].of_stage("selfplay")]
    rows = {name: [first_step(task, run, name) for run in runs] for name in names}
    return {name: {key: round(fmean([one[key] for one in found]), 2) for key in found[0]}
            for name, found in rows.items()}


def first_step(task, run, name):
    """Those figures of one round, over its first pairs; kept in OUT/NAME/why.json."""
    path = run.out / name / "why.json"
    if not path.exists():
        cfg, record = run.cfg, run.load(name)
        main, opponent = (run.load(record.metrics[key]) for key in ("main", "opponent"))
        rng = random.Random(f"{cfg.seed}/play {name.rpartition('-')[2]}")    # as selfplay_round's
        examples, _ = examples_of_round(cfg, task, run, rng)
        pairs, rows = sample_pairs(cfg, task, run, name, opponent, examples, rng)
        picked = random.Random(0).sample(range(len(pairs)), min(SHOWN, len(pairs)))
        pairs, rows = [pairs[i] for i in picked], [rows[i] for i in picked]
        model = load_model(cfg, main.folder)
        weights = [gradient_weight(pair, now.opponent, cfg.lam)
                   for pair, now in zip(pairs, with_logprobs(model, pairs))]
        wrong = [i for i, pair in enumerate(pairs) if pair.R == 1]
        greedy = task.answer(model, [pairs[i].prompt for i in wrong], "main's answers")
        judged = zip(wrong, greedy, task.verdicts(
            [spft.Example(rows[i]["db_id"], rows[i]["question"], rows[i]["gold"]) for i in wrong],
            greedy))
        too = [(task.sql(s) == rows[i]["pred"], not v.correct) for i, s, v in judged]
        write_json(path, {
            "weight": fmean(weights), "off 1/2": fmean(abs(w - 0.5) for w in weights),
            "below 1/4": 100 * fmean(w < 0.25 for w in weights),
            "above 3/4": 100 * fmean(w > 0.75 for w in weights),
            "main wrong too": 100 * fmean([wrong for _, wrong in too] or [0]),
            "with the same SQL": 100 * fmean([same for same, _ in too] or [0])})
        on_rank0(lambda: forget(task.unfinished))
    return lm.read_json(path)


def gradient_weight(pair, main, lam):
    """sigmoid(-z) of Eq. 3, the weight of a pair's gradient; main: its log p of gold and sample."""
    gold, sample = (now - before for now, before in zip(main, pair.opponent))
    return float(torch.sigmoid(torch.tensor(-lam * (gold - pair.R * sample))))


# ---------------------------------------------------------------------------------------------
# Tables

def table(title, head, rows):
    """A table in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, ["---"] * len(head), *rows)]
    return "\n".join([f"### {title}", "", *lines, ""])


def gain_of(row):
    return (f"{row['gain']:+.1f} ({row['low']:+.1f} to {row['high']:+.1f}) on "
            f"{row['control'].removeprefix('VBI-FT + ')}" if row.get("control") else "")


def report_text(result):
    """All tables in Markdown."""
    def lines(key):
        return (result.get(key) or {}).items()

    systems = result["systems"]
    compared = [[f"{row['system']} on {row['control']}", gain_of(row).partition(" on ")[0],
                 f"{row['p']:.4f}", f"{row['corrected']:.4f}",
                 " ".join(f"{w}:{x}" for w, x in zip(row["won"], row["lost"]))]
                for row in result.get("comparisons", [])]
    names, splits = (list(systems[0].get(key, {})) for key in ("constructs", "splits"))
    parts = [
        (f"Test EX over {result['seeds']} seeds, {systems[0]['n']} questions",
         ["system", "EX", "spread over seeds", "gain (95% interval)"],
         [[r["system"], f"{r['ex']:.1f}", f"{r['spread']:.1f}", gain_of(r)] for r in systems]),
        ("Test EX by set", ["system", *splits, "all", "gain (95% interval)"],
         [[r["system"], *(f"{r['splits'][name]:.1f}" for name in splits), f"{r['ex']:.1f}",
           gain_of(r)] for r in systems if splits]),
        ("Comparisons", ["of what", "gain (95% interval)", "p", "Holm's p",
                         "questions won:lost by seed"], compared),
        ("Test EX by construct", ["system", *(f"{name}, {systems[0]['constructs'][name][1]}"
                                              for name in names)],
         [[r["system"], *(f"{r['constructs'][name][0]:.1f}" for name in names)]
          for r in systems if names]),
        ("By round", ["", "validation EX, round by round", "test EX", "time, SFT's = 1"],
         [[LABELS[line], *(", ".join(f"{row[k]:.1f}" for row in found) for k in (1, 2)),
           ", ".join(f"{result['cost'][row[0]]:.1f}" for row in found if result.get("cost"))]
          for line, found in result["rounds"].items()]),
        ("Synthetic pairs by round", ["round", "training", "y+", "y-"],
         [[name, *parts.values()] for name, parts in lines("pairs")]),
        ("Questions whose SQL is found again (validation, %)", ["who asks", "consistent"],
         [[name, f"{share:.1f}"] for name, share in lines("consistency")]),
        ("Log p before and after each round", ["round", "wrong samples, %", "gold", "wrong sample"],
         [[name, f"{r['R = 1']:.1f}", *(f"{r[f'{what} before']:.2f} to {r[f'{what} after']:.2f}"
                                        for what in ("gold", "wrong sample"))]
          for name, r in lines("log p")]),
        ("The first step of Eq. 3", ["round", "mean sigmoid(-z)", "its distance from 1/2",
                                     "below 1/4, %", "above 3/4, %",
                                     "opponent's errors that main makes too, %",
                                     "with the same SQL, %"],
         [[name, *r.values()] for name, r in lines("why")])]
    return "\n".join(table(title, head, rows) for title, head, rows in parts if rows)


def draw_report(result, path):
    """Systems with their spread over seeds, gains with their intervals, and EX by round; nothing
    where matplotlib is absent."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    bars, gains, lines = figure.subplots(1, 3)
    rows = result["systems"][::-1]
    bars.barh([row["system"] for row in rows], [row["ex"] for row in rows],
              xerr=[row["spread"] for row in rows])
    bars.set_xlabel("test EX, %")
    rows = [row for row in rows if row.get("control") not in (None, "base")]
    names = [f"{row['system']}\non {row['control']}".replace("VBI-FT + ", "") for row in rows]
    gains.errorbar([row["gain"] for row in rows], names, fmt="o", xerr=[
        [row["gain"] - row["low"] for row in rows], [row["high"] - row["gain"] for row in rows]])
    gains.axvline(0, color="grey")
    gains.margins(y=0.1)
    gains.set_xlabel("gain in points, 95% interval")
    start = result["rounds"]["vbift"][-1][2]
    after = {line: [start, *(row[2] for row in found)]
             for line, found in result["rounds"].items() if line != "vbift"}
    for line, values in after.items():
        lines.plot(values, marker="o", label=LABELS[line])
    low, high = min(map(min, after.values())), max(map(max, after.values()))
    lines.set_ylim(low - 2, high + 2)                     # what is alike must not look different
    lines.set_xticks(range(max(map(len, after.values()))))
    lines.set_xlabel("round after VBI-FT")
    lines.set_ylabel("test EX, %")
    lines.legend()
    figure.savefig(path, dpi=130)


# The paper's figures, Qwen2.5-Coder-7B: EX on Spider test, Spider dev and BIRD dev; "" where the
# project's account of the paper has none.
PAPER = {"base": ("81.5", "", "51.5"), "SFT": ("83.7", "", "54.4"), "SPIN": ("79.0", "", "34.8"),
         "VBI-FT + DPO": ("84.6", "84.7", ""), "VBI-FT + PPO": ("86.6", "85.1", ""),
         SPFT: ("87.4", "87.2", "61.0")}
PAPERS = ["paper: Spider test", "Spider dev", "BIRD dev"]


def shown(result, kind, number):
    """The paper's table or figure of that number with what the JSON has for it, in Markdown."""
    ex = {row["system"]: f"{row['ex']:.1f}" for row in result["systems"]}
    if (kind, number) in (("table", 2), ("table", 3)):
        ours = {"base": "base", "SPIN": "VBI-FT + SPIN", "SFT": "SFT", SPFT: SPFT}
        if number == 3:
            ours = {name: name for name in ("VBI-FT", "VBI-FT + DPO", "VBI-FT + PPO", SPFT)}
        head, rows = ["system", "here", *PAPERS], [
            [name, ex.get(own, ""), *PAPER.get(name, ("", "", ""))] for name, own in ours.items()]
    elif (kind, number) == ("table", 12):
        head, rows = ["questions consistent with their SQL, %", "here", "paper"], [
            [name, here, paper] for (name, here), paper in
            zip(result.get("consistency", {}).items(), ("56.5", "93.5"))]
    elif (kind, number) == ("table", 14):
        head, rows = ["time as a multiple of SFT's", "here", "paper"], [
            [name, times, "about 2" if name.startswith(("vbift", "selfplay")) else ""]
            for name, times in result.get("cost", {}).items()]
    elif (kind, number) == ("figure", 3):
        head, rows = ["round", "validation", "test", "paper"], [
            [*row, {"spin": "falls", "selfplay": "rises"}.get(line, "")]
            for line, found in result["rounds"].items() for row in found]
    elif (kind, number) == ("figure", 4):
        head, rows = ["round", "synthetic pairs for training", "y+", "y-", "paper"], [
            [name, *parts.values(), "best with 3000"] for name, parts in result["pairs"].items()]
    else:
        raise DataError(f"--{kind} {number}: choose from --table 2, 3, 12, 14, --figure 3, 4")
    return table(f"{kind} {number} of the paper; here {result['data']}, {result['seeds']} seeds",
                 head, rows)


# ---------------------------------------------------------------------------------------------
# Are the figures of the READMEs those of the JSON?

QUOTED = {"README.md": "## Results", "tests/bench/README.md": "## The paper's comparisons"}


def misquoted(results, texts):
    """What does not agree, in words: rows of the tables under QUOTED's headings that are no row of
    a report, and figures in their prose that no report has.

    results: the JSON objects of experiments and searches; texts: {file: its text}."""
    reports = "\n".join(search_text(r) if "tries" in r else report_text(r) for r in results)
    rows, figures = {cells(line) for line in reports.splitlines()}, set(figures_of(reports))
    wrong = []
    for file, heading in QUOTED.items():
        section = texts[file].partition(heading + "\n")[2].partition("\n## ")[0]
        quoted = [line for table in re.findall(r"(?:^\|.*\n)+", section, re.M)
                  for line in table.splitlines()[2:]]
        wrong += [f"{file}: no row of the report: {line}" for line in quoted
                  if cells(line) not in rows]
        prose = re.sub(r"^(\||    ).*\n", "", section, flags=re.M)
        wrong += [f"{file}: no figure of the report: {figure}" for figure in figures_of(prose)
                  if figure not in figures]
        if not quoted:
            wrong.append(f"{file}: no table under {heading}")
    return wrong


def inconsistent(result):
    """In words, what of an experiment's figures does not follow from its verdicts, or of a search's
    from its tries."""
    if "tries" in result:
        start = fmean(result["start"])
        return [f"search, {row['loss']}, {said(row['settings'])}: figures that are not its seeds'"
                for row in result["tries"] if abs(row["ex"] - fmean(row["by seed"])) > 0.011
                or abs(row["gain"] - fmean(row["by seed"]) + start) > 0.011]
    systems, compared = measured(result["verdicts"])
    return [f"experiment, {row['system']}: figures that are not its verdicts'"
            for rows, kept in ((systems, result["systems"]), (compared, result["comparisons"]))
            for row, record in zip(rows, kept) if not row.items() <= record.items()]


def figures_of(text):
    """The numbers with a decimal point in a text, without their sign; not those in names."""
    return re.findall(r"(?<![\w.])\d+\.\d+(?![\w-])", text)


def cells(line):
    """A row's cells without what sets them bold."""
    return tuple(cell.strip() for cell in line.replace("**", "").strip().strip("|").split("|"))


def check():
    results = [lm.read_json(path) for path in sorted(HERE.glob("experiment*.json"))]
    wrong = [what for result in results for what in inconsistent(result)]
    wrong += misquoted(results, {file: (ROOT / file).read_text("utf-8") for file in QUOTED})
    print("\n".join(wrong) or "every figure quoted is one of the reports")
    return 1 if wrong else 0


# ---------------------------------------------------------------------------------------------
# Command line

def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("--seeds", type=int, default=5, help="so many, from --seed on (5)")
    parser.add_argument("--best", nargs="+", default=[], help="searches: each loss's settings")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=LOSSES)
    parser.add_argument("--tries", type=int, default=8, help="of each loss in a search (8)")
    parser.add_argument("--start", help="a run directory whose candidates all seeds play from")
    parser.add_argument("--splits", nargs="+", help="compare on these instead of on test")
    for name in ("search", "ablate", "check"):
        parser.add_argument(f"--{name}", action="store_true")
    for name in ("table", "figure"):
        parser.add_argument(f"--{name}", type=int, metavar="NUMBER")
    parser.add_argument("--json", type=Path, default=HERE / "experiment.json",
                        help="of which experiment (tests/bench/experiment.json)")
    return parser.parse_known_args(arguments)


def main(arguments=None):
    own, rest = parse(arguments)

    def work():
        if own.check:
            return check()
        if own.table or own.figure:
            kind = "table" if own.table else "figure"
            result = lm.read_json(own.json)
            if not result.keys() >= {"systems", "rounds", "seeds", "data"}:
                raise DataError(f"{own.json}: not the JSON of an experiment")
            print(shown(result, kind, own.table or own.figure))
            return 0
        cfg = complete(parse_config(["--out", "runs/experiment", *rest]))
        for name in ("seeds", "tries"):
            if getattr(own, name) < 1:
                raise DataError(f"--{name} {getattr(own, name)}: 1 or more")
        tried = [row for path in own.best for row in tries_of(path)]
        torch.set_num_threads(cfg.threads)
        join_ranks(cfg.device)
        with Verifier(workers=lm.cpus_per_rank(), timeout=cfg.timeout) as verifier:
            tokenizer = Tokenizer(BASE if cfg.model == "random" else cfg.model)
            task = Task(cfg, tokenizer, verifier)
            task.compared = own.splits or ["test"]
            for split in own.splits or ():
                setattr(task, split, task.checked(split))
            start = own.start and Run(replace(cfg, out=own.start, seed=lm.read_json(
                Path(own.start) / "config.json").get("seed")), task)
            if own.search or own.ablate:
                what = "search" if own.search else "ablate"
                settings = tries(cfg, own.losses, own.tries) if own.search else ablations(cfg)
                search(cfg, task, own.seeds, settings, Path(cfg.out) / f"{what}.json", start)
            else:
                chosen = best_tries(cfg, tried) if tried else {}
                run_experiment(cfg, task, own.seeds, chosen, start, own.losses)
        leave_ranks()
        return 0

    return run_command("experiment.py", work, lambda: not (own.check or own.table or own.figure))


if __name__ == "__main__":
    sys.exit(main())
