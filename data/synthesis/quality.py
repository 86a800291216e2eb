"""Filters for synthetic queries that nobody would ask (section 3.1.1). Four kinds of checks:

    flaw(tree, links)             on the template alone, whatever fills its slots
    suits(column, uses, profile)  on each column, for what the query does with it (see USES)
    group_flaw(tree, profiles)    on what GROUP BY puts together
    trivial(result, tree)         on the rows
    probes, is_redundant          on the rows without one of its conditions, joins or set operators

Most rules come from reading what filling with random columns of the right type and key gave. They
work on resolved trees whose names are slots, written "\\0c2\\0" (see templates.py).
"""

import re
from collections import Counter
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from data.sql import (
    Between, Binary, Call, Case, Column, In, Item, Literal, Logic, Node, Order, Query, Select,
    Source, Star, conjunction, conjuncts, rewrite, to_sql, walk)
from data.synthesis.profiles import CATEGORIES

MAX_ROWS = 1000              # longer results teach nothing and cost time
MAX_PAIRED = 5000            # so many rows squared take seconds

RANGE = ("<", "<=", ">", ">=")
ARITHMETIC = ("+", "-", "*", "/", "%")
COMPARISONS = {"=": "equal", "!=": "equal", "IS": "equal", "LIKE": "like", "NOT LIKE": "like",
               **dict.fromkeys(RANGE, "range")}
AGGREGATES = ("COUNT", "SUM", "AVG", "MIN", "MAX", "TOTAL", "GROUP_CONCAT")


# ---------------------------------------------------------------------------------------------
# Parts of a tree

def number(slot):
    """2 for the slot "\\0c2\\0"."""
    return int(slot[2:-1])


def is_link(part):
    """Does it compare or combine two columns?"""
    return (isinstance(part, Binary) and isinstance(part.left, Column)
            and isinstance(part.right, Column))


def plain_sources(select):
    """Does the SELECT read tables, and nothing else?"""
    return bool(select.sources) and all(isinstance(source.table, str) for source in select.sources)


def bare(part):
    """Columns of an expression outside aggregates and sub-queries."""
    if isinstance(part, Column):
        yield part
    elif isinstance(part, tuple):
        for inner in part:
            yield from bare(inner)
    elif isinstance(part, Node) and not isinstance(part, (Query, Source)):
        if not (isinstance(part, Call) and part.name in AGGREGATES):
            yield from bare(part.parts())


def aggregated(select):
    return _calls(select.items, *AGGREGATES)


def _calls(tree, *names):
    return any(isinstance(part, Call) and part.name in names for part in walk(tree))


def equalities(select):
    """Pairs of columns that joins and WHERE make equal, as ((source, slot), (source, slot))."""
    for condition in [source.on for source in select.sources] + [select.where]:
        for part in conjuncts(condition):
            if is_link(part) and part.op == "=":
                yield tuple([(side.source, number(side.name)) for side in (part.left, part.right)])


# ---------------------------------------------------------------------------------------------
# By form

