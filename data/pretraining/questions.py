"""Questions with their SQL over a random database: each function of KINDS makes one.

Try `python -m data.pretraining.questions --show 40`, or `--check 2000`.
"""

import argparse
import random
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from data.pretraining.asking import (Chance, Reject, Selection, listing, plural, reject_if,
                                     with_articles)
from data.pretraining.random_schemas import NUMBERS, Lexicon, random_database
from data.sql import literal, quote_name as quote

TIMES = ("year", "date", "datetime", "clock")
GROUPS = ("word", "city", "country", "brand", "flag", "bit", "code", "year")
DIGITS = "no one two three four five six seven eight nine ten".split()


@dataclass(frozen=True)
class Pair:
    question: str
    query: str
    links: tuple             # (table, column, value) of each text literal that is a cell value
    kind: str


class Condition(NamedTuple):
    """One comparison in SQL and in up to three forms of words, '' where there is none."""
    clause: str              # after 'whose': 'age is above 3'
    short: str               # after 'with': 'age above 3'
    post: str                # after the noun: 'older than 3'
    sql: str


class Step(NamedTuple):
    """One join of a path: start.left = table.right, upwards if the start holds the key."""
    table: str
    left: str
    right: str
    start: str
    role: str
    up: bool


class Subject(Selection):
    """What a question is about: rows of a table under conditions."""
    tail = ""                # the conditions in words after the noun, or ''
    single = False           # one row is meant (its name is given)
    children = ""            # in words what is counted in each group, where that is another table

    @property
    def table(self):
        return self.sources[0][0]


class Asker(Chance):
    """Draws words, columns and values of one random database."""

    def __init__(self, rng, lexicon, database):
        super().__init__(rng)
        self.lexicon, self.database = lexicon, database
        self.tables = {t.name: t for t in database.schema.tables}
        self.links, self.simple = [], False

    # Words --------------------------------------------------------------------------------------

    def say(self, section, **slots):
        return self.lexicon.say(self.rng, section, slots)

    def mention(self, table, column=None, many=False):
        """What a person calls the table or column."""
        noun = self.database.nouns[table, column]
        if self.maybe(0.04):
            return noun.name
        form = noun.forms[0]
        if len(noun.forms) > 1 and self.maybe(0.35):
            form = self.rng.choice(noun.forms[1:])
        return plural(form) if many and noun.kind not in ("flag", "bit") else form

    def named(self, table, columns, many=True):
        """Columns in words: 'names and ages', 'first and last name'."""
        kinds = [self.kind(table, c) for c in columns]
        if kinds == ["first", "last"] and self.maybe(0.7):
            return "first and last name" + "s" * many
        return listing([self.mention(table, c, many) for c in columns]) if columns else ""

    def rows(self, subject, many=True):
        """The subject in words: 'singers whose age is above 30'."""
        return f"{self.mention(subject.table, many=many)} {subject.tail}".strip()

    def ask(self, section, subject, columns=(), select="", rest="", **slots):
        """(question, SQL) that shows columns, or what `select` says, of the subject."""
        table = subject.table
        slots = dict(cols=self.named(table, columns), col=self.named(table, columns, False),
                     rows=self.rows(subject), row=self.rows(subject, False),
                     children=subject.children) | slots
        return self.say(section, **slots), subject.sql(select or subject.cols(columns), rest)

    def spoken(self, value):
        """A value as the question writes it: verbatim, at times in quotes or lower case."""
        if not isinstance(value, str):
            return str(value)
        text = value.lower() if self.maybe(0.04) else value
        return self.rng.choices((f'"{text}"', f"'{text}'", text), (24, 14, 62))[0]

    def number(self, n):
        return DIGITS[n] if self.maybe(0.4) else str(n)

    # Columns and values -------------------------------------------------------------------------

    def cell(self, table, column):
        """A sample value of a column; text is noted as a link."""
        value = self.rng.choice(self.database.values[table, column])
        if isinstance(value, str):
            self.links.append((table, column, value))
        return value

    def kind(self, table, column=None):
        return self.database.nouns[table, column].kind

    def columns(self, table, *kinds):
        """Names of the table's columns whose values are of the kinds (none given: no keys)."""
        found = [(c.name, self.kind(table, c.name)) for c in self.tables[table].columns]
        return [name for name, kind in found
                if (kind in kinds if kinds else kind not in ("key", "link"))]

    def any_table(self):
        rich = [t for t in self.tables if self.columns(t)]
        things = [t for t in rich if self.kind(t) != "bridge"]
        return self.pick(things if things and self.maybe(0.9) else rich)

    def label(self, table):
        """The column that names a row: its name, else its key, else any."""
        name, keys = self.database.labels[table], self.columns(table, "key")
        if name and self.maybe(0.85):
            return name
        return self.pick((keys if self.maybe(0.5) else []) or self.columns(table) or keys)

    def shown(self, table, most=3):
        """One to three columns to show."""
        names = [c.name for c in self.tables[table].columns
                 if self.kind(table, c.name) != "link" or self.maybe(0.15)]
        count = min(len(names), self.rng.choices((1, 2, 3), (60, 28, 12))[0], most)
        reject_if(count < 1)
        if count == 1 and self.maybe(0.45):
            full = self.columns(table, "first")[:1] + self.columns(table, "last")[:1]
            return full if len(full) == 2 and most > 1 else [self.label(table)]
        return self.rng.sample(names, count)

    def numeric(self, table):
        return self.pick(self.columns(table, *NUMBERS))

    def sortable(self, table):
        time = TIMES[:3] if self.maybe(0.3) else ()
        return self.pick(self.columns(table, *NUMBERS, *time))

    def group(self, table):
        """A column with repeated values."""
        kinds = ("link",) if self.maybe(0.06) else GROUPS
        return self.pick(c for c in self.columns(table, *kinds)
                         if c != self.database.labels[table])


