"""Settings: a dataclass is the command line, and what a run directory was made with."""

import argparse
import math
import re
import sys
from dataclasses import field, fields
from pathlib import Path

from data.report.tables import recommended
from data.report.terminal import fail
from sqlexec import DataError


def option(default, text, least=0, most=math.inf, kind=None):
    """A setting; least, most: the bounds of a number; kind: its type where the default is None."""
    return field(default=default, metadata={"help": text, "least": least, "most": most,
                                            "kind": kind or type(default)})


def parse_settings(Settings, choices, groups, description, arguments=None):
    """An instance of the dataclass, whose field `question` stands without a name.  --a-b is --a_b.
    A wrong word ends in one clear line and exit code 2; DataError for a value out of bounds."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    parser.error = lambda message: sys.exit(fail("spft.py: ", message))
    for f in fields(Settings):
        if f.name in groups:
            group = parser.add_argument_group(groups[f.name])
        name, options = (f.name, {"nargs": "?"}) if f.name == "question" else (f"--{f.name}", {})
        default = "by the size of the model" if f.default is None else f.default
        group.add_argument(name, type=f.metadata["kind"], default=f.default, **options,
                           help=f"{f.metadata['help']} ({default})")
    words = [re.sub(r"^--[\w-]+", lambda name: "--" + name[0][2:].replace("-", "_"), word)
             for word in (sys.argv[1:] if arguments is None else arguments)]
    found = vars(parser.parse_args(words))
    for f in fields(Settings):
        value, low, high = found[f.name], f.metadata["least"], f.metadata["most"]
        if f.name in choices and value not in choices[f.name]:
            raise DataError(f"--{f.name} {value}: choose from {', '.join(choices[f.name])}")
        if isinstance(value, (int, float)) and not (low <= value <= high and math.isfinite(value)):
            raise DataError(f"--{f.name} {value}: " + (
                f"choose from {low} to {high}" if high < math.inf else f"{low} or more"))
    if (word := found["question"]) and found["stage"] != "ask":
        raise DataError(f"{word!r} stands alone: for a " + (
            f"stage write --stage {word}" if word in choices["stage"] else
            "question write --stage ask --db FILE"))
    return Settings(**found)


def group_of(Settings, groups, name):
    """The group of a setting, which begins at a field that `groups` names; "" of no setting."""
    names = [f.name for f in fields(Settings)]
    before = names[:names.index(name) + 1] if name in names else []
    return next((groups[n] for n in reversed(before) if n in groups), "")


# Settings that change nothing of what a run directory holds already.
FREE = ("stage", "data", "model", "base_model", "out", "timeout", "decode_batch", "micro_tokens",
        "recompute", "device", "threads", "keep", "loss", "test", "split", "db", "samples",
        "question")
SAID = ("data", "model")       # but said there; their content decides
# Settings whose defaults depend on the size of --model: up to so many millions of parameters.
RECIPES = {
    50: {"lora": 0, "sft_epochs": 5.0, "lr": 2e-3, "epochs": 2.5, "vbift_lr": 1e-3,
         "selfplay_lr": 3e-5},
    300: {"lora": 0, "sft_epochs": 1.0, "lr": 3e-4, "epochs": 0.5, "vbift_lr": 1e-4,
          "selfplay_lr": 2e-5},
    math.inf: {"lora": 16, "sft_epochs": 1.0, "lr": 2e-4, "epochs": 0.5, "vbift_lr": 1e-4,
               "selfplay_lr": 1.5e-5}}


def best_of_run(folder):
    """--model RUN means the candidate that the last lines of that run recommend; any other folder
    means itself."""
    chosen = recommended(Path(folder))
    if not chosen or (Path(folder) / "model.safetensors").exists():
        return folder
    name, base = chosen["name"], chosen["parent"] == "-"
    print(f"{folder} is a run; " + ("none of its candidates is clearly better than its base model"
                                    if base else "best on validation is its " + name)
          + f" (EX {chosen['ex']:.1f})")
    return chosen["folder"] if base else str(Path(folder) / name)


def by_size(parameters):
    """The settings of a checkpoint of that many parameters."""
    return next(recipe for most, recipe in RECIPES.items() if parameters <= most * 1e6)


def refuse_changes(out, before, now, group):
    """DataError where a run directory was made with other settings, and something in it depends on
    them, or where it is none: a checkpoint's config.json is not written over.  before, now:
    {setting: value}; group(name): the group of a setting."""
    if "seed" not in before:
        raise DataError(f"--out {out}: its config.json is not a run's; choose another --out")
    made = {path.name.partition("-")[0] for path in out.iterdir() if path.is_dir()}
    late = {"stage sft": not made - {"base"}, "stage vbift": not made - {"base", "sft"},
            "stage selfplay": not made - {"base", "sft", "vbift"}}        # nothing depends on these
    for key in (now.keys() & before.keys()) - set(SAID):
        more = key in ("rounds", "selfplay_rounds") and now[key] > before[key]
        if before[key] != now[key] and not more and not late.get(group(key)):
            raise DataError(f"--out {out} was made with {'--' * (' ' not in key)}{key} "
                            f"{before[key]}, not {now[key]}: choose another --out")
