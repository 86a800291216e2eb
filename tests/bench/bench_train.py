"""Speed and memory of training on a CPU: a checkpoint's first steps on a benchmark.

    python tests/bench/bench_train.py --model FOLDER --data SPIDER [--lora 16] [--steps 12]
        [--json FILE] [--peer [--peer_python PYTHON] [--peer_rows 8]] [spft.py's settings]

Trains on the first steps of a pass over the labelled pairs, both directions, through spft.fit, and
prints of each: seconds, packed tokens, tokens/s, operations a second of a plain matrix product of
the MLP's shape (in the precision of training, mean of before and after), the share of it that the
step reached, memory, and the loss. A step's operations are 2 for each token and weight of a layer
matrix and for each scored token and weight of the head, twice with an adapter (forward, gradients
of inputs), three times where all weights are trained. --lora 0 trains them all.

--peer: transformers in a plain loop (peers.py) takes turns with spft.fit on the first two steps: a
padded row a sequence, so many rows at a time, float32 weights under bfloat16 autocast. PYTHON has
transformers and peft. Both models are in memory at once, and eight rows take more than 10 GB.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import torch  # noqa: E402

import model as lm  # noqa: E402
from data.prompts.tokenizer import Tokenizer  # noqa: E402
import spft  # noqa: E402
from bench_model import resident  # noqa: E402
from peers import Peer  # noqa: E402
from sqlexec import Verifier  # noqa: E402

ROUNDS = 2              # of our first two steps and the peer's
COLUMNS = {"step": (4, "d"), "seconds": (9, ".2f"), "tokens": (8, "d"), "tokens/s": (10, ".0f"),
           "product GFLOP/s": (17, ".0f"), "share %": (9, ".1f"), "GB": (7, ".2f"),
           "peak GB": (9, ".2f"), "loss": (9, ".4f")}


def first_steps(cfg, count):
    """The first steps of an epoch, of about 32 pairs each."""
    with Verifier(timeout=cfg.timeout) as verifier:
        task = spft.Task(cfg, Tokenizer(cfg.model, cfg.base_model), verifier)
        pairs = task.both_directions(task.train)
        return spft.steps_of(pairs, 1, 32, random.Random(0))[:count]


def work_of(step, model, lora):
    """(packed tokens, operations) of a step."""
    c, passes = model.config, 2 if lora else 3
    layers = sum(p.numel() for name, p in model.named_parameters()
                 if ".layers." in name and p.dim() == 2 and ".lora_" not in name)
    batch = lm.pack([[s for pair in chunk for s in pair.sequences] for chunk in step])
    tokens, scored = batch.ids.numel(), len(batch.target)
    return tokens, 2 * passes * (tokens * layers + scored * c.vocab_size * c.hidden_size)


def product_rate(config, dtype):
    """Operations a second of a plain matrix product, measured for a fifth of a second."""
    x = torch.randn(1408, config.hidden_size).to(dtype)
    weight = torch.randn(config.hidden_size, config.intermediate_size).to(dtype)
    y, spent = torch.mm(x, weight), []
    while sum(spent) < 0.2:
        started = time.perf_counter()
        torch.mm(x, weight, out=y)
        spent.append(time.perf_counter() - started)
    return 2 * y.numel() * config.hidden_size / median(spent)


def measured(cfg, steps, show=lambda row: None):
    """A row of each step of spft.fit on a newly loaded model."""
    model = spft.load_model(cfg, cfg.model, train=True)
    works = [work_of(step, model, cfg.lora) for step in steps]
    rate = partial(product_rate, model.config, torch.bfloat16 if spft.bf16(cfg) else torch.float32)
    rows, rates = [], [rate()]
    started = time.perf_counter()

    def watch(i, loss):
        nonlocal started
        seconds, (tokens, operations) = time.perf_counter() - started, works[i - 1]
        now, peak = (resident(field) / 1e9 for field in ("VmRSS", "VmHWM"))
        rates.append(rate())
        product = (rates[-2] + rates[-1]) / 2
        rows.append({"step": i, "seconds": seconds, "tokens": tokens, "tokens/s": tokens / seconds,
                     "product GFLOP/s": product / 1e9,
                     "share %": 100 * operations / seconds / product,
                     "GB": now, "peak GB": peak, "loss": float(loss)})
        show(rows[-1])
        started = time.perf_counter()

    spft.fit(model, steps, spft.SUPERVISED, cfg.lr, "bench", cfg, watch=watch)
    return rows


def show(row):
    if row["step"] == 1:
        print("".join(f"{name:>{width}}" for name, (width, _) in COLUMNS.items()))
    print("".join(f"{row[name]:{width}{kind}}" for name, (width, kind) in COLUMNS.items()),
          flush=True)


def summary(rows):
    """Medians over the steps after the first, and whether memory grows."""
    later = rows[1:] or rows
    found = {name: median(row[name] for row in later)
             for name in ("seconds", "tokens/s", "product GFLOP/s", "share %")}
    tenth = rows[min(10, len(rows)) - 1]
    return found | {"peak GB": rows[-1]["peak GB"], f"GB after step {tenth['step']}": tenth["GB"],
                    f"GB after step {len(rows)}": rows[-1]["GB"]}


def against_peer(cfg, steps, python, rows):
    """Seconds of spft.fit's first two steps and of the peer's, in turns."""
    steps, ours, theirs = steps[:2], [], []
    given = [[s for chunk in step for pair in chunk for s in pair.sequences] for step in steps]
    with Peer(python) as peer:
        peer("prepare", folder=cfg.model, lora=cfg.lora, threads=cfg.threads)
        peer("train", steps=[given[0][:1]], lr=0.0, rows=1)       # memory for later steps
        for _ in range(ROUNDS):
            ours += measured(cfg, steps)
            theirs.append(peer("train", steps=given, lr=cfg.lr, rows=rows))
            print(f"  spft.fit {[round(row['seconds'], 2) for row in ours[-2:]]}, "
                  f"plain loop {[round(s, 2) for s in theirs[-1]['seconds']]}", flush=True)
    found = {"peer's rows": rows, "seconds": [row["seconds"] for row in ours],
             "peer's seconds": [s for round in theirs for s in round["seconds"]],
             "loss": ours[0]["loss"], "peer's loss": theirs[0]["losses"][0],
             "peer's peak GB": theirs[-1]["peak GB"]}
    return found | {"times as fast": median(found["peer's seconds"]) / median(found["seconds"])}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--lora", default="16")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--json", type=Path, default=Path("runs/bench_train.json"))
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--peer_python", default=sys.executable)
    parser.add_argument("--peer_rows", type=int, default=8, help="padded rows of a micro-batch")
    options, words = parser.parse_known_args()
    cfg = spft.complete(spft.parse_config(
        ["--model", options.model, "--data", options.data, "--lora", options.lora,
         "--schema", "ddl", "--bad_gold", "skip", "--device", "cpu", *words]))
    cfg = replace(cfg, out="")                                    # nothing is kept of the training
    torch.set_num_threads(cfg.threads)
    lm.keep_freed_memory()
    steps = first_steps(cfg, options.steps)
    found = {"model": options.model, "lora": cfg.lora, "threads": cfg.threads,
             "torch": torch.__version__, "bf16": spft.bf16(cfg),
             "steps": measured(cfg, steps, show)}
    found["medians"] = summary(found["steps"])
    if options.peer:
        found["peer"] = against_peer(cfg, steps, options.peer_python,
                                     options.peer_rows)
    for name in ("medians", "peer")[:1 + options.peer]:
        print(f"{name}: " + ", ".join(f"{key} {value:.4g}" for key, value in found[name].items()
                                      if not isinstance(value, list)))
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
