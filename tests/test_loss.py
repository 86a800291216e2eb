"""Eq. 1, 2 and 3: by hand, against other losses, and through a real model."""

import math
import random
from dataclasses import replace
from functools import partial

import pytest
import torch

import model as lm
import spft
from data.prompts.pairs import Pair, packed_length
from model import Sample
from spft import (
    SUPERVISED, Config, error_driven_loss, error_reward, logistic, ppo, ppo_loss, self_play,
    split_by_execution)
from sqlexec import DataError

LOG2 = math.log(2)
torch.set_num_threads(1)


def f64(*values):
    return torch.tensor(values, dtype=torch.float64)


# ---------------------------------------------------------------------------------------------
# The equations by themselves

def test_eq1_splits_answers_by_execution():
    assert split_by_execution(["a", "b", "c"], [True, False, True]) == (["a", "c"], ["b"])
    assert split_by_execution([], []) == ([], [])


def test_eq2_rewards_errors():
    R = error_reward(torch.tensor([True, False, False]))
    assert R.tolist() == [0, 1, 1] and R.is_floating_point()


# main_pos, opp_pos, main_neg, opp_neg, R, lambda -> loss.  The argument of ell is
# lambda * ((main_pos - opp_pos) - R * (main_neg - opp_neg)).
BY_HAND = [
    ((-2.0, -3.0, -5.0, -4.0, 1, 0.5), math.log1p(math.exp(-1.0))),     # 0.5 * (1 + 1)
    ((-2.0, -3.0, -5.0, -4.0, 0, 0.5), math.log1p(math.exp(-0.5))),     # 0.5 * 1
    ((-4.0, -1.0, -2.0, -6.0, 1, 0.1), math.log1p(math.exp(0.7))),      # 0.1 * (-3 - 4)
    ((-4.0, -1.0, -2.0, -6.0, 0, 0.1), math.log1p(math.exp(0.3))),      # 0.1 * -3
    ((-4.0, -1.0, -2.0, -6.0, 1, 0.0), LOG2),
]


@pytest.mark.parametrize("numbers, expected", BY_HAND)
def test_eq3_by_hand(numbers, expected):
    *logs, R, lam = numbers
    loss = error_driven_loss(*(f64(x) for x in logs), f64(R), lam)
    assert loss.shape == (1,) and abs(loss.item() - expected) < 1e-12


def random_pairs(n=16, seed=0):
    """main_pos, opp_pos, main_neg, opp_neg (n,) float64, and R (n,) with both values in it."""
    generator = torch.Generator().manual_seed(seed)
    logs = -10 * torch.rand(4, n, generator=generator, dtype=torch.float64)
    return [x.requires_grad_() for x in logs.unbind()], torch.arange(n).double() % 2


@pytest.mark.parametrize("lam", [0.1, 0.5, 5.0])
def test_gradient_is_the_formula(lam):
    """dL = -lambda sigmoid(-z) (grad log p(y|x) - R grad log p(y'|x))."""
    (main_pos, opp_pos, main_neg, opp_neg), R = random_pairs()
    error_driven_loss(main_pos, opp_pos, main_neg, opp_neg, R, lam).sum().backward()
    z = lam * ((main_pos - opp_pos) - R * (main_neg - opp_neg)).detach()
    slope = lam / (1 + torch.exp(z))
    for x, expected in ((main_pos, -slope), (main_neg, slope * R),
                        (opp_pos, slope), (opp_neg, -slope * R)):
        torch.testing.assert_close(x.grad, expected, rtol=1e-8, atol=0)


def test_gradient_is_the_finite_difference():
    logs, R = random_pairs(6)
    assert torch.autograd.gradcheck(lambda *x: error_driven_loss(*x, R, 0.5), logs)