# ---------------------------------------------------------------------------------------------
# Conditions

def condition(q, s, at=0, column=None):
    """One comparison of a column of the subject's table number `at`."""
    table = s.sources[at][0]
    column = column or q.pick(q.columns(table) if q.maybe(0.95)
                              else q.columns(table, "key", "link"))
    kind, name = q.kind(table, column), q.mention(table, column)
    sql, values = s.col(column, at), q.database.values[table, column]
    if q.maybe(0.012):
        negated = q.maybe(0.4)
        words = q.say("is_known" if negated else "is_null")
        return Condition(f"{name} {words}", "", "", f"{sql} IS {'NOT ' * negated}NULL")
    if kind in NUMBERS + TIMES:
        return compare(q, sql, table, column, name)
    if kind in ("flag", "bit", "sex"):
        if q.maybe(0.75):
            return flag(q, sql, table, column)
    elif isinstance(values[0], str) and kind not in ("code", "link", "key") and q.maybe(0.14):
        return like(q, sql, table, column, name)
    return equal(q, sql, table, column, name)


def worded(q, name, section, v, sql, post=""):
    """A comparison in the phrasings of the section."""
    return Condition(f"{name} {q.say('is_' + section, v=v)}",
                     q.say("with_" + section, c=name, v=v), post, sql)


def equal(q, sql, table, column, name):
    """Is, is not, or is one of two values."""
    value, count = q.cell(table, column), len(q.database.values[table, column])
    spoken, kind, post = q.spoken(value), q.kind(table, column), ""
    if q.maybe(0.1) and count > 2:
        return worded(q, name, "not", spoken, f"{sql} != {literal(value)}")
    if q.maybe(0.13) and count > 3:
        other = q.cell(table, column)
        reject_if(other == value)
        both = q.say("or", a=spoken, b=q.spoken(other))
        return Condition(f"{name} is {both}", f"{name} {both}", "",
                         f"{sql} = {literal(value)} OR {sql} = {literal(other)}")
    if kind in ("city", "country") and len(q.columns(table, kind)) == 1:
        post = q.say("post_place", v=spoken)
    elif column == q.database.labels[table]:
        post = q.say("post_name", v=spoken)
    elif kind == "word" and q.maybe(0.2):
        post = q.say("post_word", v=spoken)
    return worded(q, name, "equal", spoken, f"{sql} = {literal(value)}", post)


def flag(q, sql, table, column):
    """A yes or no that the question names by the column: 'that are not active'."""
    noun, values = q.database.nouns[table, column], q.database.values[table, column]
    value = q.rng.choice(values)
    yes = value == max(values, key=lambda v: str(v).lower())
    if isinstance(value, str):                     # a linker offers the column's whole list
        q.links += [(table, column, v) for v in values]
    has, word = noun.forms[0].startswith("has "), re.sub("^is |^has ", "", noun.forms[0])
    if noun.kind == "sex":
        word, yes = "male" if yes else "female", True
    section = f"post_{'' if yes else 'no_'}{'has' if has else 'flag'}"
    verb = ("has a" if yes else "has no") if has else "is" if yes else "is not"
    return Condition("", f"{verb} {word}", q.say(section, c=word), f"{sql} = {literal(value)}")


