"""The numbers of a trait over training: paired shifts, intervals over questions, the figure."""

import numpy as np
import pytest

from em.directions.monitor import Read, by_question
from em.reporting.figures import monitor
from em.reporting.figures.figures import save
from support import summary as support

QUESTIONS = ["a", "b", "b"]


def reads():
    base = np.array([[1.0, np.nan], [2.0, np.nan], [4.0, np.nan]])
    answers = np.array([[0.0, np.nan], [3.0, np.nan]])
    return [Read(0, base, None), Read(5, base + np.array([[0.5], [0.5], [1.5]]), answers, ["a", "b"])]


def test_a_shift_is_paired_and_the_untouched_model_has_none():
    found = monitor.points(reads(), QUESTIONS)
    assert {p.block for p in found} == {0}  # the direction is zero at block 1
    zero, shift, own = found
    assert (zero.step, zero.value, zero.low, zero.high) == (0, 0.0, 0.0, 0.0)
    assert (shift.measure, shift.step, shift.n) == (monitor.PROMPTS, 5, 3) and shift.value == pytest.approx(2.5 / 3)
    assert shift.low < shift.value < shift.high
    assert (own.measure, own.value, own.n) == (monitor.ANSWERS, 1.5, 2)


def test_one_question_has_no_interval():
    (_, shift, _) = monitor.points(reads(), ["a"] * 3)
    assert shift.low is None and shift.value == pytest.approx(2.5 / 3)


def test_values_per_question_without_those_that_could_not_be_read():
    total, count = by_question(np.array([1.0, 2.0, np.nan, 5.0]), ["x", "y", "z", "y"])
    assert total.tolist() == [[1.0, 7.0]] and count.tolist() == [[1.0, 2.0]]


def test_the_figure_has_a_panel_per_measure(tmp_path):
    found = monitor.points(reads(), QUESTIONS)
    figure = monitor.of("x", found, 0, {}, support.small())
    assert [panel.title for panel in figure.panels] == [monitor.PROMPTS, monitor.ANSWERS]
    assert [m.x for m in figure.panels[0].series[0].marks] == [0, 5]
    assert save(figure, tmp_path)[0].is_file()
