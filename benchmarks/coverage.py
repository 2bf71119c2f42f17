"""Measure what the 95 % intervals cover, and how wide they are, beside the score intervals of release 0.1.0.

Without options: a thinned grid, some minutes on two cores. `--full` measures every cell that the stored table lacks
(about an hour, can be stopped and continued); `--stored` only checks the stored table against the goals.

    python benchmarks/coverage.py [--full | --stored] [--seconds S]
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from multiprocessing import Pool
from pathlib import Path

import coverage_goals
import numpy as np
from coverage_truth import REAL, Design, draw, draw_pair
from result import Result, parser

from em.metrics import rate_difference, rate_interval, stats

STORED = Path(__file__).with_name("coverage.csv")
REPEATS = 1000
RATES, SPREADS = (0.005, 0.01, 0.02, 0.05, 0.2, 0.4), (0.5, 0.7, 1.3, 2.0, 2.5)
SHAPES = (
    [(1, 8, 100), (1, 8, 1000), (1, 10, 10), (6, 10, 10), (1, 24, 100), (1, 48, 100), (6, 24, 100), (6, 48, 100)]
    + [(1, 8, 10), (6, 8, 1000), (1, 24, 1000), (3, 24, 100), (10, 24, 100)]
    + [(runs, questions, 100) for questions in (8, 10) for runs in (1, 3, 6, 10) if (runs, questions) != (1, 8)]
)
"""(runs, questions, answers). Left out: most with 48 questions, or with 10 or 1,000 answers, where more questions
or runs only make it easier, and answers beyond a hundred hardly matter."""
MISSPECIFIED = ("beta", "heavy tails", "all equal", "two points")
PAIRS = ((0.05, 0.05), (0.2, 0.2), (0.05, 0.005), (0.047, 0.006), (0.2, 0.01))


@dataclass(frozen=True)
class Row:
    """A cell of the grid and what was measured in it. `was_*`: the same of release 0.1.0."""

    kind: str
    truth: str = "normal"
    runs: int = 1
    questions: int = 8
    answers: int = 100
    spread: float = 0.0
    rate: float = 0.0
    other: float = 0.0
    """Rate of side b of a contrast; the rate itself otherwise."""
    narrower: float = 1.0
    """Contrasts: factor of the spread of b's questions."""
    repeats: int = 0
    cover: float = 0.0
    width: float = 0.0
    was_cover: float = 0.0
    was_width: float = 0.0
    found: float = 0.0
    """Contrasts: the share of intervals that leave out zero."""
    was_found: float = 0.0
    unlike: float = 0.0
    """Contrasts: the share whose p is below 0.05 though the interval holds zero, or the other way round."""

    @property
    def cell(self) -> tuple[object, ...]:
        return tuple(asdict(self).values())[:9]


def rate_cells() -> Iterator[Row]:
    real = [(truth, round(float(np.mean(rates)), 4)) for truth, rates in REAL.items()]
    for truth, rate in [*((t, r) for t in MISSPECIFIED for r in (0.01, 0.05, 0.2)), *real]:
        for questions in (8, 24):
            yield Row("rate", truth, questions=questions, rate=rate, other=rate)
    for runs, questions, answers in SHAPES:
        shape = {"runs": runs, "questions": questions, "answers": answers}
        for spread in SPREADS:
            for rate in RATES:
                yield Row("rate", **shape, spread=spread, rate=rate, other=rate)


def contrast_cells() -> Iterator[Row]:
    for spread in (1.2, 2.0, 2.5):
        for runs in (6, 1):
            for rate, other in PAIRS[: 5 if spread < 2.5 else 2]:
                yield Row("contrast", runs=runs, spread=spread, rate=rate, other=other)
            for rate in (0.05, 0.2):
                yield Row("contrast", runs=runs, spread=spread, rate=rate, other=rate, narrower=0.6)


def thinned(row: Row) -> bool:
    """Whether a cell is in the grid of minutes."""
    if row.kind == "contrast":
        return row.spread < 2.5 and row.runs == 1
    few = row.questions == 8 and row.answers == 100 and row.runs in (1, 6)
    return few and row.truth == "normal" and row.spread in (0.5, 1.3, 2.5) and row.rate in (0.005, 0.02, 0.05, 0.2)


