"""Value linking (section 3.1.2): the values of a database that a question names.

    ValueIndex(schema, db_path).link(question) -> [(table, column, value)]

No search server is needed. Short text values are kept in a dictionary by their folded words
(lower case, no accents, no punctuation). The question's word n-grams are looked up in it, longest
first, and what remains of the question is matched fuzzily. Numbers link only in quotes; stop
words, single letters and the schema's own nouns only in quotes, in capitals ("grade A") or next to
a content word.
"""

import re
import sqlite3
import time
import unicodedata
from collections import Counter
from contextlib import closing, contextmanager
from difflib import SequenceMatcher
from itertools import product

from data.report.terminal import sqlite_callback
from data.sql import quote_name
from sqlexec import DataError, database_uri

MAX_CHARS = 50          # longer text is prose that no question quotes
MAX_DISTINCT = 20_000   # values read per column
MAX_WORDS = 8           # of the question in one phrase
MAX_COLUMNS = 4         # links for one phrase
MIN_RATIO = 0.85        # similarity of a fuzzy match, whose first content words ...
PREFIX = 3              # ... share so many letters ...
MIN_CHARS = 5           # ... and which is not shorter than this
STEPS = 200_000_000     # SQLite instructions to read one database with, about 5 seconds' worth: a
PACE = 1000             # count, checked so often, gives the same prompts on a slow machine ...
SECONDS = 20            # ... unless reading takes longer than this: huge texts, a slow disk
KEEPING = 150           # instructions that storing one value in Python counts as
CODE = 4                # capitals up to this length are a code, named in capitals: PER, STAR

WORD = re.compile(r"[^\W_]+")
NAME_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+|[^\W\d_]+")
NUMBER = re.compile(r"[-+]?(?!0\d)[\d,]*\.?\d+%?")      # 0970 is no number but a name in digits
QUOTED = re.compile(
    r"""(?<!\w)(?:"([^"]+)"|'([^']+(?:'\w[^']*)*)'|“([^”]+)”|‘([^’]+)’)(?!\w)""")
FLAGS = frozenset("y n yes no t f true false m".split())
SEXES = {"female": "f", "females": "f", "male": "m", "males": "m"}
STOP = frozenset("""
    a about above after all also an and any are as at be been before below between both but by can
    count do does each every for from find give had has have having her his how i id in into is it
    its least less list many me more most much name names no not number of on one only or order
    other our out over return same show than that the their them there these they this those to
    total two under was were what when where which who whose why with you your
    """.split())


def fold(text):
    """Lower-case text without accents."""
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text.casefold())
    return "".join(c for c in decomposed if not unicodedata.combining(c))


def phrase(text):
    """The key of a value: its folded words, or the text itself where it has no words."""
    return " ".join(WORD.findall(fold(text))) or text.strip()


def inflections(key):
    """Simple plurals and singulars of a phrase's last word."""
    endings = [("", "s"), ("", "es"), ("y", "ies"), ("ies", "y"), ("es", ""), ("s", "")]
    return [key[:len(key) - len(old)] + new for old, new in endings
            if key.endswith(old) and len(key) > len(old) + 2]


def start(key):
    """The letters that fuzzy matches share, of the first word that is no stop word."""
    return next((word for word in key.split() if word not in STOP), key)[:PREFIX]


def usable(entries, mention):
    """The entries that an unquoted mention may mean, equal spellings first."""
    entries = [entry for entry in entries if not NUMBER.fullmatch(entry[2])
               and (mention.isupper() or len(entry[2]) > CODE or not entry[2].isupper())]
    return sorted(entries, key=lambda entry: entry[2] != mention)


class Meter:
    """Interrupts a connection's queries once they have used STEPS or SECONDS in total."""

    def __init__(self, db):
        self.steps, self.seconds, self.least, self.end = STEPS, SECONDS, 0, 0.0
        db.set_progress_handler(self._tick, PACE)

    @contextmanager
    def share(self, part):
        """Within the context, queries may use this part of what is left; 1 is all of it."""
        start = time.monotonic()
        self.least = max(0, self.steps - int(self.steps * part))
        self.end = start + self.seconds * part
        try:
            yield
        finally:
            self.seconds -= time.monotonic() - start

    @sqlite_callback
    def _tick(self):
        self.steps -= PACE
        return self.steps < self.least or time.monotonic() > self.end


def distinct_text(db, table, column, meter):
    """(up to MAX_DISTINCT short one-line UTF-8 texts of a column, why some are missing or "")."""
    # Without the alias, SQLite would take the name of an absent column for a string.
    column = f"t.{quote_name(column)}"
    sql = (f"SELECT DISTINCT {column} FROM {quote_name(table)} AS t "
           f"WHERE typeof({column}) = 'text' AND length({column}) <= {MAX_CHARS} "
           f"LIMIT {MAX_DISTINCT}")
    values, problem = [], ""
    try:
        for value, in db.execute(sql):
            values.append(value)
            meter.steps -= KEEPING
    except (sqlite3.OperationalError, UnicodeError) as error:
        # Spider's tables.json names some tables that the files lack.
        problem = "" if re.match("no such (table|column)", str(error)) else str(error)
    return [value for value in values if value.isprintable() and value.strip()], problem


