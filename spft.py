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
 4. Each VBI-FT round starts from the last round's weights and trains on all synthetic pairs so far.
 5. Of a few sampled questions for a synthetic query, the one that names all its text values and
    makes the query likeliest is kept; no query is dropped for being hard.
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
"""

import hashlib
import json
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "passive")   # spinning threads steal the verifier's core
import torch
import torch.nn.functional as F

import model as lm
from data.benchmarks import scoring
from data.benchmarks.reader import Data, Example
from data.benchmarks.splits import Splits
from data.prompts.answers import sql_of_answer
from data.prompts.pairs import Pair, chunked, micro_batches, packed_length, steps_of
from data.prompts.prompts import FORMS, Prompts, text_values
from data.report.ask import Asker, voted
from data.report.files import first_line, read_lines
from data.report.page import write_page
from data.report.progress import progress
from data.report.resume import Kept, Training, forget, write_json, write_lines
from data.report.settings import (
    FREE, SAID, best_of_run, by_size, group_of, option, parse_settings, refuse_changes)
from data.report.tables import (
    banner, counts, errors, log_ratios, numbered, percent, result_row, show_candidate, show_errors,
    show_game, show_log_ratios, show_players, show_table, show_winner)
from data.report.terminal import deferred, run_command
from data.sql import normalise
from data.synthesis.run import databases_of, template_sources
from data.synthesis.synthesize import synthesize
from data.synthesis.templates import TemplatePool
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
    banner(numbered(cfg, "sft"), f"base -> sft on {len(task.train)} labelled pairs, both ways")
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
        candidates.append(run.load(f"vbift-{round}")
                          or vbift_round(cfg, task, run, round, candidates[-1]))
    return candidates


def vbift_round(cfg, task, run, round, parent):
    name = f"vbift-{round}"
    banner(numbered(cfg, name, line_of(cfg)), f"{parent.name} -> {name}")
    rng, started = random.Random(f"{cfg.seed}/{name}"), time.time()
    earlier = [e for r in range(1, round) for e in run.synthetic(r)]
    made = synthesize_pairs(cfg, task, load_model(cfg, parent.folder), rng, cfg.synthetic,
                            task.train + task.val, earlier)               # 3.1.1, 3.1.2
    rng.shuffle(made)                             # what is easily filled comes first
    held, new = made[:len(made) // 6], made[len(made) // 6:]
    pairs = task.both_directions(task.train + new + [e for e in earlier if e.part == "train"])
    pairs += [task.to_question(e) for e in earlier if e.part == "y+"]     # 3.1.3
    model, metrics = fit(load_model(cfg, parent.folder, train=True),
                         steps_of(pairs, cfg.epochs, cfg.batch, rng), SUPERVISED, cfg.vbift_lr,
                         name, cfg)
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

    labelled, earlier: Examples whose queries do not come again; the templates of earlier rounds'
    y- are drawn more often (3.1.3)."""
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
    the model finds the query likeliest.  None is dropped for being hard."""
    prompts, n = [task.prompts.question(e) for e in examples], cfg.questions
    samples = task.answer(model, prompts, "questions", 0.7, n, rng.randrange(2**31))
    asked, drops = [], Counter()
    for i, e in enumerate(examples):
        texts = {task.text(s): None for s in samples[i * n:(i + 1) * n] if s.finished}
        good = [replace(e, question=t) for t in texts
                if t and all(v.lower() in t.lower() for v in text_values(e.query))]
        if good:
            asked.append(good)
        drops["question unfinished" if not texts else "value not named"] += not good
    pairs = [task.to_sql(e) for good in asked for e in good]
    scored = iter(with_logprobs(model, pairs, "choosing"))
    print(f"  questions written: {len(asked)}; dropped: {counts(drops)}")
    return [max(good, key=lambda e: next(scored).opponent[0]) for good in asked]


# ---------------------------------------------------------------------------------------------
# Stage 2: self-play fine-tuning (section 3.2, Algorithm 1)

def run_selfplay(cfg, task, run):
    """Best candidate against weakest; what comes of it joins the candidates.

    --loss spin, dpo and sft play from the same candidates; their rounds have names of their own."""
    candidates = run_vbift(cfg, task, run)
    for round in range(1, cfg.selfplay_rounds + 1):
        name = f"{line_of(cfg)}-{round}"
        candidates.append(run.load(name) or selfplay_round(cfg, task, run, name, candidates))
    return candidates


SHOWN = 256              # pairs whose log p is taken before and after a round


def line_of(cfg):
    """What the rounds of --loss are called."""
    return {"spft": "selfplay", "sft": "continued"}.get(cfg.loss, cfg.loss)


def best(candidates):
    """The candidate with the highest validation accuracy, of equals the newest."""
    return max(reversed(candidates), key=lambda c: c.ex)


def players(loss, candidates):
    """Main and opponent: by Algorithm 1 the best and the weakest candidate.  In SPIN a model plays
    its own start, and each round goes on from the last, whatever that did to accuracy."""
    if loss == "spin":
        main = candidates[-1] if candidates[-1].name.startswith("spin") else best(candidates)
        return main, main
    return best(candidates), min(candidates, key=lambda c: c.ex)          # Algorithm 1


def selfplay_round(cfg, task, run, name, candidates):
    main, opponent = players(cfg.loss, candidates)
    show_players(cfg, numbered(cfg, name, line_of(cfg)), main, opponent, candidates)
    rng, started = random.Random(f"{cfg.seed}/play {name.rpartition('-')[2]}"), time.time()
    pairs, rows = sample_pairs(cfg, task, run, name, opponent, rng)       # the same for every loss
    steps = steps_of(pairs, cfg.selfplay_epochs, cfg.batch, rng)
    now = with_logprobs(load_model(cfg, main.folder), pairs[:SHOWN], "log-probs")
    steps, loss = objective(cfg, pairs, steps, main, rng)
    model, metrics = fit(load_model(cfg, main.folder, train=True), steps, loss, cfg.selfplay_lr,
                         name, cfg)
    then = with_logprobs(model, pairs[:SHOWN], "log-probs")
    before, after = log_ratios(now, pairs), log_ratios(then, pairs)
    show_log_ratios(before, after)
    metrics |= {"main": main.name, "opponent": opponent.name, "opponent ex": opponent.ex,
                "R = 1": fmean(pair.R for pair in pairs), "before": before, "after": after,
                "game": show_game(rows, pairs, now, then)}
    return run.add_candidate(task, model, name, main, started, metrics)


def sample_pairs(cfg, task, run, name, opponent, rng):
    """The opponent answers the prompts and execution rewards its errors (Eq. 2): a list of Pair,
    and their records.  Written to OUT/NAME/pairs.jsonl; a loss that asks the same opponent takes
    them from there."""
    examples = list(task.train)
    if cfg.loss != "spin" and cfg.rounds:
        examples += run.synthetic(cfg.rounds)
    if not examples:
        raise DataError(f"{cfg.data} has no labelled questions to play on (--loss {cfg.loss}, "
                        f"--rounds {cfg.rounds})")
    model, seed = load_model(cfg, opponent.folder), rng.randrange(2**31)
    golds = [task.to_sql(e) for e in examples]

    def sample():
        samples = task.answer(model, [pair.prompt for pair in golds], "opponent", cfg.temperature,
                              1, seed)
        pairs = [replace(pair, sample=s.scored) for pair, s in zip(golds, samples)]
        return [{**row, "sample": pair.sample, "opponent": pair.opponent} for row, pair in
                zip(answer_rows(task, examples, samples), with_logprobs(model, pairs))]

    decided_by = [lm.digest(model), [(pair.prompt, pair.gold) for pair in golds],
                  [e.query for e in examples], cfg.temperature, cfg.max_new, seed]
    rows = run.cached_pairs(name, decided_by, sample)
    R = error_reward(torch.tensor([row["correct"] for row in rows], dtype=torch.bool))   # Eq. 2
    print(f"  {len(examples)} prompts; opponent wrong (R = 1) on {100 * R.mean():.1f}%: "
          f"{errors(rows)}")
    played = [(replace(pair, sample=row["sample"], opponent=row["opponent"], R=r), row)
              for pair, row, r in zip(golds, rows, R.tolist())
              if row["status"] != "bad_gold"]                             # no verdict, no pair
    return [pair for pair, _ in played], [row for _, row in played]


def self_play(lam):
    """Eq. 3 as a sum over pairs; logp (2P,): gold, sample, gold, sample, ..."""
    def terms(logp, pairs):
        R = torch.tensor([pair.R for pair in pairs], device=logp.device)
        opp_pos, opp_neg = torch.tensor([pair.opponent for pair in pairs],
                                        device=logp.device).unbind(1)
        main_pos, main_neg = logp.view(-1, 2).unbind(1)
        return error_driven_loss(main_pos, opp_pos, main_neg, opp_neg, R, lam).sum()
    return Loss(terms, lambda pair: 1)


# Cross-entropy of the gold tokens.
SUPERVISED = Loss(lambda logp, pairs: -logp.sum(), lambda pair: len(pair.gold))


def objective(cfg, pairs, steps, main, rng):
    """(steps, Loss) of --loss: Eq. 3, or a baseline on the same prompts for as many updates."""
    def changed(**change):
        return [[[replace(pair, **change) for pair in chunk] for chunk in step] for step in steps]

    if cfg.loss == "sft":                         # the control: gold alone
        return changed(sample=None), SUPERVISED
    if cfg.loss == "spin":                        # every sample goes down
        return changed(R=1.0), self_play(cfg.lam)
    if cfg.loss == "dpo":                         # wrong samples alone; the reference is main
        wrong, more = [pair for pair in pairs if pair.R == 1], []
        wrong = with_logprobs(load_model(cfg, main.folder), wrong)
        while wrong and len(more) < len(steps):
            more += steps_of(wrong, 1, cfg.batch, rng)
        return more[:len(steps)], self_play(cfg.lam)
    return steps, self_play(cfg.lam)


# ---------------------------------------------------------------------------------------------
# Settings: this dataclass is the command line

@dataclass(frozen=True)
class Config:
    # Any stage
    stage: str = option("selfplay", "sft, vbift, selfplay, eval or ask")
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
    batch: int = option(32, "sequences a step; self-play: pairs a step", 1)
    micro_tokens: int = option(32768 if torch.cuda.is_available() else 1536,
                               "tokens of a micro-batch; CPU caches like few", 1)
    device: str = option("cuda" if torch.cuda.is_available() else "cpu", "cpu or cuda")
    threads: int = option(min(4, os.cpu_count()), "CPU threads; their number changes rounding: "
                          "resume with the same value", 1, 1024)
    bf16: int = option(1, "train in bfloat16 where that is faster; 0 = float32 everywhere", most=1)
    shard: int = option(0, "1 = under torchrun, shard one model over the GPUs (FSDP2)", most=1)
    recompute: int = option(0, "1 = recompute all activations: less memory, more time", most=1)
    # Stage sft
    sft_epochs: float = option(None, "passes over the labelled pairs, both directions", kind=float)
    lr: float = option(None, "peak learning rate of SFT", kind=float)
    # Stage vbift (section 3.1)
    rounds: int = option(2, "rounds of VBI-FT")
    synthetic: int = option(1000, "synthetic queries a round (paper: 3000)", 1)
    questions: int = option(3, "questions sampled for a synthetic query", 1)
    epochs: float = option(None, "passes over labelled and synthetic pairs a round", kind=float)
    vbift_lr: float = option(None, "peak learning rate of these rounds", kind=float)
    # Stage selfplay (section 3.2)
    loss: str = option("spft", "spft (Eq. 3), or the baselines spin, dpo, sft")
    selfplay_rounds: int = option(1, "rounds of self-play")
    lam: float = option(2.0, "lambda of Eq. 3")
    selfplay_lr: float = option(None, "peak learning rate of self-play", kind=float)
    selfplay_epochs: float = option(1.0, "passes over the self-play pairs")
    temperature: float = option(1.0, "of the opponent's samples")
    test: int = option(1, "score test at the end of a stage; 0 = validation alone", most=1)
    # Stages eval and ask
    split: str = option("test", "eval: the split to score")
    db: str = option("", "ask: a SQLite file")
    samples: int = option(1, "1 greedy answer, or a majority vote of so many by their results", 1)
    question: str = option("", "ask: in plain words; without it, a prompt for many")


CHOICES = {"stage": ("sft", "vbift", "selfplay", "eval", "ask"),
           "loss": ("spft", "spin", "dpo", "sft"), "bad_gold": ("stop", "skip"),
           "schema": ("auto", *FORMS), "device": ("cpu", "cuda")}
# --help groups the settings from these on.
GROUPS = {"stage": "any stage", "lora": "training", "sft_epochs": "stage sft",
          "rounds": "stage vbift", "loss": "stage selfplay", "split": "stages eval and ask"}



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
    optimizer = torch.optim.AdamW(params, lr, betas=(0.9, 0.98), weight_decay=0.01)
    # A sharded state is spread over the ranks: it is not kept.
    path = Path(cfg.out) / name / "fit.state" if cfg.out and not cfg.shard else None
    about = path and [name, lr, warmup, cfg.lam, cfg.micro_tokens, cfg.bf16, RANKS,
                      lm.digest(model), *steps]
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
            norm = torch.nn.utils.clip_grad_norm_(params, 1.0)
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
    return (lm.gather_full_model(model, torch.bfloat16 if bf16(cfg) else None),
            state.summary(losses, tokens))


def bf16(cfg):
    """Whether what is not trained, and each product of a training, is in bfloat16."""
    return bool(cfg.bf16) and lm.fast_bf16(torch.device(cfg.device))


def step_gradients(model, chunks, loss, cfg, work, params, run):
    """The gradients of a step's mean loss, taken over the whole step, however it is cut into
    micro-batches; that loss, and the step's tokens."""
    size = sum(map(packed_length, chunks))
    parts = micro_batches(chunks, min(cfg.micro_tokens, size // RANKS + 1))
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
        value, sums = scored(part)
        return torch.cat([value.detach()[None], sums]), torch.autograd.grad(value, work)

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


@torch.no_grad()
def with_logprobs(model, pairs, name="opponent log-probs"):
    """Pairs with their answers' log-probabilities under a frozen model, as `opponent`."""
    def of_each(parts):
        found = []
        for part in progress(parts, desc=name, unit="batch"):
            batch = lm.pack([[s for pair in chunk for s in pair.sequences] for chunk in part])
            found.append(lm.sequence_logprobs(model, batch.to(model.device)).tolist())
        return found

    chunks, scored = chunked(pairs, random.Random(0), 8), {}
    parts = [chunks[i:i + 8] for i in range(0, len(chunks), 8)]
    for part, logps in zip(parts, map_over_ranks(of_each, parts)):
        logp = iter(logps)
        for pair in (pair for chunk in part for pair in chunk):
            scored[id(pair)] = tuple(next(logp) for _ in pair.sequences)
    return [replace(pair, opponent=scored[id(pair)]) for pair in pairs]


# ---------------------------------------------------------------------------------------------
# The task: examples, prompts and verdicts over one data folder

BLOCK = 8       # batches in a block of answers: a kill loses a block; at its end rows stand idle


class Task(Splits):
    """What all stages share: data, prompts, and the one place that says what is correct."""

    def __init__(self, cfg, tokenizer, verifier):
        super().__init__(Data(cfg.data, cfg.infer_keys),
                         lambda jobs: map_over_ranks(verifier.run, jobs), cfg.limit, cfg.bad_gold)
        self.cfg, self.tokenizer, self.verifier = cfg, tokenizer, verifier
        self.unfinished = Path(cfg.out) / "unfinished"           # answers, until they are used
        if cfg.shots and len(self.train) < cfg.shots:
            raise DataError(f"--shots {cfg.shots}: {cfg.data} has {len(self.train)} labelled "
                            "training questions")
        self.prompts = Prompts(self.data, tokenizer, cfg.schema, cfg.schema_budget, cfg.max_new,
                               random.Random(cfg.seed).sample(self.train, cfg.shots)
                               if cfg.shots else (), cfg.cell_values)

    @cached_property
    def val(self):
        """Labelled questions, or synthetic ones where there are too few of those."""
        return self.labelled_val or synthetic_validation(self.cfg, self)

    @cached_property
    def templates(self):
        """The TemplatePool of the training queries, drawn from in every round."""
        return TemplatePool(template_sources(self.data, self.train))

    def to_sql(self, example):
        """Pair of a question and its SQL."""
        return Pair(example.db_id, self.prompts.sql(example, train=True),
                    self.answer_ids(example.target or example.query))

    def to_question(self, example):
        """Pair of a query and its question: the SQL-to-Text direction."""
        prompt = self.prompts.question(example)
        return Pair(example.db_id, prompt, self.answer_ids(example.question))

    def both_directions(self, examples):
        return [make(e) for e in examples for make in (self.to_sql, self.to_question)]

    def answer_ids(self, text):
        return self.tokenizer.encode(text) + [self.tokenizer.end]

    def answer(self, model, prompts, name, temperature=0.0, n=1, seed=0):
        """Samples of each prompt (lists of ids), n in a row; made and kept in blocks of prompts
        that begin alike, each with a seed of its own."""
        cfg, order = self.cfg, sorted(range(len(prompts)), key=prompts.__getitem__)
        size = max(64, BLOCK * cfg.decode_batch // n)
        count = RANKS * math.ceil(len(prompts) / size / RANKS)           # as many for each rank
        ends = [len(prompts) * i // count for i in range(count + 1)] if count else []
        kept = Kept(self.unfinished, lm.digest(model), prompts, temperature, n, seed, cfg.max_new,
                    cfg.decode_batch, ends)

        def of_block(i):
            samples = lm.generate(model, [prompts[j] for j in order[ends[i]:ends[i + 1]]],
                                  cfg.max_new, temperature, n, seed + i, cfg.decode_batch,
                                  progress=bar.update)
            return [(s.ids, s.end) for s in samples]

        known = sum(ends[i + 1] - ends[i] for i in kept.known)
        with progress(total=n * len(prompts), initial=n * known, desc=name, unit="row") as bar:
            samples = [lm.Sample(*s) for block in kept.map(of_block, count) for s in block]
        place = {j: n * k for k, j in enumerate(order)}
        return [s for j in range(len(prompts)) for s in samples[place[j]:place[j] + n]]

    def verdicts(self, examples, samples, split="train"):
        """E(y') = E(y)?  A verdict for each example and sample, against the gold as written, by
        the rules of the split's data."""
        pairs = [(self.data.databases(e.db_id), e.query, self.sql(s))
                 for e, s in zip(examples, samples)]
        return map_over_ranks(partial(self.verifier.verdicts, mode=self.mode(split)), pairs)

    def text(self, sample):
        return self.tokenizer.decode(sample.ids).strip()

    def sql(self, sample):
        return sql_of_answer(self.text(sample))


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
    return [Example(**row) for row in read_lines(path)]


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
        """The synthetic Examples of a round of VBI-FT, each with the part that it played."""
        return [Example(**row) for row in read_lines(self.out / f"vbift-{round}/synthetic.jsonl")]

    def keep_synthetic(self, round, parts):
        write_lines(self.out / f"vbift-{round}/synthetic.jsonl", [
            {"part": part, "db_id": e.db_id, "question": e.question, "query": e.query,
             "template": e.template} for part, group in parts.items() for e in group])

    def cached_pairs(self, name, about, sample):
        """The records that sample() gives, kept in OUT/NAME/pairs.jsonl behind a line with the
        digest of all that decides them; taken from another round that has the same digest."""
        key = {"digest": hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}
        path = self.out / name / "pairs.jsonl"
        same = [kept for kept in sorted(self.out.glob("*/pairs.jsonl")) if first_line(kept) == key]
        if not same:
            write_lines(path, [key, *sample()])
        return read_lines(same[0] if same else path)[1:]

    def add_candidate(self, task, model, name, parent=None, started=None, metrics=()):
        """Save a trained model, its adapter too, and score it on validation: it joins M.  Without a
        parent it is the base, which stays where it is and is not in M."""
        started, folder = started or time.time(), self.out / name

        def save():
            if model.adapter:
                lm.save_adapter(model, folder / "adapter", parent.folder)
            lm.save_pretrained(model, folder)
            task.tokenizer.save(folder)

        if parent:
            on_rank0(save)
        else:
            banner(numbered(self.cfg, name, line_of(self.cfg)), f"{self.cfg.model} as it is")
        rows = self.score(task, model, name, "val")
        candidate = Candidate(name, parent.name if parent else "-",
                              str(folder) if parent else self.cfg.model, percent(rows),
                              round(time.time() - started, 1), dict(metrics))
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


def answer_rows(task, examples, samples, split="train"):
    """A record of each answer and its verdict."""
    return [{"db_id": e.db_id, "question": e.question, "gold": e.query, "pred": task.sql(s),
             "correct": bool(v.correct), "status": v.status, "error": v.error}
            for e, s, v in zip(examples, samples, task.verdicts(examples, samples, split))]


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
        known = (run.out / c.name / f"{splits[-1]}.jsonl").exists()
        model = None if known else load_model(cfg, c.folder)
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
    show_winner(best(run.everyone()), task.val_source)


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
    device = "cpu" if train and cfg.shard else cfg.device       # from there each takes its share
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
        tokenizer = lm.Tokenizer(BASE if cfg.model == "random" else cfg.model, cfg.base_model)
        if cfg.stage == "ask":
            return run_ask(cfg, tokenizer, verifier)
        task = Task(cfg, tokenizer, verifier)
        if cfg.stage == "eval":
            return run_eval(cfg, task)
        stage = {"sft": run_sft, "vbift": run_vbift, "selfplay": run_selfplay}[cfg.stage]
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

    return run_command("spft.py", work, lambda: bool(cfg) and cfg.stage not in ("ask", "eval"))


if __name__ == "__main__":
    sys.exit(main())
