"""Any number of processes makes the run that one makes: the same questions, answers, verdicts and,
but for rounding, weights.  On CPUs, by gloo."""

import json
import os
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT, rows
from safetensors.torch import load_file

LINE = ["base", "sft", "vbift-1", "selfplay-1"]
MODES = {"lora": ("--lora", 4), "full": ("--lora", 0), "shard": ("--lora", 0, "--shard", 1)}
# Float32 and few steps: rounding, which the number of processes does change, stays small.
SHORT = ("--stage", "selfplay", "--bf16", 0, "--sft_epochs", 1, "--epochs", 1, "--rounds", 1,
         "--synthetic", 18, "--lr", 1e-3, "--vbift_lr", 1e-3, "--selfplay_lr", 1e-3,
         "--max_new", 30)


def torchrun(ranks, arguments, *words, cwd, script=ROOT / "spft.py"):
    """One command on so many processes of this machine; it must end within two minutes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               str(ranks), str(script), *arguments, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240,
                          env=os.environ | {"OMP_NUM_THREADS": "1", "PATHS": f"{ROOT}"})


@pytest.fixture(scope="module")
def taught(cli, tmp_path_factory):
    """A model that answers: what it writes ends, and is sometimes right."""
    out = tmp_path_factory.mktemp("taught") / "run"
    assert cli("--stage", "sft", "--out", out, "--test", 0)[0] == 0
    return out / "sft"


@pytest.fixture(scope="module")
def alone(cli, taught, tmp_path_factory):
    """alone(lora) is the run directory of one process."""
    made = {}

    def run(lora):
        if lora not in made:
            made[lora] = tmp_path_factory.mktemp("alone") / "run"
            code, _, stderr = cli(*SHORT, "--model", taught, "--lora", lora, "--out", made[lora])
            assert code == 0, stderr
        return made[lora]
    return run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("ranks", [2, 4])
def test_processes_make_the_run_of_one(ranks, mode, alone, taught, arguments, tmp_path):
    one, many = alone(MODES[mode][1]), tmp_path / "many"
    process = torchrun(ranks, arguments, *SHORT, "--model", taught, *MODES[mode], "--out", many,
                       cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    synthetic = rows(one / "vbift-1/synthetic.jsonl")
    assert len({row["part"] for row in synthetic}) > 1
    assert rows(many / "vbift-1/synthetic.jsonl") == synthetic
    played, expected = (rows(out / "selfplay-1/pairs.jsonl")[1:] for out in (many, one))
    assert [{**row, "opponent": None} for row in played] == [
        {**row, "opponent": None} for row in expected]
    torch.testing.assert_close(*(torch.tensor([row["opponent"] for row in part])
                                 for part in (played, expected)), rtol=1e-3, atol=2e-3)
    for name in LINE:
        for split in ("val", "test"):
            assert rows(many / name / f"{split}.jsonl") == rows(one / name / f"{split}.jsonl")
        if name != "base":
            theirs = load_file(many / name / "model.safetensors")
            for key, weight in load_file(one / name / "model.safetensors").items():
                torch.testing.assert_close(theirs[key], weight, rtol=0, atol=5e-4)
    ours, theirs = (json.loads((out / "results.json").read_text()) for out in (one, many))
    assert [row["ex"] for row in ours] == [row["ex"] for row in theirs]


@pytest.mark.parametrize("mode", MODES)
def test_a_rank_without_work_waits_in_every_stage(mode, taught, arguments, tmp_path):
    """One question a split, and four processes."""
    process = torchrun(4, arguments, *SHORT, "--model", taught, *MODES[mode], "--limit", 1,
                       "--out", "run", cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    found = json.loads((tmp_path / "run/results.json").read_text())
    assert [row["model"] for row in found][::2] == LINE and {row["n"] for row in found} == {1}


# Where the last rank dies: (module, function, at which call).
DEATHS = {"in training": ("spft", "step_gradients", 2), "in sampling": ("model", "generate", 1)}


@pytest.mark.parametrize("mode", ["full", "shard"])
@pytest.mark.parametrize("place", DEATHS)
def test_a_rank_that_dies_ends_all(place, mode, taught, arguments, tmp_path):
    """Without a word, in the middle of a step or of sampling; the others do not wait for long, and
    nothing counts as finished."""
    module, function, call = DEATHS[place]
    (tmp_path / "dying.py").write_text(
        "import os, sys; sys.path.insert(0, os.environ['PATHS'])\n"
        f"import spft, {module}\n"
        f"calls, real = [], {module}.{function}\n"
        "def dying(*arguments, **options):\n"
        "    calls.append(1)\n"
        f"    if os.environ['RANK'] == '1' and len(calls) == {call}: os._exit(9)\n"
        "    return real(*arguments, **options)\n"
        f"{module}.{function} = dying\n"
        "sys.exit(spft.main())\n")
    started = time.monotonic()
    process = torchrun(2, arguments, *SHORT, "--model", taught, *MODES[mode], "--out", "run",
                       cwd=tmp_path, script=tmp_path / "dying.py")
    assert process.returncode != 0 and "exitcode  : 9" in process.stderr
    assert time.monotonic() - started < 120
    assert not (tmp_path / "run/sft/candidate.json").exists()
