"""Scores SQL by running it: a sandboxed SQLite verifier (Python 3.11+, standard library only).

    Verifier       scores and runs batches in worker processes; the only part for model-written SQL
    run_sql        runs one query in this process
    same_result    decides whether two results are equal, as Spider or BIRD would
    majority_vote  picks the SQL whose result most samples agree on

Covered (tests/test_sqlexec.py):
- the official evaluators' verdicts, on one database or a test suite of several
- queries that write, attach files, read the catalogue, give random answers or hold several
  statements; that take too much time, rows or memory, also inside a single opcode or while SQLite
  prepares them; text that is hardly SQL. All that gold queries use is allowed
- odd file names, missing and broken files, unfinished transactions, text that is not UTF-8
- gold queries that fail or hang (no verdict); a busy machine (a timeout is retried alone)
- workers that are killed or stopped from outside; none outlives the trainer

Not covered:
- run_sql alone against what SQLite cannot interrupt: one endless opcode, endless preparation
- a hostile database file, or one that is written while it is read
- a bug in SQLite that gives a query the worker's own rights: system calls are not filtered
- answers that change with the day (CURRENT_DATE is allowed: BIRD's golds use it) or, where a query
  leaves them open (LIMIT among ties, a bare column beside an aggregate), with SQLite's version
- the memory cap on macOS, where only SQLite's heap and the size of results are limited; Windows
"""

import json
import marshal
import os
import re
import select
import shlex
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
from collections import Counter, OrderedDict, defaultdict, deque
from contextlib import AbstractContextManager, closing
from dataclasses import astuple, dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple


class DataError(Exception):
    """Bad input from outside: the command line prints it as one line and exits with code 2."""


# ---------------------------------------------------------------------------------------------
# One guarded connection

class Result(NamedTuple):
    status: str              # ok, error, timeout, too_big or refused
    rows: list               # of tuples; empty unless ok
    error: str = ""          # why, where the status is not ok
    seconds: float = 0.0
    columns: tuple = ()      # their names


@dataclass(frozen=True)
class Limits:
    timeout: float = 5.0         # seconds for one query; Spider's slowest gold takes 0.4
    max_rows: int = 200_000      # Spider's longest gold has 10,507
    max_bytes: int = 64 << 20    # of one result
    memory: int = 1 << 30        # bytes of a worker; SQLite's own heap may take half of it


# What no Spider or BIRD gold comes near, and what keeps one opcode or one parse short.
SQLITE_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 1_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_COLUMN: 2000,       # SQLite's own, for SELECT *
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 25_000,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}

# Up to SQLite 3.54. Absent on purpose: random and randomblob (a verdict must repeat), zeroblob
# (megabytes for nothing), what tells about the connection, the build or the inside of a value,
# load_extension, what writes to a full-text table.
FUNCTIONS = frozenset("""
    -> ->> abs acos acosh asin asinh atan atan2 atanh avg bm25 ceil ceiling char coalesce concat
    concat_ws cos cosh count cume_dist current_date current_time current_timestamp date datetime
    degrees dense_rank exp first_value floor format glob group_concat hex highlight if ifnull iif
    instr json json_array json_array_insert json_array_length json_error_position json_extract
    json_group_array json_group_object json_insert json_object json_patch json_pretty json_quote
    json_remove json_replace json_set json_type json_valid jsonb jsonb_array jsonb_array_insert
    jsonb_extract jsonb_group_array jsonb_group_object jsonb_insert jsonb_object jsonb_patch
    jsonb_remove jsonb_replace jsonb_set julianday lag last_value lead length like likelihood likely
    ln log log10 log2 lower ltrim match max median min mod nth_value ntile nullif octet_length
    percent_rank percentile percentile_cont percentile_disc pi pow power printf quote radians rank
    replace round row_number rtrim sign sin sinh snippet soundex sqrt strftime string_agg substr
    substring sum tan tanh time timediff total trim trunc typeof unhex unicode unistr unistr_quote
    unixepoch unlikely upper
""".split())

