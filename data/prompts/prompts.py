"""Prompts in both directions (section 3.1.2): one builder for training, sampling and asking."""

import math
import random
import re
from collections import Counter
from dataclasses import replace
from functools import cache

from data.prompts.schema_text import compact, ddl, gold_first, narrow, rank
from data.prompts.values import ValueIndex
from data.sql import Call, Case, Literal, Row, parse, quote_name, quote_text, rewrite, walk
from sqlexec import DataError

FORMS = {"compact": compact, "ddl": ddl}         # how a schema is written
# Around the schema for models that follow instructions.  What differs from prompt to prompt comes
# after it, so that all prompts of a database begin alike.
ROLE = "You are an expert in SQLite. This is the schema of a database:"
WRITE_SQL = "Answer with one SQLite query only."
WRITE_QUESTION = "Answer with the question that this query answers only."


def sql_prompt(schema, question, links, form=compact, chat=False, shots=()):
    """Asks for SQL.  links: (table, column, value) that the question seems to name; chat: as an
    instruction; shots: (question, SQL) pairs of other databases to open with."""
    tables = {table.name for table in schema.tables}
    values = ", ".join(f"{quote_name(t)}.{quote_name(c)} = {quote_text(v)}"
                       for t, c, v in links if t in tables)
    if chat:
        return ("".join(f"Question: {q}\n{WRITE_SQL}\n{sql}\n\n" for q, sql in shots)
                + f"{ROLE}\n\n{form(schema)}\n\n" + (f"-- Values: {values}\n" if values else "")
                + f"Question: {question}\n{WRITE_SQL}")
    return ("".join(f"question: {q}\nsql:\n{sql}\n\n" for q, sql in shots)
            + f"{form(schema)}\nquestion: {question}\n"
            + (f"values: {values}\n" if values else "") + "sql:\n")


def question_prompt(schema, query, form=compact, chat=False):
    """Asks for the question that a query answers (the SQL-to-Text direction)."""
    if chat:
        return f"{ROLE}\n\n{form(schema)}\n\nQuery: {query}\n{WRITE_QUESTION}"
    return f"{form(schema)}\nsql: {query}\nquestion:\n"


def is_question(text):
    """Whether a text may be a person's question: one line, not SQL nor prose about a query."""
    return bool(text) and not re.search(r"\n|`|\bselect\b.*\bfrom\b|\b(query|schema)\b", text, re.I)


def text_values(query):
    """The text literals that a query compares with, without the wildcards of LIKE; of a month, its
    year: people say May 2024.  What formats dates or names a bucket is none of them."""
    def compared(part):
        if isinstance(part, Case):
            return Row(rewrite(tuple([condition for condition, _ in part.branches]), compared))
        if isinstance(part, Call):
            return Row(rewrite(tuple([arg for arg in part.args if not isinstance(arg, Literal)]),
                               compared))
        return None

    return [re.sub(r"^(\d{4})-\d\d$", r"\1", part.value.strip("%"))
            for part in walk(rewrite(parse(query), compared))
            if isinstance(part, Literal) and part.kind == "text"]


class Prompts:
    """The prompts of Examples over one data folder, as token ids; for SQL, each is built once.

    form: compact, ddl, or auto: ddl where the checkpoint has a chat template; budget: characters of
    a schema; max_new: tokens to leave room for in the model's context; shots: Examples that open
    the prompts for SQL; values: how many of each text column are shown."""

    def __init__(self, data, tokenizer, form, budget, max_new, shots=(), values=0):
        self.data, self.tokenizer = data, tokenizer
        self.chat = tokenizer.template is not None
        self.form = FORMS[form] if form in FORMS else ddl if self.chat else compact
        self.budget, self.max_new = budget, max_new
        self.shots, self.values = [(e.question, e.target or e.query) for e in shots], values
        self.dropped = Counter()         # tables, columns and comments left out of prompts
        self.sql, self.schema, self.linker = map(cache, (self.sql, self.schema, self.linker))

    def sql(self, example, train=False):
        """Ids that ask for SQL.  Where the schema is too long, training keeps the gold's tables and
        random others, asking those that the question seems to mean."""
        schema = self.schema(example.db_id)
        question = example.question + (f" ({example.evidence})" if example.evidence else "")
        links = self.linker(example.db_id).link(question)
        ids, dropped = self.fitted(
            schema, lambda: gold_order(schema, example) if train else rank(schema, question, links),
            lambda part: sql_prompt(part, question, links, self.form, self.chat, self.shots))
        self.dropped += dropped
        return ids

    def question(self, example):
        """Ids that ask for the question of an example's SQL."""
        schema = self.schema(example.db_id)
        return self.fitted(schema, lambda: gold_order(schema, example), lambda part:
                           question_prompt(part, example.target or example.query, self.form,
                                           self.chat))[0]

    def schema(self, db_id):
        """A database's schema, with the first values of its text columns among the comments."""
        if not self.values:
            return self.data.schema(db_id)
        stored = self.linker(db_id).columns

        def with_values(table, column):
            values = stored.get((table.name, column.name), ())[:self.values]
            shown = "e.g. " * bool(values) + ", ".join(map(quote_text, values))
            return replace(column, comment="; ".join(filter(None, (column.comment, shown))))

        return self.data.schema(db_id).with_columns(with_values)

    def linker(self, db_id):
        """The ValueIndex of a database; says, once, what is left out of it and of the schema, and
        which keys were inferred."""
        path, schema = self.data.databases(db_id)[0], self.data.schema(db_id)
        index = ValueIndex(schema, path)
        index.link("")                                      # reads the values
        for note in (*schema.left_out, *index.skipped):
            print(f"{path}: left out: {note}")
        for line in schema.inferred:
            print(line)
        return index

    def fitted(self, schema, order, write):
        """(ids of write(part), Counter of what is left out) for the part of a schema that the
        budget and the model's context have room for.  DataError where one table is too long.

        order(): names of its tables, the most important first.  write(schema): the text."""
        part, dropped, budget = schema, Counter(), self.budget
        context = self.tokenizer.context or math.inf
        while True:
            if len(self.form(part)) > budget:
                part, dropped = narrow(schema, order(), budget, lambda s: len(self.form(s)))
            ids = self.tokenizer.prompt(write(part))
            if len(ids) + self.max_new <= context:
                return ids, dropped
            if budget < 16:
                raise DataError(f"{schema.db_id}: a prompt of {len(ids)} tokens, and --max_new "
                                f"{self.max_new} more, exceed the model's context of {context}")
            budget = min(budget, len(self.form(part))) * 3 // 4


def gold_order(schema, example):
    return gold_first(schema, example.query, random.Random(example.question + example.query))
