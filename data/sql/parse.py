"""Text to tree: tokens, then precedence climbing, bounded in length and depth."""

import re
from typing import NamedTuple

from data.sql.render import to_sql
from data.sql.tree import (
    EQUALITY, KEYWORDS, PRECEDENCE, RESERVED, UNARY, Between, Binary, Call, Case, Cast, Column,
    Exists, In, Item, Literal, Logic, Order, Query, Row, Select, Source, SQLError, Star, Subquery,
    Unary, Window, With)

MAX_LENGTH = 20_000      # characters, far above any benchmark query
MAX_DEPTH = 50           # nested expressions and queries: well inside Python's recursion limit

_TOKEN = re.compile(r"""
  (?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z))
| (?P<blob>x'(?:[0-9a-f]{2})*')
| (?P<text>'(?:[^']|'')*')
| (?P<double>"(?:[^"]|"")*")
| (?P<name>`(?:[^`]|``)*`|\[[^\]]*\])
| (?P<number>(?:0x[0-9a-f]+|(?:\d+(?:\.\d*)?|\.\d+)(?:e[+-]?\d+)?)(?![\w.]))
| (?P<word>[^\W\d][\w$]*)
| (?P<op>[<>!]\s=|\|\||<>|[!<>=]=|<<|>>|->>?|[-+*/%=<>(),.;&|~])
| (?P<bad>.)
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
    tokens = []
    for match in _TOKEN.finditer(text):
        kind, value, at = match.lastgroup, match.group(), match.start()
        if kind == "bad":
            reason = "bind parameter" if value in "?:@#$" else "no SQL token"
            raise SQLError(reason, at, repr(text[at:at + 10]))
        if "\0" in value:
            raise SQLError("NUL character", at)
        if kind in ("text", "double", "name"):
            quote = value[-1]
            value = value[1:-1].replace(quote * 2, quote) if quote != "]" else value[1:-1]
        if kind != "space":
            upper = re.sub(r"\s", "", value).upper() if kind in ("word", "op") else ""
            tokens.append(Token(kind, value, at, upper))
    return tokens + [Token("end", "end of query", len(text), "")]


# ---------------------------------------------------------------------------------------------
# Parser

_SPELLING = {"==": "=", "<>": "!=", "ISNULL": "IS", "NOTNULL": "IS"}
_NEGATABLE = ("IN", "BETWEEN", "LIKE", "GLOB", "REGEXP", "MATCH", "NULL")


class _Tokens:
    """The tokens of a text and a position among them."""

    def __init__(self, text):
        self.tokens, self.next, self.depth, self.chained = tokenise(text), 0, 0, 0

    @property
    def token(self):
        return self.tokens[self.next]

    def peek(self, *words, skip=0):
        """Do these words come next, after so many tokens?"""
        found = self.tokens[self.next + skip:self.next + skip + len(words)]
        return [token.upper for token in found] == list(words)

    def accept(self, *words):
        """Takes these words if they come next."""
        if self.peek(*words):
            self.next += len(words)
            return True
        return False

    def at_query(self):
        return self.peek("SELECT") or self.peek("WITH")

    def expect(self, word):
        if not self.accept(word):
            self.fail(f"expected {word}")

    def fail(self, reason):
        raise SQLError(reason, self.token.at, f"(here is {self.token.value!r})")

    def take(self):
        self.next += 1
        return self.tokens[self.next - 1]

    def descend(self):
        self.depth += 1
        if self.depth > MAX_DEPTH:
            self.fail("nested too deep")

    def at_name(self):
        """Can the next token be a name (of a table, a column, an alias)?"""
        token = self.token
        return token.kind in ("double", "name") or (
            token.kind == "word" and token.upper not in RESERVED)

    def name(self):
        if not self.at_name() or not self.token.value:
            self.fail("name in single quotes" if self.token.kind == "text" else "expected a name")
        return self.take().value

    def alias(self):
        """[AS] name, or None. SQLite takes a name in single quotes here, too."""
        required = self.accept("AS")
        if self.token.kind == "text" and self.token.value:
            return self.take().value
        return self.name() if required or self.at_name() else None

    def comma_list(self, read):
        """What read() returns, once or more, separated by commas."""
        parts = [read()]
        while self.accept(","):
            parts.append(read())
        return tuple(parts)

    def bracketed(self, read):
        """What read() returns, in parentheses."""
        self.expect("(")
        part = read()
        self.expect(")")
        return part

    def names(self):
        return self.bracketed(lambda: self.comma_list(self.name))


class _Expressions(_Tokens):
    """Expressions, by precedence climbing. Sub-queries need query(), which _Parser adds."""

    def expression(self, minimum=0):
        """An operand, then every operator whose precedence is at least the minimum."""
        self.descend()
        left, operators = self.prefix(), 0
        while (op := self.operator()) and PRECEDENCE[op] >= minimum:
            self.chained += operators > 0 and op not in ("AND", "OR")
            if self.chained > MAX_DEPTH:             # a + b + c ... is a tree as deep as it is long
                self.fail("too many chained operators")
            left, operators = self.infix(left, op), operators + 1
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
        return word if word in PRECEDENCE and word != "NOT" else None

    def infix(self, left, op):
        negated = self.accept("NOT")
        word = self.take().upper
        if word in ("ISNULL", "NOTNULL", "NULL"):
            return Binary("IS" if word == "ISNULL" else "IS NOT", left, Literal("keyword", "NULL"))
        if op == "IN":
            return In(left, self.options(), negated)
        if op == "BETWEEN":
            low = self.expression(EQUALITY + 1)
            self.expect("AND")
            return Between(left, low, self.expression(EQUALITY + 1), negated)
        tight = PRECEDENCE[op] + 1
        if op == "IS" and self.accept("NOT"):
            op = "IS NOT"
        if self.accept("DISTINCT", "FROM"):          # SQLite's own reading of it
            op = {"IS": "IS NOT", "IS NOT": "IS"}.get(op) or self.fail("expected IS")
        right = Literal("keyword", self.name()) if op == "COLLATE" else self.expression(tight)
        if op in ("AND", "OR"):
            same = [part.operands if isinstance(part, Logic) and part.op == op else (part,)
                    for part in (left, right)]
            return Logic(op, same[0] + same[1])
        return Binary("NOT " + op if negated else op, left, right)

    def options(self):
        if self.at_name():
            self.fail("IN a table")
        return self.bracketed(lambda: self.query() if self.at_query() else self.listed())

    def listed(self):
        """Expressions up to the closing parenthesis, perhaps none."""
        return () if self.peek(")") else self.comma_list(self.expression)

    def prefix(self):
        if self.accept("NOT"):
            return Unary("NOT", self.expression(PRECEDENCE["NOT"]))
        if self.token.upper not in ("-", "+", "~"):
            return self.primary()
        op, operand = self.take().upper, self.expression(UNARY)
        if op == "-" and isinstance(operand, Literal) and operand.kind == "number":
            if not operand.value.startswith("-"):
                return Literal("number", "-" + operand.value)
        return Unary(op, operand)

    def primary(self):
        token = self.token
        if token.kind in ("text", "number", "blob"):
            return Literal(token.kind, self.take().value)
        if self.peek("("):
            return self.bracketed(self.inner)
        if self.accept("CASE"):
            return self.case()
        if self.accept("EXISTS"):
            return Exists(self.bracketed(self.query))
        if token.kind == "word" and self.peek("(", skip=1) and token.upper not in RESERVED:
            return self.call()
        if token.upper in KEYWORDS and not self.peek(".", skip=1):
            return Literal("keyword", self.take().upper)
        return self.column()

    def inner(self):
        if self.at_query():
            return Subquery(self.query())
        items = self.comma_list(self.expression)
        return items[0] if len(items) == 1 else Row(items)

    def case(self):
        base = None if self.peek("WHEN") else self.expression()
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
        args = (Star(at=at + 1),) if self.accept("*") else self.listed()
        self.expect(")")
        if self.peek("FILTER", "("):
            self.fail("FILTER")
        call = Call(name, args, distinct)
        return self.window(call) if self.accept("OVER") else call

    def cast(self):
        operand = self.expression()
        self.expect("AS")
        words = [self.name().upper()]
        while self.at_name():
            words.append(self.name().upper())
        if self.peek("("):                          # VARCHAR(20), DECIMAL(10, 2)
            words[-1] += f"({to_sql(self.bracketed(lambda: self.comma_list(self.expression)))})"
        self.expect(")")
        return Cast(operand, " ".join(words))

    def window(self, call):
        if not self.accept("(") or self.at_name() and not self.peek("PARTITION"):
            self.fail("window by name" if self.at_name() else "expected (")
        partition = self.comma_list(self.expression) if self.accept("PARTITION", "BY") else ()
        order = self.comma_list(self.order) if self.accept("ORDER", "BY") else ()
        if self.token.upper in ("ROWS", "RANGE", "GROUPS"):
            self.fail("window frame")
        self.expect(")")
        return Window(call, partition, order)

    def column(self):
        token = self.token
        if token.kind == "double" and not token.value:               # "" is the empty text
            return Literal("text", self.take().value)
        last, qualifier, name = token, None, self.name()
        if self.accept("."):
            last, qualifier, name = self.token, name, self.name()
        return Column(name, qualifier, last.kind == "double", at=token.at)


class _Parser(_Expressions):
    """Queries and their clauses, by recursive descent."""

    def query(self):
        self.descend()
        ctes = self.comma_list(self.cte) if self.accept("WITH") else ()
        arms, ops = [self.select()], []
        while self.token.upper in ("UNION", "INTERSECT", "EXCEPT"):
            op = self.take().upper
            ops.append("UNION ALL" if op == "UNION" and self.accept("ALL") else op)
            arms.append(self.select())
        order = self.comma_list(self.order) if self.accept("ORDER", "BY") else ()
        limit = self.expression() if self.accept("LIMIT") else None
        offset = self.expression() if limit and self.accept("OFFSET") else None
        if limit and not offset and self.accept(","):            # LIMIT offset, count
            offset, limit = limit, self.expression()
        self.depth -= 1
        return Query(tuple(arms), tuple(ops), order, limit, offset, ctes)

    def cte(self):
        if self.peek("RECURSIVE"):
            self.fail("recursive WITH")
        name, columns = self.name(), self.names() if self.peek("(") else ()
        self.expect("AS")
        return With(name, columns, self.bracketed(self.query))

    def select(self):
        if self.peek("VALUES"):
            self.fail("VALUES")
        self.expect("SELECT")
        distinct = self.accept("DISTINCT")
        self.accept("ALL")
        items = self.comma_list(self.item)
        sources = self.sources() if self.accept("FROM") else ()
        where = self.expression() if self.accept("WHERE") else None
        group = self.comma_list(self.expression) if self.accept("GROUP", "BY") else ()
        having = self.expression() if self.accept("HAVING") else None
        return Select(items, distinct, sources, where, group, having)

    def item(self):
        at = self.token.at
        if self.accept("*"):
            return Item(Star(at=at))
        if self.at_name() and self.peek(".", "*", skip=1):
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
        words = ["NATURAL"] if self.accept("NATURAL") else []
        if self.token.upper in ("LEFT", "RIGHT", "FULL", "CROSS"):
            words.append(self.take().upper)
            self.accept("OUTER")
        elif not self.accept("INNER") and not words and not self.peek("JOIN"):
            return None
        self.expect("JOIN")
        return " ".join(words + ["JOIN"])

    def source(self, join):
        at = self.token.at
        if self.peek("(") and self.tokens[self.next + 1].upper not in ("SELECT", "WITH", "VALUES"):
            self.fail("parenthesised join")
        table = self.bracketed(self.query) if self.peek("(") else self.name()
        if self.peek("(") or self.peek("."):
            self.fail("schema-qualified name" if self.peek(".") else "table-valued function")
        alias, on, using = self.alias(), None, ()
        if self.peek("INDEXED") or self.peek("NOT", "INDEXED"):
            self.fail("INDEXED BY")
        if self.accept("ON"):
            on = self.expression()
        elif self.accept("USING"):
            using = self.names()
        return Source(table, alias, join, on, using, at=at)

    def order(self):
        expression = self.expression()
        descending = self.accept("DESC")
        self.accept("ASC")
        nulls = ""
        if self.accept("NULLS"):
            if not self.peek("FIRST") and not self.peek("LAST"):
                self.fail("expected FIRST or LAST")
            nulls = self.take().upper
        return Order(expression, descending, nulls)


def parse(text):
    """The tree of one SELECT statement. SQLError (with its place) for anything else."""
    parser = _Parser(text)
    query = parser.query()
    while parser.accept(";"):
        pass
    if parser.token.kind != "end":
        parser.fail("expected the end")
    return query
