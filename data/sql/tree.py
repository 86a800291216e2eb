"""Reads, resolves and prints SQL queries (standard library only).

    parse(text) -> Query              tokens and precedence climbing, bounded in length and depth
    resolve(tree, schema) -> Query    every column bound to its table; prints in canonical form
    to_sql(tree) -> str               one line, single spaces, as few parentheses as needed
    canonical_sql(sql, schema) -> str the same query in canonical form
    keeps_meaning(sql, raw_rows, canonical_rows) -> bool     did it give the same rows?
    normalise(sql, schema) -> str     the text by which two spellings of one query compare equal

Canonical form: T1, T2, ... only where a SELECT reads several tables, names as the schema spells
them, text in single quotes, no ASC and no semicolon. It covers the SELECT statements of Spider and
BIRD (WITH and window functions included). An SQLError with its place for the rest: VALUES,
recursive WITH, window frames, FILTER, parenthesised joins, rowid, anything but one SELECT
statement, and names that SQLite might bind in another way once aliases are gone.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

MAX_LENGTH = 20_000                  # characters: no benchmark query comes near it
MAX_DEPTH = 50                       # nested expressions and queries: keeps us off Python's stack


class SQLError(ValueError):
    """A reason to count by, what exactly, and at which character (1-based) of the text."""

    def __init__(self, reason, at, detail=""):
        super().__init__(f"{reason} {detail}".rstrip() + f" at character {at + 1}")
        self.reason, self.at = reason, at + 1


# ---------------------------------------------------------------------------------------------
# The tree

class Node:
    __slots__ = ()


def node(cls):
    return dataclass(frozen=True)(cls)


@node
class Column(Node):
    name: str
    qualifier: str | None = None
    quoted: bool = False             # in double quotes: SQLite reads it as text if no column fits
    table: str | None = None         # after resolve: the schema's table (None: a derived table)
    source: int | None = None        # after resolve: which FROM entry of the whole statement
    at: int = field(default=0, compare=False, repr=False)

@node
class Star(Node):
    qualifier: str | None = None
    source: int | None = None
    at: int = field(default=0, compare=False, repr=False)

@node
class Literal(Node):
    kind: str                        # text, number, blob or keyword (NULL, TRUE, CURRENT_DATE, ...)
    value: str

@node
class Call(Node):
    name: str
    args: tuple
    distinct: bool = False

@node
class Window(Node):
    call: Call
    partition: tuple
    order: tuple                     # of Order

@node
class Unary(Node):
    op: str                          # NOT - + ~
    operand: Node

@node
class Binary(Node):
    op: str
    left: Node
    right: Node

@node
class Logic(Node):
    op: str                          # AND, OR
    operands: tuple                  # flat, so that a long chain is not a deep tree

@node
class Between(Node):
    operand: Node
    low: Node
    high: Node
    negated: bool = False

@node
class In(Node):
    operand: Node
    options: object                  # Query, or a tuple of expressions
    negated: bool = False

@node
class Exists(Node):
    query: Node

@node
class Subquery(Node):
    query: Node

@node
class Row(Node):
    items: tuple

@node
class Case(Node):
    base: Node | None
    branches: tuple                  # of (condition, value)
    default: Node | None

@node
class Cast(Node):
    operand: Node
    type: str

@node
class Item(Node):
    expression: Node
    alias: str | None = None

@node
class Source(Node):
    table: object                    # a name, or a Query
    alias: str | None = None
    join: str = ""                   # "" for the first; ",", "JOIN", "LEFT JOIN", ...
    on: Node | None = None
    using: tuple = ()
    number: int | None = None        # after resolve: what Column.source refers to
    at: int = field(default=0, compare=False, repr=False)

@node
class Order(Node):
    expression: Node
    descending: bool = False
    nulls: str = ""                  # FIRST, LAST

@node
class Select(Node):
    items: tuple
    distinct: bool = False
    sources: tuple = ()
    where: Node | None = None
    group: tuple = ()
    having: Node | None = None

@node
class With(Node):
    name: str
    columns: tuple
    query: Node

@node
class Query(Node):
    arms: tuple                      # of Select
    ops: tuple = ()                  # len(arms) - 1 set operators
    order: tuple = ()
    limit: Node | None = None
    offset: Node | None = None
    ctes: tuple = ()                 # of With


_FIELDS = {cls: tuple(f.name for f in fields(cls)) for cls in Node.__subclasses__()}


def walk(tree):
    """Every node of a tree, parents first, in reading order."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from walk(part)
    elif isinstance(tree, Node):
        yield tree
        for name in _FIELDS[type(tree)]:
            yield from walk(getattr(tree, name))


