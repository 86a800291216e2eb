"""SQL templates and synthesis (section 3.1.1), standard library only.

    extract(sql, schema) -> Template       columns, tables and values become typed slots
    TemplatePool([(sql, schema), ...])     templates with their training frequencies
    Database(schema, db_path)              keys, columns and values as filling needs them
    fill(template, database, rng)          one query on another schema; Unfilled says why not
    synthesize(pool, databases, n, ...)    n executed queries, and the rejects counted by reason

A column slot keeps its type and whether it is a primary or foreign key; a column named twice is
one slot. The paper drops FROM and JOIN. Here the tables are slots too, and the links between them
(joins, IN, set operators) are kept beside the text: without them 24% of Spider's queries over
several tables come back with too few. A link is filled by a declared foreign key or not at all; a
key of several columns is joined whole.
What is refused as senseless is told by the rules of data/synthesis/quality.py.
"""

import random
import re
from collections import Counter, deque
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate, chain, groupby
from typing import NamedTuple

from data.synthesis import quality as sense
from data.synthesis.quality import (
    ARITHMETIC, COMPARISONS, RANGE, is_label, is_link, number, plain_sources)
from data.sql.tree import (
    Between, Binary, Call, Column, In, Item, Literal, Logic, Order, Query, Select, Source, SQLError,
    Star, Subquery, Window, With, conjunction, conjuncts, literal, parse, quote_name, resolve,
    rewrite, to_sql, walk)
from data.prompts.values import Profiles
from data.schema import read_schema

GAMMA = 0.3                  # a table d keys away is drawn with weight GAMMA ** d [ours]
FEEDBACK = 0.5               # share of draws that follow the templates of y- (Eq. 1)
TRIES = 12                   # queries made from one drawn template before it is given up
PLACES = 60                  # databases looked at for one of them
VARIANTS = 6                 # of a template's operators, see Template.variant
BATCH = 256                  # queries executed at a time


class Unfilled(Exception):
    """A template finds no place in a schema; the message is the reason."""


# ---------------------------------------------------------------------------------------------
# Templates

class ColumnSlot(NamedTuple):
    table: int                       # table slot
    type: str                        # text, number, time, boolean, others
    role: str                        # "pk", "fk" or ""
    uses: frozenset = frozenset()    # what the query does with it, see sense.USES


class ValueSlot(NamedTuple):
    kind: str                        # equal, range, like, count, sum, limit
    column: int | None               # column slot it is compared with
    rank: int                        # place among its kin: 5 < x AND x < 9
    shape: str                       # of a LIKE pattern: "%x%", "x%", "%x", "x"


class Link(NamedTuple):
    child: int                       # column slots
    parent: int
    declared: bool                   # False: tied without a key in the source, either way fits


class Binding(NamedTuple):
    """What stands in the slots: names, names, SQL literals."""
    tables: tuple
    columns: tuple
    values: tuple


LEVELS = ("structure", "typed", "keys", "columns", "tables")


