"""Value linking on a small hand-made database: what is offered, in which order, and what is not."""

import sqlite3
from contextlib import closing

import pytest

from data.prompts import values as values_module
from data.prompts.values import ValueIndex, fold, phrase
from data.schema import Column, Schema, Table, read_schema
from sqlexec import DataError

SCRIPT = '''
CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, country TEXT, sex TEXT, grade TEXT);
INSERT INTO singer VALUES
    (1, 'Conan O''Brien', 'Côte d''Ivoire', 'M', 'A'),
    (2, 'joe sharp', 'United States', 'F', 'B'),
    (3, 'Zoë Kravitz', 'Bangladesh', 'F', 'F'),
    (4, 'North', 'North Macedonia', 'M', 'C');
CREATE TABLE "order item" ("select" TEXT, "full ""name""" TEXT, zip TEXT, IsGift TEXT, n INTEGER);
INSERT INTO "order item" VALUES
    ('New York City', 'DVD drive', '10001', 'T', 'unknown'), ('New York', 'PER', '0970', 'F', 7),
    ('York', 'order', '12', 'F', 8), (' padded ', 'country', '2', 'F', 8);
CREATE TABLE airport (code TEXT, city TEXT);
INSERT INTO airport VALUES ('TOP', 'New York'), ('OR', 'NEW YORK'), ('JFK', 'new york'),
    ('x', 'Bay'), ('I', 'Terminal 21');
CREATE TABLE stall (name TEXT);
CREATE VIEW shown AS SELECT 'Moonlight' AS name;
'''
GHOST = '''
PRAGMA writable_schema = ON;
INSERT INTO sqlite_master VALUES
    ('table', 'ghost', 'ghost', 0, 'CREATE VIRTUAL TABLE ghost USING no_module(name)');
'''


@pytest.fixture
def db_path(tmp_path):
    path = tmp_path / "shop#1?.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript(SCRIPT)
    return path


@pytest.fixture
def index(db_path):
    return ValueIndex(read_schema(db_path), db_path)


def values(index, question, **bounds):
    return [value for _, _, value in index.link(question, **bounds)]


def test_offers_table_column_and_the_stored_text(index):
    assert index.link("Where does JOE SHARP live?") == [("singer", "name", "joe sharp")]
    assert index.link("Anything padded?") == [("order item", "select", " padded ")]
    assert index.link("Who sells a dvd drive?") == [("order item", 'full "name"', "DVD drive")]


@pytest.mark.parametrize("question, value", [
    ("the age of Conan O'Brien", "Conan O'Brien"),
    ("Conan O’Brien's age", "Conan O'Brien"),
    ("singers from Cote d'Ivoire", "Côte d'Ivoire"),
    ("how old is ZOE KRAVITZ?", "Zoë Kravitz"),
    ("HOW OLD IS JOE SHARP?", "joe sharp"),
    ("how old is zoe\u0308 kravitz?", "Zoë Kravitz"),
])
def test_apostrophes_accents_and_case(index, question, value):
    assert values(index, question) == [value]


def test_the_longest_phrase_wins_over_its_parts(index):
    assert values(index, "orders to New York City") == ["New York City"]
    assert values(index, "singers of North Macedonia") == ["North Macedonia"]
    assert values(index, "singers called North") == ["North"]
    # Taken words are not used twice, but the same words elsewhere are.
    assert values(index, "from York to New York City") == ["New York City", "York"]


def test_a_phrase_is_matched_only_at_word_boundaries(index):
    assert values(index, "the northern Yorkshire") == []


def test_a_value_of_several_columns_is_offered_for_each_alike_spelling_first(index):
    assert index.link("trips to New York") == [
        ("order item", "select", "New York"), ("airport", "city", "New York"),
        ("airport", "city", "NEW YORK")]     # two of one column, not three
    assert index.link("trips to NEW YORK", per_column=1) == [
        ("airport", "city", "NEW YORK"), ("order item", "select", "New York")]
    assert len(index.link("trips to New York", per_column=3)) == 4


def test_order_and_bounds(index):
    question = "Is Bangladeshi better than joe sharp, New York City or 'B'?"
    assert values(index, question) == ["B", "New York City", "joe sharp", "Bangladesh"]
    assert values(index, question, limit=2) == ["B", "New York City"]
    assert values(index, question, limit=0) == []


@pytest.mark.parametrize("question, found", [
    ("dvd drives", ["DVD drive"]),
    ("singers of the United State", ["United States"]),
    ("singers from Bangladehs", ["Bangladesh"]),
    ("flights over the bays", ["Bay"]),
    ("flights to Termianl 21", []), ("flights to Terminal 22", []), ("over the bya", []),
    ("from yor", []),                           # too short to tell
    ("singers from Mangladesh", []),            # another start
    ("who is joe shaper", []),                  # too far
])
def test_close_spellings(index, question, found):
    assert values(index, question) == found


@pytest.mark.parametrize("question, found", [
    ("orders to 10001", []), ("orders to '10001'", ["10001"]), ('orders to "2"', ["2"]),
    ("the number 0970", ["0970"]),              # the leading zero tells that it is text
    ("orders to 10002", []),                    # not a misspelt 10001
    ("a singer with a grade", []), ("a singer of grade B", ["B"]), ("A singer", []),
    ("singers I like", []), ("the gate x", []), ("WHO IS A TOP SINGER OR AN AIRPORT?", []),
    ("airport or city", []), ("airport 'or'", ["OR"]), ("airports in OR", ["OR"]),
    ("the top singer per country", []), ("the airport TOP", ["TOP"]),
    ("each country of an order", []), ("each 'country' of an order", ["country"]),
    ("orders of Country", ["country"]), ("unknown", []),    # stored in a column of numbers
])
def test_numbers_letters_stop_words_codes_and_schema_nouns(index, question, found):
    assert values(index, question) == found