def like(q, sql, table, column, name):
    word = q.rng.choice(q.rng.choice(q.database.values[table, column]).split()).strip("'")
    piece = word if q.maybe(0.6) else word[:q.rng.choice((1, 2, 3))]
    shape, section = q.rng.choice((("%{}%", "contains"),) * 3 + (
        ("{}%", "starts"), ("%{}", "ends")))
    if section == "ends" and piece != word:
        piece = word[-2:]
    quoted = (f"'{piece}'", f'"{piece}"', f'"{piece}"') + (piece,) * (len(piece) > 2)
    return Condition(f"{name} {q.say(section, v=q.rng.choice(quoted))}", "", "",
                     f"{sql} LIKE {literal(shape.format(piece))}")


def compare(q, sql, table, column, name):
    noun, value = q.database.nouns[table, column], q.cell(table, column)
    op = q.rng.choices((">", "<", ">=", "<=", "=", "between", "!="), (32, 22, 9, 6, 21, 8, 2))[0]
    v = q.spoken(value)
    if op == "between":
        low, high = sorted((value, q.cell(table, column)))
        reject_if(low == high)
        words = q.say("between", v=q.spoken(low), w=q.spoken(high))
        return Condition(f"{name} is {words}", f"{name} {words}", "",
                         f"{sql} BETWEEN {literal(low)} AND {literal(high)}")
    if noun.kind in NUMBERS and noun.kind != "rate" and op != "=" and q.maybe(0.5):
        value = max(1, int(float(f"{value:.1g}")))        # people ask for round numbers
        v = str(value)
    word = {">": "more", "<": "less", ">=": "least", "<=": "most", "!=": "not"}.get(op, "equal")
    timely = noun.kind in TIMES and op in ("<", ">")
    section, post = word + ("_time" if timely else ""), ""
    if noun.more and op in "<>":
        post = f"{noun.more['<' == op]} than {v}"
    elif timely and len(q.columns(table, *TIMES)) == 1:
        post = ("after " if op == ">" else "before ") + v
    elif noun.kind == "year" and op == "=" and len(q.columns(table, "year", "date")) == 1:
        post = "in " + v
    return worded(q, name, section, v, f"{sql} {op} {literal(value)}", post)


def tail(q, conditions, joint="and"):
    """Conditions as words behind a noun, all in one form."""
    clauses, shorts, posts, _ = zip(*conditions)
    if all(posts) and (not all(clauses) or q.maybe(0.6)):
        return f" {joint} ".join(posts) if len(posts) < 2 or joint == "or" else " ".join(posts)
    reject_if(not all(clauses))
    if all(shorts) and q.maybe(0.5):
        return q.say("with", text=f" {joint} ".join(shorts))
    return q.say("whose", text=f" {joint} ".join(clauses))


# ---------------------------------------------------------------------------------------------
# Subjects

def paths(q, table):
    """Joins from the table: lists of one or two steps."""
    steps = {}
    for child, column, parent, key, role in q.database.edges:
        steps.setdefault(child, []).append(Step(parent, column, key, child, role, True))
        steps.setdefault(parent, []).append(Step(child, key, column, parent, role, False))
    found = [[s] for s in steps.get(table, []) if s.table != table or s.up]
    return found + [[first, s] for [first] in found for s in steps.get(first.table, [])
                    if s.table not in (table, first.table) and s.up]


def pick_path(q, found):
    """One of the paths; long ones are preferred."""
    far = [path for path in found if len(path) > 1]
    return q.pick(far if far and q.maybe(0.6) else found)


def any_subject(q, counts, join=0.36, table=None):
    """Rows of a table, under 0, 1 or 2 conditions of its own (weights: counts) or one on a joined
    table."""
    s = Subject(table or q.any_table())
    joins, count = paths(q, s.table), q.rng.choices((0, 1, 2), counts)[0]
    if joins and not q.simple and q.maybe(join):
        return joined_subject(q, s, pick_path(q, joins))
    if not count or not q.columns(s.table):
        return s
    if count == 1 or q.simple:
        label = q.database.labels[s.table]
        one_condition(q, s, q.pick(q.columns(s.table)))
        s.single = bool(label) and s.where.startswith(s.col(label) + " = ")
        return s
    chosen = [condition(q, s, 0, q.pick(q.columns(s.table))), condition(q, s)]
    sqls = [c.sql for c in chosen]
    reject_if(" OR " in "".join(sqls) or sqls[0].split()[0] == sqls[1].split()[0])
    joint = "or" if q.maybe(0.28) else "and"
    s.where, s.tail = f" {joint.upper()} ".join(sqls), tail(q, chosen, joint)
    return s


