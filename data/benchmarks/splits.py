"""Training, validation and test examples of a data folder, each with its training target.

Gold is what the user wrote: verdicts are always against `query`. `target`, what training writes,
is the gold's canonical form where running both gives the same rows, else the gold itself.
"""

import random
import zlib
from collections import Counter
from dataclasses import replace
from functools import cached_property

from data.report.tables import counts
from data.sql import SQLError, canonical_sql, keeps_meaning
from sqlexec import DataError


class Splits:
    """All but `val`, which a subclass says: labelled_val, or what stands in where that is empty.

    data: a Data; run: a list of (db_path, sql) -> a list of Result.

    limit: at most so many examples of a split, 0 for all.  bad_gold: "stop" where an example cannot
    be used, or "skip".  unusable and kept_raw count, by reason, the examples left out and the
    golds without a canonical form."""

    def __init__(self, data, run, limit=0, bad_gold="stop"):
        self.data, self.run, self.limit, self.bad_gold = data, run, limit, bad_gold
        self.unusable, self.kept_raw = Counter(), Counter()

    @cached_property
    def train(self):
        held = set(self.held_out)
        return self.checked("train", [e for e in self.labelled if e not in held])

    @cached_property
    def labelled_val(self):
        return self.given_val or self.checked("train", self.held_out)

    @cached_property
    def test(self):
        return self.checked(self.last_split) if self.data.has(self.last_split) else []

    @property
    def last_split(self):
        return "test" if self.data.has("test") else "dev"

    @cached_property
    def labelled(self):
        return self.usable("train")

    @cached_property
    def given_val(self):
        return self.checked("val") if self.data.has("val") else []

    @cached_property
    def held_out(self):
        """The training examples that serve for validation: none where there is a val.json."""
        return [] if self.given_val else validation_share(self.labelled)

    @cached_property
    def digest(self):
        """Of examples and databases: what tells this data from other data."""
        self.train, self.test                       # whatever is wrong with them shows first
        return "-".join(self.data.digest(split) for split in ("train", "val", self.last_split)
                        if self.data.has(split) or split == "train")

    @property
    def val_source(self):
        return ("val.json" if self.given_val else "held out of the training questions"
                if self.labelled_val else "synthetic, the model's own questions: too few labelled "
                "ones")

    def announce(self):
        """Say on what a run trains, validates and tests.  DataError where it can train on nothing
        or validate nothing."""
        if not self.train and not self.data.own:
            raise DataError(f"{self.data.folder}: no training question whose gold runs")
        if not self.val:
            raise DataError(f"{self.data.folder}: no validation question, and none could be made")
        print(f"{len(self.train)} labelled questions for training; {len(self.val)} for validation "
              f"({self.val_source}); {len(self.test)} for test"
              + ("" if self.test else ": the table has no test column"))
        for text, counter in (("gold SQL that training takes as written", self.kept_raw),
                              ("examples left out", self.unusable)):
            if counter:
                print(f"{text}: {counts(counter)}")

    def mode(self, split):
        """Whose rules score a split; synthetic questions are scored as those of training."""
        if split == "test":
            split = self.last_split
        return self.data.mode("train" if split == "val" and not self.given_val else split)

    def usable(self, split):
        """Examples of a split whose database is there; with bad_gold "stop" all must be."""
        if self.bad_gold == "stop":
            return self.data.examples(split)
        examples, reasons = self.data.usable(split)
        self.unusable += reasons
        return examples

    def checked(self, split, examples=None):
        """At most `limit` examples whose gold runs, with their training targets."""
        examples = self.usable(split) if examples is None else examples
        if self.limit and len(examples) > self.limit:
            examples = random.Random(0).sample(examples, self.limit)
        found = []
        for start in range(0, len(examples), 512):  # not all results in memory at once
            found += self.with_targets(examples[start:start + 512])
        return found

    def with_targets(self, examples):
        """The examples whose gold runs, each with its training target."""
        golds = self.run([self.job(e, e.query) for e in examples])
        runs = [(e, gold) for e, gold in zip(examples, golds) if self.gold_runs(e, gold)]
        forms = [canonical_or_reason(e.query, self.data.schema(e.db_id)) for e, _ in runs]
        again = iter(self.run([self.job(e, sql) for (e, _), (sql, _) in zip(runs, forms)
                               if sql not in ("", e.query)]))
        found = []
        for (e, gold), (sql, reason) in zip(runs, forms):
            if sql and sql != e.query:              # the canonical form must give the gold's rows
                result = next(again)
                if result.status != "ok":
                    reason = f"canonical form: {result.status}"
                elif not keeps_meaning(e.query, gold.rows, result.rows):
                    reason = "canonical form: other rows"
            self.kept_raw.update([reason] if reason else [])
            found.append(replace(e, target=e.query if reason else sql))
        return found

    def job(self, example, sql):
        return self.data.databases(example.db_id)[0], sql

    def gold_runs(self, example, result):
        """Whether a gold ran; DataError under bad_gold "stop" where it did not."""
        if result.status == "ok":
            return True
        if self.bad_gold == "stop":
            raise DataError(f"{self.data.folder}: a gold query does not run (--bad_gold skip "
                            f"leaves such examples out): {example.db_id}: {example.query!r}: "
                            f"{result.status} {result.error}")
        self.unusable[f"gold {result.status}"] += 1
        return False


def validation_share(examples, databases=10, queries=20):
    """About a tenth of the examples, to validate on: those of a tenth of the databases where there
    are so many, else of a tenth of the distinct queries; none where these are fewer, too."""
    for key, least in ((lambda e: e.db_id, databases), (lambda e: e.query, queries)):
        keys = sorted({key(e) for e in examples}, key=lambda k: zlib.crc32(k.encode()))
        if len(keys) >= least:
            held = {k for k in keys if zlib.crc32(k.encode()) % 10 == 0} or keys[:1]
            return [e for e in examples if key(e) in held]
    return []


def canonical_or_reason(sql, schema):
    """(canonical form, "") of a query, or ("", why it has none)."""
    try:
        return canonical_sql(sql, schema), ""
    except SQLError as problem:
        return "", problem.reason
