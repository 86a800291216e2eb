"""model.py against transformers' numbers (tests/goldens) and against its own obvious versions."""

import doctest
import functools
import json
import math
import os
import shutil
import subprocess
import sys
import weakref
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file

import model as lm
from sqlexec import DataError

torch.set_num_threads(1)              # threads of such small products only wait for each other
GOLDENS = Path(__file__).parent / "goldens"
FAMILIES = sorted(path.parent.name for path in GOLDENS.glob("*/expected.safetensors"))
ADAPTERS = sorted(path.name for path in GOLDENS.glob("adapters/*"))


@pytest.fixture
def checkpoint(tmp_path):
    """A copy of a golden folder, free to be broken."""
    def copy(name):
        return shutil.copytree(GOLDENS / name, tmp_path / name)
    return copy


def edit_json(path, **changes):
    """Set keys of a JSON file; a value of None takes the key away."""
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in raw.items() if v is not None}))


def edit_tensors(folder, change):
    """Rewrite model.safetensors after change(tensors: dict)."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@torch.no_grad()
def all_logits(model, rows):
    """Logits (T, V) behind every token of each row (a list of ids), through one batch of rows that
    are padded to multiples of 16."""
    batch = lm.pack([[(row, 1)] for row in rows])
    hidden, = model(batch.ids, batch.positions, batch.masks)
    return [part[:len(row)] @ model.head.T
            for row, part in zip(rows, hidden.split([m.shape[-1] for m in batch.masks]))]


def golden(name):
    """Rows of ids, and transformers' logits (T, V) of each."""
    stored = load_file(GOLDENS / name / "expected.safetensors")
    lengths = stored["mask"].sum(1).tolist()
    return ([ids[:n].tolist() for ids, n in zip(stored["ids"], lengths)],
            [logits[:n] for logits, n in zip(stored["logits"], lengths)])


def difference(ours, theirs):
    return max((a - b).abs().max().item() for a, b in zip(ours, theirs))


# ---------------------------------------------------------------------------------------------
# Checkpoints

@pytest.mark.parametrize("name", FAMILIES)
def test_logits_equal_those_of_transformers(name):
    rows, expected = golden(name)
    assert difference(all_logits(lm.load_pretrained(GOLDENS / name), rows), expected) < 1e-4


def test_the_goldens_cover_every_family_tied_and_untied_with_grouped_queries():
    configs = [lm.ModelConfig.read(GOLDENS / name) for name in FAMILIES]
    seen = {(c.raw["architectures"][0], c.tie_word_embeddings) for c in configs
            if c.num_key_value_heads < c.num_attention_heads}
    assert seen == {(name, tied) for name in lm.ARCHITECTURES for tied in (True, False)}
    assert {c.rope["rope_type"] for c in configs} == {"default", "linear", "llama3"}


@pytest.mark.parametrize("name, field, other", [
    ("llama3", "rope", {"rope_type": "default", "rope_theta": 10000.0}),
    ("llama3", "rope", {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0}),
    ("deepseek-coder", "rope", {"rope_type": "default", "rope_theta": 100000.0}),
    ("codellama", "rope", {"rope_type": "default", "rope_theta": 10000.0}),
    ("mistral", "windows", (0, 0)), ("mistral", "windows", (9, 9)),
    ("qwen2-window", "windows", (9, 9)),
])
def test_the_goldens_notice_a_wrong_setting(name, field, other):
    model = lm.load_pretrained(GOLDENS / name)
    setattr(model.config, field, other)
    rows, expected = golden(name)
    assert difference(all_logits(model, rows), expected) > 1e-2


@pytest.mark.parametrize("name", FAMILIES)
def test_a_saved_checkpoint_is_the_golden_bit_for_bit(name, tmp_path):
    """transformers reads what it wrote; what is saved here must therefore be the same."""
    model = lm.load_pretrained(GOLDENS / name)
    lm.save_pretrained(model, tmp_path)
    written = load_file(tmp_path / "model.safetensors")
    original = {k: v for path in GOLDENS.glob(f"{name}/model*.safetensors")
                for k, v in load_file(path).items()}
    assert written.keys() == original.keys()
    assert all(torch.equal(written[k], original[k]) for k in original)
    before = lm.read_json(GOLDENS / name / "config.json")
    before.pop("dtype", None)
    assert lm.read_json(tmp_path / "config.json") == {
        **before, "torch_dtype": "float32", "eos_token_id": [2]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_save_and_reload_keeps_every_bit(dtype, tmp_path):
    model = lm.random_model(lm.ModelConfig.tiny(90)).to(dtype)
    lm.save_pretrained(model, tmp_path)
    again = lm.load_pretrained(tmp_path, dtype=dtype)
    for name, p in model.named_parameters():
        assert torch.equal(p, again.get_parameter(name)) and p.dtype == dtype
    assert json.loads((tmp_path / "config.json").read_text())["torch_dtype"] in str(dtype)


def test_every_end_token_of_both_configs_stops(checkpoint):
    folder = checkpoint("qwen2")
    edit_json(folder / "config.json", eos_token_id=7)
    edit_json(folder / "generation_config.json", eos_token_id=[9, 7, 11])
    assert lm.ModelConfig.read(folder).eos == (7, 9, 11)
    (folder / "generation_config.json").unlink()
    assert lm.ModelConfig.read(folder).eos == (7,)


def test_a_mistral_without_the_key_has_the_window_that_transformers_gives_it(checkpoint):
    folder = checkpoint("mistral")
    edit_json(folder / "config.json", sliding_window=None)
    assert lm.ModelConfig.read(folder).windows == (4096, 4096)


def test_stored_tables_and_a_tied_head_stored_twice_are_left_out(checkpoint):
    folder = checkpoint("mistral-tied")
    edit_tensors(folder, lambda t: t.update({
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(3),
        "lm_head.weight": torch.ones(48, 16)}))
    rows, expected = golden("mistral-tied")
    assert difference(all_logits(lm.load_pretrained(folder), rows), expected) < 1e-4


def test_a_hub_id_is_fetched_and_a_failure_is_one_line(monkeypatch):
    asked = []

    def snapshot_download(repo_id, allow_patterns):
        asked.append((repo_id, "*.safetensors" in allow_patterns, "*.bin" in allow_patterns))
        return str(GOLDENS / "qwen2")
    monkeypatch.setattr(lm.huggingface_hub, "snapshot_download", snapshot_download)
    assert lm.load_pretrained("Qwen/tiny").config.vocab_size == 48
    assert asked == [("Qwen/tiny", True, False)]

    def offline(*_, **__):
        raise OSError("We couldn't connect\nto the hub")
    monkeypatch.setattr(lm.huggingface_hub, "snapshot_download", offline)
    with pytest.raises(DataError, match="^Qwen/other: no such folder, .*couldn't connect") as error:
        lm.load_pretrained("Qwen/other")
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="config.json: No such file"):
        lm.load_pretrained("/nowhere/at/all")


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1000])


def change_config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