def test_flags_are_named_by_their_column_or_sex(index):
    assert index.link("How many female singers are there?") == [
        ("singer", "sex", "F"), ("order item", "IsGift", "F")]      # not grade F
    assert index.link("Which of them was a gift?") == [
        ("order item", "IsGift", "T"), ("order item", "IsGift", "F")]


def test_empty_and_hostile_questions(index):
    for question in ("", "   ", "?!'\"", "''", "'" * 500, "\x00", "\ud800 \udcff", "é" * 3000):
        assert index.link(question) == []
    assert values(index, "x " * 2000 + "joe sharp") == ["joe sharp"]


def test_text_that_no_prompt_can_hold_is_left_out(tmp_path):
    path = tmp_path / "bytes.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE t (a TEXT, b BLOB)")
        db.execute("INSERT INTO t VALUES (CAST(x'4d616ef161' AS TEXT), x'6d6f6f6e')")   # latin-1
        db.executemany("INSERT INTO t (a) VALUES (?)", [
            ("sunrise\nsunset",), ("word " * 11,), ("",), (" ",), (None,), (3.5,), ("star*light",)])
        db.commit()
    index = ValueIndex(read_schema(path), path)
    question = "Mañana Mana moon sunrise sunset 3.5 star light ' ' '" + "word " * 11 + "'"
    assert index.link(question) == [("t", "a", "star*light")]


def test_views_are_not_read(index):
    assert index.link("Moonlight") == []


def test_columns_that_cannot_be_read_are_named_and_the_others_linked(tmp_path):
    path = tmp_path / "odd.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.create_collation("phonebook", lambda a, b: (a > b) - (a < b))
        db.executescript("""
            CREATE TABLE t (a TEXT COLLATE phonebook, b TEXT, c TEXT AS (upper(b)),
                            j TEXT, d TEXT AS (json_extract(j, '$')));
            INSERT INTO t (a, b, j) VALUES ('moon', 'planet', '{"size": 1}');""")
    path.write_bytes(path.read_bytes().replace(b'{"size": 1}', b'{"size": 1]'))
    index = ValueIndex(read_schema(path), path)
    assert index.skipped == []                  # it reads at the first question
    assert index.link("the moon or a planet") == [
        ("t", "b", "planet"), ("t", "c", "PLANET")]
    assert index.skipped == ["column t.a: no such collation sequence: phonebook",
                             "column t.d: malformed JSON"]


def test_reading_stops_after_so_many_steps_and_says_where(tmp_path, monkeypatch):
    path = tmp_path / "long.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("""
            CREATE TABLE t (a TEXT, b TEXT, c TEXT); CREATE TABLE u (d TEXT);
            WITH RECURSIVE k(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM k WHERE x < 30000)
            INSERT INTO t SELECT 'word ' || x, 'kind ' || (x % 3), iif(x < 9, 'sun', 'dust') FROM k;
            INSERT INTO u VALUES ('moon');""")
    schema, question = read_schema(path), "Which word 5, word 15000, kind 2, sun or moon?"
    whole = ValueIndex(schema, path)
    assert len(whole.link(question)) == 5 and whole.skipped == []
    monkeypatch.setattr(values_module, "STEPS", 500_000)
    parts = [ValueIndex(schema, path) for _ in range(2)]
    links = [index.link(question) for index in parts]
    assert links[0] == links[1] == [
        ("t", "a", "word 5"), ("t", "b", "kind 2"), ("t", "c", "sun"), ("u", "d", "moon")]
    assert parts[0].skipped == parts[1].skipped == [
        f"column t.{name}: values read in part" for name in "abc"]
    monkeypatch.setattr(values_module, "STEPS", 10 ** 9)
    monkeypatch.setattr(values_module, "SECONDS", 0)
    late = ValueIndex(schema, path)
    assert ("u", "d", "moon") in late.link(question) and len(late.skipped) == 3


def test_schema_and_file_may_differ(db_path):
    with closing(sqlite3.connect(db_path)) as db:
        db.executescript(GHOST)
    absent = (Table("singer", (Column("no such", "text"), Column("name", "text"))),
              Table("sqlite_sequence", (Column("name", "text"),)),
              Table("ghost", (Column("name", "text"),)))
    index = ValueIndex(Schema("shop", absent, ()), db_path)
    assert index.link("no such joe sharp") == [("singer", "name", "joe sharp")]


def test_unreadable_files_are_one_clear_error(tmp_path):
    schema = Schema("x", (Table("t", (Column("a", "text"),)),), ())
    (tmp_path / "noise.sqlite").write_bytes(b"no database " * 100)
    for name in ("noise.sqlite", "missing.sqlite"):
        with pytest.raises(DataError, match=name):
            ValueIndex(schema, tmp_path / name).link("anything")
    assert not (tmp_path / "missing.sqlite").exists()


def test_reading_is_lazy_and_the_same_twice(db_path):
    schema = read_schema(db_path)
    question = "Was joe sharp or Conan O'Brien in New York City, Bangladesh or JFK?"
    later = db_path.with_name("later.sqlite")
    index = ValueIndex(schema, later)       # not there yet
    db_path.rename(later)
    found = index.link(question)
    assert len(found) == 5
    assert index.link(question) == ValueIndex(schema, later).link(question) == found


def test_folding():
    assert fold("ÉCOLE Straße") == "ecole strasse"
    assert phrase(" St. John's-Wood_2 ") == "st john s wood 2"
    assert phrase(" +/- ") == "+/-"
