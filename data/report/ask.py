"""A question to a database: SQL, its rows, and remarks where trust in them ends."""

import csv
import re
from contextlib import suppress
from difflib import get_close_matches
from functools import partial
from pathlib import Path

from data.benchmarks.reader import Example
from data.prompts.schema_text import compact
from data.report.files import whole
from data.report.tables import show_result
from data.sql import (
    Between, Binary, Call, Column, In, Literal, SQLError, Subquery, parse, quote_name, quote_text,
    resolve, to_sql, walk)
from data.sql.tree import Case
from sqlexec import majority_vote

TRIES = 8               # samples drawn where the greedy answer does not run
COMPARES = frozenset(("=", "==", "!=", "<>", "<", ">", "<=", ">=", "IS", "IS NOT", "LIKE",
                      "NOT LIKE", "GLOB"))
NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.I)
DATE = re.compile(r"\d{4}-\d\d(-\d\d|$)")
DATE_LIKE = re.compile(r"\d{4}(?![\d/.])|\d{0,3}[%_*?[]")        # what dates are compared with
TEXT_CALLS = frozenset(("strftime", "date", "datetime", "time", "substr", "lower", "upper", "trim"))
TOO_MUCH = {"timeout": "--timeout gives a query more seconds",
            "too_big": "the query runs: ask for fewer rows, or for a sum or count of them"}
CHANGE = re.compile(r"(?:please\s+|can you\s+|could you\s+)*(delete|remove|drop|insert|add|update|"
                    r"change|rename|create|alter|truncate|replace|modify|clear|erase)\b", re.I)


class Asker:
    """Answers questions to one database.

    sample(example, temperature, n) -> n texts of SQL; samples: 1 for the greedy answer, or how many
    vote; out: a CSV file for the rows, or ""."""

    def __init__(self, task, db_id, sample, samples=1, out=""):
        self.task, self.db_id, self.sample = task, db_id, sample
        self.samples, self.out = samples, out and Path(out)

    def __call__(self, question):
        """Print the answer; 1 where no SQL ran, else 0.  OSError where the file cannot be
        written."""
        question = " ".join(question.encode("utf-8", "replace").decode().split())
        example = Example(self.db_id, question, "")
        sql, result, notes = self.answer(example)
        print(sql)
        show_result(result)
        schema, linker = self.task.data.schema(self.db_id), self.task.prompts.linker(self.db_id)
        for note in notes + remarks(sql, result, schema, linker.columns, question,
                                    lambda query: self.run(example, [query])[0]):
            print(f"  note: {note}")
        if self.out and result.status == "ok":
            with whole(self.out) as temporary, open(temporary, "w", newline="", encoding="utf-8",
                                                    errors="surrogateescape") as file:
                csv.writer(file).writerows([result.columns, *result.rows])
            print(f"  {len(result.rows)} rows written to {self.out}")
        return int(result.status != "ok")

    def converse(self):
        """Answer what a person types, until an empty line."""
        print(f"{compact(self.task.data.schema(self.db_id))}\nAsk, or leave with an empty line.")
        with suppress(EOFError):                  # the end of the input
            while question := input("? ").strip():
                self(question)

    def answer(self, example):
        """(SQL, Result, notes): the greedy answer, the first sample that runs where that fails, or
        what most samples return."""
        if self.samples > 1:
            texts = self.sample(example, 0.7, self.samples)
            sql, result, votes = majority_vote(texts, self.run(example, texts))
            note = f"{votes} of {len(texts)} samples agree on these rows"
            return sql, result, [note + (", less than half" if 2 * votes < len(texts) else "")]
        sql, = self.sample(example, 0.0, 1)
        result, = self.run(example, [sql])
        if result.status == "ok" or result.status in TOO_MUCH:
            return sql, result, [TOO_MUCH[result.status]] if result.status in TOO_MUCH else []
        texts = self.sample(example, 0.7, TRIES)
        for i, (text, other) in enumerate(zip(texts, self.run(example, texts)), 1):
            if other.status == "ok":
                return text, other, [f"the first answer failed ({result.error}); this is sample "
                                     f"{i} of {TRIES}: {sql}"]
        return sql, result, [f"none of {TRIES} more samples runs"]

    def run(self, example, texts):
        return self.task.run([self.task.job(example, text) for text in texts])


