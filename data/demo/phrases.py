"""Noun phrases about the demo's databases ("books written by Jules Verne with more than 300
pages"), drawn together with the FROM and WHERE that select their rows."""

import re
from copy import copy
from functools import partial
from pathlib import Path

from data.pretraining import asking
from data.pretraining.asking import Chance, Selection, listing, read_sections, reject_if
from data.sql import literal

NEW_IN_TEST = 0.15           # how often a ~ phrase is taken where there is one
PHRASINGS = read_sections(Path(__file__).with_name("questions.txt"))
PLURALS = asking.IRREGULAR | {"stock": "stock levels", "insurance": "insurance companies"}
plural = partial(asking.plural, irregular=PLURALS)
RELATIVE = ("who ", "that ", "which ", "whose ", "where ")
PREPOSITIONS = ("to ", "from ", "of ", "by ", "in ", "on ", "at ", "for ", "about ")


def is_are(noun):
    return "is" if noun != plural(noun) or noun in PLURALS else "are"


def article_fits(noun):
    """'a price of at least 5', but no 'a goals of' or 'a length in days of'."""
    return noun != plural(noun) and not re.search(" (of|in) ", noun)


def spoken(after, one=False):
    """A description behind the noun as it is said there: without its (auxiliary), its
    [plural/singular] verbs resolved."""
    after = re.sub(r"^which ", "that ", re.sub(r"^\(\w+\) ", "", after))
    return re.sub(r"\[(.*?)/(.*?)\]", r"\2" if one else r"\1", after)


class Phrase(Selection):
    """Rows of one table in words and in SQL. Conditions are (source, column name, operator and
    operand, where {col} repeats the column)."""

    def __init__(self, table, noun=""):
        super().__init__(table.name)
        self.table, self.noun, self.before, self.after = table, noun, [], []
        self.conditions, self.joint = [], "AND"

    @property
    def where(self):
        return f" {self.joint} ".join(("{col} " + op).replace("{col}", self.col(name, at))
                                      for at, name, op in self.conditions)

    def modify(self, template):
        before, after = (part.strip() for part in template.split("*"))
        self.before[:0] = [before] if before else []
        self.after += [after] if after else []

    def text(self, one=False, superlative="*"):
        """The noun phrase; a superlative goes outermost: 'longest fantasy book by King'."""
        first, last = (part.strip() for part in superlative.split("*"))
        words = [first, *self.before, self.noun if one else plural(self.noun)]
        for i, after in enumerate(self.after):
            words += [self.link(self.after[i - 1], after) if i else "", spoken(after, one)]
        if last and self.after:            # "players who are from Peru with the most goals"
            clause = rf"\b({'|'.join(['with ', *RELATIVE])})"
            reject_if(not last.startswith("with ") or re.search(clause, " ".join(self.after)))
        return " ".join(w for w in [*words, spoken(last, one)] if w)

    def link(self, previous, following):
        """The joint between two descriptions, '' where English needs none."""
        first, second = spoken(previous), spoken(following)
        relative = [text.startswith(RELATIVE) for text in (first, second)]
        # "players who play for X from Peru"
        reject_if(relative == [True, False] or self.joint == "OR" and relative == [False, True])
        bare = relative == [False, True] or second.startswith(("with ", *PREPOSITIONS))
        return "" if bare and self.joint == "AND" and not first.startswith("with ") \
            else self.joint.lower()

    def sentence(self):
        """'books were written by X and have more than 300 pages', or '' where the words give no
        verb."""
        parts = []
        for after in self.after:
            verb = re.match(r"\((\w+)\) |(with )|who |that ", after)
            if not verb:
                return ""
            auxiliary = verb[1] or ("have" if verb[2] else "")
            parts.append(spoken(f"{auxiliary} {after[verb.end():]}".strip()))
        predicate = f" {self.joint.lower()} ".join(parts)
        return predicate and " ".join([*self.before, plural(self.noun), predicate])

    def attach(self, steps, inner):
        """Join another phrase along steps; returns its number among the sources."""
        at = self.follow(steps)
        self.sources += [(table, i + at, *columns) for table, i, *columns in inner.sources[1:]]
        self.conditions += [(i + at, name, op) for i, name, op in inner.conditions]
        return at

    def call(self, name):
        """Only the row with this name; returns how it is called."""
        self.conditions.append((0, self.table.label, f"= {literal(name)}"))
        return self.table.named.format(name)

    def select(self, *columns, rest="", distinct=None):
        distinct = self.many if distinct is None else distinct
        return self.sql("DISTINCT " * distinct + self.cols(c.name for c in columns), rest)

    def settled(self):
        """Names of own columns that a condition already speaks about."""
        return {name for at, name, _ in self.conditions if at == 0}


