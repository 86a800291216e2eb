"""The demo's eight databases, read from domains.txt: tables, words for them, and their rows."""

import datetime
import re
from dataclasses import dataclass, field
from pathlib import Path

from data.sql import literal


@dataclass
class Column:
    """One column: its SQL declaration, nouns for it, how to fill it, and phrases by use."""
    name: str
    type: str
    nouns: str
    fk: str                  # referenced table, or ''
    kind: str                # text, number, year, date or key
    total: bool              # a sum over rows means something
    null: float              # share of NULLs among filled rows
    fill: object = None      # None (written out), numbers (low, high, step) or a str
    say: dict = field(default_factory=dict)


@dataclass
class Table:
    name: str
    nouns: str
    label: str = ""          # the column that names a row, '' where rows have no name
    named: str = "{}"        # how a row is called by its label, as "flight {}"
    count: int = 0           # rows to make where none are written out
    rows: list = field(default_factory=list)       # those written out, as lists of fields
    columns: list = field(default_factory=list)

    def __getitem__(self, name):
        return next(c for c in self.columns if c.name == name)

    @property
    def key(self):
        return self.columns[0].name

    @property
    def person(self):
        return any("* who " in text for c in self.columns for text in c.say.values())


@dataclass
class Relation:
    """A foreign key, or two of a bridge. ends: {"a" or "b": (table there, the other table, steps
    from it)}; a step is (table joined, column it is joined by, own column)."""
    say: dict
    ends: dict
    bridge: bool


@dataclass
class Domain:
    """One database: its tables, how they are related, and the words for both."""
    db_id: str
    union: list              # pairs of columns, as "author.name+member.name", that go into one list
    tables: list = field(default_factory=list)
    relations: list = field(default_factory=list)

    def __getitem__(self, name):
        return next(t for t in self.tables if t.name == name)

    def relation(self, path, say):
        """path: child.column, or bridge.column_a+bridge.column_b."""
        edges = [edge.split(".") for edge in path.split("+")]
        child, targets = self[edges[0][0]], [self[self[name][col].fk] for name, col in edges]
        down = [(name, target.key, col) for (name, col), target in zip(edges, targets)]
        up = [(target.name, col, target.key) for (name, col), target in zip(edges, targets)]
        if len(edges) == 1:
            ends = {"a": (child, *targets, up), "b": (*targets, child, down)}
        else:
            ends = {"a": (*targets, [down[0], up[1]]), "b": (*targets[::-1], [down[1], up[0]])}
        return Relation(say, ends, len(edges) > 1)


# ---------------------------------------------------------------------------------------------
# Reading domains.txt