def put(name, tensor):
    return lambda folder: edit_tensors(folder, lambda tensors: tensors.update({name: tensor}))


def drop(name):
    return lambda folder: edit_tensors(folder, lambda tensors: tensors.pop(name))


# kind: the golden that is broken, the message, and how
BROKEN = {
    "truncated shard": ("llama2", "model-00002-of-00004.safetensors: cannot be read",
                        lambda d: truncate(d / "model-00002-of-00004.safetensors")),
    "no safetensors at all": ("qwen2", "model.safetensors: cannot be read",
                              lambda d: (d / "model.safetensors").write_bytes(b"PK" * 600)),
    "index names an absent shard": ("llama2", "index.json names model-00003-of-00004.safetensors",
                                    lambda d: (d / "model-00003-of-00004.safetensors").unlink()),
    "index without a map": ("llama2", "no weight_map",
                            lambda d: edit_json(d / lm.INDEX, weight_map=None)),
    "no weights": ("qwen2", "neither model.safetensors nor",
                   lambda d: (d / "model.safetensors").unlink()),
    "missing tensor": ("qwen2", "model.layers.1.mlp.up_proj.weight is missing",
                       drop("model.layers.1.mlp.up_proj.weight")),
    "missing head": ("mistral", "lm_head.weight is missing", drop("lm_head.weight")),
    "tensor without a place": ("qwen2", "model.layers.2.mlp.up_proj.weight has no place",
                               put("model.layers.2.mlp.up_proj.weight", torch.ones(24, 16))),
    "wrong shape": ("qwen2", r"model.norm.weight has shape \(17,\), the config says \(16,\)",
                    put("model.norm.weight", torch.ones(17))),
    "integer weights": ("qwen2", "quantised weights are not supported",
                        put("model.norm.weight", torch.ones(16, dtype=torch.int8))),
    "quantised": ("qwen2", "quantised weights are not supported",
                  change_config(quantization_config={"quant_method": "awq"})),
    "unknown architecture": ("qwen2", "architecture GPT2LMHeadModel is not supported",
                             change_config(architectures=["GPT2LMHeadModel"])),
    "unknown rope type": ("llama3", "rope type yarn is not supported",
                          change_config(rope_parameters={"rope_type": "yarn", "factor": 4.0})),
    "rope without its factor": ("llama3", "rope's factor is None",
                                change_config(rope_parameters={"rope_type": "linear"})),
    "unknown activation": ("qwen2", "hidden_act gelu is not supported",
                           change_config(hidden_act="gelu")),
    "biased MLP": ("llama2", "mlp_bias is not supported", change_config(mlp_bias=True)),
    "config not JSON": ("qwen2", "config.json: not JSON",
                        lambda d: (d / "config.json").write_text("{'vocab_size': 48}")),
    "config not an object": ("qwen2", "config.json: not a JSON object",
                             lambda d: (d / "config.json").write_text("[]")),
    "size missing": ("qwen2", "hidden_size is None, not a positive number",
                     change_config(hidden_size=None)),
    "heads that do not divide": ("qwen2", "num_key_value_heads is 3, no divisor of 4 heads",
                                 change_config(num_key_value_heads=3)),
    "end token a word": ("qwen2", "eos_token_id is </s>, not a token's id",
                         change_config(eos_token_id="</s>")),
    "end token outside": ("qwen2", r"eos_token_id is \[2, 48\], not a token's id .* .vocab_size 48",
                          change_config(eos_token_id=[2, 48])),
    "context of 0": ("qwen2", "max_position_embeddings is 0, not a positive number",
                     change_config(max_position_embeddings=0)),
    "rope a list": ("qwen2", "rope settings are .1., not an object",
                    change_config(rope_parameters=[1])),
    "head size a word": ("qwen2", "head_dim is 8d .*: not numbers", change_config(head_dim="8d")),
    "size a word": ("qwen2", "vocab_size is 48k, not a positive number",
                    change_config(vocab_size="48k")),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checkpoint_is_refused_in_one_clear_line(kind, checkpoint):
    name, message, ruin = BROKEN[kind]
    folder = checkpoint(name)
    ruin(folder)
    with pytest.raises(DataError, match=message) as error:
        lm.load_pretrained(folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------
# Many processes

RANKS_SCRIPT = """
import sys, torch, model as lm
lm.join_ranks("cpu")
total = torch.tensor([lm.RANK + 1.0])
lm.sum_over_ranks([total])
seen = []
squares = lm.map_over_ranks(lambda share: seen.extend(share) or [n * n for n in share], range(5))
print(squares, lm.on_rank0(lambda: f"rank {lm.RANK}"), total.item(), lm.cpus_per_rank() > 0)
print(lm.RANK, seen, file=sys.stderr)
lm.leave_ranks()
"""


def test_ranks_share_the_work_and_all_get_the_results(tmp_path):
    (tmp_path / "script.py").write_text(RANKS_SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               "2", str(tmp_path / "script.py")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120,
                             env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout == "[0, 1, 4, 9, 16] rank 0 3.0 True\n"         # rank 0 alone prints
    assert "0 [0, 2, 4]" in process.stderr and "1 [1, 3]" in process.stderr
    assert lm.map_over_ranks(list, [3, 4]) == [3, 4] and lm.on_rank0(lambda: 5) == 5


# ---------------------------------------------------------------------------------------------
# Adapters

def adapted(name):
    return lm.load_adapter(lm.load_pretrained(GOLDENS / name), GOLDENS / "adapters" / name)


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_gives_the_logits_of_peft_beside_merged_and_saved_merged(name, tmp_path):
    rows, expected = golden(f"adapters/{name}")
    model = adapted(name)
    assert difference(all_logits(model, rows), expected) < 1e-4
    lm.save_pretrained(model, tmp_path)
    assert difference(all_logits(lm.load_pretrained(tmp_path), rows), expected) < 1e-4
    assert lm.lora_layers(model) and model.adapter         # saving merges nothing in memory


def test_the_adapters_cover_names_all_layers_and_an_expression():
    assert len(ADAPTERS) == 3
    _, plain = golden("qwen2")
    assert difference(golden("adapters/qwen2")[1], all_logits(
        lm.load_pretrained(GOLDENS / "qwen2"), golden("adapters/qwen2")[0])) > 1


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_saved_adapter_is_what_peft_saved_bit_for_bit(name, tmp_path):
    lm.save_adapter(adapted(name), tmp_path, f"tests/goldens/{name}")
    for file in (lm.ADAPTER_CONFIG, lm.ADAPTER_WEIGHTS):
        read = lm.read_json if file.endswith("json") else load_file
        ours, theirs = read(tmp_path / file), read(GOLDENS / "adapters" / name / file)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(v, theirs[k]) if torch.is_tensor(v) else v == theirs[k]
                   for k, v in ours.items())


@pytest.mark.parametrize("name", ["qwen2-tied", "llama3", "qwen3"])
def test_the_size_of_a_checkpoint_is_that_of_its_matrices(name):
    model = lm.load_pretrained(GOLDENS / name)
    assert model.config.parameters == sum(p.numel() for p in model.parameters() if p.dim() == 2)


def test_a_new_adapter_changes_nothing_and_alone_learns():
    model = lm.random_model(lm.ModelConfig.tiny(70))
    before, state = all_logits(model, [[5, 6, 7]]), torch.random.get_rng_state()
    assert lm.add_lora(model, 4, 8, seed=3) is model
    assert torch.equal(torch.random.get_rng_state(), state)
    assert difference(all_logits(model, [[5, 6, 7]]), before) == 0
    frozen = {k: p.clone() for k, p in model.named_parameters() if not p.requires_grad}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 1.0)
    for _ in range(2):                                     # at the first step, A has no gradient
        lm.sequence_logprobs(model, lm.pack([[([5, 6, 7, 8], 2)]])).sum().backward()
        optimizer.step()
    learning = {k for k, p in model.named_parameters() if p.requires_grad}
    assert len(learning) == 2 * 2 * len(lm.LORA_TARGETS) and all(".lora_" in k for k in learning)
    assert all(model.get_parameter(k).grad.any() for k in learning)
    assert all(torch.equal(p, model.get_parameter(k)) for k, p in frozen.items())
    assert difference(all_logits(model, [[5, 6, 7]]), before) > 1e-3


def test_a_merge_is_summed_in_float32_and_rounded_once():
    """Each entry of the merged bfloat16 weight is the nearest to the exact sum."""
    model = lm.add_lora(lm.random_model(lm.ModelConfig.tiny(70)).bfloat16(), 8, 16, "all-linear")
    for _, layer in lm.lora_layers(model):
        torch.nn.init.normal_(layer.lora_B.weight, std=0.1)
    _, layer = lm.lora_layers(model)[0]
    exact = layer.weight.double() + 2 * layer.lora_B.weight.double() @ layer.lora_A.weight.double()
    assert layer.lora_A.weight.dtype == torch.float32
    assert (layer.merged() == exact.bfloat16()).double().mean() > 0.999
    assert layer(torch.ones(3, 32).bfloat16()).dtype == torch.bfloat16


@pytest.mark.parametrize("biased", [False, True])
def test_the_low_rank_sum_is_the_formula_in_value_and_gradient(biased):
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 4, bias=biased).double().requires_grad_(False)
    x, A, B = (torch.randn(*shape, dtype=torch.float64, requires_grad=True)
               for shape in ((3, 5), (2, 5), (4, 2)))
    W, b = linear.weight, linear.bias

    def both(value):
        return value, *torch.autograd.grad((value * torch.arange(12.0).view(3, 4)).sum(), (x, A, B))

    assert torch.autograd.gradcheck(lambda *v: lm.LowRankSum.apply(v[0], W, b, *v[1:]), (x, A, B))
    naive = x @ W.T + (b if biased else 0) + x @ A.T @ B.T
    for ours, theirs in zip(both(lm.LowRankSum.apply(x, W, b, A, B)), both(naive)):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    with torch.no_grad():
        assert torch.equal(lm.LowRankSum.apply(x, W, b, A, B), lm.LowRankSum.apply(x, W, b, A, B))
    frozen = lm.LowRankSum.apply(x.detach(), W, b, A, B).sum()            # as in the first layer
    assert all(g.any() for g in torch.autograd.grad(frozen, (A, B)))


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.bfloat16, 2e-2)])
def test_an_adapted_layer_is_the_sum_of_both(shape, dtype, tolerance):
    """Of x in the frozen layer's precision; the adapter and its gradients stay in float32."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(5, 4).to(dtype).requires_grad_(False)
    layer = lm.LoRALinear(linear, 2, 0.7)
    for part, size in ((layer.lora_A, (2, 5)), (layer.lora_B, (4, 2))):
        part.weight = torch.nn.Parameter(torch.randn(size))
    x = torch.randn(shape).to(dtype)
    A, B, W, b = (p.detach().double().requires_grad_() for p in (
        layer.lora_A.weight, layer.lora_B.weight, linear.weight, linear.bias))
    right = x.double() @ W.T + b + 0.7 * (x.double() @ A.T @ B.T)
    found = layer(x)
    assert found.dtype == dtype and gap(found.double(), right) < tolerance
    found.sum().backward(), right.sum().backward()
    for ours, theirs in ((layer.lora_A.weight.grad, A.grad), (layer.lora_B.weight.grad, B.grad)):
        assert ours.dtype == torch.float32 and gap(ours.double(), theirs) < tolerance


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ADAPTERS)
def test_merged_for_a_while_the_logits_are_those_of_the_saved_checkpoint(name, dtype, tmp_path):
    """Bit for bit; after it, whatever happened, the adapter is beside the weights again."""
    model = lm.load_adapter(lm.load_pretrained(GOLDENS / name, dtype=dtype),
                            GOLDENS / "adapters" / name)
    lm.save_pretrained(model, tmp_path)
    saved, (rows, _) = lm.load_pretrained(tmp_path, dtype=dtype), golden(f"adapters/{name}")
    beside, layers = all_logits(model, rows), lm.lora_layers(model)
    with lm.sampling(model):
        assert not lm.lora_layers(model)
        assert all(map(torch.equal, all_logits(model, rows), all_logits(saved, rows)))
    assert lm.lora_layers(model) == layers and model.adapter
    assert all(map(torch.equal, all_logits(model, rows), beside))
    prompts = [row[:9] for row in rows]
    assert lm.generate(model, prompts, 12) == lm.generate(saved, prompts, 12)

    def stop(ended):
        assert not lm.lora_layers(model)
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        lm.generate(model, prompts, 12, progress=stop)
    assert lm.lora_layers(model) == layers


@pytest.mark.parametrize("dtype", [None, torch.bfloat16, torch.float32])
def test_a_copy_shares_no_memory(dtype):
    model = lm.random_model(lm.ModelConfig.tiny(70))
    copy = lm.copy_of(model, dtype)
    assert copy.config.tie_word_embeddings and copy.head is copy.model.embed_tokens.weight
    before = [p.detach().clone() for p in copy.parameters()]
    assert all(p.dtype == (dtype or torch.float32) and p.requires_grad for p in copy.parameters())
    assert all(map(torch.equal, before, (p.to(dtype) if dtype else p for p in model.parameters())))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert all(map(torch.equal, before, copy.parameters()))


@pytest.mark.parametrize("message, ruin", [
    ("adapter_model.safetensors: cannot be read", lambda d: truncate(d / lm.ADAPTER_WEIGHTS)),
    ("adapter_model.safetensors: cannot be read", lambda d: (d / lm.ADAPTER_WEIGHTS).unlink()),
    ("adapter_config.json: not JSON", lambda d: truncate(d / lm.ADAPTER_CONFIG)),
    ("lora_A.weight has shape .*, the config says", dict(r=3)),
    ("layers.0.self_attn.k_proj.lora_A.weight is missing",
     dict(target_modules=["q_proj", "v_proj", "down_proj", "k_proj"])),
    ("down_proj.lora_A.weight has no place", dict(target_modules=["q_proj"])),
    ("target_modules .'c_attn'. fits no layer", dict(target_modules=["c_attn"])),
    ("an adapter of lm_head is not supported", dict(target_modules=["lm_head"])),
    ("peft_type IA3 is not supported", dict(peft_type="IA3")),
    ("use_dora is not supported", dict(use_dora=True)),
    ("rank_pattern is not supported", dict(rank_pattern={"q_proj": 2})),
    ("modules_to_save is not supported", dict(modules_to_save=["embed_tokens"])),
    ("bias all is not supported", dict(bias="all")),
    ("init_lora_weights pissa is not supported", dict(init_lora_weights="pissa")),
    ("r is None, not a positive number", dict(r=None)),
])
def test_a_broken_adapter_is_refused_in_one_clear_line(message, ruin, tmp_path):
    folder = shutil.copytree(GOLDENS / "adapters/qwen2", tmp_path / "adapter")
    if isinstance(ruin, dict):
        edit_json(folder / lm.ADAPTER_CONFIG, **ruin)
    else:
        ruin(folder)
    with pytest.raises(DataError, match=message) as error:
        lm.load_adapter(lm.load_pretrained(GOLDENS / "qwen2"), folder)
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------
# Log-probabilities

def naive_logprobs(hidden, weight, targets):
    """The definition that token_logprobs must equal."""
    logits = hidden @ weight.T                                            # (M, V)
    return logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]


def rows_of(M, V, D, seed, sharp=1.0, dtype=torch.float32):
    """hidden (M, D), weight (V, D), targets (M,); sharp scales the logits."""
    g = torch.Generator().manual_seed(seed)
    return (sharp * torch.randn(M, D, generator=g, dtype=dtype),
            torch.randn(V, D, generator=g, dtype=dtype), torch.randint(V, (M,), generator=g))


def gradients(function, hidden, weight, targets, grad, frozen=False):
    """Values, d_hidden and d_weight (None with a frozen head) under upstream gradients `grad`."""
    hidden, weight = hidden.clone().requires_grad_(), weight.clone().requires_grad_(not frozen)
    logp = function(hidden, weight, targets)
    logp.backward(grad)
    return logp.detach(), hidden.grad, weight.grad


def gap(a, b):
    """How far a lies from b, as a share of b's largest entry."""
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("block", [1, 3, 11, 64])
@pytest.mark.parametrize("frozen", [False, True])
def test_gradcheck_in_double_precision(block, frozen):
    hidden, weight, targets = rows_of(5, 11, 3, 0, dtype=torch.float64)
    hidden.requires_grad_(), weight.requires_grad_(not frozen)
    assert torch.autograd.gradcheck(
        lambda h, w: lm.token_logprobs(h, w, targets, block), (hidden, weight))


