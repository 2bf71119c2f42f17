"""The summary of a screening and its figure: exact numbers, what was not read, one curve per dataset."""

import numpy as np
import pytest

from em.directions.artefact import Direction, Facts
from em.directions.projections import Row
from em.reporting.figures import screening
from em.reporting.figures.figures import save

DIRECTION = Direction(np.ones((2, 4), np.float32), Facts(kind="contrast", model="tiny", split_half=[0.9, 0.4]))


def row(name, score, why=""):
    return Row(name, score, score, 0.0 if score is not None else None, 3, 3, why)


ROWS = [row("a", 1.0), row("b", -1.0), row("c", 3.0), row("d", 5.0), row("e", None, "the row has no token")]


def test_the_mean_and_its_interval_are_over_the_rows_that_were_read():
    found = screening.summary("x", ROWS, DIRECTION, 1, "own")
    half = 3.182446 * np.std([1, -1, 3, 5], ddof=1) / 2  # t, 3 degrees of freedom
    assert (found.rows, found.scored, found.mean, found.positive) == (5, 4, 2.0, 0.75)
    assert (found.low, found.high) == (pytest.approx(2 - half, abs=1e-5), pytest.approx(2 + half, abs=1e-5))
    assert found.percentiles[0] == -1 and found.percentiles[50] == 2 and found.percentiles[100] == 5
    assert found.unread == {"the row has no token": 1} and found.split_half == 0.4
    assert "mean +2 [" in found.line() and "75 % of 4 rows above 0" in found.line()


def test_a_dataset_that_cannot_be_read_has_no_numbers():
    found = screening.summary("x", ROWS[4:], DIRECTION, 1, "own")
    assert (found.mean, found.low, found.percentiles) == (None, None, [])
    assert found.line() == "x: none of 1 rows could be read"


def test_a_curve_per_dataset(tmp_path):
    figure = screening.of([screening.summary(name, ROWS, DIRECTION, 1, "none") for name in ("x", "y")])
    assert [series.label for series in figure.panels[0].series] == ["x", "y"]
    assert [m.value for m in figure.panels[0].series[0].marks] == sorted(m.value for m in figure.marks()[:101])
    assert save(figure, tmp_path)[0].is_file()
