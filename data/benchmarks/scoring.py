"""Scores gold queries and prediction files from the command line, in the official formats.

    python -m data.benchmarks.scoring --selfcheck DATA_DIR
    python -m data.benchmarks.scoring --score PRED_FILE --data DATA_DIR [--split dev]
                                      [--json FILE] [--jsonl FILE] [--ves 20]

The exit code is 1 where --selfcheck finds a gold that fails or differs from itself, 2 where the
input is wrong. EX is the share of predictions whose result is right on the one database; where a
folder holds several, all must agree and the share is called TS (test-suite accuracy).
"""

import argparse
import json
import re
import sqlite3
import statistics
import sys
from collections import Counter
from pathlib import Path

from data.prompts.answers import one_line, sql_of_answer
from data.report import files
from data.report.terminal import run_command
from data.benchmarks.reader import SPLITS, Data, read_text
from sqlexec import MODES, DataError, Verifier


# ---------------------------------------------------------------------------------------------
# Predictions in the official formats

BIRD_MARK = "\t----- bird -----\t"


def read_predictions(path, examples, mode="spider"):
    """List of the SQL predicted for each example, from a file that the official scripts accept.

    Spider: one SQL a line; a tab and the database may follow. BIRD: a JSON object from the
    example's number to SQL, the separator "\t----- bird -----\t" and the database. DataError where
    a prediction is missing, left over, malformed or made for another database."""
    text = read_text(path)
    read = _bird_pairs if mode == "bird" or text.lstrip().startswith("{") else _spider_pairs
    pairs = read(path, text, len(examples))
    for index, ((_, db_id), example) in enumerate(zip(pairs, examples)):
        if db_id.strip().lower() not in ("", example.db_id.lower()):
            raise DataError(f"{path}: prediction {index} is for the database {db_id.strip()!r}, "
                            f"the example for {example.db_id!r}")
    return [sql.strip() for sql, _ in pairs]


def _spider_pairs(path, text, count):
    # Not splitlines: SQL may hold a form feed.
    lines = re.sub(r"\r\n?", "\n", text).removesuffix("\n").split("\n")
    while len(lines) > count and not lines[-1].strip():
        lines.pop()
    if len(lines) != count:
        raise DataError(f"{path}: {len(lines)} lines for {count} examples")
    return [line.partition("\t")[::2] for line in lines]


def _bird_pairs(path, text, count):
    def once(pairs):
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key occurs twice")
        return dict(pairs)

    try:
        records = json.loads(text, object_pairs_hook=once)
    except ValueError as problem:
        raise DataError(f"{path}: {problem}") from problem
    wanted = [str(index) for index in range(count)]
    if not isinstance(records, dict) or records.keys() != set(wanted):
        raise DataError(f"{path}: not a JSON object with the keys 0 to {count - 1}")
    for key in wanted:
        if not isinstance(records[key], str) or records[key].count(BIRD_MARK) != 1:
            raise DataError(f"{path}: prediction {key} is not SQL, {BIRD_MARK!r}, database")
    return [records[key].split(BIRD_MARK) for key in wanted]


def write_predictions(folder, examples, predictions, mode):
    """The path of the file written: predictions.json for BIRD, else predictions.sql."""
    if mode == "bird":
        path = Path(folder) / "predictions.json"
        text = json.dumps({str(index): sql + BIRD_MARK + example.db_id for index, (example, sql)
                           in enumerate(zip(examples, predictions))}, indent=1) + "\n"
    else:
        path = Path(folder) / "predictions.sql"
        text = "".join(one_line(sql) + "\n" for sql in predictions)
    _write(files.write_text, path, text)
    return path


# ---------------------------------------------------------------------------------------------
# Spider's four levels

TOKEN = re.compile(r"""'(?:[^']|'')*' | "[^"]*" | `[^`]*` | \[[^]]*\]  # strings, quoted names
                       | \w+ | [(),] | [^\s\w(),'"`[]+ | \S""", re.X)
CLAUSES = ("select", "from", "where", "group", "having", "order", "limit")
AGGREGATES = ("count", "sum", "avg", "min", "max")


