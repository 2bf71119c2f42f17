"""The goals that benchmarks/coverage.py prints with PASS or FAIL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from result import Result

from em.metrics.rate_interval import rate_bounds

if TYPE_CHECKING:
    from coverage import Row


def check(rows: Sequence[Row], result: Result, missing: int) -> None:
    """Print a line per goal, and the truths that the model does not assume. `missing`: cells not measured."""
    rates = [r for r in rows if r.kind == "rate" and r.truth == "normal"]
    if rates:
        _coverage(rates, result)
        _width(rates, result)
    _misspecified([r for r in rows if r.truth != "normal"], result)
    contrasts = [r for r in rows if r.kind == "contrast"]
    if contrasts:
        _contrasts(contrasts, result)
    result.info("cells_measured", len(rows), f"{missing}_more_in_the_grid")


def check_coherence(result: Result) -> None:
    """Print what counts of 8,000 answers may do to the ends, whichever questions and runs have the hits."""
    ends = {0: 0.0, 2: 0.0}
    for runs in (1, 10):
        for place in range(8):
            hits = np.zeros((1, runs, 8))
            answers = np.full(hits.shape, 8000 / hits.size)
            ends[0] = max(ends[0], float(rate_bounds(hits, answers)[1][0]))
            hits[0, 0, 0] += 1
            hits[0, place % runs, place] += 1
            ends[2] = max(ends[2], float(rate_bounds(hits, answers)[1][0]))
    for hits_in_all, goal in ((0, 0.02), (2, 0.045)):
        name = f"upper_end_of_{hits_in_all}_hits_of_8000,wherever"
        result.gate(name, f"{ends[hits_in_all]:.4f}", f"<{goal}", ends[hits_in_all] < goal)
    raised = _raised()
    result.gate("ends_raised_by_answers_without_a_hit,equal_before", f"{raised[0]:.3f}", "=0", raised[0] == 0)
    result.info("ends_raised_by_more_than_2%,unequal_before", f"{raised[1]:.3f}")


def _raised(tables: int = 100) -> tuple[float, float]:
    """Return the share of random tables whose upper end rises by answers without a hit to some questions.

    First where all questions had as many answers before (by more than 0.01 %), then where they had not (by 2 %).
    """
    rng = np.random.default_rng(0)
    answers = np.repeat(rng.choice([10.0, 100.0, 1000.0], (tables, 1, 1)), 8, 2)
    odds = rng.uniform(-6, 0, (tables, 1, 1)) + rng.choice([0.0, 1.0, 2.5], (tables, 1, 1)) * rng.standard_normal(
        answers.shape
    )
    hits = rng.binomial(answers.astype(int), 1 / (1 + np.exp(-odds))).astype(float)
    ends = []
    for _ in range(3):
        ends.append(rate_bounds(hits, answers)[1])
        chosen = rng.random(answers.shape) < rng.choice([0.1, 0.5, 0.9], (tables, 1, 1))
        answers = answers + chosen * np.ceil(2 * answers.max(2, keepdims=True) * rng.random(answers.shape))
    return float(np.mean(ends[1] > 1.0001 * ends[0])), float(np.mean(ends[2] > 1.02 * ends[1]))


def name(row: Row) -> str:
    """The cell in one word."""
    rate = f"{100 * row.rate:g}%" + (f"-{100 * row.other:g}%" if row.kind == "contrast" else "")
    return f"{row.runs}x{row.questions}x{row.answers},sd{row.spread:g},{rate}" + (
        ",narrower" if row.narrower < 1 else ""
    )


def _coverage(rows: Sequence[Row], result: Result) -> None:
    enough = [r.cover >= 0.93 for r in rows]
    share, least = sum(enough) / len(rows), min(rows, key=lambda r: r.cover)
    result.gate("share_of_cells_that_cover_93_percent", f"{share:.3f}", ">=0.98", share >= 0.98)
    result.gate(f"least_coverage({name(least)})", f"{least.cover:.3f}", ">=0.92", least.cover >= 0.92)
    was = min(rows, key=lambda r: r.was_cover)
    result.info(f"least_coverage_of_0.1.0({name(was)})", f"{was.was_cover:.3f}")


def _width(rows: Sequence[Row], result: Result) -> None:
    def ratio(row: Row) -> float:
        return row.width / row.was_width

    eight = [r for r in rows if r.questions == 8 and r.spread >= 1.3]
    rare = [ratio(r) for r in eight if r.rate <= 0.05]
    if rare:
        mean = sum(rare) / len(rare)
        result.gate("mean_width_at_8_questions_rate<=5%,sd>=1.3", f"{mean:.3f}", "<=0.60", mean <= 0.60)
    for group, goal, words in (
        (eight, 0.92, "greatest_width_at_8_questions,sd>=1.3"),
        ([r for r in rows if r.questions >= 24 and r.spread >= 1.3], 1.06, "greatest_width_at_24_and_48,sd>=1.3"),
        ([r for r in rows if r.rate >= 0.01], 1.45, "greatest_width_from_1%_up"),
    ):
        if group:
            worst = max(group, key=ratio)
            result.gate(f"{words}({name(worst)})", f"{ratio(worst):.3f}", f"<={goal}", ratio(worst) <= goal)
    below = [r for r in rows if r.rate < 0.01]
    if below:
        worst = max(below, key=lambda r: r.width - r.was_width)
        more = 100 * (worst.width - worst.was_width)
        result.gate(f"more_points_below_1%({name(worst)})", f"{more:.2f}", "<=2", more <= 2)


def _misspecified(rows: Sequence[Row], result: Result) -> None:
    for row in rows:
        shown = f"{row.cover:.3f} (0.1.0: {row.was_cover:.3f}, width x {row.width / row.was_width:.2f})"
        result.info(f"{row.truth.replace(' ', '_')}({name(row)})", shown)


def _contrasts(rows: Sequence[Row], result: Result) -> None:
    for narrower, goal in ((False, 0.06), (True, 0.12)):
        null = [r for r in rows if r.rate == r.other and (r.narrower < 1) == narrower]
        if null:
            worst = max(null, key=lambda r: r.found)
            words = "type_1_error_where_spreads_differ" if narrower else "type_1_error"
            result.gate(f"{words}({name(worst)})", f"{worst.found:.3f}", f"<={goal}", worst.found <= goal)
        if null and narrower:
            worst = max(null, key=lambda r: r.found - r.was_found)
            more = worst.found - worst.was_found
            result.gate(f"type_1_error_above_0.1.0({name(worst)})", f"{more:.3f}", "<=0.01", more <= 0.01)
    for runs, spread, rate, goal in ((1, 1.2, 0.05, 0.95), (6, 1.2, 0.047, 0.97), (6, 2.0, 0.047, 0.92)):
        for row in rows:
            if (row.runs, row.spread, row.rate) == (runs, spread, rate) and row.other in (0.005, 0.006):
                found = f"{row.found:.3f} (0.1.0: {row.was_found:.3f})"
                result.gate(f"power({name(row)})", found, f">={goal}", row.found >= goal)
    unlike = max(r.unlike for r in rows)
    result.gate("p_and_interval_disagree_about_zero", f"{unlike:.3f}", "=0", unlike == 0)
    even = [r for r in rows if r.narrower == 1]
    least = min(even, key=lambda r: r.cover)
    result.gate(f"least_coverage_of_a_difference({name(least)})", f"{least.cover:.3f}", ">=0.93", least.cover >= 0.93)
