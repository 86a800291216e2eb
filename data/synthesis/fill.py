"""Fills the slots of a template with what a database holds (section 3.1.1).

    Database(schema, db_path)              keys, columns and values as filling needs them
    fill(template, database, rng)          one query on another schema; Unfilled says why not

Links are filled with declared foreign keys only; a composite key is joined on all its columns.
"""

import math
import re
from functools import cache, cached_property
from itertools import groupby

from data.schema import read_schema
from data.sql import literal
from data.synthesis import quality
from data.synthesis.profiles import Profiles
from data.synthesis.templates import Binding, ColumnSlot, render

GAMMA = 0.3                  # a table d keys away is drawn with weight GAMMA ** d [ours]
IMPOSSIBLE = "no tables with such keys and columns"         # no other draw would help


class Unfilled(Exception):
    """A template cannot be filled on a schema; the message is the reason."""


class Database:
    """A schema and what its database holds, as filling sees them. DataError if unreadable."""

    def __init__(self, schema, db_path):
        self.schema, self.path, self.profiles = schema, db_path, Profiles(db_path)
        self.fitting, self.fits = cache(self.fitting), cache(self.fits)      # asked at each try
        self.column = {(table.name, column.name): column
                        for table in schema.tables for column in table.columns}
        self.kinds = {table.name: {} for table in schema.tables}     # (type, role) -> [Column]
        children = {key[:2] for key in schema.foreign_keys}
        for place, column in self.column.items():
            role = "pk" if column.primary else "fk" if place in children else ""
            self.kinds[place[0]].setdefault((column.type, role), []).append(column)

    def close(self):
        self.profiles.close()

    @cached_property
    def keys(self):
        """Foreign keys as ((table, column), (table, column)) whose columns hold data and whose
        parent is unique; of a composite key each column pair."""
        of = self.profiles.of
        pairs = [(key[:2], key[2:]) for key in self.schema.foreign_keys]
        return [(child, parent) for child, parent in pairs
                if of(*child).filled and of(*parent).filled
                and self.composite.get((child, parent), of(*parent).identifies)]

    @cached_property
    def composite(self):
        """{(child, parent), in both directions: all column pairs of its key} for composite keys.

        tables.json does not say which columns form one key: the database file does, perhaps in
        another spelling or about what the list leaves out.
        """
        found, spelled = {}, {(table.lower(), name.lower()): (table, name)
                              for table, name in self.column}
        for key in self.schema.composite or read_schema(self.path).composite:
            ends = [[spelled.get((table.lower(), name.lower())) for table, name in
                     (part[:2], part[2:])] for part in key]
            pairs = [tuple(pair) for pair in ends if all(pair)]
            filled = all(self.profiles.of(*place).filled for pair in pairs for place in pair)
            usable = len(pairs) == len(key) and filled and self.profiles.identify(
                [parent for _, parent in pairs])
            for pair in pairs:
                found[pair] = pairs if usable else []
                found[pair[::-1]] = [other[::-1] for other in found[pair]]
        return found

    def distances(self, start):
        """{table: number of keys on the shortest path}, unreachable tables left out."""
        found, reached = {start: 0}, [start]
        for table in reached:                    # grows meanwhile
            for (child, _), (parent, _) in self.keys:
                for other in (child, parent) if table in (child, parent) else ():
                    if other not in found:
                        found[other] = found[table] + 1
                        reached.append(other)
        return found

    def fitting(self, table, kind):
        """The columns of a table that make sense in a slot; kind: its (type, role, uses)."""
        return [column for column in self.kinds[table].get(kind[:2], ())
                if quality.suits(column, *kind[1:], self.profiles.of(table, column.name))]

    def fits(self, table, needs):
        """Has the table columns enough for a table slot? needs: one of Template.needs."""
        return all(len(self.fitting(table, kind)) >= count for kind, count in needs)


def fill(template, database, rng):
    """SQL text of the template on a Database. Unfilled(reason) if it cannot be filled there."""
    template, binding = bind(template, database, rng)
    return render(template.pieces, binding)


def bind(template, database, rng):
    """(template, random Binding): tables along the links, then columns, then values.

    The template has more join conditions than before where a link uses a composite key.
    """
    tables, columns = _place_tables(template, database, rng)
    template = _complete_keys(template, database, columns)
    for index, slot in enumerate(template.columns):
        if index not in columns:
            table, taken = tables[slot.table], columns.values()
            free = [(table, column.name) for column in database.fitting(table, slot[1:])
                    if (table, column.name) not in taken]
            if not free:
                raise Unfilled("too few columns with such values")
            columns[index] = rng.choice(free)
    places = [columns[index] for index in range(len(template.columns))]
    profiles = [database.profiles.of(*place) for place in places]
    chosen = [database.column[place] for place in places]
    problem = quality.group_flaw(template.tree, profiles)
    if problem:
        raise Unfilled(problem)
    if not all((quality.multiplies if op == "*" else quality.comparable)(chosen[a], chosen[b])
               for a, op, b in template.compared):
        raise Unfilled("nothing in common to compare")
    literals = _choose_values(template, chosen, profiles, rng)
    return template, Binding(tuple([tables[t] for t in range(template.tables)]),
                             tuple([column.name for column in chosen]), literals)


