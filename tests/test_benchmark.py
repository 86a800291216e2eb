"""Benchmark folders in every published layout, official prediction files, and the command line."""

import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
sys.path.insert(0, str(ROOT))

from data.benchmarks import reader as benchmark  # noqa: E402
from data.benchmarks.reader import Data, Example  # noqa: E402
from data.prompts.schema_text import compact  # noqa: E402
from data.sql import canonical_sql  # noqa: E402
from data.prompts.values import ValueIndex  # noqa: E402
from data.benchmarks.scoring import (  # noqa: E402
    BIRD_MARK, efficiency, hardness, main, print_scores, read_predictions, score_predictions,
    write_predictions, write_scores, write_verdicts)
from data.synthesis.run import run_synth  # noqa: E402
from data.schema import Column, Schema, Table, read_schema  # noqa: E402
from sqlexec import DataError, Verifier, run_sql  # noqa: E402

needs_shared = pytest.mark.skipif(not SHARED.exists(), reason="../shared is not here")
SCRIPT = """CREATE TABLE pet (id INTEGER PRIMARY KEY, name TEXT, age INT);
INSERT INTO pet VALUES (1, 'Rex', 3), (2, 'Tom', 5), (3, 'Ann', NULL);
"""
GOLDS = ["SELECT name FROM pet WHERE age > 3", "SELECT COUNT(*) FROM pet",
         "SELECT name FROM pet ORDER BY age DESC LIMIT 1"]


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def add_database(path, script=SCRIPT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


def records(**extra):
    return [{"db_id": "pets", "question": f"q{i}", "query": sql, **extra}
            for i, sql in enumerate(GOLDS)]


@pytest.fixture
def spider(tmp_path):
    add_database(tmp_path / "database" / "pets" / "pets.sqlite")
    write(tmp_path / "dev.json", records())
    return tmp_path


@pytest.fixture
def bird(tmp_path):
    add_database(tmp_path / "dev_databases" / "pets" / "pets.sqlite")
    write(tmp_path / "dev_databases" / "pets" / "database_description" / "pet.csv",
          "\ufefforiginal_column_name,column_name,column_description,data_format\n"
          "id,,unique  number,integer\nage ,age,\"years, whole\",integer\n")
    write(tmp_path / "dev.json", [
        {"db_id": "pets", "question": "q", "evidence": "e", "SQL": sql, "difficulty": level}
        for sql, level in zip(GOLDS, ("simple", "moderate", "challenging"))])
    return tmp_path


SCHOOLS = """CREATE TABLE "school info" (`CDS Code` TEXT PRIMARY KEY, "School Name" TEXT,
    "Free Meal Count (K-12)" REAL, opened DATE, "order" INTEGER);
CREATE TABLE scores (cds TEXT REFERENCES "school info" (`CDS Code`), "Avg Math" INTEGER, note TEXT);
INSERT INTO "school info" VALUES ('01', 'Zoë High', 120.5, '1990-05-01', 1),
    ('02', 'Zoë High', NULL, NULL, 2),
    ('03', CAST(x'436166e920536368' AS TEXT), 0.0, '1999-01-01', 3),
    ('04', 'O''Neil', 7.25, '2001-12-31', NULL);
INSERT INTO scores VALUES ('01', 500, 'a'), ('01', 500, 'a'), ('02', NULL, 'b'), ('03', 640, NULL),
    ('03', 640, 'b'), ('04', 410, x'ff00');
"""
SCHOOL_GOLDS = [
    ("simple", "SELECT `School Name` FROM `school info` WHERE `Free Meal Count (K-12)` IS NULL"),
    ("simple", "SELECT `School Name` FROM [school info] WHERE `CDS Code` = '03'"),
    ("simple", "SELECT note, `Avg Math` FROM scores"),
    ("moderate", "SELECT T1.\"School Name\", CAST(SUM(CASE WHEN T2.`Avg Math` > 450 THEN 1 ELSE 0 "
     "END) AS REAL) * 100 / COUNT(*) FROM `school info` AS T1 INNER JOIN scores AS T2 ON "
     "T1.`CDS Code` = T2.cds GROUP BY T1.`CDS Code` ORDER BY T1.`order` DESC"),
    ("challenging", "SELECT IIF(AVG(`Avg Math`) > 1, 'yes', 'no'), STRFTIME('%Y', MAX(T1.opened)) "
     "FROM `school info` AS T1 LEFT JOIN scores AS T2 ON T1.`CDS Code` = T2.cds "
     "WHERE T1.opened IS NOT NULL AND T2.note IN ('a', 'b')")]


@pytest.fixture
def schools(tmp_path):
    """A folder as BIRD is downloaded, with what its databases are known to hold."""
    folder = tmp_path / "dev_databases" / "schools"
    add_database(folder / "schools.sqlite", SCHOOLS)
    described = folder / "database_description"
    described.mkdir()
    described.joinpath("school info.csv").write_bytes(
        b"\xef\xbb\xbforiginal_column_name,column_name,column_description,data_format,"
        b"value_description\r\nCDS Code,,\"the school's code,\nunique\",text,\r\n"
        b"Free Meal Count (K-12),Free Meal Count,,real,caf\xe9 meals\r\n")
    write(tmp_path / "dev.json", [
        {"question_id": i, "db_id": "schools", "question": f"q{i}", "SQL": sql, "difficulty": level,
         "evidence": "fully virtual refers to note = 'b'"}
        for i, (level, sql) in enumerate(SCHOOL_GOLDS)])
    write(tmp_path / "dev_tables.json", [{
        "db_id": "schools", "table_names_original": ["school info", "scores"],
        "column_names_original": [[-1, "*"], [0, "CDS Code"], [0, "School Name"],
                                  [0, "Free Meal Count (K-12)"], [0, "opened"], [0, "order"],
                                  [1, "cds"], [1, "Avg Math"], [1, "note"]],
        "column_types": ["text", "text", "text", "real", "date", "integer", "text", "integer",
                         "text"], "primary_keys": [1], "foreign_keys": [[6, 1]]}])
    return tmp_path


# Examples

def test_bird_as_downloaded(schools):
    data = Data(schools)
    example = data.examples("dev")[4]
    assert example.difficulty == "challenging" and example.evidence.startswith("fully virtual")
    schema = data.schema("schools")
    assert schema.tables[0].columns[0] == Column("CDS Code", "text", True,
                                                 "the school's code, unique")
    assert [column.comment for column in schema.tables[0].columns[1:3]] == ["", "Free Meal Count"]
    assert schema.foreign_keys == (("scores", "cds", "school info", "CDS Code"),)
    path, = data.databases("schools")
    linked = ValueIndex(schema, path).link("Which notes has Zoë High or O'Neil?")
    assert [value for _, _, value in linked][:2] == ["Zoë High", "O'Neil"]
    assert [column.type for column in schema.tables[0].columns] == [
        "text", "text", "number", "time", "number"]
    for example in data.examples("dev"):
        assert run_sql(path, canonical_sql(example.query, schema)).rows \
            == run_sql(path, example.query).rows != []


def test_spider_layout(spider):
    write(spider / "train_spider.json", records()[:2])
    write(spider / "train_others.json", records()[2:])
    data = Data(spider)
    assert data.examples("dev")[1] == Example("pets", "q1", GOLDS[1])
    assert [example.query for example in data.examples("train")] == GOLDS
    assert data.has("dev") and not data.has("test") and data.mode("dev") == "spider"
    assert data.db_ids() == ["pets"]
    assert data.databases("pets") == [spider / "database" / "pets" / "pets.sqlite"]
    assert data.schema("pets") == read_schema(data.databases("pets")[0])


def test_bird_layout(bird):
    data = Data(bird)
    assert data.examples("dev")[0] == Example("pets", "q", GOLDS[0], "e", "simple")
    assert data.mode("dev") == "bird"
    comments = [column.comment for column in data.schema("pets").tables[0].columns]
    assert comments == ["unique number", "", "years, whole"]


def test_variants_of_spider_are_read_by_name_or_path(spider, tmp_path):
    written = write(tmp_path / "other" / "spider_syn.json", [
        {"db_id": "pets", "SpiderQuestion": "q", "SpiderSynQuestion": "odd", "query": GOLDS[0]}])
    data = Data(spider)
    assert data.examples(str(written))[0].question == "odd"
    assert data.has(written) and not data.has("spider_syn")
    write(spider / "spider_dk.json", records(type="dk"))
    assert len(data.examples("spider_dk")) == 3 == len(data.examples("spider_dk.json"))


def variants(spider):
    """{name: the split} of the files that Spider's variants are published as, in one folder."""
    syn = [{"SpiderQuestion": "q", "SpiderSynQuestion": "p", "db_id": "pets", "query": sql}
           for sql in GOLDS]
    write(spider / "Spider-Syn" / "dev.json", syn)
    write(spider / "Spider-DK.json", records(type="SELECT", sql={}, question_toks=["q"]))
    write(spider / "spider-realistic.json", records(query_toks=[], sql={}))
    return {"dev": "dev", "Syn": str(spider / "Spider-Syn" / "dev.json"), "DK": "Spider-DK",
            "Realistic": "spider-realistic.json"}


@pytest.mark.parametrize("name", ["dev", "Syn", "DK", "Realistic"])
@pytest.mark.parametrize("suite", [False, True])
def test_golds_score_100_on_spider_and_its_variants(spider, capsys, name, suite):
    if suite:
        add_database(spider / "database" / "pets" / "pets_1.sqlite", SCRIPT.replace("5", "2"))
    split = variants(spider)[name]
    path = write(spider / "gold.txt", "".join(f"{sql}\tpets\n" for sql in GOLDS))
    assert main(["--score", str(path), "--data", str(spider), "--split", split,
                 "--json", str(spider / "out.json")]) == 0
    assert "all                3        3   100.0" in capsys.readouterr().out
    summary = json.loads((spider / "out.json").read_text())
    assert summary["levels"]["all"] == {"scored": 3, "correct": 3, "share": 100.0}
    assert summary["metric"] == ("TS" if suite else "EX") and summary["left_out"] == 0
    assert summary["digest"] == Data(spider).digest(split) and summary["split"] == split
    assert summary["sqlite"] == sqlite3.sqlite_version and summary["rules"] == "spider"


def test_golds_score_100_on_bird(schools, capsys):
    content = json.loads((schools / "dev.json").read_text())
    content.append({**content[0], "SQL": "SELECT nope", "difficulty": "simple"})
    write(schools / "dev.json", content)
    path = write(schools / "pred.json", {str(i): record["SQL"] + BIRD_MARK + "schools"
                                         for i, record in enumerate(content)})
    assert main(["--score", str(path), "--data", str(schools), "--json",
                 str(schools / "out.json"), "--ves", "1"]) == 0
    output = capsys.readouterr().out
    summary = json.loads((schools / "out.json").read_text())
    for level, scored in (("simple", 3), ("moderate", 1), ("challenging", 1), ("all", 5)):
        assert f"{level:12}{scored:8}{scored:9}   100.0" in output
        assert summary["levels"][level] == {"scored": scored, "correct": scored, "share": 100.0}
    assert summary["left_out"] == 1 and "left out, because the gold fails: 1" in output
    assert len(summary["VES"]["passes"]) == 5 and summary["rules"] == "bird"


JUNK = (None, 5, -7, 10**9, 0.5, "x", "", [], {}, [[]], [None], True)


def damaged(value, rng):
    """The value with one part of it, at any depth, replaced by junk or left out."""
    if isinstance(value, (list, dict)) and value and rng.random() < 0.9:
        key = rng.choice(list(value)) if isinstance(value, dict) else rng.randrange(len(value))
        copy = value.copy()
        if rng.random() < 0.2:
            del copy[key]
        else:
            copy[key] = damaged(value[key], rng)
        return copy
    return rng.choice(JUNK)


@pytest.mark.parametrize("seed", range(150))
def test_damaged_files_raise_nothing_but_one_clear_line(schools, seed):
    rng = random.Random(seed)
    name = rng.choice(["dev.json", "dev_tables.json"])
    write(schools / name, damaged(json.loads((schools / name).read_text()), rng))
    try:
        data = Data(schools)
        schema = data.schema("schools")
        assert all(isinstance(part, str) for key in schema.foreign_keys for part in key)
        compact(schema), data.examples("dev"), data.mode("dev"), data.digest("dev")
    except DataError as problem:
        assert name in str(problem) or "schools" in str(problem)
        assert "\n" not in str(problem)


def test_files_too_deep_to_read(spider):
    write(spider / "dev.json", "[" * 100_000)
    with pytest.raises(DataError, match="dev.json"):
        Data(spider).examples("dev")


@pytest.mark.parametrize("content, message", [
    ("[{", "dev.json: "), ('{"a": 1}', "dev.json: not a JSON list"),
    ([5], "example 0: not a JSON object"),
    (records() + [{"db_id": "pets", "question": "q"}], "example 3: key 'query' is missing"),
    ([{"db_id": "pets", "question": 5, "query": "x"}], "example 0: 'question' is not a string"),
    ([{"db_id": "pets", "question": "q", "query": None}], "example 0: key 'query' is missing"),
    ([{"db_id": "dogs", "question": "q", "query": "x"}], "example 0: no database 'dogs'"),
    ([{"db_id": "../pets", "question": "q", "query": "x"}], "example 0: no database '../pets'"),
])
def test_wrong_examples_name_the_file_and_place(spider, content, message):
    write(spider / "dev.json", content)
    with pytest.raises(DataError) as problem:
        Data(spider).examples("dev")
    assert message in str(problem.value) and "dev.json" in str(problem.value)
    assert "\n" not in str(problem.value)


def test_wrong_folders(tmp_path, spider):
    with pytest.raises(DataError, match="no such folder"):
        Data(tmp_path / "none")
    with pytest.raises(DataError, match="database"):
        Data(spider / "database")
    with pytest.raises(DataError, match="no test.json"):
        Data(spider).examples("test")
    with pytest.raises(DataError, match="no database 'dogs'"):
        Data(spider).databases("dogs")


@pytest.mark.parametrize("record, example", [
    ({"evidence": None, "difficulty": None}, {}),
    ({"SQL": None}, {}), ({"SQL": GOLDS[1]}, {"query": GOLDS[1]}),
    ({"query": None, "sql": GOLDS[1]}, {"query": GOLDS[1]}),
    ({"sql": {"select": []}}, {}), ({"sql": GOLDS[1]}, {}), ({"query": ""}, {"query": ""}),
    ({"db_id": " Pets\n"}, {}), ({"question": ""}, {"question": ""}),
    ({"question_id": 7, "extra": [None]}, {})])
def test_odd_examples_are_read(spider, record, example):
    odd = {"db_id": "pets", "question": "q", "query": GOLDS[0], **record}
    write(spider / "dev.json", [odd, odd])
    wanted = {"db_id": "pets", "question": "q", "query": GOLDS[0], **example}
    assert Data(spider).usable("dev") == ([Example(**wanted)] * 2, Counter())


@pytest.mark.parametrize("record, message", [
    ({"question": 5}, "'question' is not a string"), ({"question": None}, "'question' is missing"),
    ({"query": None}, "'query' is missing"), ({"query": None, "sql": {}}, "'query' is missing"),
    ({"db_id": 3}, "'db_id' is not a string"), ({"evidence": 5}, "'evidence' is not a string")])
def test_malformed_examples_stop_all_who_ask(spider, record, message):
    write(spider / "dev.json", records()[:1] + [{**records()[0], **record}])
    for ask in (Data(spider).usable, Data(spider).examples, Data(spider).has, Data(spider).mode):
        with pytest.raises(DataError, match=f"dev.json: example 1: .*{message}"):
            ask("dev")


def test_two_databases_that_differ_in_case_are_told_apart(spider):
    add_database(spider / "database" / "Pets" / "Pets.sqlite")
    write(spider / "dev.json", [{"db_id": name, "question": "q", "query": "x"}
                                for name in ("pets", "Pets", "PETS")])
    examples, reasons = Data(spider).usable("dev")
    assert [e.db_id for e in examples] == ["pets", "Pets"] and reasons == {"no such database": 1}


@pytest.fixture
def partly(spider):
    """A split of which one database is missing, one is broken and one was never filled."""
    write(spider / "database" / "bad" / "bad.sqlite", "no database " * 100)
    write(spider / "database" / "void" / "void.sqlite", "")
    odd = [{"db_id": name, "question": "q", "query": "SELECT 1"}
           for name in ("dogs", "bad", "void", "../pets")]
    write(spider / "dev.json", odd[:2] + records() + odd[2:])
    return spider


def test_examples_without_a_database_are_left_out_and_counted(partly):
    data = Data(partly)
    examples, reasons = data.usable("dev")
    assert [e.query for e in examples] == GOLDS
    assert reasons == {"no such database": 2, "unreadable database": 2}
    assert [reason for reason, _ in data.problems("dev")] == [
        "no such database", "unreadable database", "unreadable database", "no such database"]
    with pytest.raises(DataError, match="dev.json: example 0: no database 'dogs'"):
        data.examples("dev")
    assert len(data.digest("dev")) == 16 and data.mode("dev") == "spider"


def test_selfcheck_goes_on_past_examples_without_a_database(partly, capsys):
    assert main(["--selfcheck", str(partly)]) == 1
    output = capsys.readouterr().out
    assert "dev: 7 golds: 2 no such database, 2 unreadable database. SQLite" in output
    assert "example 0: no database 'dogs'" in output and "bad.sqlite: file is not a" in output


def test_target_is_no_part_of_the_data(tmp_path):
    write(tmp_path / "database" / "pets" / "pets.sql", SCRIPT)
    write(tmp_path / "dev.json", records())
    assert Example("pets", "q", "x").target == ""
    assert Data(tmp_path).digest("dev") == "29c12e64fc27f74c"      # what runs have written down


@pytest.mark.parametrize("place", ["", "database/pets"])
def test_empty_splits_and_splits_that_are_not_there(tmp_path, capsys, place):
    add_database(tmp_path / place / "pets.sqlite")
    write(tmp_path / "val.json", [])
    data = Data(tmp_path)
    assert not data.has("val") and not data.has("train")
    assert data.usable("val") == ([], Counter()) and data.examples("val") == []
    assert data.mode("val") == "spider" == data.mode("train")
    if not place:
        assert data.usable("train") == ([], Counter()) and data.examples("train") == []
    for arguments in (["--selfcheck", str(tmp_path)],
                      ["--score", "x", "--data", str(tmp_path), "--split", "val"]):
        assert main(arguments) == 2
        assert "no examples in" in capsys.readouterr().err


def test_examples_one_a_line(tmp_path, capsys):
    add_database(tmp_path / "pets.sqlite")
    lines = [json.dumps(record) for record in records()]
    write(tmp_path / "dev.jsonl", "\ufeff" + lines[0] + "\r\n\n" + lines[1] + "\n" + lines[2])
    assert [e.query for e in Data(tmp_path).examples("dev")] == GOLDS
    assert main(["--selfcheck", str(tmp_path)]) == 0
    assert "dev: 3 golds: all well" in capsys.readouterr().out
    write(tmp_path / "dev.jsonl", lines[0] + "\n{\n")
    with pytest.raises(DataError, match="dev.jsonl: .*line [23]"):
        Data(tmp_path).examples("dev")


def test_byte_order_marks_are_no_part_of_a_file(schools):
    plain = Data(schools)
    wanted = plain.examples("dev"), plain.schema("schools"), plain.digest("dev")
    for name in ("dev.json", "dev_tables.json"):
        path = schools / name
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    data = Data(schools)
    assert (data.examples("dev"), data.schema("schools"), data.digest("dev")) == wanted


@pytest.mark.parametrize("name", ["dev.json", "dev_tables.json", "text.sql",
                                  "dev_databases/schools/database_description/school info.csv"])
def test_utf16_is_named(schools, name):
    text = schools / "dev_databases" / "text" / "text.sql"
    write(text, SCRIPT)
    path = text if name == "text.sql" else schools / name
    path.write_bytes(path.read_bytes().decode("utf-8", "replace").encode("utf-16"))
    with pytest.raises(DataError, match=f"{path.name}: it is in UTF-16, not UTF-8"):
        data = Data(schools)
        data.examples("dev"), data.schema("schools"), data.databases("text")


# Databases

LITTER = {"._pets.sqlite": b"\0\5\x16\7\0\2\0\0Mac OS X", ".DS_Store": b"\0\0\0\1Bud1",
          "Thumbs.db": b"\xd0\xcf\x11\xe0", ".hidden.db": b"x", "new.sqlite": b"",
          "desktop.ini": b"x", "pets.sqlite-shm": b"x", "pets.db.txt": b"x"}


@pytest.mark.parametrize("place", ["", "database/pets", "dev_databases/pets"])
def test_what_systems_leave_in_folders_is_passed_over(tmp_path, place):
    folder = tmp_path / place
    add_database(folder / "pets.sqlite")
    for name, content in LITTER.items():
        (folder / name).write_bytes(content)
    (folder / "copy.sqlite").mkdir()
    (folder / "link.sqlite").symlink_to("nowhere")
    for root in filter(Path.is_dir, (folder, folder.parent, tmp_path)):
        write(root / "__MACOSX" / "pets" / "._pets.sqlite", "x")
    described = folder / "database_description"
    write(described / "pet.csv", "original_column_name,column_description\nage,in years\n")
    described.joinpath("._pet.csv").write_bytes(b"\xff\xfe\0\5\x16\7")
    data = Data(tmp_path)
    assert data.db_ids() == ["pets"] and data.databases("pets") == [folder / "pets.sqlite"]
    assert data.schema("pets").tables[0].columns[2].comment == ("in years" if place else "")


@pytest.mark.parametrize("ending", ["db3", "SQLITE", "sqlite3", "DB", "s3db", "sl3", "Sqlite"])
@pytest.mark.parametrize("place", ["", "database/pets"])
def test_endings_of_databases(tmp_path, place, ending):
    add_database(tmp_path / place / f"pets.{ending}")
    data = Data(tmp_path)
    assert data.db_ids() == ["pets"]
    assert data.databases("pets") == [tmp_path / place / f"pets.{ending}"]


def test_published_suite_is_its_sqlite_files_alone(spider):
    add_database(spider / "database" / "pets" / "other.db")
    assert [path.name for path in Data(spider).databases("pets")] == ["pets.sqlite"]


def test_text_beside_a_database_of_another_name_builds_nothing(tmp_path):
    add_database(tmp_path / "database" / "pets" / "mine.db")
    write(tmp_path / "database" / "pets" / "pets.sql", "CREATE TABLE other (x);")
    assert [path.name for path in Data(tmp_path).databases("pets")] == ["mine.db"]
    assert len(os.listdir(tmp_path / "database" / "pets")) == 2


@pytest.mark.parametrize("script", [
    "ATTACH '{out}' AS o; CREATE TABLE o.t (a);", "ATTACH '{out}' || '' AS o;",
    "VACUUM INTO '{out}';", "VACUUM main INTO '{out}' || '';", "DETACH main;",
    "SELECT load_extension('{out}');", "SELECT writefile('{out}', 'x');",
    "CREATE TABLE t (a); CREATE TRIGGER r AFTER INSERT ON t BEGIN SELECT writefile('{out}', 1); "
    "END; INSERT INTO t VALUES (1);", ".output {out}\n.dump\n", "SELECT 1;\n.read {out}"])
def test_script_of_a_database_reaches_nothing_outside(tmp_path, script):
    text = write(tmp_path / "database" / "pets" / "pets.sql",
                 SCRIPT + script.replace("{out}", str(tmp_path / "out")))
    with pytest.raises(DataError, match="pets.sql: cannot build pets.sqlite: ") as problem:
        Data(tmp_path).databases("pets")
    assert "\n" not in str(problem.value)
    assert os.listdir(text.parent) == ["pets.sql"] and os.listdir(tmp_path) == ["database"]


@pytest.mark.parametrize("script", ["", "-- nothing", "BEGIN;\n" + SCRIPT + "ROLLBACK; -- errors"])
def test_script_that_leaves_nothing(tmp_path, script):
    write(tmp_path / "database" / "pets" / "pets.sql", script)
    with pytest.raises(DataError, match="pets.sql: .*the script leaves no table"):
        Data(tmp_path).databases("pets")


def test_script_that_never_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "BUILD_SECONDS", 0.2)
    text = write(tmp_path / "database" / "pets" / "pets.sql",
                 "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x FROM c) SELECT MAX(x) FROM c")
    with pytest.raises(DataError, match="pets.sql: .*not done after 0.2 s"):
        Data(tmp_path).databases("pets")
    assert os.listdir(text.parent) == ["pets.sql"]


