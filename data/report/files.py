"""Files that are there whole or not at all."""

import json
import os
from contextlib import contextmanager


@contextmanager
def whole(path):
    """A temporary name to write to, which becomes path at the end; nothing is left where that
    fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    except (OSError, RuntimeError):
        temporary.unlink(missing_ok=True)
        raise


def write_text(path, text):
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path, rows):
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def first_line(path):
    with open(path, encoding="utf-8") as file:
        return json.loads(file.readline())
