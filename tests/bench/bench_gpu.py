"""What a GPU must show, in at most 25 minutes on one H100 or H200.

    python tests/bench/bench_gpu.py [--parts 1 2 ...] [--json runs/bench_gpu.json]
    python tests/bench/bench_gpu.py --device cpu --tiny      every part that a CPU can run, tiny

    1 attention   NaN in the backward of attention with a mask of 704 and 640 columns (trl#7181),
                  with cuDNN's kernel allowed and not, and through model.py
    2 tests       pytest -m gpu, and the tests of model and loss
    3 numbers     log p in bf16 against a CPU's float32 (1%), cached decoding against the full
                  forward (0.05), gradients of the head against float64 (1%)
    4 decode      1.5B and 7B, batches of 1, 32, 128: ms a step, tokens/s, share of the bandwidth
                  that a large copy reaches; transformers' generate where it is installed
    5 logprobs    M = 8192, H = 4096, V = 128256, head frozen and trainable; beside all logits and
                  torch's linear_cross_entropy
    6 training    1.5B and 7B with LoRA 32 on 4 and 8 rows of 1,024 tokens, recompute 0 and 1, ten
                  steps: tokens/s, share of a large bf16 product's speed, peak memory; saving
    7 demo        EX of the embedded demo's last candidate on test: within 50 to 57?
    8 selfplay    a random 1.5B through all stages on some of the demo's questions

Weights are random and made on the device.  A part that fails or runs out of memory is reported, and
the next one begins; a model that does not fit the card is left out.  Exit code 1 where a part
failed, 2 without a GPU.
"""

import argparse
import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from dataclasses import replace
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import bench_model  # noqa: E402
import bench_train  # noqa: E402
import model as lm  # noqa: E402
import spft  # noqa: E402
from bench_model import PEERS, measured, show  # noqa: E402
from data.prompts.pairs import Pair  # noqa: E402
from data.prompts.tokenizer import Tokenizer  # noqa: E402
from memory import config_of  # noqa: E402


class Bench:
    """Where the parts run, and with which sizes."""

    def __init__(self, device, tiny):
        self.device, self.tiny = torch.device(device), tiny
        self.memory = (torch.cuda.get_device_properties(0).total_memory
                       if self.device.type == "cuda" else 2 ** 33)
        self.dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32

    def shapes(self, spare=4e9):
        """{name: ModelConfig without end tokens} of the models that fit with `spare` bytes left."""
        configs = {n: config_of(n) for n in (["tiny"] if self.tiny else ["1.5B", "7B"])}
        return {name: lm.ModelConfig.parse({**c.raw, "eos_token_id": []})
                for name, c in configs.items() if 2 * c.parameters + spare < self.memory}

    def model(self, config):
        """Random weights of the config, on the device from the start."""
        with torch.device("meta"):
            model = lm.Transformer(config)
        model = model.to(self.dtype).to_empty(device=self.device)
        for name, p in model.named_parameters():
            torch.nn.init.normal_(p.data, mean=float(name.endswith("norm.weight")), std=0.02)
        return model

    def empty(self):
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


# ---------------------------------------------------------------------------------------------
# 1 to 3: the numbers are right

def attention(bench):
    rows = []
    for way in ("cuDNN allowed", "cuDNN off", "model.py"):
        for T in (704, 640):
            before = torch.backends.cuda.cudnn_sdp_enabled()
            try:
                if way != "model.py":
                    torch.backends.cuda.enable_cudnn_sdp(way == "cuDNN allowed")
                rows.append({"way": way, "T": T, "share of NaN": nan_share(bench, T, way)})
            finally:
                torch.backends.cuda.enable_cudnn_sdp(before)
    assert not any(row["share of NaN"] for row in rows if row["way"] != "cuDNN allowed"), rows
    return rows


def nan_share(bench, T, way):
    """The share of NaN in the gradients of attention whose scores lie far below 0."""
    g = torch.Generator(bench.device).manual_seed(0)
    B, H = (1, 2) if bench.tiny else (2, 12)
    q, k, v = (torch.randn(B, H, T, 128, device=bench.device, generator=g).to(bench.dtype)
               for _ in range(3))
    q, k = 12 + q, -12 - k                     # scores near -12 * 12 * sqrt(128): log-sum-exp too
    q, k, v = (x.requires_grad_() for x in (q, k, v))
    seen = torch.ones(T, T, dtype=torch.bool, device=bench.device).tril()
    mask = torch.zeros(1, 1, T, T, device=bench.device, dtype=bench.dtype)
    mask = mask.masked_fill_(~seen, -torch.inf)
    attend = lm.attend if way == "model.py" else F.scaled_dot_product_attention
    y = attend(q, k, v, mask)
    grads = torch.autograd.grad(y, (q, k, v), torch.ones_like(y))
    return float(torch.stack([x.isnan().float().mean() for x in grads]).mean())


