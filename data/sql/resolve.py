"""Binds every column of a tree to its table; queries in canonical form.

Names are looked up in the inner scope first; a name in double quotes that no scope knows is text,
as in SQLite.
"""

import re
from collections import Counter
from dataclasses import replace
from typing import NamedTuple

from data.sql.parse import parse
from data.sql.render import plain, to_sql
from data.sql.tree import (
    Binary, Column, Item, Literal, Query, Select, SQLError, Source, Star, Unary, conjunction,
    conjuncts, rewrite, walk)


def resolve(tree, schema):
    """The tree with every column bound to (table, source) and canonical aliases.

    SQLError for an unknown or ambiguous name.
    """
    resolver = _Resolver(schema)
    return _aliased(resolver.query(tree, None), resolver.scope_of)


def canonical_sql(sql, schema):
    """The query in canonical form. SQLError if it cannot be read.

    It should mean the same, but only the database can tell: see keeps_meaning.
    """
    return to_sql(resolve(parse(sql), schema))


def keeps_meaning(sql, raw_rows, canonical_rows):
    """Whether a query as written and its canonical form gave the same rows (lists of tuples).

    Stricter than any verdict: the columns in the same order, 1 is not 1.0, and the rows in the
    same order where `sql` has an ORDER BY (of a sub-query, or in a comment) or a LIMIT anywhere.
    """
    raw, canonical = [[tuple([(type(cell), repr(cell)) for cell in row]) for row in rows]
                      for rows in (raw_rows, canonical_rows)]
    ordered = re.search("order.*by|limit", sql, re.I | re.S)
    return raw == canonical if ordered else Counter(raw) == Counter(canonical)


def normalise(sql, schema):
    """Text equal for queries that differ in case, aliases, quotes, spacing, ASC or a semicolon."""
    try:
        return canonical_sql(sql, schema)
    except SQLError:
        return " ".join(sql.split()).rstrip("; ").lower()


# ---------------------------------------------------------------------------------------------
# Scopes

class _Scope:
    """What one SELECT sees: its sources, its item aliases, and the SELECT enclosing it."""

    def __init__(self, parent, names):
        self.parent, self.sources, self.aliases, self.merged = parent, [], {}, set()
        self.enclosing = [parent, *parent.enclosing] if parent else []       # innermost first
        self.names = names           # of all its item aliases, folded
        self.has_unnamed = False     # a derived table in FROM has a column without a name
        self.correlated = False      # uses a column of an enclosing SELECT
        self.referenced = False      # an inner SELECT uses one of its columns
        self.aliaslike = False       # a table in FROM is called T1, T2, ... as our aliases are
        self.outer = False           # has a RIGHT or FULL JOIN

    def first_alias(self):
        """Number of the first T alias: above the outer ones only where both are in use here."""
        outer = self.parent
        return outer.first_alias() + len(outer.sources) if self.correlated else 1

    def alias(self, position):
        several = len(self.sources) > 1 or self.referenced or self.correlated and self.aliaslike
        return f"T{self.first_alias() + position}" if several else None


class _Bound(NamedTuple):
    number: int                      # of the source in the whole statement
    name: str                        # folded: what a qualifier must say
    table: str | None
    columns: dict                    # folded name -> name as spelled


def fold(name):
    """A name as SQLite compares it: only ASCII letters have two cases."""
    return name.lower() if name.isascii() else re.sub("[A-Z]", lambda m: m[0].lower(), name)


def _uncollated(term):
    while isinstance(term, Binary) and term.op == "COLLATE":
        term = term.left
    return term


# ---------------------------------------------------------------------------------------------
# Binding