def rewrite(tree, change):
    """The tree with change(node) in place of each node; None means: go on into its parts."""
    if isinstance(tree, tuple):
        return tuple([rewrite(part, change) for part in tree])
    if not isinstance(tree, Node):
        return tree
    new = change(tree)
    if new is not None:
        return new
    return type(tree)(*[rewrite(getattr(tree, name), change) for name in _FIELDS[type(tree)]])


# ---------------------------------------------------------------------------------------------
# Tokens

# Words that SQLite does not take as a bare name (its other keywords fall back to names).
RESERVED = frozenset("""
    ADD ALL ALTER AND AS AUTOINCREMENT BETWEEN CASE CHECK COLLATE COMMIT CONSTRAINT CREATE CROSS
    DEFAULT DEFERRABLE DELETE DISTINCT DROP ELSE ESCAPE EXCEPT EXISTS FOREIGN FROM FULL GROUP
    HAVING IN INDEX INDEXED INNER INSERT INTERSECT INTO IS ISNULL JOIN LEFT LIMIT NATURAL NOT
    NOTHING NOTNULL NULL ON OR ORDER OUTER PRIMARY REFERENCES RETURNING RIGHT SELECT SET TABLE
    THEN TO TRANSACTION UNION UNIQUE UPDATE USING VALUES WHEN WHERE
""".split())

_TOKEN = re.compile(r"""
  (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
| (?P<blob>x'(?:[0-9a-f]{2})*')
| (?P<text>'(?:[^']|'')*')
| (?P<double>"(?:[^"]|"")*")
| (?P<name>`(?:[^`]|``)*`|\[[^\]]*\])
| (?P<number>(?:0x[0-9a-f]+|(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)(?![\w.]))
| (?P<word>[^\W\d][\w$]*)
| (?P<op>[<>!]\s=|\|\||<>|[!<>=]=|<<|>>|->>?|[-+*/%=<>(),.;&|~])
""", re.VERBOSE | re.DOTALL | re.IGNORECASE)


class Token(NamedTuple):
    kind: str                        # blob text double name number word op end
    value: str                       # without its quotes
    at: int
    upper: str                       # what accept() sees: words and operators in upper case


def tokenise(text):
    """The tokens of a text, an "end" token last. SQLError for what is not SQL or too long."""
    if len(text) > MAX_LENGTH:
        raise SQLError("query too long", MAX_LENGTH)
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            reason = "bind parameter" if text[at] in "?:@#$" else "no SQL token"
            raise SQLError(reason, at, repr(text[at:at + 10]))
        kind, value = match.lastgroup, match.group()
        if "\0" in value:
            raise SQLError("NUL character", at)
        if kind in ("text", "double", "name"):
            quote = value[-1]
            value = value[1:-1].replace(quote * 2, quote) if quote != "]" else value[1:-1]
        if kind != "space":
            upper = re.sub(r"\s", "", value).upper() if kind in ("word", "op") else ""
            tokens.append(Token(kind, value, at, upper))
        at = match.end()
    return tokens + [Token("end", "end of query", len(text), "")]


# ---------------------------------------------------------------------------------------------
# Parser

_LEVELS = ("OR", "AND", "NOT",
           "= != IS LIKE GLOB REGEXP MATCH IN BETWEEN", "< <= > >=", "ESCAPE", "& | << >>",
           "+ -", "* / %", "||", "COLLATE", "unary")