@pytest.mark.parametrize("M, V, D", [(1, 2, 1), (7, 50, 16), (33, 1000, 24), (64, 1536, 64),
                                     (9, 32003, 32), (5, 151936, 16), (300, 20000, 8)])
def test_values_and_gradients_of_the_naive_version(M, V, D):
    hidden, weight, targets = rows_of(M, V, D, M)
    grad = torch.randn(M, generator=torch.Generator().manual_seed(1))
    expected = gradients(naive_logprobs, hidden.double(), weight.double(), targets, grad.double())
    # The product over V rounds in some shapes: the naive version in float32 does it as well.
    rounding = gap(gradients(naive_logprobs, hidden, weight, targets, grad)[1], expected[1])
    for frozen in (False, True):
        logp, d_hidden, d_weight = gradients(
            lm.token_logprobs, hidden, weight, targets, grad, frozen)
        assert logp.dtype == torch.float32 and gap(logp, expected[0]) <= 1e-6
        assert gap(d_hidden, expected[1]) <= max(1e-5, 2 * rounding) < 5e-5
        assert d_weight is None if frozen else gap(d_weight, expected[2]) <= 1e-5
    with torch.no_grad():
        assert torch.equal(lm.token_logprobs(hidden, weight, targets), logp)


@pytest.mark.parametrize("block", [1, 7, 19, 20, 100])
def test_the_block_changes_nothing_but_rounding(block):
    """block: rows of 20 that are computed at a time."""
    hidden, weight, targets = rows_of(20, 1000, 24, 3)
    grad = torch.randn(20, generator=torch.Generator().manual_seed(2))
    for frozen in (False, True):
        whole = gradients(lm.token_logprobs, hidden, weight, targets, grad, frozen)
        parts = gradients(lambda *x: lm.token_logprobs(*x, block),
                          hidden, weight, targets, grad, frozen)
        for a, b in zip(parts[:3 - frozen], whole):
            assert gap(a, b) <= 2e-6