class Asker(Chance):
    """Draws words, columns and values of one domain. `rng` decides what is asked, `words` how:
    with the same state of rng and another of words, the same query is asked in another way."""

    def __init__(self, domain, db):
        super().__init__()
        self.domain, self.db, self.words = domain, db, None
        self.test = False                  # asks for the test split
        self.new = False                   # has used a ~ phrase
        self.values = {(tab.name, col.name): [
            value for value, in self.rows(f"SELECT DISTINCT {col.name} FROM {tab.name}")
            if value is not None] for tab in domain.tables.values() for col in tab.columns}

    def rows(self, sql):
        return self.db.execute(sql).fetchall()

    # Words --------------------------------------------------------------------------------------

    def wording(self, share):
        return self.words.random() < share

    def choose(self, options):
        new = [o[1:] for o in options if o.startswith("~")]
        if new and self.test and self.wording(NEW_IN_TEST):
            self.new = True
            return self.words.choice(new)
        return self.words.choice([o for o in options if not o.startswith("~")])

    def say(self, *phrases):
        """One of the alternatives of the phrases, of which some may be missing."""
        return self.choose([option for phrase in phrases if phrase for option in phrase.split("|")])

    def phrasing(self, section):
        """One of the templates of a section of questions.txt."""
        return self.choose(PHRASINGS[section])

    def noun(self, col):
        """The column in words, mostly its first noun, which is close to its name."""
        return col.nouns.split("|")[0] if self.wording(0.4) else self.say(col.nouns)

    def nouns(self, *cols):
        """Several columns in the plural; 'numbers of' is no English."""
        return listing([plural(n) if not n.startswith("number of") else
                        plural(c.nouns.split("|")[0]) for c in cols for n in [self.noun(c)]])

    def phrase(self, tab):
        return Phrase(tab, tab.nouns.split("|")[0] if self.wording(0.6) else self.say(tab.nouns))

    def all(self, phrase):
        bare = not phrase.after and not phrase.before
        return self.phrasing("whole table").format(rows=phrase.text()) if bare else phrase.text()

    def list_of(self, phrase, cols):
        """'What are the titles of ...', or 'Which books were written by X?' about names."""
        sentence = phrase.sentence()
        if sentence and cols == self.label(phrase.table) and self.wording(0.5):
            return f"Which {sentence}?"
        return self.phrasing("list").format(cols=self.nouns(*cols), rows=self.all(phrase))

    def one_of(self, columns, rows):
        """'What is the price of ...' for nouns in the singular."""
        be = "is" if len(columns) == 1 else "are"
        return self.phrasing("one").format(be=be, cols=listing(columns), rows=rows)

    # Columns and values -------------------------------------------------------------------------

    def columns(self, tab, *kinds):
        return [c for c in tab.columns if (c.kind in kinds if kinds else c.kind != "key")]

    def label(self, tab):
        return [tab[tab.label]] if tab.label else []

    def others(self, tab, *kinds):
        return [c for c in self.columns(tab, *kinds) if c.name != tab.label]

    def measure(self, tab, besides=(), kinds=("number", "year", "date")):
        """A column whose values have an order, other than these."""
        return self.pick(c for c in self.columns(tab, *kinds) if c.name not in besides)

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


# ---------------------------------------------------------------------------------------------
# Conditions on the phrase's own table

def equal(q, col, tab):
    values = q.values[tab.name, col.name]
    value, form = q.pick(values), q.rng.choice(("eq", "eq", "eq", "eq", "ne", "or"))
    if form == "ne" and "ne" in col.say:
        return q.say(col.say["ne"]).format(value), f"!= {literal(value)}"
    words, op = q.say(col.say["eq"]), f"= {literal(value)}"
    if form == "or":
        other = q.pick(v for v in values if v != value)
        return words.format(f"{value} or {other}"), f"{op} OR {{col}} = {literal(other)}"
    return words.format(value), op


def like(q, col, tab):
    noun, value = col.nouns.split("|")[0], q.pick(q.values[tab.name, col.name])
    if q.maybe(0.4):
        return q.phrasing("starts").format(noun=noun, start=value[:1]), f"LIKE '{value[:1]}%'"
    word = q.pick(w for w in value.split()[:9 * (" " in value)] if len(w) > 3 and w.isalpha())
    return q.phrasing("contains").format(noun=noun, word=word), f"LIKE '%{word}%'"


