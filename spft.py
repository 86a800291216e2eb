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
    python spft.py --stage experiment --plays 2      the paper's comparisons, over 5 seeds
    python spft.py --stage synth --data DIR          synthetic SQL for any folder, without a model
    python spft.py --stage eval --model DIR --data DIR --split dev
    python spft.py --stage ask --model DIR --db FILE "how many students are there?"
    python spft.py --stage pretrain                  how data/base was made

What differs from the paper, or is left open by it:
 1. One set of weights serves both directions, question to SQL and SQL to question; the prompt says
    which (the paper trains a second model).
 2. Templates come from a SQL reader with rules, not from a prompted LLM
    (data/synthesis/templates.py).
 3. Each VBI-FT round starts from the last round's weights and trains on all synthetic pairs so far.
 4. Templates keep which tables a query reads and how they are linked; aggregates, comparisons and
    sort directions are drawn anew in some; queries that teach nothing are rejected
    (data/synthesis/quality.py).
 5. Of a few sampled questions for a synthetic query, the one that names all its text values and
    makes the query likeliest is kept; no query is dropped for being hard.
 6. A random sixth of a round's synthetic pairs is its synthetic validation set.  From the second
    round on, half the draws follow the templates of y-, half their frequency in training.
 7. The opponent is the weakest fine-tuned candidate: the untuned base model is not in M.
 8. A round of self-play that loses validation accuracy joins the candidates but never becomes main,
    since main is always the best; of equals the newest is.
 9. Self-play asks the labelled and the last round's synthetic questions.  The golds of the latter
    are noisy (see the round trip in README), so that R = 1 also punishes some right SQL there.
10. A gold that does not run gives no verdict: its example counts nowhere.
11. Training writes SQL in one canonical form where that returns the gold's rows; verdicts are
    always against the gold as written.  The SQL of test questions decides nothing.
12. The embedded demo starts from a 2-million-parameter model made by `--stage pretrain`.
"""

import argparse
import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import threading
import time
import zlib
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property, partial
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "passive")   # spinning threads steal the verifier's core
import torch
import torch.nn.functional as F
from torch import distributed
from tqdm import tqdm

import model as lm
from data.benchmarks import scoring
from data.prompts.answers import printable, safe_output, sql_of_answer
from data.benchmarks.reader import Data, Example
from data.prompts.schema_text import compact, ddl, gold_first, narrow, rank
from data.sql.tree import (Literal, SQLError, canonical_sql, keeps_meaning, normalise, parse,
                          quote_name, quote_text, rewrite, to_sql, walk)
from data.synthesis.run import run_synth, template_sources
from data.synthesis.templates import TemplatePool, synthesize
from data.prompts.values import ValueIndex
from data.pretraining.random_schemas import Lexicon, random_pairs, random_world
from sqlexec import DataError, Verifier, read_schema, same_result

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


def token_loss(logp):
    """Cross-entropy of supervised fine-tuning, as a sum over tokens: logp (N,) sequence sums."""
    return -logp


# ---------------------------------------------------------------------------------------------
# Settings: this dataclass is the command line

def option(default, text, least=0, most=math.inf):
    """A setting; least, most: the bounds of a number."""
    return field(default=default, metadata={"help": text, "least": least, "most": most})


@dataclass(frozen=True)
class Config:
    stage: str = option("selfplay", "sft, vbift, selfplay, experiment, synth, eval, ask or "
                        "pretrain")
    data: str = option(str(HERE / "data/demo"), "benchmark folder in Spider's or BIRD's layout, "
                       "or your own .sqlite file or folder of them")
    model: str = option(str(BASE), "checkpoint folder to start from, or `random`")
    out: str = option("runs/demo", "run directory; what it holds already is not done again")
    split: str = option("test", "eval: the split to score")
    db: str = option("", "ask: a SQLite file")
    question: str = option("", "ask: in plain words; without it, a prompt for many")
    samples: int = option(1, "ask, eval: 1 greedy answer, or a vote of so many by what they return",
                          1)
    loss: str = option("spft", "selfplay: spft (Eq. 3), or the baselines spin, dpo, sft")
    seed: int = option(0, "seeds weights, data order and samples", most=2**31 - 1)
    seeds: int = option(5, "experiment: so many seeds of every system, from --seed on", 1)
    limit: int = option(0, "use at most so many examples of each split; 0 = all")
    threads: int = option(min(4, os.cpu_count()), "CPU threads; their number decides how a CPU "
                          "rounds, so that a run goes on with as many", 1, 1024)
    device: str = option("cuda" if torch.cuda.is_available() else "cpu", "cpu or cuda")
    # Supervised fine-tuning (stage 0)
    sft_epochs: float = option(5.0, "passes over the labelled pairs, in both directions")
    batch: int = option(32, "sequences a step; self-play: pairs a step", 1)
    lr: float = option(2e-3, "peak learning rate of SFT (a 7B checkpoint wants 1e-5)")
    lora: int = option(0, "rank of LoRA adapters, merged into each candidate; 0 = all weights")
    shard: int = option(0, "1 = under torchrun, share one model's weights among the GPUs (FSDP2)",
                        most=1)
    bf16: int = option(1, "train in bfloat16 where that is faster; 0 = float32 everywhere", most=1)
    recompute: int = option(0, "1 = keep no activations inside layers: less memory, more time",
                            most=1)
    # VBI-FT (section 3.1)
    rounds: int = option(2, "rounds of VBI-FT")
    synthetic: int = option(1000, "synthetic queries a round (paper: 3000)", 1)
    questions: int = option(3, "questions sampled for a synthetic query", 1)
    epochs: float = option(2.5, "passes over labelled and synthetic pairs a round")
    vbift_lr: float = option(1e-3, "peak learning rate of these rounds")
    # Self-play (section 3.2)
    plays: int = option(1, "rounds of self-play")
    lam: float = option(2.0, "lambda of Eq. 3")
    selfplay_lr: float = option(1e-4, "peak learning rate of self-play")
    selfplay_epochs: float = option(1.0, "passes over the self-play pairs")
    temperature: float = option(1.0, "of the opponent's samples")
    # Generation and verification
    micro_tokens: int = option(32768 if torch.cuda.is_available() else 1536,
                               "tokens of a step that are scored at one time; caches like few", 1)
    max_new: int = option(160, "tokens an answer may have", 1)
    slots: int = option(96, "rows decoded side by side", 1)
    timeout: float = option(5.0, "seconds a query may run", 0.001, 86400)
    pretrain_lr: float = option(2e-3, "peak learning rate of pretraining")
    pretrain_steps: int = option(5000, "pretrain: steps of 56 questions over 14 random schemas", 1)
    bad_gold: str = option("stop", "a gold query that fails: stop, or skip the example")
    schema: str = option("compact", "how prompts write a schema: compact, or ddl (CREATE TABLE)")
    schema_budget: int = option(8000, "characters of a prompt's schema; tables beyond it are cut",
                                1)
    # Synthesis alone
    n: int = option(3000, "synth: queries to make", 1)
    show: int = option(20, "synth: queries to print")


STAGES = ("sft", "vbift", "selfplay", "experiment", "synth", "eval", "ask", "pretrain")
LOSSES = ("spft", "spin", "dpo", "sft")


# ---------------------------------------------------------------------------------------------
# Prompts: one builder for training, sampling and asking, in both directions

FORMS = {"compact": compact, "ddl": ddl}         # how a schema is written (section 3.1.2)


def fitted(cfg, tokenizer, schema, order, write):
    """(write(part), Counter of what is left out) for the part of a schema that --schema_budget and
    the model's context have room for; DataError where the prompt is too long with a single table.

    order(): names of its tables, the most important first.  write(schema): a prompt's text."""
    def size(schema):
        return len(FORMS[cfg.schema](schema))

    part, dropped, budget = schema, Counter(), cfg.schema_budget
    room = math.inf if tokenizer.context is None else tokenizer.context - cfg.max_new
    while True:
        if size(part) > budget:
            part, dropped = narrow(schema, order(), budget, size)
        prompt = write(part)
        if len(prompt) < room // 2 or (tokens := len(tokenizer.prompt(prompt))) <= room:
            return prompt, dropped
        if budget < 16:
            raise DataError(f"{schema.db_id}: a prompt of {tokens} tokens, and --max_new "
                            f"{cfg.max_new} more, exceed the model's context of "
                            f"{tokenizer.context}")
        budget = min(budget, size(part)) * 3 // 4


def sql_prompt(schema, question, links, form=compact):
    """Asks for SQL.  links: (table, column, value) that the question seems to name."""
    tables = {table.name for table in schema.tables}
    values = ", ".join(f"{quote_name(t)}.{quote_name(c)} = {quote_text(v)}"
                       for t, c, v in links if t in tables)
    return (f"{form(schema)}\nquestion: {question}\n"
            + (f"values: {values}\n" if values else "") + "sql:\n")