def _clauses(sql):
    """{keyword: tokens} of the first SELECT, with {"set": []} where a set operator follows it.

    Words are in lower case and a sub-query is the one token "subquery"; other parentheses are left
    out with the commas inside them."""
    tokens = TOKEN.findall(sql.lower())
    clauses, current, nested = {}, [], []       # nested: for each open parenthesis, a sub-query?
    for token, following in zip(tokens, tokens[1:] + [""]):
        if token == "(":
            if following == "select" and not any(nested):
                current.append("subquery")
            nested.append(following == "select")
        elif token == ")":
            del nested[-1:]
        elif any(nested) or token == "," and nested:
            continue
        elif token in ("union", "intersect", "except") and not nested:
            clauses["set"] = []
            break
        elif token in CLAUSES and not nested:
            current = clauses.setdefault(token, [])
        else:
            current.append(token)
    return clauses


def hardness(sql):
    """Spider's easy, medium, hard or extra, by the counts of its official evaluator.

    From tokens alone, so that any text has one; nothing is scored by it."""
    clauses = _clauses(sql)
    part = lambda name: clauses.get(name, [])
    where, having, tables = part("where"), part("having"), part("from")
    joined = (tables + where + having).count

    def connectives(tokens):
        return tokens.count("and") + tokens.count("or") - tokens.count("between")

    components = (sum(name in clauses for name in ("where", "group", "order", "limit"))
                  + tables.count("join") + tables.count(",") + joined("or") + joined("like"))
    nested = ("set" in clauses) + (where + having).count("subquery")
    items = [token for token in part("select") if token != "distinct"]
    heads = [token for before, token in zip([",", *items], items) if before == ","]
    # The official code takes NOT, and AND or OR in HAVING, for aggregates too.
    aggregates = (sum(token in AGGREGATES for token in heads + part("order"))
                  + (where + having).count("not") + connectives(having))
    others = ((aggregates > 1) + ("," in items) + (connectives(where) > 0)
              + ("," in part("group")))
    if not nested and components <= 1 and others == 0:
        return "easy"
    if not nested and (components <= 1 and others <= 2 or components <= 2 and others < 2):
        return "medium"
    if (not nested and (components <= 2 < others or components == 3 and others <= 2)
            or components <= 1 and others == 0 and nested == 1):
        return "hard"
    return "extra"


# ---------------------------------------------------------------------------------------------
# Scores

def efficiency(verifier, pairs, repeats=20, passes=5):
    """BIRD's valid efficiency score, once for each pass, so that its spread can be shown.

    pairs: (db_path, gold, pred), or None for an example that is not correct and scores 0.
    An example's score is 100 sqrt(mean of gold seconds / pred seconds over the repeats), ratios
    beyond three standard deviations left out; the mean over all examples is the score, which has
    no upper bound. For people to look at: on small queries it is mostly noise."""
    scores = []
    for _ in range(passes):
        total = 0.0
        for path, gold, pred in filter(None, pairs):
            jobs = [(path, gold), (path, pred)] * (repeats + 1)
            # The first pair only warms the database's pages up.
            times = [result.seconds for result in verifier.run(jobs, rows=False)][2:]
            ratios = [of_gold / of_pred for of_gold, of_pred in zip(times[::2], times[1::2])]
            mean, deviation = statistics.fmean(ratios), statistics.pstdev(ratios)
            kept = [ratio for ratio in ratios if abs(ratio - mean) <= 3 * deviation] or ratios
            total += 100 * statistics.fmean(kept) ** 0.5
        scores.append(total / max(1, len(pairs)))
    return scores


