"""Files that are there whole or not at all."""

import json
import os


def write_text(path, text):
    """Write through a temporary name; OSError where that fails, and then nothing is left."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    try:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path, value):
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path, rows):
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def first_line(path):
    with open(path, encoding="utf-8") as file:
        return json.loads(file.readline())