def question_prompt(schema, query, form=compact):
    """Asks for the question that a query answers (the SQL-to-Text direction)."""
    return f"{form(schema)}\nsql: {query}\nquestion:\n"


def sequence(tokenizer, prompt, answer):
    """(ids, n): n prompt tokens, then the scored ones: the answer's and one end token.

    answer: text, or a model's Sample, whose ids are kept as they are; one that was cut off has no
    end token."""
    ids = tokenizer.prompt(prompt)
    if isinstance(answer, str):
        return ids + tokenizer.encode(answer) + [tokenizer.end], len(ids)
    return ids + answer.ids + [answer.end] * answer.finished, len(ids)


# ---------------------------------------------------------------------------------------------
# Several processes under torchrun: each does its share, and all know everything afterwards

RANK, RANKS = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def join_ranks(device):
    """Meet the other processes.  The first alone speaks and writes."""
    if RANKS > 1:
        if device == "cuda":
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo")
        if RANK:
            sys.stdout = open(os.devnull, "w")


def leave_ranks():
    if RANKS > 1:
        distributed.destroy_process_group()


def divided(work, items):
    """work(items), a list with a result for each item, of which each process does a share."""
    if RANKS == 1:
        return work(items)
    shares = [None] * RANKS
    distributed.all_gather_object(shares, work(items[RANK::RANKS]))
    return [shares[i % RANKS][i // RANKS] for i in range(len(items))]


def first_alone(work):
    """What work() returns in the first process; the others wait for it."""
    result = [work() if RANK == 0 else None]
    if RANKS > 1:
        distributed.broadcast_object_list(result)
    return result[0]


def verifiers():
    """Processes that run SQL for this one: a machine's cores, shared by the processes on it."""
    return max(1, os.cpu_count() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def sum_over_ranks(tensors):
    """Sum each tensor over all processes, in place."""
    for tensor in tensors if RANKS > 1 else ():
        distributed.all_reduce(tensor)


def progress(steps=None, **options):
    """A bar with rate and time left on a terminal, of the first process alone."""
    return tqdm(steps, disable=True if RANK else None, mininterval=2, **options)


# ---------------------------------------------------------------------------------------------
# One fit loop for every stage

@dataclass(frozen=True)
class Item:
    """A term of a loss: the sequences to score, and the opponent's view of them."""
    group: str                 # items of one group share a prompt prefix: the database
    sequences: tuple           # of (ids, n)
    opponent: tuple = ()       # log-probabilities of the sequences under the opponent
    R: float = 0.0             # Eq. 2


def scored_tokens(item):
    return sum(len(ids) - n for ids, n in item.sequences)


def chunked(items, rng, size):
    """Shuffled chunks of one group each, at most `size` items: a chunk is a packed row."""
    groups = defaultdict(list)
    for item in rng.sample(items, len(items)):
        groups[item.group].append(item)
    chunks = [g[i:i + size] for g in groups.values() for i in range(0, len(g), size)]
    return rng.sample(chunks, len(chunks))


def steps_of(items, epochs, batch, rng, share=8):
    """Lists of chunks with about `batch` items each, for so many epochs (a part of one counts)."""
    steps, step, left = [], [], round(epochs * len(items))
    while left > 0:
        for chunk in chunked(items, rng, share):
            step.append(chunk[:left])
            left -= len(step[-1])
            if sum(map(len, step)) >= batch or left == 0:
                steps.append(step)
                step = []
            if left == 0:
                break
    return steps


def fit(model, steps, loss, weight, lr, name, cfg, warmup=0.05, watch=None):
    """AdamW over steps (lists of chunks of Items) with linear warm-up and cosine decay to a tenth.

    loss(logp (N,), items) is a sum; weight(item) counts its terms (tokens or pairs), and a step
    divides by the whole step's weight, however it is cut into micro-batches.  On a CPU these run
    side by side, a thread each; their gradients are added in order, so that a seed tells all.
    Returns the model, in one piece if it was sharded, and its `training_metrics`."""
    started, losses, tokens = time.time(), [], 0
    params = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr, betas=(0.9, 0.98), weight_decay=0.01)

    def scored(micro):
        batch = lm.pack([[s for item in chunk for s in item.sequences] for chunk in micro])
        logp = lm.sequence_logprobs(model, batch.to(model.device))
        return loss(logp, [item for chunk in micro for item in chunk]) / total

    model.train()
    bar = progress(steps, desc=name, unit="step")
    workers = cfg.threads if model.device.type == "cpu" and not cfg.shard else 1
    with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for i, chunks in enumerate(bar):
            rate = schedule((i + 1) / len(steps), warmup)
            for group in optimizer.param_groups:
                group["lr"] = lr * rate
            total = sum(weight(item) for chunk in chunks for item in chunk)
            size = sum(map(packed_length, chunks))
            parts = micro_batches(chunks, min(cfg.micro_tokens, size // RANKS + 1))
            value = (sharded_gradients(parts, scored, params) if cfg.shard else
                     gradients(parts, scored, params, pool.map if workers > 1 else map))
            torch.nn.utils.clip_grad_norm_(params, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            losses.append(value)
            tokens += size
            if (i + 1) % 20 == 0:
                bar.set_postfix_str(f"loss {float(value):.3f}", refresh=False)
            if watch:
                watch(i + 1, value)
    del optimizer
    half = torch.bfloat16 if model.device.type == "cuda" else None
    model = lm.gather_full_model(model.eval(), half)
    return model, training_metrics(losses, tokens / (time.time() - started))


def training_metrics(losses, rate):
    """What is kept of a training: its steps, mean losses of the first and last tenth, tokens/s."""
    tenth = len(losses) // 10 + 1
    ends = {"first": losses[:tenth], "last": losses[-tenth:]} if losses else {}
    return {"steps": len(losses), "tokens per second": round(rate),
            **{f"loss at {name}": round(float(torch.stack(part).mean()), 4)
               for name, part in ends.items()}}


def gradients(parts, scored, params, run):
    """Add up a step's gradients over its parts, of which each process has a share; its loss."""
    def one(part):
        value = scored(part)
        return value.detach(), torch.autograd.grad(value, params)

    total = torch.zeros((), device=params[0].device)
    for value, grads in run(one, parts[RANK::RANKS]):
        total += value
        for p, grad in zip(params, grads):
            p.grad = grad if p.grad is None else p.grad.add_(grad)
    for p in params if len(parts) <= RANK else ():          # fewer parts than processes
        p.grad = torch.zeros_like(p)
    sum_over_ranks([total, *(p.grad for p in params)])
    return total


def sharded_gradients(parts, scored, params):
    """The same for a sharded model, whose layers meet in every pass: all processes make as many,
    one that has no part left over the first again, for nothing.  FSDP2 averages their gradients."""
    total = torch.zeros((), device=params[0].device)
    for i in range(RANK, -(-len(parts) // RANKS) * RANKS, RANKS):
        value = scored(parts[i % len(parts)]) * (i < len(parts))
        (value * RANKS).backward()
        total += value.detach()
    sum_over_ranks([total])
    return total


def schedule(t, warmup):
    """Share of the peak rate at t in (0, 1]: up to 1 at `warmup`, then a cosine down to 0.1."""
    if t < warmup:
        return t / warmup
    return 0.1 + 0.45 * (1 + math.cos(math.pi * (t - warmup) / (1 - warmup)))


def packed_length(chunk):
    """Tokens that a chunk's packed row will have, about."""
    (first, n), *rest = (s for item in chunk for s in item.sequences)
    return len(first) + sum(len(ids) - n for ids, n in rest)


def micro_batches(chunks, budget):
    """Split a step's chunks, rows of like length together, into parts of `budget` packed tokens;
    those of the longest rows come first, so that threads end together."""
    parts, size = [[]], 0
    for chunk in sorted(chunks, key=packed_length, reverse=True):
        cost = packed_length(chunk)
        if parts[-1] and size + cost > budget:
            parts.append([])
            size = 0
        parts[-1].append(chunk)
        size += cost
    return parts


# ---------------------------------------------------------------------------------------------
# The base model: pretraining on random worlds (deviation 12)

class Worlds:
    """`steps` steps of `rows` random worlds each, a world with `pairs` questions in one packed row;
    three in ten ask for the question of a query, the others for SQL."""

    def __init__(self, tokenizer, steps, rows, pairs, seed, easy=True):
        self.tokenizer, self.steps, self.rows, self.pairs = tokenizer, steps, rows, pairs
        self.easy = steps // 10 if easy else 0
        self.rng, self.lexicon = random.Random(seed), Lexicon(heldout=False)

    def __len__(self):
        return self.steps

    def __iter__(self):
        """Rows of like length go together, so that little of a step is padding."""
        for start in range(0, self.steps, 8):
            easy = start < self.easy
            rows = sorted((self.row(easy) for _ in range(8 * self.rows)), key=packed_length)
            steps = [rows[i:i + self.rows] for i in range(0, len(rows), self.rows)]
            self.rng.shuffle(steps)
            yield from steps[:self.steps - start]

    def row(self, easy):
        """The first tenth has small schemas and simple questions: copying comes first."""
        world = random_world(self.rng, self.lexicon, max_tables=2 if easy else None)
        pairs = random_pairs(self.rng, self.lexicon, world, self.pairs, simple=0.5 if easy else 0.0)
        return [self.item(world, pair) for pair in pairs]

    def item(self, world, pair):
        """Links are what a value linker would offer: now and then it misses, or offers too much."""
        if self.rng.random() < 0.3:
            prompt, answer = question_prompt(world.schema, pair.query), pair.question
        else:
            links = [link for link in pair.links if self.rng.random() < 0.9]
            if self.rng.random() < (0.3 if links else 0.1):
                links += stray_link(self.rng, world, links)
                self.rng.shuffle(links)
            prompt, answer = sql_prompt(world.schema, pair.question, links), pair.query
        return Item(world.schema.db_id, (sequence(self.tokenizer, prompt, answer),))


def stray_link(rng, world, links):
    """A link that the question does not mean: any value, or a linked value in another column."""
    texts = [(*place, value) for place, values in world.values.items() for value in values
             if isinstance(value, str)]
    if links and texts and rng.random() < 0.6:
        return [(*rng.choice(texts)[:2], rng.choice(links)[2])]
    return [rng.choice(texts)] if texts else []


def pretrain_tokenizer(folder, rng, vocab_size=1536):
    """The byte-level BPE of the base model, learned on prompts and answers of random worlds."""
    lexicon, texts = Lexicon(heldout=False), []
    for _ in range(2000):
        world = random_world(rng, lexicon)
        texts.append(compact(world.schema))
        for pair in random_pairs(rng, lexicon, world, 6):
            prompt = sql_prompt(world.schema, pair.question, pair.links)
            texts += [prompt.split("\n", 1)[1], pair.query]
    from data.pretraining.tokenizer import train_tokenizer
    train_tokenizer(texts, vocab_size, folder)
    return lm.Tokenizer(folder)


def run_pretrain(cfg):
    """Make a base model under --out on random worlds, from random weights or on from --model."""
    folder, fresh = Path(cfg.out), cfg.model in ("random", str(BASE))
    if fresh:
        tokenizer = pretrain_tokenizer(folder, random.Random(cfg.seed))
        model = lm.random_model(lm.ModelConfig.tiny(1536, 192, 4, 4, 2), cfg.seed)
    else:
        tokenizer, model = lm.Tokenizer(cfg.model), lm.load_pretrained(cfg.model)
        write_text(folder / "tokenizer.json", (tokenizer.folder / "tokenizer.json").read_text())
    worlds = Worlds(tokenizer, cfg.pretrain_steps, rows=14, pairs=4, seed=cfg.seed + 1, easy=fresh)
    history, started = [], time.time()

    def watch(step, loss):
        if step % 500 == 0 or step == len(worlds):
            first_alone(lambda: lm.save_pretrained(model, folder, torch.bfloat16))
            history.append({"step": step, "loss": round(float(loss), 3),
                            **exact_match(cfg, model, tokenizer),
                            "minutes": round((time.time() - started) / 60, 1)})
            print(history[-1], flush=True)
            write_json(folder / "pretraining.json", history)

    model.bf16_autocast = bool(cfg.bf16) and lm.fast_bf16(model.device)
    fit(model, worlds, supervised, scored_tokens, cfg.pretrain_lr, "pretrain", cfg, 0.02, watch)


def exact_match(cfg, model, tokenizer, n=150):
    """Share of SQL answered word for word, in percent: with the words and phrasings of training,
    with words never drawn there, and with phrasings never drawn there either."""
    shares = {}
    for name, lexicon in (("seen", Lexicon(heldout=False)),
                          ("new words", Lexicon(heldout=True, phrasings=False)),
                          ("new phrasings too", Lexicon(heldout=True))):
        rng, asked = random.Random(f"exact {name}"), []
        while len(asked) < n:
            world = random_world(rng, lexicon)
            asked += [(sql_prompt(world.schema, pair.question, pair.links), pair.query)
                      for pair in random_pairs(rng, lexicon, world, 2)]
        samples = lm.generate(model, [tokenizer.prompt(p) for p, _ in asked], cfg.max_new)
        right = sum(tokenizer.decode(s.ids) == query for s, (_, query) in zip(samples, asked))
        shares[name] = round(100 * right / len(asked), 1)
    return shares


# ---------------------------------------------------------------------------------------------
# The task: examples, prompts and verdicts over one benchmark folder

def value_index(schema, path):
    """The ValueIndex of a database, read; says what is left out of it and of the schema."""
    index = ValueIndex(schema, path)
    index.link("")
    for note in (*schema.left_out, *index.skipped):
        print(f"{path}: left out: {note}")
    return index


def gold_tables_first(schema, example):
    return gold_first(schema, example.query, random.Random(example.question + example.query))


def validation_share(examples, databases=10, queries=20):
    """About a tenth of the examples, to validate on: those of a tenth of the databases where there
    are so many, else of a tenth of the distinct queries; none where these are fewer, too."""
    for key, least in ((lambda e: e.db_id, databases), (lambda e: e.query, queries)):
        keys = sorted({key(e) for e in examples}, key=lambda k: zlib.crc32(k.encode()))
        if len(keys) >= least:
            held = {k for k in keys if zlib.crc32(k.encode()) % 10 == 0} or keys[:1]
            return [e for e in examples if key(e) in held]
    return []


def canonical_or_reason(sql, schema):
    """(canonical form, "") of a query, or ("", why it has none)."""
    try:
        return canonical_sql(sql, schema), ""
    except SQLError as problem:
        return "", problem.reason


def lost_meaning(gold_sql, gold, canonical):
    """Why the canonical form is no training target, from both Results; "" where it is one."""
    if canonical.status != "ok":
        return f"canonical form: {canonical.status}"
    same = keeps_meaning(gold_sql, gold.rows, canonical.rows)
    return "" if same else "canonical form: other rows"


class Task:
    """What all stages share: data, tokeniser, and the one place that says what is correct."""

    def __init__(self, cfg, tokenizer, verifier):
        self.cfg, self.tokenizer, self.verifier = cfg, tokenizer, verifier
        self.data, self.linkers = Data(cfg.data), {}
        self.dropped = Counter()              # of schemas over --schema_budget
        self.unusable = Counter()             # examples left out, by reason
        self.kept_raw = Counter()             # golds without a canonical form, by reason

    @cached_property
    def train(self):
        held = set(self.held_out)
        return self.checked("train", [e for e in self.labelled if e not in held])

    @cached_property
    def val(self):
        """Labelled questions, or synthetic ones where there are too few of those."""
        return (self.given_val or self.checked("train", self.held_out)
                or synthetic_validation(self.cfg, self))

    @cached_property
    def test(self):
        return self.checked(self.last_split) if self.data.has(self.last_split) else []

    @property
    def last_split(self):
        return "test" if self.data.has("test") else "dev"

    @cached_property
    def labelled(self):
        return self.usable("train")

    @cached_property
    def given_val(self):
        return self.checked("val") if self.data.has("val") else []

    @cached_property
    def held_out(self):
        """The training examples that serve for validation: none where there is a val.json."""
        return [] if self.given_val else validation_share(self.labelled)

    @cached_property
    def digest(self):
        """Of examples and databases: what tells this data from other data."""
        self.train, self.test                       # whatever is wrong with them shows first
        return "-".join(self.data.digest(split) for split in ("train", "val", self.last_split)
                        if self.data.has(split) or split == "train")

    def announce(self):
        """Say on what this run trains, validates and tests.  Whatever is wrong shows here, first;
        DataError where nothing can be trained on or validated."""
        train, test = len(self.train), len(self.test)
        if not train and not self.data.own:
            raise DataError(f"{self.cfg.data}: no training question whose gold runs")
        source = "val.json" if self.given_val else "held out of the training questions"
        if not self.given_val and not self.held_out:
            source = "synthetic: too few labelled ones"
        if not self.val:
            raise DataError(f"{self.cfg.data}: no validation question, and none could be made")
        print(f"{train} labelled questions for training; {len(self.val)} for validation "
              f"({source}); {test} for test" + ("" if test else ": the table has no test column"))
        if self.kept_raw:
            print(f"gold SQL that training takes as written: {counts(self.kept_raw)}")
        if self.unusable:
            print(f"examples left out: {counts(self.unusable)}")

    def mode(self, split):
        """Whose rules score a split; synthetic questions are scored as those of training."""
        if split == "test":
            split = self.last_split
        return self.data.mode("train" if split == "val" and not self.given_val else split)

    def usable(self, split):
        """Examples of a split whose database is there; with --bad_gold stop all must be."""
        examples, reasons = self.data.usable(split)
        if reasons and self.cfg.bad_gold == "stop":
            self.data.examples(split)               # raises at the first
        self.unusable += reasons
        return examples

    def checked(self, split, examples=None):
        """At most --limit Examples whose gold runs, each with its training target: the gold's
        canonical form where that gives the same rows, else the gold as written."""
        examples = self.usable(split) if examples is None else examples
        if self.cfg.limit and len(examples) > self.cfg.limit:
            examples = random.Random(0).sample(examples, self.cfg.limit)
        found = []
        for start in range(0, len(examples), 512):  # not all results in memory at once
            found += self.with_targets(examples[start:start + 512])
        return found

    def with_targets(self, examples):
        """The examples whose gold runs, with their training targets."""
        golds = self.run([(e, e.query) for e in examples])
        runs = [(e, gold) for e, gold in zip(examples, golds) if self.gold_runs(e, gold)]
        forms = [canonical_or_reason(e.query, self.data.schema(e.db_id)) for e, _ in runs]
        again = iter(self.run([(e, sql) for (e, _), (sql, _) in zip(runs, forms)
                               if sql not in ("", e.query)]))
        found = []
        for (e, gold), (sql, reason) in zip(runs, forms):
            if sql and sql != e.query:
                reason = lost_meaning(e.query, gold, next(again))
            self.kept_raw.update([reason] if reason else [])
            found.append(replace(e, target=e.query if reason else sql))
        return found

    def gold_runs(self, example, result):
        """Whether a gold ran; DataError under --bad_gold stop where it did not."""
        if result.status == "ok":
            return True
        if self.cfg.bad_gold == "stop":
            raise DataError(f"{self.cfg.data}: a gold query does not run (--bad_gold skip leaves "
                            f"such examples out): {example.db_id}: {example.query!r}: "
                            f"{result.status} {result.error}")
        self.unusable[f"gold {result.status}"] += 1
        return False

    def run(self, queries):
        """Results of (Example, SQL) pairs, each on its example's database."""
        jobs = [(self.data.databases(e.db_id)[0], sql) for e, sql in queries]
        return divided(self.verifier.run, jobs)

    def sql_prompt(self, example, train=False):
        """The prompt of a question.  Where the schema is over --schema_budget, training keeps the
        gold's tables and random others, asking those that the question seems to mean."""
        schema = self.data.schema(example.db_id)
        if example.db_id not in self.linkers:
            self.linkers[example.db_id] = value_index(schema,
                                                      self.data.databases(example.db_id)[0])
        question = example.question + (f" ({example.evidence})" if example.evidence else "")
        links = self.linkers[example.db_id].link(question)
        prompt, dropped = fitted(
            self.cfg, self.tokenizer, schema,
            lambda: gold_tables_first(schema, example) if train else rank(schema, question, links),
            lambda part: sql_prompt(part, question, links, FORMS[self.cfg.schema]))
        self.dropped += dropped
        return prompt

    def question_prompt(self, example):
        schema = self.data.schema(example.db_id)
        query = example.target or example.query
        return fitted(self.cfg, self.tokenizer, schema, lambda: gold_tables_first(schema, example),
                      lambda part: question_prompt(part, query, FORMS[self.cfg.schema]))[0]

    def to_sql(self, example, answer=None):
        """Sequence (ids, n) of a question and its SQL; answer: a Sample instead of the gold."""
        return self.sequence(self.sql_prompt(example, train=True),
                             answer or example.target or example.query)

    def to_question(self, example):
        """Sequence (ids, n) of a query and its question: the SQL-to-Text direction."""
        return self.sequence(self.question_prompt(example), example.question)

    def sequence(self, prompt, answer):
        return sequence(self.tokenizer, prompt, answer)

    def both_directions(self, examples):
        return [Item(e.db_id, (make(e),))
                for e in examples for make in (self.to_sql, self.to_question)]

    def answer(self, model, prompts, name, temperature=0.0, n=1, seed=0):
        """Samples of each prompt text, n in a row."""
        def of_each(prompts):
            ids = [self.tokenizer.prompt(p) for p in prompts]
            samples = lm.generate(model, ids, self.cfg.max_new, temperature, n, seed,
                                  self.cfg.slots, progress=bar.update)
            return [samples[i:i + n] for i in range(0, len(samples), n)]

        with progress(total=n * len(prompts), desc=name, unit="row") as bar:
            return [sample for row in divided(of_each, prompts) for sample in row]

    def verdicts(self, examples, samples, split="train"):
        """E(y') = E(y)?  A verdict for each example and sample, against the gold as written, by
        the rules of the split's data."""
        pairs = [(self.data.databases(e.db_id), e.query, self.sql(s))
                 for e, s in zip(examples, samples)]
        return divided(partial(self.verifier.verdicts, mode=self.mode(split)), pairs)

    def text(self, sample):
        return self.tokenizer.decode(sample.ids).strip()

    def sql(self, sample):
        return sql_of_answer(self.text(sample))


# ---------------------------------------------------------------------------------------------
# Run directory: candidates, each a Hugging Face folder with its record

@dataclass
class Candidate:
    """A model kept in M.  folder: its weights; ex: validation accuracy in percent."""
    name: str
    parent: str
    folder: str
    ex: float = 0.0
    seconds: float = 0.0
    metrics: dict = field(default_factory=dict)      # of its training; self-play: who played too


# Settings that change nothing of what a run directory holds already.
FREE = ("stage", "loss", "out", "split", "db", "question", "samples", "seeds", "n", "show")


class Run:
    """The run directory OUT.  A candidate's record is written last: without it, it is made anew."""

    def __init__(self, cfg, task):
        self.cfg, self.out = cfg, Path(cfg.out)
        settings = {k: v for k, v in asdict(cfg).items() if k not in FREE}
        settings["content of the data"] = task.digest
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            known = self.out / "config.json"
            if known.exists():
                self.refuse_other_settings(lm.read_json(known), settings)
            write_json(known, settings)
        except OSError as error:
            raise DataError(f"--out {cfg.out}: {error.strerror}") from None

    def refuse_other_settings(self, before, now):
        for key in now:
            if key != "plays" and key in before and before[key] != now[key]:
                option = key if " " in key else f"--{key}"
                raise DataError(f"--out {self.out} was made with {option} {before[key]}, not "
                                f"{now[key]}: choose another --out")

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

    def line(self, stage):
        """The finished candidates of a stage, in order."""
        return [c for c in self.everyone() if c.name.partition("-")[0] == stage]

    def synthetic(self, round):
        """The synthetic pairs of a round of VBI-FT, each with the part that it played."""
        return read_lines(self.out / f"vbift-{round}" / "synthetic.jsonl")

    def remembered(self, name, about, make):
        """The records that make() gives, kept in OUT/games/NAME-KEY.jsonl.  The key is a digest of
        `about`, all that decides them: other weights or data have another, and are made anew."""
        key = hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
        path = self.out / "games" / f"{name}-{key}.jsonl"
        if not path.exists():
            write_lines(path, make())
        return read_lines(path)

    def keep(self, task, model, name, parent, started, metrics):
        """Save a trained model, its adapter too, score it on validation: it is a candidate."""
        folder, base = self.out / name, self.load(parent).folder

        def save():
            if model.adapter:
                lm.save_adapter(model, folder / "adapter", base)
            lm.save_pretrained(model, folder)
            task.tokenizer.save(folder)

        first_alone(save)
        return self.record(task, model, Candidate(name, parent, str(folder), metrics=metrics),
                           started)

    def record(self, task, model, candidate, started):
        rows = self.score(task, model, candidate.name, "val")
        candidate.ex = percent(rows)
        candidate.seconds = round(time.time() - started, 1)
        write_json(self.out / candidate.name / "candidate.json", asdict(candidate))
        show_candidate(candidate, rows)
        return candidate

    def score(self, task, model, name, split):
        """Greedy answers to a split with their verdicts, kept in OUT/name/split.jsonl."""
        path = self.out / name / f"{split}.jsonl"
        if not path.exists():
            examples = getattr(task, split)
            prompts = [task.sql_prompt(e) for e in examples]
            samples = task.answer(model, prompts, f"{name} on {split}")
            write_lines(path, answer_rows(task, examples, samples, split))
        return read_lines(path)


def answer_rows(task, examples, samples, split="train"):
    """A record of each answer and its verdict."""
    return [{"db_id": e.db_id, "question": e.question, "gold": e.query, "pred": task.sql(s),
             "correct": bool(v.correct), "status": v.status, "error": v.error}
            for e, s, v in zip(examples, samples, task.verdicts(examples, samples, split))]


def write_text(path, text):
    """Write through a temporary name: what is there is whole."""
    def write():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    first_alone(write)


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path, rows):
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# ---------------------------------------------------------------------------------------------
# Stage 0: supervised fine-tuning

def run_base(cfg, task, run):
    """The model before any training, as a candidate's record (it is not in M)."""
    done = run.load("base")
    if done:
        return done
    banner("base", f"{cfg.model} as it is")
    started = time.time()
    return run.record(task, load_model(cfg, cfg.model), Candidate("base", "-", cfg.model), started)


def run_sft(cfg, task, run):
    """Fine-tune the base model on the labelled pairs, both directions at once."""
    base = run_base(cfg, task, run)
    done = run.load("sft")
    if done or not task.train:                    # without labels the base stands in its place
        return [done or base]
    banner("sft", f"base -> sft on {len(task.train)} labelled pairs, both directions")
    started, model = time.time(), load_model(cfg, base.folder, train=True)
    rng = random.Random(f"{cfg.seed}/sft")
    steps = steps_of(task.both_directions(task.train), cfg.sft_epochs, cfg.batch, rng)
    model, metrics = fit(model, steps, supervised, scored_tokens, cfg.lr, "sft", cfg)
    return [run.keep(task, model, "sft", "base", started, metrics)]


def supervised(logp, items):
    return token_loss(logp).sum()


# ---------------------------------------------------------------------------------------------
# Stage 1: verification-based iterative fine-tuning (section 3.1)

def run_vbift(cfg, task, run):
    """Rounds of synthesis, fine-tuning and verification; each leaves a candidate."""
    candidates = run_sft(cfg, task, run)
    for round in range(1, cfg.rounds + 1):
        candidates.append(run.load(f"vbift-{round}")
                          or vbift_round(cfg, task, run, round, candidates[-1]))
    return candidates


def vbift_round(cfg, task, run, round, parent):
    name = f"vbift-{round}"
    banner(name, f"{parent.name} -> {name}")
    started, rng = time.time(), random.Random(f"{cfg.seed}/{name}")
    earlier = [row for r in range(1, round) for row in run.synthetic(r)]
    made = synthesize_pairs(cfg, task, load_model(cfg, parent.folder), rng, cfg.synthetic,
                            task.train + task.val, earlier)               # 3.1.1
    rng.shuffle(made)                       # what is easily filled is made first
    held, new = made[:len(made) // 6], made[len(made) // 6:]
    pairs = task.train + new + [Example(r["db_id"], r["question"], r["query"]) for r in earlier
                                if r["part"] == "train"]
    right = [(r["db_id"], r["query"], r["question"]) for r in earlier if r["part"] == "y+"]
    items = task.both_directions(pairs) + [Item(d, (task.to_question(Example(d, q, s)),))
                                           for d, s, q in right]
    steps = steps_of(items, cfg.epochs, cfg.batch, rng)
    model = load_model(cfg, parent.folder, train=True)
    model, metrics = fit(model, steps, supervised, scored_tokens, cfg.vbift_lr, name, cfg)
    samples = task.answer(model, [task.sql_prompt(e) for e in held], f"{name} on synthetic")
    judged = [(e, v.correct) for e, v in zip(held, task.verdicts(held, samples))
              if v.status != "bad_gold"]
    y_pos, y_neg = split_by_execution(*zip(*judged)) if judged else ([], [])  # Eq. 1
    print(f"  synthetic validation: {len(y_pos)} right (y+), {len(y_neg)} wrong (y-)")
    write_lines(run.out / name / "synthetic.jsonl", [
        {"part": part, "db_id": e.db_id, "question": e.question, "query": e.query}
        for part, group in (("train", new), ("y+", y_pos), ("y-", y_neg)) for e in group])
    metrics |= {"synthetic": len(made), "y+": len(y_pos), "y-": len(y_neg)}
    return run.keep(task, model, name, parent.name, started, metrics)


def synthesize_pairs(cfg, task, model, rng, n, labelled, earlier=()):
    """Synthetic Examples: SQL from refilled templates, questions by the SQL-to-Text direction.

    labelled: Examples, and earlier: records of earlier rounds, whose queries do not come again."""
    schemas = task.data.schema
    pool = TemplatePool(template_sources(task.data, task.train))
    pool.reweight([(r["query"], schemas(r["db_id"])) for r in earlier if r["part"] == "y-"])
    ids = task.data.db_ids() if task.data.own else sorted({e.db_id for e in task.train})
    databases = [(schemas(d), task.data.databases(d)[0]) for d in ids]
    known = {normalise(e.query, schemas(e.db_id)) for e in labelled}
    known |= {normalise(r["query"], schemas(r["db_id"])) for r in earlier}
    draw = random.Random(rng.randrange(2**31))
    made, drops = first_alone(lambda: synthesize(pool, databases, n, draw, task.verifier.run,
                                                 known))
    print(f"  templates: {len(pool)}; synthetic SQL kept: {len(made)}; dropped: {counts(drops)}")
    return ask_questions(cfg, task, model, rng, [Example(s.db_id, "", s.sql) for s in made])


def synthetic_validation(cfg, task):
    """Examples that stand in for labelled validation questions where one's own databases have none:
    synthetic SQL with the start model's questions, made once, in OUT/validation.jsonl."""
    path = Path(cfg.out) / "validation.jsonl"
    if not path.exists():
        banner("validation", f"too few labelled questions in {cfg.data}: synthetic ones it is")
        made = synthesize_pairs(cfg, task, load_model(cfg, cfg.model),
                                random.Random(f"{cfg.seed}/validation"),
                                max(8, cfg.synthetic // 4), task.train)
        write_lines(path, [asdict(example) for example in made])
    return [Example(**row) for row in read_lines(path)]


def ask_questions(cfg, task, model, rng, examples):
    """Give each query, of a few sampled questions that name all its text values, the one from which
    the model finds the query likeliest.  None is dropped for being hard."""
    prompts, n = [task.question_prompt(e) for e in examples], cfg.questions
    samples = task.answer(model, prompts, "questions", 0.7, n, rng.randrange(2**31))
    asked, drops = [], Counter()
    for i, e in enumerate(examples):
        texts = {task.text(s): None for s in samples[i * n:(i + 1) * n] if s.finished}
        good = [replace(e, question=t) for t in texts
                if t and all(v.lower() in t.lower() for v in text_values(e.query))]
        if good:
            asked.append(good)
        drops["question unfinished" if not texts else "value not named"] += not good
    items = [Item(good[0].db_id, tuple(map(task.to_sql, good))) for good in asked]
    scored = with_logprobs(model, items, "choosing")
    print(f"  questions written: {len(asked)}; dropped: {counts(drops)}")
    return [max(zip(item.opponent, good), key=lambda pair: pair[0])[1]
            for item, good in zip(scored, asked)]


def text_values(query):
    """The text literals of a query, without the wildcards of LIKE."""
    return [part.value.strip("%") for part in walk(parse(query))
            if isinstance(part, Literal) and part.kind == "text"]


# ---------------------------------------------------------------------------------------------
# Stage 2: self-play fine-tuning (section 3.2, Algorithm 1)

def run_selfplay(cfg, task, run):
    """Best candidate against weakest; what comes of it joins the candidates.

    --loss spin, dpo and sft play from the same candidates; their rounds have names of their own."""
    candidates = run_vbift(cfg, task, run)
    line = {"spft": "selfplay", "sft": "continued"}.get(cfg.loss, cfg.loss)
    for play in range(1, cfg.plays + 1):
        name = f"{line}-{play}"
        candidates.append(run.load(name) or selfplay_round(cfg, task, run, name, candidates))
    return candidates


def best(candidates):
    """The candidate with the highest validation accuracy, of equals the newest."""
    return max(reversed(candidates), key=lambda c: c.ex)


def players(loss, candidates):
    """Main and opponent: by Algorithm 1 the best and the weakest candidate.  In SPIN a model plays
    its own start, and each round goes on from the last, whatever that did to accuracy."""
    main = best(candidates)                                               # Algorithm 1
    if loss == "spin":
        main = candidates[-1] if candidates[-1].name.startswith("spin") else main
        return main, main
    return main, min(candidates, key=lambda c: c.ex)                      # Algorithm 1


def selfplay_round(cfg, task, run, name, candidates):
    main, opponent = players(cfg.loss, candidates)
    banner(name, f"main {main.name} (EX {main.ex:.1f}) plays opponent {opponent.name} "
                 f"({opponent.ex:.1f}); base {cfg.model}")
    print("  candidates: " + ", ".join(f"{c.name} {c.ex:.1f} (from {c.parent})"
                                       for c in candidates))
    started, round = time.time(), name.rpartition("-")[2]
    rng = random.Random(f"{cfg.seed}/play {round}")             # the same games for every loss
    games = play(cfg, task, run, main, opponent, rng)
    loss, weight = self_play(cfg.lam), lambda item: 1
    steps = steps_of(games, cfg.selfplay_epochs, cfg.batch, rng)
    if cfg.loss == "sft":                                       # the control: gold alone
        loss, weight = supervised, scored_tokens
        steps = [[[gold_only(item) for item in chunk] for chunk in step] for step in steps]
    elif cfg.loss == "dpo":                                     # only pairs with a wrong sample,
        wrong, more = [item for item in games if item.R == 1], []
        while wrong and len(more) < len(steps):                 # for as many updates
            more += steps_of(wrong, 1, cfg.batch, rng)
        steps = more[:len(steps)]
    before = log_ratios(load_model(cfg, main.folder), games)
    model = load_model(cfg, main.folder, train=True)
    model, metrics = fit(model, steps, loss, weight, cfg.selfplay_lr, name, cfg)
    after = log_ratios(model, games)
    show_margins(before, after)
    metrics |= {"main": main.name, "opponent": opponent.name, "opponent ex": opponent.ex,
                "R = 1": mean([item.R for item in games]),
                "before": before, "after": after}
    return run.keep(task, model, name, main.name, started, metrics)


def gold_only(item):
    return replace(item, sequences=item.sequences[:1])


def self_play(lam):
    """The summed loss of pairs: sequences in order gold, sample, gold, sample, ..."""
    def loss(logp, items):
        opponent = torch.tensor([item.opponent for item in items], device=logp.device)
        R = torch.tensor([item.R for item in items], device=logp.device)
        main_pos, main_neg = logp.view(-1, 2).unbind(1)
        opp_pos, opp_neg = opponent.unbind(1)
        return error_driven_loss(main_pos, opp_pos, main_neg, opp_neg, R, lam).sum()
    return loss


def play(cfg, task, run, main, opponent, rng):
    """The opponent answers the prompts, execution rewards its errors: an Item for each pair."""
    examples = list(task.train)
    if cfg.loss != "spin":
        examples += [Example(r["db_id"], r["question"], r["query"])
                     for r in (run.synthetic(cfg.rounds) if cfg.rounds else [])]
    if not examples:
        raise DataError(f"{cfg.data} has no labelled questions to play on (--loss {cfg.loss}, "
                        f"--rounds {cfg.rounds})")
    model = load_model(cfg, opponent.folder)
    rows = opponent_answers(cfg, task, run, model, examples, rng.randrange(2**31))
    examples = [e for e, row in zip(examples, rows) if row["status"] != "bad_gold"]
    rows = [row for row in rows if row["status"] != "bad_gold"]           # no verdict, no pair
    R = error_reward(torch.tensor([row["correct"] for row in rows], dtype=torch.bool))   # Eq. 2
    print(f"  {len(examples)} prompts; opponent wrong (R = 1) on {100 * R.mean():.1f}%: "
          f"{errors(rows)}")
    if cfg.loss == "spin":
        R = torch.ones_like(R)                                  # SPIN pushes every sample down
    games = [Item(e.db_id, (task.to_sql(e), task.to_sql(e, lm.Sample(row["ids"], row["end"]))),
                  R=r) for e, row, r in zip(examples, rows, R.tolist())]
    return opponent_logprobs(run, load_model(cfg, main.folder) if cfg.loss == "dpo" else model,
                             games)


def opponent_answers(cfg, task, run, model, examples, seed):
    """A record of the model's sample for each example, token ids and verdict among it."""
    prompts = [task.sql_prompt(e, train=True) for e in examples]

    def answers():
        samples = task.answer(model, prompts, "opponent", cfg.temperature, 1, seed)
        return [{**row, "ids": s.ids, "end": s.end}
                for s, row in zip(samples, answer_rows(task, examples, samples))]

    return run.remembered("answers", [lm.digest(model), prompts, [e.query for e in examples],
                                      cfg.temperature, cfg.max_new, seed, "end"], answers)


def opponent_logprobs(run, model, games):
    """The games with log p of their sequences under the frozen model: computed once a round."""
    rows = run.remembered("logprobs", [lm.digest(model), [item.sequences for item in games]],
                          lambda: [item.opponent for item in with_logprobs(model, games)])
    return [replace(item, opponent=tuple(row)) for item, row in zip(games, rows)]


@torch.no_grad()
def with_logprobs(model, items, name="opponent log-probs"):
    """Items with their sequences' log-probabilities under a frozen model."""
    def of_each(parts):
        found = []
        for part in progress(parts, desc=name, unit="batch"):
            batch = lm.pack([[s for item in chunk for s in item.sequences] for chunk in part])
            found.append(lm.sequence_logprobs(model, batch.to(model.device)).tolist())
        return found

    chunks, scored = chunked(items, random.Random(0), 8), {}
    parts = [chunks[i:i + 8] for i in range(0, len(chunks), 8)]
    for part, logps in zip(parts, divided(of_each, parts)):
        logp = iter(logps)
        for item in (item for chunk in part for item in chunk):
            scored[id(item)] = tuple(next(logp) for _ in item.sequences)
    return [replace(item, opponent=scored[id(item)]) for item in items]


def log_ratios(main, games):
    """Means over the first games: log p under main of gold SQL and of wrong samples, and the margin
    of Eq. 3 between their log-ratios to the opponent."""
    probe = games[:256]
    now = with_logprobs(main, probe, "log-probs")
    gold = [item.opponent[0] for item in now]
    wrong = [(item.opponent[1], item.opponent[0] - item.opponent[1]
              - (game.opponent[0] - game.opponent[1]))
             for item, game in zip(now, probe) if item.R == 1]
    sample, margin = (mean(part) for part in zip(*wrong)) if wrong else (0.0, 0.0)
    return {"gold": round(mean(gold), 3), "wrong sample": round(sample, 3),
            "margin": round(margin, 3)}


def show_margins(before, after):
    """What a round did to log p: of gold SQL it should not fall, of wrong samples it should."""
    print("  log p before and after: " + "; ".join(
        f"{name} {before[name]:.2f} -> {after[name]:.2f}" for name in before))
    if after["gold"] < before["gold"]:
        print("  ALARM: gold SQL has become less likely; a lower --selfplay_lr or --lam may help")


# ---------------------------------------------------------------------------------------------
# The paper's comparisons, over several seeds

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


def run_experiment(cfg, task):
    """Train every system with every seed, then read test once; tables, a JSON and a picture.

    Tables 2 and 3 (systems), Fig. 3 (EX by round), Fig. 4 (synthetic pairs by round), Table 12
    (consistency of the SQL-to-Text direction) and Table 14 (cost against SFT) of the paper.  Seeds
    that ran are not run again: some may run side by side, and a last call over all compare them."""
    runs = []
    for seed in range(cfg.seed, cfg.seed + cfg.seeds):
        for end, loss, change in [("", loss, {}) for loss in LOSSES] + [
                ("-direct", "spft", {"rounds": 0})]:
            own = replace(cfg, seed=seed, loss=loss, out=f"{cfg.out}/seed-{seed}{end}", **change)
            run = Run(own, task)
            if end:                             # what would be trained alike is trained once
                first_alone(lambda: lend(runs[-1].out, run.out, ("base", "sft")))
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
        chosen = [best(run.line(line)) for run in (direct if end else runs)]
        scored = [test_rows(task, run, c) for run, c in zip(direct if end else runs, chosen)]
        correct[system] = torch.tensor([[float(r["correct"]) for r in one] for one in scored])
        by_seed = [percent(one) for one in scored]
        row = {"system": system, "ex": round(mean(by_seed), 2), "spread": round(spread(by_seed), 2),
               "by seed": [round(ex, 2) for ex in by_seed], "n": len(scored[0]), "control": control}
        if control:
            gain, low, high = paired_gain(correct[system], correct[control],
                                          [(r["db_id"], r["gold"]) for r in scored[0]])
            row |= {"gain": gain, "low": low, "high": high}
        rows.append(row)
    trained = [c for run in runs for c in run.everyone()] + [
        c for run in direct for c in run.line("selfplay")]
    settings = ("rounds", "plays", "lam", "selfplay_lr", "selfplay_epochs")
    result = {"data": os.path.relpath(cfg.data), "seeds": cfg.seeds,
              "settings": {name: getattr(cfg, name) for name in settings},
              "systems": rows, "rounds": by_round(task, runs), "pairs": pairs_by_round(runs),
              "consistency": consistency(task, runs), "cost": costs(runs),
              "minutes": round(sum(c.seconds for c in trained) / 60, 1)}
    write_json(Path(cfg.out) / "experiment.json", result)
    first_alone(lambda: draw_report(result, Path(cfg.out) / "report.png"))
    text = report_text(result)
    picture = "\n![EX of each system, and by round](report.png)\n"
    write_text(Path(cfg.out) / "report.md",
               text + picture * (Path(cfg.out) / "report.png").exists())
    print(text)


def test_rows(task, run, candidate):
    known = (run.out / candidate.name / "test.jsonl").exists()
    model = None if known else load_model(run.cfg, candidate.folder)
    return run.score(task, model, candidate.name, "test")


def mean(values):
    return sum(values) / len(values)


def spread(values):
    """Standard deviation over seeds; 0 of a single one."""
    return math.sqrt(sum((v - mean(values)) ** 2 for v in values) / max(1, len(values) - 1))


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
    return {line: [[row[0].name, round(mean([c.ex for c in row]), 2),
                    round(mean([percent(test_rows(task, run, c)) for run, c in zip(runs, row)]), 2)]
                   for row in zip(*(run.line(line) for run in runs))]
            for line in ("vbift", "selfplay", "spin", "dpo", "continued")}


def pairs_by_round(runs):
    """Synthetic pairs by round, mean over seeds (Fig. 4): for training, right and wrong (Eq. 1)."""
    found = defaultdict(Counter)
    for run in runs:
        for k in range(1, run.cfg.rounds + 1):
            found[f"vbift-{k}"].update(row["part"] for row in run.synthetic(k))
    return {name: {part: round(parts[part] / len(runs), 1) for part in ("train", "y+", "y-")}
            for name, parts in found.items()}


def consistency(task, runs):
    """Round trip on validation: share of gold SQL that the last VBI-FT model finds again from the
    question that a model before and after VBI-FT wrote for it (Table 12), mean over seeds."""
    found = defaultdict(list)
    for run in runs:
        last = run.line("vbift")[-1]
        for name in ("sft", last.name):
            path = run.out / name / "roundtrip.jsonl"
            if not path.exists():
                write_lines(path, round_trip(task, load_model(run.cfg, run.load(name).folder),
                                             load_model(run.cfg, last.folder)))
            found[name].append(percent(read_lines(path)))
    return {name: round(mean(shares), 2) for name, shares in found.items()}


def round_trip(task, asker, judge):
    """What judge answers to the questions that asker writes for the gold SQL of validation."""
    prompts = [task.question_prompt(e) for e in task.val]
    asked = [replace(e, question=task.text(s), evidence="")
             for e, s in zip(task.val, task.answer(asker, prompts, "questions"))]
    samples = task.answer(judge, [task.sql_prompt(e) for e in asked], "round trip")
    return answer_rows(task, asked, samples)


def costs(runs):
    """Seconds of each candidate as a multiple of SFT's (Table 14), mean over seeds.  Baselines that
    play the main line's games do not sample them again, which spares them time."""
    names = [c.name for c in runs[0].everyone() if c.name != "base"]
    return {name: round(mean([run.load(name).seconds / run.load("sft").seconds for run in runs]), 2)
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


# ---------------------------------------------------------------------------------------------
# Evaluation of one checkpoint

def run_eval(cfg, task):
    """Answer --split, greedily or by a vote of --samples; its owners' score by level, predictions
    in their format and a JSONL with every verdict, under OUT/eval-SPLIT."""
    out = Path(cfg.out) / f"eval-{Path(cfg.split).stem}"
    if cfg.limit:
        raise DataError("--stage eval scores a whole split: leave --limit out")
    examples = task.usable(cfg.split)
    prompts = [task.sql_prompt(e) for e in examples]
    samples = task.answer(load_model(cfg, cfg.model), prompts, f"{cfg.model} on {cfg.split}",
                          ask_temperature(cfg), cfg.samples, cfg.seed)
    texts = elected(task, examples, [task.sql(s) for s in samples], cfg.samples)
    print(f"{sum(not s.finished for s in samples)} of {len(samples)} answers did not end")
    first_alone(lambda: show_scores(cfg, task, out, examples, texts))


def show_scores(cfg, task, out, examples, texts):
    """Score the answers, print the table by level, write scores, verdicts and predictions."""
    summary, verdicts = scoring.score_predictions(task.data, cfg.split, examples, texts,
                                                  task.verifier)
    scoring.print_scores(summary)
    scoring.write_scores(out / "scores.json", summary)
    scoring.write_verdicts(out / "verdicts.jsonl", examples, texts, verdicts)
    print(scoring.write_predictions(out, examples, texts, summary["rules"]))


def ask_temperature(cfg):
    """Answers that are to vote must differ; a single one is the likeliest."""
    return 0.7 if cfg.samples > 1 else 0.0


def elected(task, examples, texts, n):
    """Of the n answers to each example the one that wins the vote; n = 1: the answers."""
    if n == 1:
        return texts
    jobs = [(task.data.databases(e.db_id)[0], text)
            for e, text in zip((e for e in examples for _ in range(n)), texts)]
    results = divided(task.verifier.run, jobs)
    return [vote(texts[i:i + n], results[i:i + n])[0] for i in range(0, len(texts), n)]


# ---------------------------------------------------------------------------------------------
# Asking a database of one's own

def run_ask(cfg, tokenizer, verifier):
    """Print SQL and rows for the question, or for each line that a person types.  Exit code 1
    where the SQL of the only question does not run."""
    if not cfg.db:
        raise DataError("--stage ask needs --db FILE")
    schema = read_schema(cfg.db)
    if not schema.tables:
        raise DataError(f"{cfg.db}: no tables in it")
    index, model = value_index(schema, cfg.db), load_model(cfg, cfg.model)

    def ask(question):
        question = " ".join(question.encode("utf-8", "replace").decode().split())
        links = index.link(question)
        prompt, _ = fitted(cfg, tokenizer, schema, lambda: rank(schema, question, links),
                           lambda part: sql_prompt(part, question, links, FORMS[cfg.schema]))
        samples = lm.generate(model, [tokenizer.prompt(prompt)], cfg.max_new,
                              ask_temperature(cfg), cfg.samples, cfg.seed)
        texts = [sql_of_answer(tokenizer.decode(s.ids)) for s in samples]
        sql, result, votes = vote(texts, verifier.run([(cfg.db, text) for text in texts]))
        print(sql + (f"   ({votes} of {len(texts)} agree)" if len(texts) > 1 else ""))
        show_result(result)
        return int(result.status != "ok")

    if cfg.question:
        return ask(cfg.question)
    print(f"{compact(schema)}\nAsk, or leave with an empty line.")
    while question := input_line("? "):
        ask(question)


def input_line(prompt):
    """A line that a person types; nothing at the end of the input."""
    try:
        return input(prompt).strip()
    except EOFError:
        return ""


def vote(texts, results):
    """(SQL, Result, votes) of the result that most samples return, the first of equals."""
    ran = [i for i, r in enumerate(results) if r.status == "ok"] or [0]
    agree = {i: sum(same_result(results[i].rows, results[j].rows, False) for j in ran)
             for i in ran}
    best = max(ran, key=agree.get)
    return texts[best], results[best], agree[best]


def show_result(result, most=20):
    """Rows in columns, cut to what a screen holds; or why there are none."""
    if result.status != "ok":
        print(f"  {result.status}: {result.error}")
        return
    cells = [[printable(str(cell)).replace("\n", "\\n").replace("\t", "\\t")[:40] for cell in row]
             for row in result.rows[:most]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        print("  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths)).rstrip())
    more = len(result.rows) - len(cells)
    print(f"  ({len(result.rows)} rows{f', {more} not shown' if more else ''}; "
          f"{1000 * result.seconds:.0f} ms)")


# ---------------------------------------------------------------------------------------------
# What a person sees

def banner(name, text):
    print(f"\n== {name}: {text}", flush=True)


def counts(counter):
    most_first = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{key} {n}" for key, n in most_first if n) or "none"


def percent(rows):
    """EX in percent over rows with a `correct` verdict; a gold that failed counts nowhere."""
    scored = [row for row in rows if row["status"] != "bad_gold"]
    return 100 * sum(row["correct"] for row in scored) / max(1, len(scored))


def interval(rows, z=1.96):
    """95% Wilson interval of EX, in percent."""
    n = max(1, sum(row["status"] != "bad_gold" for row in rows))
    p = percent(rows) / 100
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (middle - spread) / (1 + z * z / n), 100 * (middle + spread) / (1 + z * z / n)


def errors(rows):
    """What the wrong answers were, counted, in words."""
    return counts(Counter(fault(row) for row in rows
                          if not row["correct"] and row["status"] != "bad_gold"))


def fault(row):
    """What is wrong with an answer: SQLite's message without the names in it."""
    if row["status"] != "error":
        return "other result" if row["status"] == "ok" else row["status"]
    kind, _, rest = row["error"].partition(":")
    return rest.strip() if kind.startswith("near ") else kind


def show_candidate(candidate, rows):
    """The line of a finished round, and two of its answers, one wrong and one right."""
    print(f"  {candidate.name} (from {candidate.parent}): validation EX {candidate.ex:.1f} on "
          f"{len(rows)}; wrong: {errors(rows)}; {candidate.seconds:.0f} s")
    for row in sorted(rows, key=lambda r: r["correct"])[:1] + [r for r in rows if r["correct"]][:1]:
        verdict = "correct" if row["correct"] else row["error"] or "other result"
        for name in ("question", "gold", "pred"):
            print(f"    {name:10}{row[name]}")
        print(f"    verdict   {verdict}\n")


def report(cfg, task, run, stage):
    """Run the stage, score test once for every candidate, print the table, write results.json.

    Without test questions the table has validation alone."""
    task.announce()
    last, rows = stage(cfg, task, run)[-1], []
    splits = ("val", "test") if task.test else ("val",)
    for c in run.everyone():
        known = (run.out / c.name / f"{splits[-1]}.jsonl").exists()
        model = None if known else load_model(cfg, c.folder)
        for split in splits:
            scored = run.score(task, model, c.name, split)
            low, high = interval(scored)
            rows.append({"stage": c.name.split("-")[0], "model": c.name, "parent": c.parent,
                         "split": split, "ex": round(percent(scored), 2), "n": len(scored),
                         "low": round(low, 2), "high": round(high, 2), "seconds": c.seconds})
    write_json(run.out / "results.json", rows)
    print(f"\n  seed {cfg.seed}, {os.path.relpath(cfg.data)}")
    show_table(rows, splits)
    if task.dropped:
        print(f"  of schemas over the budget, prompts left out: {counts(task.dropped)}")
    if task.test:
        print(f"  wrong answers of {last.name} on test: "
              f"{errors(run.score(task, None, last.name, 'test'))}")
        show_overlap(task, run, last)


def show_table(rows, splits):
    """The rows of results.json, those of one model on one line."""
    last = f"{splits[-1]} EX (n, 95% interval)"
    print(f"  {'model':<13}{'parent':<13}{'val EX':>7}   {last:<28}{'minutes':>7}")
    for val, row in zip(rows[::len(splits)], rows[len(splits) - 1::len(splits)]):
        about = f"{row['ex']:5.1f} ({row['n']}, {row['low']:.1f} to {row['high']:.1f})"
        print(f"  {val['model']:<13}{val['parent']:<13}{val['ex']:7.1f}   {about:<28}"
              f"{val['seconds'] / 60:7.1f}")


def show_overlap(task, run, last):
    """How much of test the synthetic pool reaches, and EX on what it does not."""
    pool = {"query": set(), "query but for its values": set()}
    for candidate in run.line("vbift"):
        for row in run.synthetic(candidate.name.partition("-")[2]):
            for key, text in zip(pool, plain_and_masked(row["query"])):
                pool[key].add(text)
    rows = run.score(task, None, last.name, "test")
    for i, (key, known) in enumerate(pool.items()):
        rest = [row for row in rows if plain_and_masked(row["gold"])[i] not in known]
        print(f"  the synthetic pool holds the same {key} for {len(rows) - len(rest)} of "
              f"{len(rows)} test questions; {last.name} on the rest: {percent(rest):.1f}")


def plain_and_masked(query):
    """The text of a query in canonical form, and that text with ? for its values."""
    try:
        tree = parse(query)
    except SQLError:
        return query, query
    masked = rewrite(tree, lambda part: Literal("keyword", "?") if isinstance(part, Literal)
                     else None)
    return to_sql(tree), to_sql(masked)


# ---------------------------------------------------------------------------------------------
# Command line

def parse_config(arguments=None):
    """Config from the command line; a wrong word ends in one clear line and exit code 2."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.error = lambda message: sys.exit(fail(message))
    for f in fields(Config):
        name, options = (f.name, {"nargs": "?"}) if f.name == "question" else (f"--{f.name}", {})
        parser.add_argument(name, type=type(f.default), default=f.default, **options,
                            help=f"{f.metadata['help']} ({f.default})")
    cfg = Config(**vars(parser.parse_args(arguments)))
    for name, allowed in (("stage", STAGES), ("loss", LOSSES), ("bad_gold", ("stop", "skip")),
                          ("schema", tuple(FORMS)), ("device", ("cpu", "cuda"))):
        if getattr(cfg, name) not in allowed:
            raise DataError(f"--{name} {getattr(cfg, name)}: choose from {', '.join(allowed)}")
    for f in fields(Config):
        value, low, high = getattr(cfg, f.name), f.metadata["least"], f.metadata["most"]
        if isinstance(value, (int, float)) and not (low <= value <= high and math.isfinite(value)):
            raise DataError(f"--{f.name} {value}: " + (
                f"choose from {low} to {high}" if high < math.inf else f"{low} or more"))
    if cfg.device == "cuda" and not torch.cuda.is_available():
        raise DataError("--device cuda: torch finds no GPU here")
    if cfg.shard and (RANKS == 1 or cfg.lora):
        raise DataError("--shard 1 shares full fine-tuning among the processes of torchrun: "
                        "start it under torchrun, without --lora")
    return cfg


def fail(message):
    print(f"spft.py: error: {printable(str(message))}", file=sys.stderr)
    return 2


def load_model(cfg, folder, train=False):
    """The model of a candidate's folder, or random weights of the embedded base model's shape; with
    new adapters to train under --lora.  On a GPU, what is not trained is in bfloat16."""
    half = cfg.device == "cuda" and (cfg.lora or not train)
    device = "cpu" if train and cfg.shard else cfg.device       # from there each takes its share
    if folder == "random":
        model = lm.random_model(lm.ModelConfig.read(BASE), cfg.seed).to(device)
    else:
        model = lm.load_pretrained(folder, device, torch.bfloat16 if half else torch.float32)
    if train and cfg.lora:
        lm.add_lora(model, cfg.lora, 2 * cfg.lora, seed=cfg.seed)
    model.recompute = bool(train and cfg.recompute)
    model.bf16_autocast = bool(cfg.bf16) and lm.fast_bf16(torch.device(cfg.device))
    return lm.shard(model, cfg.device) if train and cfg.shard else model


def run_stage(cfg):
    """Do what --stage asks for; the exit code, where None is 0 too."""
    if cfg.stage == "pretrain":
        return run_pretrain(cfg)
    if cfg.stage == "synth":
        run_synth(cfg.data, cfg.out, cfg.n, cfg.show, cfg.seed, timeout=cfg.timeout)
        return 0
    with Verifier(workers=verifiers(), timeout=cfg.timeout) as verifier:
        tokenizer = lm.Tokenizer(BASE if cfg.model == "random" else cfg.model)
        if cfg.stage == "ask":
            return run_ask(cfg, tokenizer, verifier)
        task = Task(cfg, tokenizer, verifier)
        if cfg.stage == "eval":
            return run_eval(cfg, task)
        if cfg.stage == "experiment":
            return run_experiment(cfg, task)
        stage = {"sft": run_sft, "vbift": run_vbift, "selfplay": run_selfplay}[cfg.stage]
        return report(cfg, task, Run(cfg, task), stage)


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: workers end, and what is written is whole."""


@contextmanager
def stoppable():
    """Inside, the first SIGINT or SIGTERM raises Stopped; a second one ends the process at once."""
    def stop(number, frame):
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    signals = (signal.SIGINT, signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread():       # signals are not ours
        signals = ()
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)


def main(arguments=None):
    with safe_output(), stoppable():
        cfg = None
        try:
            cfg = parse_config(arguments)
            torch.set_num_threads(cfg.threads)
            join_ranks(cfg.device)
            code = run_stage(cfg)
            leave_ranks()
            return code
        except (DataError, OSError) as error:
            return fail(error)
        except KeyboardInterrupt as stop:
            goes_on = cfg and cfg.stage not in ("ask", "eval", "synth", "pretrain")
            print("\nspft.py: stopped" + "; the same command continues" * goes_on, file=sys.stderr)
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