@dataclass(frozen=True)
class Template:
    """A resolved query whose names and values are slots, written "\\0c2\\0" in the tree."""
    key: str                                             # canonical text: what tells it apart
    tree: Query = field(compare=False, repr=False)
    tables: int = field(compare=False)                   # number of table slots
    columns: tuple = field(compare=False, repr=False)    # of ColumnSlot
    values: tuple = field(compare=False, repr=False)     # of ValueSlot
    links: tuple = field(compare=False, repr=False)      # of Link: the foreign keys it needs
    _variants: dict = field(compare=False, repr=False, default_factory=dict)

    @cached_property
    def pieces(self):
        return to_sql(self.tree).split("\0")

    @cached_property
    def probes(self):
        """[(reason to reject, test, pieces)], see sense.Probe."""
        return [(reason, test, to_sql(tree).split("\0"))
                for reason, test, tree in sense.probes(self.tree)]

    @cached_property
    def needs(self):
        """For each table slot, the different column slots that its table must have a column for."""
        linked = {c for link in self.links for c in link[:2]}
        return [tuple(Counter(slot[1:] for c, slot in enumerate(self.columns)
                              if slot.table == t and c not in linked).items())
                for t in range(self.tables)]

    @cached_property
    def groups(self):
        return list(sense.groups(self.tree))

    @cached_property
    def twins(self):
        """Pairs of column slots that are subtracted or compared."""
        return [(number(part.left.name), number(part.right.name)) for part in walk(self.tree)
                if is_link(part) and part.op in RANGE + ARITHMETIC]

    @cached_property
    def joins(self):
        """The links, as frozensets of column slots, that are nothing but conditions of joins."""
        equal = [(part.left, part.right) for part in walk(self.tree) if _joins(part)]
        conditions, ties = [Counter(frozenset((number(a.name), number(b.name))) for a, b in pairs)
                            for pairs in (equal, _tied(self.tree))]
        return {pair for pair in ties if conditions[pair] == ties[pair]}

    def widened(self, link, pairs, columns):
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
        return replace(self, tree=rewrite(self.tree, widen), columns=columns, links=links,
                       _variants={})

    @cached_property
    def flaw(self):
        """Why nobody should draw it, or "": judged on the template alone."""
        return sense.flaw(self.tree, self.links)

    def variant(self, seed):
        """The template with its aggregates, comparisons and directions drawn anew."""
        if seed not in self._variants:
            rng = random.Random(seed)
            tree = rewrite(self.tree, lambda part: _redrawn(part, self.values, rng))
            other = replace(self, tree=tree, _variants={})
            self._variants[seed] = self if other.flaw or tree == self.tree else other
        return self._variants[seed]

    def text(self, level="tables"):
        """Readable form at one of LEVELS, coarse to fine; only the finest keeps the tables."""
        depth = LEVELS.index(level)
        tree = rewrite(self.tree, _listed_from if level == "tables" else _without_from)
        ties = sorted(f"\0c{a}\0 {'>' if known else '-'} \0c{b}\0" for a, b, known in self.links)
        beside = " | " + ", ".join(ties) if ties and level == "tables" else ""
        return re.sub("\0(.)(\\d+)\0", lambda match: self._label(match[1], int(match[2]), depth),
                      to_sql(tree) + beside)

    def _label(self, kind, index, depth):
        if kind == "t":
            return f"table{index}"
        if kind == "v":
            return f"V{index}" if depth >= 3 else "V"
        slot = self.columns[index]
        kin = sum(other[:3] == slot[:3] for other in self.columns[:index + 1])
        name = slot.type if depth >= 1 else "column"
        name += f"_{slot.role}" if depth >= 2 and slot.role else ""
        name += f"_{kin}" if depth >= 3 else ""
        return name + (f"@{slot.table}" if depth >= 4 else "")


def render(pieces, binding):
    """The SQL text: slots replaced by quoted names and literals."""
    names = {"t": binding.tables, "c": binding.columns, "v": binding.values}
    out = list(pieces)
    for i in range(1, len(out), 2):
        kind, name = out[i][0], names[out[i][0]][int(out[i][1:])]
        out[i] = name if kind == "v" else quote_name(name)
    return "".join(out)


def _without_from(part):
    if isinstance(part, Select) and part.sources:
        return rewrite(replace(part, sources=()), _without_from)
    if isinstance(part, (Column, Star)) and part.qualifier:
        return replace(part, qualifier=None)
    return None


def _listed_from(part):
    """FROM as the plain list of its tables; a table that stands there twice needs its aliases."""
    if isinstance(part, Select) and plain_sources(part):
        tables = sorted({source.table for source in part.sources})
        if len(tables) < len(part.sources):
            return part
        listed = tuple([Source(table, join="," if i else "") for i, table in enumerate(tables)])
        return replace(rewrite(replace(part, sources=()), _listed_from), sources=listed)
    if isinstance(part, (Column, Star)) and part.qualifier:
        return replace(part, qualifier=None)
    return None


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
    uses = sense.uses(slotted)
    columns = tuple([slot._replace(uses=uses.get(i, frozenset()))
                     for i, slot in enumerate(extractor.slots)])
    template = Template("", slotted, len(extractor.tables), columns, extractor.ranked(),
                        extractor.links(tree))
    binding = Binding(tuple(extractor.tables), tuple([name for _, name in extractor.columns]),
                      tuple([to_sql(literal) for _, _, literal in extractor.values]))
    return replace(template, key=template.text()), binding


