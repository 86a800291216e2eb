"""The paper's comparisons over seeds, in a world of two databases."""

import io
import json
import math
import re
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, content, rows

import spft
from data.prompts.pairs import Pair
from spft import Candidate

sys.path.insert(0, str(ROOT / "tests/bench"))
import experiment as bench  # noqa: E402
import spider  # noqa: E402
from experiment import (  # noqa: E402
    COMPARED, LINES, LOSSES, QUOTED, SYSTEMS, best_tries, by_construct, gradient_weight, holm,
    inconsistent, main, misquoted, paired_gain, playing, report_text, search_text, tries)


@pytest.fixture(scope="module")
def run(arguments):
    """run(words...) in this process: (exit code, stdout, stderr)."""
    def call(*words):
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = main([*arguments, *map(str, words)])
        return code or 0, out.getvalue(), err.getvalue()
    return call


@pytest.fixture(scope="module")
def experiment(run, tmp_path_factory):
    out = tmp_path_factory.mktemp("experiment") / "all"
    words = ["--seeds", 2, "--rounds", 1, "--sft_epochs", 10, "--out", out]
    code, stdout, stderr = run(*words)
    assert (code, stderr) == (0, "")
    return out, stdout, words


def test_an_experiment_compares_every_system(experiment):
    out, stdout, _ = experiment
    result = json.loads((out / "experiment.json").read_text())
    assert [row["system"] for row in result["systems"]] == list(SYSTEMS)
    for row in result["systems"]:
        end, line, control = SYSTEMS[row["system"]]
        shares = []
        for seed in range(2):
            folder = out / f"seed-{seed}{end}"
            name = line if line in ("base", "sft") else f"{line}-1"
            answers = rows(folder / name / "test.jsonl")
            shares.append(100 * sum(r["correct"] for r in answers) / len(answers))
        assert row["by seed"] == pytest.approx(shares)
        assert row["ex"] == pytest.approx(sum(shares) / 2, abs=0.01)
        assert (control is None) == ("gain" not in row)
        if control:
            start = next(r["ex"] for r in result["systems"] if r["system"] == control)
            assert row["gain"] == pytest.approx(row["ex"] - start, abs=0.02)
            assert row["low"] <= row["gain"] <= row["high"]
    assert [len(line) for line in result["rounds"].values()] == [1] * len(LINES)
    assert [(row["system"], row["control"]) for row in result["comparisons"]] == COMPARED
    by_system = {row["system"]: row["by seed"] for row in result["systems"]}
    for row in result["comparisons"]:                    # what was won and lost makes the gain
        a, b = by_system[row["system"]], by_system[row["control"]]
        assert [100 * (won - lost) / 8 for won, lost in zip(row["won"], row["lost"])] == (
            pytest.approx([x - y for x, y in zip(a, b)]))
        assert row["low"] <= row["gain"] <= row["high"]
        assert 0 < row["p"] <= row["corrected"] <= 1
    for name, found in result["log p"].items():
        line, end = name.partition("-")[0], LINES[name.partition("-")[0]]
        records = [json.loads((out / f"seed-{seed}{end}/{line}-1/candidate.json").read_text())
                   for seed in range(2)]
        assert found["gold after"] == pytest.approx(
            sum(r["metrics"]["after"]["gold"] for r in records) / 2, abs=0.001)
    assert len(result["log p"]) == len(LOSSES)
    found = result["why"]["selfplay-1"]
    assert 0 < found["weight"] < 1 and 0 <= found["off 1/2"] <= 0.5
    assert 0 <= found["with the same SQL"] <= found["main wrong too"] <= 100
    assert result["cost"]["sft"] == 1 and set(result["consistency"]) == {"sft", "vbift-1"}
    assert (out / "report.md").read_text().partition("\n![")[0].strip() in stdout


def test_seeds_that_ran_are_not_run_again(experiment, run, idle):
    out, _, words = experiment
    before = {path: data for path, data in content(out).items() if path.suffix != ".png"}
    assert run(*words)[0] == 0
    assert {path: data for path, data in content(out).items() if path.suffix != ".png"} == before
    assert run(*words, "--seed", 1, "--seeds", 1)[0] == 0            # one of them alone
    both, one = (json.loads(text) for text in (before[out / "experiment.json"],
                                               (out / "experiment.json").read_text()))
    assert [row["by seed"] for row in one["systems"]] == [
        row["by seed"][1:] for row in both["systems"]]


