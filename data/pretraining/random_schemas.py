"""Random worlds: an endless source of schemas, questions and SQL for the base model.

Names and values come from an open vocabulary (words.txt, compounds, made-up words, codes), so
that a model trained here has to copy what it reads. A tenth of the words, of the syllables and
of the phrasings is held out: Lexicon(heldout=True) draws only those, for measuring.
Try `python -m data.pretraining.random_schemas --show 40`, or `--check 2000`.
"""

import argparse
import random
import re
import sqlite3
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from data.sql import literal, quote_name as quote
from data.schema import Column, Schema, Table
from sqlexec import DataError

SLOT = re.compile(r"\{(\w+)\}")
CHOICE = re.compile(r"<([^<>]*)>")
OPEN = ("noun", "adjective", "first", "last", "city", "country", "brand")  # sections of words
RUDE = re.compile(r"f[ou]+c|fuk|fag|shi?t|cun|cum|coc?k|dic?k|nig|rap|sex|tit|pis|slu|por?n|anal")
TYPES = {"year": "number", "date": "time", "datetime": "time", "clock": "time",
         "flag": "text", "bit": "boolean"}
NUMBERS = ("small", "count", "mid", "big", "money", "rate", "float")
ABBREVIATED = {"number": ("num", "no", "nbr"), "department": ("dept",), "address": ("addr",),
               "average": ("avg",), "quantity": ("qty",), "amount": ("amt",), "maximum": ("max",),
               "description": ("desc", "descr"), "account": ("acct", "acc"), "type": ("typ",),
               "minimum": ("min",), "first": ("f",), "last": ("l",), "organization": ("org",),
               "position": ("pos",), "percent": ("pct",), "reference": ("ref",), "code": ("cd",),
               "telephone": ("tel",), "category": ("cat",), "manager": ("mgr",), "year": ("yr",),
               "employee": ("emp",), "customer": ("cust",), "product": ("prod",)}
IRREGULAR = {"person": "people", "child": "children", "man": "men", "woman": "women",
             "foot": "feet", "mouse": "mice", "staff": "staff", "series": "series",
             "species": "species", "goose": "geese", "tooth": "teeth", "sheep": "sheep",
             "fish": "fish", "aircraft": "aircraft", "leaf": "leaves", "wolf": "wolves",
             "shelf": "shelves", "knife": "knives", "life": "lives", "wife": "wives"}
DIGITS = "no one two three four five six seven eight nine ten".split()


def held_out(word):
    """A stable tenth of all strings, the same in every process and on every machine."""
    return zlib.crc32(word.encode()) % 10 == 0


def plural(phrase):
    """'home town' -> 'home towns', 'number of seats' -> 'numbers of seats'."""
    head, of, rest = phrase.partition(" of ")
    stem, _, word = head.rpartition(" ")
    if word in IRREGULAR:
        word = IRREGULAR[word]
    elif re.search(r"[^aiousy]s$", word) and word != "lens":
        pass                                           # votes, headquarters: plural as they are
    elif re.search(r"(s|x|z|ch|sh)$", word):
        word += "es"
    elif re.search(r"[^aeiou]y$", word):
        word = word[:-1] + "ies"
    else:
        word += "s"
    return (stem + " " + word).strip() + of + rest


# ---------------------------------------------------------------------------------------------
# Words and phrasings

def read_sections(path):
    """words.txt as {section: lines}; '#' starts a comment line."""
    if not path.is_file():
        raise DataError(f"{path}: the word lists are missing")
    sections, current = {}, None
    for line in path.read_text(encoding="utf-8").splitlines():
        line = line.strip()
        if line.startswith("[") and line.endswith("]"):
            current = sections.setdefault(line[1:-1], [])
        elif line and not line.startswith("#"):
            if current is None:
                raise DataError(f"{path}: text before the first section")
            current.append(line)
    return sections


@dataclass(frozen=True)
class Noun:
    """How people speak of a table or a column."""
    forms: tuple             # singular, lower case; the first is the plain reading of the name
    kind: str                # of a table: person, thing or bridge; of a column: kind of values
    most: tuple = ()         # superlatives ("oldest", "youngest")
    more: tuple = ()         # comparatives ("older", "younger")
    name: str = ""           # as the schema spells it


class Lexicon:
    """Words, syllables and phrasings for training, or the disjoint ones held out for measuring.

    phrasings: draw the held-out phrasings? Left out, the same answer as for words."""

    def __init__(self, heldout, folder=None, phrasings=None):
        sections = read_sections(Path(folder or Path(__file__).parent) / "words.txt")
        self.heldout = heldout
        fresh = heldout if phrasings is None else phrasings
        texts = {k[7:]: v for k, v in sections.items() if k.startswith("phrase ")}
        self.phrases = {k: self._marked(v, fresh) for k, v in texts.items()}
        self.entities = [self._noun(line) for line in sections["entity"]]
        self.attributes = [self._noun(line) for line in sections["attribute"]]
        self.heads = [self._noun(line) for line in sections["head"]]
        # words that the phrasings or the typical names use are seen in training in any case
        common = set(re.findall(r"[a-z]+", " ".join(
            line for k, v in sections.items() if k not in OPEN for line in v).lower()))
        common |= {plural(w) for w in common} | {"true", "false"}
        words = {k: sorted(set(" ".join(sections[k]).split())) for k in OPEN}
        lowered = {w.lower() for k in OPEN for w in words[k]}
        lowered |= {part for w in lowered for part in w.split("_")}
        self.held = {w for w in lowered if held_out(w)} - common
        self.held -= {plural(w) for w in lowered - self.held}
        self.known = lowered | common
        self.words = {k: [w.replace("_", " ") for w in v if self._mine(w)]
                      for k, v in words.items()}
        self.syllables = [s for o in "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sk st t "
                          "tr v w z".split() for v in "a e i o u a e i o ai ee ou".split()
                          for c in ("", "", "", "", "n", "r", "l", "s", "m", "x", "t", "ck")
                          for s in [o + v + c] if held_out(s) == heldout]

    def _mine(self, word):
        parts = word.lower().split("_")
        mixed = any(p in self.held for p in parts)
        return all(p in self.held for p in parts) if self.heldout else not mixed

    @staticmethod
    def _marked(lines, fresh):
        """Phrasings to use: those marked with ~ (held out) or those without the mark."""
        chosen = [line.lstrip("~ ") for line in lines if line.startswith("~") == fresh]
        return chosen or [line.lstrip("~ ") for line in lines]

    @staticmethod
    def _noun(line):
        """'age | small | years of age | oldest, youngest | older, younger'"""
        name, kind, *rest = [part.strip() for part in line.split("|")]
        lists = [tuple(w.strip() for w in part.split(",") if w.strip()) for part in rest]
        synonyms, most, more = (lists + [()] * 3)[:3]
        return Noun((name, *synonyms), kind, most, more)

    def say(self, rng, section, slots):
        """A phrasing of the section: <a|b> is a choice, {x} a slot or else another section."""
        text = rng.choice(self.phrases[section])
        text = CHOICE.sub(lambda m: rng.choice(m[1].split("|")), text)

        def fill(match):
            if match[1] in slots:
                return slots[match[1]]
            part = self.say(rng, match[1], slots)
            inside = match.start() and text[match.start() - 2] != "?"
            return part[0].lower() + part[1:] if inside and part[:2] != "I " else part

        return SLOT.sub(fill, text)

    def invent(self, rng):
        """A pronounceable word that nobody has seen."""
        while True:
            word = "".join(rng.choice(self.syllables) for _ in range(rng.choice((2, 2, 2, 3))))
            if word not in self.known and not RUDE.search(word):
                return word

    def open_name(self, rng, whole=False):
        """Words of a name from the open vocabulary: plain, compound, made up or with a code."""
        noun, draw = self.words["noun"], rng.random()
        if draw < 0.42:
            return rng.choice(noun)
        if draw < 0.58:
            return rng.choice(self.words["adjective"]) + " " + rng.choice(noun)
        if draw < 0.72:
            return rng.choice(noun) + " " + rng.choice(noun)
        if draw < 0.9:
            return self.invent(rng)
        if draw < 0.985 or whole:
            return self.invent(rng) + " " + rng.choice(noun)
        return rng.choice(noun) + " " + rng.choice("bcdkxz123457")

    def value(self, rng, kind):
        """One cell value of the kind: str, int or float."""
        return VALUES[kind](self, rng)


