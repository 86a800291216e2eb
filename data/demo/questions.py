"""The demo's kinds of question: each function of KINDS returns (question, SQL) or raises Reject.

One way of writing per meaning: the table of the first selected column comes first in FROM; "the
most" is ORDER BY ... LIMIT 1; "without any" NOT IN; "at least one" IN; "both" INTERSECT; "but
not" EXCEPT; what a one-to-many join could repeat is selected DISTINCT.
"""

import random
import re
from dataclasses import dataclass
from functools import partial

from data.demo.phrases import (PHRASINGS, Phrase, any_phrase, article_fits, checked, described,
                               is_are, one_named, plural)
from data.pretraining.asking import Reject, reject_if, with_articles
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
    # DISTINCT would merge different rows
    reject_if(phrase.many and cols[0].name != phrase.table.label)
    return q.list_of(phrase, cols), phrase.select(*cols)


def ask_count(q, join=False):
    phrase = any_phrase(q, join)
    what = f"DISTINCT {phrase.col(phrase.table.key)}" if phrase.many else "*"
    sentence, sql = phrase.sentence(), phrase.sql(f"COUNT({what})")
    if sentence and q.wording(0.5):
        return f"How many {sentence}?", sql
    return q.phrasing("count").format(rows=phrase.text()), sql


def ask_aggregate(q, join=False):
    phrase = any_phrase(q, join, once=True)
    words, function, col = aggregate(q, phrase.table, phrase.settled())
    words, functions = [words], [function]
    if col.kind == "number" and q.maybe(0.2):
        functions = q.rng.sample(("MIN", "MAX", "AVG"), 2)
        plain = {"MIN": "minimum", "MAX": "maximum", "AVG": "average"}
        words = [plain[functions[0]], f"{plain[functions[1]]} {q.noun(col)}"]
    select = ", ".join(f"{f}({phrase.col(col.name)})" for f in functions)
    return q.one_of(words, q.all(phrase)), phrase.sql(select)


def ask_named(q):
    """One or two columns of a row called by its name."""
    tab = q.pick(t for t in q.domain.tables.values() if t.label)
    phrase, called = one_named(q, tab)
    cols = q.rng.sample(q.others(tab), min(len(q.others(tab)), q.rng.choice((1, 1, 2))))
    if len(cols) == 1 and "ask" in cols[0].say and q.wording(0.6):
        words = q.say(cols[0].say["ask"]).replace("{noun}", q.noun(cols[0])).format(called) + "?"
    else:
        words = q.one_of([q.noun(c) for c in cols], called)
    return words, phrase.select(*cols)


def ask_distinct(q, join=False):
    phrase = any_phrase(q, join)
    col = q.pick(q.groups(phrase.table, phrase.settled()))
    slots, count = dict(nouns=q.nouns(col), rows=phrase.text()), q.maybe(0.4)
    words = q.phrasing("count distinct" if count else "distinct").format(**slots)
    if count:
        return words, phrase.sql(f"COUNT(DISTINCT {phrase.col(col.name)})")
    return words, phrase.select(col, distinct=True)


# ---------------------------------------------------------------------------------------------
# Groups

@dataclass
class Groups:
    """Rows of a table put into groups."""
    table: object
    phrase: Phrase                         # FROM, WHERE and GROUP BY
    at: int                                # the source whose rows are counted
    slots: dict                            # the rows and that column in words
    say: dict                              # its phrases that fit

    def value(self, function, col):
        return f"{function}({self.phrase.col(col.name, self.at)})"

    def query(self, shown="", rest=""):
        return self.phrase.sql(self.phrase.by + shown, rest)


def grouped(q, join):
    """Groups by a column of the table itself or of the one it belongs to."""
    tab = q.pick(q.domain.tables.values())
    inner = described(q, tab, q.rng.choice((0, 0, 1)) * (not join))
    if not join:
        phrase, at, col = inner, 0, q.pick(q.groups(tab, inner.settled()))
        noun, say = q.noun(col), {} if inner.after else col.say
    else:
        rel = q.pick(r for r in q.domain.relations if r.say.get("role") and r.ends["a"][0] is tab)
        parent, _, steps = rel.ends["b"]
        phrase, col, say = q.phrase(parent), q.pick(q.groups(parent)), {}
        at = phrase.attach(steps, inner)
        role = q.pick(r for r in rel.say["role"].split("|") if "~" not in r and " of " not in r)
        noun = f"{role} {col.nouns.split('|')[0]}"
    phrase.by = phrase.col(col.name)
    return Groups(tab, phrase, at, dict(noun=noun, rows=inner.text()), say)