class _Extractor:
    """Numbers the tables, columns and values of a resolved tree by first use."""

    def __init__(self, tree, schema):
        self.foreign = {tuple([part.lower() for part in key]) for key in schema.foreign_keys}
        self.referring = {key[:2] for key in self.foreign}
        self.known = {(table.name, column.name): column for table in schema.tables
                      for column in table.columns}
        self.tables, self.columns, self.values = {}, {}, {}      # insertion order is slot order
        self.slots = []                                          # of ColumnSlot
        # What FROM alone names comes last: A JOIN B and B JOIN A number their slots alike.
        for part in chain(walk(rewrite(tree, _without_from)), walk(tree)):
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
            column, folded = self.known[key], (part.table.lower(), part.name.lower())
            role = "pk" if column.primary else "fk" if folded in self.referring else ""
            self.columns[key] = len(self.columns)
            self.slots.append(ColumnSlot(table, column.type, role))
        return self.columns[key]

    def slot(self, part):
        """The change that rewrite() makes: names and literals in known places become slots."""
        if isinstance(part, Column):
            return replace(part, name=f"\0c{self.column(part)}\0", quoted=False, table=None)
        if isinstance(part, Source) and isinstance(part.table, str):
            name = f"\0t{self.tables[part.table]}\0"
            return replace(part, table=name, on=rewrite(part.on, self.slot))
        if isinstance(part, Binary) and part.op in COMPARISONS and isinstance(part.right, Literal):
            value = self.value(COMPARISONS[part.op], part.left, part.right)
            return Binary(part.op, rewrite(part.left, self.slot), value)
        if isinstance(part, Between):
            low, high = [self.value("range", part.operand, end) for end in (part.low, part.high)]
            return Between(rewrite(part.operand, self.slot), low, high, part.negated)
        if isinstance(part, In) and isinstance(part.options, tuple):
            options = [self.value("equal", part.operand, option) for option in part.options]
            return In(rewrite(part.operand, self.slot), tuple(options), part.negated)
        if isinstance(part, Query) and part.limit and to_sql(part.limit) != "1":
            rest = rewrite(replace(part, limit=None), self.slot)     # LIMIT 1 is "the most": fixed
            return replace(rest, limit=self.value("limit", None, part.limit))
        return None

    def value(self, kind, subject, part):
        """A literal that is compared with a column or an aggregate (or LIMIT's), as a slot."""
        if not isinstance(part, Literal) or not _is_value(part):
            return rewrite(part, self.slot)
        if isinstance(subject, Call) and subject.name in ("COUNT", "SUM"):
            kind = subject.name.lower()
        inner = subject.args[0] if isinstance(subject, Call) and subject.args else subject
        column = self.column(inner) if isinstance(inner, Column) else None
        if column is None and kind not in ("count", "limit"):
            return part                                              # beside an expression: fixed
        index = self.values.setdefault((kind, column, part), len(self.values))
        return Literal("number", f"\0v{index}\0")

    def ranked(self):
        """The value slots, each with its place among the literals it is drawn with."""
        slots = [ValueSlot(kind, column, 0, _like_shape(literal.value) if kind == "like" else "")
                 for kind, column, literal in self.values]
        sizes = [_sortable(literal) for _, _, literal in self.values]
        return tuple([slot._replace(rank=sum(_kin(other) == _kin(slot) and size < own
                                             for other, size in zip(slots, sizes)))
                      for slot, own in zip(slots, sizes)])

    def links(self, tree):
        """Pairs of columns that the query ties together, each once, child first."""
        links = {}
        for left, right in _tied(tree):
            a, b = self.column(left), self.column(right)
            if a == b or (a, b) in links or (b, a) in links:
                continue
            ends = [(c.table.lower(), c.name.lower()) for c in (left, right)]
            forward, backward = [one + two in self.foreign for one, two in (ends, ends[::-1])]
            pair = (b, a) if backward and not forward else (a, b)
            links[pair] = forward or backward
        return tuple([Link(*pair, known) for pair, known in links.items()])


