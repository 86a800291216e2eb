"""Every stage from the command line in a world of two databases, and the parts between them."""

import io
import json
import math
import os
import random
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, redirect_stderr
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch
from conftest import PAIRS, ROOT, content, rows
from safetensors.torch import load_file

import model as lm
import spft
import sqlexec
from data.benchmarks import splits
from data.benchmarks import task as task_room
from data.benchmarks.reader import Example
from data.benchmarks.splits import validation_share
from data.prompts import values
from data.prompts.pairs import (
    Pair, micro_batches, packed_length, spread, steps_of, steps_of_groups)
from data.prompts.prompts import is_question, question_prompt, sql_prompt
from data.prompts.schema_text import compact
from data.prompts.tokenizer import Tokenizer, chat_template
from data.report import resume
from data.report.plan import in_words, seconds_left, steps_of_run
from data.report.settings import best_of_run
from data.report.tables import (
    errors, interval, log_ratios, percent, recommended, show_log_ratios, show_result, show_winner)
from data.report.terminal import Stopped, run_command, sqlite_callback, stoppable
from data.sql import normalise
from data.synthesis.run import run_synth
from data.synthesis.templates import extract
from model import Sample
from spft import Candidate, Config
from data.schema import Column, Schema, Table, read_schema
from sqlexec import Result, Verifier, majority_vote

LINE = ["base", "sft", "vbift-1", "vbift-2", "selfplay-1"]
# What candidates are saved in on this machine.
HALF = torch.bfloat16 if lm.fast_bf16(torch.device("cpu")) else torch.float32


# ---------------------------------------------------------------------------------------------
# One finished run, looked at from all sides

class Finished(NamedTuple):
    out: Path
    results: list
    stdout: str
    fits: dict          # name of a round -> its steps, as `fit` had them
    asked: list         # prompts (lists of ids) that were given to `generate`
    pairs: list         # the records of OUT/selfplay-1/pairs.jsonl


def spied(patch, fits, asked):
    """Let `fit` and `generate` note what they are given."""
    fit, generate = spft.fit, lm.generate

    def noted_fit(model, steps, loss, lr, name, *rest):
        fits[name] = steps
        return fit(model, steps, loss, lr, name, *rest)

    def noted_generate(model, prompts, *rest, **options):
        asked.extend(prompts)
        return generate(model, prompts, *rest, **options)

    patch.setattr(spft, "fit", noted_fit)
    patch.setattr(lm, "generate", noted_generate)


@pytest.fixture(scope="module")
def finished(cli, tmp_path_factory):
    out, fits, asked = tmp_path_factory.mktemp("finished") / "run", {}, []
    with pytest.MonkeyPatch.context() as patch:
        spied(patch, fits, asked)
        code, stdout, stderr = cli("--stage", "selfplay", "--out", out)
    assert (code, stderr) == (0, "")
    pairs = rows(out / "selfplay-1" / "pairs.jsonl")[1:]        # the first line is a digest
    return Finished(out, results(out), stdout, fits, asked, pairs)


def results(out, *without):
    """results.json without some keys."""
    return [{k: v for k, v in row.items() if k not in without}
            for row in json.loads((out / "results.json").read_text())]


def candidate(out, name):
    return json.loads((out / name / "candidate.json").read_text())


def same_weights(a, b):
    a, b = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_results_have_a_row_for_every_model_and_split(finished):
    assert [(row["model"], row["split"]) for row in finished.results] == [
        (name, split) for name in LINE for split in ("val", "test")]
    for row in finished.results:
        assert list(row) == ["stage", "model", "parent", "split", "ex", "n", "low", "high",
                             "seconds"]
        assert row["stage"] == row["model"].partition("-")[0] and row["n"] == 8
        assert 0 <= row["low"] <= row["ex"] <= row["high"] <= 100 and row["seconds"] >= 0
    parents = {row["model"]: row["parent"] for row in finished.results}
    assert parents == {"base": "-", "sft": "base", "vbift-1": "sft", "vbift-2": "vbift-1",
                       "selfplay-1": best(finished).name}


def test_a_run_says_what_comes_and_how_long_it_takes(finished):
    lines = re.findall(r"^== (\[\d/5\]) ([\w-]+): .*?( \(about .* left\))?$", finished.stdout, re.M)
    assert [line[:2] for line in lines] == [(f"[{i}/5]", name) for i, name in enumerate(LINE, 1)]
    assert [bool(left) for _, _, left in lines] == [False] + 4 * [True]


def test_time_left_is_what_a_run_at_its_pace_takes():
    """0.01 s an answer and 0.02 s a training sequence, worked out from the steps that are done."""
    cfg = Config(sft_epochs=2.0, epochs=1.0, rounds=1, questions=2, synthetic=60)
    assert steps_of_run(cfg) == ["base", "sft", "vbift-1", "selfplay-1"]
    sizes, answers = (100, 50, 200), [50, 50, 50 + 250, 50 + 320]
    trained = [0, 400, 2 * (100 + 50), 2 * 160]
    took = [0.01 * a + 0.02 * t for a, t in zip(answers, trained)]
    for done in (2, 3):
        seconds = dict(zip(steps_of_run(cfg), took[:done]))
        left = seconds_left(cfg, sizes, steps_of_run(cfg)[done:], seconds)
        assert left == pytest.approx(sum(took[done:]) + 4 * 200 * 0.01)
    assert seconds_left(cfg, sizes, steps_of_run(cfg), {}) is None
    assert seconds_left(cfg, sizes, steps_of_run(cfg)[1:], {"base": 0.5}) > 10
    assert [in_words(s) for s in (20, 110, 9000)] == ["under a minute", "2 min", "2.5 h"]


def ex(finished, name, split="val"):
    return next(row["ex"] for row in finished.results
                if (row["model"], row["split"]) == (name, split))


def best(finished):
    return max((Candidate(**candidate(finished.out, name)) for name in reversed(LINE[1:4])),
               key=lambda c: c.ex)                                  # of equals the newest


def test_training_teaches(finished):
    """Three of the eight questions of val stand in train: who learned them is above the base."""
    assert ex(finished, "base") == 0 < ex(finished, best(finished).name)


@pytest.mark.parametrize("name", LINE)
def test_every_answer_is_kept_with_a_verdict_that_sqlite_confirms(finished, world, name):
    for split in ("val", "test"):
        kept = rows(finished.out / name / f"{split}.jsonl")
        assert [(row["db_id"], row["question"]) for row in kept] == [
            (db_id, question) for db_id, question, _ in PAIRS[split]]
        for row in kept:
            assert row["correct"] == same_rows(world, row["db_id"], row["gold"], row["pred"])
        assert ex(finished, name, split) == 100 * sum(row["correct"] for row in kept) / 8


def same_rows(world, db_id, gold, pred):
    """Equal bags of rows on a plain connection (no gold of val and test sorts more than one)."""
    with closing(sqlite3.connect(world / "database" / db_id / f"{db_id}.sqlite")) as db:
        try:
            return Counter(db.execute(pred).fetchall()) == Counter(db.execute(gold).fetchall())
        except sqlite3.Error:
            return False