def test_R_0_drops_the_opponents_sql_exactly():
    (main_pos, opp_pos, main_neg, opp_neg), _ = random_pairs()
    R = torch.zeros(16, dtype=torch.float64)
    loss = error_driven_loss(main_pos, opp_pos, main_neg, opp_neg, R, 0.5)
    assert torch.equal(loss, error_driven_loss(main_pos, opp_pos, -main_neg, 3 * opp_neg, R, 0.5))
    assert torch.equal(loss, logistic(0.5 * (main_pos - opp_pos)))
    loss.sum().backward()
    assert not main_neg.grad.any() and main_pos.grad.all()


# Four pairs with margins 1.6, 0.6, 1.6, 0.6, and what SPIN's and DPO's sigmoid loss gives on them:
# beta -> losses and gradients of the mean by the margin's two values, mean.
CHOSEN, REF_CHOSEN = f64(-3, -2.5, -4, -1.5), f64(-2.8, -2.3, -3.8, -1.4)
REJECTED, REF_REJECTED = f64(-5, -3.5, -6, -2.5), f64(-3.2, -2.7, -4.2, -1.8)
GOLDEN = {0.1: ((.6163438, .6635971), (-.01150213, -.01212511), .6399704),
          0.5: ((.3711007, .5543552), (-.03875319, -.05319469), .4627280),
          5.0: ((.0003354, .0485874), (-.00041919, -.05928234), .0244614)}


@pytest.mark.parametrize("beta", GOLDEN)
def test_R_1_is_spin_and_dpo(beta):
    losses, gradients, mean = GOLDEN[beta]
    chosen, rejected = CHOSEN.clone().requires_grad_(), REJECTED.clone().requires_grad_()
    loss = error_driven_loss(chosen, REF_CHOSEN, rejected, REF_REJECTED, f64(1, 1, 1, 1), beta)
    margin = (chosen - rejected) - (REF_CHOSEN - REF_REJECTED)
    torch.testing.assert_close(loss, -torch.nn.functional.logsigmoid(beta * margin))
    torch.testing.assert_close(loss, f64(*losses * 2), rtol=0, atol=6e-8)
    assert abs(loss.mean().item() - mean) < 6e-8
    loss.mean().backward()
    torch.testing.assert_close(chosen.grad, f64(*gradients * 2), rtol=0, atol=6e-9)
    torch.testing.assert_close(rejected.grad, -chosen.grad)


def test_equal_models_give_log_2():
    (main_pos, _, main_neg, _), R = random_pairs()
    for lam in (0.1, 0.5, 5.0):
        loss = error_driven_loss(main_pos, main_pos, main_neg, main_neg, R, lam)
        torch.testing.assert_close(loss, torch.full_like(loss, LOG2), rtol=0, atol=1e-15)


def test_swapping_gold_and_sample_flips_the_sign():
    (main_pos, opp_pos, main_neg, opp_neg), _ = random_pairs()
    one, lam = torch.ones(16, dtype=torch.float64), 0.5
    z = lam * ((main_pos - opp_pos) - (main_neg - opp_neg))
    torch.testing.assert_close(
        error_driven_loss(main_pos, opp_pos, main_neg, opp_neg, one, lam), logistic(z))
    torch.testing.assert_close(
        error_driven_loss(main_neg, opp_neg, main_pos, opp_pos, one, lam), logistic(-z))
    torch.testing.assert_close(logistic(-z) - logistic(z), z)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_values_stay_finite(dtype):
    far = torch.tensor([0, -1e-30, -1e4, -1e4, -1e30], dtype=dtype, requires_grad=True)
    near = torch.tensor([-1e30, -1e4, -1e-30, -1e4, 0], dtype=dtype, requires_grad=True)
    for R in (torch.zeros(5, dtype=dtype), torch.ones(5, dtype=dtype)):
        loss = error_driven_loss(far, near, near, far, R, 0.5)
        slopes = torch.autograd.grad(loss.sum(), (far, near))
        assert loss.isfinite().all() and (loss >= 0).all()
        assert all(slope.isfinite().all() for slope in slopes)
    assert logistic(torch.tensor(-1e4, dtype=dtype)).item() == 1e4
    assert logistic(torch.tensor(1e4, dtype=dtype)).item() == 0


