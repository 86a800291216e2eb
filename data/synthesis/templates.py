"""SQL templates (section 3.1.1): columns, tables and values of a query become typed slots.

    extract(sql, schema) -> Template       one query as a template
    TemplatePool([(sql, schema), ...])     templates with their training frequencies

A column slot keeps its type and whether it is a primary or foreign key; a column named twice is
one slot. The paper drops FROM and JOIN. Here the tables are slots too, and the links between them
(joins, IN, set operators) are kept beside the text: without them 24% of Spider's queries over
several tables come back with too few. How slots are filled is in fill.py.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain
from typing import NamedTuple

from data.sql import (
    Between, Binary, Call, Case, Column, In, Item, Literal, Logic, Order, Query, Select, Source,
    SQLError, Star, Subquery, Window, With, conjunction, conjuncts, parse, quote_name, resolve,
    rewrite, to_sql, walk)
from data.synthesis import quality
from data.synthesis.quality import ARITHMETIC, COMPARISONS, RANGE, is_link, number, plain_sources

FEEDBACK = 0.5               # share of draws that follow the templates of y- (Eq. 1)


# ---------------------------------------------------------------------------------------------
# Templates

class ColumnSlot(NamedTuple):
    table: int                       # table slot
    type: str                        # text, number, time, boolean, others
    role: str                        # "pk", "fk" or ""
    uses: frozenset = frozenset()    # what the query does with it, see quality.USES


class ValueSlot(NamedTuple):
    kind: str                        # equal, range, like, date, count, sum, limit
    column: int | None               # column slot it is compared with
    rank: int                        # place among those drawn together: 5 < x AND x < 9
    shape: str                       # of a LIKE pattern: "%x%", "x%", "%x", "x"; of a part of an
                                     # ISO date the characters: "0:4"

    @property
    def group(self):
        """Slots of equal groups are drawn together: different values, in their order."""
        return (self.kind if self.kind in ("count", "sum", "limit") else "",
                -1 if self.column is None else self.column)


class Link(NamedTuple):
    child: int                       # column slots
    parent: int
    declared: bool                   # False: tied without a key in the source, either way fits


class Binding(NamedTuple):
    """What fills the slots: table names, column names, SQL literals."""
    tables: tuple
    columns: tuple
    values: tuple


@dataclass(frozen=True)
class Template:
    """A resolved query whose names and values are slots, written "\\0c2\\0" in the tree."""
    key: str                                             # canonical text: what tells it apart
    tree: Query = field(compare=False, repr=False)
    tables: int = field(compare=False)                   # number of table slots
    columns: tuple = field(compare=False, repr=False)    # of ColumnSlot
    values: tuple = field(compare=False, repr=False)     # of ValueSlot
    links: tuple = field(compare=False, repr=False)      # of Link: the foreign keys it needs
    _variants: dict = field(compare=False, repr=False, default_factory=dict, init=False)

    @cached_property
    def pieces(self):
        return to_sql(self.tree).split("\0")

    @cached_property
    def probes(self):
        """[(reason to reject, test, pieces)], see quality.Probe."""
        return [(reason, test, to_sql(tree).split("\0"))
                for reason, test, tree in quality.probes(self.tree)]

    @cached_property
    def needs(self):
        """For each table slot, ((type, role, uses), count) of the columns its table must have."""
        linked = {c for link in self.links for c in link[:2]}
        return [tuple(Counter(slot[1:] for c, slot in enumerate(self.columns)
                              if slot.table == t and c not in linked).items())
                for t in range(self.tables)]

    @cached_property
    def compared(self):
        """(column slot, operator, column slot) of each comparison or arithmetic operation."""
        return [(number(part.left.name), part.op, number(part.right.name))
                for part in walk(self.tree) if is_link(part) and part.op in RANGE + ARITHMETIC]

    @cached_property
    def joins(self):
        """The links, as frozensets of column slots, that serve only as join conditions."""
        equal = [(part.left, part.right) for part in walk(self.tree) if _joins(part)]
        conditions, ties = [Counter(frozenset((number(a.name), number(b.name))) for a, b in pairs)
                            for pairs in (equal, _tied(self.tree))]
        return {pair for pair in ties if conditions[pair] == ties[pair]}

    def with_equalities(self, link, pairs, columns):
        """The template with more pairs of slots equal wherever the link's are; columns: all."""
        a, b = link[:2]

        def widen(part):
            if isinstance(part, Logic) and part.op == "AND":
                return conjunction([inner for operand in part.operands
                                    for inner in conjuncts(rewrite(operand, widen))])
            if not _joins(part):
                return None
            left, right = number(part.left.name), number(part.right.name)
            more = [pair[::-1] if left == b else pair for pair in pairs if {left, right} == {a, b}]
            return conjunction([part, *[Binary("=", *[
                replace(side, name=f"\0c{slot}\0") for side, slot in
                zip((part.left, part.right), pair)]) for pair in more]])

        links = self.links + tuple([Link(*pair, link.declared) for pair in pairs])
        return replace(self, tree=rewrite(self.tree, widen), columns=columns, links=links)

    @cached_property
    def flaw(self):
        """Why no query of this form is worth asking, or ""."""
        return quality.flaw(self.tree, self.links)

    def variant(self, seed):
        """The template with its aggregates, comparisons and directions drawn anew.

        Its key is this one's and the seed: "key#3".
        """
        if seed not in self._variants:
            rng = random.Random(seed)
            tree = rewrite(self.tree, lambda part: _redrawn(part, self.values, rng))
            other = replace(self, key=f"{self.key}#{seed}", tree=tree)
            self._variants[seed] = self if other.flaw or tree == self.tree else other
        return self._variants[seed]

    def text(self):
        """Readable form, with the links beside it."""
        ties = sorted(f"\0c{a}\0 {'>' if known else '-'} \0c{b}\0" for a, b, known in self.links)
        text = to_sql(rewrite(self.tree, _listed_from)) + " | " * bool(ties) + ", ".join(ties)
        return re.sub("\0(.)(\\d+)\0", lambda match: self.label(match[1], int(match[2])), text)

    def label(self, kind, index):
        if kind != "c":
            return f"table{index}" if kind == "t" else f"V{index}"
        table, type, role, _ = self.columns[index]
        alike = sum(slot[:3] == (table, type, role) for slot in self.columns[:index + 1])
        return f"{type}{'_' * bool(role)}{role}_{alike}@{table}"


