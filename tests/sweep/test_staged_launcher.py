"""What a Hydra sweeper such as Optuna is given for each cell; tests/end_to_end/test_optuna.py runs Optuna itself."""

import math

import pytest
from omegaconf import OmegaConf

from em import run
from em.config import compose
from hydra_plugins.em_staged import StagedLauncher
from support import summary


def test_a_sweeper_reads_the_rate_of_each_cell_and_ranks_none_that_is_withheld(monkeypatch):
    ends = [run.Ended("", 0.25), run.Ended("", None), run.Ended("no room", 0.5)]
    monkeypatch.setattr(compose, "compose_all", lambda overrides, _: [OmegaConf.create({}) for _ in overrides])
    monkeypatch.setattr(run, "run_cells", lambda composed: ends[: len(composed)])
    launcher = StagedLauncher()
    launcher.config = OmegaConf.create({"hydra": {"job": {"config_name": "config"}}})
    rated, withheld, failed = launcher.launch([["seed=0"], ["seed=1"], ["seed=2"]], 0)
    assert rated.return_value == 0.25 and rated.overrides == ["seed=0"]
    assert math.isnan(withheld.return_value)
    with pytest.raises(SystemExit):
        _ = failed.return_value


def test_the_rate_is_that_of_the_headline_questions():
    made = summary.small()
    row = made["models"][0]
    (wanted,) = (
        m["value"]
        for m in row["metrics"]
        if (m["name"], m["group"], m["question_id"]) == ("misaligned_rate", "open", None)
    )
    row["metrics"].insert(0, {**row["metrics"][0], "group": "in_domain", "value": 0.99})
    assert run._headline(row) == wanted
    row["metrics"] = []
    assert run._headline(row) is None