def tests(bench):
    rows = []
    for words in (["-m", "gpu", "tests"], ["tests/test_model.py", "tests/test_loss.py"]):
        if bench.tiny:
            words = ["tests/test_gpu.py"] if words[0] == "-m" else [*words, "-k", "equal_models"]
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", *words], cwd=ROOT,
                              capture_output=True, text=True, timeout=420)
        rows.append({"tests": " ".join(words), "exit": done.returncode,
                     "result": (done.stdout.strip().splitlines() or ["-"])[-1]})
        if done.returncode:
            print(done.stdout[-3000:])
    assert not any(row["exit"] for row in rows), rows
    return rows


def numbers(bench):
    rows = []
    with torch.no_grad():
        found = {"log p": (log_p_error(bench), 0.01), "decode": (decode_error(bench), 0.05)}
    found["head"] = (head_error(bench), 0.01)
    for name, (error, limit) in found.items():
        rows.append({"what": name, "error": error, "limit": limit})
    assert all(row["error"] < row["limit"] for row in rows), rows
    return rows


def some_model(bench):
    config = config_of("tiny") if bench.tiny else lm.ModelConfig.tiny(32000, 768, 12, 12, 2)
    return lm.random_model(config)


def log_p_error(bench):
    """The largest relative error of sums of log p in the device's precision."""
    model, g = some_model(bench), torch.Generator().manual_seed(0)
    groups = [[(torch.randint(512, (300 + 60,), generator=g).tolist(), 300)] for _ in range(4)]
    batch = lm.pack(groups)
    exact = lm.sequence_logprobs(model, batch)
    found = lm.sequence_logprobs(model.to(bench.device, bench.dtype), batch.to(bench.device)).cpu()
    return float(((found - exact) / exact).abs().max())


def decode_error(bench):
    """The largest difference of a logit between a token read alone and in one pass."""
    model, T = some_model(bench).to(bench.device, bench.dtype), 200
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(512, (3, T), generator=g).to(bench.device)
    positions = torch.arange(T, device=bench.device).expand(3, T)
    mask = torch.ones(3, 1, T, T, dtype=torch.bool, device=bench.device).tril()
    full = lm.logits(model(ids, positions, [mask])[:, -1], model.head)
    cache, start = lm.KVCache(model, 3, T), torch.zeros_like(ids[:, 0])
    cache.advance(0, ids[:, :-1], start, start + T - 2, T - 1)
    return float((cache.advance(0, ids[:, -1:], start + T - 1, start, T) - full).abs().max())


def head_error(bench):
    """The largest relative error (by norms) of token_logprobs' two gradients."""
    M, H, V = (64, 64, 500) if bench.tiny else (512, 1536, 32000)
    g = torch.Generator().manual_seed(0)
    hidden = torch.randn(M, H, generator=g).to(bench.dtype)
    weight = (torch.randn(V, H, generator=g) / H ** 0.5).to(bench.dtype)
    targets, grads = torch.randint(V, (M,), generator=g).to(bench.device), []
    for dtype in (bench.dtype, torch.float64):
        x, w = (t.to(bench.device, dtype).requires_grad_() for t in (hidden, weight))
        logp = (lm.token_logprobs(x, w, targets) if dtype == bench.dtype else
                (x @ w.T).log_softmax(-1).gather(1, targets[:, None])[:, 0])
        grads.append(torch.autograd.grad(logp.sum(), (x, w)))
    return max(float((a.double() - b).norm() / b.norm()) for a, b in zip(*grads))


# ---------------------------------------------------------------------------------------------
# 4 and 5: decoding, log-probabilities