def one_condition(q, s, column=None):
    """The subject's rows under one condition, on any column (keys included) where none is given."""
    one = condition(q, s, 0, column)
    s.where, s.tail = one.sql, tail(q, [one])
    return s


def joined_subject(q, s, path):
    """The subject's rows under a condition on a joined table ('of the club named X', 'with matches
    after 2010', 'whose owner's age is above 3'), and perhaps one of their own."""
    table, role, up = path[-1].table, path[-1].role, path[-1].up
    one = condition(q, s, s.follow(path))
    reject_if(" OR " in one.sql)
    where, words = one.sql, tail(q, [one])
    if len(path) == 1 and not up:
        words = q.say("down", those=f"{q.mention(table, many=True)} {words}",
                      that=f"{q.mention(table)} {words}", role=role and f"as {role} ")
    else:
        name = role if up and role else q.mention(table)
        section = "across" if len(path) > 1 else "up_role" if role else "up"
        words = q.say(section, that=f"{name} {words}", clause=f"{name} {one.clause or one.short}")
    if q.maybe(0.2):
        one_condition(q, s)
        if " OR " not in s.where:
            where, words = f"{s.where} AND {where}", f"{s.tail} and {words}"
    s.where, s.tail, s.many = where, words, not all(step.up for step in path)
    return s


def avoid(subject, *columns):
    """Nobody asks for the column that the question fixes."""
    reject_if(any(f"{subject.col(c)} {op}" in subject.where for c in columns for op in "=L"))


# ---------------------------------------------------------------------------------------------
# Kinds of question over one subject

def ask_select(q):
    s = any_subject(q, (28, 52, 20))
    columns = q.shown(s.table)
    avoid(s, *columns)
    if s.single and q.maybe(0.8):
        return q.ask("select_one", s, columns)
    if columns == [q.database.labels[s.table]] and q.maybe(0.3):
        return q.ask("which_person" if q.kind(s.table) == "person" else "which", s, columns)
    return q.ask("select", s, columns)


def ask_distinct(q):
    s = any_subject(q, (60, 34, 6))
    columns = [q.group(s.table)] if q.maybe(0.75) else q.shown(s.table, 2)
    avoid(s, *columns)
    return q.ask("distinct", s, columns, "DISTINCT " + s.cols(columns))


def ask_star(q):
    return q.ask("star", any_subject(q, (30, 60, 10), join=0), select="*")


def ask_count(q):
    s, target = any_subject(q, (28, 52, 20)), "*"
    if s.many:
        target = "DISTINCT " + s.col(q.pick(q.columns(s.table, "key")))
    return q.ask("count", s, select=f"COUNT({target})")


def ask_count_distinct(q):
    s = any_subject(q, (70, 27, 3), join=0.12)
    column = q.group(s.table)
    avoid(s, column)
    return q.ask("count_distinct", s, [column], f"COUNT(DISTINCT {s.col(column)})")


def agg(q, function, table, column):
    """'average price'"""
    return q.say(f"agg_{function.lower()}", col=q.mention(table, column))


def ask_aggregate(q):
    s = any_subject(q, (40, 50, 10))
    functions = q.rng.sample(("AVG", "MAX", "MIN", "SUM"), q.rng.choices((1, 2, 3), (72, 20, 8))[0])
    column, same = q.numeric(s.table), q.maybe(0.75)
    columns = [column if same else q.numeric(s.table) for _ in functions]
    avoid(s, *columns)
    if same and len(functions) > 1:
        adjectives = listing([q.say(f"adj_{f.lower()}") for f in functions])
        text = f"{adjectives} {q.mention(s.table, column)}"
    else:
        text = listing([agg(q, f, s.table, c) for f, c in zip(functions, columns)])
    alone = len(functions) == 1 and not s.tail and q.maybe(0.2)
    select = ", ".join(f"{f}({s.col(c)})" for f, c in zip(functions, columns))
    return q.ask("aggregate_of" if alone else "aggregate", s, select=select, agg=text)


