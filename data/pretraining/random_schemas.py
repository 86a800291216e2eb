"""Random schemas with sample values: an endless source of databases for the base model.

Names and values come from an open vocabulary (words.txt, compounds, made-up words, codes), so
that a model trained here has to copy what it reads. A tenth of the words, of the syllables and
of the phrasings is held out: Lexicon(heldout=True) draws only those, for measuring.
"""

import re
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from data.pretraining.asking import plural, read_sections
from data.schema import Column, Schema, Table

OPEN = ("noun", "adjective", "first", "last", "city", "country", "brand")  # sections of words
RUDE = re.compile(r"f[ou]+c|fuk|fag|shi?t|cun|cum|coc?k|dic?k|nig|rap|sex|tit|pis|slu|por?n|anal")
TYPES = {"year": "number", "date": "time", "datetime": "time", "clock": "time",
         "flag": "text", "bit": "boolean"}
NUMBERS = ("small", "count", "mid", "big", "money", "rate", "float")
ABBREVIATED = {name: short for name, *short in map(str.split, """
    number num no nbr, department dept, address addr, average avg, quantity qty, amount amt,
    maximum max, minimum min, description desc descr, account acct acc, type typ, first f, last l,
    organization org, position pos, percent pct, reference ref, code cd, telephone tel,
    category cat, manager mgr, year yr, employee emp, customer cust, product prod
    """.split(","))}


# ---------------------------------------------------------------------------------------------
# Words and phrasings

def held_out(word):
    """A stable tenth of all strings, the same in every process and on every machine."""
    return zlib.crc32(word.encode()) % 10 == 0


@dataclass(frozen=True)
class Noun:
    """How people speak of a table or a column."""
    forms: tuple             # singular, lower case; the first is the plain reading of the name
    kind: str                # of a table: person, thing or bridge; of a column: kind of values
    most: tuple = ()         # superlatives ("oldest", "youngest")
    more: tuple = ()         # comparatives ("older", "younger")
    name: str = ""           # as the schema spells it


def read_noun(line):
    """'age | small | years of age | oldest, youngest | older, younger'"""
    name, kind, *rest = [part.strip() for part in line.split("|")]
    lists = [tuple(w.strip() for w in part.split(",") if w.strip()) for part in rest]
    synonyms, *ends = lists or [()]
    return Noun((name, *synonyms), kind, *ends)


class Lexicon:
    """Words, syllables and phrasings for training, or the disjoint ones held out for measuring.

    phrasings: draw the held-out phrasings? Left out, the same answer as for words."""

    def __init__(self, heldout, folder=None, phrasings=None):
        sections = read_sections(Path(folder or Path(__file__).parent) / "words.txt")
        self.heldout = heldout
        fresh, self.phrases = heldout if phrasings is None else phrasings, {}
        for name in sections:
            if name.startswith("phrase "):      # ~ marks those held out
                chosen = [line for line in sections[name] if line.startswith("~") == fresh]
                self.phrases[name[7:]] = [line.lstrip("~ ") for line in chosen or sections[name]]
        self.entities, self.attributes, self.heads = (
            [read_noun(line) for line in sections[s]] for s in ("entity", "attribute", "head"))
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
        allowed = self.held if heldout else lowered - self.held
        self.words = {k: [w.replace("_", " ") for w in v if allowed >= {*w.lower().split("_")}]
                      for k, v in words.items()}
        self.syllables = [s for o in "b br c ch d dr f fl g gr h j k kl l m n p pr qu r s sk st t "
                          "tr v w z".split() for v in "a e i o u a e i o ai ee ou".split()
                          for c in ("", "", "", "", "n", "r", "l", "s", "m", "x", "t", "ck")
                          for s in [o + v + c] if held_out(s) == heldout]

    def say(self, rng, section, slots):
        """A phrasing of the section: <a|b> is a choice, {x} a slot or else another section."""
        text = re.sub("<([^<>]*)>", lambda choice: rng.choice(choice[1].split("|")),
                      rng.choice(self.phrases[section]))

        def fill(match):
            if match[1] in slots:
                return slots[match[1]]
            part = self.say(rng, match[1], slots)
            inside = match.start() and text[match.start() - 2] != "?"
            return part[0].lower() + part[1:] if inside and part[:2] != "I " else part

        return re.sub(r"\{(\w+)\}", fill, text)

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


# ---------------------------------------------------------------------------------------------
# Values

def title(lexicon, rng):
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