def ask_group(q, join=False):
    """A count or an aggregate per group."""
    g = grouped(q, join)
    if not q.maybe(0.55):
        what, function, col = aggregate(q, g.table, g.phrase.settled())
        return (q.phrasing("group aggregate").format(what=what, **g.slots),
                g.query(f", {g.value(function, col)}"))
    if "each" in g.say and q.wording(0.5):
        each = q.say(g.say["each"]).format(f"each {g.slots['noun']}")
        words = f"How many {g.slots['rows']} {each}?"
    else:
        words = q.phrasing("group count").format(**g.slots)
    return words, g.query(", COUNT(*)")


def ask_top_group(q, join=False):
    g = grouped(q, join)
    if q.maybe(0.7):
        order, options = "COUNT(*)", PHRASINGS["top group"]
        if "top" in g.say and q.wording(0.4):
            options = [q.say(g.say["top"]).format("{noun}").replace("#", "{rows}") + "?"]
        words = q.choose(options).format(**g.slots)
    else:
        col = q.measure(g.table, g.phrase.settled(), ["number"])
        order, nouns = g.value("AVG", col), [q.noun(col), q.noun(col)]
        words = q.phrasing("top group average").format(*nouns, **g.slots)
    return words, g.query(rest=f"ORDER BY {order} DESC LIMIT 1")


def ask_having(q, join=False):
    g = grouped(q, join)
    if q.maybe(0.7):
        op, word, n = q.rng.choice(LIMITS)
        having, template = f"COUNT(*) {op} {n}", "having joined" if join else "having"
        slots = dict(many=f"{word} {n}", nouns=plural(g.slots["noun"]))
    else:
        col = q.measure(g.table, g.phrase.settled(), ["number"])
        slots, template = dict(limit=q.threshold(g.table, col), what=q.noun(col)), "having average"
        having = f"{g.value('AVG', col)} > {slots['limit']}"
    sql = g.query(rest=f"HAVING {having}")
    reject_if(len(q.rows(sql)) == len(q.rows(g.query())))
    return q.phrasing(template).format(**slots, **g.slots), sql


# ---------------------------------------------------------------------------------------------
# Order

def superlative(q, col, side):
    """'longest *', '* with the lowest fare'."""
    reject_if(side == "lo" and col.null)   # NULL would come first
    ends = ("highest", "lowest") if col.kind == "number" else ("latest", "earliest")
    return q.say(col.say.get(side), f"* with the {ends[side == 'lo']} {q.noun(col)}")


def order_by(phrase, col, down, at=0):
    return f"ORDER BY {phrase.col(col.name, at)}{' DESC' * down}"


def ask_top(q, join=False):
    """The row, or the first few, by a number or date."""
    phrase = any_phrase(q, join, once=True)
    reject_if(phrase.joint == "OR")
    col = q.measure(phrase.table, phrase.settled())
    side, k = q.rng.choice(("hi", "hi", "lo")), q.rng.choice((1, 1, 1, 1, 2, 3, 3, 5))
    template = superlative(q, col, side)
    cols = [c for c in q.shown(phrase) if c is not col]
    reject_if(not cols)
    sql = phrase.select(*cols, rest=order_by(phrase, col, side == "hi") + f" LIMIT {k}")
    if k > 1:
        words = phrase.text(superlative=f"{k} {template}")
        return q.phrasing("list").format(cols=q.nouns(*cols), rows=f"the {words}"), sql
    row = f"the {phrase.text(one=True, superlative=template)}"
    if cols == q.label(phrase.table) and q.wording(0.5):
        return q.phrasing("top person" if phrase.table.person else "top").format(row=row), sql
    return q.one_of([q.noun(c) for c in cols], row), sql


def ask_sorted(q, join=False):
    phrase = any_phrase(q, join, once=True)
    cols = q.shown(phrase)
    orders = q.columns(phrase.table, "number", "year", "date") + q.label(phrase.table)
    col = q.pick(c for c in orders if not any(
        name == c.name and "= " in op for _, name, op in phrase.conditions))
    down = q.maybe(0.5) and col.kind != "text"
    slots = dict(cols=q.nouns(*cols), rows=q.all(phrase))
    noun, ends = q.noun(col), [col.say.get(s, "").split("|")[0] for s in ("lo", "hi")]
    if col.kind == "text":
        order = q.phrasing("by text").format(noun=noun)
    elif all(e.endswith(" *") for e in ends) and q.wording(0.3):
        order = f"from {ends[down][:-2]} to {ends[not down][:-2]}"
    else:
        kind = "number" if col.kind == "number" else "time"
        order = q.phrasing(f"by {kind} {'down' if down else 'up'}").format(noun=noun)
    return (q.phrasing("sorted").format(order=order, **slots),
            phrase.select(*cols, rest=order_by(phrase, col, down)))


