"""Write data/demo: eight databases and their questions, byte for byte the same on every run.

    python data/demo/make.py              rewrite data/demo and print the counts
    python data/demo/make.py --show 100   print 100 random questions with SQL and first row

A question is drawn as a noun phrase ("books written by Jules Verne with more than 300 pages")
that carries its own FROM and WHERE, put into one of the KINDS of question below. Every query is
executed while drawing: one that returns nothing, only NULLs, a tie under its LIMIT or the same
rows without one of its conditions is thrown away. A query's text belongs to one split only.
Phrasings marked ~ (here and in phrases.py) occur in test only, in about a quarter of its
questions; the count is printed.

One way of writing per meaning: the table of the first selected column comes first in FROM; "the
most" is ORDER BY ... LIMIT 1; "without any" NOT IN; "at least one" IN; "both" INTERSECT; "but
not" EXCEPT; what a one-to-many join could repeat is selected DISTINCT.
"""

import argparse
import bisect
import itertools
import json
import random
import re
import sqlite3
import sys
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.demo.phrases import WORLDS, fill_rows  # noqa: E402

DEMO = Path(__file__).resolve().parent
SPLITS = {"train": 500, "val": 300, "test": 1100}
AGAIN = 0.15                 # share of questions that ask for a query of their split once more
NEW_IN_TEST = 0.15           # how often a ~ phrase is taken where there is one
MAX_ROWS = 40                # nobody reads a longer answer


# ---------------------------------------------------------------------------------------------
# Words

PLURALS = {"aircraft": "aircraft", "dish": "dishes", "class": "classes", "match": "matches",
           "gross": "grosses", "stock": "stock levels", "experience": "experience",
           "insurance": "insurance companies"}


def plural(noun):
    """'city' -> 'cities', 'year of birth' -> 'years of birth', 'home goals' -> 'home goals'."""
    if noun.startswith("number of"):
        return noun
    head, tail = re.fullmatch(r"(.*?)( (?:of|in|on|per) .*)?", noun).groups("")
    *before, word = head.split(" ")
    ending = word + "s" * (not word.endswith("s"))
    word = PLURALS.get(word) or re.sub(r"(?<=[^aeo])ys$", "ies", ending)
    return " ".join([*before, word]) + tail


def is_are(noun):
    one = noun != plural(noun) or noun in PLURALS or noun.startswith("number of")
    return "is" if one else "are"


def article_fits(noun):
    """'a price of at least 5', but no 'a goals of' or 'a length in days of'."""
    return noun != plural(noun) and not re.search(" (of|in) ", noun)


def listing(words):
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def verbs(text, one):
    """Resolve [plural/singular] verbs."""
    return re.sub(r"\[(.*?)/(.*?)\]", r"\2" if one else r"\1", text)


def either(*templates):
    return "|".join(t for t in templates if t)


def literal(value):
    return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(value)


# ---------------------------------------------------------------------------------------------
# Noun phrases with their FROM and WHERE

RELATIVE = ("who ", "that ", "which ", "whose ", "where ")
PREPOSITIONS = ("to ", "from ", "of ", "by ", "in ", "on ", "at ", "for ", "about ")


class Reject(Exception):
    """The draw makes no sensible question; the caller draws again."""


@dataclass
class Phrase:
    """Rows of one table in words and in SQL. Sources are (table, joined to which source, its
    column, own column), the first being the table itself; conditions are (source, column name,
    operator and operand, where {col} repeats the column)."""
    table: object
    noun: str
    before: list = field(default_factory=list)
    after: list = field(default_factory=list)
    sources: list = field(default_factory=list)
    where: list = field(default_factory=list)
    joint: str = "AND"
    many: bool = False                     # a join may repeat rows of the table

    def modify(self, template):
        before, after = (part.strip() for part in template.split("*"))
        self.before[:0] = [before] if before else []
        self.after += [after] if after else []

    def text(self, one=False, superlative="*"):
        """The noun phrase; a superlative goes outermost: 'longest fantasy book by King'."""
        first, last = (part.strip() for part in superlative.split("*"))
        words = [first, *self.before, self.noun if one else plural(self.noun)]
        for i, after in enumerate(self.after):
            words += [self.link(self.after[i - 1], after) if i else "", self.spoken(after, one)]
        if self.after and last and not last.startswith("with "):
            raise Reject
        if last and any(f" {w}" in f" {a}" for a in self.after for w in ("with ", *RELATIVE)):
            raise Reject                   # "players who are from Peru with the most goals"
        return " ".join(w for w in [*words, self.spoken(last, one)] if w)

    def spoken(self, after, one):
        return verbs(re.sub(r"^which ", "that ", re.sub(r"^\(\w+\) ", "", after)), one)

    def link(self, previous, following):
        """The joint between two descriptions, '' where English needs none."""
        previous, following = (self.spoken(p, False) for p in (previous, following))
        relative = [p.startswith(RELATIVE) for p in (previous, following)]
        if self.joint == "OR":
            if relative[0] != relative[1]:
                raise Reject
            return "or"
        if relative == [True, False]:
            raise Reject                   # "players who play for X from Peru"
        if previous.startswith("with "):
            return "and"
        return "" if relative == [False, True] or following.startswith(("with ", *PREPOSITIONS)) \
            else "and"

    def predicate(self):
        """'were written by X and have more than 300 pages'; None where the words give no verb."""
        parts = []
        for after in self.after:
            verb = re.match(r"\((\w+)\) |(with )|who |that ", after)
            if not verb:
                return None
            auxiliary = verb[1] or ("have" if verb[2] else "")
            parts.append(verbs(f"{auxiliary} {after[verb.end():]}".strip(), one=False))
        return f" {self.joint.lower()} ".join(parts) or None

    def attach(self, steps, inner):
        """Join another phrase along steps, which are sources; returns the inner one's number."""
        at = 0
        for table, left, right in steps:
            self.sources.append((table, at, left, right))
            at = len(self.sources) - 1
        self.sources += [(t, i + at, left, right) for t, i, left, right in inner.sources[1:]]
        self.where += [(i + at, c, op) for i, c, op in inner.where]
        return at

    def column(self, name, source=0):
        return name if len(self.sources) == 1 else f"T{source + 1}.{name}"

    def tail(self, where=None):
        """' FROM ... WHERE ...', on request with other conditions than its own."""
        where = self.where if where is None else where
        tables = [t for t, *_ in self.sources]
        if len(tables) > 1:
            tables = [f"{t} AS T{i + 1}" for i, t in enumerate(tables)]
        joins = [f" JOIN {tables[i]} ON T{at + 1}.{left} = T{i + 1}.{right}"
                 for i, (_, at, left, right) in enumerate(self.sources) if i]
        terms = f" {self.joint} ".join(("{col} " + op).replace("{col}", self.column(c, i))
                                       for i, c, op in where)
        return f" FROM {tables[0]}" + "".join(joins) + (f" WHERE {terms}" if terms else "")

    def select(self, *columns, distinct=None):
        distinct = self.many if distinct is None else distinct
        names = ", ".join(self.column(c.name) for c in columns)
        return f"SELECT {'DISTINCT ' * distinct}{names}{self.tail()}"

    def settled(self):
        """Names of own columns that a condition already speaks about."""
        return {c for i, c, _ in self.where if i == 0}