_PRECEDENCE = {op: level for level, ops in enumerate(_LEVELS) for op in ops.split()}
_EQUALITY, _UNARY, _ATOM = _PRECEDENCE["="], _PRECEDENCE["unary"], len(_LEVELS)
_SPELLING = {"==": "=", "<>": "!=", "ISNULL": "IS", "NOTNULL": "IS"}
_KEYWORDS = ("NULL", "TRUE", "FALSE", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP")
_NEGATABLE = ("IN", "BETWEEN", "LIKE", "GLOB", "REGEXP", "MATCH", "NULL")


class _Parser:
    def __init__(self, text):
        self.tokens, self.next, self.depth, self.chained = tokenise(text), 0, 0, 0

    # -- tokens

    @property
    def token(self):
        return self.tokens[self.next]

    def ahead(self, *words):
        """Do these words come next?"""
        found = self.tokens[self.next:self.next + len(words)]
        return [token.upper for token in found] == list(words)

    def accept(self, *words):
        """Takes these words if they come next."""
        if self.ahead(*words):
            self.next += len(words)
            return True
        return False

    def expect(self, word):
        if not self.accept(word):
            self.fail(f"expected {word}")

    def fail(self, reason):
        raise SQLError(reason, self.token.at, f"(here is {self.token.value!r})")

    def take(self):
        self.next += 1
        return self.tokens[self.next - 1]

    def deeper(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("nested too deep")

    def named(self):
        """Can the next token be a name?"""
        token = self.token
        return token.kind in ("double", "name") or (
            token.kind == "word" and token.upper not in RESERVED)

    def name(self):
        if not self.named() or not self.token.value:
            self.fail("name in single quotes" if self.token.kind == "text" else "expected a name")
        return self.take().value

    def alias(self):
        """[AS] name, or None. SQLite takes a name in single quotes here, too."""
        told = self.accept("AS")
        if self.token.kind == "text" and self.token.value:
            return self.take().value
        return self.name() if told or self.named() else None

    def several(self, read):
        parts = [read()]
        while self.accept(","):
            parts.append(read())
        return tuple(parts)

    # -- queries

    def statement(self):
        query = self.query()
        while self.accept(";"):
            pass
        if self.token.kind != "end":
            self.fail("expected the end")
        return query

    def query(self):
        self.deeper()
        ctes = self.several(self.cte) if self.accept("WITH") else ()
        arms, ops = [self.select()], []
        while self.token.upper in ("UNION", "INTERSECT", "EXCEPT"):
            op = self.take().upper
            ops.append("UNION ALL" if op == "UNION" and self.accept("ALL") else op)
            arms.append(self.select())
        order = self.several(self.order) if self.accept("ORDER", "BY") else ()
        limit = offset = None
        if self.accept("LIMIT"):
            limit = self.expression()
            if self.accept("OFFSET"):
                offset = self.expression()
            elif self.accept(","):                   # LIMIT offset, count
                offset, limit = limit, self.expression()
        self.depth -= 1
        return Query(tuple(arms), tuple(ops), order, limit, offset, ctes)

    def cte(self):
        if self.ahead("RECURSIVE"):
            self.fail("recursive WITH")
        name, columns = self.name(), ()
        if self.accept("("):
            columns = self.several(self.name)
            self.expect(")")
        self.expect("AS")
        return With(name, columns, self.enclosed())

    def enclosed(self):
        self.expect("(")
        query = self.query()
        self.expect(")")
        return query

    def select(self):
        if self.ahead("VALUES"):
            self.fail("VALUES")
        self.expect("SELECT")
        distinct = self.accept("DISTINCT")
        self.accept("ALL")
        items = self.several(self.item)
        sources = self.sources() if self.accept("FROM") else ()
        where = self.expression() if self.accept("WHERE") else None
        group = self.several(self.expression) if self.accept("GROUP", "BY") else ()
        having = self.expression() if self.accept("HAVING") else None
        return Select(items, distinct, sources, where, group, having)

    def item(self):
        at = self.token.at
        if self.accept("*"):
            return Item(Star(at=at))
        following = self.tokens[self.next + 1:self.next + 3]
        if self.named() and [token.upper for token in following] == [".", "*"]:
            star = Star(self.name(), at=at)
            self.next += 2
            return Item(star)
        return Item(self.expression(), self.alias())

    def sources(self):
        found = [self.source("")]
        while join := self.join_word():
            found.append(self.source(join))
        return tuple(found)

    def join_word(self):
        if self.accept(","):
            return ","
        start, words = self.next, []
        if self.accept("NATURAL"):
            words.append("NATURAL")
        if self.token.upper in ("LEFT", "RIGHT", "FULL", "CROSS"):
            words.append(self.take().upper)
            self.accept("OUTER")
        else:
            self.accept("INNER")
        if self.next == start and not self.ahead("JOIN"):
            return None
        self.expect("JOIN")
        return " ".join(words + ["JOIN"])

    def source(self, join):
        at = self.token.at
        if self.ahead("(") and self.tokens[self.next + 1].upper not in ("SELECT", "WITH", "VALUES"):
            self.fail("parenthesised join")
        table = self.enclosed() if self.ahead("(") else self.name()
        if self.ahead("(") or self.ahead("."):
            self.fail("schema-qualified name" if self.ahead(".") else "table-valued function")
        alias, on, using = self.alias(), None, ()
        if self.ahead("INDEXED") or self.ahead("NOT", "INDEXED"):
            self.fail("INDEXED BY")
        if self.accept("ON"):
            on = self.expression()
        elif self.accept("USING"):
            self.expect("(")
            using = self.several(self.name)
            self.expect(")")
        return Source(table, alias, join, on, using, at=at)

    def order(self):
        expression = self.expression()
        descending = self.accept("DESC")
        self.accept("ASC")
        nulls = ""
        if self.accept("NULLS"):
            if not self.ahead("FIRST") and not self.ahead("LAST"):
                self.fail("expected FIRST or LAST")
            nulls = self.take().upper
        return Order(expression, descending, nulls)

    # -- expressions

    def expression(self, minimum=0):
        """Precedence climbing: an operand, then every operator that binds at least so tightly."""
        self.deeper()
        left, turns = self.prefix(), 0
        while (op := self.operator()) and _PRECEDENCE[op] >= minimum:
            self.chained += turns > 0 and op not in ("AND", "OR")
            if self.chained > MAX_DEPTH:             # a + b + c ... is a tree as deep as it is long
                self.fail("too many chained operators")
            left, turns = self.infix(left, op), turns + 1
        self.depth -= 1
        return left

    def operator(self):
        """The operator that comes next, without taking it; NOT belongs to the word after it."""
        word = self.token.upper
        if word == "NOT" and self.tokens[self.next + 1].upper in _NEGATABLE:
            word = self.tokens[self.next + 1].upper
            return "IS" if word == "NULL" else word
        if word in ("->", "->>"):
            self.fail("JSON arrow")
        word = _SPELLING.get(word, word)
        return word if word in _PRECEDENCE and word != "NOT" else None

    def infix(self, left, op):
        negated = self.accept("NOT")
        word = self.take().upper
        if word in ("ISNULL", "NOTNULL", "NULL"):
            return Binary("IS" if word == "ISNULL" else "IS NOT", left, Literal("keyword", "NULL"))
        if op == "IN":
            return In(left, self.options(), negated)
        if op == "BETWEEN":
            low = self.expression(_EQUALITY + 1)
            self.expect("AND")
            return Between(left, low, self.expression(_EQUALITY + 1), negated)
        if op == "IS" and self.accept("NOT"):
            op, tight = "IS NOT", _EQUALITY + 1
        else:
            tight = _PRECEDENCE[op] + 1
        if self.accept("DISTINCT", "FROM"):          # SQLite's own reading of it
            op = {"IS": "IS NOT", "IS NOT": "IS"}.get(op) or self.fail("expected IS")
        right = Literal("keyword", self.name()) if op == "COLLATE" else self.expression(tight)
        if op in ("AND", "OR"):
            same = [part.operands if isinstance(part, Logic) and part.op == op else (part,)
                    for part in (left, right)]
            return Logic(op, same[0] + same[1])
        return Binary("NOT " + op if negated else op, left, right)

    def options(self):
        if self.named():
            self.fail("IN a table")
        self.expect("(")
        if self.ahead("SELECT") or self.ahead("WITH"):
            options = self.query()
        else:
            options = () if self.ahead(")") else self.several(self.expression)
        self.expect(")")
        return options

    def prefix(self):
        if self.accept("NOT"):
            return Unary("NOT", self.expression(_PRECEDENCE["NOT"]))
        if self.token.upper not in ("-", "+", "~"):
            return self.primary()
        op, operand = self.take().upper, self.expression(_UNARY)
        if op == "-" and isinstance(operand, Literal) and operand.kind == "number":
            if not operand.value.startswith("-"):
                return Literal("number", "-" + operand.value)
        return Unary(op, operand)

    def primary(self):
        token = self.token
        if token.kind in ("text", "number", "blob"):
            self.next += 1
            return Literal(token.kind, token.value)
        if self.accept("("):
            return self.bracketed()
        if self.accept("CASE"):
            return self.case()
        if self.accept("EXISTS"):
            return Exists(self.enclosed())
        following = self.tokens[min(self.next + 1, len(self.tokens) - 1)].upper
        if token.kind == "word" and following == "(" and token.upper not in RESERVED:
            return self.call()
        if token.upper in _KEYWORDS and following != ".":
            self.next += 1
            return Literal("keyword", token.upper)
        return self.column()

    def bracketed(self):
        if self.ahead("SELECT") or self.ahead("WITH"):
            inner = Subquery(self.query())
        else:
            items = self.several(self.expression)
            inner = items[0] if len(items) == 1 else Row(items)
        self.expect(")")
        return inner

    def case(self):
        base = None if self.ahead("WHEN") else self.expression()
        branches = []
        while self.accept("WHEN"):
            condition = self.expression()
            self.expect("THEN")
            branches.append((condition, self.expression()))
        default = self.expression() if self.accept("ELSE") else None
        self.expect("END")
        if not branches:
            self.fail("CASE without WHEN")
        return Case(base, tuple(branches), default)

    def call(self):
        name, at = self.take().upper, self.take().at
        if name == "CAST":
            return self.cast()
        distinct = self.accept("DISTINCT")
        if self.accept("*"):
            args = (Star(at=at + 1),)
        else:
            args = () if self.ahead(")") else self.several(self.expression)
        self.expect(")")
        if self.ahead("FILTER", "("):
            self.fail("FILTER")
        call = Call(name, args, distinct)
        return self.window(call) if self.accept("OVER") else call

    def cast(self):
        operand = self.expression()
        self.expect("AS")
        words = [self.name().upper()]
        while self.named():
            words.append(self.name().upper())
        if self.accept("("):                         # VARCHAR(20), DECIMAL(10, 2)
            sizes = self.several(self.expression)
            words[-1] += f"({', '.join(map(to_sql, sizes))})"
            self.expect(")")
        self.expect(")")
        return Cast(operand, " ".join(words))

    def window(self, call):
        if not self.accept("(") or self.named() and not self.ahead("PARTITION"):
            self.fail("window by name" if self.named() else "expected (")
        partition = self.several(self.expression) if self.accept("PARTITION", "BY") else ()
        order = self.several(self.order) if self.accept("ORDER", "BY") else ()
        if self.token.upper in ("ROWS", "RANGE", "GROUPS"):
            self.fail("window frame")
        self.expect(")")
        return Window(call, partition, order)

    def column(self):
        token = self.token
        if token.kind == "double" and not token.value:               # "" is the empty text
            return Literal("text", self.take().value)
        name = self.name()
        if self.accept("."):
            quoted = self.token.kind == "double"
            return Column(self.name(), name, quoted, at=token.at)
        return Column(name, None, token.kind == "double", at=token.at)


def parse(text):
    """The tree of one SELECT statement. SQLError (with its place) for anything else."""
    return _Parser(text).statement()


# ---------------------------------------------------------------------------------------------
# Printer

# A name between NULs is a template's slot: no SQL text can hold one (see templates.py).
_PLAIN = re.compile(r"[^\W\d]\w*|\0\w+\0")
# SQLite would take most of the second half bare, but a reader should not have to know which.
_QUOTED = RESERVED.union(_KEYWORDS, """
    ABORT ACTION AFTER ANY ASC ATTACH BEFORE BEGIN BY CAST COLUMN CURRENT DESC DETACH DO EACH END
    EXPLAIN FAIL FILTER FOR GLOB IF KEY LIKE MATCH NO OF OFFSET OVER PLAN PRAGMA QUERY RAISE
    RECURSIVE REGEXP RELEASE RENAME REPLACE RESTRICT ROLLBACK ROW TEMP TRIGGER VIEW WINDOW WITH
    WITHOUT
""".split())


def plain(name):
    """Can the name stand without quotes?"""
    return bool(_PLAIN.fullmatch(name)) and name.upper() not in _QUOTED


def quote_name(name, quoted=False):
    return '"' + name.replace('"', '""') + '"' if quoted or not plain(name) else name


def quote_text(value):
    return "'" + value.replace("'", "''") + "'"


def literal(value):
    """A string or number of Python as SQL."""
    return quote_text(value) if isinstance(value, str) else str(value)


def _level(tree):
    """How tightly a node binds; what binds less than its place asks for goes into parentheses."""
    match tree:
        case Binary(op=op) | Logic(op=op):
            op = "IS" if op == "IS NOT" else op.removeprefix("NOT ")
            return _PRECEDENCE[op]
        case Between() | In():
            return _EQUALITY
        case Unary(op=op):
            return _PRECEDENCE["NOT"] if op == "NOT" else _UNARY
    return _ATOM


def _inside(tree, level):
    text = to_sql(tree)
    return text if _level(tree) >= level else f"({text})"


def _list(parts):
    return ", ".join([to_sql(part) for part in parts])


def to_sql(tree):
    """Any node as text. Parsing the text of a query gives the same tree again."""
    match tree:
        case Column(name, qualifier, quoted):
            if not quoted and not plain(name):       # double quotes would make it text, perhaps
                name = "`" + name.replace("`", "``") + "`"
            else:
                name = quote_name(name, quoted)
            return f"{quote_name(qualifier)}.{name}" if qualifier else name
        case Star(qualifier):
            return f"{quote_name(qualifier)}.*" if qualifier else "*"
        case Literal(kind, value):
            return quote_text(value) if kind == "text" else value
        case Call(name, args, distinct):
            return f"{name}({'DISTINCT ' if distinct else ''}{_list(args)})"
        case Subquery(query):
            return f"({to_sql(query)})"
        case Exists(query):
            return f"EXISTS ({to_sql(query)})"
        case Row(items):
            return f"({_list(items)})"
        case Cast(operand, kind):
            return f"CAST({to_sql(operand)} AS {kind})"
        case Item(expression, alias):
            return to_sql(expression) + (f" AS {quote_name(alias)}" if alias else "")
        case Order(expression, descending, nulls):
            return (to_sql(expression) + (" DESC" if descending else "")
                    + (f" NULLS {nulls}" if nulls else ""))
        case Case() | Window():
            return _print_case(tree) if isinstance(tree, Case) else _print_window(tree)
        case With(name, columns, query):
            listed = f" ({', '.join(map(quote_name, columns))})" if columns else ""
            return f"{quote_name(name)}{listed} AS ({to_sql(query)})"
        case Select():
            return _print_select(tree)
        case Source():
            return _print_source(tree)
        case Query():
            return _print_query(tree)
    return _print_operator(tree)


def _print_operator(tree):
    level = _level(tree)
    match tree:
        case Unary("NOT", operand):
            return f"NOT {_inside(operand, level)}"
        case Unary(op, operand):
            text = _inside(operand, level)
            return op + (" " if text.startswith("-") else "") + text     # -- opens a comment
        case Binary(op, left, right):
            return f"{_inside(left, level)} {op} {_inside(right, level + 1)}"
        case Logic(op, operands):
            return f" {op} ".join([_inside(part, level + 1) for part in operands])
        case Between(operand, low, high, negated):
            return (f"{_inside(operand, level)} {'NOT ' if negated else ''}BETWEEN "
                    f"{_inside(low, level + 1)} AND {_inside(high, level + 1)}")
        case In(operand, options, negated):
            inner = to_sql(options) if isinstance(options, Query) else _list(options)
            return f"{_inside(operand, level)} {'NOT ' if negated else ''}IN ({inner})"
    raise TypeError(f"not a part of a query: {tree!r}")


def _print_case(tree):
    parts = ["CASE"] + ([to_sql(tree.base)] if tree.base else [])
    for condition, value in tree.branches:
        parts.append(f"WHEN {to_sql(condition)} THEN {to_sql(value)}")
    if tree.default:
        parts.append(f"ELSE {to_sql(tree.default)}")
    return " ".join(parts + ["END"])


def _print_window(tree):
    parts = [f"PARTITION BY {_list(tree.partition)}"] if tree.partition else []
    parts += [f"ORDER BY {_list(tree.order)}"] if tree.order else []
    return f"{to_sql(tree.call)} OVER ({' '.join(parts)})"


def _print_source(tree):
    text = f"({to_sql(tree.table)})" if isinstance(tree.table, Query) else quote_name(tree.table)
    if tree.alias:
        text += f" AS {quote_name(tree.alias)}"
    if tree.on:
        text += f" ON {to_sql(tree.on)}"
    elif tree.using:
        text += f" USING ({', '.join(map(quote_name, tree.using))})"
    separator = {"": "", ",": ", "}.get(tree.join, f" {tree.join} ")
    return separator + text


def _print_select(tree):
    text = "SELECT " + ("DISTINCT " if tree.distinct else "") + _list(tree.items)
    if tree.sources:
        text += " FROM " + "".join([to_sql(source) for source in tree.sources])
    if tree.where:
        text += f" WHERE {to_sql(tree.where)}"
    if tree.group:
        text += f" GROUP BY {_list(tree.group)}"
    if tree.having:
        text += f" HAVING {to_sql(tree.having)}"
    return text


def _print_query(tree):
    text = f"WITH {_list(tree.ctes)} " if tree.ctes else ""
    text += to_sql(tree.arms[0])
    for op, arm in zip(tree.ops, tree.arms[1:]):
        text += f" {op} {to_sql(arm)}"
    if tree.order:
        text += f" ORDER BY {_list(tree.order)}"
    if tree.limit:
        text += f" LIMIT {to_sql(tree.limit)}"
    if tree.offset:
        text += f" OFFSET {to_sql(tree.offset)}"
    return text


# ---------------------------------------------------------------------------------------------
# Resolver

class _Scope:
    """What one SELECT sees: its sources, its item aliases, and the SELECT around it."""

    def __init__(self, parent, names):
        self.parent, self.sources, self.aliases, self.merged = parent, [], {}, set()
        self.names = names           # of all its item aliases, folded
        self.unnamed = False         # reads columns that are called as SQLite likes
        self.correlated = False      # reads a source of a SELECT around it
        self.referenced = False      # is read by a SELECT inside it
        self.alike = False           # reads a table that is called like our aliases
        self.outer = False           # has a RIGHT or FULL JOIN

    def first_alias(self):
        """Number of the first T alias: above the outer ones only where both are in use here."""
        return 1 + (self.parent.last_alias() if self.correlated else 0)

    def last_alias(self):
        return self.first_alias() + len(self.sources) - 1

    def alias(self, position):
        several = len(self.sources) > 1 or self.referenced or self.correlated and self.alike
        return f"T{self.first_alias() + position}" if several else None


class _Bound(NamedTuple):
    number: int                      # of the source in the whole statement
    name: str                        # folded: what a qualifier must say
    table: str | None
    columns: dict                    # folded name -> name as spelled


class _Resolver:
    def __init__(self, schema):
        self.tables = {fold(table.name): (table.name, [c.name for c in table.columns])
                       for table in schema.tables}
        self.numbers = {(table.name, c.name) for table in schema.tables for c in table.columns
                        if c.type == "number"}
        self.ctes = {}               # folded name -> (name, columns, query); None: not yet read
        self.homes = []              # source number -> (its scope, position there)

    def query(self, query, parent, derived=False):
        """Resolves one query inside a scope. A derived table keeps its item aliases."""
        outer = self.ctes
        self.ctes = {**outer, **{fold(cte.name): None for cte in query.ctes}}
        for cte in query.ctes:
            start, inner = len(self.homes), self.query(cte.query, parent, derived=True)
            if any(isinstance(part, Column) and part.source is not None and part.source < start
                   for part in walk(inner)):         # bound anew wherever it is used
                raise SQLError("WITH that reads a SELECT around it", 0)
            columns = cte.columns or self.outputs(inner)
            self.ctes = {**self.ctes, fold(cte.name): (cte.name, columns, inner)}
        ctes = tuple([replace(cte, query=self.ctes[fold(cte.name)][2]) for cte in query.ctes])
        arms, scopes = zip(*[self.select(arm, parent, derived) for arm in query.arms])
        first = scopes[0]
        order = tuple([replace(term, expression=self.ordered(term.expression, first))
                       for term in query.order])
        for term in order:
            self.check_order(term.expression, first, arms, derived)
        limit, offset = [self.expression(part, first) if part else None
                         for part in (query.limit, query.offset)]
        self.ctes = outer
        return Query(arms, query.ops, order, limit, offset, ctes)

    def select(self, select, parent, derived):
        names = [fold(item.alias or "") for item in select.items]
        scope = _Scope(parent, set(names) - {""})
        sources = [self.source(source, scope) for source in select.sources]
        sources = _spread([replace(source, on=self.ordered_sides(self.expression(source.on, scope)))
                           for source in sources])
        items = tuple([self.item(item, scope, derived) for item in select.items])
        scope.aliases = {name: item.expression
                         for name, item in reversed(list(zip(names, items))) if name}
        where, group, having = [self.expression(part, scope)
                                for part in (select.where, select.group, select.having)]
        for old, new in zip(select.group, group):
            self.check_term(old, new, scope)
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
            name, columns = None, self.outputs(table)
        else:
            key = fold(source.table)
            found = self.ctes[key] if key in self.ctes else self.tables.get(key)
            if not found:
                reason = "recursive or later WITH" if key in self.ctes else "unknown table"
                raise SQLError(reason, source.at, repr(source.table))
            table, columns = found[0], found[1]
            name = None if key in self.ctes else table
            scope.alike |= bool(re.fullmatch(r"t\d+", key))
        listed, columns = columns, _folded(columns)
        scope.unnamed |= len(columns) < len(listed)
        if source.join.startswith("NATURAL") or source.using:
            shared = [fold(c) for c in source.using] or list(columns)
            scope.merged.update(shared)
        scope.outer |= "RIGHT" in source.join or "FULL" in source.join
        number = len(self.homes)
        self.homes.append((scope, len(scope.sources)))
        called = source.alias or (source.table if isinstance(source.table, str) else "")
        scope.sources.append(_Bound(number, fold(called), name, columns))
        return replace(source, table=table, number=number)

    def outputs(self, query):
        """Names of the columns that a resolved query gives ("" where it has none to refer to)."""
        names = []
        for item in query.arms[0].items:
            if isinstance(item.expression, Star):
                for source in query.arms[0].sources:
                    if item.expression.source in (None, source.number):
                        scope, position = self.homes[source.number]
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
                return self.column(part, scope)
            if isinstance(part, Star) and part.qualifier:
                return self.star(part, scope)
            if part in (Literal("keyword", "TRUE"), Literal("keyword", "FALSE")):
                self.check_keyword(fold(part.value), scope)
        return rewrite(tree, bind)

    def ordered(self, tree, scope):
        """An ORDER BY term: a name means the item of that alias before any column."""
        term = _uncollated(tree)
        named = isinstance(term, Column) and not term.qualifier
        new = scope.aliases.get(fold(term.name)) if named else None
        if new:
            new = rewrite(tree, lambda part: new if part is term else None)
        else:
            new = self.expression(tree, scope)
        self.check_term(tree, new, scope)
        return new

    def check_term(self, old, new, scope):
        """A term of ORDER BY or GROUP BY must not become a number or a column from outside."""
        old, bare = _uncollated(old), _uncollated(new)
        while isinstance(bare, Unary):
            old, bare = getattr(old, "operand", old), _uncollated(bare.operand)
        if isinstance(bare, Literal) and bare.kind == "number" and not isinstance(old, Literal):
            raise SQLError("alias of a constant", getattr(old, "at", 0))
        outside, above = [], scope.parent
        while above:
            outside += [bound.number for bound in above.sources]
            above = above.parent
        if any(isinstance(part, Column) and part.source in outside for part in walk(new)):
            raise SQLError("sorted or grouped by a column from outside", 0)

    def check_order(self, tree, scope, arms, derived):
        """Would SQLite take a resolved ORDER BY term for an item that was not meant?"""
        term, items = _uncollated(tree), [item.expression for item in arms[0].items]
        if derived and isinstance(term, Column):     # here the aliases stay
            if scope.aliases.get(fold(term.name), term) != term:
                raise SQLError("alias that hides a column", term.at)
        if len(arms) == 1 or isinstance(term, Literal) and term.kind == "number":
            return
        stars = {item.source for item in items if isinstance(item, Star)}
        if isinstance(term, Column) and not stars.isdisjoint((None, term.source)):
            return
        nested = any(isinstance(part, (Query, Literal)) for part in walk(term))
        if nested or items.count(term) != 1:         # SQLite compares the terms with the items
            raise SQLError("compound not sorted by one column of its first arm", 0)

    def check_keyword(self, key, scope):
        while scope:
            if key in scope.names or any(key in bound.columns for bound in scope.sources):
                raise SQLError("column called TRUE or FALSE", 0)
            scope = scope.parent

    def ordered_sides(self, on):
        """ON conditions with the earlier table on the left: one spelling for one join.

        Numbers only: = compares text by the collation of its left side.
        """
        def swap(part):
            if isinstance(part, Binary) and part.op == "=":
                left, right = part.left, part.right
                numbers = all([isinstance(side, Column) and (side.table, side.name) in self.numbers
                               for side in (left, right)])
                if numbers and left.source > right.source:
                    return Binary("=", right, left)
        return rewrite(on, swap)

    def star(self, star, scope):
        found = [bound for bound in scope.sources if bound.name == fold(star.qualifier)]
        if len(found) != 1:
            raise SQLError("ambiguous table" if found else "unknown table", star.at,
                           repr(star.qualifier))
        return Star(None, found[0].number)

    def column(self, column, scope):
        """Binds a column in the nearest scope that has it; marks the scopes it is seen through."""
        crossed, key = [], fold(column.name)
        while scope:
            found = [bound for bound in scope.sources if key in bound.columns
                     and (column.qualifier is None or bound.name == fold(column.qualifier))]
            if len(found) > 1 and key not in scope.merged:
                raise SQLError("ambiguous column", column.at, repr(column.name))
            if len(found) > 1 and scope.outer:       # the first that is not NULL
                raise SQLError("RIGHT or FULL JOIN by equal names", column.at)
            if found:
                return self.bound(column, found[0], scope, crossed)
            if key in ("rowid", "oid", "_rowid_") and scope.sources:
                raise SQLError("rowid", column.at)
            if column.qualifier is None and key in scope.names:
                if crossed or not scope.aliases:
                    raise SQLError("alias inside a sub-query, an ON or an item", column.at)
                return scope.aliases[key]
            if column.quoted and scope.unnamed:
                raise SQLError("column named by its expression, or text", column.at)
            crossed, scope = crossed + [scope], scope.parent
        if column.quoted and column.qualifier is None:
            return Literal("text", column.name)
        raise SQLError("unknown column", column.at, repr(to_sql(column)))

    def bound(self, column, source, scope, crossed):
        for inner in crossed:
            inner.correlated = scope.referenced = True
        name = source.columns[fold(column.name)]
        return Column(name, None, not plain(name), source.table, source.number, column.at)

    def aliased(self, tree):
        """Writes the T aliases, once it is known which scopes are read from inside."""
        aliases = [scope.alias(position) for scope, position in self.homes]

        def write(part):
            if isinstance(part, Column) and part.source is not None:
                return replace(part, qualifier=aliases[part.source])
            if isinstance(part, Star) and part.source is not None:
                return replace(part, qualifier=aliases[part.source])
            if isinstance(part, Source) and part.alias != aliases[part.number]:
                return rewrite(replace(part, alias=aliases[part.number]), write)
        return rewrite(tree, write)


def fold(name):
    """A name as SQLite compares it: only ASCII letters have two cases."""
    return name.lower() if name.isascii() else re.sub("[A-Z]", lambda m: m[0].lower(), name)


def _folded(names):
    return {fold(name): name for name in names if name}


def _uncollated(term):
    while isinstance(term, Binary) and term.op == "COLLATE":
        term = term.left
    return term


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


def conjuncts(condition):
    """The conditions that AND ties together; none for None."""
    if isinstance(condition, Logic) and condition.op == "AND":
        return condition.operands
    return (condition,) if condition else ()


def conjunction(conditions):
    """The inverse of conjuncts."""
    if len(conditions) > 1:
        return Logic("AND", tuple(conditions))
    return conditions[0] if conditions else None


def resolve(tree, schema):
    """The tree with every column bound to (table, source) and canonical aliases.

    Names are looked up in the inner scope first; a name in double quotes that no scope knows is
    text, as in SQLite. SQLError for an unknown or ambiguous name.
    """
    resolver = _Resolver(schema)
    return resolver.aliased(resolver.query(tree, None))


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