def render(pieces, binding):
    """The SQL text: slots replaced by quoted names and literals."""
    names = {"t": binding.tables, "c": binding.columns, "v": binding.values}
    out = list(pieces)
    for i in range(1, len(out), 2):
        kind, name = out[i][0], names[out[i][0]][int(out[i][1:])]
        out[i] = name if kind == "v" else quote_name(name)
    return "".join(out)


_OPPOSITE = {"MAX": "MIN", "MIN": "MAX", ">": "<", "<": ">", ">=": "<=", "<=": ">="}


def _redrawn(part, values, rng):
    """The change of Template.variant: other operators where the slots allow them."""
    flip = rng.random() < 0.5
    match part:
        case Binary("/"):
            return part                                  # a share of a total: both are sums
        case Item(Call(name, args) as call) if not any(isinstance(arg, Case) for arg in args):
            if name in ("AVG", "SUM"):                   # not to SUM: few amounts add up
                name = rng.choice((name, "AVG", "MAX", "MIN"))
            elif flip:
                name = _OPPOSITE.get(name, name)
            return Item(replace(call, name=name))
        case Order() if flip:
            return replace(part, descending=not part.descending)
        case Binary(op, _, Literal(value=slot)) if flip and op in RANGE and slot[:1] == "\0":
            group = values[number(slot)].group
            if sum(value.group == group for value in values) == 1:       # not BETWEEN's end
                return replace(part, op=_OPPOSITE[op])
    return None


def without_from(part):
    """The change that leaves out every FROM, and the aliases with it."""
    if isinstance(part, Select) and part.sources:
        return rewrite(replace(part, sources=()), without_from)
    return _unqualified(part)


def _unqualified(part):
    if isinstance(part, (Column, Star)) and part.qualifier:
        return replace(part, qualifier=None)


def _listed_from(part):
    """FROM as the plain list of its tables; a table that stands there twice needs its aliases."""
    if isinstance(part, Select) and plain_sources(part):
        tables = sorted({source.table for source in part.sources})
        if len(tables) < len(part.sources):
            return part
        listed = tuple([Source(table, join="," if i else "") for i, table in enumerate(tables)])
        return replace(rewrite(replace(part, sources=()), _listed_from), sources=listed)
    return _unqualified(part)