def test_a_paired_gain_is_the_mean_difference_and_its_bootstrap_interval():
    """Against the normal interval of a difference of shares, one seed."""
    torch.manual_seed(0)
    b = (torch.rand(1, 400) < 0.5).float()
    a = torch.where(torch.rand(1, 400) < 0.2, torch.ones(1), b)
    gain, low, high, p = paired_gain(a, b, range(400))
    error = 100 * float((a - b).std()) / 20
    assert gain == pytest.approx(100 * float((a - b).mean()), abs=0.01)
    assert (low, high) == pytest.approx((gain - 1.96 * error, gain + 1.96 * error), abs=0.3)
    assert p == pytest.approx(2 / 4001) if low > 0 else p > 0.01
    assert paired_gain(a, a, range(400)) == (0, 0, 0, 1)
    assert paired_gain(b, a, range(400))[:3] == pytest.approx((-gain, -high, -low), abs=0.01)


def test_questions_with_one_query_are_not_independent():
    """Each query asked four times with one verdict: the interval is that of the queries alone."""
    torch.manual_seed(0)
    b = (torch.rand(1, 100) < 0.5).float()
    a = torch.where(torch.rand(1, 100) < 0.2, torch.ones(1), b)
    once = paired_gain(a, b, range(100))
    again = paired_gain(a.repeat(1, 4), b.repeat(1, 4), list(range(100)) * 4)
    assert again == pytest.approx(once, abs=0.01)


