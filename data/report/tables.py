"""What a person reads of a run: accuracy with its interval, kinds of error, tables, rows.

A row is the record of an answer: {"question", "gold", "pred", "correct", "status", "error", ...}.
"""

import json
import math
from collections import Counter
from statistics import fmean

from data.report.files import read_lines
from data.report.terminal import printable
from data.sql import Literal, SQLError, parse, rewrite, to_sql

SHOWN = 256              # pairs whose log p is taken before and after a round


def banner(name, text):
    print(f"\n== {name}: {text}", flush=True)


def line_of(cfg):
    """What the rounds of --loss are called."""
    return {"spft": "selfplay", "sft": "continued"}.get(cfg.loss, cfg.loss)


def counts(counter):
    most_first = sorted(counter.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{key} {n}" for key, n in most_first if n) or "none"


def percent(rows):
    """EX in percent over rows with a `correct` verdict; a gold that failed counts nowhere."""
    scored = [row for row in rows if row["status"] != "bad_gold"]
    return 100 * sum(row["correct"] for row in scored) / max(1, len(scored))


def interval(rows, z=1.96):
    """95% Wilson interval of EX, in percent."""
    n = max(1, sum(row["status"] != "bad_gold" for row in rows))
    p = percent(rows) / 100
    middle, spread = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return 100 * (middle - spread) / (1 + z * z / n), 100 * (middle + spread) / (1 + z * z / n)


def errors(rows):
    """What the wrong answers were, counted, in words."""
    return counts(Counter(error_kind(row) for row in rows
                          if not row["correct"] and row["status"] != "bad_gold"))


def error_kind(row):
    """What is wrong with an answer: SQLite's message without the names in it."""
    if row["status"] != "error":
        return "other result" if row["status"] == "ok" else row["status"]
    kind, _, rest = row["error"].partition(":")
    return rest.strip() if kind.startswith("near ") else kind


def show_candidate(candidate, rows, before):
    """The line of a finished round, and what it changed; before: its parent's rows, if any."""
    change = f"{percent(before):.1f} -> " if before else ""
    print(f"  {candidate.name} (from {candidate.parent}): validation EX {change}{candidate.ex:.1f} "
          f"on {len(rows)}; wrong: {errors(rows)}; {candidate.seconds:.0f} s")
    fixed, broken = changes(before, rows)
    for name, pairs in (("fixed", fixed), ("broken", broken)):
        for old, new in pairs[:1]:
            print(f"    {name} {len(pairs)}, such as  {new['question']}")
            for key, row in (("before", old), ("after", new)):
                why = "" if row["correct"] else f"   ({row['error'] or error_kind(row)})"
                print(f"      {key:<8}{row['pred']}{why}")
    if before and len(broken) >= len(fixed):
        print("    no gain on validation")
    garbled = [fmean(row["status"] != "ok" for row in part) for part in (before or rows, rows)]
    if garbled[1] > garbled[0] + 0.1:
        print(f"  ALARM: {100 * garbled[1]:.0f}% of the answers do not run, before it was "
              f"{100 * garbled[0]:.0f}%: a lower learning rate may help")


def answer_rows(task, examples, samples, split="train"):
    """A record of each answer and its verdict."""
    return [{"db_id": e.db_id, "question": e.question, "gold": e.query, "pred": task.sql(s),
             "correct": bool(v.correct), "status": v.status, "error": v.error}
            for e, s, v in zip(examples, samples, task.verdicts(examples, samples, split))]


def changes(before, after):
    """(fixed, broken): pairs of records (before, after) of the same questions whose verdict
    changed."""
    pairs = [pair for pair in zip(before, after) if pair[0]["correct"] != pair[1]["correct"]]
    return [p for p in pairs if p[1]["correct"]], [p for p in pairs if p[0]["correct"]]


def show_candidates(candidates):
    print("  candidates: " + ", ".join(f"{c.name} {c.ex:.1f} (from {c.parent})"
                                       for c in candidates))


def show_game(rows, pairs, before, after):
    """One question of a round in full, which the opponent got wrong: what page.py keeps of it.

    pairs: with log p under the opponent; before, after: the first of them, under main."""
    found = [part for part in zip(rows, pairs, before, after) if part[1].R == 1]
    if not found:
        return None
    row, *logps = found[0]
    game = {"question": row["question"], "gold": row["gold"], "opponent": row["pred"],
            "verdict": row["error"] or error_kind(row), "R": 1}
    for name, *of in zip(("gold", "opponent's"), *(pair.opponent for pair in logps)):
        game[f"log p of {name}"] = "opponent {:.2f}; main {:.2f} before, {:.2f} after".format(*of)
    print("  one game:")
    for name, value in game.items():
        print(f"    {name:<21}{value}")
    return game


def log_ratios(now, pairs):
    """Means over the first pairs: log p under main of gold and of wrong samples, and the margin of
    Eq. 3 between their log-ratios to the opponent.  now: the pairs with main's log p."""
    wrong = [(pair.opponent[1], pair.opponent[0] - pair.opponent[1]
              - (before.opponent[0] - before.opponent[1]))
             for pair, before in zip(now, pairs) if pair.R == 1]
    sample, margin = map(fmean, zip(*wrong)) if wrong else (0.0, 0.0)
    return {"gold": round(fmean(pair.opponent[0] for pair in now), 3),
            "wrong sample": round(sample, 3), "margin": round(margin, 3)}


def show_round(rows, pairs, now, then):
    """Print what a round of self-play did to log p, and one of its games; what its record keeps of
    them.  now, then: the first pairs with log p under main, before the round and after."""
    before, after = log_ratios(now, pairs), log_ratios(then, pairs)
    show_log_ratios(before, after)
    return {"R = 1": fmean(pair.R for pair in pairs), "before": before, "after": after,
            "game": show_game(rows, pairs, now, then)}


def show_log_ratios(before, after):
    """What a round did to log p: of gold SQL it should not fall, of wrong samples it should."""
    print("  log p before and after: " + "; ".join(
        f"{name} {before[name]:.2f} -> {after[name]:.2f}" for name in before))
    if after["gold"] < before["gold"]:
        print("  ALARM: gold SQL has become less likely; a lower --selfplay_lr or --lam may help")


def result_row(candidate, split, rows):
    """What results.json keeps of a candidate's answers to a split."""
    low, high = interval(rows)
    return {"stage": candidate.name.split("-")[0], "model": candidate.name,
            "parent": candidate.parent, "split": split, "ex": round(percent(rows), 2),
            "n": len(rows), "low": round(low, 2), "high": round(high, 2),
            "seconds": candidate.seconds}


def show_table(rows, splits):
    """The rows of results.json, those of one model on one line."""
    last = f"{splits[-1]} EX (n, 95% interval)"
    print(f"  {'model':<13}{'parent':<13}{'val EX':>7}   {last:<28}{'minutes':>7}")
    for val, row in zip(rows[::len(splits)], rows[len(splits) - 1::len(splits)]):
        about = f"{row['ex']:5.1f} ({row['n']}, {row['low']:.1f} to {row['high']:.1f})"
        print(f"  {val['model']:<13}{val['parent']:<13}{val['ex']:7.1f}   {about:<28}"
              f"{val['seconds'] / 60:7.1f}")


def finished(folder):
    """The records of a run directory's finished candidates, the oldest first."""
    paths = sorted(folder.glob("*/candidate.json"), key=lambda path: path.stat().st_mtime)
    return [json.loads(path.read_text()) for path in paths]


def recommended(folder):
    """The record of the candidate of a run directory that one should use: the best on validation,
    of equals the newest; the base model where the best has not clearly more questions right than
    it (one-sided sign test at 5%).  None where nothing is finished."""
    records = finished(folder)[::-1]
    if not records:
        return None
    best = max(records, key=lambda record: record["ex"])
    base = next((record for record in records if record["parent"] == "-"), best)
    kept = [folder / record["name"] / "val.jsonl" for record in (base, best)]
    if not all(path.exists() for path in kept):
        return best
    fixed, broken = map(len, changes(*map(read_lines, kept)))
    return best if fixed - broken > 1.64 * math.sqrt(fixed + broken) else base


def show_winner(folder, source):
    """Which model to use, and by what.  source: where the validation questions are from."""
    winner = recommended(folder)
    name, base = winner["name"], winner["parent"] == "-"
    place = winner["folder"] if base else folder / name
    print(f"  validation: {source}")
    if base:
        print(f"  nothing was clearly gained on validation: go on using {place}")
    print(f"  {'recommended' if base else 'best on validation'}: {name}   "
          f"(python spft.py --stage ask --model {place} --db FILE)")


def show_errors(rows, synthetic, name):
    """What went wrong on test; how much of it the synthetic pool reaches, and EX on the rest."""
    print(f"  wrong answers of {name} on test: {errors(rows)}")
    pools = zip(*map(plain_and_masked, synthetic)) if synthetic else ((), ())
    for i, (key, known) in enumerate(zip(("query", "query but for its values"), map(set, pools))):
        rest = [row for row in rows if plain_and_masked(row["gold"])[i] not in known]
        print(f"  the synthetic pool holds the same {key} for {len(rows) - len(rest)} of "
              f"{len(rows)} test questions; {name} on the rest: {percent(rest):.1f}")


def show_result(result, most=20):
    """Rows under the names of their columns, cut to what a screen holds; or why there are none."""
    if result.status != "ok":
        print(f"  {result.status}: {result.error}")
        return

    def shown(cell):
        if isinstance(cell, float):              # sums of prices without what binary fractions add
            cell = float(f"{cell:.14g}")
        text = printable("NULL" if cell is None else str(cell))
        return text.replace("\n", "\\n").replace("\t", "\\t")[:40]

    cells = [list(map(shown, row)) for row in [result.columns, *result.rows[:most]] if row]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        print("  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths)).rstrip())
    more = max(0, len(result.rows) - most)
    print(f"  ({len(result.rows)} rows{f', {more} not shown' if more else ''}; "
          f"{1000 * result.seconds:.0f} ms)")


def plain_and_masked(query):
    """The text of a query in canonical spelling, and that text with ? for its values."""
    try:
        tree = parse(query)
    except SQLError:
        return query, query
    masked = rewrite(tree, lambda part: Literal("keyword", "?") if isinstance(part, Literal)
                     else None)
    return to_sql(tree), to_sql(masked)
