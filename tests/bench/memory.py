"""Peak GPU memory of real checkpoints' shapes, counted without a GPU and without weights.

    python tests/bench/memory.py [--models 1.5B 7B 32B] [--tokens 4096 8192] [--rows 96]
                                 [--only memory operations] [--json FILE]
    python tests/bench/memory.py --only padding --model FOLDER --data SPIDER

    memory       model.py runs on fake tensors that say that they are on a GPU; every storage
                 counts from its first operation until it is freed. Not in it: the allocator's
                 rounding and gaps, the CUDA context (about 0.5 GB), cuBLAS's workspace.
                 Attention is counted as the memory-efficient kernel; AdamW as the fused one,
                 which needs no copies.
    operations   a decode step's operations besides views, merged and with an adapter
    padding      tokens of an epoch over the labelled pairs, packed, and as the device gets them

Full fine-tuning over 8 GPUs is the sum of what is counted (activations with recompute on) and of
what FSDP2 holds: 16 bytes a parameter over 8, two layers gathered in bfloat16 and one's gradients
in float32, embedding and head gathered, with their gradients in float32.
"""

import argparse
import contextlib
import json
import random
import sys
import tempfile
import weakref
from pathlib import Path
from unittest import mock

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

import model as lm  # noqa: E402
import spft  # noqa: E402
from data.prompts.tokenizer import Tokenizer  # noqa: E402

# Qwen2.5-Coder: vocabulary, hidden, layers, heads, key/value heads, inner size, tied head.
SHAPES = {"1.5B": (151936, 1536, 28, 12, 2, 8960, True),
          "7B": (152064, 3584, 28, 28, 4, 18944, False),
          "32B": (152064, 5120, 64, 40, 8, 27648, False)}
PROMPT, ANSWER = 800, 60          # tokens of the training rows' prompts and answers


def config_of(name):
    """The ModelConfig of Qwen2.5-Coder in that size, or of a tiny model."""
    if name == "tiny":
        return lm.ModelConfig.tiny(512, 64, 2, 4, 2)
    V, D, layers, heads, kv_heads, inner, tied = SHAPES[name]
    return lm.ModelConfig.parse({**lm.ModelConfig.tiny(V, D, layers, heads, kv_heads).raw,
                                 "intermediate_size": inner, "tie_word_embeddings": tied})


# ---------------------------------------------------------------------------------------------
# Counting

class Live(TorchDispatchMode):
    """Bytes of the storages that operations inside have made and nobody has freed: `now`, and
    `peak`, the most there was."""

    def __init__(self):
        super().__init__()
        self.known, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if torch.is_tensor(tensor) and tensor.device.type != "meta":
                self.add(tensor.untyped_storage())
        return out

    def add(self, storage):
        key = storage._cdata
        if key not in self.known:
            self.known[key] = storage.nbytes()
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.drop, key)

    def drop(self, key):
        self.now -= self.known.pop(key)

    def during(self, work):
        """The peak while work() runs."""
        self.peak = self.now
        work()
        return self.peak


class Operations(TorchDispatchMode):
    """How many operations inside did more than look at memory in another way."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        returns = function._schema.returns
        view = any(r.alias_info is not None and not r.alias_info.is_write for r in returns)
        asks = not any("Tensor" in str(r.type) for r in returns)          # a device, a dtype
        self.count += not view and not asks and function.overloadpacket.__name__ != "_unsafe_view"
        return function(*args, **(kwargs or {}))


def efficient_attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None,
                        enable_gqa=False):
    """What scaled_dot_product_attention calls on a GPU: without one it takes another kernel."""
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    needs = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        q, k, v, attn_mask, needs, dropout_p, is_causal, scale=scale)[0]


@contextlib.contextmanager
def fake_gpu(counter):
    """Inside, tensors have shapes but no memory, say is_cuda, and `counter` sees them.  Their
    device is the CPU (torch without CUDA indexes no others)."""
    with (FakeTensorMode(), counter, mock.patch.object(FakeTensor, "is_cuda", True, create=True),
          mock.patch.object(torch.nn.functional, "scaled_dot_product_attention",
                            efficient_attention)):
        yield counter


# ---------------------------------------------------------------------------------------------
# What is counted

def loaded(config, dtype=torch.bfloat16):
    """A model filled tensor by tensor as load_pretrained does it."""
    with torch.device("meta"):
        model = lm.Transformer(config)
    wanted = dict(model.named_parameters())
    for key, p in list(wanted.items()):
        lm.fill(model, key, torch.empty(p.shape, dtype=torch.bfloat16), dtype, wanted, "fake")
    return model


def adapted(model, rank=32):
    """The model with an uninitialised adapter on each layer."""
    lm.adapt(model, {"peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank,
                     "target_modules": list(lm.LORA_TARGETS)})
    for _, layer in lm.lora_layers(model):
        for part in (layer.lora_A, layer.lora_B):
            part.weight = torch.nn.Parameter(torch.empty(part.weight.shape))
    return model


def training_rows(tokens, prompt=PROMPT, answer=ANSWER):
    """Groups of one pair each, all different, `tokens` in all."""
    groups = []
    while tokens > 0:
        prompt = min(prompt, max(1, tokens - answer))
        groups.append([([len(groups)] * prompt + [1] * min(answer, tokens - prompt), prompt)])
        tokens -= prompt + answer
    return groups


def train_step(model, tokens, recompute, trained=None):
    """Gradients of a step on so many tokens in one micro-batch, beside AdamW's moments."""
    model.recompute_above = 0 if recompute else float("inf")
    params = trained or [p for p in model.parameters() if p.requires_grad]
    moments = [torch.zeros_like(p) for p in params for _ in range(2)]
    batch = lm.pack(training_rows(tokens)).to(model.device)
    loss = -lm.sequence_logprobs(model, batch).sum()
    grads = torch.autograd.grad(loss, params)
    del loss, batch
    return grads, moments