def _is_value(literal):
    return literal.kind == "text" or (
        literal.kind == "number" and not literal.value.lower().lstrip("-").startswith("0x"))


def _like_shape(pattern):
    core = pattern.strip("%")
    return pattern.replace(core, "x") if core and "%" not in core else ""


def _kin(slot):
    """Value slots of one kin are drawn together: different values, in their order."""
    return (slot.kind if slot.kind in ("count", "sum", "limit") else "",
            -1 if slot.column is None else slot.column)


def _sortable(literal):
    return (0, float(literal.value), "") if literal.kind == "number" else (1, 0.0, literal.value)


def _joins(part):
    """Is it an equality of columns of two sources?"""
    return is_link(part) and part.op == "=" and part.left.source != part.right.source


def _tied(tree):
    """(column, column) for each equality, IN and set operator that ties two columns."""
    for part in walk(tree):
        if isinstance(part, Binary) and part.op == "=":
            if isinstance(part.right, Subquery):
                yield from _tied_items((part.left,), part.right.query.arms[0])
            elif _joins(part):
                yield part.left, part.right
        elif isinstance(part, In) and isinstance(part.options, Query):
            yield from _tied_items((part.operand,), part.options.arms[0])
        elif isinstance(part, Query):
            first = [item.expression for item in part.arms[0].items]
            for arm in part.arms[1:]:
                yield from _tied_items(first, arm)


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
        """pairs: (sql, schema) of the training queries."""
        self.templates, self.counts, self.skipped = {}, Counter(), Counter()
        for (sql, _), (count, schema) in _counted(pairs).items():
            template, reason = _usable(sql, schema)
            if template:
                self.templates.setdefault(template.key, template)
                self.counts[template.key] += count
            else:
                self.skipped[reason] += count
        self.reweight([])

    def reweight(self, wrong):
        """Half the draws by training frequency, half as templates occur in y- (Eq. 1, step 6).

        wrong: (sql, schema) pairs, the gold queries that the model answered wrongly; none of them
        restores the training frequencies. Each call replaces what the last one said.
        """
        errors = Counter()
        for (sql, _), (count, schema) in _counted(wrong).items():
            template, _ = _usable(sql, schema)
            if template:                 # a variant of a training template may be new here
                self.templates.setdefault(template.key, template)
                errors[template.key] += count
        share = FEEDBACK if errors else 0.0
        self._keys = list(self.templates)
        self._weights = list(accumulate(
            (1 - share) * self.counts[key] / max(self.counts.total(), 1)
            + share * errors[key] / max(errors.total(), 1) for key in self._keys))

    def draw(self, rng):
        return self.templates[rng.choices(self._keys, cum_weights=self._weights)[0]]

    def __len__(self):
        return len(self.templates)


def _counted(pairs):
    """{(sql, id of schema): (count, schema)}: most queries occur twice, with two questions."""
    found = {}
    for sql, schema in pairs:
        count, _ = found.get((sql, id(schema)), (0, None))
        found[sql, id(schema)] = (count + 1, schema)
    return found


def _usable(sql, schema):
    """(template, "") or (None, why not)."""
    try:
        template = extract(sql, schema)
    except SQLError as problem:
        return None, problem.reason
    return (None, template.flaw) if template.flaw else (template, "")


_OPPOSITE = {"MAX": "MIN", "MIN": "MAX", ">": "<", "<": ">", ">=": "<=", "<=": ">="}


def _is_slot(part):
    return isinstance(part, Literal) and part.value.startswith("\0")


