"""The demo's kinds of question: each function of KINDS returns (question, SQL) or raises Reject.

One way of writing per meaning: the table of the first selected column comes first in FROM; "the
most" is ORDER BY ... LIMIT 1; "without any" NOT IN; "at least one" IN; "both" INTERSECT; "but
not" EXCEPT; what a one-to-many join could repeat is selected DISTINCT.
"""

import random
import re
from dataclasses import dataclass

from data.demo.phrases import (PHRASINGS, Phrase, any_phrase, article_fits, checked, described,
                               either, is_are, one_named, plural)
from data.pretraining.asking import Reject, Scope, listing, with_articles
from data.sql import literal

LIMITS = ((">", "more than", 2), (">", "more than", 3), (">", "more than", 5),
          (">=", "at least", 2), (">=", "at least", 3), (">=", "at least", 4), ("=", "exactly", 2),
          ("=", "exactly", 3), ("<", "fewer than", 4))


def aggregate(q, tab, besides=()):
    """(words, function, column) such as ('average price', 'AVG', price)."""
    col = q.measure(tab, besides)
    names = ("AVG", "MAX", "MIN", "SUM") if col.kind == "number" else ("MAX", "MIN")
    function = q.pick(f for f in names if f != "SUM" or col.total)
    adjective = q.phrasing(function if col.kind == "number" else f"{function} time")
    return f"{adjective} {q.noun(col)}", function, col


def ask_list(q, join=False):
    phrase = any_phrase(q, join)
    cols = q.shown(phrase)
    if phrase.many and cols[0].name != phrase.table.label:
        raise Reject                       # DISTINCT would merge different rows
    return q.list_of(phrase, cols), phrase.select(*cols)


def ask_count(q, join=False):
    phrase = any_phrase(q, join)
    what = f"DISTINCT {phrase.column(phrase.table.key)}" if phrase.many else "*"
    verb, sql = phrase.predicate(), f"SELECT COUNT({what}){phrase.tail()}"
    if verb and q.wording(0.5):
        return f"How many {phrase.named_rows()} {verb}?", sql
    return q.phrasing("count").format(rows=phrase.text()), sql


def ask_aggregate(q, join=False):
    phrase = any_phrase(q, join)
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
    tab = q.pick(t for t in q.domain.tables if t.label)
    phrase, called = one_named(q, tab)
    cols = q.rng.sample(q.others(tab), min(len(q.others(tab)), q.rng.choice((1, 1, 2))))
    sql = phrase.select(*cols)
    if len(cols) == 1 and "ask" in cols[0].say and q.wording(0.6):
        words = q.say(cols[0].say["ask"]).replace("{noun}", q.noun(cols[0]))
        return words.format(called) + "?", sql
    return q.one_of([q.noun(c) for c in cols], called), sql


def ask_distinct(q, join=False):
    phrase = any_phrase(q, join)
    col = q.pick(q.groups(phrase.table, phrase.settled()))
    slots, count = dict(nouns=q.nouns(col), rows=phrase.text()), q.maybe(0.4)
    words = q.phrasing("count distinct" if count else "distinct").format(**slots)
    if count:
        return words, f"SELECT COUNT(DISTINCT {phrase.column(col.name)}){phrase.tail()}"
    return words, phrase.select(col, distinct=True)


# ---------------------------------------------------------------------------------------------
# Groups

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

    @property
    def slots(self):
        return dict(noun=self.noun, rows=self.rows)

    def value(self, function, col):
        return f"{function}({self.phrase.column(col.name, self.at)})"

    def query(self, select, rest=""):
        return f"SELECT {select}{self.phrase.tail()} GROUP BY {self.sql}{rest}"

    def number(self, q):
        return q.pick(c for c in q.columns(self.table, "number")
                      if c.name not in self.phrase.settled())