def save(model):
    """With what goes to the CPU, which is not counted, as meta tensors."""
    to = torch.Tensor.to

    def moved(x, *place, **options):
        if place[:1] == ("cpu",):
            return torch.empty(x.shape, dtype=place[1] or x.dtype, device="meta")
        return to(x, *place, **options)

    with (tempfile.TemporaryDirectory() as folder, mock.patch.object(torch.Tensor, "to", moved),
          mock.patch.object(lm, "write_tensors", lambda tensors, path: None)):
        lm.save_pretrained(model, folder)


@torch.no_grad()
def sample(model, rows, prompt=1000, answer=160):
    """Prompts read eight at a time into a cache of so many rows, and one step of decoding."""
    device = model.device
    cache = lm.KVCache(model, rows, prompt + answer)
    for first in range(0, rows, 8):
        size = min(8, rows - first)
        ids = torch.zeros(size, prompt, dtype=torch.long, device=device)
        start = torch.zeros(size, dtype=torch.long, device=device)
        cache.advance(first, ids, start, start + prompt - 1, prompt)
    start = torch.full((rows,), prompt, device=device)
    cache.advance(0, start[:, None], start, start * 0, prompt + 1)


def of_fsdp(config, activations, ranks=8):
    """Bytes a GPU of full fine-tuning: see above."""
    heads = (1 if config.tie_word_embeddings else 2) * config.vocab_size * config.hidden_size
    layer = (config.parameters - heads) // config.num_hidden_layers
    return (16 * config.parameters // ranks + 2 * 2 * layer + 4 * layer + (2 + 4) * heads
            + activations)


def memory(config, tokens, rows, rank=32):
    """{what: peak bytes} of one model."""
    found = {}
    with fake_gpu(Live()) as live:
        kept = []
        found["load"] = live.during(lambda: kept.append(loaded(config)))
        model = kept[0]
        found[f"sample {rows} rows"] = live.during(lambda: sample(model, rows))
        weights = live.now
        adapted(model, rank)
        for n in tokens:
            for recompute in (0, 1):
                found[f"LoRA {n} recompute {recompute}"] = live.during(
                    lambda: train_step(model, n, recompute))
        found["save"] = live.during(lambda: save(model))
        lm.merge_adapter(model)
        model.requires_grad_(False)
        first = model.model.layers[0].input_layernorm.weight.requires_grad_(True)
        for n in tokens:          # activations alone: all of the backward, hardly a gradient
            peak = live.during(lambda: train_step(model, n, 1, [first]))
            found[f"full, 8 GPUs, {n}"] = of_fsdp(config, peak - weights)
    return found


def operations(config, rows, rank=32):
    """Operations of a decode step: (merged, with an adapter)."""
    counts = []
    with fake_gpu(Operations()) as counter, torch.no_grad():
        model = loaded(config)
        for change in (lambda model: model, lambda model: adapted(model, rank)):
            model = change(model)
            cache = lm.KVCache(model, rows, 64)
            start = torch.full((rows,), 20, device=model.device)
            counter.count = 0
            cache.advance(0, start[:, None], start, start * 0, 21)
            counts.append(counter.count)
    return tuple(counts)


def padding(model, data):
    """(tokens of an epoch's packed rows, tokens that the device gets, steps)."""
    cfg = spft.complete(spft.parse_config(["--model", model, "--data", data, "--bad_gold", "skip"]))
    with spft.Verifier(timeout=cfg.timeout) as verifier:
        task = spft.Task(cfg, Tokenizer(cfg.model), verifier)
        steps = spft.steps_of(task.both_directions(task.train), 1, cfg.batch, random.Random(0))
    packed = device = 0
    for step in steps:
        for part in spft.micro_batches(step, cfg.micro_tokens):
            packed += sum(map(spft.packed_length, part))
            device += lm.pack([[s for pair in chunk for s in pair.sequences]
                               for chunk in part]).ids.numel()
    return packed, device, len(steps)


# ---------------------------------------------------------------------------------------------

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", default=[*SHAPES], choices=[*SHAPES, "tiny"])
    parser.add_argument("--tokens", nargs="+", type=int, default=[4096, 8192])
    parser.add_argument("--rows", type=int, default=96)
    parser.add_argument("--only", nargs="+", default=["memory", "operations"],
                        choices=["memory", "operations", "padding"])
    parser.add_argument("--model", default=str(spft.BASE))
    parser.add_argument("--data", default=str(ROOT / "data/demo"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    found = {"torch": torch.__version__}
    if "memory" in args.only:
        found["memory"] = {}
        for name in args.models:
            print(f"counting {name} ...", file=sys.stderr, flush=True)
            found["memory"][name] = memory(config_of(name), args.tokens, args.rows)
        print("peak GB".ljust(28) + "".join(f"{name:>9}" for name in args.models))
        for what in found["memory"][args.models[0]]:
            print(what.ljust(28) + "".join(f"{found['memory'][name][what] / 1e9:9.1f}"
                                           for name in args.models))
    if "operations" in args.only:
        found["operations"] = {n: operations(config_of(n), args.rows) for n in args.models}
        for name, (merged, adapter) in found["operations"].items():
            print(f"a decode step of {name}: {merged} operations, {adapter} with an adapter")
    if "padding" in args.only:
        found["padding"] = packed, device, steps = padding(args.model, args.data)
        print(f"an epoch of {args.data}: {packed} tokens in {steps} steps; the device gets "
              f"{device}, {device / packed:.3f} times as many")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