# ---------------------------------------------------------------------------------------------
# Drawing the parts of a question

class Asker:
    """Draws phrases about one world. `rng` decides what is asked, `words` how: with the same
    state of rng and another of words, the same query is asked in another way."""

    def __init__(self, world, db):
        self.world, self.db, self.rng, self.words = world, db, None, None
        self.test = False                  # asks for the test split
        self.new = False                   # has used a ~ phrase
        self.values = {}
        for tab in world.tables:
            for col in tab.columns:
                rows = self.rows(f"SELECT DISTINCT {col.name} FROM {tab.name}")
                self.values[tab.name, col.name] = [r[0] for r in rows if r[0] is not None]

    def rows(self, sql):
        return self.db.execute(sql).fetchall()

    # Chance -----------------------------------------------------------------------------------

    def pick(self, items):
        items = list(items)
        if not items:
            raise Reject
        return self.rng.choice(items)

    def maybe(self, share):
        return self.rng.random() < share

    def wording(self, share):
        return self.words.random() < share

    def say(self, text):
        """One of the alternatives."""
        options = text.split("|")
        new = [o[1:] for o in options if o.startswith("~")]
        if new and self.test and self.wording(NEW_IN_TEST):
            self.new = True
            return self.words.choice(new)
        return self.words.choice([o for o in options if not o.startswith("~")])

    # Words for tables, columns and rows ---------------------------------------------------------

    def noun(self, col):
        """The column in words, mostly its first noun, which is close to its name."""
        return col.nouns.split("|")[0] if self.wording(0.4) else self.say(col.nouns)

    def nouns(self, *cols):
        """Several columns in the plural; 'numbers of' is no English."""
        return listing([plural(n) if not n.startswith("number of") else
                        plural(c.nouns.split("|")[0]) for c in cols for n in [self.noun(c)]])

    def phrase(self, tab):
        first = tab.nouns.split("|")[0]
        noun = first if self.wording(0.6) else self.say(tab.nouns)
        return Phrase(tab, noun, sources=[(tab.name, 0, "", "")])

    def all(self, phrase):
        bare = not phrase.after and not phrase.before
        return self.say(f"all {phrase.text()}|the {phrase.text()}") if bare else phrase.text()

    def which(self, phrase, cols):
        """'Which books were written by X?' for a question about names, else None."""
        verb = phrase.predicate()
        if verb and [c.name for c in cols] == [phrase.table.label] and self.wording(0.5):
            return f"Which {' '.join([*phrase.before, plural(phrase.noun)])} {verb}?"
        return None

    def list_of(self, phrase, cols):
        return self.which(phrase, cols) or self.say(LIST).format(
            cols=self.nouns(*cols), rows=self.all(phrase))

    def one_of(self, columns, rows):
        """'What is the price of ...' for nouns in the singular."""
        verb = "is" if len(columns) == 1 else "are"
        return self.say(ONE).format(be=verb, cols=listing(columns), rows=rows)

    # Columns and values -------------------------------------------------------------------------

    def columns(self, tab, *kinds):
        return [c for c in tab.columns if c.kind in (kinds or DATA)]

    def label(self, tab):
        return [tab[tab.label]] if tab.label else []

    def others(self, tab, *kinds):
        return [c for c in self.columns(tab, *kinds) if c.name != tab.label]

    def groups(self, tab, besides=()):
        """Text columns that sort rows into a few groups."""
        size = self.rows(f"SELECT COUNT(*) FROM {tab.name}")[0][0]
        return [c for c in self.others(tab, "text") if not c.null and c.name not in besides
                and len(self.values[tab.name, c.name]) < 0.7 * size]

    def shown(self, phrase, most=2):
        """Columns to ask for, the label first or alone more often than not."""
        tab = phrase.table
        rest = [c for c in self.others(tab) if c.name not in phrase.settled()]
        label = self.label(tab)
        extra = self.rng.sample(rest, min(len(rest), self.rng.choice((1, 1, most))))
        return self.pick(cols for cols in (label, label, extra, label + extra[:1])[not label:]
                         if cols)

    def threshold(self, tab, col):
        """A value people would name: inside the middle of the range and round."""
        values = sorted(self.values[tab.name, col.name])
        value = values[int(len(values) * self.rng.uniform(0.2, 0.8))]
        if col.kind == "date":
            return value[:8] + self.rng.choice(("01", "15"))
        if col.kind == "year":
            return value
        steps = ((10, 0.5 if col.type == "REAL" else 1), (60, 1), (200, 5), (1000, 10),
                 (5000, 100), (20000, 500), (10 ** 9, 1000))
        step = next(step for limit, step in steps if value <= limit)
        value = round(value / step) * step
        return int(value) if value == int(value) else value

    # Conditions ---------------------------------------------------------------------------------

    def add_condition(self, phrase):
        """Add one condition on a column of the phrase's own table."""
        tab = phrase.table
        cols = self.others(tab) + self.label(tab) * self.maybe(0.3)
        col = self.pick(c for c in cols if c.name not in phrase.settled()
                        and (c.say or c.name == tab.label))
        condition = (self.like if col.name == tab.label else
                     self.equal if col.kind == "text" else self.compared)
        template, op = condition(col, tab)
        phrase.modify(template)
        phrase.where.append((0, col.name, op))

    def equal(self, col, tab):
        values = self.values[tab.name, col.name]
        value, form = self.pick(values), self.rng.choice(("eq", "eq", "eq", "eq", "ne", "or"))
        if form == "ne" and "ne" in col.say:
            return self.say(col.say["ne"]).format(value), f"!= {literal(value)}"
        words, op = self.say(col.say["eq"]), f"= {literal(value)}"
        if form == "or":
            other = self.pick(v for v in values if v != value)
            return words.format(f"{value} or {other}"), f"{op} OR {{col}} = {literal(other)}"
        return words.format(value), op

    def like(self, col, tab):
        noun, value = col.nouns.split("|")[0], self.pick(self.values[tab.name, col.name])
        if self.maybe(0.4):
            start = value[:1]
            return self.say(f"* whose {noun} starts with {start}|* with a {noun} starting with "
                            f"{start}|~* whose {noun} begins with {start}"), f"LIKE '{start}%'"
        word = self.pick(w for w in value.split()[:9 * (" " in value)]
                         if len(w) > 3 and w.isalpha())
        return self.say(f"* whose {noun} contains {word}|* with {word} in their {noun}|"
                        f"~* whose {noun} has {word} in it"), f"LIKE '%{word}%'"

    def compared(self, col, tab):
        noun, number = self.noun(col), col.kind == "number"
        be, single = is_are(noun), article_fits(noun)
        low, high = sorted((self.threshold(tab, col), self.threshold(tab, col)))
        form = self.rng.choice(("gt", "gt", "gt", "lt", "lt", "lt", "mid", "eq", "ge"))
        if number and low < 2:
            raise Reject                   # "fewer than 0", "more than 1 goals"
        if form == "eq" and "eq" in col.say:
            value = self.pick(self.values[tab.name, col.name])
            return self.say(col.say["eq"]).format(value), f"= {literal(value)}"
        if form == "mid" and low < high:
            words = either(col.say.get("mid"), f"* whose {noun} {be} between {{}} and {{}}")
            return (self.say(words).format(low, high),
                    f"BETWEEN {literal(low)} AND {literal(high)}")
        if form == "ge" and number:
            op, word = self.rng.choice(((">=", "at least"), ("<=", "at most")))
            words = either(f"* whose {noun} {be} {word} {{}}",
                           single and f"* with a {noun} of {word} {{}}")
            return self.say(words).format(low), f"{op} {literal(low)}"
        side = form if form in ("gt", "lt") else "gt"
        plain = {"gt": "above" if number else "after", "lt": "below" if number else "before"}
        words = either(col.say.get(side), f"* whose {noun} {be} {plain[side]} {{}}")
        return self.say(words).format(low), f"{'>' if side == 'gt' else '<'} {literal(low)}"

    def described(self, tab, conditions, alternatives=False):
        """A phrase with so many conditions on its own columns, each of which matters."""
        phrase = self.phrase(tab)
        for _ in range(conditions):
            self.add_condition(phrase)
        if alternatives and len(phrase.where) == len(phrase.after) == 2 and self.maybe(0.25):
            phrase.joint = "OR"
        return self.checked(phrase)

    def checked(self, phrase):
        """The phrase if it has rows and none of its conditions is idle."""
        if len(phrase.where) > 1 and any(" OR " in op for *_, op in phrase.where):
            raise Reject                   # would need brackets
        key = phrase.column(phrase.table.key)
        wheres = [phrase.where] + [phrase.where[:i] + phrase.where[i + 1:]
                                   for i in range(len(phrase.where))]
        full, *rest = (self.rows(f"SELECT COUNT(DISTINCT {key}), COUNT(*){phrase.tail(w)}")[0]
                       for w in wheres)
        if not full[0] or full in rest:
            raise Reject
        return phrase

    # Relations ----------------------------------------------------------------------------------

    def ends(self, rel):
        """(table a, table b, steps from a to b, steps from b to a)."""
        edges = [e.split(".") for e in rel.path.split("+")]
        child = self.world[edges[0][0]]
        targets = [self.world[child[c].fk] for _, c in edges]
        (_, col), b = edges[0], targets[0]
        if len(edges) == 1:
            return child, b, [(b.name, col, b.key)], [(child.name, b.key, col)]
        (_, col2), a, b = edges[1], *targets
        return (a, b, [(child.name, a.key, col), (b.name, col2, b.key)],
                [(child.name, b.key, col2), (a.name, col, a.key)])

    def side(self, rel, side):
        """(table, the other table, steps there) as seen from end a or b."""
        a, b, down, up = self.ends(rel)
        return (a, b, down) if side == "a" else (b, a, up)

    def sides(self, tab, *sides):
        """The (relation, side) pairs that can describe rows of the table."""
        return [(r, s) for r in self.world.relations for s in sides
                if r.say.get(s) and self.side(r, s)[0] is tab]

    def inner(self, tab, coming, named):
        """What stands inside a relation's phrase: a name, rows with a condition, or (if coming
        by a relation) rows related to others in turn."""
        if tab.label and named and self.maybe(0.6):
            phrase, value = self.phrase(tab), self.pick(self.values[tab.name, tab.label])
            phrase.where.append((0, tab.label, f"= {literal(value)}"))
            return phrase, tab.named.format(value)
        phrase = self.related(tab, coming) if coming else self.described(tab, 1)
        return phrase, phrase.text()

    def relate(self, phrase, rel, side, depth):
        """Describe the phrase's rows through a relation. A parent with one named child is left
        to `ask_who`, which speaks of it in the singular."""
        _, other, steps = self.side(rel, side)
        repeats = side == "b" or "+" in rel.path
        inner, words = self.inner(other, depth and rel, side == "a" or "+" in rel.path)
        phrase.modify(self.say(rel.say[side]).replace("{}", words))
        phrase.attach(steps, inner)
        phrase.many |= inner.many or repeats

    def related(self, tab, coming=None, own=0, depth=0, second=0):
        """Rows described through a relation other than the one we come by, with own conditions;
        depth 1: its inner rows are related in turn; second: and through another relation."""
        phrase = self.described(tab, own)
        rel, side = self.pick(s for s in self.sides(tab, "a", "b") if s[0] is not coming)
        self.relate(phrase, rel, side, depth)
        if second:
            self.relate(phrase, *self.pick(s for s in self.sides(tab, "a") if s[0] is not rel), 0)
        if len(phrase.sources) > 3:
            raise Reject
        return self.checked(phrase)

    def any_phrase(self, join):
        """A noun phrase for the question kinds below; join: over two or three tables."""
        tab = self.pick(self.world.tables)
        if not join:
            return self.described(tab, self.rng.choice((0, 1, 1, 1, 2, 2)), alternatives=True)
        extra = self.rng.choice(({}, {}, {}, {"own": 1}, {"own": 1}, {"depth": 1}, {"depth": 1},
                                 {"second": 1}, {"second": 1}))
        return self.related(tab, **extra)