def grouped(q, join):
    """Groups by a column of the table itself or of the one it belongs to."""
    tab = q.pick(q.domain.tables)
    inner = described(q, tab, q.rng.choice((0, 0, 1)) * (not join))
    if not join:
        col = q.pick(q.groups(tab, inner.settled()))
        return Groups(tab, inner.text(), inner, 0, col, q.noun(col), not inner.after)
    rel = q.pick(r for r in q.domain.relations
                 if r.say.get("role") and q.domain.ends(r)[0] is tab)
    parent, _, steps = q.domain.side(rel, "b")
    phrase, col = q.phrase(parent), q.pick(q.groups(parent))
    at = phrase.attach(steps, inner)
    role = q.pick(r for r in rel.say["role"].split("|") if "~" not in r and " of " not in r)
    return Groups(tab, inner.text(), phrase, at, col, f"{role} {col.nouns.split('|')[0]}")


def ask_group(q, join=False):
    """A count or an aggregate per group."""
    g = grouped(q, join)
    if q.maybe(0.55):
        sql = g.query(f"{g.sql}, COUNT(*)")
        if g.each and "each" in g.col.say and q.wording(0.5):
            return f"How many {g.rows} {q.say(g.col.say['each']).format(f'each {g.noun}')}?", sql
        return q.phrasing("group count").format(**g.slots), sql
    words, function, col = aggregate(q, g.table, g.phrase.settled() if not g.at else ())
    return (q.phrasing("group aggregate").format(what=words, **g.slots),
            g.query(f"{g.sql}, {g.value(function, col)}"))


def ask_top_group(q, join=False):
    g = grouped(q, join)
    if q.maybe(0.7):
        order, options = "COUNT(*)", [t.format(**g.slots) for t in PHRASINGS["top group"]]
        if g.each and "top" in g.col.say and q.wording(0.4):
            options = [q.say(g.col.say["top"]).format(g.noun).replace("#", g.rows) + "?"]
        words = q.choose(options)
    else:
        col = g.number(q)
        order, nouns = g.value("AVG", col), [q.noun(col), q.noun(col)]
        words = q.phrasing("top group average").format(*nouns, **g.slots)
    return words, g.query(g.sql, f" ORDER BY {order} DESC LIMIT 1")


def ask_having(q, join=False):
    g = grouped(q, join)
    if q.maybe(0.7):
        op, word, n = q.rng.choice(LIMITS)
        having, template = f"COUNT(*) {op} {n}", "having joined" if join else "having"
        slots = dict(many=f"{word} {n}", nouns=plural(g.noun))
    else:
        col = g.number(q)
        slots = dict(limit=q.threshold(g.table, col), what=q.noun(col))
        having, template = f"{g.value('AVG', col)} > {slots['limit']}", "having average"
    sql = g.query(g.sql, f" HAVING {having}")
    if len(q.rows(sql)) == len(q.rows(g.query(g.sql))):
        raise Reject
    return q.phrasing(template).format(**slots, **g.slots), sql


# ---------------------------------------------------------------------------------------------
# Order

def superlative(q, col, side):
    """'longest *', '* with the lowest fare'."""
    if side == "lo" and col.null:
        raise Reject                       # NULL would come first
    number = col.kind == "number"
    plain = {"hi": "highest" if number else "latest", "lo": "lowest" if number else "earliest"}
    noun = q.noun(col)
    return q.say(either(col.say.get(side), f"* with the {plain[side]} {noun}"))


def order_by(phrase, col, down, at=0):
    return f" ORDER BY {phrase.column(col.name, at)}{' DESC' * down}"


def ask_top(q, join=False):
    """The row, or the first few, by a number or date."""
    phrase = any_phrase(q, join)
    if phrase.many or phrase.joint == "OR":
        raise Reject
    col = q.measure(phrase.table, phrase.settled())
    side, k = q.rng.choice(("hi", "hi", "lo")), q.rng.choice((1, 1, 1, 1, 2, 3, 3, 5))
    template = superlative(q, col, side)
    cols = [c for c in q.shown(phrase) if c is not col]
    if not cols:
        raise Reject
    sql = phrase.select(*cols) + order_by(phrase, col, side == "hi") + f" LIMIT {k}"
    if k > 1:
        words = phrase.text(superlative=f"{k} {template}")
        return q.phrasing("list").format(cols=q.nouns(*cols), rows=f"the {words}"), sql
    row = f"the {phrase.text(one=True, superlative=template)}"
    if [c.name for c in cols] == [phrase.table.label] and q.wording(0.5):
        return q.phrasing("top person" if phrase.table.person else "top").format(row=row), sql
    return q.one_of([q.noun(c) for c in cols], row), sql