def decode(bench):
    size = 2 ** 22 if bench.tiny else 2 ** 32
    source = torch.empty(size, dtype=torch.uint8, device=bench.device)
    target = torch.empty_like(source)
    bandwidth = 2 * size / median([measured(lambda: target.copy_(source))[0] for _ in range(5)])
    del source, target
    rows, (prompt, new) = [], (16, 8) if bench.tiny else (512, 128)
    for name, config in bench.shapes().items():
        bench.empty()
        model = bench.model(config)
        peer = peer_or_none(bench, model)
        weights = sum(p.nbytes for p in model.parameters())
        row = (2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
               * model.head.element_size())
        calls = {"model.py": our_call(model)} | ({"transformers": their_call(peer)} if peer else {})
        for B in (1, 2) if bench.tiny else (1, 32, 128):
            read = weights + B * row * (prompt + 16 + new // 2)
            for who, call in calls.items():
                step = a_step(call, [[7 + i] * prompt for i in range(B)], new)
                rows.append({"model": name, "who": who, "batch": B, "ms a step": 1e3 * step,
                             "tokens/s": B / step, "of bandwidth": read / step / bandwidth})
        del model, peer, calls, call
    return rows


def a_step(call, prompts, new):
    """Seconds a token: of the difference between a long and a short answer."""
    call(prompts, 16)
    short, long = (median([measured(lambda: call(prompts, n))[0] for _ in range(2)])
                   for n in (16, 16 + new))
    return max(long - short, 1e-9) / new


def our_call(model):
    return lambda prompts, new: lm.generate(model, prompts, new, batch_size=len(prompts))


def their_call(peer):
    def call(prompts, new):
        ids = torch.tensor(prompts, device=peer.device)
        peer.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False,
                      max_new_tokens=new, min_new_tokens=new, pad_token_id=0)
    return call


def peer_or_none(bench, model):
    """transformers' model where it is installed and works here: our figures do not wait for it."""
    try:
        return their_model(bench, model) if PEERS else None
    except Exception as error:                   # a peer can raise anything
        print(f"  transformers left out: {error}")
        return None


def their_model(bench, model):
    """transformers' model of the same config, on the model's own weights."""
    import transformers
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "config.json").write_text(json.dumps(model.config.to_json()))
        config = transformers.AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        peer = transformers.AutoModelForCausalLM.from_config(config, dtype=bench.dtype)
    peer.load_state_dict(model.state_dict(), strict=False, assign=True)
    peer.tie_weights()
    peer.model.rotary_emb = type(peer.model.rotary_emb)(config, device=bench.device)
    return peer.eval()


def logprobs(bench):
    shape = (64, 64, 2000) if bench.tiny else (8192, 4096, 128256)
    rows = []
    for frozen in (True, False):
        bench.empty()
        rows += bench_model.head(*shape, frozen)
    return rows


# ---------------------------------------------------------------------------------------------
# 6 to 8: training, the demo, all stages

def training(bench):
    rows, product = [], product_rate(bench)
    T, counts = (64, (2,)) if bench.tiny else (1024, (4, 8))
    for name, config in bench.shapes(8e9).items():
        for count in counts:
            for recompute in (0, 1):
                bench.empty()
                row = {"model": name, "tokens": count * T, "recompute": recompute}
                try:
                    rows.append(row | trained(bench, config, count, T, recompute, product))
                except torch.cuda.OutOfMemoryError:
                    rows.append(row | dict.fromkeys(
                        ("s a step", "tokens/s", "of bf16 peak", "peak GB", "save s", "save GB",
                         "loss"), "no memory"))
    return rows


def product_rate(bench):
    """Operations a second of a large square product."""
    n = 256 if bench.tiny else 8192
    a, b = (torch.randn(n, n, device=bench.device).to(bench.dtype) for _ in range(2))
    return 2 * n ** 3 / median([measured(lambda: a @ b)[0] for _ in range(10)])


def trained(bench, config, count, T, recompute, product):
    """Ten steps of spft.fit on `count` rows of a prompt and an answer of T tokens in all."""
    model = lm.add_lora(bench.model(config), 4 if bench.tiny else 32, 64)
    model.recompute_above = 0 if recompute else float("inf")
    answer = T // 8
    step = [[Pair("db", [5 + i] * (T - answer), [9 + i] * answer)] for i in range(count)]
    cfg = replace(spft.Config(), out="", device=str(bench.device), lora=32, threads=1,
                  micro_tokens=2 * count * T, recompute=recompute)
    tokens, operations = bench_train.work_of(step, model, 32)
    ends, losses = [], []

    def watch(i, loss):
        losses.append(float(loss))                       # waits for the device
        ends.append(time.perf_counter())
    peak = measured(lambda: spft.fit(model, [step] * 10, spft.SUPERVISED, 1e-4, "bench", cfg,
                                     watch=watch))[1]
    seconds = median([b - a for a, b in zip(ends[2:], ends[3:])])
    with tempfile.TemporaryDirectory() as folder:
        saving = measured(lambda: lm.save_pretrained(model, folder))
    weights = sum(p.nbytes for p in model.parameters())
    return {"s a step": seconds, "tokens/s": tokens / seconds,
            "of bf16 peak": operations / seconds / product, "peak GB": (weights + peak) / 1e9,
            "save s": saving[0], "save GB": saving[1] / 1e9, "loss": losses[-1]}