def _redrawn(part, values, rng):
    """rewrite()'s change for Template.variant: other operators where the slots allow them."""
    flip = rng.random() < 0.5
    if isinstance(part, Item) and isinstance(part.expression, Call):
        name = part.expression.name
        if name in ("AVG", "SUM"):                       # not to SUM: few amounts add up
            name = rng.choice((name, "AVG", "MAX", "MIN"))
        elif flip:
            name = _OPPOSITE.get(name, name)
        return Item(replace(part.expression, name=name))
    if isinstance(part, Order) and flip:
        return replace(part, descending=not part.descending)
    if isinstance(part, Binary) and part.op in RANGE and flip and _is_slot(part.right):
        kin = _kin(values[number(part.right.value)])
        if sum(_kin(value) == kin for value in values) == 1:     # not one end of an interval
            return replace(part, op=_OPPOSITE[part.op])
    return None


# ---------------------------------------------------------------------------------------------
# Filling

class Database:
    """A schema and what its database holds, as filling sees them. DataError if unreadable."""

    def __init__(self, schema, db_path):
        self.schema, self.path, self.profiles = schema, db_path, Profiles(db_path)
        self._fitting, self._fits = {}, {}
        self.column = {(table.name, column.name): column
                        for table in schema.tables for column in table.columns}
        self._spelled = {(table.lower(), name.lower()): (table, name)
                         for table, name in self.column}
        self.declared = self._pairs(schema.foreign_keys)
        children = {child for child, _ in self.declared}
        self.kinds = {table.name: {} for table in schema.tables}     # (type, role) -> [Column]
        for place, column in self.column.items():
            role = "pk" if column.primary else "fk" if place in children else ""
            self.kinds[place[0]].setdefault((column.type, role), []).append(column)

    def close(self):
        self.profiles.close()

    def _pairs(self, keys):
        """[((table, column), (table, column))]; a key may name what is not there."""
        pairs = [tuple([self._spelled.get((table.lower(), name.lower())) for table, name in
                        (key[:2], key[2:])]) for key in keys]
        return [pair for pair in pairs if all(pair)]

    @cached_property
    def keys(self):
        """Foreign keys in use as ((table, column), (table, column)), with one parent to find; of
        those of several columns each part, see whole."""
        of = self.profiles.of
        return [(child, parent) for child, parent in self.declared
                if of(*child).filled and of(*parent).filled
                and self.whole.get((child, parent), of(*parent).identifies)]

    @cached_property
    def whole(self):
        """{(child, parent), either way round: all such pairs of its key} for the parts of keys of
        several columns: one alone finds several parents.

        tables.json does not tell which parts belong together: the file does.
        """
        found = {}
        for key in self.schema.composite or read_schema(self.path).composite:
            pairs = self._pairs(key)
            filled = all(self.profiles.of(*place).filled for pair in pairs for place in pair)
            usable = len(pairs) == len(key) and filled and self.profiles.identify(
                [parent for _, parent in pairs])
            for pair in pairs:
                found[pair] = pairs if usable else []
                found[pair[::-1]] = [other[::-1] for other in found[pair]]
        return found

    def distances(self, start):
        """{table: number of keys on the shortest path}, unreachable tables left out."""
        found, queue = {start: 0}, deque([start])
        while queue:
            table = queue.popleft()
            for (child, _), (parent, _) in self.keys:
                for other in (child, parent) if table in (child, parent) else ():
                    if other not in found:
                        found[other] = found[table] + 1
                        queue.append(other)
        return found

    def fitting(self, table, kind):
        """The columns of a table that make sense in a slot; kind: its (type, role, uses)."""
        if (table, kind) not in self._fitting:
            self._fitting[table, kind] = [
                column for column in self.kinds[table].get(kind[:2], ())
                if sense.suits(column, *kind[1:], self.profiles.of(table, column.name))]
        return self._fitting[table, kind]

    def fits(self, table, needs):
        """Has the table columns enough for a table slot? needs: one of Template.needs."""
        if (table, needs) not in self._fits:
            self._fits[table, needs] = all(
                len(self.fitting(table, kind)) >= count for kind, count in needs)
        return self._fits[table, needs]