# ---------------------------------------------------------------------------------------------
# Questions that need a join

def foreign_key(q, need):
    """One whose relation has the phrase needed."""
    return q.pick(r for r in q.domain.relations if not r.bridge and r.say.get(need))


def ask_who(q):
    """'Who wrote Emma?', 'Who wrote the longest book?', 'the country of the author of Emma'."""
    rel = foreign_key(q, "who")
    parent, child, steps = rel.ends["b"]
    phrase, value = q.phrase(parent), q.pick(q.values[child.name, child.label])
    phrase.attach(steps, q.phrase(child))
    order, called = "", child.named.format(value)
    if q.maybe(0.35):
        col, side = q.measure(child), q.rng.choice(("hi", "lo"))
        called = "the " + q.phrase(child).text(one=True, superlative=superlative(q, col, side))
        order = order_by(phrase, col, side == "hi", 1) + " LIMIT 1"
    else:
        phrase.conditions.append((1, child.label, f"= {literal(value)}"))
    if q.maybe(0.6):
        cols, words = q.label(parent), q.say(rel.say["who"]).format(called) + "?"
    else:
        cols = q.label(parent) * q.maybe(0.3) + [q.pick(q.others(parent))]
        role = q.say(rel.say["role"])
        words = q.one_of([q.noun(c) for c in cols], f"the {role} of {called}")
    return words, phrase.select(*cols, rest=order)


def ask_pairs(q):
    """Columns of both sides: 'the titles of crime books and the names of their authors'."""
    rel = foreign_key(q, "role")
    child, parent, steps = rel.ends["a"]
    phrase = described(q, child, q.rng.choice((0, 1, 1)))
    mine, theirs = q.shown(phrase, 1)[0], q.shown(q.phrase(parent), 1)[0]
    at = phrase.attach(steps, q.phrase(parent))
    sql = phrase.sql(f"{phrase.col(mine.name)}, {phrase.col(theirs.name, at)}")
    role, owner = q.say(rel.say["role"]), "their" if child.person else "its"
    if not phrase.conditions and q.wording(0.5):
        nouns = [q.noun(c) for c in (mine, theirs, mine, theirs)]
        return q.phrasing("pairs each").format(*nouns, role=role, row=phrase.noun, owner=owner), sql
    slots = dict(mine=q.nouns(mine), theirs=q.nouns(theirs), rows=q.all(phrase))
    return q.phrasing("pairs").format(roles=plural(role), **slots), sql


def with_children(q, need, condition):
    """(relation, parents, grouped, joined with their children, the children, the relation's
    words)."""
    rel = foreign_key(q, need)
    parent, child, steps = rel.ends["b"]
    phrase, inner = q.phrase(parent), described(q, child, int(q.maybe(condition)))
    phrase.attach(steps, inner)
    phrase.by = phrase.col(parent.key)
    words = q.say(rel.say[need])
    reject_if(inner.conditions and "#" not in words)       # no place for the condition
    return rel, phrase, inner, words.replace("#", inner.text())


def ask_count_per(q):
    """'How many books has each author written', of one author, or an aggregate per author."""
    form = q.rng.choice(("one", "each", "aggregate"))
    rel, phrase, inner, words = with_children(q, "many", 0.3 * (form != "aggregate"))
    parent, value = phrase.table, "COUNT(*)"
    if form == "one":
        phrase.by = ""
        called = phrase.call(q.pick(q.values[parent.name, parent.label]))
        return words.format(called) + "?", phrase.sql(value)
    words = words.format(f"each {phrase.noun}") + "?"
    if form == "aggregate":
        reject_if(not rel.say.get("a"))
        what, function, col = aggregate(q, inner.table)
        inner.modify(q.say(rel.say["a"]).format(f"each {phrase.noun}"))
        value = f"{function}({phrase.col(col.name, 1)})"
        words = q.phrasing("aggregate per").format(what=f"{what} of {inner.text()}")
    return words, phrase.sql(f"{phrase.col(parent.label)}, {value}")


def ask_most(q):
    _, phrase, _, words = with_children(q, "most", 0.35)
    parent, words = phrase.table, words.replace("*", phrase.noun) + "?"
    cols, start = q.label(parent), f"Which {phrase.noun} "
    if q.maybe(0.3):
        cols = [q.pick(q.others(parent))]
        reject_if(not words.startswith(start))
        relative = "who" if parent.person else "that"
        words = q.one_of([q.noun(c) for c in cols],
                         f"the {phrase.noun} {relative} {words[len(start):-1]}")
    return words, phrase.select(*cols, rest="ORDER BY COUNT(*) DESC LIMIT 1")