# ---------------------------------------------------------------------------------------------
# Extraction

def extract(sql, schema):
    """The template of a query. SQLError where it cannot be read or taken apart."""
    return extract_bound(sql, schema)[0]


def extract_bound(sql, schema):
    """(template, the binding under which it renders the query itself again)."""
    tree = resolve(parse(sql), schema)
    extractor = _Extractor(tree, schema)
    slotted = rewrite(tree, extractor.slot)
    uses = quality.uses(slotted)
    columns = tuple([slot._replace(uses=uses.get(i, frozenset()))
                     for i, slot in enumerate(extractor.slots)])
    template = Template("", slotted, len(extractor.tables), columns, extractor.ranked(),
                        extractor.links(tree))
    binding = Binding(tuple(extractor.tables), tuple([name for _, name in extractor.columns]),
                      tuple([to_sql(literal) for _, _, literal, _ in extractor.values]))
    return replace(template, key=template.text()), binding


class _Extractor:
    """Numbers the tables, columns and values of a resolved tree by first use."""

    def __init__(self, tree, schema):
        self.foreign = set(schema.foreign_keys)
        self.referring = {key[:2] for key in self.foreign}
        self.known = {(table.name, column.name): column for table in schema.tables
                      for column in table.columns}
        self.tables, self.columns, self.values = {}, {}, {}      # insertion order is slot order
        self.slots = []                                          # of ColumnSlot
        # What FROM alone names comes last: A JOIN B and B JOIN A number their slots alike.
        for part in chain(walk(rewrite(tree, without_from)), walk(tree)):
            if isinstance(part, Column):
                self.column(part)
            elif isinstance(part, Source) and isinstance(part.table, str):
                self.tables.setdefault(part.table, len(self.tables))
                if part.using or part.join.startswith("NATURAL"):
                    raise SQLError("no template for a join by equal names", part.at)
            elif isinstance(part, (With, Window)):
                raise SQLError(f"no template for {type(part).__name__.upper()}", 0)

    def column(self, part):
        """The slot number of a column."""
        if part.table is None:
            raise SQLError("no template for a column of a sub-query in FROM", part.at)
        table = self.tables.setdefault(part.table, len(self.tables))
        key = (part.table, part.name)
        if key not in self.columns:
            column = self.known[key]
            role = "pk" if column.primary else "fk" if key in self.referring else ""
            self.columns[key] = len(self.columns)
            self.slots.append(ColumnSlot(table, column.type, role))
        return self.columns[key]

    def slot(self, part):
        """The change that rewrite() makes: names and literals in known places become slots."""
        match part:
            case Column():
                return replace(part, name=f"\0c{self.column(part)}\0", quoted=False, table=None)
            case Source(table=str() as name, on=on):
                return replace(part, table=f"\0t{self.tables[name]}\0", on=rewrite(on, self.slot))
            case Binary(op, left, Literal() as right) if op in COMPARISONS:
                value = self.value(COMPARISONS[op], left, right)
                return Binary(op, rewrite(left, self.slot), value)
            case Between(operand, low, high, negated):
                ends = [self.value("range", operand, end) for end in (low, high)]
                return Between(rewrite(operand, self.slot), *ends, negated)
            case In(operand, tuple() as options, negated):
                options = tuple([self.value("equal", operand, option) for option in options])
                return In(rewrite(operand, self.slot), options, negated)
            case Query(limit=limit) if limit and limit != Literal("number", "1"):
                rest = rewrite(replace(part, limit=None), self.slot)     # LIMIT 1 says "the most"
                return replace(rest, limit=self.value("limit", None, limit))
        return None

    def value(self, kind, subject, part):
        """A literal that is compared with a column or an aggregate (or LIMIT's), as a slot."""
        value = isinstance(part, Literal) and (          # not 0x1F
            part.kind == "text" or part.kind == "number" and "x" not in part.value.lower())
        if not value:
            return rewrite(part, self.slot)
        if isinstance(subject, Call) and subject.name in ("COUNT", "SUM"):
            kind = subject.name.lower()
        shape = re.sub("[^%]+", "x", part.value) if kind == "like" else ""
        shape = shape if shape.count("x") == 1 else ""
        if dated := quality.date_part(subject):
            kind, subject, shape = "date", dated[0], f"{dated[1]}:{dated[2]}"
        inner = subject.args[0] if isinstance(subject, Call) and subject.args else subject
        column = self.column(inner) if isinstance(inner, Column) else None
        if column is None and kind not in ("count", "limit"):
            return part                                              # beside an expression: fixed
        index = self.values.setdefault((kind, column, part, shape), len(self.values))
        return Literal("number", f"\0v{index}\0")

    def ranked(self):
        """The value slots, each with its place among the literals it is drawn with."""
        slots = [ValueSlot(kind, column, 0, shape) for kind, column, _, shape in self.values]
        sizes = [(0, float(literal.value), "") if literal.kind == "number"
                 else (1, 0.0, literal.value) for _, _, literal, _ in self.values]
        return tuple([slot._replace(rank=sum(other.group == slot.group and size < own
                                             for other, size in zip(slots, sizes)))
                      for slot, own in zip(slots, sizes)])

    def links(self, tree):
        """Pairs of columns that the query ties together, each once, child first."""
        links = {}
        for left, right in _tied(tree):
            a, b = self.column(left), self.column(right)
            if a == b or (a, b) in links or (b, a) in links:
                continue
            ends = [(c.table, c.name) for c in (left, right)]
            forward, backward = [one + two in self.foreign for one, two in (ends, ends[::-1])]
            pair = (b, a) if backward and not forward else (a, b)
            links[pair] = forward or backward
        return tuple([Link(*pair, known) for pair, known in links.items()])