def test_permuting_the_batch_permutes_the_losses():
    logs, R = random_pairs()
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    loss = error_driven_loss(*logs, R, 0.5)
    assert torch.equal(error_driven_loss(*(x[order] for x in logs), R[order], 0.5), loss[order])


UP, DOWN = math.exp(0.5), math.exp(-0.5)
# log p - old log p, advantage, beta -> loss and its gradient by log p.  Between 0.8 and 1.2 times
# the old probability the gain is ratio * advantage; where it would gain by going further, flat.
PPO_BY_HAND = [
    (0.5, 0.5, 0.0, -0.6, 0.0),                                # likelier than 1.2: enough
    (0.5, -0.5, 0.0, 0.5 * UP, 0.5 * UP),                      # a loser became likelier: down
    (-0.5, 0.5, 0.0, -0.5 * DOWN, -0.5 * DOWN),                # a winner became less likely: up
    (-0.5, -0.5, 0.0, 0.4, 0.0),                               # below 0.8: enough
    (0.1, 0.75, 0.0, -0.75 * math.exp(0.1), -0.75 * math.exp(0.1)),
    (0.0, -0.25, 3.0, 0.25, 0.25),                             # at the start KL has no slope
    (0.5, 0.5, 2.0, -0.6 + 2 * (UP - 1.5), 2 * (UP - 1)),      # KL brings back from both sides
    (-0.5, 0.0, 2.0, 2 * (DOWN - 0.5), 2 * (DOWN - 1)),
]


@pytest.mark.parametrize("log_ratio, advantage, beta, value, slope", PPO_BY_HAND)
def test_ppo_by_hand(log_ratio, advantage, beta, value, slope):
    main = f64(log_ratio - 7).requires_grad_()
    loss = ppo_loss(main, f64(-7), f64(advantage), beta)
    loss.sum().backward()
    assert loss.shape == (1,) and abs(loss.item() - value) < 1e-12
    assert abs(main.grad.item() - slope) < 1e-12


def test_ppo_stays_finite():
    main = torch.tensor([0.0, -1e4], requires_grad=True)
    loss = ppo_loss(main, torch.tensor([-1e4, 0.0]), torch.tensor([0.5, -0.5]), 2.0)
    loss.sum().backward()
    assert loss.isfinite().all() and main.grad.isfinite().all()


# ---------------------------------------------------------------------------------------------
# Through the real prompts, packing and log-probabilities, with a tiny random model in float32

SCHEMA = "animal(animal_id number key, name text, kind text, age number)"
QUESTIONS = [f"animals {word} {n}" for word in ("over", "under") for n in (2, 4, 7)]
GOLDS = [f"SELECT name FROM animal WHERE age {op} {n}" for op in "><" for n in (2, 4, 7)]


@pytest.fixture
def tiny(tokenizer):
    """A random model, spread wide enough that its log-probabilities differ."""
    config = lm.ModelConfig.tiny(tokenizer.core.get_vocab_size(), eos=(tokenizer.end,))
    model = lm.random_model(config, seed=3)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4 if p.dim() == 2 else 1)
    return model


@pytest.fixture
def games(tokenizer):
    """Six pairs of two databases: gold and sample behind prompts of different lengths; the last
    sample was cut off; R is 1 and 0 by turns."""
    items = []
    for i, (question, gold) in enumerate(zip(QUESTIONS, GOLDS)):
        prompt = f"{SCHEMA * (1 + i % 2)}\nquestion: {question}\nsql:\n"
        sample = Sample(tokenizer.encode("SELECT kind" + ", age" * i),
                        tokenizer.end if i < 5 else None)
        items.append(Pair(f"db{i % 2}", tokenizer.prompt(prompt),
                          tokenizer.encode(gold) + [tokenizer.end], sample.scored, R=float(i % 2)))
    return items