@pytest.mark.parametrize("name", LINE[1:])
def test_every_candidate_is_a_checkpoint_folder(finished, base, name):
    folder, config = finished.out / name, lm.ModelConfig.read(base)
    config.raw["torch_dtype"] = str(HALF).removeprefix("torch.")
    assert lm.load_pretrained(folder).config == config
    assert {v.dtype for v in load_file(folder / "model.safetensors").values()} == {HALF}
    assert (folder / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert not same_weights(folder, base)
    record = candidate(finished.out, name)
    assert record["ex"] == ex(finished, name) and record["folder"] == str(folder)


def test_a_person_sees_who_plays_whom_and_one_table(finished):
    banners = re.findall(r"^== \[(\d)/5\] (\S+): ", finished.stdout, re.M)
    assert banners == list(zip("12345", LINE))
    weakest = min((candidate(finished.out, name) for name in LINE[1:4]), key=lambda c: c["ex"])
    roster = re.search(r"^== \[5/5\] selfplay-1: (.*)", finished.stdout, re.M)[1]
    assert re.findall(r"\b(sft|vbift-\d)\b", roster) == [best(finished).name, weakest["name"]]
    table = finished.stdout[finished.stdout.rindex("test EX"):]
    assert re.findall(r"^ +([\w-]+) +[\w-]+ +\d+\.\d +\d+\.\d \(8, ", table, re.M) == LINE


def test_results_hold_the_settings_that_made_them(finished, world):
    settings = json.loads((finished.out / "config.json").read_text())
    assert settings["seed"] == 0 and settings["data"] == str(world) and settings["batch"] == 8


# ---------------------------------------------------------------------------------------------
# Synthesis

def test_no_synthetic_query_stands_in_training_or_validation(finished, world):
    schemas = {db_id: read_schema(world / "database" / db_id / f"{db_id}.sqlite")
               for db_id in ("zoo", "shop")}
    made = [(row["db_id"], normalise(row["query"], schemas[row["db_id"]]))
            for name in ("vbift-1", "vbift-2")
            for row in rows(finished.out / name / "synthetic.jsonl")]
    labelled = {(db_id, normalise(sql, schemas[db_id]))
                for split in ("train", "val") for db_id, _, sql in PAIRS[split]}
    assert len(made) > 10 and not labelled & set(made)
    assert len(set(made)) == len(made)                  # the second round makes nothing again
    # The templates of train do reach val: something had to be held back.
    assert re.search(r"in train or val [1-9]", finished.stdout)


def test_the_sql_of_test_questions_decides_nothing(finished, cli, world, tmp_path):
    """With other test questions the same synthetic pairs and the same weights come out."""
    data = shutil.copytree(world, tmp_path / "data")
    made = [row for row in rows(finished.out / "vbift-1" / "synthetic.jsonl")]
    (data / "test.json").write_text(json.dumps([
        {"db_id": row["db_id"], "question": "?", "query": row["query"]} for row in made[:5]]))
    code, stdout, stderr = cli("--stage", "vbift", "--data", data, "--rounds", 1,
                               "--out", tmp_path / "run")
    assert (code, stderr) == (0, "")
    assert rows(tmp_path / "run" / "vbift-1" / "synthetic.jsonl") == made
    assert same_weights(tmp_path / "run" / "vbift-1", finished.out / "vbift-1")
    assert "the same query for 5 of 5 test questions" in stdout         # counted afterwards


def test_the_synthetic_hold_out_is_drawn_at_random(finished, cli, tmp_path, monkeypatch):
    """Synthesis makes the easily filled first: a sixth from the front would be those."""
    made = [Example("zoo", f"question {i}", f"SELECT name FROM animal WHERE age > {i}")
            for i in range(60)]
    monkeypatch.setattr(spft, "synthesize_pairs", lambda *rest: list(made))
    code, _, stderr = cli("--stage", "vbift", "--rounds", 1, "--epochs", 0,
                          "--out", tmp_path / "run")
    assert (code, stderr) == (0, "")
    held = [row["question"] for row in rows(tmp_path / "run" / "vbift-1" / "synthetic.jsonl")
            if row["part"] != "train"]
    assert len(held) == 10 and sum(int(name.split()[1]) for name in held) > 10 * 9 / 2 + 60


def test_a_bad_gold_is_neither_y_plus_nor_y_minus_nor_a_pair(finished, cli, tmp_path, monkeypatch):
    """A synthetic gold that fails when it is scored (a timeout, say) counts nowhere."""
    verdicts = Verifier.verdicts

    def failing(verifier, pairs, mode="spider"):
        return [v._replace(status="bad_gold", correct=False) if "GROUP BY" in gold else v
                for v, (_, gold, _) in zip(verdicts(verifier, pairs, mode), pairs)]

    monkeypatch.setattr(Verifier, "verdicts", failing)
    out, fits = tmp_path / "run", {}
    spied(monkeypatch, fits, [])
    code, stdout, stderr = cli("--stage", "selfplay", "--out", out, "--synthetic", 48)
    assert (code, stderr) == (0, "")
    made = [row for r in (1, 2) for row in rows(out / f"vbift-{r}" / "synthetic.jsonl")]
    assert not any("GROUP BY" in row["query"] for row in made if row["part"] != "train")
    assert any("GROUP BY" in row["query"] for row in made if row["part"] == "train")
    decode = Tokenizer(out / "sft").decode
    golds = [decode(ids[n:]) for item in flat(fits["selfplay-1"])
             for ids, n in item.sequences[:1]]
    assert golds and not any("GROUP BY" in gold for gold in golds)
    assert "bad_gold " not in stdout and "GROUP BY" in "".join(
        row["gold"] for row in rows(out / "sft" / "val.jsonl") + rows(out / "sft" / "test.jsonl"))


def test_synthetic_queries_run_and_return_something(finished, world):
    for row in rows(finished.out / "vbift-2" / "synthetic.jsonl"):
        path = world / "database" / row["db_id"] / f"{row['db_id']}.sqlite"
        with closing(sqlite3.connect(path)) as db:
            assert db.execute(row["query"]).fetchall()
        assert row["question"].strip() and row["part"] in ("train", "y+", "y-")


def sequences(steps):
    return {tuple(ids): n for item in flat(steps) for ids, n in item.sequences}


def test_a_round_starts_from_the_base_where_sft_made_it_worse(monkeypatch):
    """A few labels can do harm: 9 of them took a model from 22 to 9."""
    parents = []
    monkeypatch.setattr(spft, "run_sft", lambda cfg, task, run: [Candidate("sft", "base", "", sft)])
    monkeypatch.setattr(spft, "vbift_round", lambda cfg, task, run, round, parent: (
        parents.append(parent.name), Candidate(f"vbift-{round}", parent.name, "", 30.0))[1])
    run = SimpleNamespace(load=lambda name: Candidate("base", "-", "", 22.4) if name == "base"
                          else None)
    for sft in (9.2, 22.4, 25.0):
        spft.run_vbift(Config(rounds=2), None, run)
    assert parents == ["base", "vbift-1", "sft", "vbift-1", "sft", "vbift-1"]


def test_what_verification_finds_goes_into_the_next_round(finished, cli, world, tmp_path,
                                                          monkeypatch):
    """y+ is trained in the SQL-to-Text direction, the templates of y- are drawn more often."""
    out, fits, fed = tmp_path / "run", {}, []
    earlier = [("train", "lions", "SELECT age FROM animal WHERE kind = 'lion'"),
               ("y+", "right", "SELECT MIN(age) FROM animal WHERE kind = 'lion'"),
               ("y-", "wrong", "SELECT MAX(name) FROM animal WHERE kind = 'zebra'")]
    for name in ("sft", "vbift-1"):
        shutil.copytree(finished.out / "sft", out / name)
    keys = [extract(query, read_schema(zoo(world))).key for _, _, query in earlier]
    (out / "vbift-1" / "synthetic.jsonl").write_text("".join(
        json.dumps({"part": part, "db_id": "zoo", "question": question, "query": query,
                    "template": key}) + "\n"
        for key, (part, question, query) in zip(keys, earlier)))
    for name in ("base", "sft", "vbift-1"):
        record = Candidate(name, "-", str(finished.out / "sft"), 1.0, 1.0)
        (out / name).mkdir(exist_ok=True)
        (out / name / "candidate.json").write_text(json.dumps(vars(record)))
    reweight = task_room.TemplatePool.reweight
    monkeypatch.setattr(task_room.TemplatePool, "reweight",
                        lambda pool, wrong: fed.append(wrong) or reweight(pool, wrong))
    monkeypatch.setattr(spft, "fit",
                        lambda model, steps, *rest: (fits.update({rest[2]: steps}), (model, {}))[1])
    code, _, stderr = cli("--stage", "vbift", "--out", out)
    assert (code, stderr) == (0, "") and list(fits) == ["vbift-2"]
    assert fed[-1] == keys[2:]
    tokenizer = Tokenizer(finished.out / "sft")
    trained = Counter(tokenizer.decode(ids[n:]) for ids, n in sequences(fits["vbift-2"]).items())
    assert [trained[text] for _, *pair in earlier for text in pair] == [1, 1, 1, 0, 0, 0]


def test_synthetic_pairs_can_be_edited_before_they_are_trained_on(finished, cli, world, tmp_path):
    """A struck line is not trained on, a changed question is; untouched, the run is the same."""
    out = tmp_path / "run"
    for name in ("base", "sft"):
        shutil.copytree(finished.out / name, out / name)
    shutil.copy(finished.out / "config.json", out)
    code, stdout, stderr = cli("--stage", "synthesis", "--out", out)
    path = out / "vbift-1" / "synthetic.jsonl"
    assert (code, stderr) == (0, "") and f"synthetic pairs: {path}" in stdout
    made, parts = rows(path), Counter(row["part"] for row in rows(path))
    assert parts.keys() == {"train", "held out"} and not (out / "vbift-1/candidate.json").exists()
    whole = shutil.copytree(out, tmp_path / "whole")
    assert cli("--stage", "vbift", "--out", whole)[0] == 0
    assert same_weights(whole / "vbift-1", finished.out / "vbift-1")
    asked = Counter(row["question"] for row in [*made, *json.loads(
        (world / "train.json").read_text())])
    struck, changed, *kept = sorted((row for row in made if row["part"] == "train"),
                                    key=lambda row: asked[row["question"]])
    assert asked[struck["question"]] == 1
    kept += [row for row in made if row["part"] != "train"]
    path.write_text("\n".join(json.dumps(row) for row in
                              [changed | {"question": "own words"}, *kept]) + "\n\n")
    fits = {}
    with pytest.MonkeyPatch.context() as patch:
        spied(patch, fits, [])
        assert cli("--stage", "vbift", "--out", out)[0] == 0
    tokenizer = Tokenizer(finished.out / "sft")
    texts = [tokenizer.decode(ids) for ids in sequences(fits["vbift-1"])]
    assert any("own words" in text for text in texts)
    assert not any(text.endswith(struck["question"]) for text in texts)
    assert len(rows(out / "vbift-1/synthetic.jsonl")) == len(made) - 1


@pytest.mark.parametrize("line, word", [
    ("{", "line 1: not JSON"), ("[]", "a line needs texts db_id, question, query"),
    ('{"db_id": "zoo", "question": "q"}', "a line needs texts"),
    ('{"db_id": "zoo", "question": 3, "query": "SELECT 1"}', "a line needs texts"),
    ('{"db_id": "moon", "question": "q", "query": "SELECT 1"}', "moon")])
def test_synthetic_pairs_that_were_edited_badly(finished, cli, tmp_path, line, word):
    out = tmp_path / "run"
    for name in ("base", "sft"):
        shutil.copytree(finished.out / name, out / name)
    (out / "vbift-1").mkdir()
    (out / "vbift-1/synthetic.jsonl").write_text(line + "\n")
    code, _, stderr = cli("--stage", "vbift", "--out", out)
    assert_one_line(code, stderr, word)


# ---------------------------------------------------------------------------------------------
# Prompts

def test_prompts_say_it_all():
    schema = Schema("zoo", (
        table("keeper", ("keeper_id", "number", True), ("full name", "text", False)),
        table("animal", ("animal_id", "number", True), ("keeper_id", "number", False))),
        (("animal", "keeper_id", "keeper", "keeper_id"),))
    text = ('keeper(keeper_id number key, "full name" text)\n'
            "animal(animal_id number key, keeper_id number > keeper.keeper_id)")
    assert compact(schema) == text
    links = [("keeper", "full name", "O'Hara")]
    assert sql_prompt(schema, "how many?", links) == (
        text + "\nquestion: how many?\nvalues: keeper.\"full name\" = 'O''Hara'\nsql:\n")
    assert sql_prompt(schema, "how many?", []) == text + "\nquestion: how many?\nsql:\n"
    assert question_prompt(schema, "SELECT 1") == text + "\nsql: SELECT 1\nquestion:\n"


def table(name, *columns):
    return Table(name, tuple(Column(*column) for column in columns))


def test_schemas_over_the_budget_keep_what_matters(world, base, tokenizer):
    """Training keeps the gold's table, asking the one that the question means."""
    task = spft.Task(Config(data=str(world), schema_budget=60), tokenizer, None)
    example = Example("zoo", "names of keepers", "SELECT COUNT(*) FROM animal")
    for ids, kept, cut in ((task.prompts.sql(example), "keeper(", "animal("),
                           (task.prompts.sql(example, train=True), "animal(", "keeper("),
                           (task.prompts.question(example), "animal(", "keeper(")):
        prompt = tokenizer.decode(ids)
        assert kept in prompt and cut not in prompt
    assert task.prompts.dropped["tables"] == 2
    whole = spft.Task(Config(data=str(world), schema="ddl"), tokenizer, None)
    prompt = tokenizer.decode(whole.prompts.sql(example))
    assert prompt.count("CREATE TABLE") == 2 and not whole.prompts.dropped


def test_prompts_fit_the_models_context(world, base, tmp_path):
    """A schema is cut until the prompt leaves room for an answer; a question alone is refused."""
    folder = shutil.copytree(base, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    example = Example("zoo", "names of keepers", "SELECT COUNT(*) FROM animal")
    whole = spft.Task(Config(data=str(world)), Tokenizer(base), None).prompts
    (folder / "config.json").write_text(json.dumps(
        {**config, "max_position_embeddings": len(whole.sql(example)) + 19}))
    task = spft.Task(Config(data=str(world), max_new=20), Tokenizer(folder), None)
    for ids in (task.prompts.sql(example), task.prompts.sql(example, train=True),
                task.prompts.question(example)):
        assert len(ids) + 20 <= task.tokenizer.context
    assert task.prompts.dropped["tables"] >= 2 and not whole.dropped
    with pytest.raises(sqlexec.DataError, match="exceed the model's context"):
        task.prompts.sql(Example("zoo", "names of keepers " * 200, "SELECT 1"))


def test_a_model_stops_at_its_tokenisers_end_where_its_config_has_none(base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "eos_token_id": None}))
    assert lm.load_pretrained(folder).config.eos == (Tokenizer(folder).end,)


def test_training_and_sampling_see_the_same_prompts_token_by_token(finished):
    """Whatever was asked for SQL in play was trained behind the very same ids, and answered in
    validation behind ids that begin alike."""
    asked = set(map(tuple, finished.asked))
    trained = {ids[:n] for ids, n in sequences(finished.fits["sft"]).items()}
    played = {ids[:n] for ids, n in sequences(finished.fits["selfplay-1"]).items()}
    for_sql = Tokenizer(finished.out / "sft").encode("\nsql:\n")
    to_sql = {ids for ids in trained if ids[-len(for_sql):] == tuple(for_sql)}
    assert len(to_sql) == 20 and to_sql <= asked
    assert to_sql <= played <= asked


def test_a_chat_template_frames_training_and_sampling_alike(world, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "chat")
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %} [assistant]{% endif %}")
    tokenizer = Tokenizer(folder)
    task = spft.Task(Config(data=str(world)), tokenizer, None)
    example = Example("zoo", "names of lion", "SELECT name")
    pair = task.to_sql(example)
    assert pair.prompt == task.prompts.sql(example)             # asked as it was trained
    prompt = tokenizer.decode(pair.prompt)
    assert prompt.startswith("[user] You are an expert in SQLite.")
    assert prompt.endswith("Question: names of lion\n"
                           "Answer with one SQLite query only. [assistant]")
    assert "CREATE TABLE keeper (" in prompt                    # the form that such models know
    assert tokenizer.decode(pair.gold) == "SELECT name" and pair.gold[-1] == tokenizer.end
    back = task.to_question(example)
    assert tokenizer.decode(back.prompt).endswith(
        "Query: SELECT name\nAnswer with the question that this query answers only. [assistant]")
    shared = lm.common_prefix([pair.prompt, back.prompt])       # the schema is read once for both
    assert tokenizer.decode(pair.prompt[:shared]).rstrip().endswith(");")
    plain = spft.Task(Config(data=str(world), schema="compact"), tokenizer, None)
    assert "CREATE" not in tokenizer.decode(plain.prompts.sql(example))


@pytest.mark.parametrize("chat", [False, True])
def test_prompts_open_with_examples_and_show_values_where_asked(world, base, chat):
    tokenizer = Tokenizer(base)
    tokenizer.template = chat_template(base, "{{ messages[0].content }}") if chat else None
    with Verifier(workers=1) as verifier:
        task = spft.Task(Config(data=str(world), shots=2, cell_values=1, seed=3), tokenizer,
                         verifier)
    example = task.train[0]
    prompt = tokenizer.decode(task.prompts.sql(example))
    shown = random.Random(3).sample(task.train, 2)
    places = [prompt.index(text) for e in shown for text in (e.question, e.target)]
    assert places == sorted(places) and places[-1] < prompt.index("keeper")
    assert prompt.count("e.g. '") == len(re.findall("TEXT|text", prompt))
    assert "e.g. '" in tokenizer.decode(task.to_question(example).prompt)
    assert shown[0].question not in tokenizer.decode(task.to_question(example).prompt)


def test_more_examples_than_there_are_training_questions_are_refused(world, base):
    with Verifier(workers=1) as verifier, pytest.raises(sqlexec.DataError, match="--shots 1000"):
        spft.Task(Config(data=str(world), shots=1000), Tokenizer(base), verifier)


def test_what_nobody_set_follows_the_size_of_the_checkpoint(base, monkeypatch):
    given = Config(model=str(base), lr=1e-5, epochs=0.0)
    small = spft.complete(given)
    assert (small.lr, small.epochs, small.lora) == (1e-5, 0.0, 0)
    assert (small.sft_epochs, small.vbift_lr) == (5.0, 1e-3)
    for millions, lora in ((49, 0), (51, 0), (301, 16)):
        monkeypatch.setattr(lm.ModelConfig, "parameters", millions * 1e6)
        assert spft.complete(given).lora == lora
        assert spft.complete(replace(given, shard=1)).lora == 0      # shards all weights
    assert None not in vars(spft.complete(Config(model="random"))).values()


# ---------------------------------------------------------------------------------------------
# Resuming

def test_a_second_call_does_nothing_again(finished, cli, idle):
    before = content(finished.out)
    code, stdout, stderr = cli("--stage", "selfplay", "--out", finished.out)
    assert (code, stderr) == (0, "")
    assert content(finished.out) == before
    known = set(finished.stdout.splitlines())
    assert stdout.strip() and set(stdout.splitlines()) <= known       # the table, nothing else


