"""The goals that benchmarks/coverage.py prints with PASS or FAIL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from result import Result

if TYPE_CHECKING:
    from coverage import Row


def check(rows: Sequence[Row], result: Result, all_cells: bool) -> None:
    """Print a line per goal, and the truths that the model does not assume. `all_cells`: not thinned."""
    rates = [r for r in rows if r.kind == "rate" and r.truth == "normal"]
    if rates:
        _coverage(rates, result)
        _width(rates, result)
    _misspecified([r for r in rows if r.truth != "normal"], result)
    contrasts = [r for r in rows if r.kind == "contrast"]
    if contrasts:
        _contrasts(contrasts, result)
    result.info("cells_measured", len(rows), "the whole grid" if all_cells else "thinned")


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
    even = [r for r in rows if r.narrower == 1]
    least = min(even, key=lambda r: r.cover)
    result.gate(f"least_coverage_of_a_difference({name(least)})", f"{least.cover:.3f}", ">=0.93", least.cover >= 0.93)