# ---------------------------------------------------------------------------------------------
# Kinds of question: each returns (question, SQL)

DATA = ("text", "number", "year", "date")
LIST = ("What are the {cols} of {rows}?|List the {cols} of {rows}.|Show the {cols} of {rows}.|"
        "Give me the {cols} of {rows}.|Find the {cols} of {rows}.|~I need the {cols} of {rows}.|"
        "~Can you tell me the {cols} of {rows}?|~Return the {cols} of {rows}.")
ONE = ("What {be} the {cols} of {rows}?|Give me the {cols} of {rows}.|Find the {cols} of {rows}.|"
       "~Tell me the {cols} of {rows}.")
COUNT = ("How many {rows} are there?|What is the number of {rows}?|Count the {rows}.|"
         "~Tell me how many {rows} there are.|~Find the total number of {rows}.")
AGGREGATES = {"AVG": "average|~mean", "MAX": "highest|maximum", "MIN": "lowest|minimum",
              "SUM": "total"}
TIMES = {"MAX": "latest|most recent", "MIN": "earliest"}


def aggregate(q, tab, besides=()):
    """(words, function, column) such as ('average price', 'AVG', price)."""
    col = q.pick(c for c in q.columns(tab, "number", "year", "date") if c.name not in besides)
    names = AGGREGATES if col.kind == "number" else TIMES
    function = q.pick(f for f in names if f != "SUM" or col.total)
    return f"{q.say(names[function])} {q.noun(col)}", function, col


