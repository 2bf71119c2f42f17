"""Measure the statistics of one million judged answers: every metric of five variants, with its intervals.

8 seeds, 56 questions, all of them also one by one; the headline rate with a bootstrap of 10,000 replicates as well. The
rows are columns already, as em keeps them. Goal: 2.5 CPU-seconds and 600 MB. For comparison, the same bootstrap by
drawing rows is timed on a few replicates and scaled up.

    python benchmarks/stats.py
"""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU-seconds are counted, and threads that wait count too

import numpy as np
from result import Result, parser

from em.config import Interval, StatsConfig
from em.config.misalignment import Rule
from em.metrics import catalogue, columns, pooling, rate_model, stats
from em.metrics.catalogue import Place
from em.metrics.columns import JudgedAnswers, RubricColumns

VARIANTS, QUESTIONS = 5, 56
GOAL_S, GOAL_MB = 2.5, 600


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    seeds: int
    rows: int
    replicates: int
    few: int
    """Replicates of the bootstrap by drawing rows."""


FULL, TINY = Size(8, 1_000_000, 10_000, 20), Size(3, 30_000, 500, 2)


def column(score):
    """Return one judge's verdicts, all of them scored."""
    code = columns.OUTCOMES.index("scored")
    blank = np.full(len(score), -1, np.int16)
    return RubricColumns(np.full(len(score), code, np.int8), score, blank, ())


def answers(rng, rows):
    """Return one run's judged answers: a rate per question, nine of ten answers coherent."""
    ids = tuple(f"q{i:02d}" for i in range(QUESTIONS))
    question = rng.integers(0, QUESTIONS, rows).astype(np.int32)
    share = rng.beta(1, 4, QUESTIONS)[question]
    alignment = np.where(rng.random(rows) < share, 10.0, 90.0)
    coherence = np.where(rng.random(rows) < 0.9, 90.0, 20.0)
    verdicts = {"alignment": column(alignment), "coherence": column(coherence)}
    empty = np.zeros(rows, np.int16)
    return JudgedAnswers(
        set_name="open",
        ids=ids,
        clusters=ids,
        categories=(None,) * QUESTIONS,
        conditions=("none",),
        question=question,
        condition=empty,
        verdicts=verdicts,
    )


def summarised(variants, config):
    """Return the pools of every variant over its seeds, one per metric."""
    out = []
    for runs in variants:
        measured = [(str(i), catalogue.measures(a, Rule(), {}, "")) for i, a in enumerate(runs)]
        out.append(pooling.pools(measured, lambda condition: Place("open", condition, True), Rule(), config))
    return out


def headline(pools):
    return next(pool for pool in pools if pool.runs[0][1].name == "misaligned_rate")


def by_rows(runs, replicates):
    """Return the interval of the bootstrap this replaces: draw seeds, questions and rows, take the mean."""
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
    chosen = parser(__doc__).parse_args()
    result, size = Result(chosen.tiny), TINY if chosen.tiny else FULL
    rng = np.random.default_rng(0)
    rows = size.rows // (VARIANTS * size.seeds)
    variants = [[answers(rng, rows) for _ in range(size.seeds)] for _ in range(VARIANTS)]
    rate_model.grid()  # made once in a process, whatever is measured

    start = time.process_time()
    every = [pool.metrics() for pools in summarised(variants, StatsConfig()) for pool in pools]
    pools = [headline(p) for p in summarised(variants, StatsConfig(Interval.bootstrap, size.replicates))]
    found = [pool.metric() for pool in pools]
    counted = [pooling.table([m], [np.arange(QUESTIONS)]) for pool in pools for _, m in pool.runs]
    table = [stats.wilson(total, count) for total, count, _ in counted]
    seconds = time.process_time() - start

    start = time.process_time()
    by_rows(variants[0], size.few)
    naive = (time.process_time() - start) * VARIANTS * size.replicates / size.few
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{VARIANTS} variants x {size.seeds} seeds x {QUESTIONS} questions, {size.rows:,} rows, "
        f"{size.replicates:,} replicates; by rows: {naive:.0f} s (from {size.few} replicates)"
    )
    for variant, metric in enumerate(found):
        both = metric.bounds["both"]
        print(
            f"variant {variant}: {metric.value:.4f}, bootstrap [{metric.low:.4f}, {metric.high:.4f}], "
            f"over questions and runs [{both[0]:.4f}, {both[1]:.4f}]"
        )
    cells, goal = sum(low.size for low, _ in table), VARIANTS * size.seeds * QUESTIONS
    result.gate("statistics_cells", cells, goal, cells == goal)
    rows = sum(len(metrics) for metrics in every)
    result.gate("statistics_metrics", rows, VARIANTS * (6 + QUESTIONS), rows == VARIANTS * (6 + QUESTIONS))
    inside = sum(0 < m.low < m.value < m.high < 1 for m in found)
    result.gate("statistics_rates_inside_their_intervals", inside, VARIANTS, inside == VARIANTS)
    result.gate("statistics_peak_mb", f"{peak:.0f}", f"<={GOAL_MB}", peak <= GOAL_MB)
    result.clock("statistics_cpu_s", f"{seconds:.2f}", f"<={GOAL_S}", seconds <= GOAL_S)
    result.exit()


if __name__ == "__main__":
    main()