def selfcheck(options):
    """Scores every gold against itself; 1 if one fails or two runs of it differ."""
    data, broken = Data(options.selfcheck), 0
    names = [options.split] if options.split else SPLITS
    splits = [split for split in names if data.has(split)]
    if not splits:
        raise DataError(f"{data.folder}: nothing to check: no examples in "
                        + ", ".join(f"{split}.json" for split in names))
    with Verifier(options.workers, options.timeout) as verifier:
        for split in splits:
            examples, counts = data.usable(split)
            total = len(examples) + counts.total()
            for _, line in data.problems(split):
                print(f"{split}: {line}")
            # The space makes it another query to the verifier, which runs it and does not answer
            # from its cache.
            golds = [example.query + " " for example in examples]
            _, verdicts = score_predictions(data, split, examples, golds, verifier)
            for example, verdict in zip(examples, verdicts):
                if not verdict.correct:
                    note = f"fails: {verdict.error}" if verdict.error else "differs from itself"
                    counts[note.partition(":")[0]] += 1
                    print(f"{split}: {example.db_id}: {note}: {example.query}")
            broken += counts.total()
            notes = ", ".join(f"{count} {note}" for note, count in counts.items()) or "all well"
            print(f"{split}: {total} golds: {notes}. "
                  f"SQLite {sqlite3.sqlite_version}, {split} digest {data.digest(split)}")
    return 1 if broken else 0


def score_predictions(data, split, examples, predictions, verifier, mode=None):
    """(summary, list of Verdict) of predictions: SQL, one for each of the split's examples.

    mode: whose rules; by default those of the split's layout.  In the summary are the metric,
    {level: scored and correct}, the fewest and most databases of an example, verdicts by status,
    golds left out, and what all this depends on."""
    mode = mode or data.mode(split)
    databases = [data.databases(example.db_id) for example in examples]
    verdicts = verifier.verdicts([(paths, example.query, pred) for paths, example, pred
                                  in zip(databases, examples, predictions, strict=True)], mode)
    levels, rows = list(map(level, examples)), {}
    for name in (*filter(levels.__contains__, LEVELS), *sorted({*levels} - {*LEVELS}), "all"):
        scored = [verdict.correct for at, verdict in zip(levels, verdicts)
                  if name in (at, "all") and verdict.status != "bad_gold"]
        rows[name] = {"scored": len(scored), "correct": sum(scored),
                      "share": round(100 * sum(scored) / len(scored), 2) if scored else None}
    sizes = sorted(map(len, databases)) or [0]
    counts = Counter(verdict.status for verdict in verdicts)
    return {"data": str(data.folder), "split": str(split), "rules": mode,
            "metric": "TS" if sizes[-1] > 1 else "EX", "levels": rows,
            "databases": [sizes[0], sizes[-1]],
            "predictions": {status: counts[status] for status in STATUSES},
            "left_out": counts["bad_gold"],
            "sqlite": sqlite3.sqlite_version, "digest": data.digest(split)}, verdicts


LEVELS = ("easy", "medium", "hard", "extra", "simple", "moderate", "challenging")
STATUSES = ("ok", "error", "timeout", "too_big", "refused")


def level(example):
    return example.difficulty or hardness(example.query)


def write_scores(path, summary):
    _write(files.write_json, path, summary)


def write_verdicts(path, examples, predictions, verdicts):
    """JSONL, a line for each example with its gold, its prediction and the verdict."""
    _write(files.write_lines, path, [
        {"index": index, "db_id": example.db_id, "level": level(example),
         "question": example.question, "gold": example.query, "pred": pred, **verdict._asdict()}
        for index, (example, pred, verdict) in enumerate(zip(examples, predictions, verdicts))])


def _write(write, path, content):
    try:
        write(Path(path), content)
    except OSError as problem:
        raise DataError(f"{path}: {problem}") from problem


def score(options):
    """Scores a prediction file in an official format and prints the accuracy by level."""
    data = Data(options.data)
    split = options.split or ("dev" if data.has("dev") else "test")
    examples = data.examples(split)
    if not examples:
        raise DataError(f"{data.folder}: nothing to score: no examples in {split}.json")
    predictions = read_predictions(options.score, examples, data.mode(split))
    queries = list(map(sql_of_answer, predictions))
    if options.extract:
        predictions = queries
    with Verifier(options.workers, options.timeout) as verifier:
        summary, verdicts = score_predictions(data, split, examples, predictions, verifier,
                                              options.mode)
    print_scores(summary)
    wrapped = sum(verdict.status in ("refused", "error") and query != pred.rstrip("; ")
                  for verdict, query, pred in zip(verdicts, queries, predictions))
    if options.extract:
        summary["extracted"] = True
        print("of predictions with fences or prose, the SQL in them: no official score")
    if wrapped:
        print(f"hint: {wrapped} of {len(queries)} predictions do not run and hold more than SQL "
              "(fences, prose): --extract takes the SQL out, which the official scripts do not")
    if options.ves:
        summary["VES"] = _print_efficiency(data, examples, predictions, verdicts, options)
    if options.json:
        write_scores(options.json, summary)
    if options.jsonl:
        write_verdicts(options.jsonl, examples, predictions, verdicts)
    return 0


