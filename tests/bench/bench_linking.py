"""Measures what a prompt holds, on a Spider-layout folder: linked values, and the schema's text.

    python tests/bench/bench_linking.py ../shared/spider [--split train_spider] [--show 20]
    python tests/bench/bench_linking.py ../shared/spider --prompts [--tokenizer tokenizer.json]

A gold literal is a string the gold query compares with =, != or IN and that is stored somewhere in
the database. It is recalled if link() offers that stored string, and recalled in its column if
offered for the column that the gold query compares (any of its tables with that column).
"""

import argparse
import json
import random
import re
import sqlite3
import statistics
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from data.benchmarks.reader import Data
from data.prompts.schema_text import compact, ddl, gold_tables, narrow, rank
from data.prompts.values import NUMBER, ValueIndex, phrase
from data.schema import read_schema

TOKEN = re.compile(r"""'(?:[^']|'')*'|"[^"]*"|[A-Za-z_]\w*|\d[\d.]*|[<>!]\s*=|<>|\S""")


def text_literals(sql):
    """[(column name, operator, text)] of a query; operator is '=', 'like' or 'other'."""
    tokens, found = TOKEN.findall(sql), []
    column, operator = "", ""
    for token in tokens:
        if token[0] in "'\"":
            text = token[1:-1].replace("''", "'") if token[0] == "'" else token[1:-1]
            found.append((column, operator, text))
        elif re.sub(r"\s", "", token) in ("=", "!=", "<>") or token.lower() == "in":
            operator = "="
        elif token.lower() == "like":
            operator = "like"
        elif token[0] in "<>" or token.lower() == "between":
            operator = "other"
        elif token.lower() not in ("not", "and", "(", ",", "."):
            column, operator = token.lower(), "other"
    return found