def _title(lexicon, rng):
    words = [rng.choice(lexicon.words["noun"]) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    if rng.random() < 0.4:
        words.insert(0, rng.choice(lexicon.words["adjective"]))
    if rng.random() < 0.15:
        words[0] = lexicon.invent(rng)
    if rng.random() < 0.06:
        words.insert(0, rng.choice(lexicon.words["first"]) + "'s")
    if rng.random() < 0.15:
        words.insert(0, "The")
    text = " ".join(w if "'" in w else w.capitalize() for w in words)
    return text if rng.random() < 0.85 else text.lower()


def _word(lexicon, rng):
    pool = rng.choice(("noun", "noun", "adjective", "brand", None))
    word = rng.choice(lexicon.words[pool]) if pool else lexicon.invent(rng)
    return rng.choice((str.capitalize, str.capitalize, str.capitalize, str.lower, str.upper))(word)


def _person(lexicon, rng):
    last = rng.choice(lexicon.words["last"])
    if rng.random() < 0.25:
        last = lexicon.invent(rng).capitalize()
    if rng.random() < 0.03:
        last = "O'" + last
    first = rng.choice(lexicon.words["first"])
    if rng.random() < 0.08:
        first += " " + rng.choice("ABCDEFGHJKLMNPRSTW") + "."
    return f"{first} {last}"


def _code(lexicon, rng):
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.choice((1, 2, 3))))
    digits = str(rng.randrange(10 ** rng.choice((2, 3, 4))))
    if rng.random() < 0.1:
        return digits
    return rng.choice((letters, letters + digits, f"{letters}-{digits}", letters + letters[:1]))


def _date(lexicon, rng):
    return f"{rng.randint(1950, 2024)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def _clock(lexicon, rng):
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"


def _email(lexicon, rng):
    return f"{rng.choice(lexicon.words['first']).lower()}@{lexicon.invent(rng)}.com"


VALUES = {
    "title": _title, "word": _word, "person": _person, "code": _code, "date": _date,
    "clock": _clock, "email": _email,
    "first": lambda x, rng: rng.choice(x.words["first"]),
    "last": lambda x, rng: rng.choice(x.words["last"]),
    "city": lambda x, rng: (rng.choice(x.words["city"]) if rng.random() < 0.75
                            else x.invent(rng).capitalize()),
    "country": lambda x, rng: rng.choice(x.words["country"]),
    "brand": lambda x, rng: rng.choice(x.words["brand"]),
    "datetime": lambda x, rng: f"{_date(x, rng)} {_clock(x, rng)}:{rng.randint(0, 59):02}",
    "year": lambda x, rng: rng.randint(1900, 2024),
    "small": lambda x, rng: rng.randint(1, 99),
    "count": lambda x, rng: rng.randint(1, 20),
    "mid": lambda x, rng: rng.randint(10, 5000),
    "big": lambda x, rng: rng.choice((rng.randint(1, 99) * 1000, rng.randint(10 ** 4, 10 ** 7))),
    "money": lambda x, rng: rng.choice((rng.randint(1, 900) * 10, round(rng.uniform(1, 900), 2))),
    "rate": lambda x, rng: round(rng.uniform(0, 10), 1),
    "float": lambda x, rng: round(rng.uniform(0.1, 300), rng.choice((1, 2))),
}
FLAGS = (("Yes", "No"), ("Y", "N"), ("T", "F"), ("true", "false"), ("yes", "no"))
SEXES = (("M", "F"), ("Male", "Female"), ("male", "female"), ("m", "f"))
TEXTS = ("word", "word", "word", "title", "title", "person", "city", "country", "code", "brand")


# ---------------------------------------------------------------------------------------------
# Worlds

@dataclass(frozen=True)
class World:
    schema: Schema
    values: dict             # (table, column) -> sample values
    nouns: dict              # (table, None) or (table, column) -> Noun
    edges: tuple             # (child, column, parent, column, role or ""), declared or not
    labels: dict             # table -> the column its rows are called by, or None


@dataclass
class Style:
    """The naming habits of one schema."""
    rng: random.Random
    case: str = field(init=False)
    table_case: str = field(init=False)

    def __post_init__(self):
        rng = self.rng
        cases = ("snake",) * 8 + ("capital",) * 4 + ("first",) * 2 + ("camel",) * 3 + (
            "pascal",) * 3 + ("upper", "flat", "flat")
        self.case = "spaced" if rng.random() < 0.04 else rng.choice(cases)
        self.table_case = self.case if rng.random() < 0.6 else rng.choice(cases)
        self.id_word = rng.choice(("ID", "Id", "ID"))
        self.many = rng.random() < 0.4
        self.prefix = rng.choice(("tbl", "ref", "t")) if rng.random() < 0.04 else ""
        self.own_prefix = rng.choice((0, 0, 0, 0, 0.15, 0.3, 0.9))
        self.abbreviate = rng.choice((0, 0.1, 0.5, 1.0))
        self.key = rng.choice(("{e} id",) * 9 + ("id",) * 5 + ("{e} code", "code", "{e} number",
                                                                "initial", "{e} key", "none"))

    def spell(self, phrase, case=None):
        case, words = case or self.case, []
        for word in phrase.split():
            if word in ABBREVIATED and self.rng.random() < self.abbreviate:
                word = self.rng.choice(ABBREVIATED[word])
            words.append(word)
        capitals = [self.id_word if w == "id" else w.capitalize() for w in words]
        if case == "snake":
            return "_".join(words)
        if case == "camel":
            return words[0] + "".join(capitals[1:])
        if case == "first":
            return "_".join([capitals[0]] + [self.id_word if w == "id" else w for w in words[1:]])
        joined = {"pascal": "".join(capitals), "capital": "_".join(capitals),
                  "upper": "_".join(words).upper(), "flat": "".join(words),
                  "spaced": " ".join(capitals)}
        return joined[case]