def compared(q, col, tab):
    noun, number = q.noun(col), col.kind == "number"
    low, high = sorted((q.threshold(tab, col), q.threshold(tab, col)))
    form = q.rng.choice(("gt", "gt", "gt", "lt", "lt", "lt", "mid", "eq", "ge"))
    reject_if(number and low < 2)          # "fewer than 0", "more than 1 goals"
    whose = f"* whose {noun} {is_are(noun)}"
    if form == "eq" and "eq" in col.say:
        low, words, op = q.pick(q.values[tab.name, col.name]), [col.say["eq"]], "= {}"
    elif form == "mid" and low < high:
        words, op = [col.say.get("mid"), f"{whose} between {{}} and {{}}"], "BETWEEN {} AND {}"
    elif form == "ge" and number:
        op, word = q.rng.choice(((">= {}", "at least"), ("<= {}", "at most")))
        words = [f"{whose} {word} {{}}", article_fits(noun) and f"* with a {noun} of {word} {{}}"]
    elif form == "lt":
        words, op = [col.say.get("lt"), f"{whose} {'below' if number else 'before'} {{}}"], "< {}"
    else:
        words, op = [col.say.get("gt"), f"{whose} {'above' if number else 'after'} {{}}"], "> {}"
    return q.say(*words).format(low, high), op.format(literal(low), literal(high))


def described(q, tab, conditions):
    """A phrase with so many conditions on its own columns, each of which matters."""
    phrase = q.phrase(tab)
    for _ in range(conditions):
        cols = q.others(tab) + q.label(tab) * q.maybe(0.3)
        col = q.pick(c for c in cols if c.name not in phrase.settled()
                     and (c.say or c.name == tab.label))
        condition = like if col.name == tab.label else equal if col.kind == "text" else compared
        template, op = condition(q, col, tab)
        phrase.modify(template)
        phrase.conditions.append((0, col.name, op))
    if len(phrase.conditions) == len(phrase.after) == 2 and q.maybe(0.25):
        phrase.joint = "OR"
    return checked(q, phrase)


def checked(q, phrase):
    """The phrase if it has rows and none of its conditions is idle."""
    every = phrase.conditions
    reject_if(len(every) > 1 and any(" OR " in op for *_, op in every))  # would need brackets

    def counts(conditions):
        part = copy(phrase)
        part.conditions = conditions
        key = part.col(part.table.key)
        return q.rows(part.sql(f"COUNT(DISTINCT {key}), COUNT(*)"))[0]

    full = counts(every)
    reject_if(not full[0] or full in [counts(every[:i] + every[i + 1:]) for i in range(len(every))])
    return phrase


# ---------------------------------------------------------------------------------------------
# Descriptions by a relation to another table

def one_named(q, tab):
    """The phrase for one row called by its name, and the name."""
    phrase = q.phrase(tab)
    return phrase, phrase.call(q.pick(q.values[tab.name, tab.label]))


def relate(q, phrase, relation, side, depth=False):
    """Describe the phrase's rows through a relation: by a row's name, by rows with a condition,
    or (depth) by rows related to others in turn. A parent with one named child is left to
    `ask_who`, which speaks of it in the singular."""
    _, other, steps = relation.ends[side]
    if other.label and (side == "a" or relation.bridge) and q.maybe(0.6):
        inner, words = one_named(q, other)
    else:
        inner = related(q, other, relation) if depth else described(q, other, 1)
        words = inner.text()
    phrase.modify(q.say(relation.say[side]).replace("{}", words))
    phrase.attach(steps, inner)
    phrase.many |= inner.many or side == "b" or relation.bridge


def related(q, tab, coming=None, extra=""):
    """Rows described through a relation other than the one we come by. extra: "own", and by a
    condition on their own columns; "depth", by rows that are related in turn; "second", and
    through another relation."""
    def other(than, *sides):
        return q.pick((r, s) for r in q.domain.relations for s in sides
                      if r is not than and r.say.get(s) and r.ends[s][0] is tab)

    phrase = described(q, tab, int(extra == "own"))
    relation, side = other(coming, "a", "b")
    relate(q, phrase, relation, side, extra == "depth")
    if extra == "second":
        relate(q, phrase, *other(relation, "a"))
    reject_if(len(phrase.sources) > 3)
    return checked(q, phrase)


def any_phrase(q, join, once=False):
    """A noun phrase for any kind of question. join: over two or three tables; once: not if that
    may repeat a row."""
    tab = q.pick(q.domain.tables.values())
    if not join:
        return described(q, tab, q.rng.choice((0, 1, 1, 1, 2, 2)))
    phrase = related(q, tab, extra=q.rng.choice(
        ("", "", "", "own", "own", "depth", "depth", "second", "second")))
    reject_if(once and phrase.many)
    return phrase