def ask_list(q, join=False):
    phrase = q.any_phrase(join)
    cols = q.shown(phrase)
    if phrase.many and cols[0].name != phrase.table.label:
        raise Reject                       # DISTINCT would merge different rows
    return q.list_of(phrase, cols), phrase.select(*cols)


def ask_count(q, join=False):
    phrase = q.any_phrase(join)
    what = f"DISTINCT {phrase.column(phrase.table.key)}" if phrase.many else "*"
    verb, sql = phrase.predicate(), f"SELECT COUNT({what}){phrase.tail()}"
    if verb and q.wording(0.5):
        return f"How many {' '.join([*phrase.before, plural(phrase.noun)])} {verb}?", sql
    return q.say(COUNT).format(rows=phrase.text()), sql


def ask_aggregate(q, join=False):
    phrase = q.any_phrase(join)
    if phrase.many:
        raise Reject                       # would count rows twice
    words, function, col = aggregate(q, phrase.table, phrase.settled())
    words, functions = [words], [function]
    if col.kind == "number" and q.maybe(0.2):
        functions = q.rng.sample(("MIN", "MAX", "AVG"), 2)
        plain = {"MIN": "minimum", "MAX": "maximum", "AVG": "average"}
        words = [f"{listing([plain[f] for f in functions])} {q.noun(col)}"] * 2
    select = ", ".join(f"{f}({phrase.column(col.name)})" for f in functions)
    asked = q.one_of(words, q.all(phrase)).replace(f"{words[0]} and {words[0]}", words[0])
    return asked, f"SELECT {select}{phrase.tail()}"


def ask_named(q):
    """One or two columns of a row called by its name."""
    tab = q.pick(t for t in q.world.tables if t.label)
    value = q.pick(q.values[tab.name, tab.label])
    cols = q.rng.sample(q.others(tab), min(len(q.others(tab)), q.rng.choice((1, 1, 2))))
    phrase, called = q.phrase(tab), tab.named.format(value)
    phrase.where.append((0, tab.label, f"= {literal(value)}"))
    sql = phrase.select(*cols)
    if len(cols) == 1 and "ask" in cols[0].say and q.wording(0.6):
        words = q.say(cols[0].say["ask"]).replace("{noun}", q.noun(cols[0]))
        return words.format(called) + "?", sql
    return q.one_of([q.noun(c) for c in cols], called), sql


def ask_distinct(q, join=False):
    phrase = q.any_phrase(join)
    col = q.pick(q.groups(phrase.table, phrase.settled()))
    nouns, rows = q.nouns(col), phrase.text()
    if q.maybe(0.4):
        words = (f"How many different {nouns} do {rows} have?|What is the number of distinct "
                 f"{nouns} among {rows}?|How many distinct {nouns} are there among {rows}?|"
                 f"~Count the different {nouns} among {rows}.")
        return q.say(words), f"SELECT COUNT(DISTINCT {phrase.column(col.name)}){phrase.tail()}"
    words = (f"What are the different {nouns} of {rows}?|List the distinct {nouns} of {rows}.|"
             f"Show all different {nouns} of {rows}.|~Which {nouns} occur among {rows}?")
    return q.say(words), phrase.select(col, distinct=True)


@dataclass
class Groups:
    """Rows of a table in words and SQL, put into groups."""
    table: object
    rows: str
    phrase: Phrase                         # FROM and WHERE
    at: int                                # the table's source in the phrase
    col: object                            # the grouping column, of the phrase's first table
    noun: str
    each: bool = False                     # the column's `each` and `top` phrases fit

    @property
    def sql(self):
        return self.phrase.column(self.col.name)

    def query(self, select, rest=""):
        return f"SELECT {select}{self.phrase.tail()} GROUP BY {self.sql}{rest}"


def grouped(q, join):
    """Groups by a column of the table itself or of the one it belongs to."""
    tab = q.pick(q.world.tables)
    inner = q.described(tab, q.rng.choice((0, 0, 1)) * (not join))
    if not join:
        col = q.pick(q.groups(tab, inner.settled()))
        return Groups(tab, inner.text(), inner, 0, col, q.noun(col), not inner.after)
    rel = q.pick(r for r in q.world.relations if r.say.get("role") and q.ends(r)[0] is tab)
    parent, _, steps = q.side(rel, "b")
    phrase, col = q.phrase(parent), q.pick(q.groups(parent))
    at = phrase.attach(steps, inner)
    role = q.pick(r for r in rel.say["role"].split("|") if "~" not in r and " of " not in r)
    return Groups(tab, inner.text(), phrase, at, col, f"{role} {col.nouns.split('|')[0]}")


def ask_group(q, join=False):
    """A count or an aggregate per group."""
    g = grouped(q, join)
    noun, rows = g.noun, g.rows
    if q.maybe(0.55):
        sql = g.query(f"{g.sql}, COUNT(*)")
        if g.each and "each" in g.col.say and q.wording(0.5):
            return f"How many {rows} {q.say(g.col.say['each']).format(f'each {noun}')}?", sql
        return q.say(f"How many {rows} are there for each {noun}?|What is the number of {rows} "
                     f"for each {noun}?|Show each {noun} and the number of {rows}.|"
                     f"For each {noun}, count the {rows}.|"
                     f"~Break down the number of {rows} by {noun}."), sql
    words, function, value = aggregate(q, g.table, g.phrase.settled() if not g.at else ())
    sql = g.query(f"{g.sql}, {function}({g.phrase.column(value.name, g.at)})")
    return q.say(f"What is the {words} of {rows} for each {noun}?|"
                 f"Show each {noun} with the {words} of {rows}.|"
                 f"For each {noun}, find the {words} of {rows}.|"
                 f"~Compare the {words} of {rows} by {noun}."), sql


def ask_top_group(q, join=False):
    g = grouped(q, join)
    noun, rows, order = g.noun, g.rows, "COUNT(*)"
    if q.maybe(0.7):
        words = (f"Which {noun} has the most {rows}?|What is the most common {noun} among {rows}?|"
                 f"Which {noun} is the most frequent among {rows}?|"
                 f"~Which {noun} comes up most often among {rows}?")
        if g.each and "top" in g.col.say and q.wording(0.4):
            words = q.say(g.col.say["top"]).format(noun).replace("#", rows) + "?"
    else:
        value = q.pick(c for c in q.columns(g.table, "number") if c.name not in g.phrase.settled())
        order = f"AVG({g.phrase.column(value.name, g.at)})"
        words = (f"Which {noun} has the highest average {q.noun(value)} of {rows}?|"
                 f"For which {noun} is the average {q.noun(value)} of {rows} the highest?")
    return q.say(words), g.query(g.sql, f" ORDER BY {order} DESC LIMIT 1")