# Tables that SQLite itself makes up; a user's name cannot begin with sqlite_.
INNER = ("sqlite_master", "sqlite_schema", "sqlite_temp", "sqlite_dbpage", "sqlite_stmt", "dbstat")

OPENING = re.compile(r"(?:\s+|--[^\n]*(?:\n|\Z)|/\*.*?(?:\*/|\Z))*(?:select|with)\b", re.S | re.I)


def quoted(name):
    return '"' + name.replace('"', '""') + '"'


def database_uri(db_path):
    """The URI that opens a file for reading only, whatever its name; OSError if it may not be."""
    path = os.path.abspath(db_path)
    if not os.path.isfile(path):
        raise FileNotFoundError(f"no such database: {path}")
    path = os.path.realpath(path)       # SQLite looks beside the file that a link leads to
    for suffix in ("-wal", "-journal"):
        # An immutable connection would not see what such a file holds, and answer from old pages.
        if _unfinished(path + suffix):
            raise OSError(f"{path} has an unfinished {suffix[1:]} file beside it; this ends it: "
                          f"sqlite3 {shlex.quote(path)} 'PRAGMA wal_checkpoint(TRUNCATE)'")
    return f"file://{urllib.parse.quote(os.fsencode(path))}?mode=ro&immutable=1"


def _unfinished(path):
    """Does a -wal or -journal file hold what SQLite would read or undo?"""
    if not os.path.isfile(path):
        return os.path.exists(path)     # what SQLite cannot open, it cannot get past
    with open(path, "rb") as file:
        start = file.read(33)
    # A WAL file's header alone (32 bytes) holds no pages, one of zeros marks a finished journal.
    return len(start) > 32 and start[:1] != b"\0"


def authorize_reading(action, first, second, *_):
    """Reading, and functions whose answer repeats: an authorizer for SQLite."""
    if (action in (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_RECURSIVE)
            or action == sqlite3.SQLITE_READ and not first.lower().startswith(INNER)
            or action == sqlite3.SQLITE_FUNCTION and second.lower() in FUNCTIONS
            or action == sqlite3.SQLITE_PRAGMA and first == "data_version"):    # FTS5 looks at it
        return sqlite3.SQLITE_OK
    return sqlite3.SQLITE_DENY


# What a query can make the sqlite3 module raise.
FAILURES = (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError, MemoryError)


