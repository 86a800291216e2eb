"""Random databases: every query runs, nothing held out leaks, questions carry their values."""

import random
import re

import pytest

from data.pretraining.asking import plural
from data.pretraining.questions import KINDS, SIMPLE, fill, random_pairs
from data.pretraining.random_schemas import Lexicon, random_database
from data.sql.tree import literal
from sqlexec import DataError

STRING = re.compile(r"'((?:[^']|'')*)'")


def sample(lexicon, seed, count, **options):
    """[(database, pairs)] of so many random databases."""
    rng = random.Random(seed)
    drawn = []
    for _ in range(count):
        database = random_database(rng, lexicon)
        drawn.append((database, random_pairs(rng, lexicon, database, 6, **options)))
    return drawn


@pytest.fixture(scope="module")
def training():
    return sample(Lexicon(False), 1, 700)


@pytest.fixture(scope="module")
def measuring():
    return sample(Lexicon(True), 2, 300)


def pairs(drawn):
    return [pair for _, found in drawn for pair in found]


def test_all_queries_run_and_most_find_rows(training, measuring):
    filled = []
    for i, (database, found) in enumerate(training + measuring):
        connection = fill(database, random.Random(i))
        filled += [bool(connection.execute(pair.query).fetchall()) for pair in found]
        connection.close()
    assert len(filled) > 5500 and sum(filled) > 0.8 * len(filled)


def test_one_seed_one_output():
    again = [sample(Lexicon(False), 3, 40) for _ in "ab"]
    assert pairs(again[0]) == pairs(again[1])
    assert [w.schema for w, _ in again[0]] == [w.schema for w, _ in again[1]]
    assert pairs(again[0]) != pairs(sample(Lexicon(False), 4, 40))


def test_every_kind_occurs(training):
    assert {pair.kind for pair in pairs(training)} == set(KINDS)


def words_of(database, found):
    texts = [pair.question for pair in found]
    for table in database.schema.tables:
        texts += [table.name, *(c.name for c in table.columns)]
    texts += [v for vs in database.values.values() for v in vs if isinstance(v, str)]
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", " ".join(texts)).replace("_", " ")
    return set(re.findall(r"[a-z]+", text.lower()))


def test_held_out_words_never_occur_in_training(training, measuring):
    lexicon = Lexicon(False)
    held = lexicon.held
    assert len(held) > 150 and held == Lexicon(True).held
    # codes and initials are random letters, so only words of four letters or more can tell
    seen = {w for drawn in training for w in words_of(*drawn) if len(w) > 3}
    plurals = {plural(w) for w in held} - lexicon.known    # Brooks is a name, brook a noun
    assert not seen & (held | plurals)
    met = {w for drawn in measuring for w in words_of(*drawn)}
    assert len(met & held) > 100


def test_syllables_and_phrasings_are_disjoint():
    train, test = Lexicon(False), Lexicon(True)
    assert len(test.syllables) > 100 and not set(train.syllables) & set(test.syllables)
    for section, lines in test.phrases.items():
        shared = set(lines) & set(train.phrases[section])
        assert not shared or set(lines) == set(train.phrases[section])
    mixed = Lexicon(True, phrasings=False)
    assert mixed.phrases == train.phrases and mixed.held == test.held


def test_held_out_phrasings_are_not_said_in_training(training):
    marked = ("Please provide", "showing", "I am looking for", "typical (mean)", "is anything but")
    text = " ".join(pair.question for pair in pairs(training))
    assert not [m for m in marked if m in text]


def test_text_literals_stand_in_the_question_and_in_links(training):
    for database, found in training:
        for pair in found:
            cells, said = {v for _, _, v in pair.links}, pair.question.lower()
            flags = {v for t, c, v in pair.links if database.nouns[t, c].kind in ("flag", "sex")}
            for match in STRING.finditer(pair.query):
                value = match[1].replace("''", "'")
                like = pair.query[:match.start()].endswith("LIKE ")
                assert value.strip("%").lower() in said or value in flags, pair
                assert like or value in cells, pair
            for table, column, value in pair.links:
                assert literal(value) in pair.query or value in flags
                assert value in database.values[table, column]


def test_queries_are_written_in_one_style(training):
    for pair in pairs(training):
        bare = STRING.sub("''", pair.query)
        assert not re.search(r"  |\( | \)|;|<>|\bASC\b|,\S| ,", bare), bare
        for select in re.split(r"\(?(?=SELECT )", bare):
            source = re.search(
                r" FROM (.*?)(?: WHERE | GROUP BY | ORDER BY |\)| INTERSECT | EXCEPT | UNION |$)",
                select)
            if source and " JOIN " not in source[1]:
                assert " AS " not in source[1] and not re.search(r"\bT\d\.", select), bare
            elif source:
                assert " AS T1 JOIN " in source[1], bare


def test_schema_is_consistent(training):
    for database, _ in training:
        columns = {t.name: {c.name for c in t.columns} for t in database.schema.tables}
        assert len({name.lower() for name in columns}) == len(columns)
        for name, found in columns.items():
            assert len({c.lower() for c in found}) == len(found)
        for child, column, parent, key in database.schema.foreign_keys:
            assert column in columns[child] and key in columns[parent]
        for table in database.schema.tables:
            for c in table.columns:
                assert c.type in ("text", "number", "time", "boolean")
                assert database.values[table.name, c.name]


def test_options(training):
    rng, lexicon = random.Random(5), Lexicon(False)
    assert all(len(random_database(rng, lexicon, 2).schema.tables) <= 2 for _ in range(100))
    simple = pairs(sample(lexicon, 6, 60, simple=1.0))
    assert {p.kind for p in simple} <= set(SIMPLE)
    assert not [p for p in simple if " JOIN " in p.query]


def test_missing_words(tmp_path):
    with pytest.raises(DataError):
        Lexicon(False, tmp_path)