@pytest.mark.parametrize("miss", [1e-1, 1e-2, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-4), (torch.bfloat16, 1e-2)])
def test_confident_tokens_keep_their_digits(miss, frozen, dtype, tolerance):
    """At p = 1 - miss the gradient is about as small as `miss`; its relative error stays small."""
    M, V, D = 6, 400, 32
    hidden, weight, targets = rows_of(M, V, D, 5)
    others = (hidden @ weight.T).scatter(1, targets[:, None], -torch.inf).logsumexp(1)
    wanted = others - torch.tensor(miss / (1 - miss)).log()               # the target's logit
    now = (hidden * weight[targets]).sum(1)
    # A further coordinate that only targets have moves their logits to where they should be.
    hidden = torch.cat([hidden, (wanted - now)[:, None]], 1).to(dtype)
    weight = torch.cat([weight, torch.zeros(V, 1)], 1)
    weight[targets, -1] = 1
    weight = weight.to(dtype)
    grad = torch.ones(M)
    expected = gradients(naive_by_gap, hidden.double(), weight.double(), targets, grad.double())
    found = gradients(lm.token_logprobs, hidden, weight, targets, grad, frozen)
    assert (found[0] <= 0).all()
    for row in range(M):
        assert abs(found[0][row] / expected[0][row] - 1) < 1e-3
        assert gap(found[1][row].double(), expected[1][row]) <= tolerance
    assert frozen or gap(found[2].double(), expected[2]) <= tolerance


def naive_by_gap(hidden, weight, targets):
    """naive_logprobs without the cancellation that even float64 has at p = 1 - 1e-12."""
    logits = hidden @ weight.T
    others = logits.scatter(1, targets[:, None], -torch.inf).logsumexp(1)
    return torch.nn.functional.logsigmoid(logits.gather(1, targets[:, None])[:, 0] - others)