def person(lexicon, rng):
    last = rng.choice(lexicon.words["last"])
    if rng.random() < 0.25:
        last = lexicon.invent(rng).capitalize()
    if rng.random() < 0.03:
        last = "O'" + last
    first = rng.choice(lexicon.words["first"])
    if rng.random() < 0.08:
        first += " " + rng.choice("ABCDEFGHJKLMNPRSTW") + "."
    return f"{first} {last}"


def code(lexicon, rng):
    letters = "".join(rng.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(rng.choice((1, 2, 3))))
    digits = str(rng.randrange(10 ** rng.choice((2, 3, 4))))
    if rng.random() < 0.1:
        return digits
    return rng.choice((letters, letters + digits, f"{letters}-{digits}", letters + letters[:1]))


def word(lexicon, rng):
    pool = rng.choice(("noun", "noun", "adjective", "brand", None))
    text = rng.choice(lexicon.words[pool]) if pool else lexicon.invent(rng)
    return rng.choice((str.capitalize, str.capitalize, str.capitalize, str.lower, str.upper))(text)


def date(lexicon, rng):
    return f"{rng.randint(1950, 2024)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"


def clock(lexicon, rng):
    return f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"


# kind: a cell value; other kinds are sections of words
VALUES = {
    "title": title, "word": word, "person": person, "code": code, "date": date, "clock": clock,
    "city": lambda x, rng: (rng.choice(x.words["city"]) if rng.random() < 0.75
                            else x.invent(rng).capitalize()),
    "email": lambda x, rng: f"{rng.choice(x.words['first']).lower()}@{x.invent(rng)}.com",
    "datetime": lambda x, rng: f"{date(x, rng)} {clock(x, rng)}:{rng.randint(0, 59):02}",
    "year": lambda x, rng: rng.randint(1900, 2024),
    "small": lambda x, rng: rng.randint(1, 99),
    "count": lambda x, rng: rng.randint(1, 20),
    "mid": lambda x, rng: rng.randint(10, 5000),
    "big": lambda x, rng: rng.choice((rng.randint(1, 99) * 1000, rng.randint(10 ** 4, 10 ** 7))),
    "money": lambda x, rng: rng.choice((rng.randint(1, 900) * 10, round(rng.uniform(1, 900), 2))),
    "rate": lambda x, rng: round(rng.uniform(0, 10), 1),
    "float": lambda x, rng: round(rng.uniform(0.1, 300), rng.choice((1, 2))),
}
PAIRS = {"flag": (("Yes", "No"), ("Y", "N"), ("T", "F"), ("true", "false"), ("yes", "no")),
         "sex": (("M", "F"), ("Male", "Female"), ("male", "female"), ("m", "f")),
         "bit": ((0, 1),)}
TEXTS = ("word", "word", "word", "title", "title", "person", "city", "country", "code", "brand")


# ---------------------------------------------------------------------------------------------
# Schemas

@dataclass(frozen=True)
class RandomDatabase:
    schema: Schema
    values: dict             # (table, column) -> sample values
    nouns: dict              # (table, None) or (table, column) -> Noun
    edges: tuple             # (child, column, parent, column, role or ""), declared or not
    labels: dict             # table -> the column its rows are called by, or None


class Style:
    """The naming habits of one schema."""

    def __init__(self, rng):
        self.rng = rng
        cases = ("snake",) * 8 + ("capital",) * 4 + ("first",) * 2 + ("camel",) * 3 + (
            "pascal",) * 3 + ("upper", "flat", "flat")
        self.case = "spaced" if rng.random() < 0.04 else rng.choice(cases)
        self.table_case = self.case if rng.random() < 0.6 else rng.choice(cases)
        self.id_word = rng.choice(("ID", "Id", "ID"))
        self.many = rng.random() < 0.4
        self.prefix = rng.choice(("tbl ", "ref ", "t ")) if rng.random() < 0.04 else ""
        self.own_prefix = rng.choice((0, 0, 0, 0, 0.15, 0.3, 0.9))
        self.abbreviate = rng.choice((0, 0.1, 0.5, 1.0))
        self.key = rng.choice(("{e} id",) * 9 + ("id",) * 5 + ("{e} code", "code", "{e} number",
                                                                "initial", "{e} key", "none"))

    def spell(self, phrase, case=None):
        words = []
        for part in phrase.split():
            if part in ABBREVIATED and self.rng.random() < self.abbreviate:
                part = self.rng.choice(ABBREVIATED[part])
            words.append(part)
        capitals = [self.id_word if w == "id" else w.capitalize() for w in words]
        later = [self.id_word if w == "id" else w for w in words[1:]]
        return {"snake": "_".join(words), "camel": words[0] + "".join(capitals[1:]),
                "first": "_".join(capitals[:1] + later), "pascal": "".join(capitals),
                "capital": "_".join(capitals), "upper": "_".join(words).upper(),
                "flat": "".join(words), "spaced": " ".join(capitals)}[case or self.case]