def fill(template, database, rng):
    """SQL text of the template on a Database. Unfilled(reason) if it has no place there."""
    template, binding = bind(template, database, rng)
    return render(template.pieces, binding)


def bind(template, database, rng):
    """(the template, wider where a link lies on a key of several columns, a random Binding):
    tables along the links, then columns, then values."""
    tables, columns = _place(template, database, rng)
    template = _whole(template, database, columns)
    for index, slot in enumerate(template.columns):
        if index not in columns:
            columns[index] = _choose_column(slot, tables[slot.table], columns, database, rng)
    places = [columns[index] for index in range(len(template.columns))]
    profiles = [database.profiles.of(*place) for place in places]
    chosen = [database.column[place] for place in places]
    problem = sense.group_flaw(template.groups, profiles)
    if problem:
        raise Unfilled(problem)
    if not all(sense.comparable(chosen[a], chosen[b]) for a, b in template.twins):
        raise Unfilled("nothing in common to compare")
    literals = _choose_values(template, chosen, profiles, rng)
    return template, Binding(tuple([tables[t] for t in range(template.tables)]),
                             tuple([column.name for column in chosen]), literals)


BARREN = "no tables with such keys and columns"             # will not change by chance


def _place(template, database, rng):
    """({table slot: table}, {column slot: (table, column)}) along declared keys."""
    placed = _follow(_connected(template.links, template.columns), template, database, {}, {}, rng)
    if placed is None:
        raise Unfilled(BARREN)
    tables, columns = placed
    for slot in range(template.tables):
        if slot in tables:
            continue
        free = [table.name for table in database.schema.tables
                if table.name not in tables.values()
                and database.fits(table.name, template.needs[slot])]
        weights = [1.0] * len(free)
        if tables:
            distances = database.distances(tables[min(tables)])
            weights = [GAMMA ** distances[name] if name in distances else 0.0 for name in free]
        if not any(weights):
            raise Unfilled("no such table nearby" if tables else BARREN)
        tables[slot] = rng.choices(free, weights)[0]
    return tables, columns


def _whole(template, database, columns):
    """The template with all pairs of the keys on which its links lie; adds to columns."""
    for link in template.links:
        laid = {frozenset((columns[a], columns[b])) for a, b, _ in template.links}
        key = database.whole.get((columns[link.child], columns[link.parent]), ())
        slots, pairs = list(template.columns), []
        for pair in [pair for pair in key if frozenset(pair) not in laid]:
            pairs.append([])
            for end, place in zip(link[:2], pair):
                known = next((slot for slot in columns if columns[slot] == place), len(slots))
                if known == len(slots):
                    slots.append(ColumnSlot(slots[end].table, database.column[place].type, "fk"))
                columns[known] = place
                pairs[-1].append(known)
        if pairs:
            template = template.widened(link, pairs, tuple(slots))
    return template


def _connected(links, columns):
    """The links in an order in which each, if it can, touches a table of an earlier one."""
    left, ordered, seen = list(links), [], set()
    while left:
        link = next((link for link in left if columns[link.child].table in seen
                     or columns[link.parent].table in seen), left[0])
        left.remove(link)
        ordered.append(link)
        seen |= {columns[link.child].table, columns[link.parent].table}
    return ordered


def _follow(links, template, database, tables, columns, rng):
    """Lays the links on foreign keys of the schema, backtracking; None if it cannot be done."""
    if not links:
        return tables, columns
    keys = database.keys + [key[::-1] for key in database.keys if not links[0].declared]
    for key in sorted(keys, key=lambda _: rng.random()):
        laid = _laid(links[0], key, template, database, tables, columns)
        placed = laid and _follow(links[1:], template, database, *laid, rng)
        if placed:
            return placed
    return None