def dumped(connection):
    return "PRAGMA foreign_keys=OFF;\n" + "\n".join(connection.iterdump()) + "\n"


@pytest.mark.parametrize("script", [
    SCRIPT, "CREATE VIRTUAL TABLE note USING fts5(body); INSERT INTO note VALUES ('a b');",
    "CREATE TABLE t (a INTEGER PRIMARY KEY AUTOINCREMENT, b TEXT); INSERT INTO t (b) VALUES "
    "('x\r\ny'), (NULL); CREATE INDEX i ON t (b); CREATE VIEW v AS SELECT b FROM t;"])
def test_a_dump_builds_the_database_it_was_made_from(tmp_path, script):
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.executescript(script)
        path = tmp_path / "database" / "pets" / "pets.sql"
        path.parent.mkdir(parents=True)
        vacuum = "" if "VIRTUAL" in script else "VACUUM;"
        # Python's dump, unlike that of sqlite3, also fills the virtual table, before it is there.
        text = dumped(connection).replace("""INSERT INTO "note" VALUES('a b');""", "") + vacuum
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())
        wanted = dumped(connection)
    with closing(sqlite3.connect(Data(tmp_path).databases("pets")[0])) as built:
        assert dumped(built) == wanted


def test_settings_of_a_connection_in_a_script_have_no_effect(tmp_path):
    write(tmp_path / "database" / "pets" / "pets.sql",
          f"PRAGMA journal_mode = WAL; PRAGMA temp_store_directory = '{tmp_path}';\n{SCRIPT}")
    path, = Data(tmp_path).databases("pets")
    assert path.read_bytes()[18:20] == b"\1\1"         # 2: WAL
    with closing(sqlite3.connect(":memory:")) as connection:
        assert connection.execute("PRAGMA temp_store_directory").fetchall() in ([], [("",)])


