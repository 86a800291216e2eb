"""Kills a run at random moments with SIGKILL, continues it, and compares it with one left alone.

    python tests/bench/bench_resume.py --kills 20
    python tests/bench/bench_resume.py --kills 20 --signal TERM

The whole method in the tests' miniature world. Prints the moment of each kill, what the run
directory held then, and whether the continued run has the same weights (SHA-256) and results.json
(seconds apart). The exit code is 1 where one differs.
"""

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from conftest import SETTINGS, write_base, write_world  # noqa: E402


def start(folder, out):
    settings = {**SETTINGS, "data": folder / "data", "model": folder / "model", "out": out}
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen([sys.executable, str(ROOT / "spft.py"), *words],
                            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    error = process.communicate()[1]
    if process.returncode:
        sys.exit(f"the run ended with exit code {process.returncode}: {error}")


def fingerprint(out):
    """{file: hash} of all weights, and results.json without its seconds."""
    found = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted(out.rglob("*.safetensors"))}
    rows = json.loads((out / "results.json").read_text())
    return found, [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--signal", choices=("KILL", "TERM", "INT"), default="KILL")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, same = random.Random(options.seed), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_world(folder / "data")
        write_base(folder / "model")
        began = time.time()
        finish(start(folder, folder / "whole"))
        length, right = time.time() - began, fingerprint(folder / "whole")
        first = (folder / "whole" / "config.json").stat().st_mtime - began
        print(f"left alone: {length:.1f} s, its first file after {first:.1f} s, "
              f"{len(right[0])} checkpoints")
        for kill in range(options.kills):
            out = folder / f"killed-{kill}"
            part = (kill + rng.random()) / options.kills                # one in each twentieth
            moment = first + (length - first) * part
            process = start(folder, out)
            try:
                process.wait(moment)
            except subprocess.TimeoutExpired:
                process.send_signal(getattr(signal, f"SIG{options.signal}"))
            process.communicate()
            held = [str(p.relative_to(out)) for kind in ("candidate.json", "fit.state", "*-0.jsonl")
                    for p in sorted(out.glob(f"*/{kind}"))]
            finish(start(folder, out))
            equal = fingerprint(out) == right
            same += equal
            print(f"kill {kill + 1:2} after {moment:5.1f} s, {'same' if equal else 'DIFFERENT'}; "
                  f"it held {', '.join(held) or 'nothing'}", flush=True)
    print(f"{same} of {options.kills} runs ended with the same weights and results")
    return int(same < options.kills)


if __name__ == "__main__":
    sys.exit(main())
