"""What must be equal on a GPU: `python -m pytest -m gpu tests`."""

import copy

import pytest
import torch

import model as lm
import spft
from data.prompts.pairs import Pair

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(),
                                                  reason="torch finds no GPU here")]
PRECISIONS = [torch.float32, torch.bfloat16]
CLOSE = {torch.float32: 1e-3, torch.bfloat16: 0.05}       # of a log-probability or a logit
MODES = {"float32": (0, 0), "bf16, LoRA": (1, 4), "bf16, all weights": (1, 0)}


def small(dtype=torch.float32, device="cuda"):
    """A model with two layers, grouped heads and sharp enough logits that greedy has no ties."""
    config = lm.ModelConfig.tiny(256, 128, layers=2, heads=4, kv_heads=2, eos=(0,))
    model = lm.random_model(config, seed=1)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3 if p.dim() == 2 else 1)
    return model.to(device, dtype)


def games(count=6, prompt=40, answer=9, V=256):
    g = torch.Generator().manual_seed(0)
    draw = lambda n: torch.randint(1, V, (n,), generator=g).tolist()  # noqa: E731
    return [Pair("db", draw(prompt + 7 * i), draw(answer), draw(answer), R=float(i % 2))
            for i in range(count)]


def settings(bf16, lora, device):
    return spft.Config(out="", bf16=bf16, lora=lora, device=device, threads=1)


def batch_of(pairs, device):
    return lm.pack([pair.sequences for pair in pairs]).to(device)


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_cached_decode_is_the_full_forward(dtype):
    """Rows of different lengths, token by token behind their prompts."""
    model = small(dtype)
    rows = [pair.prompt + pair.gold for pair in games()]
    lengths = [len(row) - 5 for row in rows]
    cache = lm.KVCache(model, len(rows), 128)
    with torch.no_grad():
        full = []
        for row in rows:
            T = len(row)
            mask = torch.ones(1, 1, T, T, dtype=torch.bool, device="cuda").tril()
            hidden = model(torch.tensor([row], device="cuda"),
                           torch.arange(T, device="cuda")[None], [mask])
            full.append(lm.logits(hidden[0], model.head))
        for i, (row, n) in enumerate(zip(rows, lengths)):
            ids, start = torch.tensor([row[:n]], device="cuda"), torch.zeros(
                1, dtype=torch.long, device="cuda")
            cache.advance(i, ids, start, start + n - 1, n)
        start = torch.tensor(lengths, device="cuda")
        for t in range(5):
            ids = torch.tensor([[row[n + t]] for row, n in zip(rows, lengths)], device="cuda")
            found = cache.advance(0, ids, start + t, start * 0, max(lengths) + t + 1)
            expected = torch.stack([z[n + t] for z, n in zip(full, lengths)])
            torch.testing.assert_close(found, expected, rtol=0, atol=CLOSE[dtype])


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_log_probs_are_those_of_a_cpu(dtype):
    """Sums over the tokens within 1%, of weights that a CPU holds in float32."""
    with torch.no_grad():
        expected = lm.sequence_logprobs(small(device="cpu"), batch_of(games(), "cpu"))
        found = lm.sequence_logprobs(small(dtype), batch_of(games(), "cuda"))
    torch.testing.assert_close(found.cpu(), expected, rtol=0.01, atol=0)


def test_greedy_answers_are_those_of_a_cpu():
    prompts = [pair.prompt for pair in games(12)]
    on_cpu, on_gpu = (lm.generate(small(device=device), prompts, 24, batch_size=5)
                      for device in ("cpu", "cuda"))
    assert on_gpu == on_cpu


@pytest.mark.parametrize("dtype", PRECISIONS)
def test_the_same_seed_gives_the_same_samples(dtype):
    prompts = [pair.prompt for pair in games(12)]
    one, two, other = (lm.generate(small(dtype), prompts, 24, 1.0, seed=seed)
                       for seed in (3, 3, 4))
    assert one == two != other


@pytest.mark.parametrize("lora", [4, 0])
def test_a_step_is_that_of_a_cpu(lora):
    """Ten updates by Eq. 3 in float32: losses and weights."""
    ends, losses = [], []
    for device in ("cpu", "cuda"):
        model = small()
        if lora:                                    # both start from one adapter: a CPU's
            lm.add_lora(model.cpu(), lora, 2 * lora, seed=0)
        model = model.to(device)
        pairs = spft.with_logprobs(model, games())
        trained, _ = spft.fit(model, [[pairs[:3], pairs[3:]]] * 10, spft.self_play(2.0), 1e-3,
                              "step", settings(0, lora, device),
                              watch=lambda i, loss: losses.append(float(loss)))
        ends.append({k: p.detach().cpu() for k, p in trained.named_parameters()})
    torch.testing.assert_close(torch.tensor(losses[:10]), torch.tensor(losses[10:]),
                               rtol=1e-3, atol=1e-4)
    assert losses[9] < losses[0]
    for name, p in ends[0].items():
        torch.testing.assert_close(ends[1][name], p, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("lora", [4, 0])
def test_a_saved_model_comes_back(dtype, lora, tmp_path):
    model = small(dtype)
    if lora:
        lm.add_lora(model, lora, 2 * lora)
        for _, layer in lm.lora_layers(model):
            torch.nn.init.normal_(layer.lora_B.weight, std=0.1)
    lm.save_pretrained(model, tmp_path)
    loaded = lm.load_pretrained(tmp_path, "cuda", dtype)
    lm.merge_adapter(model)
    assert lm.digest(loaded) == lm.digest(model) and loaded.device.type == "cuda"


@pytest.mark.parametrize("mode", MODES)
def test_main_as_its_own_opponent_is_log_2(mode):
    """In each precision, log p is the same under torch.no_grad and in a step of training, although
    rows are packed otherwise."""
    bf16, lora = MODES[mode]
    cfg, seen = settings(bf16, lora, "cuda"), []
    model = small(torch.bfloat16 if bf16 and lora else torch.float32)
    if lora:
        lm.add_lora(model, lora, 2 * lora)
    opponent = copy.deepcopy(model).to(torch.bfloat16 if bf16 else torch.float32)
    pairs = spft.with_logprobs(opponent, games())
    spft.fit(model, [[pairs[:2], pairs[2:]]], spft.self_play(2.0), 0.0, "log2", cfg,
             watch=lambda i, loss: seen.append(float(loss)))
    assert seen == [pytest.approx(0.693147, abs=0.02 if bf16 else 1e-4)]


def test_attention_of_long_masked_rows_has_finite_gradients():
    """64 tokens past a multiple of 128, low scores: where cuDNN's backward gave NaN."""
    g = torch.Generator("cuda").manual_seed(0)
    q, k, v = (torch.randn(1, 4, 704, 128, device="cuda", dtype=torch.bfloat16, generator=g)
               .mul_(12).requires_grad_() for _ in range(3))
    seen = torch.ones(704, 704, dtype=torch.bool, device="cuda").tril()
    mask = torch.zeros(1, 1, 704, 704, device="cuda",
                       dtype=torch.bfloat16).masked_fill_(~seen, -torch.inf)
    for grad in torch.autograd.grad(lm.attend(q, k, v, mask).float().sum(), (q, k, v)):
        assert grad.isfinite().all()