class Connection:
    """A read-only connection that runs nothing but SELECT, within Limits."""

    def __init__(self, db_path, limits):
        self.limits = limits
        self.deadline = 0.0
        self.denied = ""
        self.raw = sqlite3.connect(database_uri(db_path), uri=True, isolation_level=None,
                                   cached_statements=0, check_same_thread=False)
        try:
            self._guard()
        except BaseException:
            self.raw.close()
            raise

    def _guard(self):
        raw = self.raw
        # Of the whole process; SQLite lets it sink, never rise.
        raw.execute(f"PRAGMA hard_heap_limit = {self.limits.memory // 2}")
        raw.execute("PRAGMA temp_store = MEMORY")
        raw.text_factory = lambda text: text.decode("utf-8", "surrogateescape")
        # An error here tells that it is no database at all.
        virtual = raw.execute("SELECT name FROM sqlite_master WHERE rootpage = 0 "
                              "AND type = 'table'").fetchall()
        for name in ["json_each", "json_tree", *[name for name, in virtual]]:
            try:        # connects the table, which the authorizer would not allow later
                raw.execute(f"PRAGMA table_xinfo({quoted(name)})").close()
            except (sqlite3.Error, UnicodeError):
                pass    # its module is missing: a query that reads it says so
        if hasattr(raw, "setconfig"):   # Spider's golds write "text" in double quotes
            raw.setconfig(sqlite3.SQLITE_DBCONFIG_DQS_DML, True)
        for limit, value in SQLITE_LIMITS.items():
            raw.setlimit(limit, value)
        raw.set_authorizer(self._authorize)
        # SQLite calls it every 100 opcodes: with 1,000 a few slow ones (LIKE) outlast any deadline.
        clock = time.perf_counter
        raw.set_progress_handler(lambda: clock() > self.deadline, 100)

    def _authorize(self, action, first, second, database, trigger):
        answer = authorize_reading(action, first, second)
        if answer == sqlite3.SQLITE_DENY:
            name = ".".join(part for part in (first, second) if part)
            self.denied = f"not allowed: {name or 'this'} (SQLite action {action})"
        return answer

    def close(self):
        self.raw.close()

    def run(self, sql, errors="surrogateescape", enough=None, width=None):
        """Result of one query.

        errors: how bytes that are not UTF-8 become text, as bytes.decode takes it.
        enough: stop, with status ok, once more than so many rows are there; None reads all.
        width: a query with another number of columns is not run; its status is other_width.
        """
        start = time.perf_counter()
        self.deadline = start + self.limits.timeout
        self.columns = ()
        found = self._attempt(sql, errors, enough, width)
        return Result(*found, time.perf_counter() - start, self.columns)

    def _attempt(self, sql, errors, enough, width):
        if not isinstance(sql, str) or not OPENING.match(sql):
            return "refused", [], "not a SELECT, or far too long"
        if width is not None and self._width(sql) not in (None, width):
            return "other_width", [], ""
        self.denied = ""
        try:
            try:
                self.raw.text_factory = str
                return self._fetch(sql, enough)
            except sqlite3.OperationalError as problem:
                if "decode to UTF-8" not in str(problem):
                    raise
                self.raw.text_factory = lambda cell: cell.decode("utf-8", errors)
                return self._fetch(sql, enough)
        except FAILURES as problem:
            return self._failure(problem)

    def _width(self, sql):
        """Number of columns of a query's result, without running it; None if it is not known."""
        empty = f"SELECT * FROM ({sql.strip().removesuffix(';')}\n) LIMIT 0"
        try:
            with closing(self.raw.execute(empty)) as cursor:
                return len(cursor.description)
        except FAILURES:
            return None

    def _fetch(self, sql, enough):
        limits, rows, size = self.limits, [], 0
        with closing(self.raw.execute(sql)) as cursor:
            self.columns = tuple(name for name, *_ in cursor.description)
            while chunk := cursor.fetchmany(64):
                rows += chunk
                if enough is not None and len(rows) > enough:
                    break
                size += len(marshal.dumps(chunk))   # the quickest measure of a row's bytes
                if len(rows) > limits.max_rows or size > limits.max_bytes:
                    return "too_big", [], f"more than {limits.max_rows} rows or " \
                                          f"{limits.max_bytes} bytes"
                if time.perf_counter() > self.deadline:
                    return "timeout", [], f"over {limits.timeout:g} s"
        return "ok", rows, ""

    def _failure(self, problem):
        code = getattr(problem, "sqlite_errorcode", None)
        if self.denied:
            return "refused", [], self.denied
        if "one statement" in str(problem):
            return "refused", [], "more than one statement"
        if code == sqlite3.SQLITE_INTERRUPT:
            return "timeout", [], f"over {self.limits.timeout:g} s"
        if code == sqlite3.SQLITE_TOOBIG or isinstance(problem, (sqlite3.DataError, MemoryError)):
            return "too_big", [], str(problem) or "out of memory"
        return "error", [], str(problem)


# ---------------------------------------------------------------------------------------------
# Verdicts: everything that depends on the mode is here

MODES = ("spider", "bird")      # whose official evaluator to agree with
THIS_YEAR = re.compile(r"YEAR\s*\(\s*CURDATE\s*\(\s*\)\s*\)\s*", re.I)


