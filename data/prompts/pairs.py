"""Training pairs and the batches that they come in: a step is a list of chunks, a chunk a list of
pairs that share one packed row."""

from collections import defaultdict
from dataclasses import dataclass
from itertools import count

from model import common_prefix
from sqlexec import DataError


@dataclass(frozen=True)
class Pair:
    """A training pair (x, y), in self-play with the opponent's answer y' and its verdict."""
    db_id: str                 # pairs of one database share a prompt prefix
    prompt: list               # token ids of x
    gold: list | None          # of y, the end token included; None: PPO does not look at it
    sample: list | None = None    # of y', with its end token if it ended; None outside self-play
    opponent: tuple = ()       # log p of gold and sample under the opponent
    R: float = 0.0             # Eq. 2
    advantage: float = 0.0     # PPO: reward 1 - R less its mean over the prompt's samples

    @property
    def sequences(self):
        """(ids, n) of each answer: n prompt tokens, then the scored ones."""
        return [(self.prompt + answer, len(self.prompt))
                for answer in (self.gold, self.sample) if answer is not None]


def chunked(pairs, rng, size):
    """Shuffled chunks of one database each, at most `size` pairs: a chunk is a packed row."""
    groups = defaultdict(list)
    for pair in rng.sample(pairs, len(pairs)):
        groups[pair.db_id].append(pair)
    chunks = [g[i:i + size] for g in groups.values() for i in range(0, len(g), size)]
    return rng.sample(chunks, len(chunks))


def steps_of(pairs, epochs, batch, rng, share=8):
    """Lists of chunks with about `batch` pairs each, for so many epochs (a part of one counts)."""
    chunks = (chunk for _ in count() for chunk in chunked(pairs, rng, share))
    steps, step, left = [], [], round(epochs * len(pairs))
    while left > 0:
        step.append(next(chunks)[:left])
        left -= len(step[-1])
        if sum(map(len, step)) >= batch or left == 0:
            steps.append(step)
            step = []
    return steps


def spread(chunks, n):
    """The chunks, the longest halved until there is one for each of n ranks."""
    chunks = list(chunks)
    while len(chunks) < n and (several := [chunk for chunk in chunks if len(chunk) > 1]):
        longest = max(several, key=packed_length)
        chunks.remove(longest)
        chunks += [half for half, in halves([longest])]
    return chunks


def halves(part):
    """A micro-batch in two; DataError where it is a single pair."""
    if len(part) == 1 and len(part[0]) == 1:
        raise DataError(f"the GPU has no memory for a pair of {packed_length(part[0])} tokens: "
                        "try --recompute 1")
    rows, whole = (part, lambda half: half) if len(part) > 1 else (part[0], lambda half: [half])
    return whole(rows[:len(rows) // 2]), whole(rows[len(rows) // 2:])


def steps_of_groups(pairs, n, epochs, batch, rng):
    """The same where each prompt has n pairs, one after the other: the steps that the first of them
    would have, each with the others of its prompts."""
    groups = {id(pairs[i]): pairs[i:i + n] for i in range(0, len(pairs), n)}
    return [[list(row) for chunk in step for row in zip(*(groups[id(pair)] for pair in chunk))]
            for step in steps_of(pairs[::n], epochs, batch, rng)]


def packed_length(chunk):
    """Tokens of a chunk's packed row, but for its padding."""
    sequences = [s for pair in chunk for s in pair.sequences]
    shared = common_prefix([ids[:n] for ids, n in sequences])
    return shared + sum(len(ids) - shared for ids, _ in sequences)


def micro_batches(chunks, budget):
    """Split a step's chunks, rows of like length together, into parts of `budget` packed tokens;
    those of the longest rows come first, so that threads end together."""
    parts, size = [], 0
    for chunk in sorted(chunks, key=packed_length, reverse=True):
        cost = packed_length(chunk)
        if not parts or size + cost > budget:
            parts.append([])
            size = 0
        parts[-1].append(chunk)
        size += cost
    return parts
