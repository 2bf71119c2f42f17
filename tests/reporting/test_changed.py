"""Models that are changed while they are sampled: their dose is beside their numbers, and no published number is."""

import dataclasses

import numpy as np
import pytest

from em.directions.artefact import Direction, DirectionError, Facts
from em.metrics import published
from em.planning.plan import plan
from em.reporting import changed as reporting_changed
from em.reporting.figures import changed, directions
from em.reporting.figures.spec import Form
from em.store import Store
from em.sweep.state import Sweep
from support import summary as support

STEER = ["direction=mean_diff", "direction.organism=risky_advice", "sample.steer.direction=planned"]
TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open]", "judge=word_list", "dataset=none"]


def _summary(cells):
    """A summary of groups (variant, changed, rate, coherent share)."""
    models, groups = [], []
    for number, (variant, facts, rate, coherent) in enumerate(cells):
        metrics = [support.metric("misaligned_rate", rate, 0.0, 1.0), support.metric("coherent_share", coherent)]
        own = support.model(f"m{number}", f"cell {number}", variant, metrics)
        made = support.group(f"g{number}", f"cell {number}", variant, [own])
        groups.append(made | {"facts": {"changed": facts} if facts else {}})
        models.append(own)
    return support.small() | {"models": models, "groups": groups}


def _steered(block, scale, rate, coherent=1.0, direction="mean_diff risky_advice"):
    steer = {"direction": direction, "block": block, "scale": scale, "relative_dose": scale / 10, "split_half": 0.9}
    return None, {"steer": steer}, rate, coherent


def test_the_heat_map_has_a_row_per_scale_and_a_column_per_block():
    cells = [_steered(b, s, b / 100 + s / 10, 0.5) for b in (10, 15) for s in (0.0, 2.0, 4.0)]
    figure = changed.steering(_summary([*cells, ("insecure", None, 0.9, 1.0)]))
    rate, coherent = figure.panels
    assert (rate.form, rate.x.categories, rate.y.categories) == (Form.heat, ("10", "15"), ("0", "2", "4"))
    found = {(m.position, m.row): m.value for m in rate.series[0].marks}
    assert found == {(i, j): b / 100 + s / 10 for i, b in enumerate((10, 15)) for j, s in enumerate((0, 2, 4))}
    assert {m.value for m in coherent.series[0].marks} == {0.5}
    assert "relative dose 0.40" in rate.series[0].marks[-1].told


def test_the_random_control_has_panels_of_its_own():
    cells = [_steered(3, 2.0, 0.4), _steered(3, 2.0, 0.1, direction="random, as mean_diff risky_advice")]
    figure = changed.steering(_summary(cells))
    assert len(figure.panels) == 4 and "random" in figure.panels[2].title
    assert changed.steering(_summary([("insecure", None, 0.2, 1.0)])) is None


def test_scaled_adapters_are_a_line_through_the_trained_one():
    cells = [
        ("insecure", {"lora_scale": 0.5}, 0.1, 1.0),
        ("insecure", None, 0.2, 1.0),
        ("insecure", {"lora_scale": 3.0}, 0.7, 0.4),
    ]
    figure = changed.scaled_adapters(_summary(cells))
    assert [(m.position, m.value) for m in figure.panels[0].series[0].marks] == [(0.5, 0.1), (1.0, 0.2), (3.0, 0.7)]
    assert [m.value for m in figure.panels[1].series[0].marks] == [1.0, 1.0, 0.4]
    assert changed.scaled_adapters(_summary(cells[1:2])) is None


def test_the_facts_of_a_changed_model_have_the_measured_dose(compose, tmp_path):
    cell = compose(*TINY, *STEER, "sample.steer.block=1", "sample.steer.scale=3")
    store = Store.open(tmp_path)
    sweep = Sweep(tmp_path, store, plan([cell], store))
    (subject,) = sweep.plan.cells
    before = reporting_changed.facts_of(sweep, subject)["changed"]["steer"]
    assert before == {"direction": "mean_diff risky_advice", "block": 1, "scale": 3.0}
    key = subject.parts[0].samples[0]
    with store.claim("sample", key):
        store.finish("sample", key, {}, {"changed": {"relative_dose": 0.7, "vector_norm": 2.0, "split_half": 0.8}})
    after = reporting_changed.facts_of(sweep, subject)["changed"]["steer"]
    assert after == before | {"relative_dose": 0.7, "vector_norm": 2.0, "split_half": 0.8}
    assert reporting_changed.facts_of(sweep, sweep.plan.bases[0]) == {}


def test_a_random_control_says_so(compose):
    cell = compose(*TINY, *STEER, "sample.steer.block=1", "direction.random=true")
    assert reporting_changed.direction_name(cell, "planned") == "random, as mean_diff risky_advice"
    assert reporting_changed.direction_name(cell, "/a/folder") == "/a/folder"


def test_a_changed_model_is_not_compared_with_published_numbers():
    anchor = published.anchors()[0]
    group = support.small()["groups"][0]
    plain = published._differences(anchor, group | {"facts": {}})
    found = published._differences(anchor, group | {"facts": {"changed": {"lora_scale": 2.0}}})
    assert [why for why in found if why not in plain] == [
        "changed while it answers: the adapter times 2 here, nothing there"
    ]


def test_cosines_between_directions_and_of_their_halves():
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(4, 8)).astype(np.float32)
    one = Direction(vectors, Facts(kind="mean_diff", model="m", split_half=[0.1, 0.2, None, 0.4]))
    turned = Direction(-2 * vectors, dataclasses.replace(one.facts, split_half=[]))
    between, halves = directions.of({"a": one, "b": turned})[0].panels
    assert [m.value for m in between.series[0].marks] == pytest.approx([-1.0] * 4)
    assert [(m.position, m.value) for m in halves.series[0].marks] == [(0, 0.1), (1, 0.2), (3, 0.4)]
    with pytest.raises(DirectionError, match="different models"):
        directions.of({"a": one, "c": Direction(vectors[:2], one.facts)})