class ValueIndex:
    """The text values of one database, read at the first question; DataError if unreadable.

    Views are not read: they show what tables hold."""

    def __init__(self, schema, db_path):
        self.schema, self.db_path = schema, db_path
        self.entries = None     # phrase -> [(table, column, value)] in schema order
        self.columns = {}       # (table, column) -> its values
        self.spellings = {}     # (first letters, length) -> [phrase]
        self.flags = {}         # (table, column) -> its entries, where all are yes, no and the like
        self.nouns = set()      # head words of table and column names, singular and plural
        self.skipped = []       # once read: a line for each column of which values are missing

    def link(self, question, limit=8, per_column=2):
        """The stored values that a question names, as [(table, column, value)], best first.

        At most limit in all and per_column of one column. Quoted phrases come first, then exact
        ones (the longest first), close spellings, and flags."""
        if self.entries is None:
            self._build()
        if question.isupper():      # then capitals mean nothing
            question = question.lower()
        links, used = [], Counter()
        for entries in self._mentions(question):
            for entry in entries[:MAX_COLUMNS]:
                if used[entry[:2]] < per_column and entry not in links:
                    used[entry[:2]] += 1
                    links.append(entry)
        return links[:limit]

    def _mentions(self, question):
        """The entries that each phrase of the question names, best phrase first."""
        quoted = [phrase(next(filter(None, m.groups()))) for m in QUOTED.finditer(question)]
        mentions = [self.entries[key] for key in quoted if key in self.entries]
        words = [m.span() for m in WORD.finditer(question)]
        content = [self._is_content_word(question, *span) for span in words]
        taken = [False] * len(words)
        spans = [slice(i, i + n) for n in range(min(MAX_WORDS, len(words)), 0, -1)
                 for i in range(len(words) - n + 1)]
        for look_up, span in product((self._same, self._similar), spans):
            if any(content[span]) and not any(taken[span]):
                entries = look_up(question[words[span][0][0]:words[span][-1][1]])
                if entries:
                    mentions.append(entries)
                    taken[span] = [True] * len(taken[span])
        return mentions + self._flags(phrase(question).split())

    def _is_content_word(self, question, start, end):
        """Whether a word may name a value by itself, unquoted."""
        word, first = question[start:end], not question[:start].strip()
        if word.isupper() and word != "I" and not (first and len(word) == 1):
            return True
        if fold(word) in self.nouns:
            return word[0].isupper() and not first
        return len(word) > 1 and fold(word) not in STOP

    def _same(self, mention):
        return usable(self.entries.get(phrase(mention), ()), mention)

    def _similar(self, mention):
        key = phrase(mention)
        known = [form for form in inflections(key) if form in self.entries]
        best = known[0] if known else self._closest(key)
        return [] if best in STOP else usable(self.entries.get(best, ()), mention)

    def _closest(self, key):
        """The most similar phrase, or None. A number never matches another number."""
        if len(key) < MIN_CHARS or not key.replace(" ", "").isalpha():
            return None
        best, best_ratio, letters = None, MIN_RATIO, start(key)
        matcher = SequenceMatcher(autojunk=False)
        matcher.set_seq2(key)
        spread = (2 - MIN_RATIO) / MIN_RATIO    # beyond these lengths no ratio reaches the minimum
        for length in range(int(len(key) / spread), int(len(key) * spread) + 1):
            for other in self.spellings.get((letters, length), ()):
                matcher.set_seq1(other)
                if matcher.quick_ratio() >= best_ratio and matcher.ratio() >= best_ratio:
                    best, best_ratio = other, matcher.ratio()
        return best

    def _flags(self, words):
        """The entries of flag columns: a question names what a flag means, not what is stored."""
        wanted = {SEXES.get(word) for word in words}
        words = [word for word in words if len(word) > 3 and word not in STOP]
        return [[entry for entry in entries if fold(entry[2]) in wanted
                 or any(word in fold(column) for word in words)]
                for (_, column), entries in self.flags.items()]

    def _build(self):
        """Read the database and index what it holds."""
        for table in self.schema.tables:
            for name in (table.name, *(column.name for column in table.columns)):
                head = fold((NAME_PART.findall(name) or [name])[-1])
                self.nouns.update((head, *inflections(head)))
        try:
            with closing(sqlite3.connect(database_uri(self.db_path), uri=True)) as db:
                db.text_factory = lambda raw: raw.decode(errors="surrogateescape")
                columns = self._read(db)
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"{self.db_path}: {error}") from error
        self.entries, self.columns = {}, columns
        for column, values in columns.items():
            for value in values:
                self.entries.setdefault(phrase(value), []).append((*column, value))
            if all(fold(value) in FLAGS for value in values):
                self.flags[column] = [(*column, value) for value in values]
        for key in self.entries:
            self.spellings.setdefault((start(key), len(key)), []).append(key)

    def _read(self, db):
        """{(table, column): values} of the columns that may hold text."""
        places = [(table.name, column.name) for table in self.schema.tables if not table.view
                  for column in table.columns if column.type != "number"]
        meter, found, problems = Meter(db), {}, {}
        for _ in range(2):          # what short columns leave is for those that were cut off
            for number, place in enumerate(places):
                with meter.share(1 / (len(places) - number)):
                    found[place], problems[place] = distinct_text(db, *place, meter)
            places = [place for place in places if problems[place] == "interrupted"]
        self.skipped = [
            f"column {'.'.join(place)}: "
            + ("values read in part" if problem == "interrupted" else problem)
            for place, problem in problems.items() if problem]
        return found
