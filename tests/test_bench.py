"""The benches of training and sampling, with a model of a few thousand weights."""

import importlib.util
import json
import re
import subprocess
import sys
import types

import pytest
import torch
from conftest import ROOT

sys.path.insert(0, str(ROOT / "tests/bench"))
import bench_gpu  # noqa: E402
import bench_questions  # noqa: E402
import bench_sampling  # noqa: E402
import bench_train  # noqa: E402

import model as lm  # noqa: E402
import peers  # noqa: E402
from data.prompts.pairs import Pair  # noqa: E402
from peers import Peer, cut  # noqa: E402

PEER = importlib.util.find_spec("transformers") is not None      # measured too where it is there


@pytest.fixture
def bench(world, base, tmp_path, monkeypatch):
    """bench(module, words...) runs its main; the JSON that it writes."""
    def call(module, *words):
        path = tmp_path / "found.json"
        monkeypatch.setattr(sys, "argv", [module.__file__, *map(str, (
            "--model", base, "--data", world, "--threads", 1, "--json", path, *words))])
        module.main()
        return json.loads(path.read_text())
    return call


@pytest.mark.parametrize("lora", [2, 0])
def test_each_step_of_training_is_measured(bench, base, lora, capsys):
    found = bench(bench_train, "--lora", lora, "--steps", 3, "--sft_epochs", 4, "--lr", 1e-3,
                  *["--peer"] * PEER)
    rows, model = found["steps"], lm.load_pretrained(base)
    assert [row["step"] for row in rows] == [1, 2]                # 40 pairs in steps of about 32
    c = model.config
    weights = c.parameters - c.vocab_size * c.hidden_size
    for row in rows:
        assert row["tokens"] / row["seconds"] == pytest.approx(row["tokens/s"])
        done = row["share %"] / 100 * row["product GFLOP/s"] * 1e9 * row["seconds"]
        assert done > 2 * (2 if lora else 3) * row["tokens"] * weights
        assert 0 < row["GB"] <= row["peak GB"]
    assert found["medians"]["seconds"] == rows[1]["seconds"]
    assert len(capsys.readouterr().out.splitlines()) >= 4
    if PEER:
        assert found["peer"]["loss"] == pytest.approx(found["peer"]["peer's loss"], rel=0.01)
        assert len(found["peer"]["seconds"]) == len(found["peer"]["peer's seconds"]) == 4


def test_the_work_of_a_step_by_hand(base):
    """Two answers of 3 tokens to one prompt of 10: 16 tokens in a row, 6 scored."""
    model = lm.load_pretrained(base)
    c, prompt = model.config, list(range(10))
    pairs = [Pair("db", prompt, [20 + i] * 3) for i in range(2)]
    weights = sum(p.numel() for p in model.model.layers.parameters() if p.dim() == 2)
    head = c.vocab_size * c.hidden_size
    assert bench_train.work_of([pairs], model, 0) == (16, 6 * (16 * weights + 6 * head))
    lm.add_lora(model, 2)
    assert bench_train.work_of([pairs], model, 2) == (16, 4 * (16 * weights + 6 * head))


def test_sampling_is_measured_in_both_precisions(bench, base, world, tokenizer):
    found = bench(bench_sampling, "--split", "test", "--n", 6, "--max_new", 12, "--schema",
                  "compact", *["--peer_python", sys.executable] * PEER)
    ways = [(who, dtype) for who in ("model.py", "transformers")[:1 + PEER]
            for dtype in ("float32", "bfloat16")]
    assert [(row["who"], row["weights"]) for row in found["rows"]] == ways
    assert found["questions"] == 6 and found["rows"][0]["differ"] == 0
    for row in found["rows"]:
        assert row["tokens/s"] == pytest.approx(row["tokens"] / row["seconds"])
        assert 0 <= row["EX %"] <= 100 and row["differ"] <= 6 and row["tokens"] <= 6 * 12
    if PEER:
        assert found["rows"][2]["differ"] == 0


def test_what_a_peer_writes_ends_at_the_end_token():
    assert cut([5, 6, 2, 7], 10, [2]) == ([5, 6], 2)
    assert cut([5, 6, 2, 7], 2, [2]) == ([5, 6], None)
    assert cut(iter([5]), 2, [2]) == ([5], None)
    sample = lm.Sample(*cut([5, 2], 2, [2]))
    assert sample.finished and sample.scored == [5, 2]