class Builder:
    """Grows one random schema; World is what it leaves behind."""

    def __init__(self, rng, lexicon):
        self.rng, self.lexicon, self.style = rng, lexicon, Style(rng)
        self.share = 0.1 if lexicon.heldout else 0.4    # of typical names among all names
        self.tables, self.edges, self.hidden = [], [], []
        self.nouns, self.values, self.labels, self.keys = {}, {}, {}, {}
        self.taken = set()

    def entity(self):
        rng = self.rng
        while True:
            if rng.random() < self.share:
                noun = rng.choice(self.lexicon.entities)
            else:
                noun = Noun((self.lexicon.open_name(rng, True),), "thing")
            name = plural(noun.forms[0]) if self.style.many else noun.forms[0]
            if self.style.prefix:
                name = f"{self.style.prefix} {name}"
            spelled = self.style.spell(name, self.style.table_case)
            if spelled.lower() not in self.taken:
                self.taken.add(spelled.lower())
                return noun, spelled

    def column(self, table, noun, values=None, primary=False, phrase=None, spelled=None):
        """Add a column if its name is still free in the table; the spelled name or None."""
        spelled = spelled or self.style.spell(phrase or noun.forms[0])
        taken = [c.name.lower() for c in self.current] + [
            f for c in self.current for f in self.nouns[table, c.name].forms]
        if spelled.lower() in taken or any(f in taken for f in noun.forms[:1]):
            return None
        values = values or self.samples(noun.kind)
        kind = TYPES.get(noun.kind) or ("text" if isinstance(values[0], str) else "number")
        self.current.append(Column(spelled, kind, primary))
        self.nouns[table, spelled] = Noun(noun.forms, noun.kind, noun.most, noun.more, spelled)
        self.values[table, spelled] = values
        return spelled

    def samples(self, kind):
        rng = self.rng
        if kind in ("flag", "sex"):
            return list(rng.choice(FLAGS if kind == "flag" else SEXES))
        if kind == "bit":
            return [0, 1]
        draws = [self.lexicon.value(rng, kind) for _ in range(rng.randint(4, 8))]
        return list(dict.fromkeys(draws))

    def attribute(self):
        """A typical attribute or one with a name from the open vocabulary."""
        rng = self.rng
        if rng.random() < self.share:
            return rng.choice(self.lexicon.attributes)
        if rng.random() < 0.2:                         # 'pavilion type', 'number of anchors'
            head = rng.choice(self.lexicon.heads)
            word = self.lexicon.open_name(rng, True)
            name = head.forms[0].replace("{n}", word).replace("{ns}", plural(word))
            return Noun((name,), head.kind)
        draw = rng.random()
        kind = (rng.choice(TEXTS) if draw < 0.48 else rng.choice(NUMBERS) if draw < 0.86
                else rng.choice(("date", "date", "datetime", "clock", "year")) if draw < 0.95
                else rng.choice(("flag", "bit")))
        if kind in ("flag", "bit") and rng.random() < 0.7:
            word = rng.choice(self.lexicon.words["adjective"])
            return Noun((rng.choice(("is " + word, word)), word), kind)
        return Noun((self.lexicon.open_name(rng),), kind)

    def prefixed(self, noun, entity):
        """The column noun and its schema phrase, with the table's name before it at times."""
        if self.rng.random() >= self.style.own_prefix:
            return noun, None
        long = f"{entity.forms[0]} {noun.forms[0]}"
        return Noun(noun.forms + (long,), noun.kind, noun.most, noun.more), long

    def key(self, table, entity):
        rng, word, habit = self.rng, entity.forms[0], self.style.key
        if rng.random() < 0.06:
            habit = rng.choice(("none", "id", "{e} id", "{e} code"))
        if habit == "none":
            return None
        text = word[0] + "id" if habit == "initial" else habit.format(e=word)
        short = "id" if habit == "initial" else text.split()[-1]
        codes = "code" in habit and rng.random() < 0.7
        values = self.samples("code") if codes else sorted(rng.sample(range(1, 40), 8))
        if not codes and rng.random() < 0.3:
            values = [v + rng.choice((100, 1000, 10000)) for v in values]
        forms = tuple(dict.fromkeys((text, short) if habit != "initial" else (short, text)))
        name = self.column(table, Noun(forms, "key"), values, True, text)
        self.keys[table] = name
        return name

    def table(self, links=()):
        """One table: key, a naming column, attributes and foreign keys to the linked tables."""
        rng, bridge = self.rng, len(set(links)) > 1
        entity, table = self.entity()
        kind = "bridge" if bridge else entity.kind
        self.nouns[table, None] = Noun(entity.forms, kind, name=table)
        self.current, self.labels[table] = [], None
        if not bridge or rng.random() < 0.3:
            self.key(table, entity)
        if not bridge and rng.random() < 0.8:
            self.label(table, entity)
        for _ in range(rng.choice((0, 0, 1, 1, 2) if bridge else (1, 2, 2, 3, 3, 4, 4, 5, 6, 9))):
            noun, phrase = self.prefixed(self.attribute(), entity)
            self.column(table, noun, phrase=phrase)
        for parent in links:
            self.reference(table, parent)
        if not bridge and rng.random() < 0.04 and self.keys.get(table):
            self.reference(table, table)
        if not self.current:
            self.column(table, Noun(("value",), "small"))
        if rng.random() < 0.1:
            self.current = self.current[:1] + rng.sample(self.current[1:], len(self.current) - 1)
        self.tables.append(Table(table, tuple(self.current)))
        return table

    def label(self, table, entity):
        rng = self.rng
        words = ("name",) * 7 + ("title", "title", "label", "full name", "description")
        word = rng.choice(words)
        kind = "person" if entity.kind == "person" and rng.random() < 0.85 else (
            rng.choice(("title", "title", "word", "brand", "city")))
        if entity.kind == "person":
            word = "name" if word == "title" else word
            if rng.random() < 0.15:
                self.column(table, Noun(("first name",), "first"))
                word, kind = "last name", "last"
        noun, phrase = self.prefixed(Noun((word,), kind), entity)
        if kind not in ("last",) and rng.random() < 0.08 and len(entity.forms[0]) > 3:
            noun, phrase = Noun((entity.forms[0], f"{entity.forms[0]} name", "name"), kind), None
        self.labels[table] = self.column(table, noun, phrase=phrase)

    def reference(self, table, parent):
        """A foreign key column: named like the key, like the parent or like a role."""
        rng, key = self.rng, self.keys.get(parent)
        if not key:
            return
        key_noun, word = self.nouns[parent, key], self.nouns[parent, None].forms[0]
        short, draw, role = key_noun.forms[-1], rng.random(), ""
        twice = parent == table or any(e[0] == table and e[2] == parent for e in self.edges)
        if twice or draw < 0.12:
            role = self.lexicon.say(rng, "role", {"e": word})
            forms = (rng.choice((role, f"{role} {short}")), role)
        elif draw < 0.22:
            forms = (word, f"{word} {short}")
        else:
            forms = (f"{word} {short}",) if key_noun.forms[0] in ("id", "code", word[0] + "id") \
                else key_noun.forms[:1]
        same = not role and draw >= 0.22 and len(key_noun.forms[0].split()) > 1
        name = self.column(table, Noun(forms, "link"), self.values[parent, key],
                           spelled=key if same else None)
        if name:
            self.edges.append((table, name, parent, key, role))
            if rng.random() < 0.05:
                self.hidden.append((table, name))

    def world(self, max_tables=None):
        rng = self.rng
        count = rng.choices((1, 2, 3, 4, 5, 6, 7), (14, 30, 29, 14, 7, 3, 3))[0]
        count = min(count, max_tables or count)
        names = [self.table()]
        while len(names) < count:
            keyed = [t for t in names if self.keys.get(t)]
            if len(keyed) > 1 and rng.random() < 0.62:
                names.append(self.table(rng.sample(keyed, 2)))
            elif keyed and rng.random() < 0.9:
                parent = rng.choice(keyed)
                twice = rng.random() < 0.06
                names.append(self.table((parent, parent) if twice else (parent,)))
            else:
                names.append(self.table())
        tables = rng.sample(self.tables, len(self.tables)) if rng.random() < 0.4 else self.tables
        keys = tuple(e[:4] for e in self.edges if (e[0], e[1]) not in self.hidden)
        schema = Schema(self.lexicon.open_name(rng).replace(" ", "_"), tuple(tables), keys)
        return World(schema, self.values, self.distinct(self.nouns), tuple(self.edges),
                     self.labels)

    def distinct(self, nouns):
        """Drop other readings that would also fit another name; add unambiguous short ones."""
        seen, parts = {}, {}
        for noun in nouns.values():
            for form in dict.fromkeys(noun.forms):
                seen[form] = seen.get(form, 0) + 1
            for word in set(noun.forms[0].split()):
                parts[word] = parts.get(word, 0) + 1
        result = {}
        for key, noun in nouns.items():
            own = key[1] is not None and noun.kind in ("key", "person", "title", "word", "link")
            keep = [f for f in noun.forms[1:] if seen[f] == 1 or own]
            last = noun.forms[0].split()[-1]
            if noun.kind not in ("key", "link") and parts[last] == 1 and len(last) > 2:
                keep.append(last)
            forms = tuple(dict.fromkeys([noun.forms[0], *keep]))
            result[key] = Noun(forms, noun.kind, noun.most, noun.more, noun.name)
        return result


def random_world(rng, lexicon, max_tables=None):
    """A random schema with sample values and the words people use for its names."""
    return Builder(rng, lexicon).world(max_tables)


# ---------------------------------------------------------------------------------------------
# Questions and SQL

@dataclass(frozen=True)
class Pair:
    question: str
    query: str
    links: tuple             # (table, column, value) of each text literal that is a cell value
    kind: str


class Scope:
    """The tables of one FROM; the first is what the question is about."""

    def __init__(self, table):
        self.tables, self.on = [table], []

    def join(self, at, column, table, other):
        """Join the table to number `at` of the tables; the new table's number."""
        self.tables.append(table)
        new = len(self.tables)
        self.on.append(f"T{at + 1}.{quote(column)} = T{new}.{quote(other)}")
        return new - 1

    def col(self, column, at=0):
        return quote(column) if len(self.tables) == 1 else f"T{at + 1}.{quote(column)}"

    def sql(self):
        if len(self.tables) == 1:
            return quote(self.tables[0])
        text = f"{quote(self.tables[0])} AS T1"
        for i, on in enumerate(self.on):
            text += f" JOIN {quote(self.tables[i + 1])} AS T{i + 2} ON {on}"
        return text