def stored_text(schema, path):
    """All text of a database, of any length."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        db.text_factory = lambda raw: raw.decode(errors="replace")
        return {text for table in schema.tables for column in table.columns
                for (text,) in db.execute(f'SELECT DISTINCT "{column.name}" FROM "{table.name}" '
                                          f"WHERE typeof(\"{column.name}\") = 'text'")}


def reason(question, text):
    """Why a literal may have been missed."""
    if NUMBER.fullmatch(text):
        return "a number"
    if len(phrase(text)) <= 1:
        return "one letter"
    if f" {phrase(text)} " not in f" {phrase(question)} ":
        return "not in the question"
    return "in the question"


def measure(folder, split, show):
    folder = Path(folder)
    indexes, stored, build_ms, link_ms = {}, {}, [], []
    count, missed, missing, false = Counter(), Counter(), [], []
    examples = json.loads((folder / f"{split}.json").read_text())
    for example in examples:
        db_id, question = example["db_id"], example["question"]
        if db_id not in indexes:
            path = folder / "database" / db_id / f"{db_id}.sqlite"
            indexes[db_id] = ValueIndex(read_schema(path), path)
            start = time.perf_counter()
            indexes[db_id].link("")
            build_ms.append(1e3 * (time.perf_counter() - start))
            stored[db_id] = stored_text(indexes[db_id].schema, path)
        start = time.perf_counter()
        offers = indexes[db_id].link(question)
        link_ms.append(1e3 * (time.perf_counter() - start))

        literals = {item for item in text_literals(example["query"])}
        gold = {(column, text) for column, operator, text in literals
                if operator == "=" and text in stored[db_id]}
        values = {value for _, _, value in offers}
        pairs = {(column.lower(), value) for _, column, value in offers}
        count["gold"] += len(gold)
        count["recalled"] += sum(text in values for _, text in gold)
        count["in column"] += sum(pair in pairs for pair in gold)
        count["offered"] += len(offers)
        count["distinct"] += len(values)
        count["right"] += sum((column.lower(), value) in gold for _, column, value in offers)
        count["right values"] += len(values & {text for _, text in gold})
        words = {text.strip("%") for _, _, text in literals} - {""}
        count["any"] += len(words)
        count["any recalled"] += len(words & values)
        for _, text in sorted(gold):
            if text not in values:
                missed[reason(question, text)] += 1
                missing.append((text, question, offers))
        false += [(offer, question) for offer in offers if offer[2] not in {t for _, t in gold}]

    def share(part, whole):
        return f"{100 * count[part] / max(1, count[whole]):.1f}% ({count[part]}/{count[whole]})"

    n = len(examples)
    print(f"{split}: {n} questions, {len(indexes)} databases")
    print(f"recall of gold text literals     {share('recalled', 'gold')}")
    print(f"  offered for the gold column    {share('in column', 'gold')}")
    print(f"  missed                         {dict(missed.most_common())}")
    print(f"recall of all text, LIKE words too  {share('any recalled', 'any')}")
    print(f"offered per question             {count['offered'] / n:.2f} for a column, "
          f"{count['distinct'] / n:.2f} distinct values")
    print(f"precision                        {share('right', 'offered')} of offers, "
          f"{share('right values', 'distinct')} of distinct values")
    print(f"ms per question                  mean {statistics.mean(link_ms):.2f}, median "
          f"{statistics.median(link_ms):.2f}, max {max(link_ms):.1f}")
    print(f"index build, ms                  median {statistics.median(build_ms):.1f}, "
          f"max {max(build_ms):.0f}")
    rng = random.Random(0)
    for title, items in (("missed", missing), ("not gold", false)):
        for item in rng.sample(items, min(show, len(items))):
            print(title, *item, sep=" | ")


# ---------------------------------------------------------------------------------------------
# Prompts

PIECE = re.compile(r"[^\W\d_]+|\d|[^\w\s]|_")      # what any tokeniser splits at, at the least


def measure_prompts(folder, split, tokenizer):
    """Lengths of prompts in both forms, and the gold tables that a budget leaves in them."""
    from data.prompts.prompts import sql_prompt         # the prompts are those of training
    data = Data(folder)
    counts = {"characters": len, "pieces": lambda text: len(PIECE.findall(text))}
    if tokenizer:
        from tokenizers import Tokenizer
        bpe = Tokenizer.from_file(tokenizer)
        counts[f"tokens ({bpe.get_vocab_size()})"] = lambda text: len(bpe.encode(text).ids)
    linkers, examples = {}, data.examples(split)
    prompts, asked = {"compact": [], "CREATE TABLE": []}, []
    for example in examples:
        schema, path = data.schema(example.db_id), data.databases(example.db_id)[0]
        links = linkers.setdefault(example.db_id, ValueIndex(schema, path)).link(example.question)
        prompt = sql_prompt(schema, example.question, links)
        assert compact(schema) in prompt
        prompts["compact"].append(prompt)
        prompts["CREATE TABLE"].append(prompt.replace(compact(schema), ddl(schema)))
        asked.append((schema, example.query, rank(schema, example.question, links)))
    print(f"{split}: {len(examples)} prompts")
    for form, texts in prompts.items():
        for name, count in counts.items():
            sizes = sorted(map(count, texts))
            print(f"{form:14}{name:16} mean {statistics.mean(sizes):6.0f}, "
                  f"p90 {sizes[len(sizes) * 9 // 10]:5}, max {sizes[-1]:5}")
    for budget in (1000, 600, 400, 250):
        kept = tight = 0
        for schema, sql, order in asked:
            part, dropped = narrow(schema, order, budget)
            kept += gold_tables(sql, schema) <= {table.name for table in part.tables}
            tight += bool(dropped["tables"])
        print(f"schema in {budget} characters: {tight} prompts lose tables; all gold tables are in "
              f"{100 * kept / len(asked):.1f}% of prompts")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder")
    parser.add_argument("--split", nargs="+", default=["train_spider", "dev"])
    parser.add_argument("--show", type=int, default=0, help="print so many misses and false offers")
    parser.add_argument("--prompts", action="store_true", help="only the lengths of prompts")
    parser.add_argument("--tokenizer", help="a tokenizer.json to count with, too")
    args = parser.parse_args()
    if args.prompts:
        measure_prompts(args.folder, "dev", args.tokenizer)
        sys.exit()
    for split in args.split:
        measure(args.folder, split, args.show)