class _Resolver:
    def __init__(self, schema):
        # Folded name -> (name, columns, the query of a WITH); None for a WITH not yet read.
        self.tables = {fold(table.name): (table.name, [c.name for c in table.columns], None)
                       for table in schema.tables}
        self.numbers = {(table.name, c.name) for table in schema.tables for c in table.columns
                        if c.type == "number"}
        self.scope_of = []           # source number -> (its scope, position there)

    def query(self, query, parent, derived=False):
        """Resolves one query inside a scope. A derived table keeps its item aliases."""
        outer = self.tables
        self.tables = {**outer, **{fold(cte.name): None for cte in query.ctes}}
        for cte in query.ctes:
            start, inner = len(self.scope_of), self.query(cte.query, parent, derived=True)
            if any(isinstance(part, Column) and part.source is not None and part.source < start
                   for part in walk(inner)):         # bound anew wherever it is used
                raise SQLError("WITH that reads a SELECT around it", 0)
            self.tables[fold(cte.name)] = cte.name, cte.columns or self.outputs(inner), inner
        ctes = tuple([replace(cte, query=self.tables[fold(cte.name)][2]) for cte in query.ctes])
        arms, scopes = zip(*[self.select(arm, parent, derived) for arm in query.arms])
        order = tuple([replace(term, expression=self.ordered(term.expression, scopes[0]))
                       for term in query.order])
        for term in order:
            _check_order(term.expression, scopes[0], arms, derived)
        limit, offset = [self.expression(part, scopes[0]) for part in (query.limit, query.offset)]
        self.tables = outer
        return Query(arms, query.ops, order, limit, offset, ctes)

    def select(self, select, parent, derived):
        names = [fold(item.alias or "") for item in select.items]
        scope = _Scope(parent, set(names) - {""})
        sources = [self.source(source, scope) for source in select.sources]
        sources = _spread([replace(source, on=_ordered_sides(self.expression(source.on, scope),
                                                             self.numbers))
                           for source in sources])
        items = tuple([self.item(item, scope, derived) for item in select.items])
        scope.aliases = {name: item.expression
                         for name, item in reversed(list(zip(names, items))) if name}
        where, group, having = [self.expression(part, scope)
                                for part in (select.where, select.group, select.having)]
        for old, new in zip(select.group, group):
            _check_term(old, new, scope)
        return Select(items, select.distinct, sources, where, group, having), scope

    def item(self, item, scope, derived):
        expression = self.expression(item.expression, scope)
        alias = item.alias
        if isinstance(item.expression, Column) and isinstance(expression, Literal):
            alias = alias or item.expression.name    # "x" is text, and still names its column
        return Item(expression, alias if derived else None)

    def source(self, source, scope):
        if isinstance(source.table, Query):
            table = self.query(source.table, scope.parent, derived=True)
            name, columns, called = None, self.outputs(table), source.alias or ""
        else:
            key = fold(source.table)
            if not self.tables.get(key):
                reason = "recursive or later WITH" if key in self.tables else "unknown table"
                raise SQLError(reason, source.at, repr(source.table))
            table, columns, query = self.tables[key]
            name, called = None if query else table, source.alias or source.table
            scope.aliaslike |= bool(re.fullmatch(r"t\d+", key))
        by_key = {fold(column): column for column in columns if column}
        scope.has_unnamed |= len(by_key) < len(columns)
        if source.join.startswith("NATURAL") or source.using:
            scope.merged.update([fold(c) for c in source.using] or by_key)
        scope.outer |= "RIGHT" in source.join or "FULL" in source.join
        number = len(self.scope_of)
        self.scope_of.append((scope, len(scope.sources)))
        scope.sources.append(_Bound(number, fold(called), name, by_key))
        return replace(source, table=table, number=number)

    def outputs(self, query):
        """Names of the columns that a resolved query gives ("" where it has none to refer to)."""
        names = []
        for item in query.arms[0].items:
            if isinstance(item.expression, Star):
                for source in query.arms[0].sources:
                    if item.expression.source in (None, source.number):
                        scope, position = self.scope_of[source.number]
                        names += scope.sources[position].columns.values()
            else:
                column = isinstance(item.expression, Column)
                names.append(item.alias or (item.expression.name if column else ""))
        return names

    def expression(self, tree, scope):
        def bind(part):
            if isinstance(part, Query):
                return self.query(part, scope)
            if isinstance(part, Column):
                return _column(part, scope)
            if isinstance(part, Star) and part.qualifier:
                return _star(part, scope)
            if part in (Literal("keyword", "TRUE"), Literal("keyword", "FALSE")):
                _check_keyword(fold(part.value), scope)
        return rewrite(tree, bind)

    def ordered(self, tree, scope):
        """An ORDER BY term: a name means the item of that alias before any column."""
        term = _uncollated(tree)
        named = isinstance(term, Column) and not term.qualifier
        meant = scope.aliases.get(fold(term.name)) if named else None
        new = (rewrite(tree, lambda part: meant if part is term else None) if meant
               else self.expression(tree, scope))
        _check_term(tree, new, scope)
        return new


