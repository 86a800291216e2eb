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
from operator import sub
from pathlib import Path

from data.report.files import read_lines, write_text
from data.report.tables import changes, error_kind, finished, interval, percent
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


def some(rows, about, head, cells):
    """A few of the rows, as cells(row) shows them, in a table that a click on `about` opens."""
    shown = random.Random(0).sample(rows, min(SHOWN, len(rows)))
    return (f"<details><summary>{about}</summary>{table(head, map(cells, shown), 'pairs')}"
            "</details>")


def drawing(*size):
    from matplotlib.figure import Figure             # half a second that only this needs
    return Figure(figsize=size, layout="constrained")


def picture(figure, alt):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="{text(alt)}" src="data:image/png;base64,{data}">'


# ---------------------------------------------------------------------------------------------
# Sections.  records: of the candidates, parents before children; answers: {name: its rows}

def results(records, answers, split):
    rows = []
    for record in records:
        name, parent = record["name"], record["parent"]
        low, high = interval(answers[name])
        before = answers.get(parent, [])
        fixed, broken = changes(before, answers[name])
        rows.append([text(name), text(parent), f"{record['ex']:.1f}",
                     f"{percent(answers[name]):.1f}", f"{low:.1f} to {high:.1f}",
                     len(answers[name]), f"+{len(fixed)} -{len(broken)}" * bool(before),
                     f"{record['seconds'] / 60:.1f}"])
    head = ["model", "from", "val EX*", f"{split} EX*", "95% interval*", "questions*",
            "fixed, broken*", "minutes*"]
    return table(head, rows)


def by_round(answers_to):
    """EX candidate by candidate, with intervals.  answers_to: {split: answers}."""
    figure = drawing(8, 3.2)
    axes = figure.subplots()
    for split, answers in answers_to.items():
        middle = [percent(rows) for rows in answers.values()]
        low, high = zip(*map(interval, answers.values()))
        axes.errorbar(range(len(answers)), middle, fmt="--o" if split == "val" else "-o",
                      capsize=3, label=split,
                      yerr=[list(map(sub, middle, low)), list(map(sub, high, middle))])
    axes.set_xticks(range(len(answers)), list(answers), rotation=20, ha="right")
    axes.set_ylabel("EX, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend()
    return picture(figure, "EX by round")


def curves(metrics):
    """Loss and log p of gold and of wrong samples, step by step; nothing where none was kept.
    metrics: {name: lines of its training}."""
    pictures = []
    for name, lines in metrics.items():
        if not lines:
            continue
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
    return "<h2>Training</h2>" * bool(pictures) + "\n".join(pictures)


def rounds(records, answers, split):
    """Questions that each round fixed and broke, against the model it came from."""
    parts = []
    for name, parent in ((record["name"], record["parent"]) for record in records):
        if not answers.get(parent):
            continue
        fixed, broken = changes(answers[parent], answers[name])
        parts.append(f"<h2>{text(parent)} to {text(name)} on {split}: {len(fixed)} fixed, "
                     f"{len(broken)} broken</h2>")
        parts += [some(pairs, f"{kind}, {min(SHOWN, len(pairs))} of {len(pairs)}",
                       ["question", "gold", "before", "after"],
                       lambda pair: [text(pair[0]["question"]), code(pair[0]["gold"]),
                                     *map(verdict, pair)])
                  for kind, pairs in (("fixed", fixed), ("broken", broken)) if pairs]
    return "\n".join(parts)


def verdict(row):
    kind = "good" if row["correct"] else "bad"
    why = "right" if row["correct"] else row["error"] or error_kind(row)
    return f'{code(row["pred"])}<br><span class="{kind}">{text(why)}</span>'


def errors(answers):
    """Kinds of error of all candidates, the most frequent first."""
    found = [Counter(error_kind(row) for row in rows if not row["correct"])
             for rows in answers.values()]
    return table(["wrong because", *(f"{name}*" for name in answers)], [
        [text(kind), *(counter[kind] for counter in found)]
        for kind, _ in sum(found, Counter()).most_common(10)])


def synthetic(name, rows):
    """A few synthetic pairs of a round; those held back carry a verdict."""
    counted = Counter(row["part"] for row in rows)
    return (f"<h2>Synthetic pairs of {text(name)}</h2><p>{counted['train']} to train on; held "
            f"back: {counted['y+']} answered right, {counted['y-']} wrong.</p>"
            + some(rows, "a sample", ["question", "SQL", "database", "verdict"], lambda row: [
                text(row["question"]), code(row["query"]), text(row["db_id"]),
                {"y+": "right", "y-": "wrong"}.get(row["part"], "")]))


def game(record):
    """One question of a self-play round in full: gold, the opponent's SQL, R, log p of both."""
    found = record["metrics"].get("game")
    if not found:
        return ""
    rows = [[key, code(value) if key in ("gold", "opponent") else text(value)]
            for key, value in found.items()]
    return f"<h2>One game of {text(record['name'])}</h2>" + table(["", ""], rows, "facts")


# ---------------------------------------------------------------------------------------------
# The page

def write_page(folder):
    """Write FOLDER/report.html; DataError where FOLDER is no run directory."""
    folder = Path(folder)
    records = finished(folder)
    if not records:
        raise DataError(f"{folder}: no run directory, or nothing in it is finished")

    def kept(kind):
        """{name: lines of FOLDER/NAME/KIND.jsonl, none where there is no such file}."""
        paths = {r["name"]: folder / r["name"] / f"{kind}.jsonl" for r in records}
        return {name: read_lines(path) if path.exists() else [] for name, path in paths.items()}

    answers_to = {split: kept(split) for split in ("val", "test")}
    if not all(answers_to["test"].values()):
        del answers_to["test"]
    split, answers = list(answers_to.items())[-1]
    settings = json.loads((folder / "config.json").read_text())
    cells = iter([text(x) for pair in settings.items() for x in pair])
    sections = [
        f"<h1>{text(folder.resolve().name)}</h1>"
        f"<p class=quiet>data {text(settings['data'])}, seed {text(settings['seed'])}</p>",
        results(records, answers, split), by_round(answers_to), curves(kept("metrics")),
        *map(game, records), rounds(records, answers, split),
        f"<h2>Wrong answers on {split}</h2>", errors(answers),
        "\n".join(synthetic(name, rows) for name, rows in kept("synthetic").items() if rows),
        "<h2>Settings</h2>",
        table(["setting", "value"] * 2, zip_longest(*[cells] * 4, fillvalue=""), "facts")]
    write_text(folder / "report.html",
               '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" '
               f'content="width=device-width"><title>{text(folder.resolve().name)}</title>'
               f"<style>{STYLE}</style>\n" + "\n".join(sections) + "</html>\n")
    return folder / "report.html"


def main():
    def work():
        if len(sys.argv) != 2:
            raise DataError("one argument: the run directory")
        print(write_page(sys.argv[1]))

    return run_command("python -m data.report.page", work)


if __name__ == "__main__":
    sys.exit(main())