@dataclass
class Subject:
    """What a question is about: rows of a table under conditions."""
    scope: Scope
    where: str               # SQL after WHERE, or ''
    tail: str                # the same in words after the noun, or ''
    single: bool = False     # one row is meant (its name is given)
    many: bool = False       # the joins may repeat a row

    def sql(self, select, rest=""):
        where = f" WHERE {self.where}" if self.where else ""
        return f"SELECT {select} FROM {self.scope.sql()}{where}" + (rest and " " + rest)


class Step(NamedTuple):
    """One join of a path: start.column = table.other, upwards if the start holds the key."""
    start: str
    column: str
    table: str
    other: str
    role: str
    up: bool


class Skip(Exception):
    """The schema lacks what this kind of question needs."""


class Asker:
    """Makes pairs over one world; every `ask_*` method returns (question, SQL)."""

    def __init__(self, rng, lexicon, world):
        self.rng, self.lexicon, self.world = rng, lexicon, world
        self.tables = {t.name: t for t in world.schema.tables}
        self.links, self.simple = [], False

    # -- words

    def say(self, section, **slots):
        return self.lexicon.say(self.rng, section, slots)

    def mention(self, table, column=None, many=False):
        """What a person calls the table or column."""
        noun, rng = self.world.nouns[table, column], self.rng
        if rng.random() < 0.04:
            return noun.name
        form = noun.forms[0]
        if len(noun.forms) > 1 and rng.random() < 0.35:
            form = rng.choice(noun.forms[1:])
        return plural(form) if many and noun.kind not in ("flag", "bit") else form

    def listing(self, parts):
        return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0]

    def spoken(self, value):
        """A value as the question writes it: verbatim, at times in quotes or lower case."""
        if not isinstance(value, str):
            return str(value)
        draw = self.rng.random()
        text = value.lower() if self.rng.random() < 0.04 else value
        return f'"{text}"' if draw < 0.24 else f"'{text}'" if draw < 0.38 else text

    def cell(self, table, column):
        """A sample value of a column; text is noted as a link."""
        value = self.rng.choice(self.world.values[table, column])
        if isinstance(value, str):
            self.links.append((table, column, value))
        return value

    # -- choices

    def columns(self, table, *kinds):
        """Names of the table's columns whose values are of the kinds (none given: no keys)."""
        nouns, keys = self.world.nouns, ("key", "link")
        return [c.name for c in self.tables[table].columns if (
            nouns[table, c.name].kind in kinds if kinds
            else nouns[table, c.name].kind not in keys)]

    def one(self, items):
        if not items:
            raise Skip
        return self.rng.choice(items)

    def any_table(self):
        rich = [t for t in self.tables if self.columns(t)]
        things = [t for t in rich if self.world.nouns[t, None].kind != "bridge"]
        return self.one(things if things and self.rng.random() < 0.9 else rich)

    def label(self, table):
        """The column that names a row: its name, else its key, else any."""
        name = self.world.labels[table]
        keys = self.columns(table, "key")
        if name and self.rng.random() < 0.85:
            return name
        return self.one((keys if self.rng.random() < 0.5 else []) or self.columns(table) or keys)

    def shown(self, table, most=3):
        """One to three columns to show."""
        names = [c.name for c in self.tables[table].columns
                 if self.world.nouns[table, c.name].kind != "link" or self.rng.random() < 0.15]
        count = min(len(names), self.rng.choices((1, 2, 3), (60, 28, 12))[0], most)
        if count < 1:
            raise Skip
        if count == 1 and self.rng.random() < 0.45:
            full = self.columns(table, "first")[:1] + self.columns(table, "last")[:1]
            return full if len(full) == 2 and most > 1 else [self.label(table)]
        return self.rng.sample(names, count)

    def avoid(self, subject, columns):
        """Nobody asks for the column that the question fixes."""
        if any(f"{subject.scope.col(c)} {op}" in subject.where for c in columns for op in "=L"):
            raise Skip

    def numeric(self, table, year=True):
        kinds = NUMBERS + (("year",) if year else ())
        return self.one(self.columns(table, *kinds))

    def sortable(self, table):
        time = ("date", "datetime", "year") if self.rng.random() < 0.3 else ()
        return self.one(self.columns(table, *NUMBERS, *time))

    def group(self, table):
        """A column with repeated values."""
        kinds = ("word", "city", "country", "brand", "flag", "bit", "code", "year")
        if self.rng.random() < 0.06:
            kinds = ("link",)
        found = [c for c in self.columns(table, *kinds) if c != self.world.labels[table]]
        return self.one(found)

    def key(self, table):
        return self.one(self.columns(table, "key"))

    # -- conditions

    def condition(self, scope, at=0, column=None):
        """One comparison: (clause 'age is above 3', short form 'age above 3', post, SQL)."""
        table, rng = scope.tables[at], self.rng
        if column is None:
            column = self.one(self.columns(table) if rng.random() < 0.95
                              else self.columns(table, "key", "link"))
        noun, name = self.world.nouns[table, column], self.mention(table, column)
        sql, texts = scope.col(column, at), self.world.values[table, column]
        if rng.random() < 0.012:
            negated = rng.random() < 0.4
            words = self.say("is_known" if negated else "is_null")
            return f"{name} {words}", "", "", f"{sql} IS {'NOT ' * negated}NULL"
        if noun.kind in NUMBERS + ("year", "date", "datetime", "clock"):
            return self.compare(sql, table, column, name, noun)
        if isinstance(texts[0], str) and noun.kind not in ("flag", "sex", "code", "link", "key"):
            if rng.random() < 0.14:
                return self.like(sql, table, column, name)
        if noun.kind in ("flag", "bit", "sex") and rng.random() < 0.75:
            return self.flag(sql, table, column, noun)
        value = self.cell(table, column)
        spoken = self.spoken(value)
        if rng.random() < 0.1 and len(texts) > 2:
            return (f"{name} {self.say('is_not', v=spoken)}",
                    self.say("with_not", c=name, v=spoken), "", f"{sql} != {literal(value)}")
        if rng.random() < 0.13 and len(texts) > 3:
            return self.either(sql, table, column, name, value, spoken)
        post = ""
        if noun.kind in ("city", "country") and len(self.columns(table, noun.kind)) == 1:
            post = self.say("post_place", v=spoken)
        elif column == self.world.labels[table]:
            post = self.say("post_name", v=spoken)
        elif noun.kind == "word" and rng.random() < 0.2:
            post = self.say("post_word", v=spoken)
        return (f"{name} {self.say('is_equal', v=spoken)}",
                self.say("with_equal", c=name, v=spoken), post, f"{sql} = {literal(value)}")

    def flag(self, sql, table, column, noun):
        """A yes or no that the question names by the column: 'that are not active'."""
        value = self.rng.choice(self.world.values[table, column])
        first = value == max(self.world.values[table, column], key=lambda v: str(v).lower())
        if isinstance(value, str):                     # a linker offers the column's whole list
            self.links += [(table, column, v) for v in self.world.values[table, column]]
        word, yes = noun.forms[0].removeprefix("is ").removeprefix("has "), first
        if noun.kind == "sex":
            word, yes = "male" if first else "female", True
        section, clause = "post_flag" if yes else "post_no_flag", "is " + "not " * (not yes) + word
        if noun.forms[0].startswith("has "):
            section = section.replace("flag", "has")
            clause = ("has a " if yes else "has no ") + word
        return "", clause, self.say(section, c=word), f"{sql} = {literal(value)}"

    def either(self, sql, table, column, name, value, spoken):
        other = self.cell(table, column)
        if other == value:
            raise Skip
        both = self.say("or", a=spoken, b=self.spoken(other))
        return (f"{name} is {both}", f"{name} {both}", "",
                f"{sql} = {literal(value)} OR {sql} = {literal(other)}")

    def like(self, sql, table, column, name):
        words = self.rng.choice(self.world.values[table, column]).split()
        word = self.rng.choice(words).strip("'")
        piece = word if self.rng.random() < 0.6 else word[:self.rng.choice((1, 2, 3))]
        shape, section = self.rng.choice((("%{}%", "contains"),) * 3 + (
            ("{}%", "starts"), ("%{}", "ends")))
        if section == "ends" and piece != word:
            piece = word[-2:]
        clause = self.say(section, v=self.spoken_piece(piece))
        return f"{name} {clause}", "", "", f"{sql} LIKE {literal(shape.format(piece))}"

    def spoken_piece(self, piece):
        quoted = (f"'{piece}'", f'"{piece}"', f'"{piece}"')
        return self.rng.choice(quoted + (piece,) * (len(piece) > 2))

    def compare(self, sql, table, column, name, noun):
        rng = self.rng
        op = rng.choices((">", "<", ">=", "<=", "=", "between", "!="), (32, 22, 9, 6, 21, 8, 2))[0]
        value = self.cell(table, column)
        v = self.spoken(value)
        if op == "between":
            low, high = sorted((value, self.cell(table, column)))
            if low == high:
                raise Skip
            words = self.say("between", v=self.spoken(low), w=self.spoken(high))
            return (f"{name} is {words}", f"{name} {words}", "",
                    f"{sql} BETWEEN {literal(low)} AND {literal(high)}")
        if noun.kind in NUMBERS and not noun.kind == "rate" and rng.random() < 0.5 and op != "=":
            value = max(1, int(float(f"{value:.1g}")))        # people ask for round numbers
            v = str(value)
        word = {">": "more", "<": "less", ">=": "least", "<=": "most", "!=": "not"}.get(op, "equal")
        timely = noun.kind in ("year", "date", "datetime", "clock") and op in ("<", ">")
        section, post = word + ("_time" if timely else ""), ""
        if noun.more and op in "<>":
            post = f"{noun.more['<' == op]} than {v}"
        elif timely and len(self.columns(table, "year", "date", "datetime", "clock")) == 1:
            post = ("after " if op == ">" else "before ") + v
        elif noun.kind == "year" and op == "=" and len(self.columns(table, "year", "date")) == 1:
            post = "in " + v
        return (f"{name} {self.say('is_' + section, v=v)}",
                self.say("with_" + section, c=name, v=v), post, f"{sql} {op} {literal(value)}")

    def tail(self, conditions, joint):
        """Conditions as words behind a noun, all in one form."""
        clauses, shorts, posts, _ = zip(*conditions)
        if all(posts) and (not all(clauses) or self.rng.random() < 0.6):
            return f" {joint} ".join(posts) if len(posts) < 2 or joint == "or" else " ".join(posts)
        if not all(clauses):
            raise Skip
        if all(shorts) and self.rng.random() < 0.5:
            return self.say("with", text=f" {joint} ".join(shorts))
        return self.say("whose", text=f" {joint} ".join(clauses))

    # -- subjects

    def paths(self, table):
        """Joins from the table: lists of one or two steps."""
        steps = {}
        for child, col, parent, key, role in self.world.edges:
            steps.setdefault(child, []).append(Step(child, col, parent, key, role, True))
            steps.setdefault(parent, []).append(Step(parent, key, child, col, role, False))
        found = [[s] for s in steps.get(table, []) if s.table != table or s.up]
        for first in list(found):
            middle = first[0].table
            found += [[first[0], s] for s in steps.get(middle, [])
                      if s.table not in (table, middle) and s.up]
        return found

    def walk(self, scope, path):
        """Join the path's tables; number of the last one."""
        at = 0
        for step in path:
            at = scope.join(at, step.column, step.table, step.other)
        return at

    def own_conditions(self, scope, count):
        """Some conditions on the subject's own columns: (SQL, words, one row meant?)."""
        columns = [self.one(self.columns(scope.tables[0]))] + [None] * (count - 1)
        chosen = [self.condition(scope, 0, c) for c in columns]
        sqls = [c[3] for c in chosen]
        if count > 1 and (" OR " in "".join(sqls) or sqls[0].split()[0] == sqls[1].split()[0]):
            raise Skip
        joint = "or" if count > 1 and self.rng.random() < 0.28 else "and"
        label = self.world.labels[scope.tables[0]]
        single = count == 1 and label and sqls[0].startswith(scope.col(label) + " = ")
        return f" {joint.upper()} ".join(sqls), self.tail(chosen, joint), bool(single)

    def subject(self, table=None, counts=(45, 43, 12), join=0.36):
        """Rows of a table, perhaps under conditions of its own or on a neighbour."""
        table = table or self.any_table()
        scope, paths = Scope(table), self.paths(table)
        count = self.rng.choices((0, 1, 2), counts)[0]
        if paths and not self.simple and self.rng.random() < join and counts[1]:
            far = [p for p in paths if len(p) > 1]
            return self.neighbour(scope, self.rng.choice(
                far if far and self.rng.random() < 0.6 else paths))
        if not count or not self.columns(table):
            return Subject(scope, "", "")
        count = 1 if self.simple else count
        return Subject(scope, *self.own_conditions(scope, count))

    def neighbour(self, scope, path, own=0.2):
        """Rows with a condition on a joined table."""
        at = self.walk(scope, path)
        one = self.condition(scope, at)
        if " OR " in one[3]:
            raise Skip
        where, tail = one[3], self.attached(path, self.tail([one], "and"), one[0] or one[1])
        if self.rng.random() < own:
            extra = self.condition(scope, 0)
            if " OR " not in extra[3]:
                where = f"{extra[3]} AND {where}"
                tail = f"{self.tail([extra], 'and')} and {tail}"
        return Subject(scope, where, tail, many=not all(s.up for s in path))

    def attached(self, path, tail, clause):
        """'of the club named X', 'with matches after 2010', 'whose owner's age is above 3'"""
        table, role, up = path[-1].table, path[-1].role, path[-1].up
        if len(path) == 1 and not up:
            role_text = f"as {role} " if role else ""
            return self.say("down", those=f"{self.mention(table, many=True)} {tail}",
                            that=f"{self.mention(table)} {tail}", role=role_text)
        name = role if role and up else self.mention(table)
        if role and up and len(path) == 1:
            return self.say("up_role", that=f"{name} {tail}", clause=f"{name} {clause}")
        section = "up" if len(path) == 1 else "across"
        return self.say(section, that=f"{name} {tail}", clause=f"{name} {clause}")

    def rows(self, subject, many=True):
        """The subject in words: 'singers whose age is above 30'."""
        return f"{self.mention(subject.scope.tables[0], many=many)} {subject.tail}".strip()

    def named(self, table, columns, many=True):
        """Columns in words: 'names and ages', 'first and last name'."""
        kinds = [self.world.nouns[table, c].kind for c in columns]
        if kinds == ["first", "last"] and self.rng.random() < 0.7:
            return "first and last name" + "s" * many
        return self.listing([self.mention(table, c, many) for c in columns])

    # -- kinds of question over one subject

    def ask_select(self):
        s = self.subject(counts=(28, 52, 20))
        table, columns = s.scope.tables[0], self.shown(s.scope.tables[0])
        self.avoid(s, columns)
        sql = ", ".join(s.scope.col(c) for c in columns)
        if s.single and self.rng.random() < 0.8:
            return self.say("select_one", cols=self.named(table, columns, False),
                            row=self.rows(s, False)), s.sql(sql)
        slots = dict(cols=self.named(table, columns), rows=self.rows(s),
                     col=self.named(table, columns, False), row=self.rows(s, False))
        if columns == [self.world.labels[table]] and self.rng.random() < 0.3:
            person = self.world.nouns[table, None].kind == "person"
            return self.say("which_person" if person else "which", **slots), s.sql(sql)
        return self.say("select", **slots), s.sql(sql)

    def ask_distinct(self):
        s = self.subject(counts=(60, 34, 6))
        table = s.scope.tables[0]
        columns = [self.group(table)] if self.rng.random() < 0.75 else self.shown(table, 2)
        self.avoid(s, columns)
        question = self.say("distinct", cols=self.named(table, columns), rows=self.rows(s),
                            col=self.named(table, columns, False))
        return question, s.sql("DISTINCT " + ", ".join(s.scope.col(c) for c in columns))

    def ask_star(self):
        s = self.subject(counts=(30, 60, 10), join=0)
        return self.say("star", rows=self.rows(s), row=self.rows(s, False)), s.sql("*")

    def ask_count(self):
        s = self.subject(counts=(28, 52, 20))
        target = "*"
        if s.many:
            target = "DISTINCT " + s.scope.col(self.key(s.scope.tables[0]))
        return self.say("count", rows=self.rows(s)), s.sql(f"COUNT({target})")

    def ask_count_distinct(self):
        s = self.subject(counts=(70, 27, 3), join=0.12)
        table = s.scope.tables[0]
        column = self.group(table)
        self.avoid(s, [column])
        question = self.say("count_distinct", cols=self.mention(table, column, True),
                            rows=self.rows(s))
        return question, s.sql(f"COUNT(DISTINCT {s.scope.col(column)})")

    def ask_aggregate(self):
        s = self.subject(counts=(40, 50, 10))
        table, scope = s.scope.tables[0], s.scope
        count, rng = self.rng.choices((1, 2, 3), (72, 20, 8))[0], self.rng
        column = self.numeric(table, year=False)
        same = rng.random() < 0.75
        functions = rng.sample(("AVG", "MAX", "MIN", "SUM"), count)
        columns = [column if same else self.numeric(table, False) for _ in functions]
        self.avoid(s, columns)
        sql = ", ".join(f"{f}({scope.col(c)})" for f, c in zip(functions, columns))
        if same and count > 1:
            adjectives = [self.say(f"adj_{f.lower()}") for f in functions]
            text = f"{self.listing(adjectives)} {self.mention(table, column)}"
        else:
            text = self.listing([self.say(f"agg_{f.lower()}", col=self.mention(table, c))
                                 for f, c in zip(functions, columns)])
        if count == 1 and not s.tail and rng.random() < 0.2:
            return self.say("aggregate_of", agg=text, row=self.rows(s, False)), s.sql(sql)
        return self.say("aggregate", agg=text, rows=self.rows(s)), s.sql(sql)

    def direction(self, table, column):
        """'in descending order' or, where people say so, 'from oldest to youngest'."""
        down = self.rng.random() < 0.5
        noun = self.world.nouns[table, column]
        text = self.say("order_down" if down else "order_up", col=self.mention(table, column))
        if not down and self.rng.random() < 0.35:
            text = self.say("order_plain", col=self.mention(table, column))
        if noun.most and self.rng.random() < 0.3:
            first, last = noun.most if down else noun.most[::-1]
            text = self.say("order_most", first=first, last=last)
        return text, " DESC" * down

    def ask_order(self):
        s = self.subject(counts=(65, 30, 5), join=0.15)
        table = s.scope.tables[0]
        column = self.sortable(table) if self.rng.random() < 0.7 else self.one(self.columns(table))
        columns = self.shown(table)
        self.avoid(s, [column, *columns])
        text, suffix = self.direction(table, column)
        question = self.say("order", cols=self.named(table, columns), rows=self.rows(s),
                            order=text)
        rest = f"ORDER BY {s.scope.col(column)}{suffix}"
        return question, s.sql(", ".join(s.scope.col(c) for c in columns), rest)

    def extreme(self, table):
        """(column, SQL suffix, adjective for one, text 'with the highest price')"""
        column = self.sortable(table)
        noun, top = self.world.nouns[table, column], self.rng.random() < 0.65
        timely = noun.kind in ("year", "date", "datetime")
        most = noun.most or (("latest", "earliest") if timely else ())
        section = ("high" if top else "low") + ("_time" if timely else "")
        text = self.say("with_extreme", adj=self.say(section), col=self.mention(table, column))
        return column, " DESC" * top, most and noun.most and most[not top], text

    def extreme_row(self, s, many=False):
        """The subject with its superlative in words, and what ORDER BY needs."""
        table = s.scope.tables[0]
        column, suffix, adjective, text = self.extreme(table)
        if adjective and self.rng.random() < 0.6:
            return f"{adjective} {self.rows(s, many)}", column, suffix
        noun = self.mention(table, many=many)
        joint = " and " if s.tail.startswith("with ") else " "
        return f"{noun} {s.tail}{joint}{text}" if s.tail else f"{noun} {text}", column, suffix

    def ask_superlative(self):
        s = self.subject(counts=(68, 28, 4), join=0.2)
        table, columns = s.scope.tables[0], self.shown(s.scope.tables[0])
        row, column, suffix = self.extreme_row(s)
        self.avoid(s, [column, *columns])
        sql = s.sql(", ".join(s.scope.col(c) for c in columns),
                    f"ORDER BY {s.scope.col(column)}{suffix} LIMIT 1")
        if columns == [self.world.labels[table]] and self.rng.random() < 0.35:
            person = self.world.nouns[table, None].kind == "person"
            return self.say("who_top" if person else "which_top", row=row), sql
        return self.say("superlative", cols=self.named(table, columns, False), row=row), sql

    def ask_top(self):
        s = self.subject(counts=(80, 18, 2), join=0.1)
        table, columns = s.scope.tables[0], self.shown(s.scope.tables[0], 2)
        number = self.rng.choice((2, 3, 3, 3, 4, 5, 5, 6, 8, 10, 10))
        row, column, suffix = self.extreme_row(s, many=True)
        n = DIGITS[number] if self.rng.random() < 0.4 else str(number)
        question = self.say("top", cols=self.named(table, columns), rows=row, n=n)
        return question, s.sql(", ".join(s.scope.col(c) for c in columns),
                               f"ORDER BY {s.scope.col(column)}{suffix} LIMIT {number}")

    # -- groups

    def grouped(self, join=0.12):
        s = self.subject(counts=(75, 22, 3), join=join)
        table = s.scope.tables[0]
        column = self.group(table)
        self.avoid(s, [column])
        return s, table, column, s.scope.col(column)

    def ask_group_count(self):
        s, table, column, sql = self.grouped()
        question = self.say("group_count", col=self.mention(table, column), rows=self.rows(s),
                            cols=self.mention(table, column, True))
        order, by = self.by_count()
        return question + order, s.sql(f"{sql}, COUNT(*)", f"GROUP BY {sql}{by}")

    def by_count(self):
        """At times an order by the number of rows: (words, SQL)."""
        draw = self.rng.random()
        if draw > 0.2:
            return "", ""
        return ((self.say("by_count_down"), " ORDER BY COUNT(*) DESC") if draw < 0.1
                else (self.say("by_count_up"), " ORDER BY COUNT(*)"))

    def ask_group_aggregate(self):
        s, table, column, sql = self.grouped()
        number, function = self.numeric(table, False), self.rng.choice(("AVG", "MAX", "MIN", "SUM"))
        agg = self.say(f"agg_{function.lower()}", col=self.mention(table, number))
        call, draw = f"{function}({s.scope.col(number)})", self.rng.random()
        if draw < 0.1:
            agg, call = self.say("number_and", agg=agg), f"COUNT(*), {call}"
        elif draw < 0.2:
            agg = f"{self.say('adj_min')} and {self.say('adj_max')} {self.mention(table, number)}"
            call = call.replace(function, "MIN") + ", " + call.replace(function, "MAX")
        elif draw < 0.32:
            other = self.group(table)
            self.avoid(s, [other])
            if other == column:
                raise Skip
            agg = self.say("number_different", cols=self.mention(table, other, True))
            call = f"COUNT(DISTINCT {s.scope.col(other)})"
        question = self.say("group_aggregate", agg=agg, rows=self.rows(s),
                            col=self.mention(table, column), cols=self.mention(table, column, True))
        return question, s.sql(f"{sql}, {call}", f"GROUP BY {sql}")

    def ask_group_top(self):
        s, table, column, sql = self.grouped()
        down, extra = self.rng.random() < 0.75, self.rng.random()
        slots = dict(col=self.mention(table, column), rows=self.rows(s),
                     cols=self.mention(table, column, True))
        if extra < 0.12:
            number = self.rng.randint(2, 5)
            n = self.rng.choice((DIGITS[number], str(number)))
            question = self.say("group_most_n", n=n, **slots)
            return question, s.sql(sql, f"GROUP BY {sql} ORDER BY COUNT(*) DESC LIMIT {number}")
        if extra < 0.26:
            number, function = self.numeric(table, False), self.rng.choice(("AVG", "SUM", "MAX"))
            agg = self.say(f"agg_{function.lower()}", col=self.mention(table, number))
            adj = self.say("high_agg" if down else "low_agg")
            question = self.say("group_top_agg", adj=adj, agg=agg, **slots)
            by = f"{function}({s.scope.col(number)}){' DESC' * down}"
            return question, s.sql(sql, f"GROUP BY {sql} ORDER BY {by} LIMIT 1")
        question = self.say("group_most" if down else "group_least", **slots)
        select = sql
        if extra > 0.85:
            question += self.say("and_how_many")
            select += ", COUNT(*)"
        return question, s.sql(select, f"GROUP BY {sql} ORDER BY COUNT(*){' DESC' * down} LIMIT 1")

    def threshold(self):
        """A comparison of counts: (words, SQL)."""
        number = self.rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 10))
        section, op = self.rng.choice((("count_more", ">"), ("count_more", ">"),
                                       ("count_least", ">="), ("count_least", ">="),
                                       ("count_less", "<"), ("count_equal", "=")))
        if op == "<" and number < 2:
            raise Skip
        n = DIGITS[number] if self.rng.random() < 0.4 else str(number)
        return self.say(section, n=n), f"{op} {number}"

    def ask_having(self):
        s, table, column, sql = self.grouped()
        slots = dict(col=self.mention(table, column), cols=self.mention(table, column, True),
                     rows=self.rows(s))
        if self.rng.random() < 0.3:
            number = self.numeric(table, False)
            value = self.rng.choice(self.world.values[table, number])
            function, more = self.rng.choice(("AVG", "AVG", "MAX", "SUM")), self.rng.random() < 0.6
            agg = self.say(f"agg_{function.lower()}", col=self.mention(table, number))
            compared = self.say("is_more" if more else "is_less", v=str(value))
            question = self.say("having_aggregate", agg=agg, compared=compared, **slots)
            op = ">" if more else "<"
            return question, s.sql(sql, f"GROUP BY {sql} HAVING {function}({s.scope.col(number)}) "
                                        f"{op} {literal(value)}")
        words, op = self.threshold()
        question = self.say("having", amount=words, **slots)
        return question, s.sql(sql, f"GROUP BY {sql} HAVING COUNT(*) {op}")

    # -- two tables

    def children(self, child, parent, role):
        """What a parent has many of; behind a bridge that is what the bridge leads to."""
        others = [e for e in self.world.edges if e[0] == child and e[2] != parent]
        bridge = self.world.nouns[child, None].kind == "bridge"
        if bridge and others and not role and self.rng.random() < 0.5:
            return self.mention(others[0][2], many=True)
        return self.mention(child, many=True) + (f" as {role}" if role else "")

    def child(self):
        """A parent, its child and the scope joining them, parent first."""
        edges = [e for e in self.world.edges if e[0] != e[2]]
        child, column, parent, key, role = self.one(edges)
        scope = Scope(parent)
        scope.join(0, key, child, column)
        phrase, where = self.children(child, parent, role), ""
        if self.rng.random() < 0.22:
            one = self.condition(scope, 1)
            if " OR " in one[3] or role or self.world.nouns[child, None].kind == "bridge":
                raise Skip
            where, phrase = one[3], f"{phrase} {self.tail([one], 'and')}"
        return parent, child, Subject(scope, where, ""), phrase, key

    def ask_join(self):
        """Columns of a table and of one it refers to, perhaps over a bridge between them."""
        paths = [p for t in self.tables for p in self.paths(t) if p[-1].up and self.columns(t)]
        if any(len(p) > 1 for p in paths) and self.rng.random() < 0.6:
            paths = [p for p in paths if len(p) > 1]
        path, rest = self.one(paths), ""
        child, parent = path[0].start, path[-1].table
        role = path[-1].role if len(path) == 1 else ""
        scope = Scope(child)
        at = self.walk(scope, path)
        mine, theirs = self.label(child), self.label(parent)
        s = Subject(scope, "", "")
        if self.rng.random() < 0.3:
            one = self.condition(scope, 0)
            s = Subject(scope, one[3], self.tail([one], "and"))
        slots = dict(col=self.mention(child, mine), cols=self.mention(child, mine, True),
                     row=self.rows(s, False), rows=self.rows(s),
                     other=f"{role or self.mention(parent)} {self.mention(parent, theirs)}",
                     its=self.mention(parent, theirs), parent=role or self.mention(parent))
        if slots["its"].startswith(slots["parent"] + " "):
            slots["other"] = slots["its"]
        question = self.say("join", **slots)
        if self.rng.random() < 0.2:
            order, suffix = self.direction(child, by := self.one(self.columns(child)))
            question, rest = f"{question}, {order}", f"ORDER BY {scope.col(by)}{suffix}"
        return question, s.sql(f"{scope.col(mine)}, {scope.col(theirs, at)}", rest)

    def ask_join_count(self):
        parent, child, s, children, key = self.child()
        label = self.label(parent)
        question = self.say("join_count", col=self.mention(parent, label), children=children,
                            cols=self.mention(parent, label, True), row=self.mention(parent),
                            rows=self.mention(parent, many=True))
        order, by = self.by_count()
        return question + order, s.sql(f"{s.scope.col(label)}, COUNT(*)",
                                       f"GROUP BY {s.scope.col(key)}{by}")

    def ask_join_aggregate(self):
        """The average or total of a child's column for each parent."""
        parent, child, s, children, key = self.child()
        number, label = self.numeric(child, False), self.label(parent)
        function = self.rng.choice(("AVG", "SUM", "SUM", "MAX", "MIN"))
        agg = self.say(f"agg_{function.lower()}", col=self.mention(child, number))
        sql = f"{function}({s.scope.col(number, 1)})"
        slots = dict(col=self.mention(parent, label), row=self.mention(parent), agg=agg,
                     rows=children, cols=self.mention(parent, label, True),
                     parents=self.mention(parent, many=True))
        if self.rng.random() < 0.35:
            down = self.rng.random() < 0.75
            question = self.say("join_top_agg", adj=self.say("high_agg" if down else "low_agg"),
                                **slots)
            return question, s.sql(s.scope.col(label), f"GROUP BY {s.scope.col(key)} "
                                   f"ORDER BY {sql}{' DESC' * down} LIMIT 1")
        return self.say("join_aggregate", **slots), s.sql(
            f"{s.scope.col(label)}, {sql}", f"GROUP BY {s.scope.col(key)}")

    def ask_join_top(self):
        parent, child, s, children, key = self.child()
        columns, down, n = self.shown(parent, 2), self.rng.random() < 0.8, 1
        section = "join_most" if down else "join_least"
        if down and self.rng.random() < 0.12:
            section, n = "join_most_n", self.rng.choice((2, 3, 3, 5))
        question = self.say(section, cols=self.named(parent, columns, n > 1), children=children,
                            row=self.mention(parent, many=n > 1), n=DIGITS[n])
        select = [s.scope.col(c) for c in columns]
        if n == 1 and self.rng.random() < 0.12:
            question += self.say("and_how_many")
            select.append("COUNT(*)")
        return question, s.sql(", ".join(select), f"GROUP BY {s.scope.col(key)} "
                               f"ORDER BY COUNT(*){' DESC' * down} LIMIT {n}")

    def ask_join_having(self):
        parent, child, s, children, key = self.child()
        columns = self.shown(parent, 2)
        words, op = self.threshold()
        question = self.say("join_having", cols=self.named(parent, columns), children=children,
                            rows=self.mention(parent, many=True), amount=words)
        return question, s.sql(", ".join(s.scope.col(c) for c in columns),
                               f"GROUP BY {s.scope.col(key)} HAVING COUNT(*) {op}")

    # -- nested queries and set operators

    def ask_compare_average(self):
        table = self.any_table()
        column, columns = self.numeric(table), self.shown(table, 2)
        inner = self.subject(table, counts=(70, 30, 0), join=0)
        more, draw = self.rng.random() < 0.6, self.rng.random()
        function, section = "AVG", "above" if more else "below"
        if inner.where or draw < 0.15:
            function = ("MAX" if more else "MIN") if draw < 0.5 else "AVG"
            section += "_all" if function != "AVG" else "_of" if inner.where else ""
        if function != "AVG" and not inner.where:
            function, more, section = "MIN", True, "above_least"
        sql = inner.sql(f"{function}({quote(column)})")
        col = self.mention(table, column)
        tail = self.say(section, col=col, rows=self.rows(inner))
        count = self.rng.random() < 0.2
        rows = f"{self.mention(table, many=True)} {tail}"
        question = self.say("count", rows=rows) if count else self.say(
            "select", cols=self.named(table, columns), col=self.named(table, columns, False),
            rows=rows, row=f"{self.mention(table)} {tail}")
        select = "COUNT(*)" if count else ", ".join(map(quote, columns))
        return question, (f"SELECT {select} FROM {quote(table)} WHERE {quote(column)} "
                          f"{'>' if more else '<'} ({sql})")

    def ask_not_in(self, negated=True):
        """Parents without (or with) any child, perhaps only children of one sort."""
        child, column, parent, key, role = self.one(
            [e for e in self.world.edges if e[0] != e[2]])
        inner = self.subject(child, counts=(55 if negated else 0, 45, 0), join=0.15)
        if parent in inner.scope.tables:
            raise Skip
        children = f"{self.mention(child, many=True)} {inner.tail}".strip()
        if role:
            children = f"role as {role} in {children}"
        elif not inner.where:
            children = self.children(child, parent, role)
        tail = self.say("without" if negated else "having_some", children=children)
        rows, columns = f"{self.mention(parent, many=True)} {tail}", self.shown(parent, 2)
        count = self.rng.random() < 0.25
        question = self.say("count", rows=rows) if count else self.say(
            "select", cols=self.named(parent, columns), rows=rows,
            row=f"{self.mention(parent)} {tail}", col=self.named(parent, columns, False))
        select = "COUNT(*)" if count else ", ".join(map(quote, columns))
        test = "NOT IN" if negated else "IN"
        return question, (f"SELECT {select} FROM {quote(parent)} WHERE {quote(key)} {test} "
                          f"({inner.sql(inner.scope.col(column))})")

    def ask_in(self):
        return self.ask_not_in(negated=False)

    def arms(self):
        """Two subjects over the same tables that differ in their conditions."""
        table = self.any_table()
        paths = [p for p in self.paths(table) if not all(s.up for s in p)]
        if paths and self.rng.random() < 0.45:
            path = self.rng.choice(paths)
            label = self.world.labels[path[-1].table]
            if not label:
                raise Skip
            arms = []
            for _ in "ab":
                scope = Scope(table)
                at = self.walk(scope, path)
                arms.append(Subject(scope, *self.label_test(scope, at, label)))
            noun = self.mention(path[-1].table)
            joint = self.say("linked")
            arms[0].tail, arms[1].tail = (f"{joint} {noun} {a.tail}" for a in arms)
            return table, self.label(table), arms, arms[0].where != arms[1].where
        column = self.group(table)
        arms = []
        for _ in "ab":
            scope = Scope(table)
            clause = self.condition(scope)
            arms.append(Subject(scope, clause[3], self.tail([clause], "and")))
            self.avoid(arms[-1], [column])
        different = arms[0].where != arms[1].where and " OR " not in arms[0].where + arms[1].where
        return table, column, arms, different

    def label_test(self, scope, at, label):
        value = self.cell(scope.tables[at], label)
        return f"{scope.col(label, at)} = {literal(value)}", self.say(
            "post_name", v=self.spoken(value))

    def set_query(self, operator, section):
        table, column, (a, b), different = self.arms()
        if not different:
            raise Skip
        rows = self.mention(table, many=True)
        question = self.say(section, cols=self.mention(table, column, True), rows=rows,
                            col=self.mention(table, column), a=a.tail, b=b.tail)
        return question, (f"{a.sql(a.scope.col(column))} {operator} "
                          f"{b.sql(b.scope.col(column))}")

    def ask_intersect(self):
        return self.set_query("INTERSECT", "intersect")

    def ask_except(self):
        return self.set_query("EXCEPT", "except")

    def ask_union(self):
        return self.set_query("UNION", "union")