LIMITS = ((">", "more than", 2), (">", "more than", 3), (">", "more than", 5),
          (">=", "at least", 2), (">=", "at least", 3), (">=", "at least", 4), ("=", "exactly", 2),
          ("=", "exactly", 3), ("<", "fewer than", 4))


def ask_having(q, join=False):
    g = grouped(q, join)
    noun, rows = g.noun, g.rows
    if q.maybe(0.7):
        op, word, n = q.rng.choice(LIMITS)
        having = f"COUNT(*) {op} {n}"
        words = (f"For which {noun} are there {word} {n} {rows}?|List each {noun} that has {word} "
                 f"{n} {rows}.|~Find every {noun} with {word} {n} {rows}.")
        words += "" if join else f"|Which {plural(noun)} have {word} {n} {rows}?" * 2
    else:
        value = q.pick(c for c in q.columns(g.table, "number") if c.name not in g.phrase.settled())
        limit, what = q.threshold(g.table, value), q.noun(value)
        having = f"AVG({g.phrase.column(value.name, g.at)}) > {limit}"
        words = (f"For which {noun} is the average {what} of {rows} above {limit}?|"
                 f"List each {noun} where the average {what} of {rows} is more than {limit}.")
    if len(q.rows(g.query(g.sql, f" HAVING {having}"))) == len(q.rows(g.query(g.sql))):
        raise Reject
    return q.say(words), g.query(g.sql, f" HAVING {having}")


def superlative(q, col, side):
    """'longest *', '* with the lowest fare'."""
    if side == "lo" and col.null:
        raise Reject                       # NULL would come first
    number = col.kind == "number"
    plain = {"hi": "highest" if number else "latest", "lo": "lowest" if number else "earliest"}
    noun = q.noun(col)
    return q.say(either(col.say.get(side), f"* with the {plain[side]} {noun}"))


def ask_top(q, join=False):
    """The row, or the first few, by a number or date."""
    phrase = q.any_phrase(join)
    if phrase.many or phrase.joint == "OR":
        raise Reject
    col = q.pick(c for c in q.columns(phrase.table, "number", "year", "date")
                 if c.name not in phrase.settled())
    side, k = q.rng.choice(("hi", "hi", "lo")), q.rng.choice((1, 1, 1, 1, 2, 3, 3, 5))
    template = superlative(q, col, side)
    cols = [c for c in q.shown(phrase) if c is not col]
    if not cols:
        raise Reject
    order = f" ORDER BY {phrase.column(col.name)}{' DESC' * (side == 'hi')} LIMIT {k}"
    sql = phrase.select(*cols) + order
    if k > 1:
        first, last = template.split("*")
        words = phrase.text(superlative=f"{k} {first}*{last}")
        return q.say(LIST).format(cols=q.nouns(*cols), rows=f"the {words}"), sql
    words = phrase.text(one=True, superlative=template)
    if [c.name for c in cols] == [phrase.table.label] and q.wording(0.5):
        return q.say(f"What is the {words}?|Which is the {words}?|Find the {words}."
                     if not phrase.table.person else f"Who is the {words}?|Find the {words}."), sql
    return q.one_of([q.noun(c) for c in cols], f"the {words}"), sql


def order_words(q, col, down):
    noun, ends = q.noun(col), {s: col.say.get(s, "").split("|")[0] for s in ("hi", "lo")}
    if col.kind == "text":
        return q.say(f"in alphabetical order of {noun}|sorted by {noun}|ordered by {noun}")
    if all(e.endswith(" *") for e in ends.values()) and q.wording(0.3):
        first, last = ("hi", "lo") if down else ("lo", "hi")
        return f"from {ends[first][:-2]} to {ends[last][:-2]}"
    if col.kind == "number":
        return q.say(f"from highest to lowest {noun}|in descending order of {noun}|"
                     f"sorted by {noun} in descending order|~with the highest {noun} first" if down
                     else f"from lowest to highest {noun}|in ascending order of {noun}|"
                     f"sorted by {noun}|ordered by {noun}")
    return q.say(f"from latest to earliest {noun}|sorted by {noun}, most recent first" if down else
                 f"in order of {noun}|sorted by {noun}|from earliest to latest {noun}")


def ask_sorted(q, join=False):
    phrase = q.any_phrase(join)
    if phrase.many:
        raise Reject
    cols = q.shown(phrase)
    orders = q.columns(phrase.table, "number", "year", "date") + q.label(phrase.table)
    col = q.pick(c for c in orders
                 if "= " not in "".join(op for _, n, op in phrase.where if n == c.name))
    down = q.maybe(0.5) and col.kind != "text"
    names, rows, how = q.nouns(*cols), q.all(phrase), order_words(q, col, down)
    return (q.say(f"List the {names} of {rows} {how}.|Show the {names} of {rows} {how}.|"
                  f"What are the {names} of {rows}, {how}?|~Give me the {names} of {rows} {how}."),
            phrase.select(*cols) + f" ORDER BY {phrase.column(col.name)}{' DESC' * down}")


# Questions that need a join ---------------------------------------------------------------------

def parent_of(q, *needs):
    """A foreign key whose relation has the phrases needed: (relation, child, parent, steps up)."""
    rel = q.pick(r for r in q.world.relations if "+" not in r.path
                 and all(r.say.get(n) for n in needs))
    child, parent, _, steps = q.ends(rel)
    return rel, child, parent, steps


def ask_who(q):
    """'Who wrote Emma?', 'Who wrote the longest book?', 'the country of the author of Emma'."""
    rel, child, parent, steps = parent_of(q, "who")
    phrase, value = q.phrase(parent), q.pick(q.values[child.name, child.label])
    phrase.attach(steps, q.phrase(child))
    order, called = "", child.named.format(value)
    if q.maybe(0.35):
        col, side = q.pick(q.columns(child, "number", "year", "date")), q.rng.choice(("hi", "lo"))
        called = "the " + q.phrase(child).text(one=True, superlative=superlative(q, col, side))
        order = f" ORDER BY {phrase.column(col.name, 1)}{' DESC' * (side == 'hi')} LIMIT 1"
    else:
        phrase.where.append((1, child.label, f"= {literal(value)}"))
    if q.maybe(0.6):
        return q.say(rel.say["who"]).format(called) + "?", phrase.select(*q.label(parent)) + order
    cols = q.label(parent) * q.maybe(0.3) + [q.pick(q.others(parent))]
    role = q.say(rel.say["role"])
    return (q.one_of([q.noun(c) for c in cols], f"the {role} of {called}"),
            phrase.select(*cols) + order)


