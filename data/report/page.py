"""report.html: a run on one page that opens offline, made from the files of its directory alone.

    python -m data.report.page RUN     writes RUN/report.html again

The table with intervals, EX by round, curves of each training, what self-play did to one question,
questions that each round fixed and broke, kinds of error, synthetic pairs with their verdicts.
"""

import base64
import html
import io
import json
import random
import sys
from collections import Counter
from itertools import zip_longest
from pathlib import Path

from data.report.files import read_lines, write_text
from data.report.tables import changes, error_kind, interval, percent
from data.report.terminal import run_command
from sqlexec import DataError

SHOWN = 20
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1100px; padding: 0 16px;
       color: #1c2733; background: #fff }
h1 { font-size: 26px; margin: 24px 0 0 } h2 { font-size: 20px; margin: 36px 0 8px }
table { border-collapse: collapse; margin: 8px 0 } th { text-align: left; font-weight: 600 }
td, th { padding: 4px 14px 4px 0; border-bottom: 1px solid #dde3ea; vertical-align: top }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
table { white-space: nowrap } .pairs, .facts { white-space: normal }
.pairs { table-layout: fixed; width: 100% } summary { cursor: pointer; padding: 4px 0 }
code { font: 13px/1.5 ui-monospace, monospace } code, td + td { overflow-wrap: anywhere }
.wide { overflow-x: auto } .quiet { color: #5b6b7b } img { max-width: 100%; height: auto }
.good { color: #0b7a3b } .bad { color: #b3261e }
@media (max-width: 600px) { .pairs tr, .pairs td { display: block; border: 0; padding: 1px 0 }
  .pairs tr { border-bottom: 1px solid #dde3ea; padding: 8px 0 } .pairs th { display: none }
  .pairs td::before { content: attr(data-head) ": "; color: #5b6b7b; font-size: 13px } }
"""


# ---------------------------------------------------------------------------------------------
# HTML

def text(value):
    return html.escape(str(value))


def code(sql):
    return f"<code>{text(sql)}</code>"


def table(head, rows, kind=""):
    """Cells are HTML; a column whose head ends in * holds numbers."""
    number = [' class="n"' if name.endswith("*") else "" for name in head]
    top = "".join(f"<th{n}>{text(name.rstrip('*'))}</th>" for n, name in zip(number, head))
    body = "".join("<tr>" + "".join(
        f'<td{n} data-head="{text(name)}">{cell}</td>' if kind == "pairs" else f"<td{n}>{cell}</td>"
        for n, name, cell in zip(number, head, row)) + "</tr>\n" for row in rows)
    return f'<div class="wide"><table class="{kind}"><tr>{top}</tr>\n{body}</table></div>'


def drawing(*size):
    from matplotlib.figure import Figure             # half a second that only this needs
    return Figure(figsize=size, layout="constrained")


def picture(figure, alt):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{text(alt)}" src="data:image/png;base64,{data}">'


# ---------------------------------------------------------------------------------------------
# Sections.  run: {name: record of a candidate}, parents before children; folder: of the run

def results(folder, run, split):
    rows = []
    for name, record in run.items():
        answers = read_answers(folder, name, split)
        low, high = interval(answers)
        before = read_answers(folder, record["parent"], split)
        fixed, broken = changes(before, answers)
        rows.append([text(name), text(record["parent"]), f"{record['ex']:.1f}",
                     f"{percent(answers):.1f}", f"{low:.1f} to {high:.1f}", len(answers),
                     f"+{len(fixed)} -{len(broken)}" if before else "",
                     f"{record['seconds'] / 60:.1f}"])
    head = ["model", "from", "val EX*", f"{split} EX*", "95% interval*", "questions*",
            "fixed, broken*", "minutes*"]
    return table(head, rows)


def by_round(folder, run, split):
    """EX on validation and on the split, candidate by candidate, with intervals."""
    figure = drawing(8, 3.2)
    axes = figure.subplots()
    for name, style in (("val", "--o"), (split, "-o")):
        answers = [read_answers(folder, candidate, name) for candidate in run]
        middle = [percent(rows) for rows in answers]
        ends = [interval(rows) for rows in answers]
        axes.errorbar(range(len(run)), middle, fmt=style, capsize=3, label=name, yerr=[
            [m - low for m, (low, _) in zip(middle, ends)],
            [high - m for m, (_, high) in zip(middle, ends)]])
        if split == "val":
            break
    axes.set_xticks(range(len(run)), list(run), rotation=20, ha="right")
    axes.set_ylabel("EX, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return picture(figure, "EX by round")


def curves(folder, run):
    """Loss and log p of gold and of wrong samples, step by step; nothing where none was kept."""
    kept = {name: read_lines(path) for name in run
            if (path := folder / name / "metrics.jsonl").exists()}
    if not kept:
        return ""
    pictures = []
    for name, lines in kept.items():
        figure = drawing(3.2, 4.2)
        top, bottom = figure.subplots(2)
        top.plot([line["step"] for line in lines], [line["loss"] for line in lines])
        top.set(title=name, ylabel="loss")
        for key in ("log p of gold", "log p of wrong samples"):
            points = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
            if points:
                bottom.plot(*zip(*points), label=key)
        bottom.legend(fontsize=8)
        bottom.set(xlabel="step", ylabel="log p of an answer")
        pictures.append(picture(figure, f"loss and log-probabilities of {name} by step"))
    return "<h2>Training</h2>" + "\n".join(pictures)


def rounds(folder, run, split):
    """Questions that each round fixed and broke, against the model it came from."""
    parts = []
    for name, record in run.items():
        before, after = (read_answers(folder, n, split) for n in (record["parent"], name))
        fixed, broken = changes(before, after)
        if before:
            parts.append(f"<h2>{text(record['parent'])} to {text(name)} on {split}: {len(fixed)} "
                         f"fixed, {len(broken)} broken</h2>")
        for kind, pairs in (("fixed", fixed), ("broken", broken)):
            if pairs:
                parts.append(f"<details><summary>{kind}, {min(SHOWN, len(pairs))} of "
                             f"{len(pairs)}</summary>{change_table(pairs)}</details>")
    return "\n".join(parts)


def change_table(pairs):
    pairs = random.Random(0).sample(pairs, min(SHOWN, len(pairs)))
    return table(["question", "gold", "before", "after"], [
        [text(old["question"]), code(old["gold"]), verdict(old), verdict(new)]
        for old, new in pairs], "pairs")


def verdict(row):
    kind = "good" if row["correct"] else "bad"
    why = "right" if row["correct"] else row["error"] or error_kind(row)
    return f'{code(row["pred"])}<br><span class="{kind}">{text(why)}</span>'


def errors(folder, run, split):
    """Kinds of error of all candidates, the most frequent first."""
    found = {name: Counter(error_kind(row) for row in read_answers(folder, name, split)
                           if not row["correct"]) for name in run}
    total = sum(found.values(), Counter())
    return table(["wrong because", *(f"{name}*" for name in run)], [
        [text(kind), *(found[name][kind] for name in run)] for kind, _ in total.most_common(10)])


def synthetic(folder, run):
    """A few synthetic pairs of each round; those held back carry a verdict."""
    parts = []
    for name in run:
        path = folder / name / "synthetic.jsonl"
        rows = read_lines(path) if path.exists() else []
        if rows:
            counted = Counter(row["part"] for row in rows)
            shown = random.Random(0).sample(rows, min(SHOWN, len(rows)))
            parts.append(f"<h2>Synthetic pairs of {text(name)}</h2><p>{counted['train']} to train "
                         f"on; held back: {counted['y+']} answered right, {counted['y-']} wrong."
                         "</p><details><summary>a sample</summary>" + table(
                             ["question", "SQL", "database", "verdict"], [
                             [text(row["question"]), code(row["query"]), text(row["db_id"]),
                              {"y+": "right", "y-": "wrong"}.get(row["part"], "")]
                             for row in shown], "pairs") + "</details>")
    return "\n".join(parts)


def game(folder, name, record):
    """One question of a self-play round in full: gold, the opponent's SQL, R, log p of both."""
    found = record["metrics"].get("game")
    if not found:
        return ""
    rows = [[key, code(value) if key in ("gold", "opponent") else text(value)]
            for key, value in found.items()]
    return f"<h2>One game of {text(name)}</h2>" + table(["", ""], rows, "facts")


# ---------------------------------------------------------------------------------------------
# The page

def read_answers(folder, name, split):
    path = folder / name / f"{split}.jsonl"
    return read_lines(path) if path.exists() else []


def write_page(folder):
    """Write FOLDER/report.html; DataError where FOLDER is no run directory."""
    folder = Path(folder)
    records = [json.loads(path.read_text()) for path in sorted(
        folder.glob("*/candidate.json"), key=lambda path: path.stat().st_mtime)]
    if not records:
        raise DataError(f"{folder}: no run directory, or nothing in it is finished")
    run = {record["name"]: record for record in records}
    split = "test" if all(read_answers(folder, name, "test") for name in run) else "val"
    settings = json.loads((folder / "config.json").read_text())
    sections = [
        f"<h1>{text(folder.resolve().name)}</h1>"
        f"<p class=quiet>data {text(settings['data'])}, seed {text(settings['seed'])}</p>",
        results(folder, run, split), by_round(folder, run, split), curves(folder, run),
        *(game(folder, name, record) for name, record in run.items()),
        rounds(folder, run, split), f"<h2>Wrong answers on {split}</h2>",
        errors(folder, run, split), synthetic(folder, run), "<h2>Settings</h2>",
        table(["setting", "value"] * 2, grouped([text(x) for pair in settings.items()
                                                 for x in pair], 4), "facts")]
    write_text(folder / "report.html",
               '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
               f'content="width=device-width"><title>{text(folder.resolve().name)}</title>'
               f"<style>{STYLE}</style>\n" + "\n".join(sections) + "</html>\n")
    return folder / "report.html"


def grouped(values, n):
    return list(zip_longest(*[iter(values)] * n, fillvalue=""))


def main():
    def work():
        if len(sys.argv) != 2:
            raise DataError("one argument: the run directory")
        print(write_page(sys.argv[1]))

    return run_command("python -m data.report.page", work)


if __name__ == "__main__":
    sys.exit(main())
