"""From a model's answer to SQL, and from SQL to a line of a file.

    sql_of_answer(text) -> str     the query in an answer that may hold prose, fences or thoughts
    one_line(sql) -> str           the same query on one line, as Spider's prediction files want it

Chat models wrap their SQL. Text that opens as a query does, with no fence, and no prose after a
semicolon or a blank line, stays as it is: nothing changes for models that answer in SQL.
"""

import re

# A query in pieces, as far as it takes to tell quotes and comments from the rest.
PIECE = re.compile(r"""
  (?P<quoted>'(?:[^']|'')*'|"(?:[^"]|"")*"|`(?:[^`]|``)+`|\[[^\]\n]*\])
| (?P<comment>--[^\n]*|/\*.*?(?:\*/|\Z))
| (?P<space>\s+)
| (?P<end>;)
| (?P<fence>```)
| (?P<other>\w+|.)""", re.X | re.S)
# No sentence opens with "WITH name AS (", and few that matter with "SELECT".
HEAD = (r"(?:select\b|with\s+(?:recursive\s+)?[\w\"`\[\] ]+?\s*(?:\([^()]*\)\s*)?"
        r"as\s*(?:not|mat|\())")
OPENING = re.compile(r"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*" + HEAD, re.I | re.S)
FENCE = re.compile(r"^[ \t]*(?P<mark>`{3,}|~{3,})[ \t]*[\w+#.-]*[^\S\n]*\n?"
                   r"(?P<body>.*?)(?:(?P=mark)|\Z)", re.M | re.S)
TAG = r"(?:think|thinking|thought|reasoning)"
THOUGHT = re.compile(rf"<({TAG})>.*?(?:</\1>|\Z)|\A.*</{TAG}>", re.S | re.I)
# Where a query may begin in prose, the surest sign first: a code span, a label, a line, capitals.
STARTS = [re.compile(pattern, flags) for pattern, flags in (
    (rf"`\s*(?P<sql>{HEAD}[^`]*)`", re.I),
    (rf"\b(?:sql|sqlite|query|answer)\b[^\n\w]*[:>]\W*?(?P<sql>{HEAD}.*)", re.I | re.S),
    (rf"^[ \t]*(?P<sql>{HEAD}.*)", re.I | re.M | re.S),
    (r"\b(?P<sql>(?:SELECT|WITH\s+\w+\s+AS)\s.*)", re.S))]
STATEMENTS = frozenset("""
    select with values insert update delete replace create drop alter attach detach pragma vacuum
    begin commit end rollback savepoint release reindex analyze explain""".split())
SENTENCE = re.compile(r"[\s*#>_-]*([A-Z][a-z']*|Note:|I)[,:]?[ \t]+[a-z`'\"*]")


def sql_of_answer(text):
    """The SQL of a model's answer, white space and comments in it as the model wrote them.

    Thoughts in tags go; of several Markdown fences the last with a query counts, since models
    correct themselves; prose goes, before the query and behind it, there from a semicolon or a
    blank line on. A second statement stays, for the verifier to refuse. Text without a query comes
    out stripped."""
    text = text.strip()
    if not OPENING.match(text):
        text = THOUGHT.sub("", text).strip()
    bodies = [m["body"].strip() for m in FENCE.finditer(text)]
    found = [body for body in bodies if OPENING.match(body)]
    if not found and not OPENING.match(text):
        found = [m["sql"] for m in [start.search(text) for start in STARTS] if m][:1]
    text = found[-1] if found else text
    return _without_tail(text).strip() if OPENING.match(text) else text


def _without_tail(sql):
    """A query without the prose that follows it. Whatever may be SQL stays."""
    for match in PIECE.finditer(sql):
        kind, rest = match.lastgroup, sql[match.end():]
        if kind == "fence":
            return sql[:match.start()]
        if kind == "end":
            tail = "".join(m[0] for m in PIECE.finditer(rest)
                           if m.lastgroup not in ("comment", "end"))
            word = re.match(r"\W*(\w*)", tail)[1].lower()
            if not tail.strip() or word and word not in STATEMENTS:
                return sql[:match.start()]
        if kind == "space" and match[0].count("\n") > 1 and SENTENCE.match(rest):
            return sql[:match.start()]
    return sql


def one_line(sql):
    """The query on one line: white space outside quotes becomes a space, comments go. A line end or
    tab inside a literal is written with char(), which means the same; in a quoted name, a space."""
    parts = []
    for match in PIECE.finditer(sql):
        text = " " if match.lastgroup in ("space", "comment") else match[0]
        if text[0] == "'" and re.search(r"[\r\n\t]", text):
            text = re.sub(r"[\r\n\t]", lambda end: f"' || char({ord(end[0])}) || '", text)
            text = f"({text})"
        if text != " " or parts[-1:] != [" "]:
            parts.append(text)
    return re.sub(r"[\r\n\t]", " ", "".join(parts)).strip()
