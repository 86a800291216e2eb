"""Reads benchmarks in the layouts their authors publish: Spider's (and its variants') and BIRD's.

    Spider: tables.json, train_spider.json + train_others.json (or train.json), val.json, dev.json,
            test.json, database/<db_id>/<db_id>.sqlite
    BIRD:   train.json or dev.json with question, evidence, SQL and difficulty,
            train_tables.json or dev_tables.json, train_databases/ or dev_databases/
    Own:    a folder of SQLite files, or one such file, without any of the above; train.json (or
            examples.json), val.json and test.json where there are questions with their SQL

Examples may also lie in .jsonl files, one a line. A database folder may hold several .sqlite files
(a test suite), or only <db_id>.sql: text that git can show, from which the .sqlite is built on
first use.
"""

import csv
import hashlib
import io
import json
import re
import sqlite3
import time
import zlib
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, fields, replace
from functools import cache, cached_property
from pathlib import Path

from data.report.files import read_lines, whole
from data.report.terminal import sqlite_callback
from data.schema import listed_schema, read_schema
from data.synthesis.keys import with_inferred_keys
from sqlexec import DataError

DATABASE_FOLDERS = ("database", "test_database", "dev_databases", "train_databases")
SPLITS = ("train", "val", "dev", "test")
SPLIT_FILES = {"train": (("train_spider.json", "train_others.json"), ("train.json",),
                         ("examples.json",))}
TABLE_FILES = ("tables.json", "test_tables.json", "dev_tables.json", "train_tables.json")
SUFFIXES = (".sqlite", ".sqlite3", ".db", ".db3", ".s3db", ".sl3")
BUILT = 0x53504654      # application_id of a .sqlite that was built here from .sql text: "SPFT"


@dataclass(frozen=True)
class Example:
    db_id: str
    question: str
    query: str              # the gold SQL
    evidence: str = ""      # BIRD's hint
    difficulty: str = ""    # BIRD's: simple, moderate or challenging
    target: str = ""        # the SQL that training teaches; empty: the gold itself
    template: str = ""      # of a synthetic query: the key of its template ...
    part: str = ""          # ... and the part that it played: train, y+ or y-