def _place_tables(template, database, rng):
    """({table slot: table}, {column slot: (table, column)}) along declared keys."""
    placed = _place_links(template.links, template, database, {}, {}, rng)
    if placed is None:
        raise Unfilled(IMPOSSIBLE)
    tables, columns = placed
    for slot in [slot for slot in range(template.tables) if slot not in tables]:
        free = [table.name for table in database.schema.tables
                if table.name not in tables.values()
                and database.fits(table.name, template.needs[slot])]
        distances = database.distances(tables[min(tables)]) if tables else dict.fromkeys(free, 0)
        weights = [GAMMA ** distances.get(name, math.inf) for name in free]
        if not any(weights):
            raise Unfilled("no such table nearby" if tables else IMPOSSIBLE)
        tables[slot] = rng.choices(free, weights)[0]
    return tables, columns


def _complete_keys(template, database, columns):
    """The template with all column pairs of its links' composite keys; adds them to columns."""
    for link in template.links:
        laid = {frozenset((columns[a], columns[b])) for a, b, _ in template.links}
        key = database.composite.get((columns[link.child], columns[link.parent]), ())
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
            template = template.with_equalities(link, pairs, tuple(slots))
    return template


def _place_links(links, template, database, tables, columns, rng):
    """Assigns the links to foreign keys of the schema, by backtracking; None if impossible."""
    if not links:
        return tables, columns
    link = next((link for link in links         # one that touches what is placed, if it can
                 if any(template.columns[slot].table in tables for slot in link[:2])), links[0])
    rest = [other for other in links if other != link]
    keys = database.keys + [key[::-1] for key in database.keys if not link.declared]
    for key in sorted(keys, key=lambda _: rng.random()):
        laid = _place_link(link, key, template, database, tables, columns)
        placed = laid and _place_links(rest, template, database, *laid, rng)
        if placed:
            return placed
    return None


def _place_link(link, key, template, database, tables, columns):
    """(tables, columns) with the link assigned to this key, or None where they conflict."""
    ends = [(slot, template.columns[slot].table, place) for slot, place in zip(link[:2], key)]
    if not all(database.fits(place[0], template.needs[table]) for _, table, place in ends):
        return None
    if key in database.composite and frozenset(link[:2]) not in template.joins:
        return None
    tables, columns = dict(tables), dict(columns)
    for slot, table, place in ends:
        if tables.setdefault(table, place[0]) != place[0] \
                or columns.setdefault(slot, place) != place:
            return None
    apart = len(set(tables.values())) == len(tables) and len(set(columns.values())) == len(columns)
    return (tables, columns) if apart else None


_SMALL = {"count": (1, 1, 2, 2, 2, 3, 3, 4, 5), "limit": (2, 3, 3, 3, 3, 5, 5, 10)}   # as in Spider


def _choose_values(template, chosen, profiles, rng):
    """SQL literals for the value slots; those drawn together differ and keep their order."""
    slots, literals = template.values, {}
    order = sorted(range(len(slots)), key=lambda v: (slots[v].group, slots[v].rank))
    for (kind, column), members in groupby(order, key=lambda v: slots[v].group):
        members = list(members)
        pool = _SMALL[kind] if kind in _SMALL else profiles[column].values
        pool = sorted(set(pool)) if len(members) > 1 and kind in _SMALL else pool
        if len(pool) < len(members):
            raise Unfilled("too few values")
        drawn = [pool[i] for i in sorted(rng.sample(range(len(pool)), len(members)))]
        ranged = any(slots[v].kind == "range" for v in members)
        if ranged and not quality.is_label(chosen[column]):
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
    """The value as its operator wants it: a word of it for LIKE, a total for SUM, a date's year."""
    if slot.kind == "date":
        start, end = map(int, slot.shape.split(":"))
        return str(value)[start:end]
    if slot.kind == "like":
        words = re.findall(r"[^\W\d_]{3,}", str(value))
        if not words:
            raise Unfilled("no word to look for")
        place = {"x%": 0, "%x": -1}.get(slot.shape, rng.randrange(len(words)))
        return (slot.shape or "%x%").replace("x", words[place])
    if slot.kind == "sum" and isinstance(value, (int, float)):
        return value * rng.choice((1, 2, 3))
    return value