def order_words(q, col, down):
    noun, ends = q.noun(col), {s: col.say.get(s, "").split("|")[0] for s in ("hi", "lo")}
    if col.kind == "text":
        return q.phrasing("by text").format(noun=noun)
    if all(e.endswith(" *") for e in ends.values()) and q.wording(0.3):
        first, last = ("hi", "lo") if down else ("lo", "hi")
        return f"from {ends[first][:-2]} to {ends[last][:-2]}"
    kind = "number" if col.kind == "number" else "time"
    return q.phrasing(f"by {kind} {'down' if down else 'up'}").format(noun=noun)


def ask_sorted(q, join=False):
    phrase = any_phrase(q, join)
    if phrase.many:
        raise Reject
    cols = q.shown(phrase)
    orders = q.columns(phrase.table, "number", "year", "date") + q.label(phrase.table)
    col = q.pick(c for c in orders
                 if "= " not in "".join(op for _, n, op in phrase.where if n == c.name))
    down = q.maybe(0.5) and col.kind != "text"
    slots = dict(cols=q.nouns(*cols), rows=q.all(phrase), order=order_words(q, col, down))
    return q.phrasing("sorted").format(**slots), phrase.select(*cols) + order_by(phrase, col, down)


# ---------------------------------------------------------------------------------------------
# Questions that need a join

def parent_of(q, *needs):
    """A foreign key whose relation has the phrases needed: (relation, child, parent, steps up)."""
    rel = q.pick(r for r in q.domain.relations if "+" not in r.path
                 and all(r.say.get(n) for n in needs))
    child, parent, _, steps = q.domain.ends(rel)
    return rel, child, parent, steps


def ask_who(q):
    """'Who wrote Emma?', 'Who wrote the longest book?', 'the country of the author of Emma'."""
    rel, child, parent, steps = parent_of(q, "who")
    phrase, value = q.phrase(parent), q.pick(q.values[child.name, child.label])
    phrase.attach(steps, q.phrase(child))
    order, called = "", child.named.format(value)
    if q.maybe(0.35):
        col, side = q.measure(child), q.rng.choice(("hi", "lo"))
        called = "the " + q.phrase(child).text(one=True, superlative=superlative(q, col, side))
        order = order_by(phrase, col, side == "hi", 1) + " LIMIT 1"
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
    phrase = described(q, child, q.rng.choice((0, 1, 1)))
    mine, theirs = q.shown(phrase, 1)[0], q.shown(q.phrase(parent), 1)[0]
    at = phrase.attach(q.domain.ends(rel)[2], q.phrase(parent))
    sql = f"SELECT {phrase.column(mine.name)}, {phrase.column(theirs.name, at)}{phrase.tail()}"
    role, owner = q.say(rel.say["role"]), "their" if child.person else "its"
    if not phrase.where and q.wording(0.5):
        nouns = [q.noun(c) for c in (mine, theirs, mine, theirs)]
        return q.phrasing("pairs each").format(*nouns, role=role, row=phrase.noun,
                                               owner=owner), sql
    slots = dict(mine=q.nouns(mine), theirs=q.nouns(theirs), rows=q.all(phrase))
    return q.phrasing("pairs").format(roles=plural(role), **slots), sql


def with_children(q, need, condition):
    """(relation, parents joined with their children, the children, the relation's words)."""
    rel, child, parent, steps = parent_of(q, need)
    phrase, inner = q.phrase(parent), described(q, child, int(q.maybe(condition)))
    phrase.attach(steps, inner)
    words = q.say(rel.say[need])
    if inner.where and "#" not in words:
        raise Reject                       # these words leave no place for the condition
    return rel, phrase, inner, words.replace("#", inner.text())


def per_parent(phrase, rest=""):
    return f" GROUP BY {phrase.column(phrase.table.key)}{rest}"