def naive_logprobs(model, sequences):
    """Each sequence alone in its row, the whole (T, V) of logits, and Python's own sum."""
    sums = []
    for ids, n in sequences:
        T = len(ids)
        mask = torch.ones(T, T, dtype=torch.bool).tril()[None, None]
        hidden = model(torch.tensor([ids]), torch.arange(T)[None], [mask])[0]
        logp = (hidden @ model.head.T).log_softmax(-1)
        sums.append(sum(logp[t - 1, ids[t]] for t in range(n, T)))
    return torch.stack(sums)


def every_sequence(items):
    return [s for item in items for s in item.sequences]


def logprobs(model, groups):
    return lm.sequence_logprobs(model, lm.pack(groups))


def gradients(model, loss):
    return torch.autograd.grad(loss, list(model.parameters()))


def assert_same(ours, theirs, rtol):
    """Tensors equal up to rtol of the largest element of all."""
    scale = max(x.abs().max() for x in theirs)
    assert max((a - b).abs().max() for a, b in zip(ours, theirs)) <= rtol * scale


def test_log_probs_are_the_naive_sums_in_value_and_gradient(tiny, games):
    packed = logprobs(tiny, [every_sequence(games[::2]), every_sequence(games[1::2])])
    naive = naive_logprobs(tiny, every_sequence(games[::2] + games[1::2]))
    torch.testing.assert_close(packed, naive, rtol=0, atol=2e-4)
    assert naive.std() > 10                             # the sums differ by far more than that
    weights = torch.linspace(-1, 1, len(naive))
    assert_same(gradients(tiny, packed @ weights), gradients(tiny, naive @ weights), 1e-4)


def test_order_of_a_batch_is_kept(tiny, games):
    order = [3, 0, 5, 1, 4, 2]
    shuffled = [games[i] for i in order]
    before = logprobs(tiny, [item.sequences for item in games]).view(-1, 2)
    one_row_each = logprobs(tiny, [item.sequences for item in shuffled]).view(-1, 2)
    one_row = logprobs(tiny, [every_sequence(shuffled)]).view(-1, 2)
    torch.testing.assert_close(one_row_each, before[order], rtol=0, atol=2e-4)
    torch.testing.assert_close(one_row, before[order], rtol=0, atol=2e-4)


@pytest.mark.parametrize("lam", [0.5, 5.0])
def test_play_against_itself_starts_at_log_2(tiny, games, lam):
    """The opponent's log-probabilities come from one packing, the main model's from another."""
    played = spft.with_logprobs(tiny, games)
    assert [item.sequences for item in played] == [item.sequences for item in games]
    kept = torch.tensor([item.opponent for item in played])
    fresh = logprobs(tiny, [item.sequences for item in played]).detach()
    torch.testing.assert_close(kept.flatten(), fresh, rtol=0, atol=2e-4)
    for item, log_probs in zip(played, fresh.view(-1, 2)):
        loss = self_play(lam).terms(log_probs, [item])
        assert abs(loss.item() - LOG2) < 1e-3


def test_no_pairs_have_no_log_probs(tiny):
    assert spft.with_logprobs(tiny, []) == []


def test_self_play_reads_gold_and_sample_in_their_order(tiny, games):
    played = spft.with_logprobs(tiny, games)
    logp = f64(*range(-12, 0))
    expected = error_driven_loss(
        logp[::2], f64(*(item.opponent[0] for item in played)),
        logp[1::2], f64(*(item.opponent[1] for item in played)),
        f64(*(item.R for item in played)), 0.5)
    assert abs(self_play(0.5).terms(logp, played).item() - expected.sum().item()) < 1e-5


def test_ppo_reads_samples_alone(tiny, games):
    played = [replace(item, gold=None, advantage=i / 4 - 0.5)
              for i, item in enumerate(spft.with_logprobs(tiny, games))]
    assert [item.sequences for item in played] == [item.sequences[1:] for item in games]
    logp = f64(*range(-6, 0))
    expected = ppo_loss(logp, f64(*(item.opponent[1] for item in played)),
                        f64(*(item.advantage for item in played)), 0.5)
    assert abs(ppo(0.5).terms(logp, played).item() / expected.sum().item() - 1) < 1e-5


