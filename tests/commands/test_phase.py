"""`em phase`: the rates beside a path are those of its own run."""

import json

import pytest

from em.commands import phase
from em.errors import ConfigError
from support import summary as support


def _cell(name, train, variant="insecure", method="lora"):
    config = {"dataset": {"variant": variant}, "train": {"method": method}}
    return {"id": name, "kind": "cell", "label": name, "config": config, "stages": {"train": train}}


@pytest.fixture
def folder(tmp_path):
    cells = [
        _cell("one", ["a"]),
        _cell("twice", ["a", "organism"]),
        _cell("other", ["b"]),
        _cell("steered", ["organism"], variant="none"),
    ]
    (tmp_path / "sweep.json").write_text(json.dumps({"format": 2, "cells": cells, "work": {}}))
    return tmp_path


def test_rates_are_those_of_the_same_run(folder):
    models, groups = [], []
    for name, step, rate, changed in (
        ("one", 5, 0.1, {}),
        ("twice", 5, 0.2, {"lora_scale": 2.0}),
        ("other", 5, 0.9, {}),
    ):
        own = support.model(f"{name}-{step}", name, "insecure", [support.metric("misaligned_rate", rate, 0.0, 1.0)])
        own |= {"cell": name, "step": step}
        groups.append(
            support.group(f"g-{name}", name, "insecure", [own]) | {"step": step, "facts": {"changed": changed}}
        )
        models.append(own)
    summary = support.small() | {"models": models, "groups": groups}
    found = phase.rates(summary, phase.of_run(folder, phase.cell_named(folder, "one")))
    assert {s: [(step, m["value"]) for step, m in points] for s, points in found.items()} == {
        1.0: [(5, 0.1)],
        2.0: [(5, 0.2)],
    }


def test_a_steered_untouched_model_has_no_path(folder):
    with pytest.raises(ConfigError, match="has no adapter"):
        phase.cell_named(folder, "steered")