def clean_text(sql, mode):
    """The query as the mode's official evaluator would run it: Spider's mends the text first."""
    if mode == "bird" or not isinstance(sql, str):
        return sql
    sql = sql.replace("> =", ">=").replace("< =", "<=").replace("! =", "!=")
    return THIS_YEAR.sub("2020", sql)


def order_matters(gold_sql):
    """Spider's rule: these characters anywhere in the gold query, a sub-query included."""
    return "order by" in gold_sql.lower()


def same_result(gold, pred, ordered, mode="spider"):
    """Whether two results (lists of row tuples) count as equal.

    mode "spider": the rows are equal, each as often, under some permutation of the columns; in the
        same order where `ordered`. Two empty results are equal whatever their widths.
    mode "bird": the sets of rows are equal; `ordered` is not looked at.
    Both compare cells as Python does: NULL equals NULL and nothing else, 1 equals 1.0, 'a' is not
    'A', text never equals a number or a blob, floats have no tolerance. No deviation from the
    official code is known, its quick reject included: (1, 1.5) is not (1.0, 1.5) in "spider".
    """
    if mode == "bird":
        return set(gold) == set(pred)
    if not gold and not pred:
        return True
    if len(gold) != len(pred) or len(gold[0]) != len(pred[0]):
        return False
    if gold != pred and not _permuted(gold, pred, ordered):
        return False
    return not _quick_reject(gold, pred, ordered)


def _permuted(gold, pred, ordered):
    """Whether some column permutation of pred makes the rows equal (as lists, or as bags)."""
    gold_columns, pred_columns = list(zip(*gold)), list(zip(*pred))
    if ordered:
        return Counter(gold_columns) == Counter(pred_columns)
    content = lambda column: frozenset(Counter(column).items())
    if Counter(map(content, gold_columns)) != Counter(map(content, pred_columns)):
        return False
    spare = Counter(pred_columns)       # equal columns of pred are interchangeable
    candidates = defaultdict(list)
    for column in spare:
        candidates[content(column)].append(column)
    # The column with the fewest candidates first, so that a wrong choice shows early.
    columns = sorted(((column, candidates[content(column)]) for column in gold_columns),
                     key=lambda item: len(item[1]))
    # Depth-first search; an entry for each column placed: the rows of gold and pred, numbered by
    # the cells placed so far, the next column's candidates left to try, the column placed here.
    start = (0,) * len(gold)
    stack = [(start, start, iter(columns[0][1]), None)]
    while stack:
        ours, theirs, untried, placed = stack[-1]
        wanted = columns[len(stack) - 1][0]
        for column in filter(spare.get, untried):
            numbers = {}
            ours_next, theirs_next = [
                [numbers.setdefault(pair, len(numbers)) for pair in zip(rows, cells)]
                for rows, cells in ((ours, wanted), (theirs, column))]
            if Counter(ours_next) != Counter(theirs_next):
                continue
            if len(stack) == len(columns):
                return True
            spare[column] -= 1
            stack.append((ours_next, theirs_next, iter(columns[len(stack)][1]), column))
            break
        else:
            stack.pop()
            spare[placed] += 1
    return False


def _quick_reject(gold, pred, ordered):
    """Spider's first test, which sorts each row's cells by their spelling.

    Of results that are equal it refuses some where an integer stands for a float: those alone
    have two spellings, so only they need the test.
    """
    if len(gold[0]) == 1 or not any(type(cell) is float for row in gold + pred for cell in row):
        return False
    spell = lambda row: tuple(sorted(row, key=lambda cell: str(cell) + str(type(cell))))
    ours, theirs = [spell(row) for row in gold], [spell(row) for row in pred]
    return ours != theirs if ordered else set(ours) != set(theirs)


def majority_vote(texts, results):
    """(SQL, Result, votes) of the result that most samples return; the first one at a tie."""
    ran = [i for i, result in enumerate(results) if result.status == "ok"] or [0]
    votes = {i: sum(same_result(results[i].rows, results[j].rows, False) for j in ran)
             for i in ran}
    best = max(ran, key=votes.get)
    return texts[best], results[best], votes[best]