def test_questions_about_one_database_are_not_independent():
    """Ten databases that gain and lose as a whole: the interval is that of ten, not of 400."""
    b = torch.zeros(1, 400)
    a = torch.tensor([float(i // 40 in (0, 3, 7)) for i in range(400)])[None]
    gain, low, high, _ = paired_gain(a, b, range(400), [i // 40 for i in range(400)])
    assert (gain, low, high) == pytest.approx((30, 0, 60), abs=0.01)
    assert paired_gain(a, b, range(400))[1] > 25


def test_holm_corrects_for_the_number_of_comparisons():
    """0.01 * 4, 0.02 * 3, then no less than that; the largest as it is."""
    assert holm([0.02, 0.9, 0.01, 0.021]) == pytest.approx([0.06, 0.9, 0.04, 0.06])
    assert holm([0.4, 0.6]) == pytest.approx([0.8, 0.8]) and holm([]) == []


def test_constructs_are_read_off_the_gold():
    def row(gold, correct):
        return {"gold": gold, "correct": correct, "status": "ok"}

    seeds = [[row("SELECT COUNT(*) FROM a JOIN b", True), row("SELECT x FROM a", first),
              row("SELECT x FROM a WHERE y IN (SELECT y FROM b)", False),
              row("SELECT x FROM a UNION SELECT x FROM b", True)] for first in (True, False)]
    assert by_construct(seeds) == {"one table": [50.0, 1], "join": [100.0, 1], "nesting": [0.0, 1],
                                   "set operator": [100.0, 1], "aggregate": [100.0, 1]}


def test_the_weight_of_a_pair_is_its_gradients():
    """z = lambda ((-3 + 1) - R (-5 + 2)): 2 * (-2 + 3) where the sample is wrong."""
    pair = Pair("d", [], [], [], (-1.0, -2.0), R=1.0)
    assert gradient_weight(pair, (-3.0, -5.0), 2.0) == pytest.approx(1 / (1 + math.exp(2)))
    assert gradient_weight(replace(pair, R=0.0), (-3.0, -5.0), 2.0) == pytest.approx(
        1 / (1 + math.exp(-4)))
    assert gradient_weight(pair, pair.opponent, 2.0) == 0.5


def test_opponents_of_an_ablation():
    made = [Candidate(name, "-", "", ex) for name, ex in (("a", 1.0), ("b", 3.0), ("c", 2.0))]
    met = {}
    for opponent in ("weakest", "self", "random"):
        with playing(opponent, 0):
            met[opponent] = {spft.players("spft", made)[1].name for _ in range(20)}
            assert spft.players("spft", made)[0].name == "b"
    assert met == {"weakest": {"a"}, "self": {"b"}, "random": {"a", "c"}}
    assert spft.players("spft", made)[1].name == "a"                 # afterwards as it was


@pytest.mark.parametrize("R", [0, 1])
def test_an_ablation_that_pushes_down_no_sample_or_all(R):
    correct = torch.tensor([True, False])
    with playing("weakest", 0, R):
        assert spft.error_reward(correct).tolist() == [float(R)] * 2
    assert spft.error_reward(correct).tolist() == [0.0, 1.0]


def test_a_synthetic_pair_whose_round_trip_fails_is_not_played_on(experiment, monkeypatch):
    """In as many updates: 3 of 6 labelled and 3 of 4 synthetic pairs left make 10 of 9."""
    made = [spft.Example("zoo", f"q{i}", "SELECT 1") for i in range(4)]
    seen, out = {}, experiment[0] / "consistent"

    class Played(SimpleNamespace):
        def synthetic(self, round):
            return made

    task = SimpleNamespace(
        train=made + made[:2], answer=lambda model, prompts, name: prompts,
        prompts=SimpleNamespace(sql=lambda e: e.question))
    monkeypatch.setattr(bench, "Run", lambda cfg, task: Played(
        cfg=cfg, out=out, of_stage=lambda stage: [Candidate("vbift-1", "-", "f", 50.0)]))
    monkeypatch.setattr(bench, "load_model", lambda cfg, folder: folder)
    monkeypatch.setattr(bench, "answer_rows", lambda task, examples, samples: [
        {"correct": s != "q1"} for s in samples])
    monkeypatch.setattr(bench, "run_selfplay", lambda cfg, task, run: seen.update(
        epochs=cfg.selfplay_epochs, asked=[e.question for e in run.synthetic(1)]))
    out.mkdir()
    bench.train(spft.Config(out=str(out)), task, 0, "-x", "spft", consistent=True)
    assert seen == {"epochs": pytest.approx(10 / 9), "asked": ["q0", "q2", "q3"]}


def test_seeds_that_play_from_one_run_and_sets_that_are_compared_together(experiment, run,
                                                                          tmp_path):
    """Both seeds have the candidates of the run, and rounds of their own; the verdicts on all sets
    count together."""
    out, _, words = experiment
    words = [*words[2:-1], tmp_path, "--start", out / "seed-0", "--seeds", 2,
             "--splits", "test", "val"]
    code, stdout, stderr = run(*words)
    assert (code, stderr) == (0, "")
    found = json.loads((tmp_path / "experiment.json").read_text())
    by_system = {row["system"]: row for row in found["systems"]}
    assert set(by_system) == set(SYSTEMS) - {"SFT + self-play"}
    first = rows(out / "seed-0/vbift-1/test.jsonl") + rows(out / "seed-0/vbift-1/val.jsonl")
    assert by_system["VBI-FT"]["n"] == len(first)
    assert by_system["VBI-FT"]["by seed"] == pytest.approx(
        [100 * sum(r["correct"] for r in first) / len(first)] * 2, abs=0.01)
    assert set(by_system["SFT"]["splits"]) == {"test", "val"} and "### Test EX by set" in stdout
    for seed in (0, 1):
        record = tmp_path / f"seed-{seed}/vbift-1/candidate.json"
        assert record.read_text() == (out / "seed-0/vbift-1/candidate.json").read_text()
    known = (out / "seed-0/selfplay-1/pairs.jsonl").read_text()         # seed 0 takes these
    assert (tmp_path / "seed-0/lent-selfplay-1/pairs.jsonl").read_text() == known
    assert (tmp_path / "seed-1/selfplay-1/pairs.jsonl").read_text() != known
    assert inconsistent(found) == []


def test_losses_that_run_side_by_side_are_compared_by_the_last_call(experiment, run, tmp_path):
    out, _, words = experiment
    words = [*words[2:-1], tmp_path, "--start", out / "seed-0", "--seeds", 1, "--seed", 1]
    assert run(*words, "--losses", "sft", "dpo")[0] == 0
    assert {path.name for path in tmp_path.iterdir()} == {"seed-1-sft", "seed-1-dpo"}
    before = (tmp_path / "seed-1-dpo/dpo-1/candidate.json").read_text()
    code, stdout, stderr = run(*words, "--losses", "spft", "sft", "dpo")
    assert (code, stderr) == (0, "")
    found = json.loads((tmp_path / "experiment.json").read_text())
    assert {row["system"] for row in found["systems"]} == set(SYSTEMS) - {
        "SFT + self-play", "VBI-FT + PPO", "VBI-FT + SPIN"}
    assert set(found["rounds"]) == {"vbift", "selfplay", "continued", "dpo"}
    assert report_text(found) in stdout and not (tmp_path / "seed-1-ppo").exists()
    assert (tmp_path / "seed-1-dpo/dpo-1/candidate.json").read_text() == before
    pairs = [rows(tmp_path / f"seed-1{end}/pairs.jsonl")
             for end in ("/selfplay-1", "-dpo/dpo-1", "-sft/continued-1")]
    assert pairs[0] == pairs[1] == pairs[2]              # each asked the same opponent


# ---------------------------------------------------------------------------------------------
# Searches

def test_every_loss_has_as_many_tries():
    found = tries(spft.Config(selfplay_lr=1e-4))
    assert set(found) == set(LOSSES) and {len(settings) for settings in found.values()} == {8}
    for settings in found.values():
        assert len({json.dumps(change) for change in settings}) == 8
    few = tries(spft.Config(selfplay_lr=1e-4), ["spft", "sft"], 4)
    assert few == {loss: found[loss][:4] for loss in ("spft", "sft")}


def test_all_losses_take_the_passes_that_are_best_on_average():
    def tried(loss, ex, **settings):
        return {"loss": loss, "ex": ex, "settings": settings}

    rows = [tried("spft", 50, lam=1), tried("spft", 51, lam=2),
            tried("spft", 53, selfplay_epochs=2), tried("sft", 52, lr=1),
            tried("sft", 50, lr=2), tried("sft", 49, selfplay_epochs=2)]
    assert best_tries(spft.Config(), rows) == {"spft": {"lam": 2}, "sft": {"lr": 1}}
    rows[-1]["ex"] = 51.5
    assert best_tries(spft.Config(), rows) == {"spft": {"selfplay_epochs": 2},
                                               "sft": {"selfplay_epochs": 2}}


def test_a_search_is_of_seeds_from_100_on_and_goes_on(experiment, run, tmp_path, monkeypatch):
    few = {"spft": [{"selfplay_lr": 0.01}, {"selfplay_lr": 0.0}], "sft": [{"selfplay_lr": 0.01}]}
    monkeypatch.setattr(bench, "tries", lambda cfg, losses, most: few)
    words = ["--search", "--seeds", 1, "--rounds", 1, "--sft_epochs", 2, "--out", tmp_path]
    code, stdout, stderr = run(*words)
    assert (code, stderr) == (0, "")
    found = json.loads((tmp_path / "search.json").read_text())
    assert [(row["loss"], row["settings"]) for row in found["tries"]] == [
        (loss, change) for loss, changes in few.items() for change in changes]
    for row in found["tries"]:
        line = {"spft": "selfplay", "sft": "continued"}[row["loss"]]
        rate = row["settings"]["selfplay_lr"]
        folder = tmp_path / f"seed-100-{row['loss']}-selfplay_lr={rate:g}"
        record = json.loads((folder / f"{line}-1/candidate.json").read_text())
        assert row["by seed"] == [record["ex"]]
        assert not list(folder.glob("*/test.jsonl"))                 # test decides nothing
    best = max(found["tries"][:2], key=lambda row: row["ex"])
    assert found["best"]["spft"] == best["settings"] and "| sft | selfplay_lr 0.01 |" in stdout
    assert {path.name for path in tmp_path.glob("seed-*")} == {
        "seed-100", "seed-100-spft-selfplay_lr=0.01", "seed-100-spft-selfplay_lr=0",
        "seed-100-sft-selfplay_lr=0.01"}
    with monkeypatch.context() as patch:                             # all is there
        patch.setattr(spft, "fit", None)
        patch.setattr(spft.lm, "generate", None)
        assert run(*words)[0] == 0
    chosen = tmp_path / "search.json"
    start = ["--start", tmp_path / "seed-100", "--losses", "sft", "--tries", 1]
    assert run(*words[:-1], tmp_path / "other", *start)[0] == 0      # from the same candidates
    for name in ("base", "sft", "vbift-1"):
        assert content(tmp_path / "other/seed-100" / name) == {
            tmp_path / "other/seed-100" / path.relative_to(tmp_path / "seed-100"): data
            for path, data in content(tmp_path / "seed-100" / name).items()}
    assert run("--best", chosen, "--seeds", 1, "--rounds", 1, "--sft_epochs", 2, "--seed", 1,
               "--out", tmp_path / "final")[0] == 0
    config = json.loads((tmp_path / "final/seed-1-sft/config.json").read_text())
    assert config["selfplay_lr"] == 0.01 == found["best"]["sft"]["selfplay_lr"]


# ---------------------------------------------------------------------------------------------
# What the READMEs quote

def test_every_row_that_the_readmes_quote_is_one_of_the_report(capsys):
    assert main(["--check"]) in (0, None), capsys.readouterr().out


@pytest.mark.parametrize("change", [
    lambda label, ex, rest: (label, f"{float(ex) + 0.1:.1f}", rest),
    lambda label, ex, rest: (label, ex, rest.replace("to +", "to -")),
    lambda label, ex, rest: (f"{label} twice", ex, rest)])
@pytest.mark.parametrize("file", QUOTED)
def test_a_wrong_figure_is_found(committed, file, change):
    results, texts = committed
    assert not misquoted(results, texts)
    row = re.search(r"^\| (VBI-FT) \| ([\d.]+) \| (.*)$", texts[file], re.M)
    other = texts[file].replace(row[0], "| {} | {} | {}".format(*change(*row.groups())))
    wrong = misquoted(results, texts | {file: other})
    assert len(wrong) == 1 and wrong[0].startswith(f"{file}: no row")


def test_a_readme_without_its_tables_is_found(committed):
    results, texts = committed
    wrong = misquoted(results, texts | {"README.md": "## Results\nAll is well.\n"})
    assert wrong == ["README.md: no table under ## Results"]


@pytest.mark.parametrize("file", QUOTED)
def test_a_figure_in_prose_that_no_report_has_is_found(committed, file):
    results, texts = committed
    row = re.search(r"^\| VBI-FT \| ([\d.]+) .*\n", texts[file], re.M)
    for figure, found in ((row[1], []), ("97.3", [f"{file}: no figure of the report: 97.3"])):
        prose = texts[file].replace(row[0], row[0] + f"\nIt reaches {figure} points.\n", 1)
        assert misquoted(results, texts | {file: prose}) == found


@pytest.mark.parametrize("part, change", [
    ("systems", {"ex": 45.5}), ("systems", {"spread": 77.0}), ("systems", {"high": 99.0}),
    ("systems", {"by seed": [50.0, 51.0]}), ("comparisons", {"low": -99.0}),
    ("comparisons", {"corrected": 0.33}), ("comparisons", {"won": [9, 9]})])
def test_figures_that_do_not_follow_from_the_verdicts_are_found(experiment, part, change):
    """Intervals are drawn again from what the JSON keeps of each question."""
    result = json.loads((experiment[0] / "experiment.json").read_text())
    assert inconsistent(result) == []
    row = next(row for row in result[part] if row["system"] == "VBI-FT + SPIN")
    row |= change
    assert inconsistent(result) == ["experiment, VBI-FT + SPIN: figures that are not its verdicts'"]


def test_figures_of_a_search_that_are_not_its_seeds_are_found():
    row = {"loss": "sft", "settings": {"lam": 1}, "by seed": [40.0, 42.0], "ex": 41.0, "gain": 1.0}
    result = {"start": [39.0, 41.0], "tries": [row], "best": {}}
    assert inconsistent(result) == [] and "| sft | lam 1 | 41.0 | +1.0 |" in search_text(result)
    for change in ({"ex": 42.0}, {"gain": 2.0}):
        assert inconsistent(result | {"tries": [row | change]}) == [
            "search, sft, lam 1: figures that are not its seeds'"]


@pytest.fixture
def committed():
    return ([json.loads(path.read_text()) for path in (ROOT / "tests/bench").glob(
        "experiment*.json")], {file: (ROOT / file).read_text("utf-8") for file in QUOTED})


@pytest.mark.parametrize("words, row", [
    (["--table", 2], "| SPIN | 48.4 | 79.0 |  | 34.8 |"),
    (["--table", 2], "| SFT |  | 83.7 |  | 54.4 |"),                 # no figure: none
    (["--table", 3], "| VBI-FT + PPO | 46.0 | 86.6 | 85.1 |  |"),
    (["--table", 12], "| vbift-2 | 54.6 | 93.5 |"),
    (["--table", 14], "| vbift-1 | 1.83 | about 2 |"), (["--table", 14], "| dpo-1 | 0.8 |  |"),
    (["--figure", 3], "| spin-1 | 55.4 | 48.2 | falls |"),
    (["--figure", 4], "| vbift-1 | 789.2 | 94.8 | 63.0 | best with 3000 |")])
def test_tables_and_figures_beside_the_papers_own(capsys, tmp_path, words, row):
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps({
        "data": "data/demo", "seeds": 5,
        "systems": [{"system": "VBI-FT + SPIN", "ex": 48.4}, {"system": "VBI-FT + PPO", "ex": 46}],
        "consistency": {"sft": 47.5, "vbift-2": 54.6}, "cost": {"vbift-1": 1.83, "dpo-1": 0.8},
        "rounds": {"spin": [["spin-1", 55.4, 48.2]]},
        "pairs": {"vbift-1": {"train": 789.2, "y+": 94.8, "y-": 63.0}}}))
    assert main([*map(str, words), "--json", str(path)]) in (0, None)
    assert row in capsys.readouterr().out.splitlines()


def test_the_paper_has_no_other_table_here(capsys):
    assert main(["--table", "7"]) == 2
    assert "choose from --table 2, 3, 12, 14, --figure 3, 4" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{}", '{"tries": []}', '{"tries": [{"loss": "spft"}]}', "[]"])
def test_a_json_of_something_else_ends_in_a_line(capsys, tmp_path, text):
    path = tmp_path / "some.json"
    path.write_text(text)
    for words in (["--best", path, "--out", tmp_path / "x"], ["--table", 3, "--json", path]):
        assert main(list(map(str, words))) == 2
        line, = capsys.readouterr().err.splitlines()
        assert str(path) in line and "not " in line
    assert not (tmp_path / "x").exists()


def test_no_run_plays_from_a_checkpoint_as_if_it_were_a_run(run, base, tmp_path):
    folder = shutil.copytree(base, tmp_path / "model")
    before = content(folder)
    code, _, stderr = run("--start", folder, "--out", tmp_path / "x")
    assert code == 2 and "its config.json is not a run's" in stderr and content(folder) == before


def test_a_report_has_what_its_json_has(experiment):
    new = json.loads((experiment[0] / "experiment.json").read_text())
    titles = [line for line in report_text(new).splitlines() if line.startswith("###")]
    assert len(titles) == 8 and len(set(titles)) == 8
    assert report_text({key: new[key] for key in ("seeds", "systems", "rounds")}).count("###") == 3


def test_the_table_of_a_run_is_that_of_its_verdicts(experiment, arguments, tmp_path, monkeypatch):
    settings = dict(zip(arguments[::2], arguments[1::2]))
    words = ["--run", experiment[0] / "seed-0", "--data", settings["--data"], "--out", tmp_path,
             "--splits", "test", "val", "--samples", 1, 2, "--candidates", "base", "sft",
             "selfplay-1", "--threads", 1, "--decode_batch", 8]
    monkeypatch.setattr(sys, "argv", ["spider.py", *map(str, words)])
    with redirect_stdout(io.StringIO()) as out:
        spider.main()
    found = json.loads((tmp_path / "spider.json").read_text())
    assert [(r["model"], r["samples"]) for r in found] == [
        (name, n) for n in (1, 2) for name in ("base", "sft", "selfplay-1")]
    by_run = {name: rows(experiment[0] / f"seed-0/{name}/test.jsonl") for name in ("base", "sft")}
    for row, name in zip(found, by_run):
        assert row["test"]["ex"] == pytest.approx(100 * sum(
            r["correct"] for r in by_run[name]) / len(by_run[name]), abs=0.06)
        assert row["test"]["low"] <= row["test"]["ex"] <= row["test"]["high"]
    sft = found[1]
    assert sft["gain"][1] <= sft["gain"][0] <= sft["gain"][2]
    assert f"| sft | greedy | {sft['val']} | {sft['test']['ex']} (" in out.getvalue()
    assert len(rows(tmp_path / "predictions.jsonl")) == sum(
        row[split]["n"] for row in found for split in ("test", "val"))