class Data:
    """A benchmark folder. Whatever is wrong in it raises DataError naming the file and place.

    own: {db_id: path} of the user's own databases; infer_keys: with keys that nobody declared."""

    def __init__(self, folder, infer_keys=True):
        self.folder, self.infer_keys = Path(folder), infer_keys
        if not self.folder.exists():
            raise DataError(f"{folder}: no such folder or file")
        roots = [self.folder / name for name in DATABASE_FOLDERS if (self.folder / name).is_dir()]
        files = [self.folder]
        if not self.folder.is_file():
            files = [] if roots else _files_in(self.folder, SUFFIXES)
        self.own = {path.stem: path for path in files}
        if len(self.own) < len(files):
            raise DataError(f"{self.folder}: two databases of one name in it")
        if not roots and not self.own:
            raise DataError(f"{folder}: none of the folders {', '.join(DATABASE_FOLDERS)} in it, "
                            f"and no .sqlite file, nor {', '.join(SUFFIXES[1:])}")
        self._places = self.own or {        # db_id: its file, or its folder in the first root
            path.name: path for root in reversed(roots) for path in _entries(root, Path.is_dir)}
        self._databases = {}                # db_id: its files, or the DataError that they cause

    # Examples

    def has(self, split):
        return bool(self._load(split)[0])

    def usable(self, split):
        """(Examples of a split whose database can be read, Counter of why others were left out).

        split: a name (train, dev, ...) or a .json file's path. A person's own databases need no
        such file."""
        examples, problems = self._checked(split)
        return examples, Counter(reason for reason, _ in problems)

    def examples(self, split):
        """List of all Examples of a split; DataError where one's database cannot be read."""
        examples, problems = self._checked(split)
        if problems:
            raise DataError(problems[0][1])
        return examples

    def problems(self, split):
        """List of (reason, line to print) for the examples that usable() leaves out."""
        return self._checked(split)[1]

    def _checked(self, split):
        if not self.own and not _split_files(self.folder, split):
            raise DataError(f"{self.folder}: no {split}.json for the split {split!r}")
        examples, problems = [], []
        for place, example in self._load(split)[0]:
            try:
                self.databases(example.db_id)
                examples.append(example)
            except DataError as problem:
                reason = "unreadable" if example.db_id in self._places else "no such"
                problems.append((f"{reason} database", f"{place}: {problem}"))
        return examples, problems

    def mode(self, split):
        """Whose rules score the split: "bird" where its records have a key "SQL", else "spider"."""
        return self._load(split)[1]

    @cache
    def _load(self, split):
        """([(place, Example)], mode) of a split, without Examples where it has no file."""
        records = [(f"{path}: example {index}", record)
                   for path in _split_files(self.folder, split)
                   for index, record in enumerate(_read_list(path))]
        alone = next(iter(self.own)) if len(self.own) == 1 else None
        examples = [(place, _example(record, place, self._spelled, alone))
                    for place, record in records]
        if self.folder.is_file():               # others' examples may lie beside it
            examples = [(place, e) for place, e in examples if e.db_id in self.own]
        return examples, "bird" if any("SQL" in record for _, record in records[:1]) else "spider"

    def _spelled(self, db_id):
        """The database's name, found also in other case or between spaces, if only one is."""
        if db_id in self._places:
            return db_id
        same = [name for name in self._places if name.lower() == db_id.strip().lower()]
        return same[0] if len(same) == 1 else db_id

    # Databases

    def db_ids(self):
        """Sorted names of all databases."""
        return sorted(self._places)

    def databases(self, db_id):
        """Sorted paths of a database's .sqlite files: one, or a test suite's many."""
        if db_id not in self._databases:
            try:
                if db_id not in self._places:
                    raise DataError(f"no database {db_id!r} in {self.folder}")
                place = self._places[db_id]
                files = [place] if db_id in self.own else _database_files(place, db_id)
                for path in files:
                    read_schema(path)   # a file that is no database must not wait for a query
                self._databases[db_id] = files
            except DataError as problem:
                self._databases[db_id] = problem
        found = self._databases[db_id]
        if isinstance(found, DataError):
            raise found
        return found

    def digest(self, split):
        """16 hex digits over the split's examples and the content of their databases; of all
        databases where they are a person's own."""
        keys = ("db_id", "question", "query", "evidence", "difficulty")
        total = hashlib.sha256(json.dumps([{key: getattr(example, key) for key in keys}
                                           for _, example in self._load(split)[0]]).encode())
        for db_id in sorted(self.own) or sorted({e.db_id for e in self.usable(split)[0]}):
            for path in self.databases(db_id):
                total.update(f"{db_id}/{path.name}".encode())
                text = path.with_suffix(".sql")     # does not vary with SQLite's version
                built = _built_from(path) is not None and text.is_file()
                with open(text if built else path, "rb") as file:
                    hashlib.file_digest(file, lambda: total)
        return total.hexdigest()[:16]

    # Schemas

    @cache
    def schema(self, db_id):
        """Schema of a database, from tables.json where it is listed, else from the file itself."""
        path = self.databases(db_id)[0]
        listed = self._tables.get(db_id)
        schema = listed_schema(*listed) if listed else read_schema(path)
        comments = _descriptions(self._places[db_id] / "database_description")
        if self.infer_keys and db_id in self.own:
            schema = with_inferred_keys(schema, path)
        return replace(schema, db_id=db_id).with_columns(lambda table, column: replace(
            column, comment=comments.get((table.name.lower(), column.name.lower()), "")))

    @cached_property
    def _tables(self):
        """{db_id: (entry, its place)} of the files like tables.json."""
        found = {}
        for path in map(self.folder.joinpath, TABLE_FILES):
            for index, record in enumerate(_read_list(path) if path.is_file() else []):
                place = f"{path}: entry {index}"
                if not isinstance(record, dict) or not isinstance(record.get("db_id"), str):
                    raise DataError(f"{place}: not an object with a db_id")
                found.setdefault(self._spelled(record["db_id"]), (record, place))
        return found