def ask_pairs(q):
    """Columns of both sides: 'the titles of crime books and the names of their authors'."""
    rel, child, parent, _ = parent_of(q, "role")
    phrase = q.described(child, q.rng.choice((0, 1, 1)))
    mine, theirs = q.shown(phrase, 1)[0], q.shown(q.phrase(parent), 1)[0]
    at = phrase.attach(q.ends(rel)[2], q.phrase(parent))
    sql = (f"SELECT {phrase.column(mine.name)}, {phrase.column(theirs.name, at)}" + phrase.tail())
    role, owner = q.say(rel.say["role"]), "their" if child.person else "its"
    if not phrase.where and q.wording(0.5):
        return q.say(f"Show the {q.noun(mine)} of each {phrase.noun} and the {q.noun(theirs)} of "
                     f"{owner} {role}.|For each {phrase.noun}, list the {q.noun(mine)} and the "
                     f"{q.noun(theirs)} of the {role}."), sql
    m, t, rows, roles = q.nouns(mine), q.nouns(theirs), q.all(phrase), plural(role)
    t = f"{t} of their {roles}"
    return q.say(f"List the {m} of {rows} and the {t}.|What are the {m} of {rows} and the {t}?|"
                 f"Show the {m} of {rows} together with the {t}.|"
                 f"~I want the {m} of {rows}, along with the {t}."), sql


def with_children(q, need, condition):
    """(relation, parents joined with their children, the children, the relation's words)."""
    rel, child, parent, steps = parent_of(q, need)
    phrase, inner = q.phrase(parent), q.described(child, int(q.maybe(condition)))
    phrase.attach(steps, inner)
    words = q.say(rel.say[need])
    if inner.where and "#" not in words:
        raise Reject                       # these words leave no place for the condition
    return rel, phrase, inner, words.replace("#", inner.text())


def ask_count_per(q):
    """'How many books has each author written', of one author, or an aggregate per author."""
    form = q.rng.choice(("one", "each", "aggregate"))
    rel, phrase, inner, words = with_children(q, "many", 0.3 * (form != "aggregate"))
    parent = phrase.table
    if form == "one":
        value = q.pick(q.values[parent.name, parent.label])
        phrase.where.append((0, parent.label, f"= {literal(value)}"))
        return words.format(parent.named.format(value)) + "?", f"SELECT COUNT(*){phrase.tail()}"
    label, key = phrase.column(parent.label), phrase.column(parent.key)
    if form == "each":
        return (words.format(f"each {phrase.noun}") + "?",
                f"SELECT {label}, COUNT(*){phrase.tail()} GROUP BY {key}")
    if not rel.say.get("a"):
        raise Reject
    what, function, col = aggregate(q, inner.table)
    inner.modify(q.say(rel.say["a"]).format(f"each {phrase.noun}"))
    what, value = f"{what} of {inner.text()}", phrase.column(col.name, 1)
    return (q.say(f"What is the {what}?|Show the {what}.|Find the {what}."),
            f"SELECT {label}, {function}({value}){phrase.tail()} GROUP BY {key}")


def ask_most(q):
    rel, phrase, inner, words = with_children(q, "most", 0.35)
    parent, words = phrase.table, words.replace("*", phrase.noun) + "?"
    cols, start = q.label(parent), f"Which {phrase.noun} "
    if q.maybe(0.3):
        cols = [q.pick(q.others(parent))]
        if not words.startswith(start):
            raise Reject
        relative = "who" if parent.person else "that"
        words = q.one_of([q.noun(c) for c in cols],
                         f"the {phrase.noun} {relative} {words[len(start):-1]}")
    group = f" GROUP BY {phrase.column(parent.key)} ORDER BY COUNT(*) DESC LIMIT 1"
    return words, phrase.select(*cols) + group


def ask_over(q):
    """'authors who have written more than 2 books'."""
    rel, phrase, inner, words = with_children(q, "n", 0.35)
    op, word, n = q.rng.choice(LIMITS)
    asked, cols = Phrase(phrase.table, phrase.noun), q.shown(phrase)
    asked.modify(words.format(f"{word} {n}"))
    group = f" GROUP BY {phrase.column(phrase.table.key)} HAVING COUNT(*) {op} {n}"
    return q.list_of(asked, cols), phrase.select(*cols) + group


def ask_sorted_parents(q):
    rel, phrase, inner, _ = with_children(q, "n", 0)
    cols, rows = q.label(phrase.table), plural(phrase.noun)
    how = f"{q.nouns(*cols)} of the {rows} by their number of {inner.text()}"
    group = f" GROUP BY {phrase.column(phrase.table.key)} ORDER BY COUNT(*) DESC"
    return q.say(f"List the {how}, highest first.|Show the {how}, from most to fewest."), \
        phrase.select(*cols) + group


# Nested queries and set operators -----------------------------------------------------------------

def answer(q, phrase):
    """Ask for a count, a few columns or an aggregate of a phrase without joins."""
    kind = q.rng.choice(("list", "list", "list", "count", "aggregate"))
    if kind == "count":
        return q.say(COUNT).format(rows=phrase.text()), f"SELECT COUNT(*){phrase.tail()}"
    if kind == "aggregate" and q.columns(phrase.table, "number"):
        words, function, col = aggregate(q, phrase.table, phrase.settled())
        return q.one_of([words], phrase.text()), f"SELECT {function}({col.name}){phrase.tail()}"
    cols = q.shown(phrase)
    return q.list_of(phrase, cols), phrase.select(*cols)


def ask_none(q):
    """NOT IN for 'without any', IN for 'with at least one'; the inner rows may have a condition."""
    rel, form = q.pick((r, f) for r in q.world.relations for f in ("none_a", "none_b", "some_b")
                       if r.say.get(f))
    tab, other, (link, *steps) = q.side(rel, form[-1])
    template, bridge = q.say(rel.say[form]), "+" in rel.path
    conditions = 1 if bridge else int(q.maybe(0.5))
    if conditions and "{}" not in template:
        raise Reject
    inner, phrase = q.described(other, conditions), q.phrase(tab)
    phrase.modify(template.replace("{}", inner.text(one=" no {}" in template)))
    nested = inner
    if bridge:
        nested = Phrase(other, "", sources=[(link[0], 0, "", "")])
        nested.attach(steps, inner)
    op = "IN" if form == "some_b" else "NOT IN"
    phrase.where.append((0, tab.key, f"{op} (SELECT {nested.column(link[2])}{nested.tail()})"))
    return answer(q, q.checked(phrase))