def voted(task, examples, texts, n):
    """Of the n answers to each example the one that wins the vote; n = 1: the answers."""
    if n == 1:
        return texts
    results = task.run(list(map(task.job, [e for e in examples for _ in range(n)], texts)))
    return [majority_vote(texts[i:i + n], results[i:i + n])[0] for i in range(0, len(texts), n)]


# ---------------------------------------------------------------------------------------------
# Where trust ends

def remarks(sql, result, schema, columns, question, read):
    """Lines about an answer that failed, or ran but may not mean what was asked.

    columns: {(table, column): stored texts} as ValueIndex reads them; read(query) -> Result."""
    notes = missing_name(result.error, sql, schema)
    if match := CHANGE.match(question.strip()):
        notes.append(f"nothing is changed here: \"{match[1]}\" was read as a question")
    try:
        raw = parse(sql)
        tree = resolve(raw, schema)
    except SQLError:
        return notes
    notes += text_for_column(raw, schema) + [note for part in walk(raw) for note in odd_part(part)]
    notes += first_row_only(raw, read)
    texts = partial(stored_texts, schema, dict(columns), read)
    compared = [(column, value, equal) for column, value, equal in comparisons(tree)
                if isinstance(column, Column) and column.table]
    # One row of counts of 0 and sums of nothing says as much as none.
    empty = len(result.rows) < 2 and all(c in (None, 0) for row in result.rows for c in row)
    for column, value, equal in compared:
        if isinstance(value, Literal):
            notes += type_note(column, value, texts(column), schema)
            if equal and empty and value.kind == "text":
                notes += absent_note(column, value, texts(column), read)
    for column, value, _ in compared if empty else ():
        if is_date(value) and are_dates(texts(column)):
            name = quote_name(column.name)
            found = read(f"SELECT MIN({name}), MAX({name}) FROM {quote_name(column.table)}")
            notes += [f"{column.name} goes from {low} to {high}" for low, high in found.rows]
    return list(dict.fromkeys(notes))


def missing_name(error, sql, schema):
    """What is probably meant by a name that no table has, or no column of the query's tables."""
    if not (match := re.match(r"no such (table|column): (?:.*\.)?(.+)", error)):
        return []
    names = [t.name for t in schema.tables] if match[1] == "table" else [
        c.name for t in schema.tables if t.name.lower() in sql.lower() for c in t.columns]
    meant = nearest(match[2], {name.lower(): name for name in names})
    return [f"there is no {match[1]} {match[2]}{meant}"] if meant else []


def odd_part(part):
    """What is hardly ever meant, whatever the data: = NULL, the text that a function gives against
    a number, whole numbers divided."""
    if not isinstance(part, Binary):
        return []
    sides, op = (part.left, part.right), part.op.upper()
    constants = [side for side in sides if isinstance(side, Literal)]
    calls = [side.name.lower() for side in sides if isinstance(side, Call)]
    if op in COMPARES - {"IS", "IS NOT"} and any(
            c.kind == "keyword" and c.value.upper() == "NULL" for c in constants):
        return [f"{op} NULL is never true: IS NULL finds rows without a value"]
    if op in COMPARES and any(c.kind == "number" for c in constants) and TEXT_CALLS & set(calls):
        return [f"{calls[0]}() gives text, and is compared with a number"]
    if op == "/" and all(map(is_whole, sides)):
        return ["whole numbers are divided, which cuts off the fraction: 100.0 * or 1.0 * keeps it"]
    return []


def first_row_only(raw, read):
    """Subqueries of several rows where SQLite compares with the first and leaves out the others."""
    queries = [to_sql(side.query) for part in walk(raw)
               if isinstance(part, Binary) and part.op.upper() in COMPARES
               for side in (part.left, part.right) if isinstance(side, Subquery)]
    return [f"({query}) returns several rows, and only the first is compared"
            for query in queries if len(read(query).rows) > 1]


def is_whole(node):
    """Whether a number is surely a whole one: counts, sums of conditions, and what is made of
    them."""
    if isinstance(node, Literal):
        return node.kind == "number" and node.value.isdigit()
    if isinstance(node, Call):
        return node.name.lower() == "count" or node.name.lower() == "sum" and is_whole(node.args[0])
    if isinstance(node, Case):
        values = [value for _, value in node.branches] + [node.default] * bool(node.default)
        return all(map(is_whole, values))
    return isinstance(node, Binary) and (node.op.upper() in COMPARES or node.op in "*/+-"
                                         and is_whole(node.left) and is_whole(node.right))