# ---------------------------------------------------------------------------------------------
# Sessions: open connections and gold results, in a worker or in this process

class Verdict(NamedTuple):
    status: str              # the prediction's; or bad_gold, and then there is no verdict
    correct: bool            # equal results on every database of the example
    error: str = ""          # why, where the status is not ok
    seconds: float = 0.0     # that the prediction ran, on all databases together


class Session:
    """Runs queries and scores predictions; keeps connections and results for later ones.

    arm: called before whatever may last; a worker sets its alarm there.
    """
    CONNECTIONS = 64
    CACHE_BYTES = 32 << 20

    def __init__(self, limits, arm=lambda: None):
        self.limits, self.arm = limits, arm
        self.connections, self.cache, self.late = OrderedDict(), OrderedDict(), {}
        self.cached_bytes = 0

    def close(self):
        for connection in self.connections.values():
            connection.close()
        self.connections.clear()
        self.cache.clear()
        self.late.clear()
        self.cached_bytes = 0

    def run(self, path, sql, *options):
        """Result of one query; see Connection.run."""
        self.arm()
        try:
            connection = self._connection(_identity(path))
        except (sqlite3.Error, OSError, ValueError) as problem:
            text = str(problem)
            return Result("error", [], text if str(path) in text else f"{path}: {text}")
        return connection.run(sql, *options)

    def pair(self, paths, gold, pred, mode):
        """Verdict on one prediction: it must equal the gold on every database of the example."""
        gold, pred = clean_text(gold, mode), clean_text(pred, mode)
        errors = "ignore" if mode == "spider" else "surrogateescape"
        wanted = [self._cached(path, gold, errors) for path in paths]
        bad = next((result for result in wanted if result.status != "ok"), None)
        if bad:
            return Verdict("bad_gold", False, f"{bad.status}: {bad.error}")
        seconds, ordered = 0.0, order_matters(gold)
        for path, expected in zip(paths, wanted):
            # Spider counts rows, so one more than the gold's is proof; to BIRD they are a set.
            enough = len(expected.rows) if mode == "spider" else None
            width = len(expected.rows[0]) if expected.rows else None
            result = self._cached(path, pred, errors, enough, width)
            seconds += result.seconds
            if result.status not in ("ok", "other_width"):
                return Verdict(result.status, False, result.error, seconds)
            self.arm()
            if (result.status == "other_width"
                    or not same_result(expected.rows, result.rows, ordered, mode)):
                return Verdict("ok", False, "", seconds)
        return Verdict("ok", True, "", seconds)

    def _connection(self, identity):
        if identity not in self.connections:
            if len(self.connections) >= self.CONNECTIONS:
                self.connections.popitem(last=False)[1].close()
            self.connections[identity] = Connection(identity[0], self.limits)
        self.connections.move_to_end(identity)
        return self.connections[identity]

    def _cached(self, path, sql, errors, enough=None, width=None):
        """run() with a cache: predictions repeat each other, and golds recur in every round."""
        try:
            key = _identity(path), sql, errors
        except (OSError, ValueError) as problem:
            return Result("error", [], str(problem))
        known, limit, size = (self.cache.get(key) or self.cache.get((*key, width))
                              or (self.late.get(key), None, 0))
        if known and (limit is None or enough is not None and len(known.rows) > enough):
            return known        # the whole result, or already more than enough rows of it
        result = self.run(path, sql, errors, enough, width)
        if result.status == "timeout":          # depends on the machine's load: for this batch only
            self.late[key] = result
            return result
        if result.status == "other_width":      # another gold may have this width
            key, size = (*key, width), 0
        self.cached_bytes -= size
        complete = enough is None or len(result.rows) <= enough
        size = len(marshal.dumps(result.rows)) + 1_000
        self.cache[key] = result, None if complete else enough, size
        self.cached_bytes += size
        while self.cached_bytes > self.CACHE_BYTES:
            self.cached_bytes -= self.cache.popitem(last=False)[1][2]
        return result