def measure(row: Row) -> Row:
    """Draw sweeps of one cell and count. The seed is the cell's own, so a cell is the same alone and in the grid."""
    numbers = [row.runs, row.questions, row.answers, int(100 * row.spread), int(10000 * row.rate)]
    rng = np.random.default_rng([*numbers, int(10000 * row.other), int(10 * row.narrower), len(row.truth)])
    design = Design(row.truth, row.runs, row.questions, row.answers, row.spread)
    if row.kind == "contrast":
        a, b, n = draw_pair(rng, design, (row.rate, row.other), row.narrower, REPEATS)
        low, high, p = rate_difference.difference_bounds(a, n, b, n)
        _, was_low, was_high, was_p = stats.mean_contrast(a, n, b, n)
        true = row.rate - row.other
        unlike = (p < 0.05) != ((low > 0) | (high < 0))
        shares = {"found": np.mean(p < 0.05), "was_found": np.mean(was_p < 0.05), "unlike": np.mean(unlike)}
    else:
        hits, n, true = draw(rng, design, row.rate, REPEATS)
        low, high = rate_interval.rate_bounds(hits, n)
        was_low, was_high = stats.score_bounds(stats.spread(hits, n, "both"))
        shares = {}
    seen = {
        "repeats": REPEATS,
        "cover": float(np.mean((low <= true) & (true <= high))),
        "width": float(np.mean(high - low)),
        "was_cover": float(np.mean((was_low <= true) & (true <= was_high))),
        "was_width": float(np.mean(was_high - was_low)),
    }
    return Row(**(asdict(row) | seen | {name: float(value) for name, value in shares.items()}))


def read() -> list[Row]:
    if not STORED.exists():
        return []
    types = {f.name: {"int": int, "float": float, "str": str}[str(f.type)] for f in fields(Row)}
    with STORED.open(encoding="utf-8") as file:
        return [Row(**{k: types[k](v) for k, v in line.items()}) for line in csv.DictReader(file)]


def write(rows: Sequence[Row]) -> None:
    part = STORED.with_suffix(".part")  # a killed run leaves the table whole
    with part.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([f.name for f in fields(Row)])
        for row in sorted(rows, key=lambda r: tuple(map(str, r.cell))):
            table.writerow([round(v, 5) if isinstance(v, float) else v for v in asdict(row).values()])
    part.replace(STORED)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--full", action="store_true", help="measure every cell that the stored table lacks")
    options.add_argument("--stored", action="store_true", help="check the stored table, measure nothing")
    options.add_argument("--seconds", type=float, default=float("inf"), help="start no further cell after this")
    options.add_argument("--processes", type=int, default=2)
    options.add_argument("--only", default="", help="rate or contrast")
    chosen = options.parse_args()
    every = [row for row in [*rate_cells(), *contrast_cells()] if row.kind.startswith(chosen.only)]
    known = read()
    if chosen.stored:
        rows = known
    elif chosen.full:
        have = {row.cell for row in known}
        rows = known
        for row in measured([r for r in every if r.cell not in have], chosen.processes, chosen.seconds):
            rows.append(row)
            write(rows)
    else:
        some = [row for row in every if thinned(row)]
        rows = list(measured(some[::20] if chosen.tiny else some, chosen.processes, chosen.seconds))
    result = Result(chosen.tiny)
    coverage_goals.check(rows, result, missing=len({r.cell for r in every} - {r.cell for r in rows}))
    coverage_goals.check_coherence(result)
    result.exit()


def measured(cells: Sequence[Row], processes: int, seconds: float) -> Iterator[Row]:
    """Yield the measured cells as they are done."""
    start = time.monotonic()
    with Pool(processes) as pool:
        waiting = list(cells)
        while waiting and time.monotonic() - start < seconds:
            now, waiting = waiting[: 2 * processes], waiting[2 * processes :]
            yield from pool.imap_unordered(measure, now)


if __name__ == "__main__":
    main()