def _joins(part):
    """Is it an equality of columns of two sources?"""
    return is_link(part) and part.op == "=" and part.left.source != part.right.source


def _tied(tree):
    """(column, column) for each equality, IN and set operator that ties two columns."""
    for part in walk(tree):
        match part:
            case Binary("=", left, Subquery(query)) | In(left, Query() as query):
                yield from _tied_items((left,), query.arms[0])
            case Binary() if _joins(part):
                yield part.left, part.right
            case Query((first, *others)):
                for arm in others:
                    yield from _tied_items([item.expression for item in first.items], arm)


def _tied_items(left, select):
    for expression, item in zip(left, select.items):
        if isinstance(expression, Column) and isinstance(item.expression, Column):
            yield expression, item.expression


# ---------------------------------------------------------------------------------------------
# The pool

class TemplatePool:
    """Templates of the training queries, drawn by their frequency there.

    skipped counts, by reason, the queries that gave none.
    """

    def __init__(self, pairs):
        """pairs: (sql, schema) of the training queries, most of them twice, with two questions."""
        self.templates, self.counts, self.skipped = {}, Counter(), Counter()
        for (sql, schema), count in Counter(pairs).items():
            try:
                template = extract(sql, schema)
                problem = template.flaw
            except SQLError as error:
                problem = error.reason
            if problem:
                self.skipped[problem] += count
            else:
                self.templates.setdefault(template.key, template)
                self.counts[template.key] += count
        self.reweight([])

    def find(self, key):
        """The template of a key, which may be a variant's; None if the pool does not know it."""
        parent, _, seed = key.rpartition("#")
        if key in self.templates or not seed.isdigit():
            return self.templates.get(key)
        template = self.find(parent)
        return template and template.variant(int(seed))

    def reweight(self, wrong):
        """Half the draws by training frequency, half as templates occur in y- (Eq. 1, step 6).

        wrong: keys of the templates of all queries that the model answered wrongly; none of them
        restores the training frequencies. Each call replaces what the last one said.
        """
        errors = Counter(key for key in wrong if self.find(key))
        share = FEEDBACK if errors else 0.0
        # A variant of a training template may be new here.
        self._drawn = {key: self.find(key) for key in dict.fromkeys([*self.templates, *errors])}
        self._weights = list(accumulate(
            (1 - share) * self.counts[key] / max(self.counts.total(), 1)
            + share * errors[key] / max(errors.total(), 1) for key in self._drawn))

    def draw(self, rng):
        return self._drawn[rng.choices(list(self._drawn), cum_weights=self._weights)[0]]

    def __len__(self):
        return len(self._drawn)