def test_folder_that_cannot_be_written(tmp_path, monkeypatch):
    write(tmp_path / "database" / "pets" / "pets.sql", SCRIPT)

    def touch(path):
        raise OSError(30, "Read-only file system", str(path))
    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(DataError, match="pets.sql: cannot build pets.sqlite: .*Read-only file sys"):
        Data(tmp_path).databases("pets")


def test_built_database_stays_when_its_text_goes(tmp_path):
    text = write(tmp_path / "database" / "pets" / "pets.sql", SCRIPT)
    write(tmp_path / "dev.json", records())
    Data(tmp_path).databases("pets")
    text.unlink()
    assert len(Data(tmp_path).digest("dev")) == 16 and Data(tmp_path).schema("pets").tables


def test_empty_file_beside_text_is_built(tmp_path):
    path = write(tmp_path / "database" / "pets" / "pets.sqlite", "")
    write(path.with_suffix(".sql"), SCRIPT)
    assert Data(tmp_path).databases("pets") == [path] and path.stat().st_size


def test_suite_folder_gives_all_databases(spider):
    for name in ("b", "a"):
        add_database(spider / "database" / "pets" / f"{name}.sqlite")
    assert [path.stem for path in Data(spider).databases("pets")] == ["a", "b", "pets"]


def test_database_is_built_from_text_and_again_when_the_text_changes(tmp_path):
    text = write(tmp_path / "database" / "pets" / "pets.sql", SCRIPT)
    path, = Data(tmp_path).databases("pets")
    built = path.stat().st_mtime_ns
    assert sorted(os.listdir(path.parent)) == ["pets.sql", "pets.sqlite"]
    Data(tmp_path).databases("pets")
    assert path.stat().st_mtime_ns == built
    text.write_text(SCRIPT + "CREATE TABLE dog (id INTEGER);")
    assert [table.name for table in Data(tmp_path).schema("pets").tables] == ["pet", "dog"]