def ordered(q, s, column):
    """(words, ORDER BY): 'in descending order' or, where people say so, 'from oldest to
    youngest'."""
    down, most = q.maybe(0.5), q.database.nouns[s.table, column].most
    sql = f"ORDER BY {s.col(column)}{' DESC' * down}"
    if most and q.maybe(0.3):
        first, last = most if down else most[::-1]
        return q.say("order_most", first=first, last=last), sql
    section = "order_down" if down else "order_plain" if q.maybe(0.35) else "order_up"
    return q.say(section, col=q.mention(s.table, column)), sql


def ask_order(q):
    s = any_subject(q, (65, 30, 5), join=0.15)
    column = q.sortable(s.table) if q.maybe(0.7) else q.pick(q.columns(s.table))
    columns = q.shown(s.table)
    avoid(s, column, *columns)
    words, sql = ordered(q, s, column)
    return q.ask("order", s, columns, rest=sql, order=words)


def extreme(q, s, many=False):
    """(the subject with its superlative in words, column, the ORDER BY that puts it first)"""
    column, top = q.sortable(s.table), q.maybe(0.65)
    noun = q.database.nouns[s.table, column]
    order = f"ORDER BY {s.col(column)}{' DESC' * top}"
    if noun.most and q.maybe(0.6):
        return f"{noun.most[not top]} {q.rows(s, many)}", column, order
    section = ("high" if top else "low") + "_time" * (noun.kind in TIMES)
    text = q.say("with_extreme", adj=q.say(section), col=q.mention(s.table, column))
    joint = "and " if s.tail.startswith("with ") else ""
    return f"{q.rows(s, many)} {joint}{text}", column, order


def ask_superlative(q):
    s = any_subject(q, (68, 28, 4), join=0.2)
    columns, section = q.shown(s.table), "superlative"
    row, column, order = extreme(q, s)
    avoid(s, column, *columns)
    if columns == [q.database.labels[s.table]] and q.maybe(0.35):
        section = "who_top" if q.kind(s.table) == "person" else "which_top"
    return q.ask(section, s, columns, rest=f"{order} LIMIT 1", row=row)


def ask_top(q):
    s = any_subject(q, (80, 18, 2), join=0.1)
    columns, n = q.shown(s.table, 2), q.rng.choice((2, 3, 3, 3, 4, 5, 5, 6, 8, 10, 10))
    rows, _, order = extreme(q, s, many=True)
    return q.ask("top", s, columns, rest=f"{order} LIMIT {n}", rows=rows, n=q.number(n))


# ---------------------------------------------------------------------------------------------
# Groups

def grouped(q):
    """(subject in groups, the column that these have in common)"""
    s = any_subject(q, (75, 22, 3), join=0.12)
    column = q.group(s.table)
    avoid(s, column)
    s.by = s.col(column)
    return s, column


def ask_counts(q, joined=False):
    """The rows of each group or the children of each parent, at times in order of the counts."""
    if joined:
        s, section = family(q), "join_count"
        column = q.label(s.table)
    else:
        (s, column), section = grouped(q), "group_count"
    down, order, words = q.maybe(0.5), "", ""
    if q.maybe(0.2):
        order = "ORDER BY COUNT(*)" + " DESC" * down
        words = q.say("by_count_down" if down else "by_count_up")
    question, sql = q.ask(section, s, [column], f"{s.col(column)}, COUNT(*)", order)
    return question + words, sql


def ask_group_aggregate(q):
    s, column = grouped(q)
    number, function = q.numeric(s.table), q.rng.choice(("AVG", "MAX", "MIN", "SUM"))
    name, text = s.col(number), agg(q, function, s.table, number)
    call, draw = f"{function}({name})", q.rng.random()
    if draw < 0.1:
        text, call = q.say("number_and", agg=text), f"COUNT(*), {call}"
    elif draw < 0.2:
        text = f"{q.say('adj_min')} and {q.say('adj_max')} {q.mention(s.table, number)}"
        call = f"MIN({name}), MAX({name})"
    elif draw < 0.32:
        other = q.group(s.table)
        avoid(s, other)
        reject_if(other == column)
        text = q.say("number_different", cols=q.mention(s.table, other, True))
        call = f"COUNT(DISTINCT {s.col(other)})"
    return q.ask("group_aggregate", s, [column], f"{s.by}, {call}", agg=text)