def read_examples(path):
    """Examples, a line each, that a run wrote and a person may have edited; DataError naming the
    file where one is malformed."""
    names = [field.name for field in fields(Example)]
    found = []
    for row in read_lines(path):
        record = {name: row[name] for name in names if name in row} if type(row) is dict else {}
        if not all(record.get(name) for name in names[:3]) or not all(
                isinstance(value, str) for value in record.values()):
            raise DataError(f"{path}: a line needs texts {', '.join(names[:3])}: "
                            f"{json.dumps(row)[:80]}")
        found.append(Example(**record))
    return found


def _split_files(folder, split):
    """The files that hold a split's examples, in a folder or beside a database file."""
    folder = folder.parent if folder.is_file() else folder
    choices = [[folder / name for name in names] for names in (
        *SPLIT_FILES.get(split, ()), (f"{split}.json",), (f"{split}.jsonl",), (split,))]
    found = ([path for path in paths if path.is_file()] for paths in (*choices, [Path(split)]))
    return next(filter(None, found), [])


def _example(record, place, spelled, alone=None):
    """The Example in a record of any layout; spelled: gives a database's name as its folder's;
    alone: the only database, which then needs no name."""
    if not isinstance(record, dict):
        raise DataError(f"{place}: not a JSON object")

    def text(*keys, default=None):
        value = next((record[key] for key in keys if record.get(key) is not None), default)
        if value is None:
            raise DataError(f"{place}: key {keys[-1]!r} is missing")
        if not isinstance(value, str):
            raise DataError(f"{place}: {keys[-1]!r} is not a string")
        return value

    parsed = not isinstance(record.get("sql"), str)         # Spider's "sql" is a parsed query
    return Example(spelled(text("db_id", default=alone)), text("SpiderSynQuestion", "question"),
                   text("SQL", "query", default=None if parsed else record["sql"]),
                   text("evidence", default=""), text("difficulty", default=""))


def _database_files(folder, db_id):
    """The .sqlite files of a benchmark's database, built from its text where that is all it has."""
    text, path = folder / f"{db_id}.sql", folder / f"{db_id}.sqlite"
    files = _files_in(folder, SUFFIXES[:1]) or _files_in(folder, SUFFIXES)
    if text.is_file() and (path in files or not files):
        _build(text, path)
        files = _files_in(folder, SUFFIXES[:1])
    if not files:
        raise DataError(f"{folder}: neither a .sqlite file with anything in it nor {db_id}.sql")
    return files


def _files_in(folder, suffixes):
    """Sorted files of a folder that end so, in either case, and are not empty."""
    return _entries(folder, lambda path: path.suffix.lower() in suffixes and path.is_file()
                    and path.stat().st_size)


def _entries(folder, wanted):
    """Sorted paths in a folder, without hidden ones (a Mac's ._x) and others that systems make."""
    try:
        return sorted(path for path in folder.iterdir() if path.name[0] != "."
                      and path.name.lower() not in ("__macosx", "thumbs.db") and wanted(path))
    except OSError as problem:
        raise DataError(f"{folder}: {problem}") from problem


def read_text(path, errors="strict"):
    """The text of a file in UTF-8, without its byte-order mark; DataError for any other file."""
    try:
        content = Path(path).read_bytes()
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(f"{path}: it is in UTF-16, not UTF-8")
        return content.decode("utf-8-sig", errors)
    except (OSError, ValueError) as problem:        # UnicodeDecodeError is a ValueError
        raise DataError(f"{path}: {problem}") from problem