def test_an_interrupted_run_goes_on_to_the_same_end(finished, cli, tmp_path, monkeypatch):
    out, fit = tmp_path / "run", spft.fit
    assert cli("--stage", "sft", "--out", out)[0] == 0
    assert results(out, "seconds") == [
        {k: v for k, v in row.items() if k != "seconds"} for row in finished.results[:4]]
    sft = content(out / "sft")

    def stop(model, steps, loss, lr, name, *rest):
        if name == "vbift-2":
            raise KeyboardInterrupt
        return fit(model, steps, loss, lr, name, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(spft, "fit", stop)
        code, _, stderr = cli("--stage", "selfplay", "--out", out)
    assert (code, stderr.strip()) == (130, "spft.py: stopped; the same command continues")
    assert (out / "vbift-1" / "candidate.json").exists()
    assert not (out / "vbift-2" / "candidate.json").exists()
    code, stdout, _ = cli("--stage", "selfplay", "--out", out)
    assert code == 0 and re.findall(r"^== \S+ (\S+): ", stdout, re.M) == ["vbift-2", "selfplay-1"]
    assert {path: bytes for path, bytes in content(out / "sft").items() if path in sft} == sft
    assert_same_run(out, finished)


@pytest.mark.parametrize("moment", ["sft/model.safetensors", "vbift-1/synthetic.jsonl",
                                    "selfplay-1/candidate.json"])
def test_a_killed_run_goes_on_to_the_same_end(finished, arguments, cli, tmp_path, moment):
    """SIGKILL as soon as a file is there (tests/bench/bench_resume.py takes random moments)."""
    command = [sys.executable, str(ROOT / "spft.py"), *arguments, "--stage", "selfplay"]
    with subprocess.Popen(command + ["--out", "run"], cwd=tmp_path, stdout=subprocess.DEVNULL,
                          stderr=subprocess.PIPE) as process:
        while not (tmp_path / "run" / moment).exists() and process.poll() is None:
            time.sleep(0.002)
        process.kill()
    assert process.returncode == -9
    code, _, stderr = cli("--stage", "selfplay", "--out", tmp_path / "run")
    assert (code, stderr) == (0, "")
    assert_same_run(tmp_path / "run", finished)


def assert_same_run(out, finished):
    assert results(out, "seconds") == [
        {k: v for k, v in row.items() if k != "seconds"} for row in finished.results]
    for name in LINE[1:]:
        assert same_weights(out / name, finished.out / name)


# ---------------------------------------------------------------------------------------------
# What a stage has finished is kept

def leftovers(out):
    return [*out.rglob("fit.*"), *out.rglob("unfinished")]


def stop_in_step(patch, step, number=signal.SIGTERM):
    """A signal in the midst of that step of training; counts the steps that begin."""
    clip, steps = torch.nn.utils.clip_grad_norm_, count(1)

    def clipped(*arguments):
        if next(steps) == step:
            os.kill(os.getpid(), number)
        return clip(*arguments)
    patch.setattr(torch.nn.utils, "clip_grad_norm_", clipped)
    return steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("lora", [0, 4])
def test_a_training_stopped_within_a_step_goes_on_bit_for_bit(cli, tmp_path, monkeypatch, lora,
                                                              number):
    words = ["--stage", "sft", "--sft_epochs", 4, "--lora", lora, "--out"]
    out, whole, left = tmp_path / "run", tmp_path / "whole", []
    with monkeypatch.context() as patch:
        length = stop_in_step(patch, None)
        assert cli(*words, whole)[0] == 0
    steps = next(length) - 1
    with monkeypatch.context() as patch:
        stop_in_step(patch, 7, number)
        code, _, stderr = cli(*words, out)
    assert (code, stderr.strip()) == (128 + number, "spft.py: stopped; the same command continues")
    assert {path.name for path in (out / "sft").iterdir()} == {"fit.state", "metrics.jsonl"}
    state = torch.load(out / "sft/fit.state")
    torch.save(state | {"seconds": state["seconds"] + 1000}, out / "sft/fit.state")
    with monkeypatch.context() as patch:
        more, show = stop_in_step(patch, None), spft.show_candidate
        patch.setattr(spft, "show_candidate",
                      lambda *rest: show(*rest) or left.extend(leftovers(out)))
        code, stdout, stderr = cli(*words, out)
    assert (code, stderr) == (0, "") and f"sft goes on at step 8 of {steps}" in stdout
    assert next(more) - 1 == steps - 7 and left == []               # gone with the candidate
    assert same_weights(out / "sft", whole / "sft") and not leftovers(out)
    assert 1000 < candidate(out, "sft")["seconds"] < 2000
    one, two = (rows(folder / "sft" / "metrics.jsonl") for folder in (out, whole))
    assert [line["step"] for line in one] == list(range(1, steps + 1))
    for key in ("loss", "learning rate", "gradient norm", "log p of gold"):
        assert [line[key] for line in one] == [line[key] for line in two]
    assert (without_speed(candidate(out, "sft")["metrics"])
            == without_speed(candidate(whole, "sft")["metrics"]))


@pytest.fixture
def trained(base, capsys):
    """trained(out, ...) trains ten steps of a pair each: (weights, what was printed)."""
    def train(out, lr=1e-3, answer=4, first="model.norm.weight", add=0.0, name="x", watch=None):
        model = lm.load_pretrained(base)
        with torch.no_grad():
            dict(model.named_parameters())[first].add_(add)
        steps = [[[Pair("zoo", [1, 2, i], [answer, 5])]] for i in range(10)]
        cfg = Config(out=str(out), threads=1, device="cpu")
        spft.fit(model, steps, spft.SUPERVISED, lr, name, cfg, 0.05, watch)
        return [p.detach().clone() for p in model.parameters()], capsys.readouterr().out
    return train


def stop_at(last):
    def watch(step, loss):
        if step == last:
            os.kill(os.getpid(), signal.SIGTERM)
    return watch


@pytest.mark.parametrize("change", [{"lr": 2e-3}, {"answer": 6}, {"add": 0.1}, {}])
def test_a_state_of_another_training_is_ignored(trained, tmp_path, change):
    with stoppable(), pytest.raises(Stopped):
        trained(tmp_path, watch=stop_at(6))
    weights, said = trained(tmp_path, **change)
    fresh, _ = trained("", **change)
    assert all(map(torch.equal, weights, fresh))
    assert ("is of another training: it is ignored" in said) == bool(change)
    assert ("goes on at step 7 of 10" in said) != bool(change)


@pytest.mark.parametrize("harm", [lambda data: b"", lambda data: data[:-400],
                                  lambda data: b"x" * 999])
def test_a_state_that_cannot_be_read_is_ignored(trained, tmp_path, harm):
    with stoppable(), pytest.raises(Stopped):
        trained(tmp_path, watch=stop_at(6))
    state = tmp_path / "x" / "fit.state"
    state.write_bytes(harm(state.read_bytes()))
    weights, said = trained(tmp_path)
    assert all(map(torch.equal, weights, trained("")[0]))
    assert said.count("\n") == 1 and "cannot be read" in said


def test_a_training_that_is_killed_goes_on_from_its_last_save(trained, tmp_path, monkeypatch):
    """Saved now and then, and after the last step; without need it is not."""
    def kill(step, loss):
        if step == 6:
            raise MemoryError

    with pytest.raises(MemoryError):
        trained(tmp_path, watch=kill)
    assert not leftovers(tmp_path)
    times = map(float, range(0, 10**6, 200))                        # each look, 200 seconds later
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(resume.time, "time", lambda: next(times))
        trained(tmp_path, watch=kill)
    weights, said = trained(tmp_path)
    assert re.search("goes on at step [2-6] of 10", said)
    assert all(map(torch.equal, weights, trained("")[0]))


def test_a_disk_that_is_full_ends_no_training(trained, tmp_path, monkeypatch):
    def full(state, path):
        path.write_text("half")
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(torch, "save", full)
    monkeypatch.setattr(resume, "SAVE_EVERY", -1)
    weights, said = trained(tmp_path)
    assert all(map(torch.equal, weights, trained("")[0]))
    assert "fit.state cannot be written: [Errno 28]" in said and not leftovers(tmp_path)


@pytest.fixture
def asked(world, base, tokenizer, tmp_path, monkeypatch):
    """asked(out, ...) draws two answers to each of 200 prompts: (answers, calls of `generate`);
    the call `dies` is a kill."""
    model, generate, rng = lm.load_pretrained(base), lm.generate, random.Random(0)
    prompts = [[rng.randrange(9, 99) for _ in range(rng.randrange(1, 4))] for _ in range(200)]

    def ask(out, seed=0, dies=None, asked=prompts):
        calls = count(1)

        def counted(*arguments, **options):
            if next(calls) == dies:
                raise MemoryError
            return generate(*arguments, **options)
        monkeypatch.setattr(lm, "generate", counted)
        cfg = Config(data=str(world), out=str(tmp_path / out), max_new=6, decode_batch=16)
        try:
            found = spft.Task(cfg, tokenizer, None).answer(model, asked, "asked", 1.0, 2, seed)
        except MemoryError:
            found = None
        return found, next(calls) - 1
    return ask


def test_killed_sampling_goes_on_with_its_next_block(asked):
    whole, calls = asked("whole")
    assert calls == 4 and len(whole) == 400 and len({tuple(s.ids) for s in whole}) > 200
    assert asked("run", dies=3) == (None, 3)
    assert asked("run") == (whole, 2)
    assert asked("run") == (whole, 0)                   # kept until it is used


@pytest.mark.parametrize("lost", [1, 40])
def test_a_line_that_a_kill_has_torn_is_made_again(asked, tmp_path, lost):
    whole, _ = asked("whole")
    asked("run", dies=3)
    path, = (tmp_path / "run").rglob("*.jsonl")
    os.truncate(path, path.stat().st_size - lost)
    assert asked("run", dies=2) == (None, 2)            # the torn block is there, the next one not
    assert asked("run") == (whole, 2)


def test_answers_to_other_questions_are_not_used(asked):
    asked("run", dies=3)
    assert asked("run", seed=9) == (asked("whole", seed=9)[0], 4)


def test_answers_come_in_the_order_of_their_prompts(asked, monkeypatch):
    monkeypatch.setattr(lm, "generate", lambda model, prompts, max_new, temperature, n, *rest,
                        **options: [Sample([*ids, i]) for ids in prompts for i in range(n)])
    prompts = [[i % 7, i] for i in range(150)]
    task = SimpleNamespace(cfg=Config(decode_batch=16), unfinished=Path("nowhere"))
    monkeypatch.setattr(task_room.Kept, "keep", lambda kept, i, result: result)
    samples = spft.Task.answer(task, lm.random_model(lm.ModelConfig.tiny(9)), prompts,
                                "asked", 0.7, 2)
    assert [s.ids for s in samples] == [[*ids, i] for ids in prompts for i in range(2)]


def test_a_run_stopped_after_its_answers_does_not_ask_again(finished, cli, tmp_path, monkeypatch):
    """Stopped where the answers of `sft` get their verdicts."""
    out, asked, generate = tmp_path / "run", [], lm.generate
    verdicts = spft.Task.verdicts

    def stop(task, examples, samples, split):
        if (out / "sft").exists():
            raise KeyboardInterrupt
        return verdicts(task, examples, samples, split)

    def noted(model, *rest, **options):
        asked.append(lm.digest(model))
        return generate(model, *rest, **options)
    monkeypatch.setattr(lm, "generate", noted)
    with monkeypatch.context() as patch:
        patch.setattr(spft.Task, "verdicts", stop)
        assert cli("--stage", "sft", "--out", out)[0] == 130
    assert len(asked) == 2 and leftovers(out) == [out / "unfinished"]
    assert cli("--stage", "sft", "--out", out)[0] == 0
    assert len(asked) == 4 and len(set(asked)) == 2                 # test, of base and sft
    assert results(out, "seconds") == [
        {k: v for k, v in row.items() if k != "seconds"} for row in finished.results[:4]]
    assert not leftovers(out) and not leftovers(finished.out)


def test_the_same_seed_gives_the_same_run_in_another_process(finished, arguments, tmp_path):
    """With another hash seed, so that no order of a set or dictionary of strings decides."""
    command = [sys.executable, str(ROOT / "spft.py"), *arguments, "--stage", "selfplay"]
    process = subprocess.run(command + ["--out", "run"], cwd=tmp_path, capture_output=True,
                             text=True, env={**os.environ, "PYTHONHASHSEED": "12345"})
    assert (process.returncode, process.stderr) == (0, "")
    assert_same_run(tmp_path / "run", finished)


@pytest.mark.parametrize("bf16", [0, 1])
def test_adapters_train_and_are_merged_into_the_candidate(finished, base, cli, tmp_path, bf16):
    """A candidate is a whole checkpoint; what no adapter stands beside is as it was."""
    words = ["--stage", "sft", "--lora", 4, "--recompute", 1, "--bf16", bf16]
    assert cli(*words, "--out", tmp_path / "run")[0] == 0
    before, after, full = (load_file(folder / "model.safetensors") for folder in (
        base, tmp_path / "run" / "sft", finished.out / "sft"))
    assert {v.dtype for v in after.values()} == {HALF if bf16 else torch.float32}
    changed = {k for k, v in after.items() if not torch.equal(before[k].to(v.dtype), v)}
    assert before.keys() == after.keys() == full.keys()
    assert changed and all(name.endswith("_proj.weight") for name in changed)


@pytest.fixture(scope="module")
def lora_run(cli, tmp_path_factory):
    """A run of all stages that trains an adapter."""
    out = tmp_path_factory.mktemp("lora") / "run"
    assert cli("--stage", "selfplay", "--rounds", 1, "--lora", 4, "--out", out)[::2] == (0, "")
    return out


def test_one_adapter_of_the_first_base_model_goes_through_all_stages(lora_run, base):
    """Each candidate's checkpoint is the base model with its adapter merged, bit for bit."""
    names, adapters = ["sft", "vbift-1", "selfplay-1"], []
    for name in names:
        folder = lora_run / name
        settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
        assert (settings["base_model_name_or_path"], settings["r"]) == (str(base), 4)
        model = lm.load_pretrained(folder / "adapter", dtype=HALF)
        adapters.append(torch.cat([p.flatten() for k, p in model.named_parameters()
                                   if ".lora_B" in k]))
        lm.merge_adapter(model)
        merged, saved = model.state_dict(), load_file(folder / "model.safetensors")
        assert merged.keys() == saved.keys()
        assert all(torch.equal(merged[k], saved[k]) for k in saved)
        assert all(p.requires_grad for p in model.parameters()) and model.adapter is None
    parent = names.index(candidate(lora_run, "selfplay-1")["parent"])
    moved = (adapters[2] - adapters[parent]).norm() / adapters[parent].norm()
    assert 0 < moved < 0.1                                 # trained on, not begun again


def test_candidates_kept_as_adapters_alone_are_those_of_a_full_run(lora_run, cli, world, tmp_path):
    """Less on the disk, the same answers; a candidate is a --model like any other."""
    out = tmp_path / "run"
    words = ["--stage", "selfplay", "--rounds", 1, "--lora", 4, "--keep", "adapters"]
    assert cli(*words, "--out", out)[::2] == (0, "")
    assert not list(out.rglob("model.safetensors")) and results(out, "seconds") == results(
        lora_run, "seconds")
    answers = []
    for run in (out, lora_run):
        code, stdout, stderr = cli("--stage", "ask", "--model", run / "vbift-1", "--db", zoo(world),
                                   "how many animals")
        assert stderr == ""
        answers.append((code, re.sub(r"\d+ ms", "", stdout)))
    assert answers[0] == answers[1] and "SELECT" in answers[0][1]


def test_adapters_of_random_weights_are_merged_from_stage_to_stage(cli, tmp_path):
    """No folder holds the random weights that an adapter would belong to."""
    words = ["--model", "random", "--lora", 2, "--rounds", 0, "--limit", 4, "--sft_epochs", 1]
    code, _, stderr = cli("--stage", "selfplay", *words, "--max_new", 5, "--out", tmp_path / "run")
    assert (code, stderr) == (0, "")
    bases = [json.loads((tmp_path / "run" / name / "adapter/adapter_config.json").read_text())
             ["base_model_name_or_path"] for name in ("sft", "selfplay-1")]
    assert bases == ["random", str(tmp_path / "run" / "sft")]


@pytest.mark.parametrize("bf16", [0, 1])
@pytest.mark.parametrize("lora", [0, 4])
def test_a_round_against_oneself_starts_at_log_2(finished, lora_run, monkeypatch, bf16, lora):
    """Whatever the precision: the opponent's log-probabilities come without gradients and in other
    batches, those of main in the steps of `fit`."""
    monkeypatch.setattr(lm, "fast_bf16", lambda device: True)
    cfg = Config(bf16=bf16, lora=lora, threads=1, out="", device="cpu", micro_tokens=400)
    folder = (lora_run if lora else finished.out) / "sft"
    pairs = [spft.replace(p, R=1.0) for p in flat(finished.fits["selfplay-1"])]
    pairs = spft.with_logprobs(spft.load_model(cfg, folder), pairs)
    values, main = [], spft.load_model(cfg, folder, train=True)
    steps = steps_of(pairs, 1, len(pairs), random.Random(1))
    assert len(steps) == 1 and len(micro_batches(steps[0], cfg.micro_tokens)) > 2
    spft.fit(main, steps, spft.self_play(cfg.lam), 1e-4, "x", cfg,
             watch=lambda step, value: values.append(float(value)))
    assert abs(values[0] - math.log(2)) < 1e-3


def test_a_gradient_that_is_not_finite_ends_the_run_in_one_line(cli, tmp_path, monkeypatch):
    """Nothing is written of it."""
    micro_loss, calls = spft.micro_loss, count(1)

    def broken(*arguments):
        value, sums = micro_loss(*arguments)
        return (value * torch.inf if next(calls) > 3 else value), sums
    monkeypatch.setattr(spft, "micro_loss", broken)
    code, _, stderr = cli("--stage", "sft", "--out", tmp_path / "run")
    assert_one_line(code, stderr, "sft, step ", "the gradient is not finite (loss inf)")
    assert not (tmp_path / "run/sft/model.safetensors").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_all_weights_train_in_float32_behind_a_copy_in_bfloat16(base, tmp_path, monkeypatch, tied):
    """A step too small for bfloat16 moves the float32 weights; many move the copy."""
    monkeypatch.setattr(lm, "fast_bf16", lambda device: True)
    config = lm.ModelConfig.read(base)
    config.tie_word_embeddings = tied
    cfg = Config(threads=1, out="", device="cpu")

    def train(n):
        model = lm.random_model(config, 1)
        before = [p.detach().clone() for p in model.parameters()]
        steps = [[[Pair("zoo", [1, 2, 3 + i % 7], [4, 5])]] for i in range(n)]
        copy, _ = spft.fit(model, steps, spft.SUPERVISED, 1e-5, "x", cfg)
        assert copy is not model
        for p, q in zip(model.parameters(), copy.parameters(), strict=True):
            assert (p.dtype, q.dtype) == (torch.float32, torch.bfloat16)
            assert torch.equal(p.bfloat16(), q)
        name = "model.layers.0.mlp.up_proj.weight"
        place = [k for k, _ in model.named_parameters()].index(name)
        moved = model.get_parameter(name) != before[place]
        return (moved.float().mean().item(),
                (copy.get_parameter(name) != before[place].bfloat16()).float().mean().item())

    masters, copies = train(1)
    assert masters > 0.5 and copies < 0.05
    masters, copies = train(100)
    assert masters > 0.99 and copies > 0.5


def test_another_seed_gives_other_weights(finished, cli, tmp_path):
    assert cli("--stage", "sft", "--seed", 1, "--out", tmp_path / "run")[0] == 0
    assert not same_weights(tmp_path / "run" / "sft", finished.out / "sft")


@pytest.mark.parametrize("name, value", [("seed", 1), ("lam", 0.3), ("batch", 7), ("limit", 5),
                                         ("lora", 2)])
def test_an_out_made_with_other_settings_is_refused(finished, cli, idle, name, value):
    before = content(finished.out)
    code, _, stderr = cli("--stage", "selfplay", "--out", finished.out, f"--{name}", value)
    assert_one_line(code, stderr, f"--{name} ", str(value), "choose another --out")
    assert content(finished.out) == before


def test_an_out_made_from_other_data_is_refused(finished, cli, idle, world):
    path = world / "val.json"
    before = path.read_text()
    path.write_text(before.replace('"question": "', '"question": "please, ', 1))
    try:
        code, _, stderr = cli("--stage", "selfplay", "--out", finished.out)
    finally:
        path.write_text(before)
    assert_one_line(code, stderr, "content of the data", "choose another --out")


# ---------------------------------------------------------------------------------------------
# Self-play and its baselines

@pytest.mark.parametrize("loss, name", [("spin", "spin-1"), ("dpo", "dpo-1"),
                                        ("sft", "continued-1"), ("ppo", "ppo-1")])
def test_baselines_play_from_the_same_candidate(finished, cli, monkeypatch, loss, name):
    fits, asked = {}, []
    spied(monkeypatch, fits, asked)
    code, _, stderr = cli("--stage", "selfplay", "--loss", loss, "--out", finished.out)
    assert (code, stderr) == (0, "") and list(fits) == [name]
    assert candidate(finished.out, name)["parent"] == best(finished).name
    ours = {row["model"]: row for row in results(finished.out) if row["split"] == "test"}
    assert ours[name]["n"] == 8
    assert [row for row in results(finished.out) if row["model"] in LINE] == finished.results
    games, main_line = flat(fits[name]), flat(finished.fits["selfplay-1"])
    assert {len(item.sequences) for item in games} == {1 if loss in ("sft", "ppo") else 2}
    prompts = {key(item)[0][:item.sequences[0][1]] for item in games}
    if loss == "spin":                                  # labelled questions only, every sample
        assert len(prompts) <= len(PAIRS["train"]) and {item.R for item in games} == {1.0}
    updates = len(finished.fits["selfplay-1"])            # SPIN's chunks fill them otherwise
    assert abs(len(fits[name]) - updates) <= (loss == "spin")
    if loss == "dpo":                                   # wrong samples only
        assert {item.R for item in games} == {1.0}
        assert set(map(key, games)) <= {key(item) for item in main_line if item.R}


def flat(steps):
    return [item for step in steps for chunk in step for item in chunk]


def key(item):
    """What tells a Pair from others; its lists cannot be hashed."""
    return tuple(tuple(ids) for ids, _ in item.sequences)


def test_self_play_trains_on_right_and_wrong_samples(finished):
    games = flat(finished.fits["selfplay-1"])
    assert {item.R for item in games} == {0.0, 1.0}
    tokenizer = Tokenizer(finished.out / "sft")
    for item in games:
        gold, sample = (tokenizer.decode(ids[n:]) for ids, n in item.sequences)
        assert item.R == 0 or gold != sample


def test_a_round_keeps_who_played_and_what_it_did_to_log_p(finished):
    record = candidate(finished.out, "selfplay-1")["metrics"]
    weakest = min(LINE[1:4], key=lambda name: candidate(finished.out, name)["ex"])
    assert (record["main"], record["opponent"]) == (best(finished).name, weakest)
    assert 0 < record["R = 1"] < 1 and record["tokens per second"] > 0
    assert record["steps"] == len(finished.fits["selfplay-1"])
    for name in ("gold", "wrong sample", "margin"):
        before, after = record["before"][name], record["after"][name]
        assert f"{name} {before:.2f} -> {after:.2f}" in finished.stdout
    assert record["after"]["margin"] > record["before"]["margin"]


def test_log_ratios_of_the_opponent_itself_have_no_margin():
    pairs = [Pair("d", [], [], [], (-2.0, -3.0), R=1.0), Pair("d", [], [], [], (-4.0, -9.0))]
    assert log_ratios(pairs, pairs) == {"gold": -3.0, "wrong sample": -3.0, "margin": 0.0}
    now = [spft.replace(pair, opponent=(pair.opponent[0] + 1, -5.0)) for pair in pairs]
    assert log_ratios(now, pairs) == {"gold": -2.0, "wrong sample": -5.0, "margin": 3.0}


def test_an_alarm_where_gold_becomes_less_likely(capsys):
    before = {"gold": -1.0, "wrong sample": -5.0, "margin": 0.0}
    show_log_ratios(before, {**before, "gold": -0.9})
    assert "ALARM" not in capsys.readouterr().out
    show_log_ratios(before, {**before, "gold": -1.1})
    assert "gold -1.00 -> -1.10" in (out := capsys.readouterr().out) and "ALARM" in out


class Stop(Exception):
    pass


@pytest.mark.parametrize("loss, opponent", [("spft", "weak"), ("dpo", "weak"), ("sft", "weak"),
                                            ("spin", "strong"), ("ppo", "strong")])
def test_best_plays_weakest(loss, opponent):
    """SPIN's and PPO's opponent is the main model's own start."""
    def begin(task, name, text):
        raise Stop(text)

    candidates = [Candidate(name, "-", "", ex) for name, ex in
                  (("mean", 40.0), ("weak", 10.0), ("strong", 70.0), ("fair", 55.0))]
    with pytest.raises(Stop, match=rf"main strong \(EX 70.0\) plays opponent {opponent} "):
        spft.selfplay_round(Config(loss=loss), None, SimpleNamespace(begin=begin), "play-1",
                            candidates)


def test_of_equal_candidates_the_newest_is_main():
    tied = [Candidate("sft", "base", "", 50.0), Candidate("vbift-1", "sft", "", 58.7),
            Candidate("selfplay-1", "vbift-1", "", 58.7)]
    main, opponent = spft.players("spft", tied)
    assert (main.name, opponent.name) == ("selfplay-1", "sft")
    assert spft.players("spft", tied[1:])[0].name == "selfplay-1"


def test_spin_goes_on_from_its_last_self_and_the_others_from_the_best():
    made = [Candidate("vbift-1", "-", "", 70.0), Candidate("spin-1", "vbift-1", "", 50.0)]
    assert [c.name for c in spft.players("spin", made)] == ["spin-1", "spin-1"]
    assert [c.name for c in spft.players("spft", made)] == ["vbift-1", "spin-1"]


@pytest.mark.parametrize("loss", ["spft", "spin", "dpo", "sft"])
def test_who_answers_and_what_each_loss_takes(monkeypatch, tmp_path, loss):
    """The opponent answers, and R is 1 where it is wrong. SPIN asks no synthetic question and
    pushes every sample down, DPO takes wrong samples alone and main's start as its reference, SFT
    the gold."""
    used = []
    task = SimpleNamespace(
        train=[Example("zoo", "asked", "SELECT 1")],
        to_sql=lambda e: Pair("zoo", [e.question], [e.query, "end"]),
        answer=lambda model, prompts, *rest: used.append((model, prompts)) or [
            Sample([prompt[0] + "?"], "end") for prompt in prompts],
        sql=lambda sample: sample.ids[0],
        verdicts=lambda examples, samples, split: [
            SimpleNamespace(correct=s.ids == ["made?"], status="ok", error="") for s in samples])
    run = SimpleNamespace(synthetic=lambda round: [Example("zoo", "made", "SELECT 2")],
                          out=tmp_path)
    monkeypatch.setattr(spft, "load_model", lambda cfg, folder, train=False: folder)
    monkeypatch.setattr(lm, "digest", str)
    monkeypatch.setattr(spft, "with_logprobs", lambda model, pairs, name="": [
        spft.replace(pair, opponent=(model, model)) for pair in pairs])
    cfg, rng = Config(loss=loss), random.Random(0)
    examples, _ = spft.examples_of_round(cfg, task, run, rng)
    pairs, kept = spft.sample_pairs(cfg, task, run, "x-1", Candidate("w", "-", "weak"), examples,
                                    rng)
    assert [row["pred"] for row in kept] == [pair.sample[0] for pair in pairs]
    questions = ["asked"] if loss == "spin" else ["asked", "made"]
    assert used == [("weak", [[q] for q in questions])]
    assert [pair.sample for pair in pairs] == [[q + "?", "end"] for q in questions]
    assert [pair.R for pair in pairs] == [1.0, 0.0][:len(questions)]
    assert {tuple(pair.opponent) for pair in pairs} == {("weak", "weak")}
    steps, _ = spft.objective(cfg, pairs, [[pairs]], Candidate("s", "-", "strong"), rng)
    taken = flat(steps)
    if loss == "sft":
        assert [pair.sample for pair in taken] == [None, None]
    else:
        assert [pair.R for pair in taken] == ([1.0, 0.0] if loss == "spft" else [1.0])
        reference = "strong" if loss == "dpo" else "weak"
        assert {tuple(pair.opponent) for pair in taken} == {(reference, reference)}


@pytest.mark.parametrize("loss, epochs, asked, passes", [
    ("spft", 1.0, 12, 1.0), ("spft", 2.0, 12, 2.0), ("sft", 0.25, 3, 1.0), ("dpo", 0.3, 4, 0.9),
    ("spin", 1.0, 4, 3.0), ("spin", 0.25, 3, 1.0), ("spft", 0.0, 1, 0.0)])
def test_a_part_of_a_pass_plays_on_a_part_and_spin_takes_as_many_updates(loss, epochs, asked,
                                                                         passes):
    task = SimpleNamespace(train=[Example("zoo", f"asked {i}", "SELECT 1") for i in range(4)])
    run = SimpleNamespace(synthetic=lambda round: [Example("zoo", f"made {i}", "SELECT 2")
                                                   for i in range(8)])
    cfg = Config(loss=loss, selfplay_epochs=epochs)
    taken, times = spft.examples_of_round(cfg, task, run, random.Random(0))
    assert len(taken) == asked == len(set(e.question for e in taken))
    assert times == pytest.approx(passes) and len(taken) * times == pytest.approx(12 * epochs)
    if loss == "spin":
        assert all(e.question.startswith("asked") for e in taken)
    elif asked < 12:
        assert taken != (task.train + run.synthetic(2))[:asked]


def test_ppo_compares_the_samples_of_a_prompt(monkeypatch, tmp_path):
    """Four answers to each prompt, one of them right to the first, three to the second: reward
    1 - R less its mean.  Samples alone are trained on, in as many updates as one answer takes."""
    right = {"first?": [0, 0, 1, 0], "second?": [1, 0, 1, 1]}
    task = SimpleNamespace(
        train=[Example("zoo", q, "SELECT 1") for q in right],
        to_sql=lambda e: Pair(e.question, [e.question], ["SELECT 1", "end"]),
        answer=lambda model, prompts, name, temperature, n, seed: [
            Sample([f"{prompt[0]}{i}"], "end") for prompt in prompts for i in range(n)],
        sql=lambda sample: sample.ids[0],
        verdicts=lambda examples, samples, split: [
            SimpleNamespace(correct=bool(right[s.ids[0][:-1]][int(s.ids[0][-1])]), status="ok",
                            error="") for s in samples])
    monkeypatch.setattr(spft, "load_model", lambda cfg, folder, train=False: folder)
    monkeypatch.setattr(lm, "digest", str)
    monkeypatch.setattr(spft, "with_logprobs", lambda model, pairs, name="": [
        spft.replace(pair, opponent=(-1.0, -2.0)) for pair in pairs])
    cfg, rng = Config(loss="ppo", rounds=0), random.Random(0)
    main = Candidate("s", "-", "strong")
    pairs, _ = spft.sample_pairs(cfg, task, SimpleNamespace(out=tmp_path), "ppo-1", main,
                                 task.train, rng)
    assert [pair.sample[0] for pair in pairs] == [f"{q}{i}" for q in right for i in range(4)]
    assert [pair.R for pair in pairs] == [1, 1, 0, 1, 0, 1, 0, 0]
    assert [pair.advantage for pair in pairs] == [-.25, -.25, .75, -.25, .25, -.75, .25, .25]
    steps = steps_of_groups(pairs, 4, 1, 1, rng)
    assert len(steps) == len(steps_of(pairs[::4], 1, 1, random.Random(0))) == 2
    assert sorted(map(key, flat(steps))) == sorted(map(key, pairs))
    assert [len({tuple(pair.prompt) for pair in flat([step])}) for step in steps] == [1, 1]
    steps, loss = spft.objective(cfg, pairs, [[pairs]], main, rng)
    assert [pair.gold for pair in flat(steps)] == [None] * 8
    logp = torch.full((8,), -2.0)                       # main = its start: minus the advantage
    assert loss.terms(logp, flat(steps)).item() == pytest.approx(0)
    assert loss.terms(logp[:3], flat(steps)[:3]).item() == pytest.approx(-0.25)


def test_pairs_are_kept_with_what_a_person_wants_to_see(finished):
    """An answer of the opponent for each prompt, its verdict, token ids and log-probabilities."""
    tokenizer = Tokenizer(finished.out / "sft")
    for row in finished.pairs:
        assert row["question"] and row["gold"].startswith("SELECT")
        assert tokenizer.decode(row["sample"]).strip() == row["pred"]
        assert row["correct"] or row["error"] or row["status"] == "ok"
        assert len(row["opponent"]) == 2
    share = sum(not row["correct"] for row in finished.pairs) / len(finished.pairs)
    assert share == pytest.approx(candidate(finished.out, "selfplay-1")["metrics"]["R = 1"])


@pytest.fixture
def replayed(finished, cli, tmp_path):
    """replayed(change) plays the last round again in a copy of the run, after change(its folder);
    its metrics."""
    def again(change):
        out = tmp_path / "run"
        shutil.copytree(finished.out, out)
        (out / "selfplay-1" / "candidate.json").unlink()
        change(out)
        code, _, stderr = cli("--stage", "selfplay", "--out", out)
        assert (code, stderr) == (0, "")
        return candidate(out, "selfplay-1")["metrics"]
    return again


def without_speed(metrics):
    return {name: value for name, value in metrics.items()
            if name not in ("tokens per second", "peak GB")}


def test_a_round_that_goes_on_does_not_sample_again(finished, replayed, monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the answers are there")
    answer = spft.Task.answer
    monkeypatch.setattr(spft.Task, "answer", lambda task, model, prompts, name, *rest: (
        refuse() if name == "opponent" else answer(task, model, prompts, name, *rest)))
    metrics = replayed(lambda out: None)
    assert without_speed(metrics) == without_speed(
        candidate(finished.out, "selfplay-1")["metrics"])


def test_kept_log_probs_are_what_the_loss_is_made_of(finished, replayed):
    """Where the file says that the opponent found gold unlikely, the loss starts lower."""
    def poison(out):
        path = out / "selfplay-1" / "pairs.jsonl"
        first, *kept = rows(path)
        for row in kept:
            row["opponent"][0] -= 3
        spft.write_lines(path, [first, *kept])
    before = candidate(finished.out, "selfplay-1")["metrics"]["loss at first"]
    assert replayed(poison)["loss at first"] < before - 0.1


def test_pairs_of_other_weights_or_data_are_not_used(tmp_path):
    """The first line of what is kept is a digest of all that decides it."""
    made = []
    for about, times in (("a", 1), ("a", 1), ("b", 2), ("b", 2)):
        for name in ("selfplay-1", "continued-1"):              # another loss takes the same pairs
            found = spft.cached_pairs(tmp_path, name, about,
                                      lambda: made.append(about) or [[about]])
            assert found == [[about]]
        assert len(made) == times


# ---------------------------------------------------------------------------------------------
# A person's own databases

def test_one_database_without_labels(cli, finished, world, tmp_path):
    """The demo's templates make SQL for it; what the start model asks is all there is to learn."""
    data, out = shutil.copy(zoo(world), tmp_path / "my animals.sqlite"), tmp_path / "run"
    words = ["--stage", "selfplay", "--data", data, "--out", out, "--epochs", 1,
             "--model", finished.out / best(finished).name]
    code, stdout, stderr = cli(*words)
    assert (code, stderr) == (0, "") and Path(data).read_bytes() == zoo(world).read_bytes()
    found = results(out)
    assert [(row["model"], row["split"]) for row in found] == [
        (name, "val") for name in ("base", "vbift-1", "vbift-2", "selfplay-1")]
    asked = rows(out / "validation.jsonl")
    assert asked and {row["db_id"] for row in asked} == {"my animals"}
    assert {row["n"] for row in found} == {len(asked)}
    schema = read_schema(data)
    made = {normalise(row["query"], schema) for r in (1, 2)
            for row in rows(out / f"vbift-{r}" / "synthetic.jsonl")}
    assert made and not made & {normalise(row["query"], schema) for row in asked}
    assert "too few labelled questions" in stdout
    (out / "vbift-2" / "candidate.json").unlink()       # nothing is made anew but what is missing
    kept = content(out / "vbift-1") | {path: path.read_bytes() for path in [
        out / "validation.jsonl", out / "vbift-2" / "synthetic.jsonl"]}
    assert cli(*words)[0] == 0
    assert kept.items() <= content(out).items()
    code, _, stderr = cli(*words, "--loss", "spin")
    assert_one_line(code, stderr, "no labelled questions", "spin")


def test_a_folder_of_databases_with_a_few_examples(cli, world, base, tmp_path):
    data = tmp_path / "mine"
    data.mkdir()
    for db_id in ("zoo", "shop"):
        shutil.copy(world / "database" / db_id / f"{db_id}.sqlite", data / f"{db_id}.db")
    shutil.copy(world / "train.json", data / "examples.json")
    code, stdout, stderr = cli("--stage", "vbift", "--data", data, "--rounds", 1, "--epochs", 1,
                               "--out", tmp_path / "run")
    assert (code, stderr) == (0, "") and "18 labelled questions for training; 2 for" in stdout
    made = rows(tmp_path / "run" / "vbift-1" / "synthetic.jsonl")
    assert {row["db_id"] for row in made} == {"zoo", "shop"}
    shutil.copy(world / "test.json", data / "test.json")
    shutil.copy(world / "val.json", data / "val.json")
    code, stdout, stderr = cli("--stage", "sft", "--data", data, "--out", tmp_path / "labelled")
    assert (code, stderr) == (0, "") and "too few labelled" not in stdout
    assert {(row["split"], row["n"]) for row in results(tmp_path / "labelled")} == {
        ("val", 8), ("test", 8)}


def test_synthesis_for_a_database_without_labels(world, tmp_path, capsys):
    run_synth(zoo(world), tmp_path / "out", n=12)
    assert "made 12 of 12" in capsys.readouterr().out
    assert {row["db_id"] for row in rows(tmp_path / "out" / "synthetic.jsonl")} == {"zoo"}


@pytest.mark.parametrize("harm, word", [
    (lambda path: path.write_text("no database"), "mine.sqlite"),
    (lambda path: shutil.copy(path, path.with_suffix(".db")), "two databases of one name"),
    (lambda path: path.rename(path.with_suffix(".txt")), "none of the folders")])
def test_own_databases_that_cannot_be_used(cli, idle, world, tmp_path, harm, word):
    (tmp_path / "data").mkdir()
    harm(Path(shutil.copy(zoo(world), tmp_path / "data" / "mine.sqlite")))
    code, _, stderr = cli("--stage", "selfplay", "--data", tmp_path / "data", "--out",
                          tmp_path / "run")
    assert_one_line(code, stderr, word)
    assert not (tmp_path / "run").exists()


# ---------------------------------------------------------------------------------------------
# Evaluation

def test_eval_scores_a_checkpoint_as_the_run_did(finished, cli, tmp_path):
    code, stdout, stderr = cli("--stage", "eval", "--model", finished.out / "sft",
                               "--split", "test", "--out", tmp_path / "eval")
    assert (code, stderr) == (0, "")
    level, scored, correct, share = re.search(r"^(all) +(\d+) +(\d+) +(\S+)", stdout, re.M).groups()
    assert (scored, float(share)) == ("8", ex(finished, "sft", "test"))
    predictions, = (tmp_path / "eval").rglob("predictions.sql")
    kept = [row["pred"] for row in rows(finished.out / "sft" / "test.jsonl")]
    assert predictions.read_text().splitlines() == [" ".join(pred.split()) for pred in kept]


def test_an_answer_is_voted_for_by_what_it_returns(world, tokenizer):
    examples = [Example("zoo", "how many", ""), Example("shop", "which", "")]
    texts = ["SELECT nothing", "SELECT COUNT(*) FROM animal", "SELECT 8",
             "SELECT 1", "SELECT 2", "SELECT 2"]
    with Verifier(1) as verifier:
        task = spft.Task(Config(data=str(world)), tokenizer, verifier)
        assert spft.voted(task, examples, texts, 3) == ["SELECT COUNT(*) FROM animal", "SELECT 2"]
        assert spft.voted(task, examples, texts[:2], 1) == texts[:2]


def test_eval_by_a_vote_of_samples(finished, cli, tmp_path):
    code, stdout, stderr = cli("--stage", "eval", "--model", finished.out / "sft", "--samples", 3,
                               "--split", "test", "--out", tmp_path / "eval")
    assert (code, stderr) == (0, "") and "of 24 answers did not end" in stdout
    assert not leftovers(tmp_path)
    assert len((tmp_path / "eval/eval-test/predictions.sql").read_text().splitlines()) == 8


# ---------------------------------------------------------------------------------------------
# Two processes

def torchrun(arguments, *words, cwd, environment=(), script=ROOT / "spft.py"):
    """The finished processes of one command on two processes of this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
               "--nproc-per-node", "2", str(script), *arguments, *map(str, words)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240,
                          env={**os.environ, **dict(environment)})


def test_two_processes_stop_and_go_on_as_one(arguments, cli, tmp_path):
    """A signal to the second one, in a step: both end after it, and the first one saves."""
    (tmp_path / "stopped.py").write_text(
        "import os, sys; sys.path[:0] = os.environ['PATHS'].split(':')\n"
        "import spft, test_spft, pytest\n"
        "if os.environ['RANK'] == '1': test_spft.stop_in_step(pytest.MonkeyPatch(), 5)\n"
        "sys.exit(spft.main())\n")
    words = ["--stage", "sft", "--sft_epochs", 3, "--bf16", 0]
    process = torchrun(arguments, *words, "--out", "two", cwd=tmp_path, environment={
        "PATHS": f"{ROOT}:{ROOT}/tests"}, script=tmp_path / "stopped.py")
    assert process.returncode and (tmp_path / "two/sft/fit.state").exists(), process.stderr
    process = torchrun(arguments, *words, "--out", "two", cwd=tmp_path)
    assert process.returncode == 0 and "sft goes on at step 6 of" in process.stdout
    assert cli(*words, "--out", tmp_path / "one")[0] == 0
    one, two = (load_file(tmp_path / name / "sft" / "model.safetensors") for name in ("one", "two"))
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=2e-4)
    assert not leftovers(tmp_path / "two")


# ---------------------------------------------------------------------------------------------
# Asking

def zoo(world):
    return world / "database" / "zoo" / "zoo.sqlite"


def test_ask_prints_sql_and_its_rows(finished, cli, world):
    """A question of the training split, which the model knows by heart."""
    code, stdout, stderr = cli("--stage", "ask", "--model", finished.out / best(finished).name,
                               "--db", zoo(world), "how many animals")
    assert (code, stderr) == (0, "")
    assert stdout.splitlines()[:3] == ["SELECT COUNT(*) FROM animal", "  COUNT(*)", "  8"]


def test_ask_goes_on_until_an_empty_line(finished, cli, world, monkeypatch):
    lines = iter(["how many animals", "x" * 3000 + "'; DROP TABLE animal; --", "\x00\ud800 é", ""])
    monkeypatch.setattr("builtins.input", lambda prompt: next(lines))
    before = zoo(world).read_bytes()
    code, stdout, stderr = cli("--stage", "ask", "--model", finished.out / "sft",
                               "--db", zoo(world))
    assert (code or 0, stderr, list(lines)) == (0, "", [])
    assert "keeper(" in stdout.splitlines()[0] and zoo(world).read_bytes() == before


def test_votes_are_counted_by_what_queries_return():
    ok = [Result("ok", rows) for rows in ([(1,)], [(2,), (3,)], [(3,), (2,)])]
    failed = Result("error", [], "no such column")
    assert majority_vote(list("abc"), [*ok]) == ("b", ok[1], 2)
    assert majority_vote(list("abcd"), [failed, failed, ok[0], failed]) == ("c", ok[0], 1)
    assert majority_vote(list("ab"), [failed, failed])[:2] == ("a", failed)


def test_rows_that_fill_no_screen(capsys):
    show_result(Result("ok", [(i, "a\nb" + "x" * 90, None) for i in range(30)]))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 21 and max(map(len, lines)) < 60
    assert "30 rows" in lines[-1] and "10 not shown" in lines[-1]
    show_result(Result("ok", [(29101.489999999998, None, 2.0, 7, 1e-12, "x")]))
    assert capsys.readouterr().out.splitlines()[0] == "  29101.49  NULL  2.0  7  1e-12  x"


BAD_DATABASE = {
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "zoo.sqlite"),
    "none named": (None, "--db"),
    "missing": (lambda path: path.unlink(), "no such folder or file"),
    "empty": (lambda path: path.write_bytes(b""), "tables in it"),
    "corrupt": (lambda path: path.write_bytes(path.read_bytes()[:100] + b"\xff" * 5000),
                "zoo.sqlite"),
    "encrypted": (lambda path: path.write_bytes(os.urandom(8192)), "not a database"),
    "unfinished": (lambda path: path.with_name("zoo.sqlite-wal").write_bytes(b"x" * 33),
                   "unfinished"),
}


@pytest.mark.parametrize("kind", BAD_DATABASE)
def test_ask_of_a_bad_database(finished, cli, world, tmp_path, kind):
    harm, word = BAD_DATABASE[kind]
    path = shutil.copy(zoo(world), tmp_path / "zoo.sqlite")
    words = [] if harm is None else ["--db", path]
    if harm:
        harm(path)
    code, _, stderr = cli("--stage", "ask", "--model", finished.out / "sft", *words, "who?")
    assert_one_line(code, stderr, word)


def test_what_is_left_out_of_a_database_is_said_once(finished, cli, world, tmp_path, monkeypatch):
    """A table whose module is missing, a column whose values take too long to index."""
    path = shutil.copy(zoo(world), tmp_path / "zoo.sqlite")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA writable_schema = ON")
        db.execute("INSERT INTO sqlite_master VALUES ('table', 'geo', 'geo', 0, "
                   "'CREATE VIRTUAL TABLE geo USING spatialite')")
        db.commit()
        db.execute("PRAGMA writable_schema = OFF")
        db.execute("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
                   "INSERT INTO keeper (name) SELECT 'keeper ' || i FROM n")
        db.commit()
    monkeypatch.setattr(values, "STEPS", 20_000)
    code, stdout, stderr = cli("--stage", "ask", "--model", finished.out / "sft", "--db", path,
                               "how many animals")
    assert stderr == "" and stdout.count("left out: table geo: no such module") == 1
    assert stdout.count("left out: column keeper.name: values read in part") == 1


def test_ask_of_a_locked_database_reads_what_is_committed(finished, cli, world, tmp_path):
    path = shutil.copy(zoo(world), tmp_path / "zoo.sqlite")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        code, stdout, stderr = cli("--stage", "ask", "--model", finished.out / best(finished).name,
                                   "--db", path, "how many animals")
    assert (code, stderr) == (0, "") and "  8\n" in stdout


# ---------------------------------------------------------------------------------------------
# Gold is what the user wrote; validation where there is no val.json

def labelled_world(world, folder, train, **splits):
    """A copy of the world with other splits, lists of (db_id, question, SQL)."""
    shutil.copytree(world / "database", folder / "database")
    for name, some in {"train": train, **splits}.items():
        (folder / f"{name}.json").write_text(json.dumps(
            [{"db_id": d, "question": q, "query": sql} for d, q, sql in some]))
    return folder


AWKWARD = [                     # golds that the reader rewrites or cannot read, with their answers
    ("SELECT name , kind FROM animal WHERE  age>4", True),
    ("SELECT T1.name FROM animal AS T1 WHERE T1.age > 4;", True),
    ("SELECT name, ROW_NUMBER() OVER (ORDER BY age ROWS 1 PRECEDING) FROM animal", False),
    ("SELECT COUNT(*) FILTER (WHERE age > 4) FROM animal", False),
    ("WITH RECURSIVE n(i) AS (SELECT 1 UNION SELECT i + 1 FROM n WHERE i < 3) SELECT i FROM n",
     False),
]


def test_verdicts_are_against_the_gold_as_written(world, tokenizer, tmp_path):
    data = labelled_world(world, tmp_path / "data",
                          [("zoo", f"question {i}", sql) for i, (sql, _) in enumerate(AWKWARD)])
    with Verifier(1) as verifier:
        task = spft.Task(Config(data=str(data)), tokenizer, verifier)
        task.given_val = [Example("zoo", "?", "SELECT 1")]      # nothing is held out
        assert [e.query for e in task.train] == [sql for sql, _ in AWKWARD]
        for example, (sql, read) in zip(task.train, AWKWARD):
            assert (example.target == sql) != read
            assert (verifier.run([(zoo(world), example.target)])[0].rows
                    == verifier.run([(zoo(world), sql)])[0].rows)
        pairs = [(task.data.databases("zoo"), e.query, sql)
                 for e, (sql, _) in zip(task.train, AWKWARD)]
        assert all(v.correct for v in verifier.verdicts(pairs))
        assert sum(task.kept_raw.values()) == 3
        assert tokenizer.decode(task.to_sql(task.train[1]).gold) == (
            "SELECT name FROM animal WHERE age > 4")


def test_a_canonical_form_that_means_something_else_is_not_trained_on(
        world, tokenizer, tmp_path, monkeypatch):
    """Whatever the reader gets wrong: other rows, another order, an error."""
    wrong = {"SELECT name FROM animal": "SELECT kind FROM animal",
             "SELECT name FROM animal ORDER BY age": "SELECT name FROM animal ORDER BY age DESC",
             "SELECT name FROM animal ORDER  BY\nage": "SELECT name FROM animal ORDER BY name",
             "SELECT age FROM animal": "SELECT * FROM nothing",
             "SELECT kind FROM animal": "SELECT DISTINCT kind FROM animal"}
    data = labelled_world(world, tmp_path / "data", [("zoo", sql, sql) for sql in wrong])
    monkeypatch.setattr(splits, "canonical_sql", lambda sql, schema: wrong[sql])
    with Verifier(1) as verifier:
        task = spft.Task(Config(data=str(data)), tokenizer, verifier)
        assert [e.target for e in task.checked("train")] == list(wrong)
        assert sum(task.kept_raw.values()) == 5


def test_a_run_with_golds_that_the_reader_cannot_read(world, cli, tmp_path):
    train = PAIRS["train"] + [("zoo", f"awkward {i}", sql) for i, (sql, _) in enumerate(AWKWARD)]
    data = labelled_world(world, tmp_path / "data", train, val=PAIRS["val"], test=PAIRS["test"])
    code, stdout, stderr = cli("--stage", "vbift", "--data", data, "--rounds", 1, "--epochs", 0.1,
                               "--sft_epochs", 0.1, "--out", tmp_path / "run")
    assert (code, stderr) == (0, "")
    assert len(re.findall("^gold SQL that training takes as written: ", stdout, re.M)) == 1


def test_bird_is_scored_by_its_own_rules_inside_a_run(world, tokenizer, tmp_path):
    """Duplicates do not count in BIRD, and its key is SQL."""
    data = labelled_world(world, tmp_path / "data", [])
    (data / "train.json").write_text("[]")
    (data / "dev.json").write_text(json.dumps(
        [{"db_id": "zoo", "question": "kinds", "SQL": "SELECT DISTINCT kind FROM animal"}]))
    answer = Sample(tokenizer.encode("SELECT kind FROM animal"), tokenizer.end)
    with Verifier(1) as verifier:
        task = spft.Task(Config(data=str(data)), tokenizer, verifier)
        rows = spft.answer_rows(task, task.test, [answer], "test")
        assert [row["correct"] for row in rows] == [True]
        assert [v.correct for v in verifier.verdicts(
            [(zoo(world), task.test[0].query, "SELECT kind FROM animal")])] == [False]


def test_validation_without_val_json():
    def examples(databases, queries):
        return [Example(f"db{i % databases}", f"question {i}", f"SELECT {i % queries}")
                for i in range(240)]

    held = validation_share(examples(40, 240))
    names = {e.db_id for e in held}
    assert 1 <= len(names) <= 12 and held == [e for e in examples(40, 240) if e.db_id in names]
    for n in range(10, 30):                             # a tenth by chance may be none: never here
        assert 0 < len(validation_share(examples(n, 240))) < 240
    held = validation_share(examples(3, 60))
    queries = {e.query for e in held}
    assert queries and held == [e for e in examples(3, 60) if e.query in queries]
    assert validation_share(examples(3, 19)) == []


@pytest.mark.parametrize("val", [None, [], [("zoo", "?", "SELECT nothing")]])
def test_a_run_without_validation_examples_takes_a_share(world, cli, tmp_path, val):
    data = labelled_world(world, tmp_path / "data", PAIRS["train"],
                          **({} if val is None else {"val": val}))
    code, stdout, stderr = cli("--stage", "vbift", "--data", data, "--rounds", 1, "--epochs", 0.1,
                               "--sft_epochs", 1, "--bad_gold", "skip", "--out", tmp_path / "run")
    assert (code, stderr) == (0, "")
    count, = re.findall(r"for training; (\d+) for validation \(held out of the training", stdout)
    assert "0 for test" in stdout and {row["split"] for row in results(tmp_path / "run")} == {"val"}
    val = rows(tmp_path / "run" / "sft" / "val.jsonl")
    assert len(val) == int(count) > 0
    made = {row["query"] for row in rows(tmp_path / "run" / "vbift-1" / "synthetic.jsonl")}
    assert not made & {row["gold"] for row in val}


def test_a_run_with_too_few_labels_is_validated_on_synthetic_questions(
        world, finished, cli, tmp_path):
    data = labelled_world(world, tmp_path / "data", PAIRS["train"][:9])
    code, stdout, stderr = cli("--stage", "sft", "--data", data, "--model", finished.out / "sft",
                               "--sft_epochs", 0, "--out", tmp_path / "run")
    assert (code, stderr) == (0, "")
    assert "9 labelled questions for training" in stdout and "(synthetic, the model's own" in stdout


# ---------------------------------------------------------------------------------------------
# Leaving

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_so_in_one_line_and_goes_on(finished, arguments, cli, tmp_path, number):
    """No traceback, no worker, no half-written file; the same command ends as if nothing was."""
    out = tmp_path / "run"
    command = [sys.executable, str(ROOT / "spft.py"), *arguments, "--stage", "vbift", "--out",
               str(out)]
    reset = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=tmp_path, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, preexec_fn=reset)
    while not (out / "sft" / "candidate.json").exists():
        time.sleep(0.05)
        assert process.poll() is None
    process.send_signal(number)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    assert stderr.strip() == "spft.py: stopped; the same command continues"
    assert not list(out.rglob("*.tmp"))
    assert cli("--stage", "vbift", "--out", out)[0] == 0
    assert same_weights(out / "vbift-2", finished.out / "vbift-2")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_a_callback_of_sqlite_is_not_lost(number):
    """SQLite would take it for a query that takes too long, the reader then for a table that it
    reads in part."""
    ticks, found = [], []

    @sqlite_callback
    def tick():
        ticks.append(len(ticks))
        if len(ticks) == 3:
            os.kill(os.getpid(), number)
        return sum(ticks) < 0

    def work():
        with closing(sqlite3.connect(":memory:")) as db:
            db.set_progress_handler(tick, 100)
            found.append(db.execute("WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 "
                                    "FROM c WHERE x < 3000) SELECT count(*) FROM c").fetchone())
        time.sleep(20)

    with redirect_stderr(io.StringIO()) as stderr:
        assert run_command("x", work) == 128 + number
    assert found == [(3000,)] and len(ticks) > 10 and stderr.getvalue() == "\nx: stopped\n"


def test_whoever_reads_a_database_marks_its_callbacks():
    found = 0
    for text in [path.read_text() for path in (ROOT / "data").rglob("*.py")]:
        for given in re.findall(r"set_(?:authorizer|progress_handler)\((?!None)([^,)]+)", text):
            name = given.removeprefix("self.")
            assert given.startswith("sqlite_callback(") or (
                f"@sqlite_callback\n    def {name}(" in text), given
            found += 1
    assert found >= 5


def test_ctrl_c_while_asking_promises_nothing(finished, cli, world, monkeypatch):
    def interrupt(prompt):
        raise KeyboardInterrupt
    monkeypatch.setattr("builtins.input", interrupt)
    code, _, stderr = cli("--stage", "ask", "--model", finished.out / "sft", "--db", zoo(world))
    assert code == 130 and stderr.strip() == "spft.py: stopped"


# ---------------------------------------------------------------------------------------------
# Bad input: one line, exit code 2, nothing left behind

def assert_one_line(code, stderr, *words):
    assert code == 2 and stderr.endswith("\n") and stderr.count("\n") == 1
    assert stderr.startswith("spft.py: error: ") and "Traceback" not in stderr
    for word in words:
        assert word in stderr


def drop_database(data):
    shutil.rmtree(data / "database" / "shop")


def edit(name, change):
    def apply(data):
        path = data / name
        path.write_text(change(path.read_text()))
    return apply


def corrupt(data):
    (data / "database" / "zoo" / "zoo.sqlite").write_bytes(b"no database at all" * 100)


def truncate(data):
    path = data / "database" / "zoo" / "zoo.sqlite"
    path.write_bytes(path.read_bytes()[:3000])


BAD_DATA = {
    "missing folder": (shutil.rmtree, ["no such folder"]),
    "folder without databases": (lambda data: shutil.rmtree(data / "database"), ["database"]),
    "malformed JSON": (edit("val.json", lambda text: text[:-5]), ["val.json"]),
    "JSON of another kind": (edit("test.json", lambda text: "{}"), ["test.json", "list"]),
    "no question": (edit("train.json", lambda text: text.replace('"question"', '"ask"', 1)),
                    ["train.json: example 0", "question"]),
    "no training split": (lambda data: (data / "train.json").unlink(), ["train"]),
    "no training questions": (edit("train.json", lambda text: "[]"), ["no training question"]),
    "no gold that runs": (lambda data: (data / "train.json").write_text(json.dumps(
        [{"db_id": "zoo", "question": "?", "query": "SELECT nothing"}])), ["nothing"]),
    "db_id without database": (drop_database, [".json: example", "shop"]),
    "corrupt database": (corrupt, ["zoo.sqlite"]),
    "truncated database": (truncate, ["zoo"]),
    "gold that does not run": (
        edit("test.json", lambda text: text.replace("MAX(price)", "MAX(prize)")), ["prize"]),
}


@pytest.mark.parametrize("kind", BAD_DATA)
def test_bad_data(cli, idle, world, tmp_path, kind):
    data = shutil.copytree(world, tmp_path / "data")
    harm, words = BAD_DATA[kind]
    harm(data)
    out = tmp_path / "run"
    code, _, stderr = cli("--stage", "selfplay", "--data", data, "--out", out)
    assert_one_line(code, stderr, *words)
    assert not list(out.rglob("*.safetensors"))


BAD_MODEL = {
    "missing folder": shutil.rmtree,
    "no config": lambda folder: (folder / "config.json").unlink(),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "no tokenizer": lambda folder: (folder / "tokenizer.json").unlink(),
    "malformed config": lambda folder: (folder / "config.json").write_text("{"),
    "unsupported": lambda folder: (folder / "config.json").write_text(
        '{"architectures": ["MambaForCausalLM"]}'),
    "truncated weights": lambda folder: (folder / "model.safetensors").write_bytes(
        (folder / "model.safetensors").read_bytes()[:5000]),
}


@pytest.mark.parametrize("kind", BAD_MODEL)
def test_bad_model(cli, idle, base, tmp_path, kind):
    folder = shutil.copytree(base, tmp_path / "model")
    BAD_MODEL[kind](folder)
    out = tmp_path / "run"
    code, _, stderr = cli("--stage", "selfplay", "--model", folder, "--out", out)
    assert_one_line(code, stderr, str(folder))
    assert not list(out.rglob("*.safetensors"))


BAD_OPTIONS = {
    "unknown stage": (["--stage", "grpo"], ["grpo", "selfplay"]),
    "unknown loss": (["--loss", "grpo"], ["grpo", "spin"]),
    "unknown option": (["--colour", "red"], ["--colour"]),
    "abbreviated option": (["--synth", "5"], ["--synth"]),
    "no number": (["--seed", "one"], ["--seed", "one"]),
    "no whole number": (["--batch", "8.5"], ["--batch", "8.5"]),
    "no float": (["--lr", "fast"], ["--lr", "fast"]),
    "no value": (["--lam"], ["--lam"]),
    **{f"{option} {value}": ([option, value], [option, value]) for option, value in [
        ("--samples", "0"), ("--limit", "-5"), ("--questions", "0"), ("--threads", "0"),
        ("--threads", "-1"), ("--decode_batch", "0"), ("--max_new", "0"), ("--max_new", "-3"),
        ("--lr", "nan"), ("--lr", "-1"), ("--vbift_lr", "inf"), ("--selfplay_lr", "-1"),
        ("--lam", "nan"), ("--epochs", "-1"), ("--sft_epochs", "inf"), ("--batch", "0"),
        ("--batch", "-8"), ("--synthetic", "0"), ("--rounds", "-1"), ("--selfplay_rounds", "-1"),
        ("--seed", "-1"), ("--seed", "99999999999999999999"), ("--lora", "-2"),
        ("--shard", "2"), ("--bf16", "3"), ("--timeout", "0"), ("--timeout", "nan"),
        ("--temperature", "-0.5"), ("--micro_tokens", "0"), ("--schema_budget", "0"),
        ("--device", "cuda"), ("--device", "tpu"), ("--bad_gold", "ask")]
       if value != "cuda" or not torch.cuda.is_available()},
    "shards of one process": (["--shard", "1"], ["--shard", "torchrun"]),
}


@pytest.mark.parametrize("kind", BAD_OPTIONS)
def test_bad_option(cli, idle, tmp_path, kind):
    words, named = BAD_OPTIONS[kind]
    code, _, stderr = cli("--out", tmp_path / "run", *words)
    assert_one_line(code, stderr, *named)
    assert not (tmp_path / "run").exists()


def test_out_that_cannot_be_written(cli, idle, tmp_path):
    (tmp_path / "file").write_text("kept")
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        code, _, stderr = cli("--stage", "selfplay", "--out", out)
        assert_one_line(code, stderr, str(out))
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.parametrize("room", [300, 20_000])
def test_a_disk_that_is_full(arguments, tmp_path, room):
    """No file may grow over `room` bytes: results do not fit, or only weights."""
    command = [sys.executable, str(ROOT / "spft.py"), *arguments, "--stage", "sft", "--out", "run"]
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (room, room))
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True,
                             preexec_fn=limit)
    file = "config.json" if room == 300 else "sft/model.safetensors"
    assert_one_line(process.returncode, process.stderr, "run", "File too large")
    assert not (tmp_path / "run" / file).exists() and not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("module", ["data.synthesis", "data.pretraining"])
def test_commands_of_their_own_end_bad_input_in_one_line(module, tmp_path):
    option = {"data.synthesis": "--data", "data.pretraining": "--model"}[module]
    done = subprocess.run([sys.executable, "-m", module, option, tmp_path / "no\x1bwhere", "--out",
                           tmp_path / "out"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"python -m {module}: error: ") and "\x1b" not in done.stderr


def test_errors_reach_the_shell(arguments, tmp_path):
    command = [sys.executable, str(ROOT / "spft.py"), *arguments, "--data", "nowhere"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert_one_line(process.returncode, process.stderr, "nowhere")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------------------------------------
# Small parts

def test_faults_are_counted_without_the_names_in_them():
    answers = [("ok", "", True), ("ok", "", False), ("timeout", "5 s", False),
               ("error", "no such column: T1.a", False), ("error", "no such column: b", False),
               ("error", 'near "BY": syntax error', False), ("error", "incomplete input", False)]
    assert errors([dict(zip(("status", "error", "correct"), row)) for row in answers]) == (
        "no such column 2, incomplete input 1, other result 1, syntax error 1, timeout 1")


@pytest.mark.parametrize("right, n, low, high", [
    (50, 100, 40.38, 59.62), (0, 10, 0.0, 27.75), (10, 10, 72.25, 100.0), (1, 1, 20.65, 100.0)])
def test_wilson_interval(right, n, low, high):
    """The two p with |p - share| = z sqrt(p (1 - p) / n); a gold that fails counts nowhere."""
    answers = ([{"correct": True, "status": "ok"}] * right
               + [{"correct": False, "status": "error"}] * (n - right)
               + [{"correct": False, "status": "bad_gold"}] * 3)
    assert percent(answers) == pytest.approx(100 * right / n)
    assert interval(answers) == pytest.approx((low, high), abs=0.005)
    for p in (bound / 100 for bound in interval(answers)):
        assert abs(p - right / n) == pytest.approx(1.96 * abs(p * (1 - p) / n) ** 0.5, abs=1e-7)


def test_schedule_rises_to_1_and_sinks_to_a_tenth():
    for warmup in (0.02, 0.05, 0.5):
        rates = [spft.schedule(t / 1000, warmup) for t in range(1, 1001)]
        peak = rates.index(max(rates))
        assert peak + 1 == 1000 * warmup and rates[peak] == pytest.approx(1)
        assert rates[:peak + 1] == sorted(rates[:peak + 1])
        assert rates[peak:] == sorted(rates[peak:], reverse=True)
        assert rates[-1] == pytest.approx(0.1) and min(rates[:peak]) > 0


def some_items(n=50, groups=3):
    return [Pair(f"db{i % groups}", [i], [i + 1]) for i in range(n)]


@pytest.mark.parametrize("epochs", [0.0, 0.3, 1.0, 2.0, 2.5])
def test_every_item_comes_once_an_epoch(epochs):
    items = some_items()
    steps = steps_of(items, epochs, 16, random.Random(0))
    seen = list(map(key, flat(steps)))
    assert len(seen) == round(epochs * len(items))
    for start in range(0, len(seen), len(items)):
        epoch = seen[start:start + len(items)]
        assert len(set(epoch)) == len(epoch)


def test_chunks_are_of_one_group_and_steps_of_one_size():
    items = some_items(90, groups=4)
    steps = steps_of(items, 3, 16, random.Random(0), share=8)
    for chunk in (chunk for step in steps for chunk in step):
        assert len({item.db_id for item in chunk}) == 1 and 1 <= len(chunk) <= 8
    sizes = [sum(map(len, step)) for step in steps]
    assert all(16 <= size < 16 + 8 for size in sizes[:-1]) and 0 < sizes[-1] < 16 + 8


def test_the_order_of_items_is_the_seeds():
    items = some_items()
    first, again, other = (steps_of(items, 2, 16, random.Random(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert flat(first)[:50] != flat(first)[50:]         # a new order each epoch


@pytest.mark.parametrize("budget", [1, 7, 20, 10**6])
def test_micro_batches_hold_all_rows_and_the_budget(budget):
    """Rows of like length stand together: little of a part is padding."""
    chunks = [[item] * (1 + i % 4) for i, item in enumerate(some_items(20))]
    parts = micro_batches(chunks, budget)
    lengths = [[packed_length(chunk) for chunk in part] for part in parts]
    assert sum(parts, []) == sorted(chunks, key=packed_length, reverse=True) and all(parts)
    assert all(len(part) == 1 or sum(part) <= budget for part in lengths)


@pytest.mark.parametrize("n, expected", [(1, 2), (2, 2), (3, 3), (5, 5), (9, 6)])
def test_each_rank_has_a_chunk_where_there_are_pairs_enough(n, expected):
    pairs = [Pair("zoo", [1, 2, 3 + i], [4] * (i + 1)) for i in range(6)]
    parts = spread([pairs[:1], pairs[1:]], n)
    assert len(parts) == expected and sorted(map(id, flat([parts]))) == sorted(map(id, pairs))
    if n == 3:
        assert max(map(len, parts)) == 3                   # the long chunk was halved


def test_threads_change_nothing(cli, tmp_path):
    """Micro-batches run side by side; what they find is added in their order."""
    words = ["--stage", "sft", "--sft_epochs", 1, "--micro_tokens", 300, "--threads"]
    assert cli(*words, 3, "--out", tmp_path / "run")[0] == 0
    assert cli(*words, 1, "--out", tmp_path / "alone")[0] == 0
    assert same_weights(tmp_path / "run" / "sft", tmp_path / "alone" / "sft")


def test_the_likeliest_question_that_names_all_values_is_kept(capsys, monkeypatch):
    """Numbers need no naming; a question that did not end is none."""
    examples = [Example("zoo", "", f"SELECT name FROM animal WHERE {where}") for where in (
        "kind = 'lion'", "kind LIKE '%ion%'", "age > 3", "kind = 'lion'", "kind = 'zebra'")]
    drawn = [("all of them", True), ("each LION", True), ("one with ion", True), ("x ion", False),
             ("old ones", True), ("older", True), ("lion", False), ("lions", False),
             ("lion", True), ("", True)]
    task = SimpleNamespace(
        prompts=SimpleNamespace(question=lambda example: "?"),
        answer=lambda model, prompts, name, temperature, n, seed: [
            Sample(text, 0 if finished else None) for text, finished in drawn],
        text=lambda sample: sample.ids, to_sql=lambda example: Pair("zoo", [], example.question))
    monkeypatch.setattr(spft, "with_logprobs", lambda model, pairs, name: [
        spft.replace(pair, opponent=(-len(pair.gold),)) for pair in pairs])
    cfg = Config(questions=2, least_logp=-99)
    written = spft.write_questions(cfg, task, None, random.Random(0), examples)
    assert [e.question for e in written] == ["each LION", "one with ion", "older"]
    assert [e.query for e in written] == [e.query for e in examples[:3]]
    assert "no question 1, value not named 1" in capsys.readouterr().out


@pytest.mark.parametrize("text, good", [
    ("Select all singers.", True), ("Show the schematic of each part", True),
    ("", False), ("How many?\nSELECT COUNT(*)", False), ("What does `kind` hold?", False),
    ("Select name from animal", False), ("To answer this query, we count the lions.", False),
    ("Based on the schema, lions are asked for.", False)])
def test_prose_and_sql_are_no_questions(text, good):
    assert is_question(text) == good


@pytest.mark.parametrize("logps, kept", [
    ([-1, -5, -6, -2, -3, -4], [0, 1, 3, 4, 5]),      # one below -5
    ([-9, -8, -7, -6, -5.5, -5.1], [2, 3, 4, 5]),     # all, of which a third is dropped
    ([-9], [0]), ([], [])])
def test_garbled_questions_are_dropped_a_third_at_most(logps, kept, capsys, monkeypatch):
    examples = [Example("zoo", "", f"SELECT {i}") for i in range(len(logps))]
    task = SimpleNamespace(
        prompts=SimpleNamespace(question=lambda example: "?"),
        answer=lambda model, prompts, *rest: [Sample(f"q{i}", 0) for i in range(len(prompts))],
        text=lambda sample: sample.ids, to_sql=lambda example: Pair("zoo", [], [example.question]))
    monkeypatch.setattr(spft, "with_logprobs", lambda model, pairs, name: [
        spft.replace(pair, opponent=(logp,)) for pair, logp in zip(pairs, logps)])
    written = spft.write_questions(Config(questions=1), task, None, random.Random(0), examples)
    assert [e.question for e in written] == [f"q{i}" for i in kept]
    dropped = len(logps) - len(kept)
    assert (f"garbled {dropped}" if dropped else "dropped: none") in capsys.readouterr().out


@pytest.mark.parametrize("words, hint", [
    (["selfplay"], "write --stage selfplay"), (["how many animals"], "write --stage ask --db FILE"),
    (["--stage", "sft", "eval"], "write --stage eval")])
def test_a_stray_word_starts_no_training(cli, tmp_path, words, hint):
    code, stdout, stderr = cli(*words, "--out", tmp_path / "run")
    assert_one_line(code, stderr, hint)
    assert not (tmp_path / "run").exists()


def test_dashes_in_a_setting_are_underscores():
    assert spft.parse_config(["--sft-epochs", "3", "--base-model=a-b"]) == Config(
        sft_epochs=3.0, base_model="a-b")


def test_a_run_as_the_model_is_its_best_candidate(finished, cli, world):
    code, stdout, stderr = cli("--stage", "ask", "--model", finished.out, "--db", zoo(world),
                               "how many animals")
    assert (code, stderr) == (0, "")
    made = sorted(finished.out.glob("*/candidate.json"), key=lambda path: path.stat().st_mtime)
    chosen = spft.best([Candidate(**json.loads(path.read_text())) for path in made
                        if path.parent.name != "base"])
    assert stdout.startswith(f"{finished.out} is a run; best on validation is its {chosen.name} ")


@pytest.mark.parametrize("fixed, broken, chosen", [
    (3, 0, "vbift-1"), (2, 0, "base"), (9, 6, "base"), (10, 3, "vbift-1"), (0, 0, "base"),
    (0, 5, "base")])
def test_a_candidate_is_recommended_where_it_is_clearly_better_than_the_base(
        fixed, broken, chosen, tmp_path, capsys):
    """One-sided sign test on the validation questions whose verdict changed; of --model too."""
    before = [False] * fixed + [True] * broken + [True, False] * 20
    after = [True] * fixed + [False] * broken + [True, False] * 20
    for name, parent, verdicts in (("base", "-", before), ("vbift-1", "base", after)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "candidate.json").write_text(json.dumps(vars(Candidate(
            name, parent, f"folder of {name}", 100 * sum(verdicts) / len(verdicts)))))
        (tmp_path / name / "val.jsonl").write_text("".join(
            json.dumps({"correct": correct, "status": "ok"}) + "\n" for correct in verdicts))
    assert recommended(tmp_path)["name"] == chosen
    show_winner(tmp_path, "val.json")
    place = "folder of base" if chosen == "base" else str(tmp_path / chosen)
    assert best_of_run(str(tmp_path)) == place
    said = capsys.readouterr().out
    assert f"--model {place} --db FILE" in said
    assert ("nothing was clearly gained" in said) == (chosen == "base")


def test_a_run_goes_on_elsewhere_and_with_settings_that_change_nothing(
        finished, cli, idle, world, base, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "moved")
    data = shutil.copytree(world, tmp_path / "data of it")
    model = shutil.copytree(base, tmp_path / "base of it")
    code, stdout, stderr = cli("--stage", "selfplay", "--out", out, "--data", data, "--model",
                               model, "--timeout", 9, "--decode_batch", 7, "--threads", 2,
                               "--micro_tokens", 99, "--recompute", 1)
    assert (code, stderr) == (0, "")
    assert results(out, "seconds") == results(finished.out, "seconds")


def test_settings_of_a_stage_that_has_not_begun_may_change(finished, cli, tmp_path):
    out = shutil.copytree(finished.out, tmp_path / "run")
    for path in out.iterdir():
        if path.is_dir() and path.name not in LINE[:-1]:
            shutil.rmtree(path)
    code, _, stderr = cli("--stage", "vbift", "--out", out, "--selfplay_lr", 3e-5)
    assert (code, stderr) == (0, "")
    code, _, stderr = cli("--stage", "vbift", "--out", out, "--vbift_lr", 3e-5)
    assert_one_line(code, stderr, "--vbift_lr", "choose another --out")


def test_a_checkpoint_is_no_run_directory(base, cli, tmp_path):
    """Its config.json is the user's: a run there would write over it."""
    folder = shutil.copytree(base, tmp_path / "model")
    before = content(folder)
    code, _, stderr = cli("--stage", "sft", "--out", folder)
    assert_one_line(code, stderr, str(folder), "its config.json is not a run's")
    assert content(folder) == before


def test_a_part_of_a_split_is_scored_as_such(finished, cli, tmp_path):
    code, stdout, stderr = cli("--stage", "eval", "--split", "test", "--limit", 3, "--model",
                               finished.out / "sft", "--out", tmp_path)
    assert (code, stderr) == (0, "") and "3 of test's questions: not a score" in stdout
    assert len(rows(tmp_path / "eval-test-3" / "verdicts.jsonl")) == 3


def test_the_page_of_a_run_opens_offline_and_holds_what_the_run_did(finished):
    page = (finished.out / "report.html").read_text()
    assert "http" not in page.replace("https", "http").split("<body")[0].replace("http-equiv", "")
    for name in LINE:
        row = f"{ex(finished, name):.1f}</td><td class=\"n\">{ex(finished, name, 'test'):.1f}"
        assert row in page
    assert page.count("<img") > len(LINE[1:]) and "Synthetic pairs of vbift-2" in page
    assert f"<h2>{candidate(finished.out, 'sft')['parent']} to sft on test: " in page
    game = candidate(finished.out, "selfplay-1")["metrics"]["game"]
    assert "One game of selfplay-1" in page and game["question"] in page
    assert game["R"] == 1 and game["verdict"]
    wrong = next(row for row in finished.pairs if not row["correct"])
    assert (game["question"], game["opponent"]) == (wrong["question"], wrong["pred"])


def test_a_line_a_step_is_kept(finished):
    for name in ("sft", "vbift-1", "selfplay-1"):
        kept = rows(finished.out / name / "metrics.jsonl")
        assert [line["step"] for line in kept] == list(range(1, len(kept) + 1))
        assert len(kept) == candidate(finished.out, name)["metrics"]["steps"]
        assert all(line["gradient norm"] > 0 and line["tokens per second"] > 0
                   and line["peak GB"] > 0 and line["log p of gold"] < 0 for line in kept)
        wrong = [line for line in kept if "log p of wrong samples" in line]
        assert bool(wrong) == (name == "selfplay-1")


def test_a_row_longer_than_a_micro_batch_recomputes_its_activations(base):
    """Of what is kept for the backward, as much as of a row within the budget."""
    kept = {}
    for tokens in (16, 1024):
        model = spft.load_model(Config(model=str(base), micro_tokens=tokens), str(base), train=True)
        row, sizes = [([i % 50 + 1 for i in range(320)], 300)], []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: sizes.append(x.numel()) or x,
                                                      lambda x: x):
            lm.sequence_logprobs(model, lm.pack([row])).sum().backward()
        kept[tokens] = sum(sizes)
    assert kept[16] < kept[1024] / 3