def ask_group_top(q):
    s, column = grouped(q)
    down, draw, n, slots = q.maybe(0.75), q.rng.random(), 1, {}
    section, by, select = "group_most" if down else "group_least", "COUNT(*)", s.by
    if draw < 0.12:
        section, down, n = "group_most_n", True, q.rng.randint(2, 5)
        slots = dict(n=q.rng.choice((DIGITS[n], str(n))))
    elif draw < 0.26:
        number, function = q.numeric(s.table), q.rng.choice(("AVG", "SUM", "MAX"))
        section, by = "group_top_agg", f"{function}({s.col(number)})"
        slots = dict(adj=q.say("high_agg" if down else "low_agg"),
                     agg=agg(q, function, s.table, number))
    elif draw > 0.85:
        select += ", COUNT(*)"
    rest = f"ORDER BY {by}{' DESC' * down} LIMIT {n}"
    question, query = q.ask(section, s, [column], select, rest, **slots)
    return question + (q.say("and_how_many") if draw > 0.85 else ""), query


def threshold(q):
    """A comparison of counts: (words, SQL)."""
    number = q.rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 5, 10))
    section, op = q.rng.choice((("count_more", ">"), ("count_more", ">"), ("count_least", ">="),
                                ("count_least", ">="), ("count_less", "<"), ("count_equal", "=")))
    reject_if(op == "<" and number < 2)
    return q.say(section, n=q.number(number)), f"HAVING COUNT(*) {op} {number}"


def ask_having(q):
    s, column = grouped(q)
    if not q.maybe(0.3):
        words, having = threshold(q)
        return q.ask("having", s, [column], rest=having, amount=words)
    number, more = q.numeric(s.table), q.maybe(0.6)
    value = q.rng.choice(q.database.values[s.table, number])
    function = q.rng.choice(("AVG", "AVG", "MAX", "SUM"))
    having = f"HAVING {function}({s.col(number)}) {'>' if more else '<'} {literal(value)}"
    return q.ask("having_aggregate", s, [column], rest=having,
                 agg=agg(q, function, s.table, number),
                 compared=q.say("is_more" if more else "is_less", v=str(value)))


# ---------------------------------------------------------------------------------------------
# Two tables

def children_of(q, child, parent, role):
    """What a parent has many of; behind a bridge that is what the bridge leads to."""
    others = [e for e in q.database.edges if e[0] == child and e[2] != parent]
    if q.kind(child) == "bridge" and others and not role and q.maybe(0.5):
        return q.mention(others[0][2], many=True)
    return q.mention(child, many=True) + (f" as {role}" if role else "")


def any_edge(q):
    return q.pick(e for e in q.database.edges if e[0] != e[2])


def family(q):
    """Parents, grouped, joined with their children."""
    child, column, parent, key, role = any_edge(q)
    s = Subject(parent)
    s.children = children_of(q, child, parent, role)
    s.follow([(child, key, column)])
    s.by = s.col(key)
    if q.maybe(0.22):
        one = condition(q, s, 1)
        reject_if(" OR " in one.sql or role or q.kind(child) == "bridge")
        s.where, s.children = one.sql, f"{s.children} {tail(q, [one])}"
    return s


def ask_join(q):
    """Columns of a table and of one it refers to, perhaps over a bridge between them."""
    path = pick_path(q, [p for t in q.tables for p in paths(q, t) if p[-1].up and q.columns(t)])
    s, parent, role = Subject(path[0].start), path[-1].table, path[-1].role * (len(path) == 1)
    mine, theirs = q.label(s.table), q.label(parent)
    at = s.follow(path)
    if q.maybe(0.3):
        one_condition(q, s)
    name, its = role or q.mention(parent), q.mention(parent, theirs)
    other = f"{role or q.mention(parent)} {q.mention(parent, theirs)}"
    if its.startswith(name + " "):
        other = its
    order, rest = ordered(q, s, q.pick(q.columns(s.table))) if q.maybe(0.2) else ("", "")
    question, query = q.ask("join", s, [mine], f"{s.col(mine)}, {s.col(theirs, at)}", rest,
                            other=other, its=its, parent=name)
    return question + (order and f", {order}"), query


def ask_join_aggregate(q):
    """The average or total of a child's column for each parent."""
    s = family(q)
    child = s.sources[1][0]
    number, label = q.numeric(child), q.label(s.table)
    function = q.rng.choice(("AVG", "SUM", "SUM", "MAX", "MIN"))
    text, value = agg(q, function, child, number), f"{function}({s.col(number, 1)})"
    if not q.maybe(0.35):
        return q.ask("join_aggregate", s, [label], f"{s.col(label)}, {value}", agg=text)
    down = q.maybe(0.75)
    return q.ask("join_top_agg", s, [label], rest=f"ORDER BY {value}{' DESC' * down} LIMIT 1",
                 agg=text, adj=q.say("high_agg" if down else "low_agg"))


