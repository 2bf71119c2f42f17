"""One million judged answers → per-question table and 95 % intervals of five variants, 10,000 replicates each.

    python benchmarks/stats.py            # 5 variants, 8 seeds, 56 questions, 1,000,000 rows

The rows are columns already (em/metrics.py keeps them so); goal: 2.5 CPU-seconds and 600 MB for everything after that.
Beside it, on 200 replicates and scaled up, the same bootstrap by drawing rows, which is what it replaces.
"""

from __future__ import annotations

import resource
import sys
import time

import numpy as np

from em import metrics, rates, stats
from em.metrics import JudgedAnswers, RubricColumns, Rule
from em.rates import Place
from em.schema.stats import Interval, StatsConfig

VARIANTS, SEEDS, QUESTIONS, ROWS = 5, 8, 56, 1_000_000
REPLICATES, FEW = 10_000, 20
GOAL_S, GOAL_MB = 2.5, 600


def column(score):
    code = metrics.OUTCOMES.index("scored")
    blank = np.full(len(score), -1, np.int16)
    return RubricColumns(np.full(len(score), code, np.int8), score, blank, ())


def answers(rng, rows):
    """One run's judged answers: a rate for each question, coherent nine times in ten."""
    ids = tuple(f"q{i:02d}" for i in range(QUESTIONS))
    question = rng.integers(0, QUESTIONS, rows).astype(np.int32)
    share = rng.beta(1, 4, QUESTIONS)[question]
    alignment = np.where(rng.random(rows) < share, 10.0, 90.0)
    coherence = np.where(rng.random(rows) < 0.9, 90.0, 20.0)
    verdicts = {"alignment": column(alignment), "coherence": column(coherence)}
    empty = np.zeros(rows, np.int16)
    return JudgedAnswers("open", ids, ids, (None,) * QUESTIONS, ("none",), question, empty, verdicts)


def summarised(variants, config):
    """Every metric of every variant over its seeds."""
    out = []
    for runs in variants:
        measured = [(str(i), rates.measures(a, Rule(), config, {})) for i, a in enumerate(runs)]
        pools = rates.pools(measured, lambda condition: Place("open", condition, True), Rule(), config)
        rate = next(p for p in pools if p.runs[0][1].name == "misaligned_rate")
        out.append(rate)
    return out


def by_rows(runs, replicates):
    """The bootstrap this replaces: draw seeds, questions and rows, take the mean."""
    rng, means = np.random.default_rng(0), []
    hits = [a.verdicts["alignment"].score < 30 for a in runs]
    places = [[np.flatnonzero(a.question == q) for q in range(QUESTIONS)] for a in runs]
    for _ in range(replicates):
        rate = []
        for run in rng.integers(0, len(runs), len(runs)):
            drawn = np.concatenate([places[run][q] for q in rng.integers(0, QUESTIONS, QUESTIONS)])
            rate.append(hits[run][drawn].mean())
        means.append(np.mean(rate))
    return np.percentile(means, [2.5, 97.5])


def main():
    rng = np.random.default_rng(0)
    rows = ROWS // (VARIANTS * SEEDS)
    variants = [[answers(rng, rows) for _ in range(SEEDS)] for _ in range(VARIANTS)]
    config = StatsConfig(interval=Interval.bootstrap, replicates=REPLICATES)

    start = time.process_time()
    pools = summarised(variants, config)
    found = [pool.metric() for pool in pools]
    cells = [rates.table([m], [np.arange(QUESTIONS)]) for pool in pools for _, m in pool.runs]
    table = [stats.wilson(total, count) for total, count, _ in cells]
    seconds = time.process_time() - start

    start = time.process_time()
    by_rows(variants[0], FEW)
    naive = (time.process_time() - start) * VARIANTS * REPLICATES / FEW
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{VARIANTS} variants x {SEEDS} seeds x {QUESTIONS} questions, {ROWS:,} rows, {REPLICATES:,} replicates")
    for variant, metric in enumerate(found):
        both = metric.bounds["both"]
        print(
            f"variant {variant}: {metric.value:.4f}, bootstrap [{metric.low:.4f}, {metric.high:.4f}], "
            f"crossed clusters [{both[0]:.4f}, {both[1]:.4f}]"
        )
    print(
        f"per-question table: {sum(low.size for low, _ in table)} cells; by rows: {naive:.0f} s (from {FEW} replicates)"
    )
    passed = seconds <= GOAL_S and peak <= GOAL_MB
    print(f"peak memory {peak:.0f} MB, goal {GOAL_MB}")
    print(f"statistics {seconds:.2f}s {GOAL_S}s {'PASS' if passed else 'FAIL'}")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
