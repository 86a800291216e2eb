"""SPFT-SQL: self-play fine-tuning of a language model for text-to-SQL, in one file.

Zhang, Duan, Su, Liu, Han: Findings of EMNLP 2025, arXiv 2509.03937.  Where to find what:

    Eq. 1    split_by_execution    y+ and y-, the model's right and wrong answers (section 3.1.3)
    Eq. 2    error_reward          R(y') = 1 where the opponent's SQL gives another result
    Eq. 3    error_driven_loss     the loss of self-play (section 3.2)
    Stage 0  run_sft               supervised fine-tuning, both directions
    3.1      run_vbift             verification-based iterative fine-tuning (templates: data/)
    Alg. 1   run_selfplay          best candidate against weakest

    python spft.py --stage selfplay                  the whole method on the embedded demo
    python spft.py --stage selfplay --loss spin      a baseline from the same candidate
    python spft.py --stage eval --model DIR --data DIR --split dev
    python spft.py --stage ask --model DIR --db FILE "how many students are there?"

What differs from the paper, or is left open by it:
 1. One set of weights serves both directions, question to SQL and SQL to question; the prompt says
    which (the paper trains a second model).
 2. Templates come from a SQL reader with rules, not from a prompted LLM (data/synthesis).
 3. Templates keep which tables a query reads and how they are linked; aggregates, comparisons and
    sort directions are drawn anew in some; queries that teach nothing are rejected.
 4. Each VBI-FT round starts from the last round's weights (from the base where those are worse on
    validation) and trains on all synthetic pairs so far.
 5. Of a few sampled questions for a synthetic query, the one that names all its text values and
    makes the query likeliest is kept; log p below --least_logp drops it as garbled (of 160 that
    were read: precision 76%, recall 62%).
 6. A random sixth of a round's synthetic pairs is its synthetic validation set.  From the second
    round on, half the draws follow the templates of y-, half their frequency in training.
 7. The opponent is the weakest fine-tuned candidate: the untuned base model is not in M.
 8. A round of self-play that loses validation accuracy joins the candidates but never becomes main,
    since main is always the best; of equals the newest is.
 9. Self-play asks the labelled and the last round's synthetic questions.  The golds of the latter
    are noisy, so that R = 1 also punishes some right SQL there.
10. A gold that does not run gives no verdict: its example counts nowhere.
11. Training writes SQL in one canonical form where that returns the gold's rows; verdicts are
    always against the gold as written.  The SQL of test questions decides nothing.
12. The embedded demo starts from a 2-million-parameter model of our own (data/base).
13. PPO: an answer is one action; no value network, but the mean reward of four samples of the same
    prompt; samples are drawn once a round, from main, which the KL term holds it to.
"""

import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")   # spinning threads steal the verifier's core
import torch
import torch.nn.functional as F

import model as lm
from data.benchmarks import scoring
from data.benchmarks.reader import Example, read_examples
from data.benchmarks.task import Task
from data.prompts.pairs import (
    chunked, halves, micro_batches, packed_length, spread, steps_of, steps_of_groups)
from data.prompts.prompts import FORMS, is_question, text_values
from data.prompts.tokenizer import Tokenizer
from data.report.ask import Asker, voted
from data.report.files import read_lines
from data.report.page import write_page
from data.report.plan import in_words, seconds_left, steps_of_run
from data.report.progress import progress
from data.report.resume import Training, cached_pairs, forget, write_json, write_lines
from data.report.settings import (
    FREE, SAID, best_of_run, by_size, group_of, option, parse_settings, refuse_changes)
from data.report.tables import (
    SHOWN, answer_rows, banner, counts, errors, line_of, percent, result_row, show_candidate,
    show_candidates, show_errors, show_round, show_table, show_winner)
from data.report.terminal import deferred, run_command
from data.sql import normalise
from data.synthesis.run import databases_of
from data.synthesis.synthesize import synthesize
from model import (
    RANK, RANKS, join_ranks, leave_ranks, map_over_ranks, on_rank0, sum_over_ranks)
from sqlexec import DataError, Verifier

HERE = Path(__file__).resolve().parent
BASE = HERE / "data/base"


# ---------------------------------------------------------------------------------------------
# The method: Eq. 1, 2 and 3

def split_by_execution(items, correct):
    """Eq. 1: y+ holds the items whose SQL gives the gold's result E(y), y- the others.

    items: a list; correct: bools from the verifier, E(y') = E(y)."""
    y_pos = [item for item, same in zip(items, correct) if same]          # Eq. 1: E(y') =  E(y)
    y_neg = [item for item, same in zip(items, correct) if not same]      # Eq. 1: E(y') != E(y)
    return y_pos, y_neg


def error_reward(correct):
    """Eq. 2: correct (N,) bool, E(y') = E(y) -> R (N,) float, 1 where the sample is wrong."""
    return (~correct).float()                                             # Eq. 2


def logistic(z):
    """ell(z) = log(1 + exp(-z)), without overflow."""
    return F.softplus(-z)


def error_driven_loss(main_pos, opp_pos, main_neg, opp_neg, R, lam):
    """Eq. 3 for each pair: all (N,) float32; pos: log p(y|x), neg: log p(y'|x), sums over tokens.

    The first term raises correct SQL above the opponent's; the second pushes down what the
    opponent got wrong and vanishes where it was right.  R = 1 everywhere is SPIN's and DPO's loss;
    main = opponent gives log 2."""
    gold_term = lam * (main_pos - opp_pos)
    error_term = lam * R * (main_neg - opp_neg)
    return logistic(gold_term - error_term)                               # Eq. 3