def ask_join_top(q):
    s = family(q)
    columns, down, n = q.shown(s.table, 2), q.maybe(0.8), 1
    section = "join_most" if down else "join_least"
    if down and q.maybe(0.12):
        section, n = "join_most_n", q.rng.choice((2, 3, 3, 5))
    counted = n == 1 and q.maybe(0.12)
    question, query = q.ask(section, s, columns, s.cols(columns) + ", COUNT(*)" * counted,
                            f"ORDER BY COUNT(*){' DESC' * down} LIMIT {n}", n=DIGITS[n])
    return question + (q.say("and_how_many") if counted else ""), query


def ask_join_having(q):
    s = family(q)
    words, having = threshold(q)
    return q.ask("join_having", s, q.shown(s.table, 2), rest=having, amount=words)


# ---------------------------------------------------------------------------------------------
# Nested queries and set operators

def nested(q, table, where, words, counted):
    """A count or some columns of the rows that a nested query selects."""
    s = Subject(table)
    s.where, s.tail = where, words
    if q.maybe(counted):
        return q.ask("count", s, select="COUNT(*)")
    return q.ask("select", s, q.shown(table, 2))


def ask_compare_average(q):
    table = q.any_table()
    column = q.pick(q.columns(table, *NUMBERS, "year"))
    inner = any_subject(q, (70, 30, 0), join=0, table=table)
    more, draw = q.maybe(0.6), q.rng.random()
    function, section = "AVG", "above" if more else "below"
    if not inner.where and draw < 0.15:
        function, more, section = "MIN", True, "above_least"
    elif inner.where and draw < 0.5:
        function, section = "MAX" if more else "MIN", section + "_all"
    elif inner.where:
        section += "_of"
    words = q.say(section, col=q.mention(table, column), rows=q.rows(inner))
    test = f"{quote(column)} {'>' if more else '<'} ({inner.sql(f'{function}({quote(column)})')})"
    return nested(q, table, test, words, 0.2)


def ask_not_in(q, negated=True):
    """Parents without (or with) any child, perhaps only children of one sort."""
    child, column, parent, key, role = any_edge(q)
    inner = any_subject(q, (55 if negated else 0, 45, 0), 0.15, child)
    reject_if(parent in [source[0] for source in inner.sources])
    if role:
        children = f"role as {role} in {q.rows(inner)}"
    else:
        children = q.rows(inner) if inner.where else children_of(q, child, parent, role)
    words = q.say("without" if negated else "having_some", children=children)
    test = f"{quote(key)} {'NOT ' * negated}IN ({inner.sql(inner.col(column))})"
    return nested(q, parent, test, words, 0.25)


def ask_set(q, operator):
    """Two queries over the same tables, joined by a set operator: rows linked to two rows of
    another table, each called by its name, or a column of rows under two conditions."""
    table = q.any_table()
    arms = a, b = Subject(table), Subject(table)
    down = [p for p in paths(q, table) if not all(step.up for step in p)]
    if down and q.maybe(0.45):
        path = q.rng.choice(down)
        other = path[-1].table
        label, noun, joint = q.database.labels[other], q.mention(other), q.say("linked")
        reject_if(not label)
        for arm in arms:
            value = q.cell(other, label)
            arm.where = f"{arm.col(label, arm.follow(path))} = {literal(value)}"
            arm.tail = f"{joint} {noun} {q.say('post_name', v=q.spoken(value))}"
        column = q.label(table)
    else:
        column = q.group(table)
        for arm in arms:
            one_condition(q, arm)
        avoid(a, column)
        avoid(b, column)
    reject_if(a.where == b.where or " OR " in a.where + b.where)
    question, _ = q.ask(operator.lower(), Subject(table), [column], a=a.tail, b=b.tail)
    return question, f" {operator} ".join(arm.sql(arm.col(column)) for arm in arms)


# ---------------------------------------------------------------------------------------------
# All kinds