def ask_over(q):
    """'authors who have written more than 2 books'."""
    _, phrase, _, words = with_children(q, "n", 0.35)
    op, word, n = q.rng.choice(LIMITS)
    asked, cols = Phrase(phrase.table, phrase.noun), q.shown(phrase)
    asked.modify(words.format(f"{word} {n}"))
    sql = phrase.select(*cols, rest=f"HAVING COUNT(*) {op} {n}")
    return q.list_of(asked, cols), sql


def ask_sorted_parents(q):
    _, phrase, inner, _ = with_children(q, "n", 0)
    cols = q.label(phrase.table)
    slots = dict(cols=q.nouns(*cols), parents=plural(phrase.noun), rows=inner.text())
    sql = phrase.select(*cols, rest="ORDER BY COUNT(*) DESC")
    return q.phrasing("sorted by count").format(**slots), sql


# ---------------------------------------------------------------------------------------------
# Nested queries and set operators

def answer(q, phrase):
    """Ask for a count, a few columns or an aggregate of a phrase without joins."""
    checked(q, phrase)
    kind = q.rng.choice(("list", "list", "list", "count", "aggregate"))
    if kind == "count":
        return q.phrasing("count").format(rows=phrase.text()), phrase.sql("COUNT(*)")
    if kind == "aggregate" and q.columns(phrase.table, "number"):
        words, function, col = aggregate(q, phrase.table, phrase.settled())
        return q.one_of([words], phrase.text()), phrase.sql(f"{function}({col.name})")
    cols = q.shown(phrase)
    return q.list_of(phrase, cols), phrase.select(*cols)


def ask_none(q):
    """NOT IN for 'without any', IN for 'with at least one'; the inner rows may have a condition."""
    rel, form = q.pick((r, f) for r in q.domain.relations for f in ("none_a", "none_b", "some_b")
                       if r.say.get(f))
    tab, other, (link, *steps) = rel.ends[form[-1]]
    template, conditions = q.say(rel.say[form]), 1 if rel.bridge else int(q.maybe(0.5))
    reject_if(conditions and "{}" not in template)
    nested = inner = described(q, other, conditions)
    phrase = q.phrase(tab)
    phrase.modify(template.replace("{}", inner.text(one=" no {}" in template)))
    if rel.bridge:
        nested = Phrase(q.domain.tables[link[0]])
        nested.attach(steps, inner)
    op = "IN" if form == "some_b" else "NOT IN"
    phrase.conditions.append((0, tab.key, f"{op} ({nested.sql(nested.col(link[2]))})"))
    return answer(q, phrase)


def ask_compared(q):
    """More or less than the average, than a named row, or than the extreme of a group."""
    tab = q.pick(q.domain.tables.values())
    col, up = q.measure(tab), q.maybe(0.6)
    side = "above" if up else "below"
    phrase, template = q.phrase(tab), col.say.get(side)
    others, value = Phrase(tab), col.name             # what the nested query reads
    kind = q.rng.choice(("average", "average", "named", "extreme"))
    if kind == "average" and col.kind == "number":
        noun, more = q.noun(col), "higher" if up else "lower"
        template = q.say(f"* whose {noun} {is_are(noun)} {side} average", template,
                         article_fits(noun) and f"* with a {noun} {more} than the average")
        than, value = "average", f"AVG({col.name})"
    elif kind == "named" and template and tab.label:
        than = others.call(q.pick(q.values[tab.name, tab.label]))
    elif kind == "extreme" and template:
        others = described(q, tab, 1)
        words = superlative(q, col, "hi" if up else "lo")
        than = f"the {others.text(one=True, superlative=words)}"
        value = f"{'MAX' if up else 'MIN'}({col.name})"
    else:
        raise Reject
    phrase.modify(template.format(than))
    phrase.conditions.append((0, col.name, f"{'>' if up else '<'} ({others.sql(value)})"))
    return answer(q, phrase)


def set_query(q, words, arms, operator):
    """Join SELECTs, provided that none of them alone returns as much."""
    sql = f" {operator} ".join(arms)
    reject_if(set(q.rows(sql)) in [set(q.rows(arm)) for arm in arms])
    return words, sql


def two_described(q, tab):
    """Two phrases of one table with a condition each, which are not the same."""
    first, second = described(q, tab, 1), described(q, tab, 1)
    second.noun = first.noun
    reject_if(first.text() == second.text())
    return first, second


