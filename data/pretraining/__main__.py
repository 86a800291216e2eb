"""Make the base model from scratch on random schemas: its tokeniser, then its weights.

    python -m data.pretraining --out runs/base --steps 6000 --lr 2e-3 --seed 0
    python -m data.pretraining --out runs/leg2 --model runs/leg1 --steps 6000

The second form trains an earlier result further.  A checkpoint and its exact-match accuracy are
written every 500 steps, on one CPU process.
"""

import argparse
import random
import sys
import time
from pathlib import Path

import torch

import model as lm
import spft
from data.pretraining.questions import random_pairs
from data.pretraining.random_schemas import Lexicon, random_database
from data.pretraining.tokenizer import train_tokenizer
from data.prompts.pairs import Pair, packed_length
from data.prompts.prompts import question_prompt, sql_prompt
from data.prompts.schema_text import compact
from data.prompts.tokenizer import Tokenizer
from data.report.files import write_json
from data.report.terminal import run_command

VOCABULARY = 1536
ROWS, QUESTIONS = 14, 4      # of a step: packed rows, a database each; questions of a row


class Steps:
    """`steps` training steps; three prompts in ten ask for the question of a query, the others for
    the SQL of a question.

    easy: the first tenth has small schemas and simple questions, since copying comes first."""

    def __init__(self, tokenizer, steps, seed, easy):
        self.tokenizer, self.steps, self.easy = tokenizer, steps, steps // 10 if easy else 0
        self.rng, self.lexicon = random.Random(seed), Lexicon(heldout=False)

    def __len__(self):
        return self.steps

    def __iter__(self):
        """Rows of similar length share a step, so that little of it is padding."""
        for start in range(0, self.steps, 8):
            easy = start < self.easy
            rows = sorted((self.row(easy) for _ in range(8 * ROWS)), key=packed_length)
            steps = [rows[i:i + ROWS] for i in range(0, len(rows), ROWS)]
            self.rng.shuffle(steps)
            yield from steps[:self.steps - start]

    def row(self, easy):
        database = random_database(self.rng, self.lexicon, max_tables=2 if easy else None)
        pairs = random_pairs(self.rng, self.lexicon, database, QUESTIONS, 0.5 if easy else 0.0)
        return [self.pair(database, pair) for pair in pairs]

    def pair(self, database, pair):
        """Links are those of a value linker that sometimes misses one or adds a wrong one."""
        schema = database.schema
        if self.rng.random() < 0.3:
            prompt, answer = question_prompt(schema, pair.query), pair.question
        else:
            links = [link for link in pair.links if self.rng.random() < 0.9]
            if self.rng.random() < (0.3 if links else 0.1):
                links += stray_link(self.rng, database, links)
                self.rng.shuffle(links)
            prompt, answer = sql_prompt(schema, pair.question, links), pair.query
        return Pair(schema.db_id, self.tokenizer.prompt(prompt),
                    self.tokenizer.encode(answer) + [self.tokenizer.end])


def stray_link(rng, database, links):
    """A link that the question does not mean: any value, or a linked value in another column."""
    texts = [(*place, value) for place, values in database.values.items() for value in values
             if isinstance(value, str)]
    if links and texts and rng.random() < 0.6:
        return [(*rng.choice(texts)[:2], rng.choice(links)[2])]
    return [rng.choice(texts)] if texts else []


def make_tokenizer(folder, rng):
    """The base model's tokeniser, trained on prompts and answers over 2,000 random schemas."""
    lexicon, texts = Lexicon(heldout=False), []
    for _ in range(2000):
        database = random_database(rng, lexicon)
        texts.append(compact(database.schema))
        for pair in random_pairs(rng, lexicon, database, 6):
            prompt = sql_prompt(database.schema, pair.question, pair.links)
            texts += [prompt.split("\n", 1)[1], pair.query]
    train_tokenizer(texts, VOCABULARY, folder)


def exact_match(model, tokenizer, n=150):
    """Percentage of SQL reproduced exactly: with words and phrasings seen in training, with
    held-out words, and with held-out words and phrasings."""
    shares = {}
    for name, lexicon in (("seen", Lexicon(heldout=False)),
                          ("new words", Lexicon(heldout=True, phrasings=False)),
                          ("new phrasings too", Lexicon(heldout=True))):
        rng, asked = random.Random(f"exact {name}"), []
        while len(asked) < n:
            database = random_database(rng, lexicon)
            asked += [(sql_prompt(database.schema, pair.question, pair.links), pair.query)
                      for pair in random_pairs(rng, lexicon, database, 2)]
        samples = lm.generate(model, [tokenizer.prompt(prompt) for prompt, _ in asked], 160)
        right = sum(tokenizer.decode(s.ids) == query for s, (_, query) in zip(samples, asked))
        shares[name] = round(100 * right / len(asked), 1)
    return shares


def pretrain(args):
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.model:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (args.out / name).write_bytes((args.model / name).read_bytes())
        model = lm.load_pretrained(args.model)
    else:
        make_tokenizer(args.out, random.Random(args.seed))
        model = lm.random_model(lm.ModelConfig.tiny(VOCABULARY, 192, 4, 4, 2), args.seed)
    tokenizer = Tokenizer(args.out)
    steps = Steps(tokenizer, args.steps, args.seed + 1, easy=not args.model)
    history, started = [], time.time()

    def watch(step, loss):
        if step % 500 == 0 or step == len(steps):
            lm.save_pretrained(model, args.out, torch.bfloat16)
            history.append({"step": step, "loss": round(float(loss), 3),
                            **exact_match(model, tokenizer),
                            "minutes": round((time.time() - started) / 60, 1)})
            print(history[-1], flush=True)
            write_json(args.out / "pretraining.json", history)

    cfg = spft.Config(seed=args.seed, threads=args.threads, out="")      # keeps no state
    spft.fit(model, steps, spft.SUPERVISED, args.lr, "pretrain", cfg, 0.02, watch)


def main():
    parser = argparse.ArgumentParser(prog="python -m data.pretraining",
                                     description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the new checkpoint")
    parser.add_argument("--model", type=Path, help="checkpoint to train further")
    parser.add_argument("--steps", type=int, default=6000, help="steps of 56 questions")
    parser.add_argument("--lr", type=float, default=2e-3, help="peak learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    args = parser.parse_args()
    return run_command("python -m data.pretraining", lambda: pretrain(args))


if __name__ == "__main__":
    sys.exit(main())