def test_published_database_is_never_rebuilt_from_text_beside_it(spider):
    path = spider / "database" / "pets" / "pets.sqlite"
    before = path.read_bytes()
    write(path.with_suffix(".sql"), "CREATE TABLE other (x);")
    assert Data(spider).schema("pets").tables[0].name == "pet"
    assert path.read_bytes() == before


def test_broken_databases(tmp_path):
    write(tmp_path / "database" / "bad" / "bad.sqlite", "no database " * 100)
    write(tmp_path / "database" / "wrong" / "wrong.sql", "CREATE TABEL t (a);")
    (tmp_path / "database" / "none").mkdir()
    for name, message in (("bad", "bad.sqlite"), ("wrong", "wrong.sql"), ("none", "neither")):
        with pytest.raises(DataError, match=message):
            Data(tmp_path).databases(name)
    assert os.listdir(tmp_path / "database" / "wrong") == ["wrong.sql"]     # no half-built file


def test_two_processes_may_build_at_once(tmp_path):
    write(tmp_path / "database" / "pets" / "pets.sql", SCRIPT + "".join(
        f"INSERT INTO pet VALUES ({i}, 'n', {i});\n" for i in range(10, 3000)))
    code = ("import sys; from data.benchmarks.reader import Data; from sqlexec import run_sql;"
            "print(run_sql(Data(sys.argv[1]).databases('pets')[0],"
            " 'SELECT COUNT(*) FROM pet').rows[0][0])")
    running = [subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT,
                                stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["2993"] * 3
    assert sorted(os.listdir(tmp_path / "database" / "pets")) == ["pets.sql", "pets.sqlite"]


def test_digest_tells_examples_and_databases_apart(spider):
    first = Data(spider).digest("dev")
    assert first == Data(spider).digest("dev") and len(first) == 16
    write(spider / "dev.json", records()[:2])
    second = Data(spider).digest("dev")
    add_database(spider / "database" / "pets" / "pets.sqlite", "DELETE FROM pet WHERE id = 1;")
    assert len({first, second, Data(spider).digest("dev")}) == 3


# Schemas

def test_schema_from_tables_json(spider):
    write(spider / "tables.json", [{
        "db_id": "pets", "table_names_original": ["Pet", "Owner"],
        "column_names_original": [[-1, "*"], [0, "id"], [0, "Name"], [1, "pet"], [1, "no"]],
        "column_types": ["text", "number", "text", "number", "others"],
        "primary_keys": [1, [3, 4]], "foreign_keys": [[3, 1]]}])
    assert Data(spider).schema("pets") == Schema("pets", (
        Table("Pet", (Column("id", "number", True), Column("Name", "text"))),
        Table("Owner", (Column("pet", "number", True), Column("no", "others", True)))),
        (("Owner", "pet", "Pet", "id"),))


@pytest.mark.parametrize("content", [[5], [{"db_id": "pets"}], [{
    "db_id": "pets", "table_names_original": ["a"], "column_names_original": [[3, "x"]],
    "column_types": ["text"], "primary_keys": [], "foreign_keys": []}]])
def test_wrong_tables_json(spider, content):
    write(spider / "tables.json", content)
    with pytest.raises(DataError, match="tables.json: entry 0"):
        Data(spider).schema("pets")


@needs_shared
def test_declared_types_are_those_of_the_published_tables_json():
    data, same, total = Data(SHARED / "spider"), 0, 0
    for db_id in data.db_ids():
        declared = {(table.name.lower(), column.name.lower()): column.type for table
                    in read_schema(data.databases(db_id)[0]).tables for column in table.columns}
        for table in data.schema(db_id).tables:
            for column in table.columns:
                total += 1
                same += declared.get((table.name.lower(), column.name.lower())) == column.type
    assert total > 4000 and same / total > 0.99     # a few columns were rebuilt with another type


# Predictions

def test_spider_predictions(spider):
    examples = Data(spider).examples("dev")
    path = write(spider / "pred.txt", "SELECT 1\tpets\n\nSELECT '\x0c\u2028' \n")
    assert read_predictions(path, examples) == ["SELECT 1", "", "SELECT '\x0c\u2028'"]


def test_bird_predictions(bird):
    examples = Data(bird).examples("dev")
    content = {str(i): f"SELECT\t{i}{BIRD_MARK}pets" for i in (2, 0, 1)}
    path = write(bird / "pred.json", content)
    assert read_predictions(path, examples, "bird") == ["SELECT\t0", "SELECT\t1", "SELECT\t2"]


@pytest.mark.parametrize("content", [
    b"\xef\xbb\xbfa\nb\tpets\nc", b"a\r\nb\tpets\r\nc\r\n", b"a\nb\nc\n\n \n\n", b"a\rb\rc",
    b"\xef\xbb\xbfa\r\nb\tPETS \r\nc\r\n\r\n"])
def test_predictions_as_editors_save_them(spider, content):
    path = spider / "pred.sql"
    path.write_bytes(content)
    assert read_predictions(path, Data(spider).examples("dev")) == ["a", "b", "c"]


def test_bird_predictions_with_a_byte_order_mark(bird):
    content = json.dumps({str(i): sql + BIRD_MARK + "pets" for i, sql in enumerate(GOLDS)})
    path = write(bird / "pred.json", "\ufeff" + content)
    for mode in ("bird", "spider"):
        assert read_predictions(path, Data(bird).examples("dev"), mode) == GOLDS


def test_empty_predictions_are_not_made_up(spider):
    examples = Data(spider).examples("dev")
    assert read_predictions(write(spider / "p", "a\nb\n\n"), examples) == ["a", "b", ""]
    for content in ("", "\n", "a\nb\n", "\n\n"):
        with pytest.raises(DataError, match="lines for 3 examples"):
            read_predictions(write(spider / "p", content), examples)


def test_predictions_in_utf16_or_with_zeros(spider, capsys):
    path = spider / "pred.sql"
    path.write_bytes("\n".join(GOLDS).encode("utf-16"))
    assert main(["--score", str(path), "--data", str(spider)]) == 2
    assert "pred.sql: it is in UTF-16, not UTF-8" in capsys.readouterr().err
    path.write_text(GOLDS[0] + "\0\n" + GOLDS[1] + "\n\0\n")
    assert main(["--score", str(path), "--data", str(spider)]) == 0
    assert "all                3        1    33.3" in capsys.readouterr().out


# Predictions of this process

ANSWERS = ["SELECT name -- the 'old'\nFROM pet\n  WHERE age > 3", "SELECT  COUNT(*)\tFROM pet",
           "SELECT name || '\n  x' FROM pet"]


@pytest.mark.parametrize("mode", ["spider", "bird"])
def test_predictions_are_scored_as_they_are_and_written_for_the_official_scripts(
        spider, mode, capsys):
    """A comment ends with its line, white space inside a literal counts."""
    write(spider / "dev.json", [{"db_id": "pets", "question": "q", "query" if mode == "spider"
                                 else "SQL": sql} for sql in [*GOLDS[:2], ANSWERS[2]]])
    data = Data(spider)
    examples = data.examples("dev")
    with Verifier(1) as verifier:
        summary, verdicts = score_predictions(data, "dev", examples, ANSWERS, verifier)
        by_spider, _ = score_predictions(data, "dev", examples, ANSWERS, verifier, "spider")
    assert [verdict.correct for verdict in verdicts] == [True] * 3
    assert summary["levels"]["all"] == {"scored": 3, "correct": 3, "share": 100.0}
    assert summary["rules"] == mode and by_spider["rules"] == "spider"
    print_scores(summary)
    printed = capsys.readouterr().out
    assert f"by the rules of {mode}; SQLite" in printed
    path = write_predictions(spider / "out", examples, ANSWERS, mode)
    assert path.name == ("predictions.sql" if mode == "spider" else "predictions.json")
    write_scores(spider / "out" / "scores.json", summary)
    write_verdicts(spider / "out" / "verdicts.jsonl", examples, ANSWERS, verdicts)
    assert main(["--score", str(path), "--data", str(spider),
                 "--json", str(spider / "again" / "scores.json"),
                 "--jsonl", str(spider / "again" / "verdicts.jsonl")]) == 0
    assert capsys.readouterr().out == printed
    lines, again = ([json.loads(line) for line in (spider / name / "verdicts.jsonl")
                     .read_text().splitlines()] for name in ("out", "again"))
    assert [line["pred"] for line in lines] == ANSWERS
    assert [line["correct"] for line in lines] == [line["correct"] for line in again]
    assert ((spider / "out" / "scores.json").read_bytes()
            == (spider / "again" / "scores.json").read_bytes())


def test_what_cannot_be_written_is_one_line(spider, capsys):
    path = write(spider / "pred.sql", "\n".join(GOLDS))
    for option in ("--json", "--jsonl"):
        assert main(["--score", str(path), "--data", str(spider), option, str(path / "x")]) == 2
        error = capsys.readouterr().err
        assert str(path) in error and error.count("\n") == 1
    with pytest.raises(DataError, match="pred.sql"):
        write_predictions(path, [], [], "spider")


WRAPPED = [f"```sql\n{GOLDS[0]}\n```", f"{GOLDS[1]};", f"Here it is: {GOLDS[2]}; It sorts."]


@pytest.mark.parametrize("layout", ["spider", "bird"])
def test_wrapped_predictions_are_scored_as_the_official_scripts_do(layout, request, capsys):
    folder = request.getfixturevalue(layout)
    path = write(folder / "pred", "\n".join(text.replace("\n", " ") for text in WRAPPED)
                 if layout == "spider" else
                 {str(i): text + BIRD_MARK + "pets" for i, text in enumerate(WRAPPED)})
    assert main(["--score", str(path), "--data", str(folder)]) == 0
    output = capsys.readouterr().out
    assert "all                3        1    33.3" in output
    assert output.count("hint: ") == 1 and "hint: 2 of 3 predictions" in output
    assert main(["--score", str(path), "--data", str(folder), "--extract", "--json",
                 str(folder / "scores.json")]) == 0
    output = capsys.readouterr().out
    assert "all                3        3   100.0" in output and "hint" not in output
    assert json.loads((folder / "scores.json").read_text())["extracted"]
    path = write(folder / "pred", "\n".join(["SELECT nope;", "SELECT 1", "not SQL"])
                 if layout == "spider" else {str(i): sql + BIRD_MARK + "pets" for i, sql in
                                             enumerate(["SELECT nope;", "SELECT 1", "not SQL"])})
    assert main(["--score", str(path), "--data", str(folder)]) == 0
    assert "hint" not in capsys.readouterr().out


@pytest.mark.parametrize("content, message", [
    ("SELECT 1\n", "1 lines for 3 examples"), ("a\nb\nc\nd\n", "4 lines for 3"),
    ("a\nb\tdogs\nc\n", "prediction 1 is for the database 'dogs'"),
    ('{"0": "a', "pred: "), ('{"0": "a"}', "keys 0 to 2"),
    ('{"0": "a", "0": "a", "1": "b", "2": "c"}', "a key occurs twice"),
    ({"0": "a", "1": "b", "2": None}, "prediction 0 is not SQL"),
    ({str(i): f"a{BIRD_MARK}dogs" for i in range(3)}, "prediction 0 is for the database 'dogs'"),
])
def test_wrong_predictions_exit_2_with_one_line(spider, capsys, content, message):
    path = write(spider / "pred", content)
    assert main(["--score", str(path), "--data", str(spider)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


# The command line

def run_cli(*arguments, **environment):
    return subprocess.run([sys.executable, "-m", "data.benchmarks.scoring", *map(str, arguments)],
                          capture_output=True, text=True, cwd=ROOT,
                          env={**os.environ, **environment})


def test_nothing_printed_raises_or_commands_the_terminal(tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Zo\xc3\xab \x1b[31m\xff"))
    add_database(folder / "database" / "pets" / "pets.sqlite")
    write(folder / "dev.json", [{"db_id": "pets", "question": "q", "query": sql} for sql in
                                ("SELECT 'Zoë\x1b[31m' FROM nope", "SELECT '\ud800'")])
    for settings in ({"LC_ALL": "C.UTF-8"}, {"PYTHONIOENCODING": "ascii"}):
        for arguments, code in ((("--selfcheck", folder), 1),
                                (("--selfcheck", folder, "--split", "\x1b"), 2),
                                (("--score", folder / "x", "--data", folder), 2)):
            done = run_cli(*arguments, **settings)
            assert done.returncode == code, done.stderr
            assert "Traceback" not in done.stderr and "\x1b" not in done.stdout + done.stderr


def test_score_prints_and_writes_every_verdict(spider):
    path = write(spider / "pred.sql", "SELECT name FROM pet WHERE age >= 5\nSELECT nope\n"
                                      "SELECT name FROM pet ORDER BY age LIMIT 1\n")
    done = run_cli("--score", path, "--data", spider, "--jsonl", spider / "out.jsonl")
    assert done.returncode == 0, done.stderr
    assert "all                3        1    33.3" in done.stdout
    assert "2 ok, 1 error, 0 timeout" in done.stdout
    assert "EX over 1 to 1 databases" in done.stdout
    lines = [json.loads(line) for line in (spider / "out.jsonl").read_text().splitlines()]
    assert [(line["status"], line["correct"]) for line in lines] == [
        ("ok", True), ("error", False), ("ok", False)]
    assert lines[1]["error"] == "no such column: nope" and lines[0]["level"] == "easy"


def test_score_names_the_metric_by_the_databases_used(spider, capsys):
    add_database(spider / "database" / "pets" / "pets2.sqlite", SCRIPT.replace("5", "2"))
    path = write(spider / "pred.sql", "SELECT 'Tom'\n" + "\n".join(GOLDS[1:]) + "\n")
    assert main(["--score", str(path), "--data", str(spider)]) == 0
    output = capsys.readouterr().out
    assert "TS over 2 to 2 databases" in output
    assert "all                3        2    66.7" in output


def test_score_leaves_bad_golds_out_of_the_count(spider, capsys):
    write(spider / "dev.json", records() + [
        {"db_id": "pets", "question": "q", "query": "SELECT nope"}])
    path = write(spider / "pred.sql", "\n".join(GOLDS) + "\nSELECT 1\n")
    assert main(["--score", str(path), "--data", str(spider)]) == 0
    output = capsys.readouterr().out
    assert "all                3        3   100.0" in output and "gold fails: 1" in output


def test_score_of_bird_by_difficulty_with_efficiency(bird, capsys):
    path = write(bird / "pred.json", {str(i): sql + BIRD_MARK + "pets"
                                      for i, sql in enumerate(GOLDS[:2] + ["SELECT 1"])})
    assert main(["--score", str(path), "--data", str(bird), "--ves", "2"]) == 0
    output = capsys.readouterr().out
    levels = [line.split()[0] for line in output.splitlines()]
    assert levels[1:5] == ["simple", "moderate", "challenging", "all"]
    assert "by the rules of bird" in output and "VES " in output and "in 5 passes" in output


def test_efficiency_counts_wrong_predictions_as_zero_and_faster_ones_above_100(spider):
    path = Data(spider).databases("pets")[0]
    slow = ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 9000) "
            "SELECT COUNT(*) FROM c")
    with Verifier(1) as verifier:
        assert efficiency(verifier, [None, None], passes=2) == [0.0, 0.0]
        faster, = efficiency(verifier, [(path, slow, "SELECT 9000")], repeats=4, passes=1)
        half, = efficiency(verifier, [(path, slow, slow), None], repeats=4, passes=1)
    assert faster > 150 and half < 100


def test_selfcheck(spider):
    done = run_cli("--selfcheck", spider)
    assert done.returncode == 0 and "dev: 3 golds: all well" in done.stdout
    write(spider / "dev.json", records() + [
        {"db_id": "pets", "question": "q", "query": sql} for sql in
        ("SELECT nope", "SELECT name FROM pet WHERE id = 9")])
    done = run_cli("--selfcheck", spider)
    assert done.returncode == 1
    assert "1 fails" in done.stdout and "fails: error: no such column: nope" in done.stdout
    clock = ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 90000) "
             "SELECT julianday('now'), COUNT(*) FROM c")
    write(spider / "dev.json", [{"db_id": "pets", "question": "q", "query": clock}])
    done = run_cli("--selfcheck", spider)
    assert done.returncode == 1 and "differs from itself" in done.stdout


def test_wrong_usage_exits_2():
    for option in (["--ves", "0"], ["--timeout", "nan"], ["--timeout", "-1"], ["--timeout", "inf"]):
        done = run_cli("--score", "x", "--data", "y", *option)
        assert done.returncode == 2 and "--ves counts from 1, --timeout" in done.stderr
    assert run_cli("--selfcheck", "/nowhere").returncode == 2
    done = run_cli("--selfcheck", "x" * 5000)
    assert done.returncode == 2 and done.stderr.startswith("error: ")
    assert run_cli("--score", "x").returncode == 2
    assert run_cli().returncode == 2


# Spider's levels

@pytest.mark.parametrize("sql, level", [
    ("SELECT name FROM pet", "easy"), ("SELECT COUNT(*) FROM pet WHERE age > 3", "easy"),
    ("SELECT name, age FROM pet WHERE age BETWEEN 1 AND 2", "medium"),
    ("SELECT T1.a FROM t AS T1 JOIN u AS T2 ON T1.i = T2.i WHERE T1.b = 'or'", "medium"),
    ("SELECT a FROM t WHERE a IN (SELECT b FROM u WHERE x = 1 OR y = 2)", "hard"),
    ("SELECT a FROM t EXCEPT SELECT b FROM u", "hard"),
    ("SELECT a, COUNT(*) FROM t WHERE x = 1 OR y LIKE 'b' GROUP BY a ORDER BY COUNT(*) LIMIT 1",
     "extra"),
    ("not SQL ) at ' all (", "easy"), ("", "easy")])
def test_hardness(sql, level):
    assert hardness(sql) == level


@needs_shared
def test_hardness_of_spider_dev_as_the_official_evaluator_counts_it():
    levels = Counter(hardness(example.query) for example in Data(SHARED / "spider").examples("dev"))
    assert levels == {"easy": 248, "medium": 440, "hard": 177, "extra": 169}


# Synthetic queries

TRAIN = ["SELECT name FROM pet WHERE age > 3", "SELECT COUNT(*) FROM pet WHERE name = 'Rex'",
         "SELECT name FROM pet ORDER BY age", "SELECT name, age FROM pet WHERE age < 5",
         "SELECT AVG(age) FROM pet", "SELECT name FROM pet ORDER BY age LIMIT 1"]


def made_by_synth(folder, out, capsys):
    counts = run_synth(folder, out, n=25, show=0)
    return [json.loads(line)["query"] for line in (out / "synthetic.jsonl").read_text()
            .splitlines()], counts, capsys.readouterr().out


def test_synthesis_passes_over_what_it_cannot_use(spider, tmp_path, capsys):
    examples = [{"db_id": "pets", "question": "q", "query": sql} for sql in TRAIN]
    write(spider / "train.json", examples)
    made, _, _ = made_by_synth(spider, tmp_path / "a", capsys)
    write(spider / "train.json", examples + [
        {"db_id": "dogs", "question": "q", "query": "SELECT 1"},
        {"db_id": "pets", "question": "q", "query": "SELEKT ' FROM"},
        {"db_id": "pets", "question": "q", "query": ""}])
    again, counts, output = made_by_synth(spider, tmp_path / "b", capsys)
    assert again == made != [] and counts["unusable"] == {"no such database": 1}
    assert "training examples left out: 1 no such database" in output


def test_queries_of_the_test_decide_nothing(spider, tmp_path, capsys):
    write(spider / "train.json", [{"db_id": "pets", "question": "q", "query": s} for s in TRAIN])
    made, counts, _ = made_by_synth(spider, tmp_path / "a", capsys)
    assert counts["overlap"] == {"dev": len(set(made) & set(GOLDS))}
    for split in ("dev", "test"):
        write(spider / f"{split}.json", [{"db_id": "pets", "question": "q", "query": sql}
                                         for sql in made[:3] + ["SELEKT"]])
    again, counts, output = made_by_synth(spider, tmp_path / "b", capsys)
    assert again == made and counts["overlap"] == {"dev": 3, "test": 3}
    assert "3 of them are queries of test, by chance" in output
    write(spider / "val.json", [{"db_id": "pets", "question": "q", "query": s} for s in made[:3]])
    assert not set(made[:3]) & set(made_by_synth(spider, tmp_path / "c", capsys)[0])


def test_examples_beside_a_file_count_and_need_no_name_for_the_only_database(tmp_path):
    for name in ("shop", "other"):
        with closing(sqlite3.connect(tmp_path / f"{name}.sqlite")) as db:
            db.execute("CREATE TABLE t (a)")
    examples = [{"question": "how many?", "sql": "SELECT COUNT(*) FROM t"},
                {"db_id": "other", "question": "all?", "query": "SELECT * FROM t"}]
    (tmp_path / "examples.json").write_text(json.dumps(examples))
    found = Data(tmp_path / "shop.sqlite").examples("train")
    assert [(e.db_id, e.question, e.query) for e in found] == [
        ("shop", "how many?", "SELECT COUNT(*) FROM t")]
    with pytest.raises(DataError, match="db_id"):             # of two databases each has a name
        Data(tmp_path).examples("train")