# kind: (share after the counts over Spider's training queries, function)
KINDS = {"select": (25, ask_select), "distinct": (6.5, ask_distinct), "star": (1.2, ask_star),
         "count": (9, ask_count), "count_distinct": (4, ask_count_distinct),
         "aggregate": (8, ask_aggregate), "order": (7, ask_order),
         "superlative": (7, ask_superlative), "top": (2.2, ask_top),
         "group_count": (6, ask_counts), "group_aggregate": (4, ask_group_aggregate),
         "group_top": (6, ask_group_top), "having": (5, ask_having), "join": (6, ask_join),
         "join_count": (6, partial(ask_counts, joined=True)),
         "join_aggregate": (4, ask_join_aggregate), "join_top": (7, ask_join_top),
         "join_having": (6, ask_join_having),
         "compare_average": (4, ask_compare_average), "not_in": (5, ask_not_in),
         "in": (1.2, partial(ask_not_in, negated=False)),
         "intersect": (7, partial(ask_set, operator="INTERSECT")),
         "except": (7, partial(ask_set, operator="EXCEPT")),
         "union": (2, partial(ask_set, operator="UNION"))}
SHARES = {kind: share for kind, (share, _) in KINDS.items()}
SIMPLE = {"select": 40, "count": 25, "aggregate": 15, "order": 10, "superlative": 10}


def finished(rng, text):
    """Capital letter and final mark, as careful and hasty people write them."""
    text = with_articles(" ".join(text.split()).replace(" ,", ","))
    asks = re.match(r"(what|which|who|how|can|could|do|for which|for \w+ \w+, (what|how)|would)\b",
                    text.rpartition("? ")[2], re.I)
    end = rng.choices(("?", "", "."), (84, 11, 5))[0] if asks else rng.choices(
        (".", "", "?"), (76, 22, 2))[0]
    if rng.random() < 0.92:
        text = text[0].upper() + text[1:]
    return text + end


def random_pairs(rng, lexicon, database, n, simple=0.0):
    """n questions with their SQL over the database, no SQL twice.

    simple: share drawn from the simplest kinds over one table (for the start of training).
    Fewer than n come back only where a tiny schema has no more to ask."""
    q, pairs, seen = Asker(rng, lexicon, database), [], set()
    for _ in range(12 * n + 20):
        if len(pairs) == n:
            break
        q.links, q.simple = [], q.maybe(simple)
        shares = SIMPLE if q.simple else SHARES
        kind = rng.choices(list(shares), shares.values())[0]
        try:
            question, query = KINDS[kind][1](q)
        except Reject:
            continue
        links = tuple(dict.fromkeys(link for link in q.links if literal(link[2]) in query
                                    or q.kind(*link[:2]) in ("flag", "sex")))
        if query in seen or len(question) + len(query) > 420:
            continue
        seen.add(query)
        question = finished(rng, question)
        if q.maybe(0.03) and "LIKE" not in query:
            question = question.lower()
        pairs.append(Pair(question, query, links, kind))
    return pairs


# ---------------------------------------------------------------------------------------------
# Looking and checking

def fill(database, rng, rows=12):
    """The database in SQLite's memory, rows drawn from the sample values; keys have each once."""
    connection = sqlite3.connect(":memory:")
    for table in database.schema.tables:
        names = [c.name for c in table.columns]
        values = [database.values[table.name, name] for name in names]
        keys = [c.primary for c in table.columns]
        count = min([rows] + [len(v) for v, key in zip(values, keys) if key])
        drawn = [[v[i] if key else rng.choice(v) for v, key in zip(values, keys)]
                 for i in range(count)]
        connection.execute(f"CREATE TABLE {quote(table.name)} ({', '.join(map(quote, names))})")
        connection.executemany(f"INSERT INTO {quote(table.name)} VALUES "
                               f"({', '.join('?' * len(names))})", drawn)
    return connection


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--show", type=int, default=0, help="print so many examples")
    parser.add_argument("--check", type=int, default=0, help="run the queries of so many databases")
    parser.add_argument("--heldout", action="store_true", help="the words kept for measuring")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    lexicon, rng = Lexicon(args.heldout), random.Random(args.seed)
    for i in range(0, args.show, 4):
        database = random_database(rng, lexicon)
        for table in database.schema.tables:
            print(f"{table.name}({', '.join(c.name for c in table.columns)})")
        for pair in random_pairs(rng, lexicon, database, min(4, args.show - i)):
            print(f"  [{pair.kind}] {pair.question}\n      {pair.query}")
    if args.check:
        rng, filled = random.Random(args.seed), []
        for _ in range(args.check):
            database = random_database(rng, lexicon)
            with closing(fill(database, rng)) as connection:
                filled += [bool(connection.execute(pair.query).fetchall())
                           for pair in random_pairs(rng, lexicon, database, 6)]
        print(f"{len(filled)} queries ran, {sum(filled) / len(filled):.1%} with rows")


if __name__ == "__main__":
    main()
