"""What makes questions here and in data/demo: chance, a little English, and the rows of a query."""

import re

from data.sql import quote_name
from sqlexec import DataError

IRREGULAR = {"person": "people", "child": "children", "man": "men", "woman": "women",
             "foot": "feet", "mouse": "mice", "staff": "staff", "series": "series",
             "species": "species", "goose": "geese", "tooth": "teeth", "sheep": "sheep",
             "fish": "fish", "aircraft": "aircraft", "leaf": "leaves", "wolf": "wolves",
             "shelf": "shelves", "knife": "knives", "life": "lives", "wife": "wives",
             "experience": "experience"}


def plural(phrase, irregular=IRREGULAR):
    """'home town' -> 'home towns', 'number of seats' -> 'numbers of seats'."""
    head, tail = re.fullmatch("(.*?)( (?:of|in|on|per) .*)?", phrase).groups("")
    stem, _, word = head.rpartition(" ")
    if word in irregular:
        word = irregular[word]
    elif re.search(r"[^aiousy]s$", word) and word != "lens":
        pass                                           # votes, headquarters: plural as they are
    elif re.search(r"(s|x|z|ch|sh)$", word):
        word += "es"
    elif re.search(r"[^aeiou]y$", word):
        word = word[:-1] + "ies"
    else:
        word += "s"
    return (stem + " " + word).strip() + tail


def listing(words):
    """'a, b and c'"""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def with_articles(text):
    """'a' becomes 'an' where the next word begins with a vowel."""
    vowel = r"[aeioAEIO8]|u(?!n[ai]|s)"
    return re.sub(rf"\ba (?={vowel})(?!(?:and|or|in|of)\b)", "an ", text)


def read_sections(path):
    """A text file as {section: lines}; [name] starts a section and # a comment line."""
    if not path.is_file():
        raise DataError(f"{path}: the word lists are missing")
    sections, current = {}, None
    for line in map(str.strip, path.read_text(encoding="utf-8").splitlines()):
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            if current is None:
                raise DataError(f"{path}: text before the first section")
            current.append(line)
    return sections


class Reject(Exception):
    """The draw makes no sensible question; the caller draws again."""


def reject_if(condition):
    """Give the draw up if the condition holds."""
    if condition:
        raise Reject


class Chance:
    """Choices drawn from `rng`."""

    def __init__(self, rng=None):
        self.rng = rng

    def pick(self, items):
        items = list(items)
        reject_if(not items)
        return self.rng.choice(items)

    def maybe(self, share):
        return self.rng.random() < share


class Selection:
    """Rows of a table under conditions, perhaps in groups, and the query for them. A source is
    (table, joined to which source, that one's column, own column); the first is what the question
    is about."""

    where = ""               # SQL after WHERE, or ''
    by = ""                  # SQL after GROUP BY, or ''
    many = False             # the joins may repeat a row

    def __init__(self, table):
        self.sources = [(table, 0, "", "")]

    def follow(self, steps):
        """Join along steps (table, column there from, own column, ...); the last one's number."""
        at = 0
        for table, left, right, *_ in steps:
            self.sources.append((table, at, left, right))
            at = len(self.sources) - 1
        return at

    def col(self, column, at=0):
        name = quote_name(column)
        return name if len(self.sources) == 1 else f"T{at + 1}.{name}"

    def cols(self, columns):
        return ", ".join(self.col(c) for c in columns)

    def sql(self, select, rest=""):
        (table, *_), *joined = self.sources
        text = f"SELECT {select} FROM {quote_name(table)}" + " AS T1" * bool(joined)
        for i, (table, at, left, right) in enumerate(joined, 2):
            text += (f" JOIN {quote_name(table)} AS T{i} "
                     f"ON T{at + 1}.{quote_name(left)} = T{i}.{quote_name(right)}")
        clauses = ("WHERE", self.where), ("GROUP BY", self.by), ("", rest)
        return " ".join([text, *(f"{word} {part}".lstrip() for word, part in clauses if part)])
