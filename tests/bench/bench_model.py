"""Speed and memory of model.py against its peers in the same run.

    python tests/bench/bench_model.py [--small] [--only logprobs generate step load] [--json FILE]
                                      [--rounds 1] [--shapes 2]     less of it, where time is short

    logprobs   token_logprobs forward and backward, frozen and trainable head, against log_softmax
               over all logits and torch's F.linear_cross_entropy in chunks
    generate   sampling for prompts of 100 to 600 tokens with skewed answer lengths, against
               transformers' generate, all prompts at once and in batches of like length
    step       one update on pairs of 1,000-token prompts and 50-token answers, against a plain
               loop: reference forward in the step, a padded row a sequence, all logits
    load       a random checkpoint in the shape of Qwen2.5-1.5B, against from_pretrained
    decode     on a GPU: tokens/s at 1.5B and 7B shapes, and the share of the memory bandwidth

Peers take turns; the median of the rounds counts. Memory is the highest resident size (on a GPU,
allocated size) above that before the call. transformers is used where it is installed, and only
here.
"""

import argparse
import ctypes
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import model as lm  # noqa: E402
from spft import error_driven_loss  # noqa: E402

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PEERS = importlib.util.find_spec("transformers") is not None
SECTIONS = ("logprobs", "generate", "step", "load", "decode")
LIMITS = {"rounds": None, "shapes": None}          # from the command line


# ---------------------------------------------------------------------------------------------
# Measuring

def resident(field):
    """VmRSS (now) or VmHWM (highest) of this process, in bytes."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(field + ":")[1].split()[0])


def measured(function):
    """(seconds, bytes above what was there before, result) of one call."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before, started = torch.cuda.memory_allocated(), time.perf_counter()
        result = function()
        torch.cuda.synchronize()
        return time.perf_counter() - started, torch.cuda.max_memory_allocated() - before, result
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")          # VmHWM starts again from VmRSS
    before, started = resident("VmRSS"), time.perf_counter()
    result = function()
    return time.perf_counter() - started, resident("VmHWM") - before, result


def compare(calls, rounds):
    """{name: (median seconds, most bytes, last result)} of the calls, which take turns."""
    spent, sizes, results = {name: [] for name in calls}, {name: 0 for name in calls}, {}
    for _ in range(LIMITS["rounds"] or rounds):
        for name, call in calls.items():
            seconds, size, results[name] = measured(call)
            spent[name].append(seconds)
            sizes[name] = max(sizes[name], size)
    return {name: (median(spent[name]), sizes[name], results[name]) for name in calls}


def show(rows):
    """Print rows (dicts of one section) as a table."""
    print("  " + "".join(f"{key:>16}" for key in rows[0]))
    for row in rows:
        print("  " + "".join(f"{v:>16.4g}" if isinstance(v, float) else f"{v!s:>16}"
                             for v in row.values()), flush=True)


# ---------------------------------------------------------------------------------------------
# Fused log-probabilities

def naive_logprobs(hidden, weight, targets):
    logits = hidden @ weight.T
    return logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def torch_logprobs(hidden, weight, targets):
    return -F.linear_cross_entropy(hidden, weight, targets, reduction="none",
                                   options=torch.nn.LinearCrossEntropyOptions())


def logprobs(small):
    if small:
        shapes = [(64, 64, 2000)]
    elif DEVICE.type == "cuda":
        shapes = [(8192, 4096, 128256)]
    else:
        shapes = [(512, 896, 32256), (1024, 1536, 32256), (512, 896, 151936),
                  (1024, 1536, 151936), (2048, 2048, 128256)][:LIMITS["shapes"]]
    head(8, 16, 500, True), head(8, 16, 500, False)        # loads what later calls find loaded
    return [row for shape in shapes for frozen in (True, False) for row in head(*shape, frozen)]