# shares of the kinds, after the counts over Spider's training queries
KINDS = {"select": 25, "distinct": 6.5, "star": 1.2, "count": 9, "count_distinct": 4,
         "aggregate": 8, "order": 7, "superlative": 7, "top": 2.2, "group_count": 6,
         "group_aggregate": 4, "group_top": 6, "having": 5, "join": 6, "join_count": 6,
         "join_aggregate": 4, "join_top": 7, "join_having": 6, "compare_average": 4,
         "not_in": 5, "in": 1.2, "intersect": 7, "except": 7, "union": 2}
SIMPLE = {"select": 40, "count": 25, "aggregate": 15, "order": 10, "superlative": 10}


def finished(rng, text):
    """Capital letter and final mark, as careful and hasty people write them."""
    text = " ".join(text.split()).replace(" ,", ",")
    text = re.sub(r"\ba (?=[aeio]|u(?!n[ai]|s))(?!and|or|in|of)", "an ", text)
    asks = re.match(r"(what|which|who|how|can|could|do|for which|for \w+ \w+, (what|how)|would)\b",
                    text.rpartition("? ")[2], re.I)
    end = rng.choices(("?", "", "."), (84, 11, 5))[0] if asks else rng.choices(
        (".", "", "?"), (76, 22, 2))[0]
    if rng.random() < 0.92:
        text = text[0].upper() + text[1:]
    return text + end