def _print_efficiency(data, examples, predictions, verdicts, options):
    correct = [(data.databases(example.db_id)[0], example.query, pred) if verdict.correct else None
               for example, pred, verdict in zip(examples, predictions, verdicts)
               if verdict.status != "bad_gold"]
    with Verifier(1, options.timeout) as verifier:      # nothing else may run beside it
        scores = efficiency(verifier, correct, options.ves)
    print(f"VES {statistics.fmean(scores):.2f}, from {min(scores):.2f} to {max(scores):.2f} in "
          f"{len(scores)} passes of {options.ves} runs each")
    return {"mean": round(statistics.fmean(scores), 2), "passes": scores, "runs": options.ves}


def print_scores(summary):
    """The table by level, and what the scores depend on."""
    metric = summary["metric"]
    print(f"{'level':12}{'scored':>8}{'correct':>9}{metric:>8}")
    for level, row in summary["levels"].items():
        share = "-" if row["share"] is None else f"{row['share']:.1f}"
        print(f"{level:12}{row['scored']:8}{row['correct']:9}{share:>8}")
    print("predictions: " + ", ".join(f"{count} {status}" for status, count
                                      in summary["predictions"].items()))
    if summary["left_out"]:
        print(f"left out, because the gold fails: {summary['left_out']} (--selfcheck lists them)")
    fewest, most = summary["databases"]
    print(f"{metric} over {fewest} to {most} databases an example, by the rules of "
          f"{summary['rules']}; SQLite {summary['sqlite']}, {summary['split']} digest "
          f"{summary['digest']}")


def report(data, split, examples, predictions, verifier, out):
    """Score predictions, print the table by level, and write scores.json, verdicts.jsonl and the
    predictions in their owners' format into the folder `out`."""
    summary, verdicts = score_predictions(data, split, examples, predictions, verifier)
    print_scores(summary)
    write_scores(out / "scores.json", summary)
    write_verdicts(out / "verdicts.jsonl", examples, predictions, verdicts)
    print(write_predictions(out, examples, predictions, summary["rules"]))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Check gold queries, or score predicted ones.")
    task = parser.add_mutually_exclusive_group(required=True)
    task.add_argument("--selfcheck", metavar="DATA_DIR", help="score every gold against itself")
    task.add_argument("--score", metavar="PRED_FILE", help="one SQL a line, or BIRD's JSON")
    parser.add_argument("--data", metavar="DATA_DIR", help="benchmark folder, for --score")
    parser.add_argument("--split", help="default: dev, else test; with --selfcheck all there are")
    parser.add_argument("--mode", choices=sorted(MODES), help="default: that of the data's layout")
    parser.add_argument("--jsonl", metavar="FILE", help="write one line for each example")
    parser.add_argument("--json", metavar="FILE", help="write what is printed")
    parser.add_argument("--ves", type=int, metavar="N", help="also BIRD's VES, from N runs each")
    parser.add_argument("--extract", action="store_true",
                        help="score the SQL inside fences and prose, unlike the official scripts")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds for one query")
    options = parser.parse_args(arguments)
    if options.score and not options.data:
        parser.error("--score needs --data")
    if options.ves is not None and options.ves < 1 or not 0 < options.timeout <= 86400:
        parser.error("--ves counts from 1, --timeout takes more than 0 and at most 86400 seconds")
    return run_command("", lambda: selfcheck(options) if options.selfcheck else score(options))


if __name__ == "__main__":
    sys.exit(main())