def _column(column, scope):
    """Binds a column in the innermost scope that has it; marks the scopes in between."""
    crossed, key = [], fold(column.name)
    for scope in (scope, *scope.enclosing):
        found = [bound for bound in scope.sources if key in bound.columns
                 and (column.qualifier is None or bound.name == fold(column.qualifier))]
        if len(found) > 1 and key not in scope.merged:
            raise SQLError("ambiguous column", column.at, repr(column.name))
        if len(found) > 1 and scope.outer:           # the first that is not NULL
            raise SQLError("RIGHT or FULL JOIN by equal names", column.at)
        if found:
            for inner in crossed:
                inner.correlated = scope.referenced = True
            number, _, table, columns = found[0]
            return Column(columns[key], None, not plain(columns[key]), table, number, column.at)
        if key in ("rowid", "oid", "_rowid_") and scope.sources:
            raise SQLError("rowid", column.at)
        if column.qualifier is None and key in scope.names:
            if crossed or not scope.aliases:
                raise SQLError("alias inside a sub-query, an ON or an item", column.at)
            return scope.aliases[key]
        if column.quoted and scope.has_unnamed:
            raise SQLError("column named by its expression, or text", column.at)
        crossed.append(scope)
    if column.quoted and column.qualifier is None:
        return Literal("text", column.name)
    raise SQLError("unknown column", column.at, repr(to_sql(column)))


def _star(star, scope):
    found = [bound for bound in scope.sources if bound.name == fold(star.qualifier)]
    if len(found) != 1:
        raise SQLError("ambiguous table" if found else "unknown table", star.at,
                       repr(star.qualifier))
    return Star(None, found[0].number)


# ---------------------------------------------------------------------------------------------
# What SQLite might bind differently once the query's own aliases are gone

def _check_term(old, new, scope):
    """A term of ORDER BY or GROUP BY must not become a number or a column from outside."""
    old, bare = _uncollated(old), _uncollated(new)
    while isinstance(bare, Unary):
        old, bare = getattr(old, "operand", old), _uncollated(bare.operand)
    if isinstance(bare, Literal) and bare.kind == "number" and not isinstance(old, Literal):
        raise SQLError("alias of a constant", getattr(old, "at", 0))
    outside = {bound.number for outer in scope.enclosing for bound in outer.sources}
    if any(isinstance(part, Column) and part.source in outside for part in walk(new)):
        raise SQLError("sorted or grouped by a column from outside", 0)


def _check_order(tree, scope, arms, derived):
    """A resolved ORDER BY term must not match an item other than the one it meant."""
    term, items = _uncollated(tree), [item.expression for item in arms[0].items]
    if derived and isinstance(term, Column):         # here the aliases stay
        if scope.aliases.get(fold(term.name), term) != term:
            raise SQLError("alias that hides a column", term.at)
    if len(arms) == 1 or isinstance(term, Literal) and term.kind == "number":
        return
    stars = {item.source for item in items if isinstance(item, Star)}
    if isinstance(term, Column) and not stars.isdisjoint((None, term.source)):
        return
    nested = any(isinstance(part, (Query, Literal)) for part in walk(term))
    if nested or items.count(term) != 1:             # SQLite compares the terms with the items
        raise SQLError("compound not sorted by one column of its first arm", 0)


def _check_keyword(key, scope):
    for scope in (scope, *scope.enclosing):
        if key in scope.names or any(key in bound.columns for bound in scope.sources):
            raise SQLError("column called TRUE or FALSE", 0)


# ---------------------------------------------------------------------------------------------
# Normal form of joins and aliases

def _ordered_sides(on, numbers):
    """An ON condition with the earlier table on the left of each =.

    Columns of numbers only: = compares text by the collation of its left side.
    """
    def swap(part):
        match part:
            case Binary("=", Column() as left, Column() as right) if left.source > right.source:
                if numbers.issuperset([(left.table, left.name), (right.table, right.name)]):
                    return Binary("=", right, left)
    return rewrite(on, swap)


def _spread(sources):
    """a JOIN b JOIN c ON x AND y, with each condition at the first join that has its tables."""
    plain_joins = all(source.join == "JOIN" and not source.using for source in sources[1:])
    if not plain_joins or all(source.on for source in sources[1:]):
        return tuple(sources)
    conditions = {source.number: [] for source in sources}
    for source in sources[1:]:
        for part in conjuncts(source.on):
            named = [c.source for c in walk(part)
                     if isinstance(c, Column) and c.source in conditions]
            conditions[max(named, default=source.number)].append(part)
    if conditions[sources[0].number]:                # about the first table alone: leave it there
        return tuple(sources)
    return tuple([replace(source, on=conjunction(conditions[source.number]))
                  for source in sources])


def _aliased(tree, scope_of):
    """Adds the T aliases, now that it is known which scopes inner queries refer to."""
    aliases = [scope.alias(position) for scope, position in scope_of]

    def write(part):
        if isinstance(part, (Column, Star)) and part.source is not None:
            return replace(part, qualifier=aliases[part.source])
        if isinstance(part, Source) and part.alias != aliases[part.number]:
            return rewrite(replace(part, alias=aliases[part.number]), write)
    return rewrite(tree, write)
