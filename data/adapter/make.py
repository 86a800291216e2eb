"""Writes an adapter as it is shipped: that of a run in bfloat16, its base by hub id.

    python -m data.adapter.make RUN/CANDIDATE/adapter --base Qwen/Qwen2.5-Coder-0.5B-Instruct
"""

import argparse
import sys
from pathlib import Path

import torch

import model as lm
from data.report.files import write_json
from data.report.terminal import run_command

HERE = Path(__file__).resolve().parent


def ship(source, folder, base):
    """Round the adapter in `source` to bfloat16, into `folder`; base: what its config points to.
    DataError where there is no adapter."""
    settings = lm.read_json(source / lm.ADAPTER_CONFIG)
    tensors = {key: tensor.to(torch.bfloat16)
               for key, tensor in lm.read_tensors(source / lm.ADAPTER_WEIGHTS, "cpu")}
    folder.mkdir(parents=True, exist_ok=True)
    lm.write_tensors(tensors, folder / lm.ADAPTER_WEIGHTS)
    write_json(folder / lm.ADAPTER_CONFIG, {**settings, "base_model_name_or_path": base})


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m data.adapter.make",
                                     description=__doc__.split("\n")[0], allow_abbrev=False)
    parser.add_argument("source", type=Path, help="an adapter's folder")
    parser.add_argument("--base", required=True, help="hub id of its base model")
    parser.add_argument("--out", type=Path, default=HERE, help="folder to write (data/adapter)")
    options = parser.parse_args(arguments)
    return run_command("make.py", lambda: ship(options.source, options.out, options.base))


if __name__ == "__main__":
    sys.exit(main())
