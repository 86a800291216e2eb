"""Terminals that nothing printed can command, and runs that a signal ends in one line."""

import os
import signal
import sys
import threading
import unicodedata
from contextlib import contextmanager, redirect_stdout

from sqlexec import DataError

BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text):
    """The text with control characters, direction marks and lone surrogates as visible escapes;
    line ends and tabs stay."""
    return "".join(ascii(c)[1:-1] if c in BIDI or c not in "\n\t"
                   and unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


class SafeOutput:
    """A text stream that writes printable text, in whatever encoding the stream below has."""

    def __init__(self, stream):
        self.stream = stream

    def write(self, text):
        encoding = getattr(self.stream, "encoding", None) or "utf-8"
        self.stream.write(printable(text).encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name):
        return getattr(self.stream, name)


@contextmanager
def safe_output():
    """Inside, print() shows any text: nothing raises, and nothing in it commands the terminal.
    Bytes typed that are not of the terminal's encoding do not raise either."""
    for stream, errors in ((sys.stderr, "backslashreplace"), (sys.stdin, "replace")):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=errors)
    with redirect_stdout(SafeOutput(sys.stdout)):
        yield


class Stopped(KeyboardInterrupt):
    """Ctrl-C or SIGTERM: workers end, and what is written is whole."""


DEFERRED = []      # of each deferred() at work, the signals that came
CALLBACKS = set()  # code of functions that SQLite calls


def sqlite_callback(function):
    """Mark a function that SQLite calls.  SQLite drops what is raised in it and ends the query with
    an error, as if it took too long: a signal waits until the function has returned."""
    CALLBACKS.add(function.__code__)
    return function


def in_callback(frame):
    while frame and frame.f_code not in CALLBACKS:
        frame = frame.f_back
    return frame is not None


@contextmanager
def stoppable():
    """Inside, the first SIGINT or SIGTERM raises Stopped; a second one ends the process at once."""
    def stop(number, frame):
        if in_callback(frame):
            threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
            return
        signal.signal(number, signal.SIG_DFL)
        if not DEFERRED:
            raise Stopped(number)
        DEFERRED[-1].append(number)

    in_main = threading.current_thread() is threading.main_thread()     # else not ours to catch
    signals = (signal.SIGINT, signal.SIGTERM) if in_main else ()
    before = [signal.signal(number, stop) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before):
            signal.signal(number, handler)


@contextmanager
def deferred():
    """The list of signals that came inside; the first one raises Stopped at the end."""
    DEFERRED.append([])
    try:
        yield DEFERRED[-1]
    finally:
        signals = DEFERRED.pop()
        if signals:
            raise Stopped(signals[0])


def fail(name, message):
    print(f"{name}error: {printable(str(message))}", file=sys.stderr)
    return 2


def run_command(name, work, goes_on=lambda: False, errors=()):
    """The exit code of work(), where None is 0 too: 2 after one line for bad input and `errors`,
    128 + signal where it was stopped.  goes_on(): whether the same command then continues."""
    name = name and f"{name}: "
    with safe_output(), stoppable():
        try:
            return work()
        except (DataError, OSError, *errors) as error:
            return fail(name, error)
        except KeyboardInterrupt as stop:
            print(f"\n{name}stopped" + "; the same command continues" * goes_on(), file=sys.stderr)
            return 128 + (stop.args[0] if stop.args else signal.SIGINT)