def _read_list(path):
    text = read_text(path)
    if path.suffix == ".jsonl":
        text = "[" + re.sub(r"\s*\n\s*", ",\n", text.strip()) + "]"
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise DataError(f"{path}: {problem}") from problem
    if not isinstance(content, list):
        raise DataError(f"{path}: not a JSON list")
    return content


def _descriptions(folder):
    """{(table, column) in lower case: comment} from BIRD's database_description/<table>.csv."""
    comments = {}
    for path in _files_in(folder, (".csv",)) if folder.is_dir() else ():
        try:
            rows = list(csv.DictReader(io.StringIO(read_text(path, "replace"), newline="")))
        except csv.Error as problem:
            raise DataError(f"{path}: {problem}") from problem
        for row in rows:
            text = row.get("column_description") or row.get("column_name") or ""
            column = (row.get("original_column_name") or "").strip().lower()
            comments[path.stem.lower(), column] = " ".join(text.split())
    return comments


# Databases built from text

BUILD_SECONDS = 300
# What a script may set of the file, and what full-text tables ask for; others have no effect.
PRAGMAS = ("encoding", "page_size", "auto_vacuum", "foreign_keys", "writable_schema",
           "data_version")
FILE_FUNCTIONS = ("load_extension", "readfile", "writefile", "edit", "fts3_tokenizer")


def _built_from(path):
    """The checksum of the .sql text that a .sqlite was built from here; None for any other."""
    try:
        with open(path, "rb") as file:
            header = file.read(100)
    except OSError:
        return None
    return header[60:64] if header[68:72] == BUILT.to_bytes(4, "big") else None


def _build(text, path):
    """Builds path from SQL text unless it is there; again where it was built from other text.
    Several processes may do so at once."""
    script = read_text(text)
    checksum = zlib.crc32(script.encode()) >> 1     # user_version is a signed 32-bit number
    if (path.exists() and path.stat().st_size
            and _built_from(path) in (None, checksum.to_bytes(4, "big"))):
        return
    try:
        with whole(path) as temporary:
            temporary.touch()                       # says why a folder cannot be written
            with closing(sqlite3.connect(temporary)) as connection:
                connection.executescript("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
                _run_script(connection, script)
                connection.executescript(f"PRAGMA application_id = {BUILT};"
                                         f"PRAGMA user_version = {checksum};")
    except (sqlite3.Error, OSError, ValueError) as problem:
        raise DataError(f"{text}: cannot build {path.name}: {problem}") from problem


def _run_script(connection, script):
    """Runs a script that may do nothing but fill this one database, in BUILD_SECONDS."""
    denied, deadline = [], time.monotonic() + BUILD_SECONDS

    @sqlite_callback
    def authorize(action, first, second, database, trigger):
        if action == sqlite3.SQLITE_PRAGMA and first.lower() not in PRAGMAS:
            return sqlite3.SQLITE_IGNORE
        if action == sqlite3.SQLITE_FUNCTION and second.lower() in FILE_FUNCTIONS:
            denied.append(second)
        # VACUUM attaches a file without a name, VACUUM INTO one with a name; a computed name is
        # None here.
        if action == sqlite3.SQLITE_ATTACH and first != "" or action == sqlite3.SQLITE_DETACH:
            denied.append("ATTACH, DETACH or VACUUM INTO")
        return sqlite3.SQLITE_DENY if denied else sqlite3.SQLITE_OK

    connection.set_authorizer(authorize)
    connection.set_progress_handler(sqlite_callback(lambda: time.monotonic() > deadline), 10_000)
    try:
        connection.executescript(script)
    except sqlite3.Error as problem:
        late = time.monotonic() > deadline
        raise ValueError(f"not allowed: {denied[0]}" if denied else
                         f"not done after {BUILD_SECONDS} s" if late else
                         " ".join(str(problem).split())[:300]) from problem
    connection.set_authorizer(None)
    if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():
        raise ValueError("the script leaves no table")
    connection.set_progress_handler(None, 0)