def ask_both(q):
    """INTERSECT and EXCEPT over a relation: 'members who borrowed both Emma and Misery'."""
    rel, side = q.pick((r, s) for r in q.domain.relations for s in "ab"
                       if r.say.get(s) and (s == "b" or r.bridge))
    tab, other, steps = rel.ends[side]
    if rel.bridge and q.maybe(0.6):
        inners = [q.phrase(other), q.phrase(other)]
        names = q.rng.sample(q.values[other.name, other.label], 2)
        words = [inner.call(name) for inner, name in zip(inners, names)]
    else:
        inners = two_described(q, other)
        words = [i.text() for i in inners]
    operator, form = q.rng.choice((("INTERSECT", "both {} and {}"), ("EXCEPT", "{} but not {}")))
    template = q.say(rel.say[side])
    reject_if(not template.endswith("{}"))
    asked, arms = q.phrase(tab), []
    asked.modify(template.replace("{}", form.format(*words)))
    for inner in inners:
        arm = q.phrase(tab)
        arm.attach(steps, inner)
        arms.append(arm.select(tab[tab.label]))
    return set_query(q, q.list_of(asked, q.label(tab)), arms, operator)


SET_FORMS = (("UNION", "{} or {}"), ("INTERSECT", "both {} and {}"), ("EXCEPT", "{} but no {}"))


def ask_groups(q, parts, cols, forms=SET_FORMS):
    """'Which genres have both ... and ...': a group column of two phrases."""
    operator, form = q.rng.choice(forms)
    slots = dict(nouns=q.nouns(cols[0]), what=form.format(*[p.text() for p in parts]))
    words = q.phrasing("have").format(**slots)
    return set_query(q, words, [p.select(c) for p, c in zip(parts, cols)], operator)


def two_parts(q):
    """Two phrases of one table and a column that sorts the rows of both into groups."""
    parts = two_described(q, q.pick(q.domain.tables.values()))
    settled = parts[0].settled() | parts[1].settled()
    return parts, [q.pick(q.groups(parts[0].table, settled))] * 2


def ask_groups_both(q):
    """INTERSECT and EXCEPT of a group column."""
    return ask_groups(q, *two_parts(q), SET_FORMS[1:])


def ask_union(q):
    """The values of two tables put together or compared, or those of two parts of one table."""
    if q.domain.union and q.maybe(0.6):
        names = [c.split(".") for c in q.pick(q.domain.union).split("+")]
        parts = [described(q, q.domain.tables[table], q.rng.choice((0, 1))) for table, _ in names]
        cols = [part.table[name] for part, (_, name) in zip(parts, names)]
    else:
        parts, cols = two_parts(q)
    if cols[0] is not cols[1] and cols[0].name != parts[0].table.label and q.maybe(0.6):
        return ask_groups(q, parts, cols)
    slots = dict(nouns=q.nouns(cols[0]), others=q.nouns(cols[1]), rows=parts[0].text(),
                 more=parts[1].text())
    words = q.phrasing("put together").format(**slots)
    return set_query(q, words, [p.select(c) for p, c in zip(parts, cols)], "UNION")


# ---------------------------------------------------------------------------------------------
# All kinds

joined = partial(partial, join=True)       # the same kind of question over a phrase with joins

KINDS = (                                  # weights: roughly Spider's mix of constructs
    (10, ask_list), (6, ask_count), (5, ask_aggregate), (5, ask_named), (4, ask_distinct),
    (5, ask_group), (3, ask_top_group), (3, ask_having), (5, ask_top), (4, ask_sorted),
    (11, joined(ask_list)), (5, joined(ask_count)), (3, joined(ask_aggregate)),
    (2, joined(ask_distinct)), (2, joined(ask_group)), (1.5, joined(ask_top_group)),
    (1, joined(ask_having)), (2, joined(ask_top)), (1, joined(ask_sorted)),
    (4, ask_who), (3, ask_pairs), (4, ask_count_per), (3, ask_most), (3, ask_over),
    (0.7, ask_sorted_parents), (4.5, ask_none), (3.5, ask_compared), (3, ask_both),
    (2, ask_groups_both), (1.7, ask_union))


def draw(q, kind, seed, rng):
    """(question, SQL) of the kind, the query fixed by the seed; raises Reject."""
    q.rng, q.words, q.new = random.Random(seed), rng, False
    words, sql = kind(q)
    words = with_articles(re.sub(r"\s+", " ", words))
    words = re.sub(r"\b(from|in|of|to|or) (?=USA\b|Netherlands\b)", r"\1 the ", words)
    if rng.random() < 0.04:
        words = words[0].lower() + words[1:-1]             # somebody types in a hurry
    return words, sql