def read_blocks(path):
    """[(the words of a head line, the text after it, {attribute: text})]"""
    text = re.sub("^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.M)
    text = re.sub("\n {8}", " ", re.sub("\n {8}[|]", "|", text))
    blocks = []
    for line in filter(str.strip, text.split("\n")):
        head, _, rest = line.strip().partition(": ")
        if line.startswith("    "):
            blocks[-1][2][head] = rest
        else:
            blocks.append((head.split(), rest, {}))
    return blocks


def read_domains(path):
    domains, shared = [], {}
    for (kind, *words), text, attributes in read_blocks(path):
        if kind == "shared":
            shared[words[0]] = attributes
        elif kind == "domain":
            domains.append(Domain(words[0], attributes.get("union", "").split()))
        elif kind == "table":
            attributes["count"] = int(attributes.get("count", 0))
            domains[-1].tables.append(Table(words[0], text, **attributes))
        elif kind == "column":
            attributes |= shared.get(attributes.pop("as", ""), {})
            domains[-1].tables[-1].columns.append(read_column(words, text, attributes))
        elif kind == "rows":
            domains[-1].tables[-1].rows = [
                [field.strip() for field in row.split(",")] for row in text.split(";")]
        else:
            domains[-1].relations.append(domains[-1].relation(words[0], attributes))
    return domains


def read_column(words, nouns, attributes):
    """Column from the words of its head line: name, type, '-> table', 'year', 'total', 'null='."""
    name, type_, *marks = words
    fk = marks[1] if "->" in marks else ""
    kinds = {"TEXT": "text", "DATE": "date"}
    kind = "key" if not nouns else "year" if "year" in marks else kinds.get(type_, "number")
    null = sum(float(m[5:]) for m in marks if m.startswith("null="))
    fill = attributes.pop("fill", None)
    if fill and re.fullmatch("[0-9. ]+", fill):
        fill = tuple(float(n) if "." in n else int(n) for n in fill.split())
    return Column(name, type_, nouns, fk, kind, "total" in marks, null, fill, attributes)


DOMAINS = read_domains(Path(__file__).with_name("domains.txt"))


# ---------------------------------------------------------------------------------------------
# Rows

FIRST = ("Anna Omar Lucia Peter Maria James Sofia Daniel Emma Carlos Nadia Henry Julia "
         "Samuel Clara Victor Elena Thomas Alice Marco Sarah David Ingrid Paul Leila "
         "Hugo Rosa Martin Grace Ivan Helen Felix Nora Oscar Diana Simon Laura George "
         "Amina Lukas").split()
LAST = ("Silva Novak Garcia Miller Rossi Khan Dubois Weber Jensen Costa Brown Tanaka "
        "Murphy Kovacs Lopez Fischer Moreau Wilson Haddad Berg Santos Walker Ricci "
        "Olsen Patel Young Marino Keller Reyes Hughes Larsen Bauer Romano Scott "
        "Petrov Adams Mendez Cooper Yilmaz Lind").split()


def fill_rows(domain, rng):
    """{table name: list of row tuples}; foreign keys lean to the first rows of their target, so
    that some rows there are popular and some have nothing that refers to them."""
    rows = {}
    for table in domain.tables:
        made, seen = rows.setdefault(table.name, []), []
        people = iter([f"{f} {n}" for f, n in zip(rng.sample(FIRST, 40), rng.sample(LAST, 40))])
        while len(made) < (len(table.rows) or table.count):
            written = iter(table.rows[len(made)]) if table.rows else None
            row = tuple(cell(domain, rows, table, col, written, people, rng)
                        for col in table.columns)
            pair = [v for col, v in zip(table.columns, row) if col.fk]
            if len(pair) > len(set(pair)) and table.columns[1].fk == table.columns[2].fk:
                continue                                 # a flight from an airport to itself
            if table.columns[0].fk and pair in seen:
                continue                                 # a bridge's key is its pair of keys
            seen.append(pair)
            made.append(row)
    return rows


def cell(domain, rows, table, col, written, people, rng):
    """One value of the table's next row, drawn or taken from the fields written out."""
    n = len(rows[table.name])
    if col.null and rng.random() < col.null:
        return None
    if col.fill == "any":
        targets = rows[col.fk]           # of a self-reference, the rows so far
        return targets[int(len(targets) * rng.random() ** 1.6)][0] if targets else None
    if col.fill == "person":
        return next(people)
    if col.fill == "flight":
        return f"{rng.choice(('BA', 'AF', 'LH', 'IB'))}{113 + 7 * n}"
    if isinstance(col.fill, str):
        return rng.choice(col.fill.split("|"))
    if col.fill and col.type == "DATE":
        start, end = datetime.date(col.fill[0], 1, 1), datetime.date(col.fill[1], 12, 31)
        return str(start + datetime.timedelta(rng.randint(0, (end - start).days)))
    if col.fill:
        low, high, step = col.fill
        value = low + step * rng.randint(0, int((high - low) / step))
        return quarters(value) if col.type == "REAL" else value
    if col.kind == "key" and not col.fk:
        return n + 1
    return typed(domain, rows, col, next(written))


def typed(domain, rows, col, text):
    """A field written out as its column's type; a foreign key is written as the row's label."""
    if text == "-":
        return None
    if col.fk:
        target = domain[col.fk]
        at = target.columns.index(target[target.label])
        return next(r[0] for r in rows[col.fk] if r[at] == text)
    return {"INTEGER": int, "REAL": quarters}.get(col.type, str)(text)


def quarters(value):
    """Rounded to quarters: their sums are exact, so no answer depends on the order of rows."""
    return round(float(value) * 4) / 4


def sql_script(domain, rows):
    """CREATE TABLE and INSERT statements, one row a line."""
    parts = []
    for table in domain.tables:
        bridge = table.columns[0].fk
        keys = ", ".join(c.name for c in table.columns if c.fk) if bridge else table.key
        lines = [f"{c.name} {c.type}" for c in table.columns] + [f"PRIMARY KEY ({keys})"]
        lines += [f"FOREIGN KEY ({c.name}) REFERENCES {c.fk}({domain[c.fk].key})"
                  for c in table.columns if c.fk]
        values = [", ".join("NULL" if v is None else literal(v) for v in row)
                  for row in rows[table.name]]
        parts.append(f"CREATE TABLE {table.name} (\n  " + ",\n  ".join(lines) + "\n);\n"
                     f"INSERT INTO {table.name} VALUES\n(" + "),\n(".join(values) + ");\n")
    return "\n".join(parts)
