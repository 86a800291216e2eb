"""What bench_train.py and bench_sampling.py are measured against, in a Python that has it.

The benches start `PYTHON peers.py` and send it one JSON object a line, which names a function of
this file and its arguments; each is answered by one line.

    prepare(folder, lora, threads)         a model to train: transformers, peft
    train(steps, lr, rows)                 a plain loop over steps of (ids, n prompt tokens)
    transformers_answers(folder, ...)      greedy answers by transformers' generate
    llama_cpp_answers(file, ...)           the same by llama.cpp, through llama-cpp-python
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

class Peer:
    """A process of `python` that answers: peer(name, **arguments)."""

    def __init__(self, python):
        self.process = subprocess.Popen([python, __file__], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True)

    def __call__(self, name, **arguments):
        print(json.dumps([name, arguments]), file=self.process.stdin, flush=True)
        if not (line := self.process.stdout.readline()):
            sys.exit(f"{name}: {' '.join(self.process.args)} ended without an answer")
        return json.loads(line)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.wait()


def load(folder, dtype, threads):
    import torch
    import transformers
    torch.set_num_threads(threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


# ---------------------------------------------------------------------------------------------
# Training

STATE = {}              # the model to train, and its optimizer


def prepare(folder, lora, threads):
    """Load float32 weights: all to be trained, or frozen with an adapter on each linear layer."""
    import torch
    model = load(folder, torch.float32, threads)
    if lora:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=lora, lora_alpha=2 * lora,
                                                 target_modules="all-linear"))
    params = [p for p in model.parameters() if p.requires_grad]
    STATE.update(model=model.train(), optimizer=torch.optim.AdamW(
        params, betas=(0.9, 0.98), weight_decay=0.01))


def train(steps, lr, rows):
    """{"seconds", "losses": of each step, "peak GB": so far}; micro-batches of so many rows."""
    import torch
    model, optimizer = STATE["model"], STATE["optimizer"]
    params = optimizer.param_groups[0]["params"]
    optimizer.param_groups[0]["lr"] = lr
    seconds, losses = [], []
    for step in steps:
        started, total = time.perf_counter(), sum(len(ids) - n for ids, n in step)
        loss = 0.0
        for i in range(0, len(step), rows):
            value = padded_loss(model, step[i:i + rows]) / total
            value.backward()
            loss += value.item()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - started)
        losses.append(loss)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9
    return {"seconds": seconds, "losses": losses, "peak GB": peak}


def padded_loss(model, rows):
    """Cross-entropy summed over the answers of sequences, a padded row each, by way of all
    logits."""
    import torch
    T = max(len(ids) for ids, _ in rows)
    ids = torch.tensor([ids + [0] * (T - len(ids)) for ids, _ in rows])
    seen = torch.tensor([[1] * len(ids) + [0] * (T - len(ids)) for ids, _ in rows])
    labels = torch.tensor([[-100] * n + ids[n:] + [-100] * (T - len(ids)) for ids, n in rows])
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=ids, attention_mask=seen).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(),
                                             labels[:, 1:].flatten(), reduction="sum")


# ---------------------------------------------------------------------------------------------
# Sampling: {"seconds", "answers": [ids, end token or None] of each prompt}

def transformers_answers(folder, dtype, threads, prompts, max_new, eos, batch):
    """Batches of prompts of like length, padded on the left."""
    import torch
    model = load(folder, getattr(torch, dtype), threads).eval()
    order, answers = sorted(range(len(prompts)), key=lambda i: len(prompts[i])), {}
    started = time.perf_counter()
    for i in range(0, len(order), batch):
        part = [prompts[j] for j in order[i:i + batch]]
        T = max(map(len, part))
        ids = torch.tensor([[eos[0]] * (T - len(p)) + p for p in part])
        seen = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in part])
        out = model.generate(input_ids=ids, attention_mask=seen, do_sample=False,
                             max_new_tokens=max_new, pad_token_id=eos[0], eos_token_id=eos)
        for j, row in zip(order[i:], out[:, T:].tolist()):
            answers[j] = cut(row, max_new, eos)
    return {"seconds": time.perf_counter() - started,
            "answers": [answers[j] for j in range(len(prompts))]}


def llama_cpp_answers(file, threads, prompts, max_new, eos):
    """One prompt after the other; what it begins with like the last one is still cached, so that
    prompts of a database come behind each other."""
    from llama_cpp import Llama
    model = Llama(file, n_ctx=max(map(len, prompts)) + max_new, n_threads=threads,
                  n_threads_batch=threads, verbose=False)
    answers, started = {}, time.perf_counter()
    for j in sorted(range(len(prompts)), key=prompts.__getitem__):
        answers[j] = cut(model.generate(prompts[j], temp=0.0), max_new, eos)
    return {"seconds": time.perf_counter() - started,
            "answers": [answers[j] for j in range(len(prompts))]}


def cut(tokens, max_new, eos):
    """(ids before the end token, that token or None) of at most max_new tokens."""
    ids = []
    for token in tokens:
        if token in eos:
            return ids, token
        ids.append(token)
        if len(ids) == max_new:
            break
    return ids, None


def serve():
    """Answer each line of stdin; what libraries print goes to stderr."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        print(json.dumps(globals()[name](**arguments)), file=out, flush=True)


if __name__ == "__main__":
    serve()
