"""Synthetic SQL: templates drawn, filled, executed and judged (section 3.1.1).

    synthesize(pool, databases, n, ...)    n executed queries, and rejections counted by reason

The rules of quality.py say which queries are rejected.
"""

from collections import Counter
from typing import NamedTuple

from data.synthesis import quality
from data.synthesis.fill import IMPOSSIBLE, Database, Unfilled, bind
from data.synthesis.templates import Binding, Template, render

TRIES = 12                   # queries made from one drawn template before it is given up
PLACES = 60                  # databases looked at for one of them
VARIANTS = 6                 # of a template's operators, see Template.variant
BATCH = 256                  # queries executed at a time


class Synthetic(NamedTuple):
    db_id: str
    sql: str
    template_key: str


class _Draft(NamedTuple):
    template: Template
    database: Database
    binding: Binding
    sql: str


def synthesize(pool, databases, n, rng, run, exclude=(), vary=0.3):
    """n synthetic queries that run and pass every check of quality.py.

    databases: [(schema, db_path)]. run: a list of (db_path, sql) -> a list of sqlexec.Result.
    exclude: normalised SQL that may not come out (training and validation queries).
    vary: the share of attempts whose aggregates, comparisons and sort directions are drawn anew.
    Returns ([Synthetic], Counter of rejected attempts by reason); fewer than n where the
    databases give no more.
    """
    work = _Synthesis(pool, databases, rng, run, set(exclude), vary)
    try:
        while len(work.kept) < n and work.round(min(BATCH, n - len(work.kept))):
            pass
    finally:
        for database in work.databases:
            database.close()
    return work.kept, work.rejects


class _Synthesis:
    """Drawn templates stay pending until one of their queries is kept or TRIES are used up."""

    def __init__(self, pool, databases, rng, run, exclude, vary):
        self.pool, self.rng, self.run, self.vary = pool, rng, run, vary
        self.databases = [Database(schema, path) for schema, path in databases]
        self.exclude, self.seen = exclude, set()
        self.kept, self.rejects = [], Counter()
        self.pending = []            # of (template, tries left)
        self.given_up = Counter()    # how often a template was given up
        self.impossible = set()      # (template key, database) that never fit

    def round(self, size):
        """One batch; False once nearly every draw is of a template that was given up twice."""
        for _ in range(20 * size if len(self.pool) else 0):
            if len(self.pending) >= size:
                break
            template = self.pool.draw(self.rng)
            if self.given_up[template.key] < 2:
                self.pending.append((template, TRIES))
        drafts = [self.draft(template) for template, _ in self.pending]
        reasons = self.judge(drafts)
        self.rejects.update(filter(None, reasons))
        failed = [(template, tries - 1) for (template, tries), reason
                  in zip(self.pending, reasons) if reason]
        self.given_up.update(template.key for template, tries in failed if not tries)
        self.pending = [(template, tries) for template, tries in failed if tries]
        return bool(drafts)

    def draft(self, template):
        """A _Draft on a random database, or the reason why not."""
        form, why = template, IMPOSSIBLE
        if self.rng.random() < self.vary:
            form = template.variant(self.rng.randrange(VARIANTS))
        places = self.databases and self.rng.choices(self.databases, k=PLACES)
        for database in dict.fromkeys(places):
            if (template.key, database) in self.impossible:
                continue
            try:
                wide, binding = bind(form, database, self.rng)
            except Unfilled as problem:
                why = str(problem)
                if why == IMPOSSIBLE:
                    self.impossible.add((template.key, database))
                continue
            sql = render(wide.pieces, binding)       # in canonical form already
            if sql in self.exclude:
                return "in train or val"
            if (database, sql) in self.seen:
                return "made before"
            self.seen.add((database, sql))
            return _Draft(wide, database, binding, sql)
        return f"unfilled: {why}"

    def judge(self, drafts):
        """The reason to reject each draft, or "" for those it keeps."""
        reasons = [draft if isinstance(draft, str) else "" for draft in drafts]
        live = [i for i, reason in enumerate(reasons) if not reason]
        jobs, rows = [(drafts[i], drafts[i].sql, "", quality.MAX_ROWS) for i in live], {}
        for i, result in zip(live, self.execute(jobs)):
            reasons[i], rows[i] = quality.trivial(result, drafts[i].template.tree), result.rows
        probes = {i: drafts[i].template.probes for i in live if not reasons[i]}
        for turn in range(max(map(len, probes.values()), default=0)):
            asked = [(i, *probes[i][turn]) for i in probes
                     if not reasons[i] and turn < len(probes[i])]
            jobs = [(drafts[i], render(pieces, drafts[i].binding), test, len(rows[i]))
                    for i, _, test, pieces in asked]
            for (i, reason, test, _), answer in zip(asked, self.execute(jobs)):
                if quality.is_redundant(test, rows[i], answer):
                    reasons[i] = reason
        self.kept += [Synthetic(drafts[i].database.schema.db_id, drafts[i].sql,
                                drafts[i].template.key) for i in live if not reasons[i]]
        return reasons

    def execute(self, jobs):
        """Results of (draft, sql, test, rows). One more row than `rows` shows a difference."""
        cut = [(draft.database.path, sql if draft.template.tree.limit and test != "order"
                else f"{sql} LIMIT {rows + 1}") for draft, sql, test, rows in jobs]
        return self.run(cut) if jobs else []
