"""Speed and accuracy of sampling: a checkpoint's greedy answers to a benchmark's questions.

    python tests/bench/bench_sampling.py --model FOLDER --data SPIDER [--n 300] [--split dev]
        [--peer_python PYTHON] [--gguf FILE [--gguf_python PYTHON]] [--json FILE]
        [spft.py's settings]

Answers a random part of the questions with model.py in float32 and in bfloat16, and prints of each:
seconds without loading, tokens/s, execution accuracy, and how many queries differ from the first
row's. With PYTHON, which has transformers: its generate on the same prompts in batches of 16 of
like length. With FILE: llama.cpp, in a Python that has llama-cpp-python, a prompt after the other
with what it shares with the last one cached. For FILE take the same weights: llama.cpp's
convert_hf_to_gguf.py FOLDER --outtype f16 --outfile FILE.
"""

import argparse
import json
import random
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import torch  # noqa: E402

import model as lm  # noqa: E402
from data.prompts.tokenizer import Tokenizer  # noqa: E402
import spft  # noqa: E402
from bench_model import show  # noqa: E402
from peers import Peer  # noqa: E402
from sqlexec import Verifier  # noqa: E402

DTYPES = ("float32", "bfloat16")


def ours(cfg, prompts, dtype):
    """(seconds, Samples) of model.py."""
    model = lm.load_pretrained(cfg.model, cfg.device, getattr(torch, dtype), cfg.base_model)
    started = time.perf_counter()
    samples = lm.generate(model, prompts, cfg.max_new, batch_size=cfg.decode_batch)
    return time.perf_counter() - started, samples


def theirs(python, name, **arguments):
    """(seconds, Samples) of a function of peers.py, in a process of its own."""
    with Peer(python) as peer:
        found = peer(name, **arguments)
    return found["seconds"], [lm.Sample(*answer) for answer in found["answers"]]


def answers(cfg, options, prompts, end):
    """Who, its weights' precision, seconds and Samples of each way to answer the prompts."""
    given = dict(threads=cfg.threads, prompts=prompts, max_new=cfg.max_new,
                 eos=list(lm.ModelConfig.read(cfg.model).eos) or [end])
    for dtype in DTYPES:
        yield "model.py", dtype, *ours(cfg, prompts, dtype)
    for dtype in DTYPES if options.peer_python else ():
        yield "transformers", dtype, *theirs(options.peer_python, "transformers_answers",
                                             folder=cfg.model, dtype=dtype, batch=16, **given)
    if options.gguf:
        yield "llama.cpp", options.gguf.name, *theirs(
            options.gguf_python, "llama_cpp_answers", file=str(options.gguf), **given)


def row_of(task, examples, split, seconds, samples, first):
    """What is said of one way; first: the queries of the first."""
    judged = [v for v in task.verdicts(examples, samples, split) if v.status != "bad_gold"]
    tokens = sum(len(s.scored) for s in samples)
    return {"seconds": seconds, "tokens": tokens, "tokens/s": tokens / seconds,
            "EX %": 100 * sum(v.correct for v in judged) / max(1, len(judged)),
            "differ": sum(task.sql(s) != sql for s, sql in zip(samples, first)),
            "unfinished": sum(not s.finished for s in samples)}


def measured(cfg, options):
    """(how many questions, a row of each way to answer them)."""
    with Verifier(workers=lm.cpus_per_rank(), timeout=cfg.timeout) as verifier:
        task, rows = spft.Task(cfg, Tokenizer(cfg.model, cfg.base_model), verifier), []
        examples = task.usable(cfg.split)
        examples = random.Random(0).sample(examples, min(options.n, len(examples)))
        prompts, first = [task.prompts.sql(e) for e in examples], None
        for who, weights, *answered in answers(cfg, options, prompts, task.tokenizer.end):
            first = first or [task.sql(s) for s in answered[1]]
            rows.append({"who": who, "weights": weights,
                         **row_of(task, examples, cfg.split, *answered, first)})
            print(f"  {who}, {weights}: {rows[-1]['seconds']:.1f} s", flush=True)
        return len(examples), rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--split", default="dev")
    parser.add_argument("--peer_python", help="a Python that has transformers")
    parser.add_argument("--gguf", type=Path, help="the same weights for llama.cpp")
    parser.add_argument("--gguf_python", default=sys.executable)
    parser.add_argument("--json", type=Path, default=Path("runs/bench_sampling.json"))
    options, words = parser.parse_known_args()
    cfg = spft.complete(spft.parse_config(
        ["--stage", "eval", "--model", options.model, "--data", options.data, "--split",
         options.split, "--bad_gold", "skip", "--device", "cpu", "--max_new", "128", *words]))
    cfg = replace(cfg, out="")                                    # nothing is kept of the answers
    torch.set_num_threads(cfg.threads)
    lm.keep_freed_memory()
    count, rows = measured(cfg, options)
    show(rows)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps({
        "model": options.model, "split": cfg.split, "questions": count, "threads": cfg.threads,
        "torch": torch.__version__, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
