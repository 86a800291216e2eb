"""The paper's comparisons over seeds, in a world of two databases."""

import io
import json
import sys
from contextlib import redirect_stderr, redirect_stdout

import pytest
import torch
from conftest import ROOT, content, rows

sys.path.insert(0, str(ROOT / "tests/bench"))
import spider  # noqa: E402
from experiment import SYSTEMS, main, paired_gain  # noqa: E402


@pytest.fixture(scope="module")
def run(arguments):
    """run(words...) in this process: (exit code, stdout, stderr)."""
    def call(*words):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*arguments, *map(str, words)])
        return code or 0, out.getvalue(), err.getvalue()
    return call


@pytest.fixture(scope="module")
def experiment(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment") / "all"
    words = ["--seeds", 2, "--rounds", 1, "--sft_epochs", 10, "--out", out]
    code, stdout, stderr = run(*words)
    assert (code, stderr) == (0, "")
    return out, stdout, words


def test_an_experiment_compares_every_system(experiment):
    out, stdout, _ = experiment
    result = json.loads((out / "experiment.json").read_text())
    assert [row["system"] for row in result["systems"]] == list(SYSTEMS)
    for row in result["systems"]:
        end, line, control = SYSTEMS[row["system"]]
        shares = []
        for seed in range(2):
            folder = out / f"seed-{seed}{end}"
            name = line if line in ("base", "sft") else f"{line}-1"
            answers = rows(folder / name / "test.jsonl")
            shares.append(100 * sum(r["correct"] for r in answers) / len(answers))
        assert row["by seed"] == pytest.approx(shares)
        assert row["ex"] == pytest.approx(sum(shares) / 2, abs=0.01)
        assert (control is None) == ("gain" not in row)
        if control:
            start = next(r["ex"] for r in result["systems"] if r["system"] == control)
            assert row["gain"] == pytest.approx(row["ex"] - start, abs=0.02)
            assert row["low"] <= row["gain"] <= row["high"]
    assert [len(line) for line in result["rounds"].values()] == [1] * 5
    assert result["cost"]["sft"] == 1 and set(result["consistency"]) == {"sft", "vbift-1"}
    assert (out / "report.md").read_text().partition("\n![")[0].strip() in stdout


def test_seeds_that_ran_are_not_run_again(experiment, run, idle):
    out, _, words = experiment
    before = {path: data for path, data in content(out).items() if path.suffix != ".png"}
    assert run(*words)[0] == 0
    assert {path: data for path, data in content(out).items() if path.suffix != ".png"} == before
    assert run(*words, "--seed", 1, "--seeds", 1)[0] == 0            # one of them alone
    both, one = (json.loads(text) for text in (before[out / "experiment.json"],
                                               (out / "experiment.json").read_text()))
    assert [row["by seed"] for row in one["systems"]] == [
        row["by seed"][1:] for row in both["systems"]]


def test_a_paired_gain_is_the_mean_difference_and_its_bootstrap_interval():
    """Against the normal interval of a difference of shares, one seed."""
    torch.manual_seed(0)
    b = (torch.rand(1, 400) < 0.5).float()
    a = torch.where(torch.rand(1, 400) < 0.2, torch.ones(1), b)
    gain, low, high = paired_gain(a, b, range(400))
    error = 100 * float((a - b).std()) / 20
    assert gain == pytest.approx(100 * float((a - b).mean()), abs=0.01)
    assert (low, high) == pytest.approx((gain - 1.96 * error, gain + 1.96 * error), abs=0.3)
    assert paired_gain(a, a, range(400)) == (0, 0, 0)


def test_questions_with_one_query_are_not_independent():
    """Each query asked four times with one verdict: the interval is that of the queries alone."""
    torch.manual_seed(0)
    b = (torch.rand(1, 100) < 0.5).float()
    a = torch.where(torch.rand(1, 100) < 0.2, torch.ones(1), b)
    once = paired_gain(a, b, range(100))
    again = paired_gain(a.repeat(1, 4), b.repeat(1, 4), list(range(100)) * 4)
    assert again == pytest.approx(once, abs=0.01)


def test_the_table_of_a_run_is_that_of_its_verdicts(experiment, arguments, tmp_path, monkeypatch):
    settings = dict(zip(arguments[::2], arguments[1::2]))
    words = ["--run", experiment[0] / "seed-0", "--data", settings["--data"], "--out", tmp_path,
             "--splits", "test", "val", "--samples", 1, 2, "--candidates", "base", "sft",
             "selfplay-1", "--threads", 1, "--decode_batch", 8]
    monkeypatch.setattr(sys, "argv", ["spider.py", *map(str, words)])
    with redirect_stdout(io.StringIO()) as out:
        spider.main()
    found = json.loads((tmp_path / "spider.json").read_text())
    assert [(r["model"], r["samples"]) for r in found] == [
        (name, n) for n in (1, 2) for name in ("base", "sft", "selfplay-1")]
    by_run = {name: rows(experiment[0] / f"seed-0/{name}/test.jsonl") for name in ("base", "sft")}
    for row, name in zip(found, by_run):
        assert row["test"]["ex"] == pytest.approx(100 * sum(
            r["correct"] for r in by_run[name]) / len(by_run[name]), abs=0.06)
        assert row["test"]["low"] <= row["test"]["ex"] <= row["test"]["high"]
    sft = found[1]
    assert sft["gain"][1] <= sft["gain"][0] <= sft["gain"][2]
    assert f"| sft | greedy | {sft['val']} | {sft['test']['ex']} (" in out.getvalue()
    assert len(rows(tmp_path / "predictions.jsonl")) == sum(
        row[split]["n"] for row in found for split in ("test", "val"))
