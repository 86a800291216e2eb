"""The task: examples, prompts, answers and verdicts over one data folder."""

import math
import random
from functools import cached_property, partial
from pathlib import Path

import model as lm
from data.benchmarks.reader import Data
from data.benchmarks.splits import Splits
from data.prompts.answers import sql_of_answer
from data.prompts.pairs import Pair
from data.prompts.prompts import Prompts
from data.report.progress import progress
from data.report.resume import Kept
from data.synthesis.run import template_sources
from data.synthesis.templates import TemplatePool
from model import RANKS, map_over_ranks
from sqlexec import DataError

BLOCK = 8       # batches in a block of answers: a kill loses a block; at its end rows stand idle


class Task(Splits):
    """What all stages share: data, prompts, and the one place that says what is correct.

    stand_in(task): Examples in place of labelled validation questions where there are too few."""

    def __init__(self, cfg, tokenizer, verifier, stand_in=lambda task: []):
        super().__init__(Data(cfg.data, cfg.infer_keys),
                         lambda jobs: map_over_ranks(verifier.run, jobs), cfg.limit, cfg.bad_gold)
        self.cfg, self.tokenizer, self.verifier = cfg, tokenizer, verifier
        self.stand_in = stand_in
        self.unfinished = Path(cfg.out) / "unfinished"           # answers, until they are used
        if cfg.shots and len(self.train) < cfg.shots:
            raise DataError(f"--shots {cfg.shots}: {cfg.data} has {len(self.train)} labelled "
                            "training questions")
        self.prompts = Prompts(self.data, tokenizer, cfg.schema, cfg.schema_budget, cfg.max_new,
                               random.Random(cfg.seed).sample(self.train, cfg.shots)
                               if cfg.shots else (), cfg.cell_values)

    @cached_property
    def val(self):
        """Labelled questions, or synthetic ones where there are too few of those."""
        return self.labelled_val or self.stand_in(self)

    @cached_property
    def templates(self):
        """The TemplatePool of the training queries, drawn from in every round."""
        return TemplatePool(template_sources(self.data, self.train))

    def to_sql(self, example):
        """Pair of a question and its SQL."""
        return Pair(example.db_id, self.prompts.sql(example, train=True),
                    self.answer_ids(example.target or example.query))

    def to_question(self, example):
        """Pair of a query and its question: the SQL-to-Text direction."""
        prompt = self.prompts.question(example)
        return Pair(example.db_id, prompt, self.answer_ids(example.question))

    def both_directions(self, examples):
        return [make(e) for e in examples for make in (self.to_sql, self.to_question)]

    def answer_ids(self, text):
        return self.tokenizer.encode(text) + [self.tokenizer.end]

    def answer(self, model, prompts, name, temperature=0.0, n=1, seed=0):
        """Samples of each prompt (lists of ids), n in a row; made and kept in blocks of prompts
        that begin alike.  Each prompt has a seed of its own, however the blocks are cut."""
        cfg, order = self.cfg, sorted(range(len(prompts)), key=prompts.__getitem__)
        size = max(64, BLOCK * cfg.decode_batch // n)
        count = RANKS * math.ceil(len(prompts) / size / RANKS)           # as many for each rank
        ends = [len(prompts) * i // count for i in range(count + 1)] if count else []
        kept = Kept(self.unfinished, lm.digest(model), prompts, temperature, n, seed, cfg.max_new,
                    cfg.decode_batch, ends)

        def of_block(i):
            block = order[ends[i]:ends[i + 1]]
            samples = lm.generate(model, [prompts[j] for j in block], cfg.max_new, temperature, n,
                                  [seed + j for j in block], cfg.decode_batch, bar.update)
            return [(s.ids, s.end) for s in samples]

        known = sum(ends[i + 1] - ends[i] for i in kept.known)
        with (lm.sampling(model),
              progress(total=n * len(prompts), initial=n * known, desc=name, unit="row") as bar):
            samples = [lm.Sample(*s) for block in kept.map(of_block, count) for s in block]
        place = {j: n * k for k, j in enumerate(order)}
        return [s for j in range(len(prompts)) for s in samples[place[j]:place[j] + n]]

    def verdicts(self, examples, samples, split="train"):
        """E(y') = E(y)?  A verdict for each example and sample, against the gold as written, by
        the rules of the split's data."""
        pairs = [(self.data.databases(e.db_id), e.query, self.sql(s))
                 for e, s in zip(examples, samples)]
        return map_over_ranks(partial(self.verifier.verdicts, mode=self.mode(split)), pairs)

    def text(self, sample):
        return self.tokenizer.decode(sample.ids).strip()

    def sql(self, sample):
        return sql_of_answer(self.text(sample))
