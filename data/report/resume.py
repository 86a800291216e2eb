"""What a stage has finished, kept until the stage ends: the same command goes on from there."""

import hashlib
import json
import resource
import shutil
import time
from contextlib import suppress
from functools import partial

import torch

from data.report import files
from data.report.files import whole, write_text
from data.report.terminal import Stopped
from model import RANK, map_over_ranks, on_rank0, sum_over_ranks

SAVE_EVERY = 300         # seconds between two saves of a training


def digest(values):
    """16 hex digits of what the values look like."""
    total = hashlib.sha256()
    for value in values:
        total.update(repr(value).encode())
    return total.hexdigest()[:16]


class Training:
    """A training of n steps whose state rank 0 writes to a file every SAVE_EVERY seconds, when a
    signal stops it and after a long one's last step.  Saving takes a fiftieth of the time at most.

    path: None keeps nothing.  about: all that decides the training; other states are ignored."""

    def __init__(self, path, about, n, params, optimizer):
        self.path, self.n, self.params, self.optimizer = path, n, params, optimizer
        self.digest = path and digest(about)
        self.curve = path.with_name("metrics.jsonl") if path and not RANK else None
        self.started = self.last = time.time()
        self.due = self.started + SAVE_EVERY
        self.before = 0.0                        # seconds that earlier processes spent on it

    def load(self):
        """Go on from the file: (losses, tokens) of the steps that are done."""
        if not self.path or not self.path.exists():
            return [], 0
        try:
            state = torch.load(self.path, "cpu", weights_only=True)
            fault = "" if state["digest"] == self.digest else "is of another training"
        except Exception as error:                   # of a torn file torch can raise anything
            fault = f"cannot be read ({type(error).__name__})"
        if fault:
            print(f"  {self.path} {fault}: it is ignored")
            return [], 0
        with torch.no_grad():
            for p, saved in zip(self.params, state["params"]):
                p.copy_(saved)
        self.optimizer.load_state_dict(state["optimizer"])
        self.before = state["seconds"]
        self.started -= self.before
        losses = list(state["losses"].to(self.params[0].device))
        if self.curve and self.curve.exists():       # a kill may have come after later steps
            lines = self.curve.read_text().splitlines(keepends=True)
            write_text(self.curve, "".join(lines[:len(losses)]))
        print(f"  {self.path.parent.name} goes on at step {len(losses) + 1} of {self.n}")
        return losses, state["tokens"]

    def step_done(self, losses, tokens, signals):
        """Between two steps: save where it is time, and stop where a rank has had a signal: all
        do so after the same step, else one would wait for the others for ever."""
        flag = torch.tensor(float(bool(signals)), device=self.params[0].device)
        sum_over_ranks([flag])
        stop, now = flag.item() > 0, time.time()
        ended = len(losses) == self.n and now - self.started > SAVE_EVERY
        if self.path and RANK == 0 and (stop or ended or now > self.due):
            self.save(losses, tokens, now - self.started)
            self.due = time.time() + max(SAVE_EVERY, 50 * (time.time() - now))
        if stop:
            raise Stopped(*signals[:1])

    def note(self, step, rate, norm, values, tokens, chunks):
        """A line of OUT/NAME/metrics.jsonl.  values: loss, log p summed over the step's golds and
        over its wrong samples."""
        if not self.curve:
            return
        now = time.time()
        loss, gold, wrong = values.tolist()
        pairs = [pair for chunk in chunks for pair in chunk]
        line = {"step": step, "loss": round(loss, 5), "learning rate": rate,
                "gradient norm": round(float(norm), 4),
                "tokens per second": round(tokens / max(1e-9, now - self.last)),
                "peak GB": peak_memory(self.params[0].device)}
        if pairs[0].gold is not None:
            line["log p of gold"] = round(gold / len(pairs), 4)
        if errors := sum(pair.R for pair in pairs):
            line["log p of wrong samples"] = round(wrong / errors, 4)
        self.last = now
        try:
            self.curve.parent.mkdir(parents=True, exist_ok=True)
            with open(self.curve, "a" if step > 1 else "w") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:                     # training is worth more than its curve
            print(f"  {self.curve} cannot be written: {error.strerror}")
            self.curve = None

    def summary(self, losses, tokens):
        """What is kept of a training: its steps, mean losses of the first and last tenth, tokens/s,
        the most memory so far, and the seconds that stopped processes spent on it, if any."""
        tenth = len(losses) // 10 + 1
        ends = {"first": losses[:tenth], "last": losses[-tenth:]} if losses else {}
        means = {name: round(float(torch.stack(part).mean()), 4) for name, part in ends.items()}
        if means and means["last"] > means["first"]:
            print(f"  ALARM: the loss rose from {means['first']} to {means['last']}: a lower "
                  "learning rate may help")
        return {"steps": len(losses), "tokens per second": round(tokens / (
                    time.time() - self.started)), "peak GB": peak_memory(self.params[0].device),
                **{f"loss at {name}": mean for name, mean in means.items()},
                **({"seconds before": self.before} if self.before else {})}

    def save(self, losses, tokens, seconds):
        state = {"digest": self.digest, "params": [p.detach() for p in self.params],
                 "optimizer": self.optimizer.state_dict(), "losses": torch.stack(losses),
                 "tokens": tokens, "seconds": seconds}
        try:
            with whole(self.path) as temporary:
                torch.save(state, temporary)
        except (OSError, RuntimeError) as error:     # training is worth more than its state
            print(f"  {self.path} cannot be written: {error}")