def _laid(link, key, template, database, tables, columns):
    """(tables, columns) with the link on this key, or None where that contradicts them."""
    ends = [(slot, template.columns[slot].table, place) for slot, place in zip(link[:2], key)]
    if not all(database.fits(place[0], template.needs[table]) for _, table, place in ends):
        return None
    if key in database.whole and frozenset(link[:2]) not in template.joins:
        return None
    tables, columns = dict(tables), dict(columns)
    for slot, table, place in ends:
        if tables.setdefault(table, place[0]) != place[0] \
                or columns.setdefault(slot, place) != place:
            return None
    apart = len(set(tables.values())) == len(tables) and len(set(columns.values())) == len(columns)
    return (tables, columns) if apart else None


def _choose_column(slot, table, taken, database, rng):
    free = [column for column in database.fitting(table, slot[1:])
            if (table, column.name) not in taken.values()]
    if not free:
        raise Unfilled("too few columns with such values")
    return table, rng.choice(free).name


_SMALL = {"count": (1, 1, 2, 2, 2, 3, 3, 4, 5), "limit": (2, 3, 3, 3, 3, 5, 5, 10)}   # as in Spider


def _choose_values(template, chosen, profiles, rng):
    """SQL literals for the value slots; those of one kin differ and keep their order."""
    slots, literals = template.values, {}
    order = sorted(range(len(slots)), key=lambda v: (_kin(slots[v]), slots[v].rank))
    for (kind, column), members in groupby(order, key=lambda v: _kin(slots[v])):
        members = list(members)
        pool = _SMALL[kind] if kind in _SMALL else profiles[column].values
        pool = sorted(set(pool)) if len(members) > 1 and kind in _SMALL else pool
        if len(pool) < len(members):
            raise Unfilled("too few values")
        drawn = [pool[i] for i in sorted(rng.sample(range(len(pool)), len(members)))]
        if any(slots[v].kind == "range" for v in members) and not is_label(chosen[column]):
            drawn = _rounded(drawn)
        for v, value in zip(members, drawn):
            value = _shaped(slots[v], value, rng)
            whole = not isinstance(value, str) and value == int(value)
            literals[v] = literal(int(value) if whole else value)
    return tuple([literals[v] for v in range(len(slots))])


def _rounded(drawn):
    """Thresholds as people say them: two digits, days; not if that makes two of them equal."""
    rounded = [re.sub(r"^(\d{4}-\d\d-\d\d) .*", r"\1", value) if isinstance(value, str)
               else type(value)(float(f"{value:.2g}")) for value in drawn]
    return rounded if len(set(rounded)) == len(rounded) else drawn


def _shaped(slot, value, rng):
    """The value as its operator wants it: a word of it for LIKE, a total for SUM."""
    if slot.kind == "like":
        words = re.findall(r"[^\W\d_]{3,}", str(value))
        if not words:
            raise Unfilled("no word to look for")
        place = {"x%": 0, "%x": -1}.get(slot.shape, rng.randrange(len(words)))
        return (slot.shape or "%x%").replace("x", words[place])
    if slot.kind == "sum" and isinstance(value, (int, float)):
        return value * rng.choice((1, 2, 3))
    return value


# ---------------------------------------------------------------------------------------------
# Synthesis

class Synthetic(NamedTuple):
    db_id: str
    sql: str
    template_key: str


class _Draft(NamedTuple):
    template: Template
    db: int                          # index into the databases
    binding: Binding
    sql: str


def synthesize(pool, databases, n, rng, run, exclude=(), progress=None, vary=0.3):
    """n synthetic queries, executed and sensible (section 3.1.1).

    databases: [(schema, db_path)]. run: a list of (db_path, sql) -> a list of sqlexec.Result.
    exclude: normalised SQL that may not come out (training and validation queries).
    vary: the share of attempts whose aggregates, comparisons and sort directions are drawn anew.
    Returns ([Synthetic], Counter of rejected attempts by reason); fewer than n where the
    databases give no more. progress(kept, attempts) is called after each batch.
    """
    work = _Synthesis(pool, databases, rng, run, set(exclude), vary)
    try:
        while len(work.kept) < n and work.round(min(BATCH, n - len(work.kept))):
            if progress:
                progress(len(work.kept), len(work.kept) + work.rejects.total())
    finally:
        for database in work.databases:
            database.close()
    return work.kept, work.rejects


