"""The plan of a run: its steps, and how long they will take, measured as it goes."""

TRAINED = 1.3           # seconds of a training sequence over those of an answer, until measured


def steps_of_run(cfg, line="selfplay"):
    """The candidates of --stage in order.  line: what the rounds of --loss are called."""
    stage = ("sft", "synthesis", "vbift", "selfplay").index(cfg.stage)
    names = ["base", "sft"] + [f"vbift-{r + 1}" for r in range(cfg.rounds)] * (stage > 1)
    return names + [f"{line}-{r + 1}" for r in range(cfg.selfplay_rounds)] * (stage > 2)


def work_of(cfg, name, train, val):
    """(answers, training sequences) of a step; a question that is written or scored counts as an
    answer.  train, val: numbers of labelled questions."""
    stage, _, round = name.partition("-")
    made = cfg.synthetic if cfg.rounds else 0
    if stage == "base":
        return val, 0
    if stage == "sft":
        return val, 2 * train * cfg.sft_epochs
    if stage == "vbift":
        new = made * 5 / 6 * int(round)
        return val + made * (2 * cfg.questions + 1 / 6), 2 * (train + new) * cfg.epochs
    return val + 2 * (train + made), 2 * (train + made) * cfg.selfplay_epochs


def seconds_left(cfg, sizes, left, seconds):
    """Estimate for the steps `left` and the test at the end; None before the base is scored.

    sizes: numbers of labelled questions in train, val and test; seconds: {name: of a step that is
    done}."""
    train, val, test = sizes
    if "base" not in seconds or not val:
        return None
    answer = seconds["base"] / val
    done = [(took, *work_of(cfg, name, train, val)) for name, took in seconds.items()]
    trained = sum(sequences for _, _, sequences in done)
    sequence = max(0, sum(took - answer * answers for took, answers, _ in done)) / trained \
        if trained else TRAINED * answer
    total = sum(answer * answers + sequence * sequences for answers, sequences in
                (work_of(cfg, name, train, val) for name in left))
    return total + answer * test * (len(left) + len(seconds))


def in_words(seconds):
    """A duration as people say it, to one or two digits.

    >>> [in_words(s) for s in (20, 110, 3000, 9000)]
    ['under a minute', '2 min', '50 min', '2.5 h']
    """
    if seconds < 45:
        return "under a minute"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
