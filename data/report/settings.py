"""Settings: a dataclass is the command line, and what a run directory was made with.

    option(default, text, ...)              a setting
    parse_settings(Settings, ...)           an instance from the command line
    group_of(Settings, groups, name)        the group that a setting belongs to
"""

import argparse
import math
import re
import sys
from dataclasses import field, fields

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
    return Settings(**found)


def group_of(Settings, groups, name):
    """The group of a setting, which begins at a field that `groups` names; "" of no setting."""
    names = [f.name for f in fields(Settings)]
    before = names[:names.index(name) + 1] if name in names else []
    return next((groups[n] for n in reversed(before) if n in groups), "")