def ask_count_per(q):
    """'How many books has each author written', of one author, or an aggregate per author."""
    form = q.rng.choice(("one", "each", "aggregate"))
    rel, phrase, inner, words = with_children(q, "many", 0.3 * (form != "aggregate"))
    parent = phrase.table
    if form == "one":
        value = q.pick(q.values[parent.name, parent.label])
        phrase.where.append((0, parent.label, f"= {literal(value)}"))
        return words.format(parent.named.format(value)) + "?", f"SELECT COUNT(*){phrase.tail()}"
    label = phrase.column(parent.label)
    if form == "each":
        return (words.format(f"each {phrase.noun}") + "?",
                f"SELECT {label}, COUNT(*){phrase.tail()}{per_parent(phrase)}")
    if not rel.say.get("a"):
        raise Reject
    what, function, col = aggregate(q, inner.table)
    inner.modify(q.say(rel.say["a"]).format(f"each {phrase.noun}"))
    return (q.phrasing("aggregate per").format(what=f"{what} of {inner.text()}"),
            f"SELECT {label}, {function}({phrase.column(col.name, 1)}){phrase.tail()}"
            + per_parent(phrase))


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
    return words, phrase.select(*cols) + per_parent(phrase, " ORDER BY COUNT(*) DESC LIMIT 1")


def ask_over(q):
    """'authors who have written more than 2 books'."""
    rel, phrase, inner, words = with_children(q, "n", 0.35)
    op, word, n = q.rng.choice(LIMITS)
    asked, cols = Phrase(phrase.table, phrase.noun), q.shown(phrase)
    asked.modify(words.format(f"{word} {n}"))
    sql = phrase.select(*cols) + per_parent(phrase, f" HAVING COUNT(*) {op} {n}")
    return q.list_of(asked, cols), sql


def ask_sorted_parents(q):
    rel, phrase, inner, _ = with_children(q, "n", 0)
    cols = q.label(phrase.table)
    slots = dict(cols=q.nouns(*cols), parents=plural(phrase.noun), rows=inner.text())
    return (q.phrasing("sorted by count").format(**slots),
            phrase.select(*cols) + per_parent(phrase, " ORDER BY COUNT(*) DESC"))


# ---------------------------------------------------------------------------------------------
# Nested queries and set operators

def answer(q, phrase):
    """Ask for a count, a few columns or an aggregate of a phrase without joins."""
    kind = q.rng.choice(("list", "list", "list", "count", "aggregate"))
    if kind == "count":
        return (q.phrasing("count").format(rows=phrase.text()),
                f"SELECT COUNT(*){phrase.tail()}")
    if kind == "aggregate" and q.columns(phrase.table, "number"):
        words, function, col = aggregate(q, phrase.table, phrase.settled())
        return q.one_of([words], phrase.text()), f"SELECT {function}({col.name}){phrase.tail()}"
    cols = q.shown(phrase)
    return q.list_of(phrase, cols), phrase.select(*cols)


def ask_none(q):
    """NOT IN for 'without any', IN for 'with at least one'; the inner rows may have a condition."""
    rel, form = q.pick((r, f) for r in q.domain.relations for f in ("none_a", "none_b", "some_b")
                       if r.say.get(f))
    tab, other, (link, *steps) = q.domain.side(rel, form[-1])
    template, bridge = q.say(rel.say[form]), "+" in rel.path
    conditions = 1 if bridge else int(q.maybe(0.5))
    if conditions and "{}" not in template:
        raise Reject
    inner, phrase = described(q, other, conditions), q.phrase(tab)
    phrase.modify(template.replace("{}", inner.text(one=" no {}" in template)))
    nested = inner
    if bridge:
        nested = Phrase(other, "", Scope(link[0]))
        nested.attach(steps, inner)
    op = "IN" if form == "some_b" else "NOT IN"
    phrase.where.append((0, tab.key, f"{op} (SELECT {nested.column(link[2])}{nested.tail()})"))
    return answer(q, checked(q, phrase))