@pytest.mark.parametrize("size", [3, 30, 120])
def test_logits_in_bfloat16_are_exact_where_it_matters(size):
    """Logits up to `size`: the largest are exact, and log p of all targets nearly so."""
    M, V, D = 60, 3000, 64
    hidden, weight, targets = rows_of(M, V, D, 7)
    scale = (hidden @ weight.T).abs().max() / size
    hidden, weight = (hidden / scale).bfloat16(), weight.bfloat16()
    right = hidden.float() @ weight.float().T                             # (M, V)
    order = right.argsort(1, descending=True)
    found = lm.logits(hidden, weight)
    assert found.dtype == torch.float32 and found.isfinite().all()
    top = order[:, :24]                                    # those near the 32nd may change places
    torch.testing.assert_close(found.gather(1, top), right.gather(1, top), rtol=0, atol=1e-3)
    torch.testing.assert_close(found, right, rtol=2 ** -8, atol=1e-3)
    targets[:40] = order[torch.arange(40), torch.arange(40) * 5]          # in and behind the top 32
    expected = naive_logprobs(hidden.double(), weight.double(), targets)
    for frozen in (False, True):
        for block in (7, 60):
            logp = lm.token_logprobs(hidden, weight.requires_grad_(not frozen), targets, block)
            assert logp.dtype == torch.float32 and (logp - expected).abs().max() < 0.02


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sharp", [0.1, 10.0, 1000.0])
def test_a_log_probability_is_never_above_0(sharp, dtype):
    """The targets are the likeliest tokens, where rounding could push p above 1."""
    hidden, weight, _ = rows_of(50, 700, 16, 9, sharp)
    hidden, weight = hidden.to(dtype), weight.to(dtype)
    best = (hidden.float() @ weight.float().T).argmax(1)
    for block in (13, 700):
        logp, d_hidden, d_weight = gradients(
            lambda *x: lm.token_logprobs(*x, block), hidden, weight, best, torch.ones(50))
        assert (logp <= 0).all() and logp.isfinite().all() and d_hidden.isfinite().all()
        assert d_weight.isfinite().all()


def test_rows_without_weight_get_no_gradient():
    hidden, weight, targets = rows_of(10, 60, 8, 4)
    grad = torch.tensor([1., 0.] * 5)
    for frozen in (False, True):
        _, d_hidden, d_weight = gradients(lm.token_logprobs, hidden, weight, targets, grad, frozen)
        alone = gradients(lm.token_logprobs, hidden[::2], weight, targets[::2], grad[::2], frozen)
        assert not d_hidden[1::2].any() and gap(d_hidden[::2], alone[1]) <= 1e-6
        assert frozen or gap(d_weight, alone[2]) <= 1e-6


def test_a_frozen_head_saves_no_weight_and_no_gradient_saves_nothing():
    hidden, weight, targets = rows_of(10, 60, 8, 4)
    node = lm.token_logprobs(hidden.requires_grad_(), weight, targets).grad_fn
    assert [t.shape for t in node.saved_tensors] == [hidden.shape]        # the unit gradient alone
    assert node.kept is None
    assert lm.token_logprobs(hidden.detach(), weight, targets).grad_fn is None


@pytest.mark.parametrize("block, kept", [(9, False), (10, True)])
def test_a_trainable_head_keeps_the_softmax_of_one_block(block, kept, monkeypatch):
    """The backward then computes no logits, else again those of each block; twice if asked to."""
    hidden, weight, targets = rows_of(10, 60, 8, 4)
    logp = lm.token_logprobs(hidden.requires_grad_(), weight.requires_grad_(), targets, block)
    seen, logits = [], lm.logits
    monkeypatch.setattr(lm, "logits", lambda *rest: seen.append(rest) or logits(*rest))
    first = torch.autograd.grad(logp.sum(), (hidden, weight), retain_graph=True)
    assert len(seen) == (0 if kept else 2)
    again = torch.autograd.grad(logp.sum(), (hidden, weight))
    assert all(gap(a, b) <= 1e-6 for a, b in zip(again, first))


# ---------------------------------------------------------------------------------------------
# Batches of sequences

def some_groups(seed=0, V=70):
    """Groups of (ids, n) sequences; the prompts of a group share a long or a short prefix."""
    g = torch.Generator().manual_seed(seed)

    def ids(low, high):
        size = int(torch.randint(low, high, (1,), generator=g))
        return torch.randint(1, V, (size,), generator=g).tolist()
    groups = []
    for size in (2, 1, 4, 3):
        shared = ids(1, 25)
        prompts = [shared + ids(0, 6) for _ in range(size)]
        groups.append([(prompt + ids(1, 12), len(prompt)) for prompt in prompts])
    groups.append([([5, 6, 7], 2), ([5, 6, 7], 2)])                       # one and the same
    groups.append([([5, 6], 2), ([5, 6, 7], 2)])                          # nothing to score in one
    return groups


def layouts(groups):
    """The same sequences sharing prefixes, packed in one row each, and one batch at a time."""
    flat = [s for group in groups for s in group]
    return {"shared": [lm.pack(groups)], "padded": [lm.pack([[s] for s in flat])],
            "single": [lm.pack([[s]]) for s in flat]}


def plain_logprob(model, ids, n):
    """One sequence, every logit, a sum over the answer: the definition of sequence_logprobs."""
    logits = all_logits(model, [ids])[0]
    return sum(logits[t - 1].log_softmax(-1)[ids[t]] for t in range(n, len(ids)))


@pytest.mark.parametrize("name", ["qwen2-window", "qwen3-tied", "llama3"])
def test_every_layout_gives_the_sums_of_the_plain_version(name):
    model = lm.load_pretrained(GOLDENS / name)
    groups = some_groups(V=48)
    plain = torch.tensor([plain_logprob(model, *s) for group in groups for s in group])
    for batches in layouts(groups).values():
        with torch.no_grad():
            logp = torch.cat([lm.sequence_logprobs(model, b) for b in batches])
        assert (logp - plain).abs().max() < 1e-4


def gradient_of(model, batches, weights):
    """d(sum of weights * log-probs) over all parameters, as one vector."""
    model.zero_grad()
    for batch, w in zip(batches, weights):
        (lm.sequence_logprobs(model, batch) * w).sum().backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("name", ["qwen2-window", "llama3"])
def test_every_layout_gives_the_same_gradients(name):
    model = lm.load_pretrained(GOLDENS / name)
    groups = some_groups(1, V=48)
    weights = torch.linspace(-1, 1, sum(map(len, groups)))
    found = {name: gradient_of(model, batches, weights.split([b.size for b in batches]))
             for name, batches in layouts(groups).items()}
    assert gap(found["shared"], found["single"]) <= 1e-5
    assert gap(found["padded"], found["single"]) <= 1e-5


@pytest.mark.parametrize("frozen", [False, True])
def test_layers_computed_twice_give_the_same_gradients(frozen):
    model = lm.load_pretrained(GOLDENS / "qwen2-window")
    if frozen:
        model = lm.add_lora(model, 2, 4)
    groups = some_groups(6, V=48)
    found = []
    for model.recompute_above in (math.inf, 0):
        model.zero_grad()
        lm.sequence_logprobs(model, lm.pack(groups)).sum().backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(*found) and found[0].any()