_UNSTABLE = ("RANDOM", "RANDOMBLOB", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP")


def flaw(tree, links):
    """Why no filling of a template is worth asking, or "". links: of templates.Link."""
    referred = {link.parent for link in links if link.declared}
    return next((reason for part in walk(tree) for reason, found in _flaws(part, referred).items()
                 if found), "")


def _flaws(part, referred):
    """{reason: does it hold?} for one node."""
    match part:
        case Call(name) | Literal("keyword", name):
            return {"result changes from run to run": name in _UNSTABLE}
        case Binary(op, left, right):
            tables = {column.source for column in bare((left, right))}
            return {"arithmetic across tables": op in ARITHMETIC and len(tables) > 1}
        case Query(arms, _, order):
            first, terms = arms[0], [term.expression for term in order]
            shown = [item.expression for item in first.items]
            return {
                "set operator with one arm twice": len(set(map(to_sql, arms))) < len(arms),
                "DISTINCT sorted by something else":
                    first.distinct and any(term not in shown for term in terms),
                "sorted by a condition":
                    any(isinstance(term, Binary) and term.op in COMPARISONS for term in terms),
                "bare column beside an aggregate":
                    aggregated(first) and not first.group and any(bare(order))}
        case Select():
            return _select_flaws(part, referred)
    return {}


def _select_flaws(select, referred):
    items, own = select.items, {source.number for source in select.sources}
    keys = Counter(source for pair in equalities(select) for source, slot in pair
                   if slot in referred and {other for _, other in pair} - referred)
    sums = {column.source for part in walk(items) if isinstance(part, Call) and part.name == "SUM"
            for column in bare(part.args)}
    return {
        "duplicate items": len(set(items)) < len(items),
        "bare column beside an aggregate":
            aggregated(select) and not select.group and any(bare(items)),
        "sub-query shows a column from outside":
            any(column.source not in own for column in bare(items)),
        "bare column beside a group":
            select.group and any(isinstance(item.expression, Star) for item in items),
        "tables not joined by a key": not _joined(select),
        "rows multiplied by two joins":                  # a row for each pair of children
            (aggregated(select) or select.group) and max(keys.values(), default=0) > 1,
        "sum of a parent's column, once for each child": not sums.isdisjoint(keys)}


def _joined(select):
    """Are all sources of a SELECT connected by equalities between different columns?"""
    numbers = [source.number for source in select.sources]
    reached = set(numbers[:1])
    pairs = [{a[0], b[0]} for a, b in equalities(select) if a[1] != b[1]]
    for _ in numbers:
        for pair in pairs:
            reached |= pair if reached & pair else set()
    return reached >= set(numbers)


# ---------------------------------------------------------------------------------------------
# By columns

# What a query can do with a column: total (SUM), sum (SUM, AVG and arithmetic), extreme, count,
# group, order, top (order under LIMIT), show, distinct (also by a set operator or in an aggregate),
# alone (compared in an aggregate over one table), tied (found by a sub-query), dated (taken for a
# date), null (looked at for missing values), bucket (cut by CASE), paired (compared from row to
# row), and the comparisons equal, unlike, range, like.
USES = {"SUM": "sum", "AVG": "sum", "MAX": "extreme", "MIN": "extreme", "COUNT": "count"}
DATED = ("STRFTIME", "SUBSTR", "DATE", "JULIANDAY")      # what queries do with dates
_PARTS = {"%Y": (0, 4), "%Y-%m": (0, 7), "%m": (5, 7)}


def date_part(expression):
    """(column, start, end): the characters of an ISO date that an expression gives; or None."""
    match expression:
        case Call("STRFTIME", (Literal("text", form), Column() as column)) if form in _PARTS:
            return column, *_PARTS[form]
        case Call("SUBSTR", (Column() as column, Literal("number", start), Literal("number", n))):
            return column, int(start) - 1, int(start) - 1 + int(n)
        case Call("DATE", (Column() as column,)):
            return column, 0, 10
    return None


def uses(tree):
    """{column slot: frozenset of uses} over a slotted tree."""
    found = {}
    for part in walk(tree):
        for use, expression in _used(part):
            if isinstance(expression, Column):
                found.setdefault(number(expression.name), set()).add(use)
    return {slot: frozenset(names) for slot, names in found.items()}


def _used(part):
    """(use, expression) for the direct parts of one node."""
    match part:
        case Call(name, args, distinct) if name in USES:
            yield from [(USES[name], arg) for arg in args]
            yield from [("distinct", arg) for arg in args if distinct]
            yield from [("total", value) for arg in args if name == "SUM"
                        for value in (dict(arg.branches).values() if isinstance(arg, Case)
                                      else (arg,))]
        case Query(arms, ops, order, limit):
            yield from [("top", term.expression) for term in order if limit]
            yield from [("distinct", item.expression) for arm in arms if ops for item in arm.items]
        case Order(expression):
            yield "order", expression
        case Item(expression):
            yield "show", expression
        case Binary(op, left, right) if op in ARITHMETIC:
            yield from (("sum", left), ("sum", right))
        case Call(name, args) if name in DATED:
            yield from [("dated", inner) for inner in walk(args)]
        case Case(None, branches):
            yield from [("bucket", test.left) for test, _ in branches
                        if isinstance(test, Binary) and test.op in RANGE]
        case Binary("IS" | "IS NOT", left, Literal("keyword", "NULL")):
            yield "null", left
        case Binary("=" | ">" | "<", Column(name) as left, Column(other)) if name == other:
            yield from [("group" if part.op == "=" else "extreme", left), ("paired", left)]
        case Binary("!=", left, Literal()):
            yield "unlike", left
        case Binary(op, left, right) if op in COMPARISONS and not isinstance(right, Column):
            yield COMPARISONS[op], left
        case Between(operand):
            yield "range", operand
        case In(operand, options):
            yield "equal" if isinstance(options, tuple) else "tied", operand
        case Select(items, distinct):
            yield from [("group", expression) for expression in part.group]
            yield from [("distinct", item.expression) for item in items if distinct]
            if aggregated(part) and not part.group and len(part.sources) == 1:
                yield from [("alone", condition.left) for condition in conjuncts(part.where)
                            if isinstance(condition, Binary) and condition.op == "="]


_LABELS = frozenset("id ids code no num number phone fax zip postcode postal ssn isbn year month "
                    "day key index date latitude longitude lat long lng version url email room "
                    "classroom major minor advisor".split())
_PLACES = frozenset("rank ranking position".split())
_LABEL_ENDING = re.compile(r"(?<!pa)(?<!val)(?<!gr)(?<!hybr)id$|num$|code$|ssn$|^\w\w?no$")
_MEASURED = frozenset("temperature humidity height weight speed velocity average avg mean "
                      "resolution elevation altitude alt prominence".split())
_AMOUNTS = _MEASURED.union("precipitation price cost amount salary fee charges population".split())
_INTENSIVE = _MEASURED.union("age rate rating percent percentage percents pct ratio score grade "
                             "gpa".split())
_TOTALS = frozenset("total sum average avg mean".split())
_SECRET = frozenset("password passwd pwd hash salt token".split())
_SORTED_LABELS = re.compile("year|date|time|rank|position|day|month", re.IGNORECASE)
_SORTED_DATE = re.compile(r"\d{4}([-/ ]|$)|\d\d:\d\d")


@lru_cache(maxsize=None)
def words(name):
    """The words of a column's name in lower case: ("city", "id") for City_ID or cityId."""
    return tuple([word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+", name)])


def is_label(column):
    """Is the column an identifier, a date or a position rather than a measurement?"""
    parts = words(column.name)
    return column.primary or bool(parts) and (
        parts[-1] in _LABELS or bool(_LABEL_ENDING.search(parts[-1]))
        or parts[0] in ("id", "year", "zip", "phone") or not _PLACES.isdisjoint(parts))


def comparable(one, other):
    """May two columns be subtracted or compared? Only if they measure the same quantity."""
    left, right = set(words(one.name)), set(words(other.name))
    return (bool(left & right) and left & _TOTALS == right & _TOTALS
            and is_label(one) == is_label(other))


_PRICES = frozenset("price cost fee rate wage charge tariff".split())
_QUANTITIES = frozenset("quantity qty units pieces hours days nights stock seats tickets".split())


def multiplies(one, other):
    """Do two columns have a product: so many at such a price?"""
    left, right = set(words(one.name)), set(words(other.name))
    return any(a & _PRICES and b & _QUANTITIES for a, b in ((left, right), (right, left)))


def suits(column, role, uses, profile):
    """Is the column suited to what the query does with it? role: "pk", "fk" or ""."""
    parts, plain = words(column.name), not role
    label = is_label(column) or profile.years
    category = label or profile.categorical and (
        not profile.numeric or _AMOUNTS.isdisjoint(parts))
    return not (
        not profile.filled
        or not _SECRET.isdisjoint(parts)
        or uses - {"show"} and profile.distinct < 2
        or uses & {"equal", "unlike", "range", "like"} and not profile.values
        or "dated" in uses and not profile.dates
        or "null" in uses and profile.filled == profile.rows
        or "bucket" in uses and (label or profile.distinct <= CATEGORIES)
        or "paired" in uses and profile.rows > MAX_PAIRED
        or uses & {"sum", "total"} and (label or not profile.numeric)
        or "total" in uses and not _INTENSIVE.isdisjoint(parts)  # the ages of a team do not add up
        or "alone" in uses and profile.unique                    # the maximum of one row
        or not _sorts(column, uses, profile, label and plain)
        or uses & {"group", "count"} and plain and profile.unique
        or uses & {"group", "distinct"} and plain and not category
        # The same mascot is not the same school.
        or "tied" in uses and plain and profile.distinct < 0.8 * profile.filled
        or "equal" in uses and profile.fractions             # nobody asks for exactly 3.09 miles
        or "unlike" in uses and profile.distinct * 2 > profile.filled    # everyone but one
        or "like" in uses and profile.numeric)


def _sorts(column, uses, profile, label):
    """Is its order meaningful, where the query looks at it?"""
    if uses.isdisjoint({"extreme", "range", "order"}):
        return True
    dated = column.type == "time" or profile.years or _SORTED_LABELS.search(column.name)
    if label and not dated:
        return False
    if dated and not profile.numeric:                    # "May 3, 1976" sorts by its month's name
        return all(_SORTED_DATE.match(str(value)) for value in profile.values[:5])
    return profile.numeric or uses.isdisjoint({"extreme", "range", "top"})


# ---------------------------------------------------------------------------------------------
# By groups

def group_flaw(tree, profiles):
    """Why GROUP BY makes no sense, or "". profiles: of the column slots."""
    problems = (_grouped(select, query.order if len(query.arms) == 1 else (), profiles)
                for query in walk(tree) if isinstance(query, Query) for select in query.arms
                if select.group and plain_sources(select))
    return next(filter(None, problems), "")


def _grouped(select, order, profiles):
    """Rejects groups of single rows, and bare columns that are not constant within a group."""
    sources, equal = {source.number for source in select.sources}, list(equalities(select))
    rest = rewrite((select.items, select.having, order), lambda part: part in select.group
                   and not isinstance(part, Column) and Literal("keyword", "NULL") or None)
    plain = [part for part in select.group if isinstance(part, Column)]    # not a month, a bucket
    grouped, shown = [{(column.source, number(column.name)) for column in bare(parts)
                       if column.source in sources} for parts in (tuple(plain), rest)]
    known, owned = set(grouped), set()           # columns and sources constant within a group
    for _ in range(len(sources) + 1):
        owned |= {source for source, slot in known if profiles[slot].unique}
        for a, b in equal:
            if a in known or b in known or a[0] in owned or b[0] in owned:
                known |= {a, b}
    if owned >= sources:
        return "group by a unique key"
    if len(sources) == 1 and any(profiles[slot].distinct > 0.7 * profiles[slot].rows
                                 for _, slot in grouped):
        return "group by a nearly unique column"
    if any(column not in known and column[0] not in owned for column in shown):
        return "bare column beside a group"
    return ""


# ---------------------------------------------------------------------------------------------
# By results

def trivial(result, tree):
    """Why a sqlexec.Result is uninformative, or "". tree: the query's."""
    rows = result.rows
    if result.status != "ok":
        return result.status
    if not rows:
        return "empty"
    if len(rows) > MAX_ROWS:
        return "too many rows"
    columns = list(zip(*rows))
    if any(all(cell is None for cell in column) for column in columns):
        return "all NULL"
    if all(cell in (0, None) for column in columns for cell in column):
        return "all 0"
    for item, column in zip(tree.arms[0].items, columns):
        counts = isinstance(item.expression, Call) and item.expression.name == "COUNT"
        if counts and set(column) == {1}:
            return "counts one"
        if _calls(item, "JULIANDAY") and any((cell or 0) < 0 for cell in column):
            return "time runs backwards"
    return ""


class Probe(NamedTuple):
    """A query whose result may show that a part of another is redundant."""
    reason: str                      # to reject that other query
    test: str                        # "same": an equal result rejects it. "order": the probe shows
    tree: Query                      # the sort keys too, and is run for one row more than LIMIT


def probes(tree):
    """The Probes of a query."""
    for query in [part for part in walk(tree) if isinstance(part, Query)]:
        for index, arm in enumerate(query.arms):
            for reason, lighter in _lighter(arm, query.order):
                arms = query.arms[:index] + (lighter,) + query.arms[index + 1:]
                yield Probe(reason, "same", _swap(tree, query, replace(query, arms=arms)))
        if len(query.arms) == 2:
            for arm in query.arms[:1] if query.ops[0] == "EXCEPT" else query.arms:
                yield Probe("set operator without effect", "same", _swap(
                    tree, query, replace(query, arms=(arm,), ops=(), order=())))
    if tree.limit and tree.order and len(tree.arms) == 1 and not tree.arms[0].distinct:
        keys = tuple([Item(term.expression) for term in tree.order])
        arm = replace(tree.arms[0], items=tree.arms[0].items + keys)
        yield Probe("unstable order under LIMIT", "order", replace(tree, arms=(arm,), limit=None))


def _swap(tree, old, new):
    return rewrite(tree, lambda part: new if part is old else None)


def _lighter(select, order):
    """(reason, the SELECT without one condition or join) for each that might be redundant."""
    for name in ("where", "having"):
        condition = getattr(select, name)
        parts = condition.operands if isinstance(condition, Logic) else (condition,)
        for i, part in enumerate(parts):
            rest = parts[:i] + parts[i + 1:]
            if part and not is_link(part):
                rest = Logic(condition.op, rest) if len(rest) > 1 else rest[0] if rest else None
                yield "filter without effect", replace(select, **{name: rest})
    for source in select.sources:
        sources = _detached(select, order, source)
        if sources:
            yield "join without effect", replace(select, sources=sources)


def _detached(select, order, source):
    """The other sources, if only the join condition of one key refers to this one; or None."""
    def reads(part):
        return any(isinstance(c, (Column, Star)) and c.source == source.number for c in walk(part))

    held = [part for other in select.sources for part in conjuncts(other.on) if reads(part)]
    stars = any(isinstance(item.expression, Star) for item in select.items)
    plain_joins = all(other.join in ("", "JOIN") for other in select.sources)
    tied = {column.source for part in held for column in bare(part)}
    single = len(held) == 1 or held and all(map(is_link, held)) and len(tied) == 2
    if not single or stars or not plain_joins or reads((replace(select, sources=()), order)):
        return None
    kept = [replace(other, on=conjunction([part for part in conjuncts(other.on)
                                           if part not in held]))
            for other in select.sources if other is not source]
    return (replace(kept[0], join=""), *kept[1:])


def is_redundant(test, rows, answer):
    """Does a Probe's answer show that a part of the query is redundant? rows: the query's own."""
    if answer.status != "ok":
        return False
    if test == "same":
        return Counter(answer.rows) == Counter(rows)
    if len(answer.rows) <= len(rows):
        return True                                      # LIMIT cuts nothing off
    width = len(rows[0])
    return answer.rows[-1][width:] == answer.rows[-2][width:]