def ppo_loss(main, old, advantage, beta, clip=0.2):
    """PPO (Schulman et al. 2017, arXiv 1707.06347) for each sample: all (N,) float32.

    main, old: log p(y'|x), sums over tokens, of the model and of its start, which sampled y';
    advantage: of the reward 1 - R; beta: weight of an estimate of KL(old || main)."""
    log_ratio = (main - old).clamp(max=20)                                # exp must not overflow
    ratio = log_ratio.exp()
    gain = torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage)
    return beta * (ratio - 1 - log_ratio) - gain                          # PPO, Eq. 7


class Loss(NamedTuple):
    """terms(logp (N,), pairs) is a sum; weight(pair) counts what a step's mean is taken over."""
    terms: Callable
    weight: Callable


# ---------------------------------------------------------------------------------------------
# Stage 0: supervised fine-tuning

def run_sft(cfg, task, run):
    """Fine-tune the base model on the labelled pairs, both directions at once."""
    base = run.load("base") or run.add_candidate(task, load_model(cfg, cfg.model), "base")
    if run.load("sft") or not task.train:         # without labels the base stands in its place
        return [run.load("sft") or base]
    run.begin(task, "sft", f"base -> sft on {len(task.train)} labelled pairs, both ways")
    rng, started = random.Random(f"{cfg.seed}/sft"), time.time()
    steps = steps_of(task.both_directions(task.train), cfg.sft_epochs, cfg.batch, rng)
    model, metrics = fit(load_model(cfg, base.folder, train=True), steps, SUPERVISED, cfg.lr,
                         "sft", cfg)
    return [run.add_candidate(task, model, "sft", base, started, metrics)]


# ---------------------------------------------------------------------------------------------
# Stage 1: verification-based iterative fine-tuning (VBI-FT, section 3.1)

def run_vbift(cfg, task, run):
    """Rounds of synthesis, fine-tuning and verification; each adds a candidate."""
    candidates = run_sft(cfg, task, run)
    for round in range(1, cfg.rounds + 1):
        parent = best([run.load("base"), candidates[-1]])     # a few labels can do harm
        candidates.append(run.load(f"vbift-{round}") or vbift_round(cfg, task, run, round, parent))
    return candidates


def vbift_round(cfg, task, run, round, parent):
    name, started = f"vbift-{round}", time.time()
    run.begin(task, name, f"{parent.name} -> {name}")
    made, earlier = pairs_of_round(cfg, task, run, round, parent)         # 3.1.1, 3.1.2
    new = [e for e in made if e.part == "train"]
    held = [e for e in made if e.part != "train"]
    pairs = task.both_directions(task.train + new + [e for e in earlier if e.part == "train"])
    pairs += [task.to_question(e) for e in earlier if e.part == "y+"]     # 3.1.3
    steps = steps_of(pairs, cfg.epochs, cfg.batch, random.Random(f"{cfg.seed}/{name}/steps"))
    model, metrics = fit(load_model(cfg, parent.folder, train=True), steps, SUPERVISED,
                         cfg.vbift_lr, name, cfg)
    samples = task.answer(model, [task.prompts.sql(e) for e in held], f"{name} on synthetic")
    judged = [(e, v.correct) for e, v in zip(held, task.verdicts(held, samples))
              if v.status != "bad_gold"]
    y_pos, y_neg = split_by_execution(*zip(*judged)) if judged else ([], [])   # Eq. 1
    print(f"  synthetic validation: {len(y_pos)} right (y+), {len(y_neg)} wrong (y-)")
    run.keep_synthetic(round, {"train": new, "y+": y_pos, "y-": y_neg})
    metrics |= {"synthetic": len(made), "y+": len(y_pos), "y-": len(y_neg)}
    return run.add_candidate(task, model, name, parent, started, metrics)


def synthesize_pairs(cfg, task, model, rng, n, labelled, earlier=()):
    """Synthetic Examples: SQL from refilled templates, questions by the SQL-to-Text direction.
    Queries of the labelled and earlier ones do not come again; the templates of earlier rounds' y-
    are drawn more often (3.1.3)."""
    pool = task.templates
    pool.reweight([e.template for e in earlier if e.part == "y-"])
    known = {normalise(e.query, task.data.schema(e.db_id)) for e in [*labelled, *earlier]}
    draw = random.Random(rng.randrange(2**31))
    made, drops = on_rank0(lambda: synthesize(pool, databases_of(task.data, task.train), n, draw,
                                              task.verifier.run, known))
    print(f"  templates: {len(pool)}; synthetic SQL kept: {len(made)}; dropped: {counts(drops)}")
    return write_questions(cfg, task, model, rng,
                           [Example(s.db_id, "", s.sql, template=s.template_key) for s in made])