def test_llama_cpp_answers_prompts_that_begin_alike_behind_each_other(monkeypatch):
    """A stand-in for llama-cpp-python: it goes on with the prompt's last token plus 1, 2, ..."""
    asked = []

    class Llama:
        def __init__(self, file, n_ctx, **options):
            assert file == "file.gguf" and n_ctx == 3 + 4 and options["n_threads"] == 1

        def generate(self, prompt, temp):
            asked.append(prompt)
            assert temp == 0
            yield from range(prompt[-1] + 1, 100)

    monkeypatch.setitem(sys.modules, "llama_cpp", types.SimpleNamespace(Llama=Llama))
    found = peers.llama_cpp_answers("file.gguf", 1, [[1, 2, 5], [3, 9], [1, 2, 8]], 4, [10, 12])
    assert asked == [[1, 2, 5], [1, 2, 8], [3, 9]] and found["seconds"] >= 0
    assert found["answers"] == [([6, 7, 8, 9], None), ([], 10), ([9], 10)]


def test_a_peer_is_a_process_that_answers_or_ends_the_bench(capfd):
    with Peer(sys.executable) as peer:
        for _ in range(2):
            assert peer("cut", tokens=[5, 2, 7], max_new=4, eos=[2]) == [[5], 2]
        with pytest.raises(SystemExit, match="no_such_function: .* ended without an answer"):
            peer("no_such_function")
    assert "KeyError" in capfd.readouterr().err


def gpu_bench(monkeypatch, path, *words):
    """(exit code, JSON or None) of bench_gpu.py."""
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--json", str(path), *words])
    return bench_gpu.main(), json.loads(path.read_text()) if path.exists() else None


def test_every_part_of_the_gpu_bench_but_the_tests_runs_on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(bench_gpu.bench_model, "DEVICE", None)            # is put back
    code, found = gpu_bench(monkeypatch, tmp_path / "found.json", "--device", "cpu", "--tiny",
                            "--parts", "1,3,4,5,6,7,8")
    assert code == 0 and list(found["parts"]) == list("1345678"), found
    rows = {bench_gpu.PARTS[int(n)].__name__: part["rows"] for n, part in found["parts"].items()}
    assert [row["T"] for row in rows["attention"]] == [704, 640] * 3
    assert all(row["error"] < row["limit"] for row in rows["numbers"])
    for row in rows["decode"]:
        assert row["tokens/s"] == pytest.approx(1e3 * row["batch"] / row["ms a step"])
    assert {row["head"] for row in rows["logprobs"]} == {"frozen", "trainable"}
    for row in rows["training"]:
        assert row["tokens/s"] == pytest.approx(row["tokens"] / row["s a step"], rel=0.1)
    for name in ("demo", "selfplay"):
        assert rows[name][-1]["model"] == "selfplay-1"


def test_a_part_that_fails_stops_no_other(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(bench_gpu.bench_model, "DEVICE", None)

    def full(bench):
        raise torch.OutOfMemoryError("no room")
    monkeypatch.setitem(bench_gpu.PARTS, 3, full)
    code, found = gpu_bench(monkeypatch, tmp_path / "found.json", "--device", "cpu", "--tiny",
                            "--parts", "3,5")
    assert code == 1 and "no room" in found["parts"]["3"]["error"]
    assert found["parts"]["5"]["rows"] and "failed: [3]" in capsys.readouterr().out


def test_the_gpu_bench_says_that_there_is_no_gpu(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    code, found = gpu_bench(monkeypatch, tmp_path / "found.json")
    assert code == 2 and found is None and len(capsys.readouterr().err.splitlines()) == 1


def test_what_is_said_of_garbled_questions_is_what_was_read(capsys):
    bench_questions.main()
    printed = capsys.readouterr().out
    precision, recall = re.findall(r"all .*precision (\d+), recall (\d+)", printed)[0]
    said = f"(of 160 that were read: precision {precision}%, recall {recall}%)"
    assert said in " ".join((ROOT / "spft.py").read_text().split())


def test_the_bench_of_the_model_runs(tmp_path):
    """Every section at sizes that take seconds; one loss on both ways to it."""
    words = ["--small", "--threads", "1", "--rounds", "1", "--json", str(tmp_path / "found.json")]
    process = subprocess.run([sys.executable, str(ROOT / "tests/bench/bench_model.py"), *words],
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    found = re.findall(r"^ *(model\.py|plain loop).* (\S+)$", process.stdout.split("== step")[1]
                       .split("==")[0], re.M)
    assert len(found) == 2 and len({loss for _, loss in found}) == 1