def ask_compared(q):
    """More or less than the average, than a named row, or than the extreme of a group."""
    tab = q.pick(q.world.tables)
    col, up = q.pick(q.columns(tab, "number", "year", "date")), q.maybe(0.6)
    phrase, template = q.phrase(tab), col.say.get("above" if up else "below")
    kind = q.rng.choice(("average", "average", "named", "extreme"))
    if kind == "average" and col.kind == "number":
        noun, side, more = q.noun(col), "above" if up else "below", "higher" if up else "lower"
        words = either(f"* whose {noun} {is_are(noun)} {side} average", template,
                       article_fits(noun) and f"* with a {noun} {more} than the average")
        phrase.modify(q.say(words).format("average"))
        nested = f"AVG({col.name}) FROM {tab.name}"
    elif kind == "named" and template and tab.label:
        value = q.pick(q.values[tab.name, tab.label])
        phrase.modify(template.format(tab.named.format(value)))
        nested = f"{col.name} FROM {tab.name} WHERE {tab.label} = {literal(value)}"
    elif kind == "extreme" and template:
        group, side = q.described(tab, 1), "hi" if up else "lo"
        best = group.text(one=True, superlative=superlative(q, col, side))
        phrase.modify(template.format(f"the {best}"))
        nested = f"{'MAX' if up else 'MIN'}({col.name}){group.tail()}"
    else:
        raise Reject
    phrase.where.append((0, col.name, f"{'>' if up else '<'} (SELECT {nested})"))
    return answer(q, q.checked(phrase))


def set_query(q, words, arms, operator):
    """Join SELECTs, provided that none of them alone returns as much."""
    sql = f" {operator} ".join(arms)
    if set(q.rows(sql)) in [set(q.rows(arm)) for arm in arms]:
        raise Reject
    return words, sql


def two_described(q, tab):
    """Two phrases of one table with a condition each, which are not the same."""
    first, second = q.described(tab, 1), q.described(tab, 1)
    second.noun = first.noun
    if first.text() == second.text():
        raise Reject
    return first, second


def ask_both(q):
    """INTERSECT and EXCEPT over a relation: 'members who borrowed both Emma and Misery'."""
    rel, side = q.pick((r, s) for r in q.world.relations for s in "ab"
                       if r.say.get(s) and (s == "b" or "+" in r.path))
    tab, other, steps = q.side(rel, side)
    if "+" in rel.path and q.maybe(0.6):
        inners, words = [q.phrase(other), q.phrase(other)], []
        for inner, value in zip(inners, q.rng.sample(q.values[other.name, other.label], 2)):
            inner.where.append((0, other.label, f"= {literal(value)}"))
            words.append(other.named.format(value))
    else:
        inners = two_described(q, other)
        words = [i.text() for i in inners]
    operator, form = q.rng.choice((("INTERSECT", "both {} and {}"), ("EXCEPT", "{} but not {}")))
    template = q.say(rel.say[side])
    if not template.endswith("{}"):
        raise Reject
    asked, arms = q.phrase(tab), []
    asked.modify(template.replace("{}", form.format(*words)))
    for inner in inners:
        arm = q.phrase(tab)
        arm.attach(steps, inner)
        arms.append(arm.select(tab[tab.label], distinct=False))
    return set_query(q, q.list_of(asked, q.label(tab)), arms, operator)


def ask_groups_both(q):
    """INTERSECT and EXCEPT of a group column: 'genres that have both ... and ...'."""
    first, second = two_described(q, q.pick(q.world.tables))
    col = q.pick(q.groups(first.table, first.settled() | second.settled()))
    operator, form = q.rng.choice((("INTERSECT", "both {} and {}"), ("EXCEPT", "{} but no {}")))
    return set_query(q, have(q, q.nouns(col), form.format(first.text(), second.text())),
                     [first.select(col), second.select(col)], operator)


def have(q, nouns, words):
    return q.say(f"Which {nouns} have {words}?|List the {nouns} that have {words}.|"
                 f"~Find the {nouns} having {words}.")


def ask_union(q):
    """The values of two tables put together or compared, or those of two parts of one table."""
    if q.world.unions and q.maybe(0.6):
        pair = [(q.world[c.split(".")[0]], c.split(".")[1]) for c in q.pick(q.world.unions)]
        parts = [q.described(tab, q.rng.choice((0, 1))) for tab, _ in pair]
        cols = [tab[name] for tab, name in pair]
    else:
        parts = two_described(q, q.pick(q.world.tables))
        settled = parts[0].settled() | parts[1].settled()
        cols = [q.pick(q.groups(parts[0].table, settled))] * 2
    arms, (a, b) = [p.select(c) for p, c in zip(parts, cols)], (p.text() for p in parts)
    if cols[0] is not cols[1] and cols[0].name != parts[0].table.label and q.maybe(0.6):
        operator, form = q.rng.choice((("UNION", "{} or {}"), ("INTERSECT", "both {} and {}"),
                                       ("EXCEPT", "{} but no {}")))
        return set_query(q, have(q, q.nouns(cols[0]), form.format(a, b)), arms, operator)
    n, m = q.nouns(cols[0]), q.nouns(cols[1])
    words = q.say(f"List the {n} of {a} together with the {m} of {b}.|Put the {n} of {a} and the "
                  f"{m} of {b} in one list.|Show the {n} of {a} as well as the {m} of {b}.|"
                  f"~Combine the {n} of {a} with the {m} of {b}.")
    return set_query(q, words, arms, "UNION")


def joined(kind):
    """The same kind of question over a phrase with joins."""
    return lambda q: kind(q, join=True)


KINDS = (                                  # weights: roughly Spider's mix of constructs
    (10, ask_list), (6, ask_count), (5, ask_aggregate), (5, ask_named), (4, ask_distinct),
    (5, ask_group), (3, ask_top_group), (3, ask_having), (5, ask_top), (4, ask_sorted),
    (11, joined(ask_list)), (5, joined(ask_count)), (3, joined(ask_aggregate)),
    (2, joined(ask_distinct)), (2, joined(ask_group)), (1.5, joined(ask_top_group)),
    (1, joined(ask_having)), (2, joined(ask_top)), (1, joined(ask_sorted)),
    (4, ask_who), (3, ask_pairs), (4, ask_count_per), (3, ask_most), (3, ask_over),
    (0.7, ask_sorted_parents), (4.5, ask_none), (3.5, ask_compared), (3, ask_both),
    (2, ask_groups_both), (1.7, ask_union))


# ---------------------------------------------------------------------------------------------
# Keeping what is sound

ORDERED = re.compile(r"SELECT (?:DISTINCT )?.*?( FROM .*) ORDER BY (.+?)( DESC)?(?: LIMIT (\d+))?")


def well_ordered(q, sql):
    """True if no rows tie in the ORDER BY (up to the one after the LIMIT) and there is something
    to order."""
    match = ORDERED.fullmatch(sql)
    if not match:
        return True
    tail, key, down, limit = match.groups("")
    keys = [r[0] for r in q.rows(f"SELECT {key}{tail} ORDER BY {key}{down}")]
    if len(keys) < (int(limit) + 2 if limit else 3):
        return False
    keys = keys[:int(limit) + 1] if limit else keys
    return len(set(keys)) == len(keys)


def sound(q, sql):
    rows = q.rows(sql)
    if not rows or len(rows) > MAX_ROWS or all(v is None for r in rows for v in r):
        return False
    if rows == [(0,)] or "COUNT(DISTINCT" in sql and rows == [(1,)]:
        return False
    if re.search(r"GROUP BY \S+$", sql) and len(rows) < 3:
        return False
    return well_ordered(q, sql)