def _identity(path):
    """What tells a database from the same file after a change."""
    stat = os.stat(path)
    return path, stat.st_ino, stat.st_size, stat.st_mtime_ns


def run_sql(db_path, sql, limits=Limits(), errors="surrogateescape", enough=None):
    """Result of one query on one database, in this process; never raises for what a query does.

    It cannot write, and time and size are limited, but a single opcode or a blow-up while SQLite
    prepares the statement can outlast the deadline: only Verifier kills those.
    """
    with closing(Session(limits)) as session:
        return session.run(os.path.abspath(db_path), sql, errors, enough)


# ---------------------------------------------------------------------------------------------
# Worker processes. Both sides speak JSON lines: a list of jobs there, one reply for each job back.

DIED = "its worker died"
GRACE = 0.3         # seconds past its deadline after which an unstoppable query is killed
HEARTBEAT = 0.5     # a busy worker is never silent for longer than this and one query together


# Not pickle: nothing that a worker could send makes the trainer run code. A blob travels as a dict.
_encode = json.JSONEncoder(default=lambda blob: {"hex": blob.hex()}).encode
_decode = json.JSONDecoder(object_hook=lambda blob: bytes.fromhex(blob["hex"])).decode


def work(limits):
    """The life of a worker: answers jobs from stdin until it closes, or until an alarm kills it.

    The alarm's default action ends the process inside the kernel, so that neither SQLite nor
    Python needs to cooperate, and a worker whose trainer was killed does not run on.
    """
    _confine(limits.memory)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    spoke = 0.0

    def say(value):
        nonlocal spoke
        sys.stdout.buffer.write(_encode(value).encode() + b"\n")
        sys.stdout.buffer.flush()
        spoke = time.perf_counter()

    def arm():
        signal.setitimer(signal.ITIMER_REAL, limits.timeout + GRACE)
        if time.perf_counter() > spoke + HEARTBEAT:     # a job can be many queries
            say(None)

    session = Session(limits, arm)
    kinds = {"run": session.run, "pair": session.pair,
             "time": lambda *arguments: session.run(*arguments)._replace(rows=[])}
    say(None)
    for line in sys.stdin.buffer:
        for kind, *arguments in json.loads(line):
            try:
                say(kinds[kind](*arguments))
            except MemoryError:     # in what we did with rows: SQLite's own ends as a Result
                session.close()
                say(("too_big", [], "out of memory", 0.0))
        signal.setitimer(signal.ITIMER_REAL, 0)
        session.late.clear()


def _confine(memory):
    """What the kernel can forbid a worker: memory, files, core dumps."""
    import resource
    for name, value in (("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0)):
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):       # macOS has no RLIMIT_AS; SQLite's heap limit remains
            pass


class _Worker:
    """This side of one worker process, started when it is first needed."""

    def __init__(self, limits):
        self.limits, self.process = limits, None
        self.pending, self.text = deque(), bytearray()
        self.heard = 0.0        # when it last spoke or was spoken to

    def start(self):
        # Not multiprocessing: its spawn runs the caller's main module again, torch and all. A new
        # session keeps Ctrl-C, which the terminal sends to a whole group, from the worker.
        command = [sys.executable, "-I", "-S", os.path.abspath(__file__), "--worker",
                   json.dumps(astuple(self.limits))]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        start_new_session=True)
        self.text.clear()

    def send(self, batch, jobs):
        """Sends the jobs of these indices; the worker is idle, so it reads before it writes."""
        if self.process is None:
            self.start()
        self.pending, self.heard = deque(batch), time.monotonic()
        try:
            message = _encode([jobs[index] for index in batch]) + "\n"
            self.process.stdin.write(message.encode())
            self.process.stdin.flush()
        except BrokenPipeError:     # it died idle; receive() finds that out
            pass

    def receive(self):
        """List of (index, reply), and whether the worker still lives; blocks until it speaks."""
        block = os.read(self.process.stdout.fileno(), 1 << 20)
        if block:
            self.heard = time.monotonic()
        self.text += block
        if b"\n" not in block:      # within a long line, or after the last
            return [], bool(block)
        lines, _, self.text = self.text.rpartition(b"\n")
        replies = _decode("[" + lines.decode().replace("\n", ",") + "]")
        return [(self.pending.popleft(), reply) for reply in replies if reply], True

    def stop(self):
        """Ends the process; its exit code, -SIGALRM where a query outlasted its deadline."""
        if self.process is None:
            return 0
        process, self.process = self.process, None
        self.pending.clear()
        try:
            with process:           # closes the pipes and waits for the end
                process.kill()      # no effect on a dead process: its exit code stays
        except BrokenPipeError:
            pass
        return process.returncode