def random_pairs(rng, lexicon, world, n, simple=0.0):
    """n questions with their SQL over the world, no SQL twice.

    simple: share drawn from the simplest kinds over one table (for the start of training).
    Fewer than n come back only where a tiny schema has no more to ask."""
    asker, pairs, seen = Asker(rng, lexicon, world), [], set()
    for _ in range(12 * n + 20):
        if len(pairs) == n:
            break
        asker.links, asker.simple = [], rng.random() < simple
        kinds = SIMPLE if asker.simple else KINDS
        kind = rng.choices(list(kinds), kinds.values())[0]
        try:
            question, query = getattr(asker, "ask_" + kind)()
        except Skip:
            continue
        links = tuple(dict.fromkeys(
            link for link in asker.links if literal(link[2]) in query
            or world.nouns[link[:2]].kind in ("flag", "sex")))
        if query in seen or len(question) + len(query) > 420:
            continue
        seen.add(query)
        question = finished(rng, question)
        if rng.random() < 0.03 and "LIKE" not in query:
            question = question.lower()
        pairs.append(Pair(question, query, links, kind))
    return pairs


# ---------------------------------------------------------------------------------------------
# Looking and checking

def build(world, rng, rows=12):
    """The world as an in-memory SQLite database, rows drawn from the sample values."""
    db = sqlite3.connect(":memory:")
    for table in world.schema.tables:
        names = ", ".join(quote(c.name) for c in table.columns)
        db.execute(f"CREATE TABLE {quote(table.name)} ({names})")
        keys = {c.name for c in table.columns if c.primary}
        for i in range(rows):
            cells = [world.values[table.name, c.name] for c in table.columns]
            row = [v[i % len(v)] if c.name in keys else rng.choice(v)
                   for c, v in zip(table.columns, cells)]
            if i < max((len(v) for c, v in zip(table.columns, cells) if c.name in keys),
                       default=rows):
                marks = ", ".join("?" * len(row))
                db.execute(f"INSERT INTO {quote(table.name)} VALUES ({marks})", row)
    return db


def check(seed, count, lexicon):
    """Run the queries of `count` random worlds; (queries, with rows) or raise on an error."""
    rng, total, filled = random.Random(seed), 0, 0
    for _ in range(count):
        world = random_world(rng, lexicon)
        db = build(world, rng)
        for pair in random_pairs(rng, lexicon, world, 6):
            total += 1
            filled += bool(db.execute(pair.query).fetchall())
        db.close()
    return total, filled


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", type=int, default=0, help="print so many examples")
    parser.add_argument("--check", type=int, default=0, help="run the queries of so many worlds")
    parser.add_argument("--heldout", action="store_true", help="the words kept for measuring")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lexicon, rng = Lexicon(args.heldout), random.Random(args.seed)
    for i in range(0, args.show, 4):
        world = random_world(rng, lexicon)
        for table in world.schema.tables:
            print(f"{table.name}({', '.join(c.name for c in table.columns)})")
        for pair in random_pairs(rng, lexicon, world, min(4, args.show - i)):
            print(f"  [{pair.kind}] {pair.question}\n      {pair.query}")
    if args.check:
        total, filled = check(args.seed, args.check, lexicon)
        print(f"{total} queries ran, {filled / total:.1%} with rows")


if __name__ == "__main__":
    main()