class Draft:
    """A random schema as it grows, and the words and values drawn for it."""

    def __init__(self, rng, lexicon):
        self.rng, self.lexicon, self.style = rng, lexicon, Style(rng)
        self.share = 0.1 if lexicon.heldout else 0.4    # of typical names among all names
        self.tables, self.edges, self.declared = [], [], []
        self.nouns, self.values, self.labels, self.keys = {}, {}, {}, {}

    def entity(self):
        """(noun, spelled name) of a new table."""
        while True:
            if self.rng.random() < self.share:
                noun = self.rng.choice(self.lexicon.entities)
            else:
                noun = Noun((self.lexicon.open_name(self.rng, True),), "thing")
            name = plural(noun.forms[0]) if self.style.many else noun.forms[0]
            spelled = self.style.spell(self.style.prefix + name, self.style.table_case)
            if spelled.lower() not in [table.name.lower() for table in self.tables]:
                return noun, spelled

    def attribute(self):
        """A typical attribute or one with a name from the open vocabulary."""
        rng = self.rng
        if rng.random() < self.share:
            return rng.choice(self.lexicon.attributes)
        if rng.random() < 0.2:                         # 'pavilion type', 'number of anchors'
            head, name = rng.choice(self.lexicon.heads), self.lexicon.open_name(rng, True)
            form = head.forms[0].replace("{n}", name).replace("{ns}", plural(name))
            return Noun((form,), head.kind)
        draw = rng.random()
        kind = (rng.choice(TEXTS) if draw < 0.48 else rng.choice(NUMBERS) if draw < 0.86
                else rng.choice(("date", "date", "datetime", "clock", "year")) if draw < 0.95
                else rng.choice(("flag", "bit")))
        if kind in ("flag", "bit") and rng.random() < 0.7:
            name = rng.choice(self.lexicon.words["adjective"])
            return Noun((rng.choice(("is " + name, name)), name), kind)
        return Noun((self.lexicon.open_name(rng),), kind)

    def samples(self, kind):
        if kind in PAIRS:
            return list(self.rng.choice(PAIRS[kind]))
        value = VALUES.get(kind, lambda lexicon, rng: rng.choice(lexicon.words[kind]))
        count = self.rng.randint(4, 8)
        return list(dict.fromkeys(value(self.lexicon, self.rng) for _ in range(count)))

    def column(self, table, noun, values=None, primary=False, spelled=None):
        """Add a column if its name is still free in the table; the spelled name or None."""
        spelled = spelled or self.style.spell(noun.forms[0])
        taken = [c.name.lower() for c in self.current] + [
            f for c in self.current for f in self.nouns[table, c.name].forms]
        if spelled.lower() in taken or noun.forms[0] in taken:
            return None
        values = values or self.samples(noun.kind)
        kind = TYPES.get(noun.kind) or ("text" if isinstance(values[0], str) else "number")
        self.current.append(Column(spelled, kind, primary))
        self.nouns[table, spelled] = replace(noun, name=spelled)
        self.values[table, spelled] = values
        return spelled

    def prefixed(self, table, noun, entity):
        """Add a column, at times with the table's name before its own."""
        if self.rng.random() >= self.style.own_prefix:
            return self.column(table, noun)
        long = f"{entity.forms[0]} {noun.forms[0]}"
        noun = replace(noun, forms=noun.forms + (long,))
        return self.column(table, noun, spelled=self.style.spell(long))

    def key(self, table, entity):
        rng, name, habit = self.rng, entity.forms[0], self.style.key
        if rng.random() < 0.06:
            habit = rng.choice(("none", "id", "{e} id", "{e} code"))
        if habit == "none":
            return
        codes = "code" in habit and rng.random() < 0.7
        values = self.samples("code") if codes else sorted(rng.sample(range(1, 40), 8))
        if not codes and rng.random() < 0.3:
            values = [v + rng.choice((100, 1000, 10000)) for v in values]
        text = name[0] + "id" if habit == "initial" else habit.format(e=name)
        forms = ("id", text) if habit == "initial" else dict.fromkeys((text, text.split()[-1]))
        self.keys[table] = self.column(table, Noun(tuple(forms), "key"), values, True,
                                       self.style.spell(text))

    def label(self, table, entity):
        """The column that rows are called by."""
        rng, name = self.rng, entity.forms[0]
        form = rng.choice(("name",) * 7 + ("title", "title", "label", "full name", "description"))
        kind = rng.choice(("title", "title", "word", "brand", "city"))
        if entity.kind == "person":
            form = "name" if form == "title" else form
            kind = "person" if rng.random() < 0.85 else kind
            if rng.random() < 0.15:
                self.column(table, Noun(("first name",), "first"))
                form, kind = "last name", "last"
        if kind != "last" and rng.random() < 0.08 and len(name) > 3:
            self.labels[table] = self.column(table, Noun((name, f"{name} name", "name"), kind))
        else:
            self.labels[table] = self.prefixed(table, Noun((form,), kind), entity)

    def reference(self, table, parent):
        """A foreign key column: named like the key, like the parent or like a role."""
        rng, key = self.rng, self.keys.get(parent)
        if not key:
            return
        key_forms, name = self.nouns[parent, key].forms, self.nouns[parent, None].forms[0]
        short, draw, role, spelled = key_forms[-1], rng.random(), "", None
        twice = parent == table or any(e[0] == table and e[2] == parent for e in self.edges)
        if twice or draw < 0.12:
            role = self.lexicon.say(rng, "role", {"e": name})
            forms = (rng.choice((role, f"{role} {short}")), role)
        elif draw < 0.22:
            forms = (name, f"{name} {short}")
        else:
            bare = key_forms[0] in ("id", "code", name[0] + "id")
            forms = (f"{name} {short}",) if bare else key_forms[:1]
            spelled = key if " " in key_forms[0] else None
        column = self.column(table, Noun(forms, "link"), self.values[parent, key], spelled=spelled)
        if column:
            self.edges.append((table, column, parent, key, role))
            if rng.random() >= 0.05:
                self.declared.append((table, column, parent, key))


