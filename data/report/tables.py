"""What a person reads of a run: accuracy with its interval, kinds of error, tables, rows.

A row is the record of an answer: {"question", "gold", "pred", "correct", "status", "error", ...}.
"""

import math
from collections import Counter

from data.report.terminal import printable
from data.sql import Literal, SQLError, parse, rewrite, to_sql


def banner(name, text):
    print(f"\n== {name}: {text}", flush=True)


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


def show_candidate(candidate, rows):
    """The line of a finished round, and two of its answers, one wrong and one right."""
    print(f"  {candidate.name} (from {candidate.parent}): validation EX {candidate.ex:.1f} on "
          f"{len(rows)}; wrong: {errors(rows)}; {candidate.seconds:.0f} s")
    for row in sorted(rows, key=lambda r: r["correct"])[:1] + [r for r in rows if r["correct"]][:1]:
        verdict = "correct" if row["correct"] else row["error"] or "other result"
        for name in ("question", "gold", "pred"):
            print(f"    {name:10}{row[name]}")
        print(f"    verdict   {verdict}\n")


def show_players(cfg, name, main, opponent, candidates):
    banner(name, f"main {main.name} (EX {main.ex:.1f}) plays opponent {opponent.name} "
                 f"({opponent.ex:.1f}); base {cfg.model}")
    print("  candidates: " + ", ".join(f"{c.name} {c.ex:.1f} (from {c.parent})"
                                       for c in candidates))


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


def show_overlap(rows, synthetic, name):
    """How much of test the synthetic pool reaches, and EX on what it does not."""
    pools = zip(*map(plain_and_masked, synthetic)) if synthetic else ((), ())
    for i, (key, known) in enumerate(zip(("query", "query but for its values"), map(set, pools))):
        rest = [row for row in rows if plain_and_masked(row["gold"])[i] not in known]
        print(f"  the synthetic pool holds the same {key} for {len(rows) - len(rest)} of "
              f"{len(rows)} test questions; {name} on the rest: {percent(rest):.1f}")


def show_result(result, most=20):
    """Rows in columns, cut to what a screen holds; or why there are none."""
    if result.status != "ok":
        print(f"  {result.status}: {result.error}")
        return
    escaped = str.maketrans({"\n": "\\n", "\t": "\\t"})
    cells = [[printable(str(cell)).translate(escaped)[:40] for cell in row]
             for row in result.rows[:most]]
    widths = [max(map(len, column)) for column in zip(*cells)]
    for row in cells:
        print("  " + "  ".join(f"{c:<{w}}" for c, w in zip(row, widths)).rstrip())
    more = len(result.rows) - len(cells)
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