def head(M, H, V, frozen):
    """Rows of one shape: forward, and backward with random upstream gradients.  The gradients that
    everyone hands back are no extra memory."""
    g = torch.Generator().manual_seed(0)
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    hidden = torch.randn(M, H, generator=g).to(DEVICE, dtype).requires_grad_()
    weight = (torch.randn(V, H, generator=g) / H ** 0.5).to(DEVICE, dtype)
    weight.requires_grad_(not frozen)
    targets = torch.randint(V, (M,), generator=g).to(DEVICE)
    upstream = torch.rand(M, generator=g).to(DEVICE)

    def call(function):
        logp = function(hidden, weight, targets)
        logp.backward(upstream.to(logp.dtype))
        d_hidden, hidden.grad, weight.grad = hidden.grad, None, None
        return d_hidden
    handed_back = sum(x.nbytes for x in (hidden, weight) if x.requires_grad)
    calls = {"model.py": lm.token_logprobs, "log_softmax": naive_logprobs}
    if hasattr(F, "linear_cross_entropy"):
        calls["torch chunked"] = torch_logprobs
    found = compare({name: lambda f=f: call(f) for name, f in calls.items()}, 4)
    found = {k: (seconds, size - handed_back, grad) for k, (seconds, size, grad) in found.items()}
    naive = found["log_softmax"]
    return [{"M": M, "H": H, "V": V, "head": "frozen" if frozen else "trainable", "who": name,
             "ms": 1e3 * seconds, "extra MB": size / 1e6, "naive time /": naive[0] / seconds,
             "of naive memory": size / naive[1],
             "d hidden off": float((grad - naive[2]).abs().max() / naive[2].abs().max())}
            for name, (seconds, size, grad) in found.items()]


# ---------------------------------------------------------------------------------------------
# Generation

def shape(small, eos=(0,)):
    """A Qwen2 of 0.1 B, or of a few thousand weights."""
    if small:
        return lm.ModelConfig.tiny(500, 32, 2, 2, 1, eos=eos)
    return lm.ModelConfig.tiny(32000, 768, 12, 12, 2, eos=eos)