def add_table(draft, links=()):
    """One table: key, a naming column, attributes and foreign keys to the linked tables."""
    rng, bridge = draft.rng, len(set(links)) > 1
    entity, table = draft.entity()
    kind = "bridge" if bridge else entity.kind
    draft.nouns[table, None] = Noun(entity.forms, kind, name=table)
    draft.current, draft.labels[table] = [], None
    if not bridge or rng.random() < 0.3:
        draft.key(table, entity)
    if not bridge and rng.random() < 0.8:
        draft.label(table, entity)
    for _ in range(rng.choice((0, 0, 1, 1, 2) if bridge else (1, 2, 2, 3, 3, 4, 4, 5, 6, 9))):
        draft.prefixed(table, draft.attribute(), entity)
    for parent in links:
        draft.reference(table, parent)
    if not bridge and rng.random() < 0.04 and draft.keys.get(table):
        draft.reference(table, table)
    if not draft.current:
        draft.column(table, Noun(("value",), "small"))
    first, *others = draft.current
    if rng.random() < 0.1:
        rng.shuffle(others)
    draft.tables.append(Table(table, (first, *others)))


def distinct_nouns(nouns):
    """Drop other readings that would also fit another name; add unambiguous short ones."""
    seen = Counter(form for noun in nouns.values() for form in set(noun.forms))
    parts = Counter(part for noun in nouns.values() for part in set(noun.forms[0].split()))
    result = {}
    for (table, column), noun in nouns.items():
        own = column is not None and noun.kind in ("key", "person", "title", "word", "link")
        keep = [f for f in noun.forms[1:] if seen[f] == 1 or own]
        last = noun.forms[0].split()[-1]
        if noun.kind not in ("key", "link") and parts[last] == 1 and len(last) > 2:
            keep.append(last)
        result[table, column] = replace(noun, forms=tuple(dict.fromkeys([noun.forms[0], *keep])))
    return result


def random_database(rng, lexicon, max_tables=None):
    """A random schema with sample values and the words people use for its names."""
    draft = Draft(rng, lexicon)
    count = rng.choices((1, 2, 3, 4, 5, 6, 7), (14, 30, 29, 14, 7, 3, 3))[0]
    while len(draft.tables) < min(count, max_tables or count):
        keyed = [t.name for t in draft.tables if draft.keys.get(t.name)]
        if len(keyed) > 1 and rng.random() < 0.62:
            add_table(draft, rng.sample(keyed, 2))
        elif keyed and rng.random() < 0.9:
            add_table(draft, [rng.choice(keyed)] * (2 if rng.random() < 0.06 else 1))
        else:
            add_table(draft)
    tables = tuple(draft.tables)
    if rng.random() < 0.4:
        tables = tuple(rng.sample(tables, len(tables)))
    schema = Schema(lexicon.open_name(rng).replace(" ", "_"), tables, tuple(draft.declared))
    return RandomDatabase(schema, draft.values, distinct_nouns(draft.nouns), tuple(draft.edges),
                          draft.labels)