def peak_memory(device):
    """The most memory that this process has used on the device so far, in GB."""
    used = (torch.cuda.max_memory_allocated() if device.type == "cuda" else
            1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return round(used / 2 ** 30, 2)


def write_json(path, value):
    on_rank0(lambda: files.write_json(path, value))


def write_lines(path, rows):
    on_rank0(lambda: files.write_lines(path, rows))


class Kept:
    """Results of long work as JSON, a line of FOLDER/DIGEST-RANK.jsonl each as soon as it is there.

    about: all that decides the results."""

    def __init__(self, folder, *about):
        self.folder, self.digest = folder, digest(about)
        self.known = on_rank0(partial(read_parts, folder, self.digest))

    def map(self, work, n):
        """[work(0), ..., work(n - 1)], without what is known; each rank does a share."""
        left = [i for i in range(n) if i not in self.known]
        made = map_over_ranks(lambda share: [self.keep(i, work(i)) for i in share], left)
        self.known |= zip(left, made)
        return [self.known[i] for i in range(n)]

    def keep(self, i, result):
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / f"{self.digest}-{RANK}.jsonl", "a") as file:
            file.write("\n" + json.dumps([i, result]))       # a torn line before it stays alone
        return result


def read_parts(folder, name):
    """{part: result} of all ranks' files; a line that a kill has torn is left out."""
    known = {}
    for path in folder.glob(f"{name}-*.jsonl"):
        for line in path.read_text(errors="replace").splitlines():
            with suppress(ValueError):
                part, result = json.loads(line)
                known[part] = result
    return known


def cached_pairs(out, name, about, sample):
    """The records that sample() gives, kept in OUT/NAME/pairs.jsonl behind a line with the digest
    of all that decides them; taken from another round that has the same digest."""
    key = {"digest": hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]}
    path, same = out / name / "pairs.jsonl", []
    for kept in sorted(out.glob("*/pairs.jsonl")):
        with open(kept, encoding="utf-8") as file:           # of files of any size the first line
            same += [kept] * (file.readline() == json.dumps(key) + "\n")
    if not same:
        write_lines(path, [key, *sample()])
    return files.read_lines(same[0] if same else path)[1:]


def forget(*paths):
    """Remove files and folders: the stage that needed them has ended."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