@pytest.mark.parametrize("frozen", [False, True])
def test_micro_batches_of_8_4_and_1_give_the_same_gradients(frozen):
    """Eight pairs in one batch, in two of four, and one by one."""
    model = lm.random_model(lm.ModelConfig.tiny(70))
    if frozen:                                             # the head, as under LoRA
        model.model.embed_tokens.weight.requires_grad_(False)
    g = torch.Generator().manual_seed(3)
    pairs = [[(torch.randint(1, 70, (n + m,), generator=g).tolist(), n) for m in (5, 9)]
             for n in range(3, 11)]
    found = []
    for size in (8, 4, 1):
        model.zero_grad()
        for i in range(0, 8, size):
            gold, sample = lm.sequence_logprobs(model, lm.pack(pairs[i:i + size])).view(-1, 2).T
            (torch.nn.functional.softplus(0.3 * (sample - gold)).sum() / 8).backward()
        found.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad]))
    assert gap(found[1], found[0]) <= 1e-5 and gap(found[2], found[0]) <= 1e-5


def test_a_round_starts_at_log_2_however_the_batch_is_laid_out():
    from spft import error_driven_loss
    model = lm.random_model(lm.ModelConfig.tiny(70))
    groups = [group for group in some_groups(2) if len(group) % 2 == 0]
    for batches in layouts(groups).values():
        with torch.no_grad():
            opponent = torch.cat([lm.sequence_logprobs(model, b) for b in batches]).view(-1, 2)
        main = torch.cat([lm.sequence_logprobs(model, b) for b in batches]).view(-1, 2)
        assert torch.equal(main, opponent)
        loss = error_driven_loss(main[:, 0], opponent[:, 0], main[:, 1], opponent[:, 1],
                                 torch.ones(len(main)), 0.5)
        assert (loss - torch.tensor(2.0).log()).abs().max() < 1e-6


def test_exactly_one_end_token_is_scored_and_only_where_there_is_one():
    finished, cut = ([4, 5, 6, 8, 0], 3), ([4, 5, 6, 8], 3)
    batch = lm.pack([[finished, cut]])
    assert batch.target.tolist() == [8, 0, 8] and batch.owner.tolist() == [0, 0, 1]


def test_padding_is_never_seen():
    """Other ids in the padding, and other rows beside it, change no log-probability."""
    model = lm.random_model(lm.ModelConfig.tiny(70))
    groups = some_groups(4)
    batch = lm.pack(groups)
    with torch.no_grad():
        before = lm.sequence_logprobs(model, batch)
        padding = batch.ids == 0                           # no sequence has a 0
        assert padding.any() and not padding[0, batch.source].any()
        batch.ids[padding] = 33
        assert torch.equal(lm.sequence_logprobs(model, batch), before)
        backwards = lm.sequence_logprobs(model, lm.pack(groups[::-1]))
    sizes = [len(group) for group in groups]
    again = torch.cat(backwards.split(sizes[::-1])[::-1])
    assert (again - before).abs().max() < 1e-5


def test_norm_and_gate_have_the_gradients_of_their_formulas():
    x, weight, gate, up = (torch.randn(*shape, dtype=torch.float64, requires_grad=True)
                           for shape in ((3, 5, 8), (8,), (4, 6), (4, 6)))
    assert torch.autograd.gradcheck(lambda x, w: lm.Normalised.apply(x, w, 1e-6), (x, weight))
    assert torch.autograd.gradcheck(lm.SwiGLU.apply, (gate, up))
    torch.testing.assert_close(lm.Normalised.apply(x, weight, 1e-6),
                               torch.nn.functional.rms_norm(x, (8,), weight, 1e-6))
    torch.testing.assert_close(lm.SwiGLU.apply(gate, up), torch.nn.functional.silu(gate) * up)


