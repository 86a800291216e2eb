"""The demo's eight databases, read from domains.txt: tables, words for them, and their rows."""

import datetime
import json
import re
from dataclasses import dataclass, field
from pathlib import Path

from data.sql import literal


class Column:
    """One column, from the words of its head line (name, type, '-> table', 'year', 'total',
    'null='), its nouns, and its attributes: phrases by use, and how to fill it."""

    def __init__(self, words, nouns, say):
        self.name, self.type, *marks = words
        self.nouns, self.say = nouns, say
        self.fk = marks[1] if "->" in marks else ""      # referenced table, or ''
        self.kind = ("key" if not nouns else "year" if "year" in marks else
                     {"TEXT": "text", "DATE": "date"}.get(self.type, "number"))
        self.total = "total" in marks                    # a sum over rows means something
        self.null = sum(float(m[5:]) for m in marks if m.startswith("null="))    # share of NULLs
        self.fill = say.pop("fill", "")      # '' (written out), numbers (low, high, step) or a str
        if re.fullmatch("[0-9. ]+", self.fill):
            self.fill = [json.loads(number) for number in self.fill.split()]


@dataclass
class Table:
    name: str
    nouns: str
    label: str = ""          # the column that names a row, '' where rows have no name
    named: str = "{}"        # how a row is called by its label, as "flight {}"
    count: str = "0"         # rows to make where none are written out
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


class Relation:
    """A foreign key (path: child.column) or a bridge (two, joined by +). ends: {"a" or "b": (table
    there, the other table, steps from it)}; a step is (table joined, column it is joined by, own
    column). say: phrases by use."""

    def __init__(self, tables, path, say):
        edges = [edge.split(".") for edge in path.split("+")]
        targets = [tables[tables[name][col].fk] for name, col in edges]
        down = [(name, target.key, col) for (name, col), target in zip(edges, targets)]
        up = [(target.name, col, target.key) for (_, col), target in zip(edges, targets)]
        self.say, self.bridge, child = say, len(edges) > 1, tables[edges[0][0]]
        self.ends = {"a": (child, *targets, up), "b": (*targets, child, down)}
        if self.bridge:
            self.ends = {"a": (*targets, [down[0], up[1]]), "b": (*targets[::-1], [down[1], up[0]])}


@dataclass
class Domain:
    """One database: its tables, how they are related, and the words for both."""
    db_id: str
    union: list              # pairs of columns, as "author.name+member.name", that go into one list
    tables: dict = field(default_factory=dict)
    relations: list = field(default_factory=list)


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
            tables = domains[-1].tables
        elif kind == "table":
            table = tables[words[0]] = Table(words[0], text, **attributes)
        elif kind == "column":
            attributes |= shared.get(attributes.pop("as", ""), {})
            table.columns.append(Column(words, text, attributes))
        elif kind == "rows":
            table.rows = [[cell.strip() for cell in row.split(",")] for row in text.split(";")]
        else:
            domains[-1].relations.append(Relation(tables, words[0], attributes))
    return domains


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
    for table in domain.tables.values():
        made, seen = rows.setdefault(table.name, []), []
        people = iter([f"{f} {n}" for f, n in zip(rng.sample(FIRST, 40), rng.sample(LAST, 40))])
        while len(made) < (len(table.rows) or int(table.count)):
            written = iter(table.rows[len(made)]) if table.rows else None
            row = tuple(cell(domain, rows, len(made), col, written, people, rng)
                        for col in table.columns)
            pair = [v for col, v in zip(table.columns, row) if col.fk]
            if len(pair) > len(set(pair)) and table.columns[1].fk == table.columns[2].fk:
                continue                                 # a flight from an airport to itself
            if table.columns[0].fk and pair in seen:
                continue                                 # a bridge's key is its pair of keys
            seen.append(pair)
            made.append(row)
    return rows


def cell(domain, rows, n, col, written, people, rng):
    """A value for row n of a table, drawn or taken from the fields written out, where a foreign key
    stands as the row's label."""
    typed = {"INTEGER": int, "REAL": quarters}.get(col.type, str)
    if col.null and rng.random() < col.null:
        return None
    if col.fill == "any":
        targets = rows[col.fk]           # of a self-reference, the rows so far
        return targets[int(len(targets) * rng.random() ** 1.6)][0] if targets else None
    if col.fill == "person":
        return next(people)
    if col.fill == "flight":
        return f"{rng.choice(('BA', 'AF', 'LH', 'IB'))}{113 + 7 * n}"
    if col.fill and col.type == "DATE":
        start, end = datetime.date(col.fill[0], 1, 1), datetime.date(col.fill[1], 12, 31)
        return str(start + datetime.timedelta(rng.randint(0, (end - start).days)))
    if isinstance(col.fill, list):
        low, high, step = col.fill
        return typed(low + step * rng.randint(0, int((high - low) / step)))
    if col.fill:
        return rng.choice(col.fill.split("|"))
    if col.kind == "key" and not col.fk:
        return n + 1
    text = next(written)
    if col.fk and text != "-":
        target = domain.tables[col.fk]
        at = target.columns.index(target[target.label])
        return next(row[0] for row in rows[col.fk] if row[at] == text)
    return None if text == "-" else typed(text)


def quarters(value):
    """Rounded to quarters: their sums are exact, so no answer depends on the order of rows."""
    return round(float(value) * 4) / 4


def sql_script(domain, rows):
    """CREATE TABLE and INSERT statements, one row a line."""
    parts = []
    for table in domain.tables.values():
        links = [c for c in table.columns if c.fk]
        keys = ", ".join(c.name for c in links) if table.columns[0].fk else table.key
        lines = [f"{c.name} {c.type}" for c in table.columns] + [f"PRIMARY KEY ({keys})"]
        lines += [f"FOREIGN KEY ({c.name}) REFERENCES {c.fk}({domain.tables[c.fk].key})"
                  for c in links]
        values = [", ".join("NULL" if v is None else literal(v) for v in row)
                  for row in rows[table.name]]
        parts.append(f"CREATE TABLE {table.name} (\n  " + ",\n  ".join(lines) + "\n);\n"
                     f"INSERT INTO {table.name} VALUES\n(" + "),\n(".join(values) + ");\n")
    return "\n".join(parts)
