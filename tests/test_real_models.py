"""Real checkpoints give transformers' token ids and logits (goldens/real_models.json).

They are folders of SPFT_MODELS, by default `models` beside the checkout.  Each is skipped where its
folder is missing: they are too large to be part of the repository.
"""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import ROOT

import model as lm
from data.prompts.tokenizer import Tokenizer

GOLDEN = json.loads((ROOT / "tests/goldens/real_models.json").read_text())
FOLDERS = Path(os.environ.get("SPFT_MODELS") or ROOT.parent / "models")
# What two ways to sum may differ by: bfloat16 has steps of 1/8 at logits of 16 to 32.
LOGITS = {"float32": 2e-3, "bfloat16": 0.5}
LOGP = {"float32": 5e-3, "bfloat16": 0.25}


@pytest.fixture(scope="module", params=GOLDEN["models"])
def folder(request):
    path = FOLDERS / request.param
    if not path.is_dir():
        pytest.skip(f"a real checkpoint, the one thing but a GPU that tests may lack: {path} is "
                    "missing (SPFT_MODELS says where else it lies)")
    return path


@pytest.fixture(scope="module")
def golden(folder):
    return GOLDEN["models"][folder.name]


@pytest.fixture(scope="module")
def model(folder, golden):
    return lm.load_pretrained(folder, dtype=getattr(torch, golden["dtype"]))


def test_texts_have_the_ids_of_transformers(folder, golden):
    tokenizer = Tokenizer(folder)
    for text, ids in zip(GOLDEN["texts"], golden["ids"], strict=True):
        assert tokenizer.encode(text) == ids, text


def test_prompts_have_the_ids_of_transformers_chat_template(folder, golden):
    tokenizer = Tokenizer(folder)
    for text, ids in zip(GOLDEN["prompts"], golden["prompts"], strict=True):
        assert tokenizer.prompt(text) == ids, text
    assert tokenizer.encode(GOLDEN["answer"]) + [tokenizer.end] == golden["answer"]


@torch.no_grad()
def test_the_next_token_has_the_logits_of_transformers(model, golden):
    """By the way of generation: half of the prompt in the cache, then the rest."""
    ids, cache = torch.tensor([golden["prompts"][0]]), lm.KVCache(model, 1, 2048)
    half, T, zero = ids.shape[1] // 2, ids.shape[1], torch.tensor([0])
    cache.advance(0, ids[:, :half], zero, zero, half)
    logits = cache.advance(0, ids[:, half:], zero + half, zero + T - half - 1, T)[0]
    most, expected = LOGITS[golden["dtype"]], torch.tensor(golden["logits"])
    torch.testing.assert_close(logits[golden["top"]], expected, rtol=0, atol=most)
    torch.testing.assert_close(logits.topk(10).values, expected, rtol=0, atol=most)
    assert float(logits.mean()) == pytest.approx(golden["mean"], abs=most)
    assert float(logits.std()) == pytest.approx(golden["std"], abs=most)


@torch.no_grad()
def test_an_answer_has_the_log_probability_of_transformers(model, golden):
    """By the way of training: packed with another answer to the same prompt."""
    prompt, answer = golden["prompts"][0], golden["answer"]
    batch = lm.pack([[(prompt + answer, len(prompt)), (prompt + answer[:3], len(prompt))]])
    logp = lm.sequence_logprobs(model, batch)[0]
    assert float(logp) == pytest.approx(golden["logp"], abs=LOGP[golden["dtype"]])