@pytest.mark.parametrize("T", [5, lm.BLOCK, 2 * lm.BLOCK + 7])
def test_attention_in_blocks_and_in_steps_is_torchs_attention(T):
    """Values and gradients; grouped heads, a mask with holes before the diagonal."""
    torch.manual_seed(0)
    B, H, K, E = 2, 6, 2, 8
    q, k, v = (torch.randn(B, n, T, E, requires_grad=True) for n in (H, K, K))
    seen = (torch.rand(B, 1, T, T) < 0.7).tril() | torch.eye(T, dtype=torch.bool)
    mask = lm.added(seen, 0, None, None, torch.float32)
    weight = torch.randn(B, H, T, E)

    def both(attention):
        out = attention()
        return [out, *torch.autograd.grad((out * weight).sum(), [q, k, v])]

    right = both(lambda: torch.nn.functional.scaled_dot_product_attention(
        q, *(x.repeat_interleave(H // K, 1) for x in (k, v)), seen))
    for fast in (lambda: lm.attend(q, k, v, mask),
                 lambda: lm.BlockAttention.apply(q, k, v, mask, lm.BLOCK)):
        for ours, theirs in zip(both(fast), right):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    half = lm.attend(q.bfloat16(), k.bfloat16(), v.bfloat16(), mask.bfloat16())
    torch.testing.assert_close(half.float(), right[0], rtol=0.05, atol=0.05)


def test_large_biases_of_keys_cost_bf16_attention_nothing():
    """Values and gradients of keys that lie around 30 are as near as those of keys around 0."""
    torch.manual_seed(0)
    q, k, v, up = (torch.randn(1, n, 40, 16) for n in (4, 2, 2, 4))
    mask = lm.added(torch.ones(1, 1, 40, 40).bool().tril(), 0, None, None, torch.float32)
    far = []
    for shift in (0, 30):
        found = []
        for dtype in (torch.float32, torch.bfloat16):
            parts = [x.bfloat16().to(dtype).requires_grad_() for x in (q, k + shift, v)]
            out = lm.attend(*parts, mask.to(dtype))
            found.append([x.float() for x in
                          (out, *torch.autograd.grad((out * up.to(dtype)).sum(), parts))])
        far.append([(a - b).norm() / a.norm() for a, b in zip(*found)])
    assert all(b < 2 * a + 0.01 for a, b in zip(*far)), far


# ---------------------------------------------------------------------------------------------
# Generation

def prompts_of(seed, count, V=70, low=1, high=60):
    g = torch.Generator().manual_seed(seed)
    sizes = torch.randint(low, high, (count,), generator=g).tolist()
    return [torch.randint(1, V, (size,), generator=g).tolist() for size in sizes]


@torch.no_grad()
def plain_greedy(model, prompt, max_new):
    """No cache, no batch: the definition of greedy generation."""
    ids = list(prompt)
    while len(ids) < len(prompt) + max_new:
        token = int(all_logits(model, [ids])[0][-1].argmax())
        if token in model.config.eos:
            return lm.Sample(ids[len(prompt):], token)
        ids.append(token)
    return lm.Sample(ids[len(prompt):])


@pytest.mark.parametrize("name", ["qwen2-window", "qwen3-tied", "llama3", "mistral"])
def test_batched_greedy_equals_one_by_one(name, monkeypatch):
    model = lm.load_pretrained(GOLDENS / name)
    model.config.eos = (2, 5, 9)                           # so that some rows end by themselves
    prompts = prompts_of(1, 7, 48)
    shared = prompts_of(2, 1, 48, 40, 41)[0]
    prompts += [shared + p for p in prompts_of(3, 4, 48, 1, 9)] + [shared, shared]
    expected = [plain_greedy(model, p, 12) for p in prompts]
    for batch_size in (1, 4, 64):
        assert lm.generate(model, prompts, 12, batch_size=batch_size) == expected
    monkeypatch.setitem(lm.SYNC_EVERY, "cpu", 5)           # rows go on behind their end, unseen
    assert lm.generate(model, prompts, 12, batch_size=4) == expected
    assert 0 < sum(s.finished for s in expected) < len(expected)


def test_an_answer_ends_with_the_models_context_and_a_prompt_that_fills_it_is_refused(checkpoint):
    folder = checkpoint("llama2")
    edit_json(folder / "config.json", max_position_embeddings=20, eos_token_id=None)
    edit_json(folder / "generation_config.json", eos_token_id=None)
    model = lm.load_pretrained(folder)
    assert model.config.context == 20
    lengths = [len(s.ids) for s in lm.generate(model, [[3] * n for n in (7, 12, 19)], 10)]
    assert lengths == [10, 8, 1]
    with pytest.raises(DataError, match="a prompt has 20 tokens.* context of 20"):
        lm.generate(model, [[3] * 4, [3] * 20], 10)
    edit_json(folder / "config.json", max_position_embeddings=None)
    assert lm.ModelConfig.read(folder).context is None
    assert lm.generate(lm.load_pretrained(folder), [[3] * 40], 3)[0].end is None


@pytest.fixture
def reads(monkeypatch):
    """The shapes (B, T) of the batches that models read."""
    shapes, forward = [], lm.Transformer.forward

    def watched(model, ids, *rest):
        shapes.append(tuple(ids.shape))
        return forward(model, ids, *rest)
    monkeypatch.setattr(lm.Transformer, "forward", watched)
    return shapes


def test_what_prompts_share_is_read_once(reads):
    model = lm.random_model(lm.ModelConfig.tiny(70))
    schema, first, second = (prompts_of(i, 1, 70, size, size + 1)[0]
                             for i, size in enumerate((50, 30, 20)))
    lm.generate(model, [schema + first, schema + second], 1, n=5)
    assert len(reads) == 3 and reads[-1] == (10, 1)        # each row reads its last token alone
    assert sum(B * T for B, T in reads[:2]) == 50 + 29 + 19
    reads.clear()
    lm.generate(model, [schema + first, [3, 4]], 1)        # nothing shared: one ragged batch
    assert reads == [(2, 80)]


def test_a_step_reads_the_live_rows_and_no_others(reads):
    model = lm.load_pretrained(GOLDENS / "llama3")
    model.config.eos = (2, 5, 9, 11)
    samples = lm.generate(model, prompts_of(1, 20, 48, 2), 30, 1.0, batch_size=20)
    assert sum(B for B, T in reads if T == 1) == sum(len(s.ids) + s.finished - 1 for s in samples)
    assert len({len(s.ids) for s in samples}) > 5


def test_n_samples_come_in_order_behind_their_prompt():
    model = lm.random_model(lm.ModelConfig.tiny(70))
    prompts = prompts_of(5, 7)
    once = lm.generate(model, prompts, 8)
    assert lm.generate(model, prompts, 8, n=3, batch_size=4) == [s for s in once for _ in range(3)]


def test_the_same_seed_gives_the_same_samples_and_another_others():
    model = lm.random_model(lm.ModelConfig.tiny(70))
    prompts = prompts_of(6, 9)
    first = lm.generate(model, prompts, 12, temperature=1.0, n=2, seed=1, batch_size=5)
    before = torch.random.get_rng_state()
    assert lm.generate(model, prompts, 12, temperature=1.0, n=2, seed=1, batch_size=5) == first
    assert lm.generate(model, prompts, 12, temperature=1.0, n=2, seed=2, batch_size=5) != first
    assert torch.equal(torch.random.get_rng_state(), before)   # the global generator is not used


def test_samples_do_not_depend_on_what_is_decoded_beside_them():
    model = lm.random_model(lm.ModelConfig.tiny(70))
    prompts = prompts_of(6, 12)
    expected = lm.generate(model, prompts, 12, temperature=1.0, n=2, seed=1)
    assert len({tuple(s.ids) for s in expected}) > 20
    for batch_size in (1, 5):
        assert lm.generate(model, prompts, 12, 1.0, 2, seed=1, batch_size=batch_size) == expected
    order = [7, 3, 11]
    alone = lm.generate(model, [prompts[i] for i in order], 12, 1.0, 2, [1 + i for i in order])
    assert alone == [s for i in order for s in expected[2 * i:2 * i + 2]]


class GraphOf:
    """What a CUDA graph does, on a CPU: its output stays where it is and is overwritten."""

    def __init__(self, run):
        self.run, self.logits, self.replays = run, run(), 0

    def replay(self):
        self.logits.copy_(self.run())
        self.replays += 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_steps_by_graphs_of_few_shapes_give_the_same_samples(temperature, monkeypatch):
    model, graphs = lm.random_model(lm.ModelConfig.tiny(70)), {}
    model.config.eos = (2, 5, 9)                           # rows come and go
    prompts = prompts_of(5, 14) + prompts_of(6, 4, low=200, high=500)
    expected = lm.generate(model, prompts, 40, temperature, batch_size=6)

    def graphs_of(cache, model, rows, capacity, init=lm.KVCache.__init__):
        init(cache, model, rows, capacity)
        cache.graphs = {}

    def capture(cache, rows, width):
        ids, start = cache.ids[:rows, None], cache.start[:rows]
        graph = graphs[rows, width] = GraphOf(
            lambda: cache.advance(0, ids, start, torch.zeros_like(start), width))
        return graph, graph.logits
    monkeypatch.setattr(lm.KVCache, "__init__", graphs_of)
    monkeypatch.setattr(lm.KVCache, "capture", capture)
    monkeypatch.setitem(lm.SYNC_EVERY, "cpu", 8)
    assert lm.generate(model, prompts, 40, temperature, batch_size=6) == expected
    if temperature:
        assert {rows for rows, _ in graphs} == {2, 4, 6}
        assert {width for _, width in graphs} == {256, 512}
    assert sum(graph.replays for graph in graphs.values()) > 10 * len(graphs)


def test_attention_on_a_gpu_is_not_cudnns():
    assert not torch.backends.cuda.cudnn_sdp_enabled()


def test_each_rank_reads_onto_its_own_gpu(monkeypatch):
    """safetensors takes "cuda" for GPU 0, whatever torch.cuda.set_device said."""
    asked = []

    def opened(path, framework, device):
        asked.append(device)
        raise OSError("seen")
    monkeypatch.setattr(lm, "safe_open", opened)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    for device in ("cuda", torch.device("cuda"), "cpu"):
        with pytest.raises(DataError, match="seen"):
            list(lm.read_tensors("x", device))
    assert asked == ["cuda:3", "cuda:3", "cpu"]


@pytest.mark.parametrize("quota, cores", [
    ("200000 100000", 2), ("50000 100000", 1), ("max 100000", 8), (OSError(), 8)])
def test_cores_of_a_container_are_those_of_its_quota(monkeypatch, quota, cores):
    def read(path):
        if isinstance(quota, OSError):
            raise quota
        return quota
    monkeypatch.setattr(lm.os, "sched_getaffinity", lambda process: set(range(8)), raising=False)
    monkeypatch.setattr(lm.Path, "read_text", read)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert (lm.cpus(), lm.cpus_per_rank()) == (cores, max(1, cores // 2))


def test_weights_go_to_the_file_one_by_one(tmp_path, monkeypatch):
    """Merged weights of two layers are never on the device together."""
    model, alive = lm.random_model(lm.ModelConfig.tiny(70)), []
    lm.add_lora(model, 2)
    merged = lm.LoRALinear.merged

    def counted(layer):
        assert not [w for w in alive if w() is not None]
        weight = merged(layer).to(torch.float64)           # .to("cpu", float32) copies it
        alive.append(weakref.ref(weight))
        return weight
    monkeypatch.setattr(lm.LoRALinear, "merged", counted)
    lm.save_pretrained(model, tmp_path, torch.float32)
    assert len(alive) == 14


def test_fewer_rows_where_there_is_no_memory_for_all(monkeypatch, capsys):
    model, prompts = lm.random_model(lm.ModelConfig.tiny(70)), prompts_of(6, 9)
    expected = lm.generate(model, prompts, 12, temperature=1.0)
    made, init = [], lm.KVCache.__init__

    def little(cache, model, rows, capacity, most=4):
        made.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError
        init(cache, model, rows, capacity)
    monkeypatch.setattr(lm.KVCache, "__init__", little)
    with lm.sampling(model):                               # the second call knows
        assert all(lm.generate(model, prompts, 12, temperature=1.0) == expected for _ in range(2))
    assert made == [9, 4, 1]                               # 1: the cache of shared prefixes
    assert capsys.readouterr().out == (
        "  not enough memory to decode 9 rows side by side: 4 now\n")
    monkeypatch.setattr(lm.KVCache, "__init__", functools.partialmethod(little, most=0))
    with pytest.raises(DataError, match="no memory for an answer behind .* tokens of prompt"):
        lm.generate(model, prompts, 12)


def test_sampled_tokens_reach_the_ends_of_the_distribution():
    """u in (0, 1]: no token of probability 0, and none behind the last."""
    logits = torch.tensor([[-torch.inf, 0.0, 1.0, -torch.inf]] * 3)
    u = torch.tensor([2.0 ** -24, 0.5, 1.0])
    assert lm.sample_token(logits, 1.0, u).tolist() == [1, 2, 2]
    numbers = lm.random_numbers([1, 2, 1], 2, 5000)
    assert numbers.shape == (6, 5000) and 0 < numbers.min() and numbers.max() <= 1
    assert torch.equal(numbers[:2], numbers[4:]) and len(numbers.unique(dim=0)) == 4


def spread_model(V=12):
    """A model with neither flat nor certain next tokens, that never stops."""
    model = lm.random_model(lm.ModelConfig.tiny(V, eos=()))
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(3)
    return model


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sampled_tokens_follow_the_softmax(temperature):
    """Chi-square of first tokens; and two samples of a prompt agree as often as they should, which
    they would not if the rows shared a draw."""
    model = spread_model()
    prompt, n = [3, 1, 4, 1, 5], 6000
    p = (all_logits(model, [prompt])[0][-1] / temperature).softmax(-1)
    samples = lm.generate(model, [prompt], 1, temperature, n=n, seed=4, batch_size=500)
    counts = torch.bincount(torch.tensor([s.ids[0] for s in samples]), minlength=12)
    chi_square = ((counts - n * p) ** 2 / (n * p)).sum()
    assert n * p.min() > 5 and p.max() > 2 * p.min()       # the test sees what it should see
    assert chi_square < 31.3                               # 99.9% of a chi-square of 11 degrees
    agree = (counts * (counts - 1)).sum() / (n * (n - 1))
    assert abs(agree / (p ** 2).sum() - 1) < 0.1


def test_later_tokens_follow_the_softmax_too():
    """Each sampled token's probability under the model, averaged, is the sum of p squared."""
    model = spread_model()
    samples = lm.generate(model, prompts_of(8, 40, 12), 10, 1.0, n=10, seed=7, batch_size=64)
    prompts = [p for p in prompts_of(8, 40, 12) for _ in range(10)]
    surprise = []
    for prompt, sample in zip(prompts, samples):
        p = all_logits(model, [prompt + sample.ids])[0][len(prompt) - 1:-1].softmax(-1)
        chosen = p.gather(1, torch.tensor(sample.ids)[:, None])[:, 0]
        surprise.append(chosen - (p ** 2).sum(1))
    surprise = torch.cat(surprise)
    assert abs(surprise.mean()) < 4 * surprise.std() / len(surprise) ** 0.5


@torch.no_grad()
def test_decode_time_log_probabilities_sum_to_those_of_the_finished_sequence():
    model = lm.load_pretrained(GOLDENS / "qwen2-window")
    prompts = prompts_of(11, 6, 48)
    samples = lm.generate(model, prompts, 40, 1.0, seed=3)
    ends = [[2] * s.finished for s in samples]
    answers = [s.ids + end for s, end in zip(samples, ends)]
    cache, sums = lm.KVCache(model, len(prompts), 110), []
    for row, (prompt, answer) in enumerate(zip(prompts, answers)):
        total, ids = 0, prompt
        for step, token in enumerate(answer):
            start = 0 if step == 0 else len(prompt) + step - 1
            logits = cache.advance(row, torch.tensor([ids]), torch.tensor([start]),
                                   torch.tensor([len(ids) - 1]), start + len(ids))
            total, ids = total + logits[0].log_softmax(-1)[token], [token]
        sums.append(total)
    whole = [[(prompt + answer, len(prompt))] for prompt, answer in zip(prompts, answers)]
    assert (lm.sequence_logprobs(model, lm.pack(whole)) - torch.stack(sums)).abs().max() < 1e-4
    assert any(s.finished for s in samples)


def test_progress_counts_every_row_and_no_prompts_give_no_samples():
    model, seen = lm.random_model(lm.ModelConfig.tiny(70)), []
    lm.generate(model, prompts_of(12, 9), 5, batch_size=4, progress=seen.append)
    assert sum(seen) == 9 and lm.generate(model, [], 5) == []


def test_doctests():
    found = doctest.testmod(lm)
    assert found.failed == 0 and found.attempted > 3
