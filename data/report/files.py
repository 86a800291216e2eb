"""Files that are there whole or not at all."""

import json
import os
from contextlib import contextmanager

from sqlexec import DataError


@contextmanager
def whole(path):
    """A temporary name to write to, which becomes path at the end; nothing is left where that
    fails.  Each process has its own, and of several the last rename wins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path, text):
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path, rows):
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path):
    """The JSON values of a file's lines, empty ones left out; DataError naming a malformed one."""
    values = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            values += [json.loads(line)] if line.strip() else []
        except ValueError as error:
            raise DataError(f"{path}, line {i}: not JSON ({error})") from None
    return values
