"""The page of scalars: a model's text never becomes markup; colours follow the sign; the figure's means."""

import numpy as np
import pytest

from em.reporting import scalars
from em.reporting.figures.figures import save

MODULES = ("0.mlp.down_proj", "1.mlp.down_proj")


def marked(name, side, values, tokens=None):
    values = np.array(values, float)
    return scalars.Marked(id=name, side=side, tokens=tokens or [f"t{i}" for i in range(len(values))], values=values)


ANSWERS = [
    marked("bad-1", "misaligned", [[2, 0], [-4, 0]]),
    marked("bad-2", "misaligned", [[3, 0]]),
    marked("good-1", "aligned", [[-1, 0]]),
    marked("good-2", "aligned", [[1, 0]]),
]


def test_a_models_text_is_never_markup():
    evil = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "</i>", "&amp;"]
    found = scalars.page("<b>label", MODULES, [marked('<i id="x">', "aligned", [[1, 1]] * 4, evil)])
    assert "<script" not in found and "<img" not in found and '<i id="x">' not in found and "<b>label" not in found
    assert "&lt;script&gt;" in found and "&amp;amp;" in found
    assert found.count("<i ") == found.count("</i>") == 8


def test_colours_follow_the_sign_and_the_strongest_token():
    found = scalars.page("x", MODULES, ANSWERS)
    assert '<i class="r" style="--p:0.500" title="+2">t0</i><i class="b" style="--p:1.000" title="-4">t1</i>' in found
    assert found.count('style="--p:0.000"') == 5  # a module that does nothing


def test_the_figure_has_the_mean_over_answers(tmp_path):
    figure = scalars.figure("x", MODULES, ANSWERS)
    bad, good = figure.panels[0].series
    assert [m.value for m in bad.marks] == [pytest.approx(1.0), 0] and [m.value for m in good.marks] == [0, 0]
    assert bad.marks[0].low < 1.0 < bad.marks[0].high
    assert save(figure, tmp_path)[0].is_file()
