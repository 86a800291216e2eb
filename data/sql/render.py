"""Tree to text: one line, single spaces, as few parentheses as needed."""

import re

from data.sql.tree import (
    ATOM, EQUALITY, KEYWORDS, PRECEDENCE, RESERVED, UNARY, Between, Binary, Call, Case, Cast,
    Column, Exists, In, Item, Literal, Logic, Order, Query, Row, Select, Source, Star, Subquery,
    Unary, Window, With)

# A name between NULs is a template's slot: no SQL text can hold one (see templates.py).
_PLAIN = re.compile(r"[^\W\d]\w*|\0\w+\0")
# SQLite would take most of the second half bare, but a reader should not have to know which.
_QUOTED = RESERVED.union(KEYWORDS, """
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
            return PRECEDENCE[op.removeprefix("NOT ").removesuffix(" NOT")]
        case Between() | In():
            return EQUALITY
        case Unary(op=op):
            return PRECEDENCE["NOT"] if op == "NOT" else UNARY
    return ATOM


def _inside(tree, level):
    text = to_sql(tree)
    return text if _level(tree) >= level else f"({text})"


def to_sql(tree):
    """Any node as text, or a tuple of nodes as a list. Parsing it gives the same query again."""
    match tree:
        case tuple():
            return ", ".join([to_sql(part) for part in tree])
        case Column(name, qualifier, quoted):
            written = quote_name(name, quoted)
            if not quoted and written != name:       # double quotes would make it text, perhaps
                written = "`" + name.replace("`", "``") + "`"
            return f"{quote_name(qualifier)}.{written}" if qualifier else written
        case Star(qualifier):
            return f"{quote_name(qualifier)}.*" if qualifier else "*"
        case Literal(kind, value):
            return quote_text(value) if kind == "text" else value
        case Call(name, args, distinct):
            return f"{name}({'DISTINCT ' if distinct else ''}{to_sql(args)})"
        case Subquery(inner) | Row(inner):
            return f"({to_sql(inner)})"
        case Exists(query):
            return f"EXISTS ({to_sql(query)})"
        case Cast(operand, kind):
            return f"CAST({to_sql(operand)} AS {kind})"
        case Window(call, partition, order):
            inner = _clauses(("PARTITION BY", partition), ("ORDER BY", order))
            return f"{to_sql(call)} OVER ({inner})"
        case Case(base, branches, default):
            branches = [clause for condition, value in branches
                        for clause in (("WHEN", condition), ("THEN", value))]
            return f"CASE {_clauses(('', base), *branches, ('ELSE', default))} END"
        case Unary() | Binary() | Logic() | Between() | In():
            return _print_operator(tree)
    return _print_clause(tree)


def _print_operator(tree):
    level = _level(tree)
    match tree:
        case Unary(op, operand):
            text = _inside(operand, level)                   # two minus signs open a comment
            return op + (" " if op == "NOT" or text.startswith("-") else "") + text
        case Binary(op, left, right):
            return f"{_inside(left, level)} {op} {_inside(right, level + 1)}"
        case Logic(op, operands):
            return f" {op} ".join([_inside(part, level + 1) for part in operands])
        case Between(operand, low, high, negated):
            return (f"{_inside(operand, level)} {'NOT ' if negated else ''}BETWEEN "
                    f"{_inside(low, level + 1)} AND {_inside(high, level + 1)}")
        case In(operand, options, negated):
            return f"{_inside(operand, level)} {'NOT ' if negated else ''}IN ({to_sql(options)})"


def _print_clause(tree):
    match tree:
        case Item(expression, alias):
            return _clauses(("", expression), ("AS", alias and quote_name(alias)))
        case Order(expression, descending, nulls):
            return (to_sql(expression) + (" DESC" if descending else "")
                    + (f" NULLS {nulls}" if nulls else ""))
        case Source(table, alias, join, on, using):
            text = f"({to_sql(table)})" if isinstance(table, Query) else quote_name(table)
            names = f"({', '.join(map(quote_name, using))})" if using else ""
            separator = {"": "", ",": ", "}.get(join, f" {join} ")
            return separator + _clauses(("", text), ("AS", alias and quote_name(alias)),
                                        ("ON", on), ("USING", names))
        case Select(items, distinct, sources, where, group, having):
            return _clauses(("SELECT DISTINCT" if distinct else "SELECT", items),
                            ("FROM", "".join(map(to_sql, sources))), ("WHERE", where),
                            ("GROUP BY", group), ("HAVING", having))
        case With(name, columns, query):
            listed = f" ({', '.join(map(quote_name, columns))})" if columns else ""
            return f"{quote_name(name)}{listed} AS ({to_sql(query)})"
        case Query(arms, ops, order, limit, offset, ctes):
            return _clauses(("WITH", ctes), *zip(("", *ops), arms), ("ORDER BY", order),
                            ("LIMIT", limit), ("OFFSET", offset))
    raise TypeError(f"not a part of a query: {tree!r}")


def _clauses(*clauses):
    """"WORD text" for each (WORD, text, node or tuple of nodes) that is not empty."""
    return " ".join([f"{word} {part if isinstance(part, str) else to_sql(part)}".lstrip()
                     for word, part in clauses if part])
