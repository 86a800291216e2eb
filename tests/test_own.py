"""The two own databases, their questions, and the bench that measures what a user gains."""

import json
import re
import sys

import own_databases
import pytest
from conftest import ROOT, rows

from data.benchmarks.reader import Data
from data.schema import read_schema
from data.sql import normalise
from sqlexec import Verifier, run_sql

sys.path.insert(0, str(ROOT / "tests/bench"))
import own  # noqa: E402
import spft  # noqa: E402

NAMES = "company", "plant"


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return dict(zip(NAMES, own_databases.make(folder, 4_000)))


def test_the_databases_are_as_users_bring_them(paths, tmp_path):
    company, plant = map(read_schema, paths.values())
    assert not company.foreign_keys and not plant.foreign_keys
    assert [sum(t.view for t in s.tables) for s in (company, plant)] == [3, 2]
    assert sum(not t.view for t in company.tables) >= 9
    assert len(company.tables) + len(plant.tables) == len({t.name for s in (company, plant)
                                                           for t in s.tables})
    again = dict(zip(NAMES, own_databases.make(tmp_path, 4_000)))
    for name in NAMES:
        assert paths[name].read_bytes() == again[name].read_bytes()


def test_readings_are_as_many_as_wanted_over_the_same_days(paths, tmp_path):
    more = own_databases.make(tmp_path, 9_600)[1]
    asked = "SELECT COUNT(*), MIN(date(taken_at)), MAX(date(taken_at)) FROM reading"
    assert run_sql(paths["plant"], asked).rows == [(3_984, "2024-04-01", "2024-05-30")]
    assert run_sql(more, asked).rows == [(9_600, "2024-04-01", "2024-05-30")]


@pytest.mark.parametrize("name", NAMES)
def test_every_gold_returns_rows_and_no_example_is_a_question(paths, name):
    schema = read_schema(paths[name])
    golds, examples = (own_databases.questions(name, kind) for kind in ("questions", "examples"))
    assert (len(golds), len(examples)) == (13, 9)
    queries = {normalise(row["sql"], schema) for row in golds + examples}
    assert len(queries) == len({row["question"] for row in golds + examples}) == 22
    for row in golds + examples:
        result = run_sql(paths[name], row["sql"])
        assert result.status == "ok" and result.rows, row
        assert any(cell not in (None, 0) for found in result.rows for cell in found), row


@pytest.mark.parametrize("name", NAMES)
def test_the_first_n_are_the_same_in_every_right_answer(paths, name):
    """One row more, and what is ordered by: no tie at the end."""
    for row in own_databases.questions(name) + own_databases.questions(name, "examples"):
        if match := re.fullmatch(r"SELECT (.*) (ORDER BY (.*) DESC) LIMIT (\d+)", row["sql"]):
            body, order, by, n = match.groups()
            found = run_sql(paths[name], f"SELECT {by}, {body} {order} LIMIT {int(n) + 1}").rows
            assert found[-1][0] < found[-2][0], row


def test_the_last_days_are_as_many_however_they_are_counted(paths):
    """The first of them is a Sunday without orders, so that > and >= find the same."""
    sql, = (row["sql"] for row in own_databases.questions("company") if "'-30 days'" in row["sql"])
    first, other = (run_sql(paths["company"], text).rows for text in (sql, sql.replace(">=", ">")))
    assert first == other and first[0][0] > 50


def test_the_bench_counts_right_answers_of_each_candidate(base, tmp_path, monkeypatch, capsys):
    """Everything but training and the model's answers, which are golds here."""
    stages = []

    def main(words):
        stages.append(words)
        out = tmp_path / words[words.index("--out") + 1]
        for name, ex in (("base", 5.0), ("vbift-1", 20.0), ("selfplay-1", 10.0)):
            (out / name).mkdir(parents=True)
            record = {"name": name, "parent": "-", "folder": str(base), "ex": ex}
            (out / name / "candidate.json").write_text(json.dumps(record))
        (out / "results.json").write_text(json.dumps([{"model": "base"}, {"model": "vbift-1"},
                                                      {"model": "selfplay-1"}]))

    def answers(options, words, name, database, folder, path):
        n = {"vbift-1": 4, "selfplay-1": 6}.get(folder.rpartition("/")[2], 3)
        return [{"correct": i < n, "gold": row["sql"]}
                for i, row in enumerate(own_databases.questions(name))]

    monkeypatch.setattr(spft, "main", main)
    monkeypatch.setattr(own, "answered", answers)
    words = ["--model", str(base), "--out", str(tmp_path), "--plant_rows", "4000", "--rounds", "1"]
    assert own.main(words) is None
    found = json.loads((tmp_path / "own.json").read_text())
    assert [(r["database"], r["case"]) for r in found] == [
        (name, case) for name in NAMES for case in own.CASES]
    assert all(r["right"] == {"base": 3, "vbift-1": 4, "selfplay-1": 6}
               and r["recommended"] == "vbift-1" and not r["recommendation is right"]
               for r in found)
    data = [words[words.index("--data") + 1] for words in stages]
    assert [len(Data(path).usable("train")[0]) for path in data] == [0, 9, 0, 9]
    assert all(words[-2:] == ["--rounds", "1"] for words in stages)
    assert "| plant | 9 examples | 3 (val 5.0) | 4 (val 20.0) |" in capsys.readouterr().out
    assert own.main(words) is None and len(stages) == 4         # what is there is kept
    assert own.main([*words[:-1], "2"]) == 2
    assert "choose another --out" in capsys.readouterr().err


def test_a_recommendation_is_right_where_nothing_better_was_passed_over():
    for right, chosen, good in ((5, "base", True), (6, "base", False), (4, "sft", True),
                                (3, "sft", False)):
        assert own.judged({"base": 4, "sft": right}, chosen) == good


def test_the_bench_asks_what_ask_asks(base, tmp_path, capsys):
    """A model of a few thousand weights answers; the verifier decides; kept for next time."""
    words = ["--model", str(base), "--out", str(tmp_path), "--base_only", "1", "--only", "company",
             "--plant_rows", "4000", "--max_new", "8", "--threads", "1", "--schema_budget", "300"]
    assert own.main(words) is None
    found = rows(tmp_path / "company-base.jsonl")
    assert [row["gold"] for row in found] == [
        row["sql"] for row in own_databases.questions("company")]
    with Verifier() as verifier:
        path = tmp_path / "databases/company.sqlite"
        verdicts = verifier.verdicts([(path, row["gold"], row["pred"]) for row in found])
    assert [v.correct for v in verdicts] == [row["correct"] for row in found]
    assert "| company | no run | 0 (val 0.0) | base: right | 13 |" in capsys.readouterr().out
    before = (tmp_path / "company-base.jsonl").stat().st_mtime_ns
    assert own.main(words) is None
    assert (tmp_path / "company-base.jsonl").stat().st_mtime_ns == before


def test_synthetic_questions_are_shown_to_be_read(tmp_path, capsys):
    folder = tmp_path / "company-no-labels/vbift-1"
    folder.mkdir(parents=True)
    (folder / "synthetic.jsonl").write_text("".join(
        json.dumps({"question": f"question {i}", "query": f"SELECT {i}"}) + "\n"
        for i in range(9)))
    assert own.main(["--out", str(tmp_path), "--read", "4"]) is None
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].endswith("synthetic.jsonl: 4 of 9") and len(lines) == 2 + 2 * 4