def stored_texts(schema, columns, read, column):
    """Texts of a column; those of views, which nobody has read before, are read now."""
    key, views = (column.table, column.name), {t.name for t in schema.tables if t.view}
    if key not in columns and column.table in views:
        name = quote_name(column.name)
        columns[key] = [text for text, in read(
            f"SELECT DISTINCT {name} FROM {quote_name(column.table)} "
            f"WHERE typeof({name}) = 'text' LIMIT 2000").rows]
    return columns.get(key, ())


def text_for_column(raw, schema):
    """Names in double quotes that no column has, where a column is wanted: SQLite reads text.
    Beside a column they are meant as text."""
    names = {c.name.lower(): c.name for t in schema.tables for c in t.columns}
    aliases = {getattr(part, "alias", None) for part in walk(raw)} - {None}
    known = names.keys() | {alias.lower() for alias in aliases}

    def columns(node, there):
        return [part for part in walk(node) if isinstance(part, Column)
                and there == (not part.quoted or part.name.lower() in known)]

    compared = {id(value) for side, value, _ in comparisons(raw) if columns(side, True)}
    return [f"\"{part.name}\" is no column: SQLite takes it for a text" + nearest(part.name, names)
            for part in columns(raw, False) if not part.qualifier and id(part) not in compared]


def nearest(name, names):
    """What was probably meant, among {lower case: name}."""
    def plain(key):
        return re.sub(r"\W|_|^tbl", "", key.lower())

    bare = {plain(key): value for key, value in names.items()}
    close = get_close_matches(plain(name), bare, 1, 0.7)
    return f"; {bare[close[0]]} is one" if close else ""


def comparisons(tree):
    """(node, value that it is compared with, whether by equality), both ways round."""
    for part in walk(tree):
        if isinstance(part, Binary) and part.op.upper() in COMPARES:
            yield part.left, part.right, part.op in ("=", "==")
            yield part.right, part.left, part.op in ("=", "==")
        elif isinstance(part, In) and isinstance(part.options, tuple):
            yield from ((part.operand, option, not part.negated) for option in part.options)
        elif isinstance(part, Between):
            yield from ((part.operand, end, False) for end in (part.low, part.high))


def type_note(column, literal, stored, schema):
    """Text compared with a number, where that cannot mean what it says."""
    types = {(t.name, c.name): c.type for t in schema.tables for c in t.columns}
    text = quote_text(literal.value)
    if literal.kind == "number" and stored and not any(map(NUMBER.fullmatch, stored)):
        held, other = f"text such as {quote_text(stored[0])}", f"the number {literal.value}"
    elif literal.kind != "text":
        return []
    elif types.get((column.table, column.name)) == "number" and not NUMBER.fullmatch(literal.value):
        held, other = "numbers", f"the text {text}"
    elif are_dates(stored) and is_date(literal) and not DATE_LIKE.match(literal.value):
        held, other = f"dates such as {quote_text(stored[0])}", text
    else:
        return []
    return [f"{column.name} holds {held}, and is compared with {other}"]


def are_dates(stored):
    return bool(stored) and all(map(DATE.match, stored[:100]))


def is_date(value):
    """Whether a date may be meant: '2024-05', or date('now')."""
    return isinstance(value, Call) or isinstance(value, Literal) and bool(
        value.kind == "text" and re.search(r"\d", value.value))


def absent_note(column, literal, stored, read):
    """A text that no row of the column has, and the nearest that one has."""
    name, value = quote_name(column.name), quote_text(literal.value)
    rows = f"SELECT {name} FROM {quote_name(column.table)} WHERE "
    found = read(f"{rows}{name} = {value} LIMIT 1")
    if not stored or found.status != "ok" or found.rows:
        return []
    if literal.value.lower() in ("", "null", "none"):
        return [f"no row has {column.name} = {value}; IS NULL finds rows without a value"]
    longer = read(f"{rows}substr({name}, 1, {len(literal.value)}) = {value} LIMIT 1").rows
    folded = {text.lower(): text for text in stored}
    near = [text for text, in longer] or [
        folded[key] for key in get_close_matches(literal.value.lower(), folded, 1, 0.6)]
    return [f"no row has {column.name} = {value}"
            + "".join(f"; {quote_text(text)} is there" for text in near)]