class _Synthesis:
    """Drawn templates wait until one of their queries is kept or TRIES is used up."""

    def __init__(self, pool, databases, rng, run, exclude, vary):
        self.pool, self.rng, self.run, self.vary = pool, rng, run, vary
        self.databases = [Database(schema, path) for schema, path in databases]
        self.exclude, self.seen = exclude, set()
        self.kept, self.rejects = [], Counter()
        self.waiting = []            # of (template, tries left)
        self.spent = Counter()       # how often a template was given up
        self.barren = set()          # (template, database) that can never fit

    def round(self, size):
        """One batch; False once nearly every draw is of a template that was given up twice."""
        for _ in range(20 * size if len(self.pool) else 0):
            if len(self.waiting) >= size:
                break
            template = self.pool.draw(self.rng)
            if self.spent[template.key] < 2:
                self.waiting.append((template, TRIES))
        drafts = [self.draft(template) for template, _ in self.waiting]
        reasons = self.judge(drafts)
        self.rejects.update(filter(None, reasons))
        failed = [(template, tries - 1) for (template, tries), reason
                  in zip(self.waiting, reasons) if reason]
        self.spent.update(template.key for template, tries in failed if not tries)
        self.waiting = [(template, tries) for template, tries in failed if tries]
        return bool(drafts)

    def draft(self, template):
        """A _Draft on a random database, or the reason why not."""
        form, why = template, BARREN
        if self.rng.random() < self.vary:
            form = template.variant(self.rng.randrange(VARIANTS))
        places = range(len(self.databases))
        for db in dict.fromkeys(self.rng.choices(places, k=PLACES) if places else ()):
            if (template.key, db) in self.barren:
                continue
            try:
                wide, binding = bind(form, self.databases[db], self.rng)
                return self.fresh(_Draft(wide, db, binding, render(wide.pieces, binding)))
            except Unfilled as problem:
                why = str(problem)
                if why == BARREN:
                    self.barren.add((template.key, db))
        return f"unfilled: {why}"

    def fresh(self, draft):
        """The draft, unless its query is known. A filled template is normalised as it stands."""
        if draft.sql in self.exclude:
            return "in train or val"
        if (draft.db, draft.sql) in self.seen:
            return "made before"
        self.seen.add((draft.db, draft.sql))
        return draft

    def judge(self, drafts):
        """The reason to reject each draft, or "" for those it keeps."""
        reasons = [draft if isinstance(draft, str) else "" for draft in drafts]
        live = [i for i, reason in enumerate(reasons) if not reason]
        jobs, rows = [(drafts[i], drafts[i].sql, "", sense.MAX_ROWS) for i in live], {}
        for i, result in zip(live, self.execute(jobs)):
            reasons[i], rows[i] = sense.trivial(result, drafts[i].template.tree), result.rows
        probes = {i: drafts[i].template.probes for i in live if not reasons[i]}
        for turn in range(max(map(len, probes.values()), default=0)):
            asked = [(i, *probes[i][turn]) for i in probes
                     if not reasons[i] and turn < len(probes[i])]
            jobs = [(drafts[i], render(pieces, drafts[i].binding), test, len(rows[i]))
                    for i, _, test, pieces in asked]
            for (i, reason, test, _), answer in zip(asked, self.execute(jobs)):
                if sense.condemns(test, rows[i], answer):
                    reasons[i] = reason
        self.kept += [Synthetic(self.databases[drafts[i].db].schema.db_id, drafts[i].sql,
                                drafts[i].template.key) for i in live if not reasons[i]]
        return reasons

    def execute(self, jobs):
        """Results of (draft, sql, test, rows). One more row than `rows` shows a difference."""
        cut = [sql if draft.template.tree.limit and test != "order" else f"{sql} LIMIT {rows + 1}"
               for draft, sql, test, rows in jobs]
        paths = [self.databases[draft.db].path for draft, *_ in jobs]
        return self.run(list(zip(paths, cut))) if jobs else []