# ---------------------------------------------------------------------------------------------
# The pool

class Verifier(AbstractContextManager):
    """A pool of worker processes that run queries and score predictions.

    with Verifier(workers=2) as verifier:
        verdicts = verifier.verdicts([(db_path, gold, pred), ...], mode="spider")

    Answers come in the order of the questions. A query that SQLite cannot interrupt is killed with
    its worker. A timeout is retried once, with nothing else running, before it counts (not with
    retry=False, for callers that treat a slow query as a wrong one).
    """
    BATCH = 64      # jobs per message: enough to hide its cost, few enough to balance the load
    LIVES = 3       # workers that may be killed from outside under one job before it is given up

    def __init__(self, workers=2, timeout=5.0, max_rows=200_000, memory=1 << 30, retry=True):
        self.limits, self.retry = Limits(timeout, max_rows, memory=memory), retry
        self.workers = [_Worker(self.limits) for _ in range(max(1, workers))]
        self.homes = {}         # database(s): the worker that has it open and its results cached
        try:
            for worker in self.workers:
                worker.start()
            for worker in self.workers:
                if not worker.receive()[1]:
                    raise RuntimeError("a verifier worker cannot start: its error is above")
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exception):
        self.close()

    def close(self):
        """Ends all workers; the next call would start new ones."""
        for worker in self.workers:
            worker.stop()

    def run(self, jobs, rows=True):
        """List of Result for (db_path, sql) pairs; rows=False leaves the rows in the worker."""
        jobs = [("run" if rows else "time", os.path.abspath(path), _text(sql))
                for path, sql in jobs]
        alone = cache(lambda job: self._map([job])[0])      # equal jobs share one retry
        replies = [alone(job) if reply[0] == "timeout" and self.retry else reply
                   for job, reply in zip(jobs, self._map(jobs))]
        return [Result(status, [tuple(row) for row in rows], error, seconds, tuple(*columns))
                for status, rows, error, seconds, *columns in replies]

    def verdicts(self, pairs, mode="spider"):
        """List of Verdict for (db_path, gold, pred); db_path may be a list: all must agree.

        Leave those with status bad_gold out of every count: their gold failed, and nothing is
        known of the prediction.
        """
        if mode not in MODES:
            raise ValueError(f"mode {mode!r} is none of {', '.join(MODES)}")
        jobs = [("pair", _paths(paths), _text(gold), _text(pred), mode)
                for paths, gold, pred in pairs]
        distinct = list(dict.fromkeys(jobs))
        replies = dict(zip(distinct, self._map(distinct)))
        alone = cache(lambda job: self._map([job])[0])
        for job, (status, _, error, _) in replies.items():
            if self.retry and (status == "timeout" or error.startswith(("timeout", DIED))):
                replies[job] = self._retried(job, alone)
        return [Verdict(status, bool(correct), error, seconds)
                for status, correct, error, seconds in map(replies.get, jobs)]

    def _retried(self, job, alone):
        """The reply to a pair that took too long or killed its worker, tried again.

        The gold is scored against itself first: if it is to blame, there is no verdict.
        """
        kind, paths, gold, _, mode = job
        status, _, error, seconds = alone((kind, paths, gold, gold, mode))
        if status == "ok":
            return alone(job)
        return ("bad_gold", False, error if status == "bad_gold" else f"{status}: {error}", seconds)

    def _map(self, jobs):
        """Replies to jobs, in order, however many workers die under them."""
        queue, replies, deaths = self._batches(jobs), [None] * len(jobs), Counter()
        try:
            while queue or any(worker.pending for worker in self.workers):
                for worker in self.workers:
                    if queue and not worker.pending:
                        worker.send(self._next_batch(queue, worker, jobs), jobs)
                for worker in self._readable():
                    answers, alive = worker.receive()
                    for index, reply in answers:
                        replies[index] = reply
                    if not alive:
                        self._handle_dead_worker(worker, queue, replies, deaths)
        except BaseException:       # Ctrl-C: replies still to come must not answer a later call
            for worker in self.workers:
                if worker.pending:
                    worker.stop()
            raise
        return replies

    def _batches(self, jobs):
        """Lists of job indices, each of one database, equal queries side by side."""
        size = max(1, min(self.BATCH, len(jobs) // (4 * len(self.workers))))
        order = sorted(range(len(jobs)), key=lambda index: str(jobs[index][1:3]))
        groups = [list(group) for _, group in groupby(order, lambda index: jobs[index][1])]
        return [group[i:i + size] for group in groups for i in range(0, len(group), size)]

    def _next_batch(self, queue, worker, jobs):
        """Takes a batch of a database that is this worker's or nobody's yet, else the last one."""
        batch = next((batch for batch in queue if worker is
                      self.homes.setdefault(jobs[batch[0]][1], worker)), queue[-1])
        queue.remove(batch)
        return batch

    def _readable(self):
        """The busy workers with something to read."""
        patience = 2 * (self.limits.timeout + GRACE + HEARTBEAT)
        poll = select.poll()
        busy = {worker.process.stdout.fileno(): worker for worker in self.workers
                if worker.pending}
        for channel in busy:
            poll.register(channel, select.POLLIN)
        if min(len(worker.pending) for worker in busy.values()) > 8:
            time.sleep(0.001)       # waking up for every single reply costs more than the reply
        ready = [busy[channel] for channel, _ in poll.poll(1000 * patience)]
        for worker in busy.values():
            # A worker's own alarm comes first; this is for one that was stopped from outside.
            if worker not in ready and time.monotonic() > worker.heard + patience:
                worker.process.kill()
        return ready

    def _handle_dead_worker(self, worker, queue, replies, deaths):
        """Marks the job that was running as failed, or requeues it; requeues the jobs behind it."""
        (running, *others), silence = worker.pending, time.monotonic() - worker.heard
        code = worker.stop()
        deaths[running] += 1
        if code == -signal.SIGALRM or silence > self.limits.timeout:
            error = f"over {self.limits.timeout:g} s, and had to be killed"
            replies[running] = ("timeout", [], error, silence)
        elif deaths[running] == self.LIVES:
            replies[running] = ("error", [], f"{DIED} with exit code {code}", silence)
        else:
            others.insert(0, running)
        if others:
            queue.insert(0, others)


def _paths(paths):
    """Absolute paths, as strings, of one database or several."""
    single = isinstance(paths, (str, os.PathLike))
    return tuple(os.path.abspath(path) for path in ([paths] if single else paths))


def _text(sql):
    """A query as workers get it; None, which they refuse, for what is no text or far too long."""
    return sql if isinstance(sql, str) and len(sql) < 200_000 else None


if __name__ == "__main__":
    if sys.argv[1:2] != ["--worker"]:
        sys.exit("nothing to run here; to score: python -m data.benchmarks.scoring --help")
    work(Limits(*json.loads(sys.argv[2])))