def write_questions(cfg, task, model, rng, examples):
    """Give each query, of a few sampled questions that name all its text values, the one from which
    the model finds the query likeliest.  Where even that makes it very unlikely, the question is
    taken for garbled, of a third of them at most."""
    prompts, n = [task.prompts.question(e) for e in examples], cfg.questions
    samples = task.answer(model, prompts, "questions", 0.7, n, rng.randrange(2**31))
    asked, drops = [], Counter()
    for i, e in enumerate(examples):
        texts = {task.text(s): None for s in samples[i * n:(i + 1) * n] if s.finished}
        good = [replace(e, question=t) for t in texts if is_question(t)
                and all(v.lower() in t.lower() for v in text_values(e.query))]
        if good:
            asked.append(good)
        drops["no question" if not any(map(is_question, texts)) else "value not named"] += not good
    pairs = [task.to_sql(e) for good in asked for e in good]
    scored = iter(with_logprobs(model, pairs, "choosing"))
    found = [max(((next(scored).opponent[0], e) for e in good), key=lambda pair: pair[0])
             for good in asked]
    least = min([cfg.least_logp, *sorted(logp for logp, _ in found)[len(found) // 3:][:1]])
    kept = [e for logp, e in found if logp >= least]
    drops["garbled"] = len(found) - len(kept)
    print(f"  questions written: {len(kept)}; dropped: {counts(drops)}")
    return kept


# ---------------------------------------------------------------------------------------------
# Stage 2: self-play fine-tuning (section 3.2, Algorithm 1)

def run_selfplay(cfg, task, run):
    """Best candidate against weakest; what comes of it joins the candidates.

    Other losses play from the same candidates; their rounds have names of their own."""
    candidates = run_vbift(cfg, task, run)
    for round in range(1, cfg.selfplay_rounds + 1):
        name = f"{line_of(cfg)}-{round}"
        candidates.append(run.load(name) or selfplay_round(cfg, task, run, name, candidates))
    return candidates


def best(candidates):
    """The candidate with the highest validation accuracy, of equals the newest."""
    return max(reversed(candidates), key=lambda c: c.ex)


def players(loss, candidates):
    """Main and opponent: by Algorithm 1 the best and the weakest candidate.  In PPO and SPIN main
    plays its own start; SPIN goes on from the last round, whatever that did to accuracy."""
    if loss == "spin":
        main = candidates[-1] if candidates[-1].name.startswith("spin") else best(candidates)
        return main, main
    main, weakest = best(candidates), min(candidates, key=lambda c: c.ex)
    return main, main if loss == "ppo" else weakest                       # Algorithm 1


def selfplay_round(cfg, task, run, name, candidates):
    main, opponent = players(cfg.loss, candidates)
    run.begin(task, name, f"main {main.name} (EX {main.ex:.1f}) plays opponent {opponent.name} "
                          f"({opponent.ex:.1f}); base {cfg.model}")
    show_candidates(candidates)
    rng, started = random.Random(f"{cfg.seed}/play {name.rpartition('-')[2]}"), time.time()
    examples, epochs = examples_of_round(cfg, task, run, rng)
    pairs, rows = sample_pairs(cfg, task, run, name, opponent, examples, rng)
    steps = steps_of_groups(pairs, samples_of(cfg), epochs, cfg.batch, rng)
    now = with_logprobs(load_model(cfg, main.folder), pairs[:SHOWN], "log-probs")
    steps, loss = objective(cfg, pairs, steps, main, rng)
    model, metrics = fit(load_model(cfg, main.folder, train=True), steps, loss, cfg.selfplay_lr,
                         name, cfg)
    metrics |= {"main": main.name, "opponent": opponent.name, "opponent ex": opponent.ex} | (
        show_round(rows, pairs, now, with_logprobs(model, pairs[:SHOWN], "log-probs")))
    return run.add_candidate(task, model, name, main, started, metrics)


def sample_pairs(cfg, task, run, name, opponent, examples, rng):
    """The opponent answers the prompts and execution rewards its errors (Eq. 2): a list of Pair,
    and their records.  Written to OUT/NAME/pairs.jsonl; a loss that asks the same opponent takes
    them from there."""
    model, n, seed = load_model(cfg, opponent.folder), samples_of(cfg), rng.randrange(2**31)
    examples = [e for e in examples for _ in range(n)]
    golds = [task.to_sql(e) for e in examples]

    def sample():
        samples = task.answer(model, [pair.prompt for pair in golds[::n]], "opponent",
                              cfg.temperature, n, seed)
        pairs = [replace(pair, sample=s.scored) for pair, s in zip(golds, samples)]
        return [{**row, "sample": pair.sample, "opponent": pair.opponent} for row, pair in
                zip(answer_rows(task, examples, samples), with_logprobs(model, pairs))]

    decided_by = [lm.digest(model), [(pair.prompt, pair.gold) for pair in golds],
                  [e.query for e in examples], cfg.temperature, cfg.max_new, seed, n]
    rows = cached_pairs(run.out, name, decided_by, sample)
    R = error_reward(torch.tensor([row["correct"] for row in rows], dtype=torch.bool))   # Eq. 2
    print(f"  {len(R)} answers, {100 * R.mean():.1f}% of them wrong (R = 1): {errors(rows)}")
    A = R.view(-1, n).mean(1).repeat_interleave(n) - R                    # of the reward 1 - R
    played = [(replace(pair, sample=row["sample"], opponent=row["opponent"], R=r, advantage=a), row)
              for pair, row, r, a in zip(golds, rows, R.tolist(), A.tolist())
              if row["status"] != "bad_gold"]                             # no verdict, no pair
    return [pair for pair, _ in played], [row for _, row in played]


def self_play(lam):
    """Eq. 3 as a sum over pairs; logp (2P,): gold, sample, gold, sample, ..."""
    def terms(logp, pairs):
        opp_pos, opp_neg, R = torch.tensor([(*pair.opponent, pair.R) for pair in pairs],
                                           device=logp.device).unbind(1)
        main_pos, main_neg = logp.view(-1, 2).unbind(1)
        return error_driven_loss(main_pos, opp_pos, main_neg, opp_neg, R, lam).sum()
    return Loss(terms, lambda pair: 1)


def ppo(beta):
    """PPO as a sum over pairs without gold; logp (P,) of their samples."""
    def terms(logp, pairs):
        old, advantage = torch.tensor([(pair.opponent[1], pair.advantage) for pair in pairs],
                                      device=logp.device).unbind(1)
        return ppo_loss(logp, old, advantage, beta).sum()
    return Loss(terms, lambda pair: 1)


# Cross-entropy of the gold tokens.
SUPERVISED = Loss(lambda logp, pairs: -logp.sum(), lambda pair: len(pair.gold))


def objective(cfg, pairs, steps, main, rng):
    """(steps, Loss) of --loss: Eq. 3, or a baseline on the same prompts for as many updates."""
    def changed(**change):
        return [[[replace(pair, **change) for pair in chunk] for chunk in step] for step in steps]

    if cfg.loss == "sft":                         # the control: gold alone
        return changed(sample=None, R=0.0), SUPERVISED
    if cfg.loss == "ppo":                         # samples alone
        return changed(gold=None), ppo(cfg.lam)
    if cfg.loss == "spin":                        # every sample goes down
        return changed(R=1.0), self_play(cfg.lam)
    if cfg.loss == "dpo":                         # wrong samples alone; the reference is main
        wrong, more = [pair for pair in pairs if pair.R == 1], []
        wrong = with_logprobs(load_model(cfg, main.folder), wrong)
        while wrong and len(more) < len(steps):
            more += steps_of(wrong, 1, cfg.batch * samples_of(cfg), rng)
        return more[:len(steps)], self_play(cfg.lam)
    return steps, self_play(cfg.lam)


def examples_of_round(cfg, task, run, rng):
    """(Examples to play on, passes over them): the labelled and the last round's synthetic ones, of
    less than a pass a random part.  SPIN plays the labelled ones alone, for as many updates."""
    labelled, made = list(task.train), run.synthetic(cfg.rounds) if cfg.rounds else []
    examples, n = labelled + made, cfg.selfplay_epochs * len(labelled + made)
    if cfg.loss == "spin":
        examples = labelled
    if not examples:
        raise DataError(f"{cfg.data} has no labelled questions to play on (--loss {cfg.loss}, "
                        f"--rounds {cfg.rounds})")
    if n < len(examples):
        examples = rng.sample(examples, math.ceil(n) or 1)
    return examples, n / len(examples)


def run_synthesis(cfg, task, run):
    """The synthetic pairs of the next round of VBI-FT, for a person to read and edit."""
    candidates = run_sft(cfg, task, run) + run.of_stage("vbift")
    parent = best([run.load("base"), candidates[-1]])
    pairs_of_round(cfg, task, run, len(run.of_stage("vbift")) + 1, parent)
    return candidates


def pairs_of_round(cfg, task, run, round, parent):
    """(a round's synthetic Examples, those of earlier rounds).  They lie in synthetic.jsonl before
    the round trains, which takes what it finds there."""
    earlier = [e for r in range(1, round) for e in run.synthetic(r)]
    if not run.synthetic_path(round).exists():
        rng = random.Random(f"{cfg.seed}/vbift-{round}")
        made = synthesize_pairs(cfg, task, load_model(cfg, parent.folder), rng, cfg.synthetic,
                                task.train + task.val, earlier)
        rng.shuffle(made)                         # what is easily filled comes first
        n = len(made) // 6
        run.keep_synthetic(round, {"train": made[n:], "held out": made[:n]})
    made = run.synthetic(round)
    print(f"  {len(made)} synthetic pairs: {run.synthetic_path(round)}")
    return made, earlier


def synthetic_validation(cfg, task):
    """Examples that stand in for labelled validation questions where there are too few: synthetic
    SQL with the start model's questions, made once, in OUT/validation.jsonl."""
    path = Path(cfg.out) / "validation.jsonl"
    if not path.exists():
        banner("validation", f"too few labelled questions in {cfg.data}: synthetic ones it is")
        made = synthesize_pairs(cfg, task, load_model(cfg, cfg.model),
                                random.Random(f"{cfg.seed}/validation"),
                                max(8, cfg.synthetic // 4), task.train)
        write_lines(path, [asdict(example) for example in made])
    return read_examples(path)


# ---------------------------------------------------------------------------------------------
# Settings: this dataclass is the command line

GPU = torch.cuda.is_available()


@dataclass(frozen=True)
class Config:
    # Any stage
    stage: str = option("selfplay", "sft, synthesis (up to the next round's pairs), vbift, "
                        "selfplay, eval or ask")
    data: str = option(str(HERE / "data/demo"), "benchmark folder in Spider's or BIRD's layout, "
                       "or your own .sqlite file or folder of them")
    model: str = option(str(BASE), "checkpoint folder or hub id to start from, or `random`")
    base_model: str = option("", "base of an adapter in --model; by default what the adapter says")
    out: str = option("runs/demo", "run directory; of ask, a .csv file for the rows")
    seed: int = option(0, "seeds weights, data order and samples", most=2**31 - 1)
    limit: int = option(0, "use at most so many examples of each split; 0 = all")
    bad_gold: str = option("stop", "a gold query that fails: stop, or skip the example")
    timeout: float = option(5.0, "seconds a query may run", 0.001, 86400)
    infer_keys: int = option(1, "1 = your own databases get the keys that nobody declared", most=1)
    schema: str = option("auto", "a prompt's schema: compact, ddl, or auto: ddl for chat models")
    shots: int = option(0, "training questions with their SQL that open each prompt for SQL")
    cell_values: int = option(0, "values of each text column that prompts show")
    schema_budget: int = option(8000, "characters of a prompt's schema; more tables are cut", 1)
    max_new: int = option(160, "tokens an answer may have", 1)
    decode_batch: int = option(96, "rows decoded side by side", 1)
    # Training, on whatever machine
    lora: int = option(None, "rank of the LoRA adapter, merged into each candidate; 0 = all "
                       "weights", kind=int)
    batch: int = option(32, "sequences a step; self-play: prompts a step", 1)
    micro_tokens: int = option(8192 if GPU else 1536,
                               "tokens of a micro-batch; CPU caches like few", 1)
    device: str = option("cuda" if GPU else "cpu", "cpu or cuda")
    threads: int = option(min(4, lm.cpus()), "CPU threads; their number changes rounding", 1, 1024)
    bf16: int = option(1, "train in bfloat16 where that is faster; 0 = float32 everywhere", most=1)
    shard: int = option(0, "1 = under torchrun, shard one model over the GPUs (FSDP2)", most=1)
    recompute: int = option(int(GPU), "1 = recompute all activations: less memory, more time",
                            most=1)
    keep: str = option("full", "candidates as full models, or with --lora as adapters alone")
    # Stage sft
    sft_epochs: float = option(None, "passes over the labelled pairs, both directions", kind=float)
    lr: float = option(None, "peak learning rate of SFT", kind=float)
    # Stage vbift (section 3.1)
    rounds: int = option(2, "rounds of VBI-FT")
    synthetic: int = option(1000, "synthetic queries a round (paper: 3000)", 1)
    questions: int = option(3, "questions sampled for a synthetic query", 1)
    least_logp: float = option(-5.0, "log p of a synthetic query given its question, below which "
                               "the question is dropped", -math.inf)
    epochs: float = option(None, "passes over labelled and synthetic pairs a round", kind=float)
    vbift_lr: float = option(None, "peak learning rate of these rounds", kind=float)
    # Stage selfplay (section 3.2)
    loss: str = option("spft", "spft (Eq. 3), or the baselines spin, dpo, ppo, sft")
    selfplay_rounds: int = option(1, "rounds of self-play")
    lam: float = option(2.0, "lambda of Eq. 3; PPO: weight of the KL term")
    games: int = option(0, "samples of each prompt; 0 = 1, of PPO 4")
    selfplay_lr: float = option(None, "peak learning rate of self-play", kind=float)
    selfplay_epochs: float = option(1.0, "passes over self-play's pairs; of less "
                                   "than one, so large a part is played on")
    temperature: float = option(1.0, "of the opponent's samples")
    test: int = option(1, "score test at the end of a stage; 0 = validation alone", most=1)
    # Stages eval and ask
    split: str = option("test", "eval: the split to score")
    db: str = option("", "ask: a SQLite file")
    samples: int = option(1, "1 greedy answer, or a majority vote of so many by their results", 1)
    question: str = option("", "ask: in plain words; without it, a prompt for many")


CHOICES = {"stage": ("sft", "synthesis", "vbift", "selfplay", "eval", "ask"),
           "loss": ("spft", "spin", "dpo", "ppo", "sft"), "bad_gold": ("stop", "skip"),
           "schema": ("auto", *FORMS), "device": ("cpu", "cuda"), "keep": ("full", "adapters")}
# --help groups the settings from these on.
GROUPS = {"stage": "any stage", "lora": "training", "sft_epochs": "stage sft",
          "rounds": "stage vbift", "loss": "stage selfplay", "split": "stages eval and ask"}


def samples_of(cfg):
    """How often the opponent answers a prompt: PPO compares answers."""
    return cfg.games or (4 if cfg.loss == "ppo" else 1)


def complete(cfg):
    """The settings made whole: a run as --model means its best candidate, and what nobody set
    follows the size of the checkpoint."""
    cfg = replace(cfg, model=best_of_run(cfg.model))
    shape = lm.ModelConfig.read(BASE if cfg.model == "random" else
                                lm.base_folder(cfg.model, cfg.base_model))
    recipe = by_size(shape.parameters)
    if cfg.shard or cfg.stage in ("eval", "ask"):     # adapters are for training one model whole
        recipe = recipe | {"lora": 0}
    return replace(cfg, **{k: v for k, v in recipe.items() if getattr(cfg, k) is None})


# ---------------------------------------------------------------------------------------------
# One fit loop for every stage

def fit(model, steps, loss, lr, name, cfg, warmup=0.05, watch=None):
    """AdamW over steps (lists of chunks of Pairs) with linear warm-up and cosine decay to a tenth.

    Micro-batches of a small model on a CPU run side by side, a thread each, and their gradients are
    added in order: results are reproducible.  All weights are trained through a bf16 copy where
    that is faster.  Returns the trained model (that copy; gathered if sharded) and what is kept of
    the training.  Its state is in OUT/NAME/fit.state: the same call goes on from there."""
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr, betas=(0.9, 0.98), weight_decay=0.01,
                                  fused=cfg.device == "cuda")
    # A sharded state is spread over the ranks: it is not kept.
    path = Path(cfg.out) / name / "fit.state" if cfg.out and not cfg.shard else None
    about = path and [name, lr, warmup, cfg.lam, cfg.bf16, lm.digest(model), *steps]
    state = Training(path, about, len(steps), params, optimizer)
    losses, tokens = state.load()
    if bf16(cfg) and not cfg.shard and not model.adapter:
        model = lm.copy_of(model, torch.bfloat16)
    work = [p for p in model.parameters() if p.requires_grad]
    done = len(losses)
    bar = progress(steps[done:] if done else steps, total=len(steps), initial=done, desc=name,
                   unit="step")
    small = model.device.type == "cpu" and model.config.hidden_size < 512 and not cfg.shard
    workers = cfg.threads if small else 1
    with deferred() as signals, ThreadPoolExecutor(
            workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for i, chunks in enumerate(bar, done):
            for group in optimizer.param_groups:
                group["lr"] = lr * schedule((i + 1) / len(steps), warmup)
            values, size = step_gradients(model, chunks, loss, cfg, work, params,
                                          pool.map if workers > 1 else map)
            norm = clip_gradients(params, f"{name}, step {i + 1}", values[0])
            optimizer.step()
            lm.copy_into(work, params)
            optimizer.zero_grad(set_to_none=True)
            losses.append(values[0])
            tokens += size
            if (i + 1) % 20 == 0:
                bar.set_postfix_str(f"loss {float(values[0]):.3f}", refresh=False)
            if watch:
                watch(i + 1, values[0])
            state.note(len(losses), optimizer.param_groups[0]["lr"], norm, values, size, chunks)
            state.step_done(losses, tokens, signals)
    optimizer.state.clear()                           # a sharded model needs the room
    return (lm.gather_full_model(model, torch.bfloat16 if bf16(cfg) else None),
            state.summary(losses, tokens))


def clip_gradients(params, place, loss):
    """Scale gradients whose norm is over 1 down to it; the norm before.  DataError where it is not
    finite."""
    norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
    if not norm.isfinite():
        raise DataError(f"{place}: the gradient is not finite (loss {loss:.4g}); a lower learning "
                        "rate may help")
    return norm


def bf16(cfg):
    """Whether what is not trained, and each product of a training, is in bfloat16."""
    return bool(cfg.bf16) and lm.fast_bf16(torch.device(cfg.device))


def step_gradients(model, chunks, loss, cfg, work, params, run):
    """The gradients of a step's mean loss, taken over the whole step, however it is cut into
    micro-batches; that loss, and the step's tokens."""
    size = sum(map(packed_length, chunks))
    parts = micro_batches(spread(chunks, RANKS), min(cfg.micro_tokens, size // RANKS + 1))
    total = sum(loss.weight(pair) for chunk in chunks for pair in chunk)
    scored = partial(micro_loss, model, loss, total)
    if cfg.shard:
        return sharded_gradients(parts, scored, params), size
    return gradients(parts, scored, work, params, run), size


def micro_loss(model, loss, total, micro):
    """A micro-batch's share of the step's mean loss; log p summed over golds and wrong samples."""
    batch = lm.pack([[s for pair in chunk for s in pair.sequences] for chunk in micro])
    logp = lm.sequence_logprobs(model, batch.to(model.device))
    pairs = [pair for chunk in micro for pair in chunk]
    by_pair = logp.detach().view(len(pairs), -1)           # gold and, in self-play, sample
    R = torch.tensor([pair.R for pair in pairs], device=logp.device)
    sums = torch.stack([by_pair[:, 0].sum(), (R * by_pair[:, -1]).sum()])
    return loss.terms(logp, pairs) / total, sums


def gradients(parts, scored, work, params, run):
    """Sum a step's gradients of `work`, the parameters or their copies, over its parts, of which
    each rank has a share; (3,): the step's loss and its sums of log p."""
    def one(part):
        try:
            value, sums = scored(part)
            return torch.cat([value.detach()[None], sums]), torch.autograd.grad(value, work)
        except torch.OutOfMemoryError:                      # what it held is free after this line
            print(f"  out of memory: {sum(map(packed_length, part))} tokens are cut in two")
        torch.cuda.empty_cache()
        (values, grads), (more, others) = map(one, halves(part))
        return values + more, [a + b for a, b in zip(grads, others)]

    total = torch.zeros(3, device=params[0].device)
    for values, grads in run(one, parts[RANK::RANKS]):
        total += values
        for p, grad in zip(params, grads):
            p.grad = grad.to(p.dtype) if p.grad is None else p.grad.add_(grad)
    for p in params if len(parts) <= RANK else ():          # fewer parts than ranks
        p.grad = torch.zeros_like(p)
    sum_over_ranks([total, *(p.grad for p in params)])
    return total


def sharded_gradients(parts, scored, params):
    """The same for a sharded model, whose layers meet in every pass: ranks without work run a dummy
    micro-batch so that collectives match.  FSDP2 averages the gradients."""
    total = torch.zeros(3, device=params[0].device)
    for i in range(RANK, -(-len(parts) // RANKS) * RANKS, RANKS):
        value, sums = (x * (i < len(parts)) for x in scored(parts[i % len(parts)]))
        (value * RANKS).backward()
        total += torch.cat([value.detach()[None], sums])
    sum_over_ranks([total])
    return total


def schedule(t, warmup):
    """Share of the peak rate at t in (0, 1]: up to 1 at `warmup`, then a cosine down to 0.1."""
    if t < warmup:
        return t / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (t - warmup) / (1 - warmup)))


SCORED_TOKENS = 8192          # side by side where no gradient is kept


@torch.no_grad()
def with_logprobs(model, pairs, name="opponent log-probs"):
    """Pairs with their answers' log-probabilities under a frozen model, as `opponent`."""
    def of_each(parts):
        found = []
        for part in progress(parts, desc=name, unit="batch"):
            batch = lm.pack([[s for pair in chunk for s in pair.sequences] for chunk in part])
            found.append(lm.sequence_logprobs(model, batch.to(model.device)).tolist())
        return found

    parts, scored = micro_batches(chunked(pairs, random.Random(0), 8), SCORED_TOKENS), {}
    for part, logps in zip(parts, map_over_ranks(of_each, parts)):
        logp = iter(logps)
        for pair in (pair for chunk in part for pair in chunk):
            scored[id(pair)] = tuple(next(logp) for _ in pair.sequences)
    return [replace(pair, opponent=scored[id(pair)]) for pair in pairs]


# ---------------------------------------------------------------------------------------------
# Run directory: candidates, each a Hugging Face folder with its record

@dataclass
class Candidate:
    """A model of M.  folder: its weights; ex: validation accuracy in percent."""
    name: str
    parent: str
    folder: str
    ex: float = 0.0
    seconds: float = 0.0
    metrics: dict = field(default_factory=dict)      # of its training; self-play: who played too


class Run:
    """The run directory OUT.  A candidate's record is written last: without it, the same command
    makes it, from what a killed run has left of it (data/report/resume.py)."""

    def __init__(self, cfg, task):
        self.cfg, self.out = cfg, Path(cfg.out)
        settings = {k: v for k, v in asdict(cfg).items() if k not in FREE or k in SAID}
        settings["content of the data"] = task.digest
        settings["content of the model"] = on_rank0(lambda: lm.content(cfg.model))
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            known = self.out / "config.json"
            if known.exists():
                refuse_changes(self.out, lm.read_json(known), settings,
                               partial(group_of, Config, GROUPS))
            write_json(known, settings)
        except OSError as error:
            raise DataError(f"--out {cfg.out}: {error.strerror}") from None

    def begin(self, task, name, text):
        """The line that a step begins with: its place in the plan, and how long is left."""
        plan = steps_of_run(self.cfg, line_of(self.cfg))
        seconds = {c.name: c.seconds for c in self.everyone() if c.name in plan}
        left = [step for step in plan if step not in seconds]
        sizes = [len(part) for part in (task.train, task.val, task.test)] if seconds else None
        time_left = seconds_left(self.cfg, sizes, left, seconds) if sizes else None
        if time_left is not None:
            text += f" (about {in_words(time_left)} left)"
        place = f"[{plan.index(name) + 1}/{len(plan)}] " if name in plan else ""
        banner(place + name, text)

    def load(self, name):
        """The Candidate of that name, or None where its round is not finished."""
        record = self.out / name / "candidate.json"
        if not record.exists():
            return None
        found = Candidate(**lm.read_json(record))
        return found if name == "base" else replace(found, folder=str(self.out / name))

    def everyone(self):
        """All finished Candidates: the main line in order, then the baselines."""
        names = [path.parent.name for path in self.out.glob("*/candidate.json")]
        stages = ["base", "sft", "vbift", "selfplay"]

        def place(name):
            stage, _, round = name.partition("-")
            return (stages + [stage]).index(stage), stage, int(round or 0)

        return [self.load(name) for name in sorted(names, key=place)]

    def of_stage(self, stage):
        """The finished candidates of a stage, in order."""
        return [c for c in self.everyone() if c.name.partition("-")[0] == stage]

    def synthetic(self, round):
        """The synthetic Examples of a round of VBI-FT, each with the part that it plays."""
        return read_examples(self.synthetic_path(round))

    def synthetic_path(self, round):
        return self.out / f"vbift-{round}/synthetic.jsonl"

    def keep_synthetic(self, round, parts):
        write_lines(self.synthetic_path(round), [
            {"part": part, "db_id": e.db_id, "question": e.question, "query": e.query,
             "template": e.template} for part, group in parts.items() for e in group])

    def add_candidate(self, task, model, name, parent=None, started=None, metrics=()):
        """Save a trained model, its adapter too, and score it on validation: it joins M.  Without a
        parent it is the base, which stays where it is and is not in M."""
        started, folder, metrics = started or time.time(), self.out / name, dict(metrics)
        started -= metrics.pop("seconds before", 0)           # of processes that were stopped

        def save():
            if model.adapter:
                lm.save_adapter(model, folder / "adapter", parent.folder)
            if not model.adapter or self.cfg.keep == "full":
                lm.save_pretrained(model, folder)
                task.tokenizer.save(folder)

        if parent:
            on_rank0(save)
        else:
            self.begin(task, name, f"{self.cfg.model} as it is")
        rows = self.score(task, model, name, "val")
        candidate = Candidate(name, parent.name if parent else "-",
                              str(folder) if parent else self.cfg.model, percent(rows),
                              round(time.time() - started, 1), metrics)
        write_json(folder / "candidate.json", asdict(candidate))
        on_rank0(lambda: forget(task.unfinished, *folder.glob("fit.*")))
        before = self.score(task, None, parent.name, "val") if parent else []
        show_candidate(candidate, rows, before)
        return candidate

    def score(self, task, model, name, split):
        """Greedy answers to a split with their verdicts, kept in OUT/name/split.jsonl."""
        path = self.out / name / f"{split}.jsonl"
        if not path.exists():
            examples = getattr(task, split)
            samples = task.answer(model, [task.prompts.sql(e) for e in examples],
                                  f"{name} on {split}")
            write_lines(path, answer_rows(task, examples, samples, split))
        return read_lines(path)


# ---------------------------------------------------------------------------------------------
# Stage eval: one checkpoint on one split

def run_eval(cfg, task):
    """Answer --split, greedily or by a vote of --samples; its owners' score by level, predictions
    in their format and a JSONL with every verdict, under OUT/eval-SPLIT.  With --limit, of a random
    part that is no score of the split."""
    examples, out = task.usable(cfg.split), Path(cfg.out) / f"eval-{Path(cfg.split).stem}"
    if cfg.limit and cfg.limit < len(examples):
        examples = random.Random(cfg.seed).sample(examples, cfg.limit)
        print(f"{cfg.limit} of {cfg.split}'s questions: not a score of the whole split")
        out = out.with_name(f"{out.name}-{cfg.limit}")
    task.unfinished = out / "unfinished"
    samples = task.answer(load_model(cfg, cfg.model), [task.prompts.sql(e) for e in examples],
                          f"{cfg.model} on {cfg.split}", 0.7 if cfg.samples > 1 else 0.0,
                          cfg.samples, cfg.seed)
    texts = voted(task, examples, [task.sql(s) for s in samples], cfg.samples)
    print(f"{sum(not s.finished for s in samples)} of {len(samples)} answers did not end")
    on_rank0(lambda: scoring.report(task.data, cfg.split, examples, texts, task.verifier, out))
    on_rank0(lambda: forget(task.unfinished))


# ---------------------------------------------------------------------------------------------
# Stage ask: a database of one's own

def run_ask(cfg, tokenizer, verifier):
    """Print SQL and rows for the question, or for each line that a person types.  Exit code 1
    where the SQL of the only question does not run."""
    if not cfg.db:
        raise DataError("--stage ask needs --db FILE")
    task = Task(replace(cfg, data=cfg.db), tokenizer, verifier)
    db_id = Path(cfg.db).stem
    if task.data.db_ids() != [db_id] or not task.data.schema(db_id).tables:
        raise DataError(f"{cfg.db}: not a SQLite file with tables in it")
    task.prompts.linker(db_id)                                  # says what is left out
    model = load_model(cfg, cfg.model)

    def sample(example, temperature, n):
        return [task.sql(s) for s in lm.generate(model, [task.prompts.sql(example)], cfg.max_new,
                                                 temperature, n, cfg.seed)]

    ask = Asker(task, db_id, sample, cfg.samples, cfg.out if cfg.out.endswith(".csv") else "")
    return ask(cfg.question) if cfg.question else ask.converse()


def report(cfg, task, run, stage):
    """Run the stage, score test once for every candidate, print the table, write results.json."""
    task.announce()
    last, rows = stage(cfg, task, run)[-1], []
    splits = ("val", "test") if task.test and cfg.test else ("val",)
    for c in run.everyone():
        known, model = (run.out / c.name / f"{splits[-1]}.jsonl").exists(), None
        model = None if known else load_model(cfg, c.folder)       # one at a time
        rows += [result_row(c, split, run.score(task, model, c.name, split)) for split in splits]
    write_json(run.out / "results.json", rows)
    on_rank0(lambda: forget(task.unfinished, *run.out.glob("*/fit.*")))
    print(f"\n  seed {cfg.seed}, {os.path.relpath(cfg.data)}")
    show_table(rows, splits)
    if task.prompts.dropped:
        print(f"  of schemas over the budget, prompts left out: {counts(task.prompts.dropped)}")
    if len(splits) > 1:
        made = [e.query for c in run.of_stage("vbift")
                for e in run.synthetic(c.name.partition("-")[2])]
        show_errors(run.score(task, None, last.name, "test"), made, last.name)
    print(f"  report: {on_rank0(lambda: str(write_page(run.out)))}")
    show_winner(run.out, task.val_source)


# ---------------------------------------------------------------------------------------------
# Command line

def parse_config(arguments=None):
    """Config from the command line; a wrong word ends in one clear line and exit code 2."""
    cfg = parse_settings(Config, CHOICES, GROUPS, __doc__.split("\n")[0], arguments)
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch finds no GPU here")
    if cfg.shard and (RANKS == 1 or cfg.lora):
        raise DataError("--shard 1 shards full fine-tuning over the processes of torchrun: "
                        "start it under torchrun, without --lora")
    return cfg


def load_model(cfg, folder, train=False):
    """The model of a candidate's folder, or random weights of the embedded base model's shape; with
    --lora the base with one adapter that all stages train on (random weights are in no folder: each
    stage adapts the last candidate).  What is not trained is in bf16 where that is fast."""
    dtype = torch.bfloat16 if bf16(cfg) and (cfg.lora or not train) else torch.float32
    device = cfg.device
    if train and cfg.shard:      # a layer at a time goes from the file to each GPU's share
        dtype, device = None, "cpu"
    adapter = Path(folder) / "adapter"
    if folder == "random":
        model = lm.random_model(lm.ModelConfig.read(BASE), cfg.seed).to(device, dtype)
    else:
        kept = cfg.lora and cfg.model != "random" and adapter.exists()
        model = lm.load_pretrained(adapter if kept else folder, device, dtype, cfg.base_model)
    if train and cfg.lora and not model.adapter:
        lm.add_lora(model, cfg.lora, 2 * cfg.lora, seed=cfg.seed)
        model.adapter["base_model_name_or_path"] = str(folder)
    elif train and model.adapter and not cfg.lora:
        lm.merge_adapter(model)
    if train:         # a row that is longer than a micro-batch must not take more memory than one
        model.recompute_above = 0 if cfg.recompute else 1.25 * cfg.micro_tokens
    return lm.shard(model, cfg.device, bf16(cfg)) if train and cfg.shard else model


def run_stage(cfg):
    """Do what --stage asks for; the exit code, where None is 0 too."""
    with Verifier(workers=lm.cpus_per_rank(), timeout=cfg.timeout) as verifier:
        tokenizer = Tokenizer(BASE if cfg.model == "random" else cfg.model, cfg.base_model)
        if cfg.stage == "ask":
            return run_ask(cfg, tokenizer, verifier)
        task = Task(cfg, tokenizer, verifier, partial(synthetic_validation, cfg))
        if cfg.stage == "eval":
            return run_eval(cfg, task)
        stage = {"sft": run_sft, "synthesis": run_synthesis, "vbift": run_vbift,
                 "selfplay": run_selfplay}[cfg.stage]
        return report(cfg, task, Run(cfg, task), stage)


def main(arguments=None):
    cfg = None

    def work():
        nonlocal cfg
        cfg = complete(parse_config(arguments))
        torch.set_num_threads(cfg.threads)
        lm.keep_freed_memory()
        join_ranks(cfg.device)
        code = run_stage(cfg)
        leave_ranks()
        return code

    return run_command("spft.py", work, lambda: bool(cfg) and cfg.stage not in ("ask", "eval"),
                       (torch.OutOfMemoryError,))


if __name__ == "__main__":
    sys.exit(main())
