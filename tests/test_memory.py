"""The counter of bytes and operations, against counts by hand."""

import sys

import pytest
import torch
from conftest import ROOT

import model as lm

sys.path.insert(0, str(ROOT / "tests/bench"))
import memory  # noqa: E402


def test_storages_count_until_they_are_freed():
    with memory.fake_gpu(memory.Live()) as live:
        a = torch.zeros(100)                       # 400 bytes
        view = a[10:].view(9, 10)                  # the same storage
        b = a.to(torch.bfloat16)                   # 200
        assert (live.now, live.peak) == (600, 600)
        del a
        assert live.now == 600                     # the view holds it
        del view
        assert (live.now, live.peak) == (200, 600)
        assert live.during(lambda: b + 1) == 400 and live.now == 200
        b.add_(1)
        assert live.now == 200


def test_real_tensors_are_counted_alike():
    """The same forward and backward on real tensors and on fake ones."""
    def work(live):
        a, w = torch.ones(64, 32), torch.ones(32, 16, requires_grad=True)
        return live.during(lambda: torch.autograd.grad((a @ w).square().sum(), w))

    with memory.Live() as real:
        expected = work(real)
    with memory.fake_gpu(memory.Live()) as fake:
        assert work(fake) == expected
    kept = 4 * (64 * 32 + 32 * 16 + 64 * 16)       # a, w and the product, which square keeps
    assert kept < expected <= kept + 4 * (4 * 64 * 16 + 32 * 16) + 100


def test_a_loaded_model_takes_its_weights():
    """Two bytes a weight, of norms and biases too; one tensor more where the type changes."""
    config = memory.config_of("tiny")
    numbers = [p.numel() for p in lm.random_model(config).parameters()]
    with memory.fake_gpu(memory.Live()) as live:
        model = memory.loaded(config)
        assert live.now == live.peak == 2 * sum(numbers)
        del model
        assert live.now == 0
        model = memory.loaded(config, torch.float32)
        assert live.now == 4 * sum(numbers)
        assert live.now < live.peak <= live.now + 2 * max(numbers)


def test_a_cache_takes_keys_and_values_of_every_row():
    config = memory.config_of("tiny")
    with memory.fake_gpu(memory.Live()) as live:
        model = memory.loaded(config)
        before = live.now
        small, large = (live.during(lambda n=n: memory.sample(model, n, 64, 16)) for n in (8, 16))
        c = config
        row = 2 * 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * (64 + 16)
        assert large - small >= 8 * row and live.now == before


def test_what_recompute_and_an_adapter_save():
    found = memory.memory(memory.config_of("tiny"), [512], 8, rank=4)
    assert found["LoRA 512 recompute 1"] < found["LoRA 512 recompute 0"]
    assert found["load"] == min(found.values())
    assert found["load"] < found["save"]


def test_operations_but_no_views_are_counted():
    with memory.Operations() as counter:
        a = torch.ones(4, 6)                       # 1
        a.T.reshape(2, 12)                         # clone and a view: 1
        a.view(-1)[2:].add_(1)                     # 1
    assert counter.count == 3
    merged, adapter = memory.operations(memory.config_of("tiny"), 4)
    per_adapter = 7 * memory.config_of("tiny").num_hidden_layers
    assert merged + 4 * per_adapter <= adapter     # two casts, a factor and two products each


def test_a_padded_epoch_is_no_shorter_than_a_packed_one(world, base):
    packed, device, steps = memory.padding(str(base), str(world))
    assert packed <= device < packed + 16 * 40 and steps == 2


def test_the_rows_of_a_measured_step_have_the_tokens_that_are_asked_for():
    batch = lm.pack(memory.training_rows(4096))
    assert 4096 <= batch.ids.numel() < 4096 + 16 * 6
    assert sorted(set(batch.owner.tolist())) == list(range(batch.size))


@pytest.mark.parametrize("name", memory.SHAPES)
def test_the_shapes_have_the_checkpoints_sizes(name):
    """Billions of parameters, as their cards say."""
    expected = {"1.5B": 1.54, "7B": 7.61, "32B": 32.5}[name]
    assert memory.config_of(name).parameters / 1e9 == pytest.approx(expected, rel=0.02)