def polish(words, rng):
    words = re.sub(r"\s+", " ", words)
    words = re.sub(r"\ba (?=[aeioAEIO]|8)", "an ", words)
    words = re.sub(r"\b(from|in|of|to|or) (?=USA\b|Netherlands\b)", r"\1 the ", words)
    if rng.random() < 0.04:
        return words[0].lower() + words[1:-1]              # somebody types in a hurry
    return words


def draw(q, kind, seed, rng):
    """(question, SQL) of the kind, the query fixed by the seed; raises Reject."""
    q.rng, q.words, q.new = random.Random(seed), rng, False
    words, sql = kind(q)
    return polish(words, rng), sql


class Splits:
    """Questions drawn so far and what must not be drawn again."""

    def __init__(self, rng):
        self.rng, self.items, self.new = rng, {split: [] for split in SPLITS}, 0
        self.owner, self.seen, self.draws = {}, set(), {}   # of a query, questions, (kind, seed)

    def add(self, q, split, kind):
        """One more question about the world of q, of this kind unless it is used up there."""
        q.test, db = split == "test", q.world.db_id
        old = self.draws.setdefault((split, db), [])
        again = old and self.rng.random() < AGAIN
        for n in itertools.count():
            again, seed = again and n < 20, self.rng.getrandbits(48)
            if again:
                kind, seed = self.rng.choice(old)
            elif n % 300 == 299:
                kind = self.rng.choice(KINDS)[1]
            try:
                words, sql = draw(q, kind, seed, self.rng)
            except Reject:
                continue
            known = self.owner.get((db, sql.lower()))
            if known == (split if again else None) and (db, words.lower()) not in self.seen \
                    and sound(q, sql):
                break
        old.append((kind, seed))
        self.owner[db, sql.lower()] = split
        self.seen.add((db, words.lower()))
        self.new += q.new
        self.items[split].append({"db_id": db, "question": words, "query": sql})


def make_questions(askers, rng):
    """The filled splits; every kind and every world has its share of each."""
    weights, kinds = zip(*KINDS)
    ends = list(itertools.accumulate(weights))
    slots = [(split, i % len(askers), kinds[bisect.bisect(ends, (i + 0.5) / n * ends[-1])])
             for split, n in SPLITS.items() for i in range(n)]
    rng.shuffle(slots)
    splits = Splits(rng)
    for split, i, kind in slots:
        splits.add(askers[i], split, kind)
    return splits


# ---------------------------------------------------------------------------------------------
# Files

def sql_script(world, rows):
    """CREATE TABLE and INSERT statements, one row a line."""
    parts = []
    for tab in world.tables:
        bridge = tab.columns[0].fk
        keys = ", ".join(c.name for c in tab.columns if c.fk) if bridge else tab.key
        lines = [f"{c.name} {c.type}" for c in tab.columns] + [f"PRIMARY KEY ({keys})"]
        lines += [f"FOREIGN KEY ({c.name}) REFERENCES {c.fk}({world[c.fk].key})"
                  for c in tab.columns if c.fk]
        values = [", ".join("NULL" if v is None else literal(v) for v in row)
                  for row in rows[tab.name]]
        parts.append(f"CREATE TABLE {tab.name} (\n  " + ",\n  ".join(lines) + "\n);\n"
                     f"INSERT INTO {tab.name} VALUES\n(" + "),\n(".join(values) + ");\n")
    return "\n".join(parts)


def make_demo(folder, seed=0):
    """Write databases and questions to the folder; returns the Splits and the Askers."""
    rng, askers = random.Random(seed), []
    for world in WORLDS:
        script = sql_script(world, fill_rows(world, rng))
        path = folder / "database" / world.db_id / f"{world.db_id}.sql"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script, encoding="utf-8")
        db = sqlite3.connect(":memory:")
        db.executescript(script)
        askers.append(Asker(world, db))
    splits = make_questions(askers, rng)
    for split, items in splits.items.items():
        lines = ",\n".join(json.dumps(item, ensure_ascii=False) for item in items)
        (folder / f"{split}.json").write_text(f"[\n{lines}\n]\n", encoding="utf-8")
    return splits, askers


SET = r"\(SELECT| INTERSECT | UNION | EXCEPT "
CONSTRUCTS = {                             # name: pattern in the SQL
    "where": r" WHERE ", "and": r" WHERE [^(]* AND ", "or": r" OR ", "!=": r" != ",
    "like": r" LIKE ", "between": r" BETWEEN ", "aggregate": r"(AVG|MAX|MIN|SUM)\(",
    "count": r"COUNT\(", "count distinct": r"COUNT\(DISTINCT", "distinct": r"SELECT DISTINCT",
    "group by": r" GROUP BY ", "having": r" HAVING ", "order by": r" ORDER BY ",
    "limit": r" LIMIT ", "join of 2": r"^(?!.* AS T3).* AS T2", "join of 3": r" AS T3",
    "scalar sub-query": r"[<>] \(SELECT", "in": r"(?<!NOT) IN \(", "not in": r" NOT IN \(",
    "intersect": r" INTERSECT ", "union": r" UNION ", "except": r" EXCEPT ",
    "single table, flat": rf"^(?!.*( JOIN |{SET}))", "joined, flat": rf"^(?!.*({SET})).* JOIN ",
    "nested or set operator": SET}


def print_counts(splits):
    groups = splits.items.values()
    rows = {f"db {w.db_id}": [sum(i["db_id"] == w.db_id for i in g) for g in groups]
            for w in WORLDS}
    rows |= {name: [sum(bool(re.search(pattern, i["query"])) for i in g) for g in groups]
             for name, pattern in CONSTRUCTS.items()}
    rows["questions"] = [len(g) for g in groups]
    rows["distinct queries"] = [len({(i["db_id"], i["query"]) for i in g}) for g in groups]
    print(f"{'':24}" + "".join(f"{s:>8}" for s in splits.items))
    for name, counts in rows.items():
        print(f"{name:24}" + "".join(f"{n:8}" for n in counts))
    print(f"test questions with a phrase of their own: {splits.new} of {len(splits.items['test'])}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--show", type=int, default=0, help="print so many random questions")
    parser.add_argument("--seed", type=int, default=0, help="which of them")
    args = parser.parse_args()
    splits, askers = make_demo(DEMO)
    databases = {q.world.db_id: q.db for q in askers}
    items = [(split, item) for split, items in splits.items.items() for item in items]
    for split, item in random.Random(args.seed).sample(items, args.show):
        row = databases[item["db_id"]].execute(item["query"]).fetchone()
        print(f"{split} {item['db_id']}: {item['question']}\n    {item['query']}\n    {row}")
    print_counts(splits)


if __name__ == "__main__":
    main()