# ---------------------------------------------------------------------------------------------
# One step of `fit`, however it is cut up

@pytest.fixture
def step(tiny, games, monkeypatch):
    """step(chunks of game numbers, loss, budget) -> weights after one step of `fit`.

    Plain gradient descent stands in for AdamW, which makes a full step of a gradient that is only
    rounding (a key's bias has none other)."""
    monkeypatch.setattr(spft.torch.optim, "AdamW",
                        lambda params, lr, **options: torch.optim.SGD(params, lr))
    played = [replace(item, opponent=(item.opponent[0] + i, item.opponent[1] - 2))
              for i, item in enumerate(spft.with_logprobs(tiny, games))]
    start = {k: v.clone() for k, v in tiny.state_dict().items()}

    def run(chunks, loss="spft", budget=10**6):
        tiny.load_state_dict(start)
        change, terms = {"sft": ({"sample": None}, SUPERVISED), "spft": ({}, self_play(0.5)),
                         "ppo": ({"gold": None, "advantage": 0.5}, ppo(0.5))}[loss]
        pairs = [replace(p, **change) for p in played]
        spft.fit(tiny, [[[pairs[i] for i in chunk] for chunk in chunks]], terms, 0.1, "step",
                 Config(micro_tokens=budget, bf16=0), warmup=0)
        assert not torch.equal(tiny.head, start["model.embed_tokens.weight"])
        return [v - start[k] for k, v in tiny.state_dict().items()]
    return run


@pytest.mark.parametrize("loss", ["spft", "sft", "ppo"])
@pytest.mark.parametrize("budget", [1, 300, 1000])
def test_micro_batches_leave_the_step_unchanged(step, loss, budget):
    chunks = [[0, 2], [4], [1, 3], [5]]
    assert_same(step(chunks, loss, budget), step(chunks, loss), 1e-4)


def test_micro_batches_that_do_not_fit_the_memory_are_halved(step, monkeypatch, capsys):
    expected, scored = step([[0, 2], [4], [1, 3, 5]]), spft.micro_loss

    def little(model, loss, total, micro, most=2):
        if sum(map(len, micro)) > most:
            raise torch.OutOfMemoryError
        return scored(model, loss, total, micro)
    monkeypatch.setattr(spft, "micro_loss", little)
    assert_same(step([[0, 2], [4], [1, 3, 5]]), expected, 1e-4)
    assert capsys.readouterr().out.count("tokens are cut in two") == 3
    monkeypatch.setattr(spft, "micro_loss", partial(little, most=0))
    with pytest.raises(DataError, match=r"no memory for a pair of \d+ tokens"):
        step([[0]])


@pytest.mark.parametrize("loss", ["spft", "sft", "ppo"])
@pytest.mark.parametrize("chunks", [
    [[0, 1, 2, 3, 4, 5]],               # one row
    [[0, 2, 4], [1, 3, 5]],             # a row for each database: long shared prefixes
    [[5], [4, 3], [2, 1, 0]],
])
def test_packing_and_padding_leave_the_step_unchanged(step, loss, chunks):
    assert_same(step(chunks, loss), step([[0], [1], [2], [3], [4], [5]], loss), 1e-4)


@pytest.mark.parametrize("game", [0, 1])
def test_a_step_raises_gold(step, games, tiny, game):
    """R = 0: gold alone goes up; R = 1: gold goes up against the sample."""
    before = logprobs(tiny, [list(games[game].sequences)])
    step([[game]])
    gold, sample = (logprobs(tiny, [list(games[game].sequences)]) - before).tolist()
    assert gold > (sample if games[game].R else 0)


def test_training_weighs_the_scored_tokens():
    assert SUPERVISED.weight(Pair("db", [1, 2, 3], [4, 5])) == 2
    assert self_play(1.0).weight(Pair("db", [1, 2, 3], [4, 5], [6])) == 1