def results_of(bench, *words):
    """(results.json, seconds) of a run in a process of its own."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(ROOT / "spft.py"), "--device", bench.device.type,
                        "--out", f"{folder}/run", *map(str, words)], cwd=ROOT, check=True,
                       timeout=900, stdout=subprocess.DEVNULL)
        found = json.loads(Path(folder, "run/results.json").read_text())
    return found, time.perf_counter() - started


TINY_RUN = ("--limit", 6, "--synthetic", 6, "--sft_epochs", 0.1, "--epochs", 0.1, "--rounds", 1,
            "--max_new", 8, "--threads", 1)


def demo(bench):
    found, seconds = results_of(bench, "--stage", "selfplay", *TINY_RUN * bench.tiny)
    rows = [{"model": row["model"], "test EX": row["ex"], "n": row["n"], "seconds": seconds}
            for row in found if row["split"] == "test"]
    assert bench.tiny or 50 <= rows[-1]["test EX"] <= 57, rows
    return rows


def selfplay(bench):
    """With the demo's tokeniser in a vocabulary of 1.5B's size."""
    config = list(bench.shapes().values())[0]
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = Tokenizer(spft.BASE)
        shutil.copy(spft.BASE / "tokenizer.json", folder)
        model = bench.model(lm.ModelConfig.parse(
            {**config.raw, "eos_token_id": [tokenizer.end],
             "vocab_size": max(config.vocab_size, tokenizer.core.get_vocab_size())}))
        lm.save_pretrained(model, folder)
        tokenizer.save(folder)
        del model
        bench.empty()
        words = TINY_RUN if bench.tiny else (
            "--limit", 48, "--synthetic", 48, "--sft_epochs", 1, "--epochs", 1, "--rounds", 1,
            "--max_new", 64, "--lora", 32)
        found, seconds = results_of(bench, "--stage", "selfplay", "--model", folder, *words)
    return [{"model": row["model"], "split": row["split"], "EX": row["ex"], "seconds": seconds}
            for row in found]


# ---------------------------------------------------------------------------------------------

PARTS = {1: attention, 2: tests, 3: numbers, 4: decode, 5: logprobs, 6: training, 7: demo,
         8: selfplay}


def run_part(number, bench):
    """{"rows" or "error", "seconds"} of a part."""
    part, started, found = PARTS[number], time.perf_counter(), {}
    print(f"\n== {number} {part.__name__}", flush=True)
    try:
        found["rows"] = part(bench)
        show(found["rows"])
    except Exception as error:                   # whatever it is, the other parts are to be seen
        found["error"] = f"{type(error).__name__}: {str(error)[:2000]}"
        traceback.print_exc(limit=-4)
        print(f"  FAILED: {found['error']}", flush=True)
    bench.empty()
    return found | {"seconds": time.perf_counter() - started}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", default="12345678", help="numbers, as in 3,4")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="shapes for a test of this script")
    parser.add_argument("--json", type=Path, default=Path("runs/bench_gpu.json"))
    args = parser.parse_args()
    if args.device == "cuda" and not torch.cuda.is_available():
        print("bench_gpu.py: torch finds no GPU here (--device cpu --tiny tests the script)",
              file=sys.stderr)
        return 2
    bench = Bench(args.device, args.tiny)
    bench_model.DEVICE = bench.device
    card = torch.cuda.get_device_name() if args.device == "cuda" else "cpu"
    found = {"device": card, "GB": bench.memory / 1e9, "torch": torch.__version__,
             "cuDNN": torch.backends.cudnn.version(), "tiny": args.tiny, "parts": {}}
    print(f"{card}, torch {torch.__version__}, cuDNN {found['cuDNN']}")
    args.json.parent.mkdir(parents=True, exist_ok=True)
    for number in sorted({int(c) for c in args.parts if c.isdigit() and int(c) in PARTS}):
        found["parts"][number] = run_part(number, bench)
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    failed = [n for n, part in found["parts"].items() if "error" in part]
    print(f"\n{len(found['parts']) - len(failed)} parts done, failed: {failed or 'none'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
