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

from data import benchmark  # noqa: E402
from data.benchmark import Data, Example  # noqa: E402
from data.schema_text import compact  # noqa: E402
from data.sqltree import canonical_sql  # noqa: E402
from data.values import ValueIndex  # noqa: E402
from data.scoring import BIRD_MARK, efficiency, hardness, main, read_predictions  # noqa: E402
from sqlexec import (  # noqa: E402
    Column, DataError, Schema, Table, Verifier, read_schema, run_sql)

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


# Databases

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
    code = ("import sys; from data.benchmark import Data; from sqlexec import run_sql;"
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

def run_cli(*arguments):
    return subprocess.run([sys.executable, str(ROOT / "sqlexec.py"), *map(str, arguments)],
                          capture_output=True, text=True, cwd="/")


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
    assert "fails: error, no such column: nope" in done.stdout and ": empty:" in done.stdout
    clock = ("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 90000) "
             "SELECT julianday('now'), COUNT(*) FROM c")
    write(spider / "dev.json", [{"db_id": "pets", "question": "q", "query": clock}])
    done = run_cli("--selfcheck", spider)
    assert done.returncode == 1 and "differs from itself" in done.stdout


def test_wrong_usage_exits_2():
    assert run_cli("--selfcheck", "/nowhere").returncode == 2
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