def ask_compared(q):
    """More or less than the average, than a named row, or than the extreme of a group."""
    tab = q.pick(q.domain.tables)
    col, up = q.measure(tab), q.maybe(0.6)
    side = "above" if up else "below"
    phrase, template = q.phrase(tab), col.say.get(side)
    kind = q.rng.choice(("average", "average", "named", "extreme"))
    if kind == "average" and col.kind == "number":
        noun, more = q.noun(col), "higher" if up else "lower"
        words = either(f"* whose {noun} {is_are(noun)} {side} average", template,
                       article_fits(noun) and f"* with a {noun} {more} than the average")
        phrase.modify(q.say(words).format("average"))
        nested = f"AVG({col.name}) FROM {tab.name}"
    elif kind == "named" and template and tab.label:
        value = q.pick(q.values[tab.name, tab.label])
        phrase.modify(template.format(tab.named.format(value)))
        nested = f"{col.name} FROM {tab.name} WHERE {tab.label} = {literal(value)}"
    elif kind == "extreme" and template:
        group = described(q, tab, 1)
        words = superlative(q, col, "hi" if up else "lo")
        phrase.modify(template.format(f"the {group.text(one=True, superlative=words)}"))
        nested = f"{'MAX' if up else 'MIN'}({col.name}){group.tail()}"
    else:
        raise Reject
    phrase.where.append((0, col.name, f"{'>' if up else '<'} (SELECT {nested})"))
    return answer(q, checked(q, phrase))


def set_query(q, words, arms, operator):
    """Join SELECTs, provided that none of them alone returns as much."""
    sql = f" {operator} ".join(arms)
    if set(q.rows(sql)) in [set(q.rows(arm)) for arm in arms]:
        raise Reject
    return words, sql


def two_described(q, tab):
    """Two phrases of one table with a condition each, which are not the same."""
    first, second = described(q, tab, 1), described(q, tab, 1)
    second.noun = first.noun
    if first.text() == second.text():
        raise Reject
    return first, second


def ask_both(q):
    """INTERSECT and EXCEPT over a relation: 'members who borrowed both Emma and Misery'."""
    rel, side = q.pick((r, s) for r in q.domain.relations for s in "ab"
                       if r.say.get(s) and (s == "b" or "+" in r.path))
    tab, other, steps = q.domain.side(rel, side)
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


SET_FORMS = (("UNION", "{} or {}"), ("INTERSECT", "both {} and {}"), ("EXCEPT", "{} but no {}"))


def have(q, col, forms, parts):
    """(question, operator) about a group column: 'genres that have both ... and ...'."""
    operator, form = q.rng.choice(forms)
    slots = dict(nouns=q.nouns(col), what=form.format(*parts))
    return q.phrasing("have").format(**slots), operator


def ask_groups_both(q):
    """INTERSECT and EXCEPT of a group column."""
    parts = two_described(q, q.pick(q.domain.tables))
    col = q.pick(q.groups(parts[0].table, parts[0].settled() | parts[1].settled()))
    words, operator = have(q, col, SET_FORMS[1:], [p.text() for p in parts])
    return set_query(q, words, [p.select(col) for p in parts], operator)


def ask_union(q):
    """The values of two tables put together or compared, or those of two parts of one table."""
    if q.domain.union and q.maybe(0.6):
        names = [c.split(".") for c in q.pick(q.domain.union).split("+")]
        parts = [described(q, q.domain[table], q.rng.choice((0, 1))) for table, _ in names]
        cols = [part.table[name] for part, (_, name) in zip(parts, names)]
    else:
        parts = two_described(q, q.pick(q.domain.tables))
        settled = parts[0].settled() | parts[1].settled()
        cols = [q.pick(q.groups(parts[0].table, settled))] * 2
    arms, texts = [p.select(c) for p, c in zip(parts, cols)], [p.text() for p in parts]
    if cols[0] is not cols[1] and cols[0].name != parts[0].table.label and q.maybe(0.6):
        words, operator = have(q, cols[0], SET_FORMS, texts)
        return set_query(q, words, arms, operator)
    slots = dict(nouns=q.nouns(cols[0]), others=q.nouns(cols[1]), rows=texts[0], more=texts[1])
    return set_query(q, q.phrasing("put together").format(**slots), arms, "UNION")


# ---------------------------------------------------------------------------------------------
# All kinds

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


def polish(words, rng):
    words = with_articles(re.sub(r"\s+", " ", words))
    words = re.sub(r"\b(from|in|of|to|or) (?=USA\b|Netherlands\b)", r"\1 the ", words)
    if rng.random() < 0.04:
        return words[0].lower() + words[1:-1]              # somebody types in a hurry
    return words


def draw(q, kind, seed, rng):
    """(question, SQL) of the kind, the query fixed by the seed; raises Reject."""
    q.rng, q.words, q.new = random.Random(seed), rng, False
    words, sql = kind(q)
    return polish(words, rng), sql