def generate(small):
    """Next tokens of random weights are all about as likely: with a fortieth of the vocabulary as
    end tokens, lengths are geometric with mean 40, cut off at 160."""
    V = shape(small).vocab_size
    config = shape(small, range(V // 40))
    count, low, high, most = (8, 10, 60, 16) if small else (64, 100, 600, 160)
    g = torch.Generator().manual_seed(0)
    prompts = [torch.randint(V, (size,), generator=g).tolist()
               for size in torch.randint(low, high + 1, (count,), generator=g).tolist()]
    model = lm.random_model(config).to(DEVICE)
    calls = {"model.py": lambda: lengths_of(
        lm.generate(model, prompts, most, 1.0, batch_size=count))}
    if PEERS:
        peer = transformers_model(model)
        calls["transformers"] = lambda: their_lengths(peer, prompts, config, most, count)
        calls["transformers/4"] = lambda: their_lengths(
            peer, sorted(prompts, key=len), config, most, count // 4)
    found = compare(calls, 2 if small else 3)
    return [{"who": name, "tokens": sum(result), "longest": max(result), "seconds": seconds,
             "tokens/s": sum(result) / seconds, "extra MB": size / 1e6}
            for name, (seconds, size, result) in found.items()]


def lengths_of(samples):
    return [len(s.ids) + s.finished for s in samples]


def transformers_model(model):
    import transformers
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        lm.save_pretrained(model, folder)
        return transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32).to(DEVICE).eval()


@torch.no_grad()
def their_lengths(peer, prompts, config, most, batch):
    """Lengths of transformers' answers, `batch` left-padded prompts at a time."""
    lengths = []
    for start in range(0, len(prompts), batch):
        part = prompts[start:start + batch]
        T = max(map(len, part))
        ids = torch.tensor([[0] * (T - len(p)) + p for p in part], device=DEVICE)
        seen = torch.tensor([[0] * (T - len(p)) + [1] * len(p) for p in part], device=DEVICE)
        out = peer.generate(input_ids=ids, attention_mask=seen, do_sample=True, temperature=1.0,
                            top_k=0, top_p=1.0, max_new_tokens=most, pad_token_id=0,
                            eos_token_id=list(config.eos))[:, T:]
        for row in out.tolist():
            ends = [i + 1 for i, token in enumerate(row) if token in config.eos]
            lengths.append(ends[0] if ends else len(row))
    return lengths


# ---------------------------------------------------------------------------------------------
# One training step

def step(small):
    """Both sides take two pairs at a time and then one AdamW update of all weights."""
    count, prompt, answer = (4, 40, 6) if small else (16, 1000, 50)
    V = shape(small).vocab_size
    g = torch.Generator().manual_seed(0)
    prompts = torch.randint(V, (count, prompt), generator=g).tolist()
    answers = torch.randint(V, (count, 2, answer), generator=g).tolist()
    pairs = [[(p + a, prompt) for a in both] for p, both in zip(prompts, answers)]
    model, opponent = (lm.random_model(shape(small), seed).to(DEVICE) for seed in (0, 1))
    micros = [lm.pack(pairs[i:i + 2]).to(DEVICE) for i in range(0, count, 2)]
    with torch.no_grad():                                  # once a round
        cached = [lm.sequence_logprobs(opponent, b).view(-1, 2) for b in micros]
    optimizer = torch.optim.AdamW(model.parameters(), 0.0, weight_decay=0.0)

    def ours():
        return update(optimizer, count, ((lm.sequence_logprobs(model, b).view(-1, 2), opp)
                                         for b, opp in zip(micros, cached)))

    def plain():
        parts = (padded(pairs[i:i + 2]) for i in range(0, count, 2))
        return update(optimizer, count, ((plain_logprobs(model, *part),
                                          torch.no_grad()(plain_logprobs)(opponent, *part))
                                         for part in parts))
    ours()                                                 # AdamW makes its state at the first step
    found = compare({"model.py": ours, "plain loop": plain}, 2)
    return [{"who": name, "seconds": seconds, "pairs/s": count / seconds,
             "extra MB": size / 1e6, "loss": result}
            for name, (seconds, size, result) in found.items()]


def update(optimizer, count, micro_batches):
    """One step over pairs of log-probabilities (main's and the opponent's (n, 2)); the loss."""
    value = 0.0
    for main, opp in micro_batches:
        loss = error_driven_loss(main[:, 0], opp[:, 0], main[:, 1], opp[:, 1], 1.0, 0.5).sum()
        (loss / count).backward()
        value += float(loss.detach()) / count
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value


def padded(pairs):
    """ids (B, T) and the prompts' length of pairs, a row a sequence."""
    rows = [ids for pair in pairs for ids, _ in pair]
    T = max(map(len, rows))
    return (torch.tensor([ids + [0] * (T - len(ids)) for ids in rows], device=DEVICE),
            pairs[0][0][1])


def plain_logprobs(model, ids, n):
    """Sums (n, 2) over the answers of padded rows, by way of all logits."""
    B, T = ids.shape
    positions = torch.arange(T, device=ids.device).repeat(1, B)
    mask = torch.ones(1, 1, T, T, dtype=torch.bool, device=ids.device).tril()
    hidden = model(ids.view(1, -1), positions, [mask] * B)                # rows one behind another
    logits = hidden.view(B, T, -1) @ model.head.T
    logp = logits[:, :-1].log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
    return logp[:, n - 1:].sum(1).view(-1, 2)


# ---------------------------------------------------------------------------------------------
# Loading

LOADERS = {
    "model.py": "lm.load_pretrained(folder, dtype=torch.bfloat16)",
    "transformers": "transformers.AutoModelForCausalLM.from_pretrained(folder, "
                    "dtype=torch.bfloat16)"}


def load(small):
    """Each load in a process of its own; every weight is read once, so that all of it counts."""
    with tempfile.TemporaryDirectory() as folder:
        config = shape(True) if small else qwen_1_5b()
        with torch.device("meta"):
            model = lm.Transformer(config)
        model = model.to(torch.bfloat16).to_empty(device="cpu")
        for p in model.parameters():
            torch.nn.init.normal_(p.data, std=0.02)
        lm.save_pretrained(model, folder)
        del model
        gc.collect()
        size = (Path(folder) / "model.safetensors").stat().st_size
        found = {}
        for _ in range(1 if small else 3):
            for name in LOADERS:
                if name == "model.py" or PEERS:
                    found.setdefault(name, []).append(load_alone(name, folder))
    return [{"who": name, "file MB": size / 1e6, "seconds": median([s for s, _ in runs]),
             "extra MB": max(b for _, b in runs) / 1e6,
             "peak / file": max(b for _, b in runs) / size} for name, runs in found.items()]


def load_alone(name, folder):
    """(seconds, bytes) of one load in a new process."""
    code = (f"import sys; sys.path[:0] = {[str(ROOT), str(Path(__file__).parent)]!r}\n"
            f"import json, bench_model, torch, model as lm\n"
            f"folder = {str(folder)!r}\n"
            + ("import transformers\ntransformers.utils.logging.disable_progress_bar()\n"
               "transformers.AutoModelForCausalLM, transformers.Qwen2ForCausalLM\n"
               if name == "transformers" else "")
            + f"def call():\n    model = {LOADERS[name]}\n"
              f"    return [float(p.sum()) for p in model.parameters()]\n"
              f"bench_model.DEVICE = torch.device('cpu')\n"
              f"print(json.dumps(bench_model.measured(call)[:2]))")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return json.loads(out.stdout.strip().splitlines()[-1])


def qwen_1_5b():
    return lm.ModelConfig.parse({**lm.ModelConfig.tiny(151936, 1536, 28, 12, 2).raw,
                                 "intermediate_size": 8960})


def qwen_7b():
    return lm.ModelConfig.parse({**lm.ModelConfig.tiny(152064, 3584, 28, 28, 4).raw,
                                 "intermediate_size": 18944, "tie_word_embeddings": False})


# ---------------------------------------------------------------------------------------------
# Decoding on a GPU

def decode(small):
    """Greedy tokens/s behind 512-token prompts; what a step must read (all weights, the filled part
    of the cache) a second, as a share of a large copy's bandwidth."""
    bandwidth, rows = copy_bandwidth(), []
    for name, config in {"1.5B": qwen_1_5b(), "7B": qwen_7b()}.items():
        config = lm.ModelConfig.parse({**config.raw, "eos_token_id": []})
        with torch.device("meta"):
            model = lm.Transformer(config)
        model = model.to(torch.bfloat16).to_empty(device=DEVICE)
        for p in model.parameters():
            torch.nn.init.normal_(p.data, std=0.02)
        weights = sum(p.numel() for p in model.parameters()) * 2
        per_token = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 2
        for B in (1, 128):
            prompts = [[7 + i] * 512 for i in range(B)]

            def call(new):
                return lm.generate(model, prompts, new, batch_size=B)
            call(16)
            short, long = (measured(lambda new=new: call(new))[0] for new in (16, 144))
            a_step = (long - short) / 128
            read = weights + B * per_token * (512 + 80)
            rows.append({"model": name, "batch": B, "ms a step": 1e3 * a_step,
                         "tokens/s": B / a_step, "bandwidth": read / a_step / bandwidth})
        del model
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def copy_bandwidth():
    """Bytes a second that a 4 GB copy reads and writes."""
    source = torch.empty(2 ** 32, dtype=torch.uint8, device=DEVICE)
    target = torch.empty_like(source)
    seconds = median([measured(lambda: target.copy_(source))[0] for _ in range(5)])
    return 2 * source.numel() / seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--small", action="store_true", help="sizes that take seconds")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=SECTIONS)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--json", default="runs/bench_model.json", help="where the figures go")
    parser.add_argument("--rounds", type=int, help="calls of each peer that are compared")
    parser.add_argument("--shapes", type=int, help="logprobs: the first so many shapes")
    args = parser.parse_args()
    LIMITS.update(rounds=args.rounds, shapes=args.shapes)
    torch.set_num_threads(args.threads)
    found = {"torch": torch.__version__, "device": str(DEVICE), "threads": args.threads,
             "small": args.small}
    for name in args.only:
        if name == "decode" and DEVICE.type != "cuda":
            continue
        print(f"\n== {name}", flush=True)
        found[name] = globals()[name](args.small)
        show(found[name])
        Path(args.json).parent.mkdir(parents=True, exist_ok=True)
        Path(args.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
