"""The nodes of an SQL query, and what reading and printing must agree on (standard library only).

A tree is frozen: rewrite() makes a changed copy. A parsed tree says what the text says; a resolved
one (see resolve.py) also says which table and which FROM entry each column comes from.
"""

from dataclasses import dataclass, field


class SQLError(ValueError):
    """A reason to count by, what exactly, and at which character (1-based) of the text."""

    def __init__(self, reason, at, detail=""):
        super().__init__(f"{reason} {detail}".rstrip() + f" at character {at + 1}")
        self.reason, self.at = reason, at + 1


# ---------------------------------------------------------------------------------------------
# The tree

class Node:
    """Its subclasses are frozen dataclasses, here without the decorator before each."""

    def __init_subclass__(cls):
        dataclass(frozen=True)(cls)

    def parts(self):
        """The values of its fields."""
        return tuple([getattr(self, name) for name in self.__match_args__])


class Column(Node):
    name: str
    qualifier: str | None = None
    quoted: bool = False             # in double quotes: SQLite reads it as text if no column fits
    table: str | None = None         # after resolve: the schema's table (None: a derived table)
    source: int | None = None        # after resolve: which FROM entry of the whole statement
    at: int = field(default=0, compare=False, repr=False)

class Star(Node):
    qualifier: str | None = None
    source: int | None = None
    at: int = field(default=0, compare=False, repr=False)

class Literal(Node):
    kind: str                        # text, number, blob or keyword (NULL, TRUE, CURRENT_DATE, ...)
    value: str

class Call(Node):
    name: str
    args: tuple
    distinct: bool = False

class Window(Node):
    call: Call
    partition: tuple
    order: tuple                     # of Order

class Unary(Node):
    op: str                          # NOT - + ~
    operand: Node

class Binary(Node):
    op: str
    left: Node
    right: Node

class Logic(Node):
    op: str                          # AND, OR
    operands: tuple                  # flat, so that a long chain is not a deep tree

class Between(Node):
    operand: Node
    low: Node
    high: Node
    negated: bool = False

class In(Node):
    operand: Node
    options: object                  # Query, or a tuple of expressions
    negated: bool = False

class Exists(Node):
    query: Node

class Subquery(Node):
    query: Node

class Row(Node):
    items: tuple

class Case(Node):
    base: Node | None
    branches: tuple                  # of (condition, value)
    default: Node | None

class Cast(Node):
    operand: Node
    type: str

class Item(Node):
    expression: Node
    alias: str | None = None

class Source(Node):
    table: object                    # a name, or a Query
    alias: str | None = None
    join: str = ""                   # "" for the first; ",", "JOIN", "LEFT JOIN", ...
    on: Node | None = None
    using: tuple = ()
    number: int | None = None        # after resolve: what Column.source refers to
    at: int = field(default=0, compare=False, repr=False)

class Order(Node):
    expression: Node
    descending: bool = False
    nulls: str = ""                  # FIRST, LAST

class Select(Node):
    items: tuple
    distinct: bool = False
    sources: tuple = ()
    where: Node | None = None
    group: tuple = ()
    having: Node | None = None

class With(Node):
    name: str
    columns: tuple
    query: Node

class Query(Node):
    arms: tuple                      # of Select
    ops: tuple = ()                  # len(arms) - 1 set operators
    order: tuple = ()
    limit: Node | None = None
    offset: Node | None = None
    ctes: tuple = ()                 # of With


def walk(tree):
    """Every node of a tree, parents first, in reading order."""
    if isinstance(tree, tuple):
        for part in tree:
            yield from walk(part)
    elif isinstance(tree, Node):
        yield tree
        for part in tree.parts():
            yield from walk(part)


def rewrite(tree, change):
    """The tree with change(node) in place of each node; None means: go on into its parts."""
    if isinstance(tree, tuple):
        return tuple([rewrite(part, change) for part in tree])
    if not isinstance(tree, Node):
        return tree
    new = change(tree)
    if new is not None:
        return new
    return type(tree)(*[rewrite(part, change) for part in tree.parts()])


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


# ---------------------------------------------------------------------------------------------
# Words and precedence

# Words that SQLite does not take as a bare name (its other keywords fall back to names).
RESERVED = frozenset("""
    ADD ALL ALTER AND AS AUTOINCREMENT BETWEEN CASE CHECK COLLATE COMMIT CONSTRAINT CREATE CROSS
    DEFAULT DEFERRABLE DELETE DISTINCT DROP ELSE ESCAPE EXCEPT EXISTS FOREIGN FROM FULL GROUP
    HAVING IN INDEX INDEXED INNER INSERT INTERSECT INTO IS ISNULL JOIN LEFT LIMIT NATURAL NOT
    NOTHING NOTNULL NULL ON OR ORDER OUTER PRIMARY REFERENCES RETURNING RIGHT SELECT SET TABLE
    THEN TO TRANSACTION UNION UNIQUE UPDATE USING VALUES WHEN WHERE
""".split())
KEYWORDS = ("NULL", "TRUE", "FALSE", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP")

# Operators from loose to tight.
LEVELS = ("OR", "AND", "NOT",
           "= != IS LIKE GLOB REGEXP MATCH IN BETWEEN", "< <= > >=", "ESCAPE", "& | << >>",
           "+ -", "* / %", "||", "COLLATE", "unary")
PRECEDENCE = {op: level for level, ops in enumerate(LEVELS) for op in ops.split()}
EQUALITY, UNARY, ATOM = PRECEDENCE["="], PRECEDENCE["unary"], len(LEVELS)
