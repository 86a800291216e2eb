"""Processes without work and processes that die, on CPUs, by gloo."""

import json
import os
import subprocess
import sys
import time

import pytest
from conftest import ROOT

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