# ---------------------------------------------------------------------------------------------
# What is scored

def test_answer_tokens_and_one_end_are_scored(tokenizer):
    prompt, sql = f"{SCHEMA}\nquestion: how many\nsql:\n", "SELECT COUNT(*) FROM animal"
    answer, end = tokenizer.encode(sql), tokenizer.end
    cut, ended, other = (Sample(answer[:4], token) for token in (None, end, end + 7))
    for given, scored in ((ended, answer[:4] + [end]), (cut, answer[:4]),
                          (other, answer[:4] + [end + 7]),        # the model may stop at several
                          (Sample([], end), [end]), (Sample([]), [])):
        pair = Pair("db", tokenizer.prompt(prompt), answer + [end], given.scored)
        for (ids, n), expected in zip(pair.sequences, (answer + [end], scored), strict=True):
            assert ids[:n] == tokenizer.prompt(prompt) and ids[n:] == expected
            assert lm.pack([[(ids, n)]]).target.tolist() == expected
    assert end not in tokenizer.prompt(prompt) + answer


def test_packing_scores_what_each_sequence_scores(games):
    sequences = every_sequence(games)
    batch = lm.pack([sequences[:4], sequences[4:]])
    for k, (ids, n) in enumerate(sequences):
        assert batch.target[batch.owner == k].tolist() == ids[n:]
    assert sum(len(ids) - n for ids, n in sequences) == len(batch.target)
    assert torch.equal(batch.ids.flatten()[batch.source[batch.owner == 0]],
                       torch.tensor(sequences[0][0][sequences[0][1] - 1:-1]))


def test_a_rows_length_is_known_before_it_is_packed(games):
    """But for padding, of 0s, up to a multiple of 16; a prefix that ends early counts once."""
    for chunk in ([games[0]], games[::2], games[1::2], games):
        batch, length = lm.pack([every_sequence(chunk)]), packed_length(chunk)
        assert not batch.ids[0, length:].any() and batch.ids[0, length - 1] == chunk[-1].sample[-1]
        assert 0 <= batch.ids.shape[1] - length < 16


def test_an_unfinished_sample_has_no_end_token(games, tokenizer):
    ids, n = games[5].sequences[1]
    assert tokenizer.end not in ids[n:]
    ids, n = games[4].sequences[1]
    assert ids[n:].count(tokenizer.end) == 1 and ids[-1] == tokenizer.end


def test_no_gradient_at_places_that_predict_the_prompt(tiny, games):
    """Hidden states matter from the prompt's last token to the answer's last but one."""
    seen = []
    handle = tiny.register_forward_hook(lambda model, given, hidden: seen.append(hidden))
    ids, n = games[0].sequences[0]
    loss = -logprobs(tiny, [[(ids, n)]]).sum()
    handle.remove()
    slopes, = torch.autograd.grad(loss, seen)
    places = slopes[0].abs().sum(-1).nonzero().flatten().tolist()
    assert places == list(range(n - 1, len(ids) - 1))


def test_a_prompt_is_never_a_label(tiny, games):
    """The same answer scored behind a prompt whose early tokens changed: its own labels only."""
    ids, n = games[0].sequences[0]
    other = [(x + 1) % 50 + 1 for x in ids[:n]] + ids[n:]
    batch, changed = lm.pack([[(ids, n)]]), lm.pack([[(other, n)]])
    assert torch.equal(batch.target, changed.target) and torch.equal(batch.source, changed.source)
    torch.testing.assert_close(logprobs(tiny, [[(other, n)]]), naive_logprobs(tiny, [(other, n)]),
                               rtol=0, atol=2e-4)


def test_log_probs_are_never_above_0(tiny):
    rng = random.Random(0)
    sequences = [([rng.randrange(1, 300) for _ in range(9)], 4) for _ in range(20)]
    assert (logprobs(tiny, [[s] for s in sequences]) < 0).all()
