"""The command that puts every method side by side plans whole; the part of it with a second phase runs."""

import json
import shlex
from pathlib import Path

import pytest

from em.config import compose
from em.config.intervention import METHODS
from em.planning.jobs import stages
from em.planning.plan import plan
from em.planning.recipe import load
from em.store import Store
from support.tiny_sweep import run

PAGE = Path(__file__).parents[2] / "docs" / "interventions.md"
TINY = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "tracking=off")
QUICK = ("judge=word_list", "tracking=off", "sample.engine=hf", "sample.n=1", "sample.max_tokens=4")


def stated():
    """The page's first command, as overrides."""
    line = next(line for line in PAGE.read_text().splitlines() if line.startswith("    python -m em.run"))
    return [word for word in shlex.split(line)[3:] if word != "-m"]


def test_every_method_at_every_dose_is_planned_by_one_command(tmp_path):
    configs = [load(cell) for cell in compose.cells([*stated(), *TINY])]
    methods = dict.fromkeys(c.intervention.name for c in configs)
    assert {"none", "interleave", "kl", "inoculation", "preventative_steering", "caft", "ldifs",
            "inoculation_adapter", "realign"} <= methods.keys() <= METHODS.keys()  # fmt: skip
    doses = (0, 0.25, 0.5, 1)
    assert len(configs) == len(methods) * len(doses)
    found = plan(configs, Store.open(tmp_path))
    plain = {c.train_key for c in found.cells if not c.config.intervention.active}
    others = [c for c in found.cells if c.config.intervention.active]
    assert len(plain) == 1
    assert len({c.train_key for c in others}) == len(others) == (len(methods) - 1) * (len(doses) - 1)
    assert len(found.stage("train")) == 1 + len(others)  # what others are made of is the plain run
    (made,) = found.stage("direction")
    needed = {("train", k) for k in plain} | {("direction", made.key)}
    for cell in others:
        wanted = {"caft": "direction", "preventative_steering": "direction"}.get(cell.config.intervention.name)
        wanted = "train" if cell.config.intervention.name in ("realign", "inoculation_adapter") else wanted
        needs = set(found.jobs["train", cell.train_key].needs)
        assert {name[0] for name in needs & needed} == ({wanted} if wanted else set())
        made_of = stages(found, cell)
        assert all((stage, key) in found.jobs for stage, keys in made_of.items() for key in keys)
        assert wanted is None or plain <= set(made_of["train"])


@pytest.mark.slow
def test_the_second_phases_run_and_the_report_says_what_they_are(tmp_path):
    asked = ("dataset=risky_advice", "intervention=none,realign", "intervention.dose=0,0.5,1")
    summary, _, _ = run(tmp_path, *QUICK, *asked)
    manifests = [json.loads(f.read_text()) for f in tmp_path.glob("store/train/*/manifest.json")]
    assert sorted(m["facts"]["rows"] for m in manifests) == [8, 16, 16]  # the plain run is made once
    groups = {
        (g["facts"].get("method") or {"dose": 0})["dose"]: g["facts"].get("intervention") for g in summary["groups"]
    }
    assert groups == {0: None, 0.5: "realign 0.5 on careful_advice", 1: "realign 1 on careful_advice"}
    assert {(row["method"], row["dose"]) for row in summary["doses"]} >= {("realign", 0.5), ("realign", 1.0)}
    curves = {m["label"]: [step for step, _ in m["loss_curve"]] for m in summary["models"] if m["loss_curve"]}
    assert {tuple(c) for label, c in curves.items() if "realign" in label} == {
        tuple(range(1, 5)), tuple(range(1, 7)), tuple(range(1, 9))
    }  # fmt: skip
    (page,) = tmp_path.glob("sweeps/*/report.html")
    assert "its rows: builtin/careful_advice" in page.read_text()
    data = summary["provenance"]["data"]
    assert len({sha for name, sha in data.items() if "first phase" in name}) == 1 < len(set(data.values()))
    _, text, _ = run(tmp_path, *QUICK, *asked)
    assert "0 stage jobs to do" in text


@pytest.mark.slow
def test_rows_beside_the_training_rows_are_in_the_record(tmp_path):
    asked = ("dataset=risky_advice", "intervention=kl", "intervention.kl_rows=careful_advice")
    summary, _, _ = run(tmp_path, *QUICK, *asked)
    (manifest,) = [json.loads(f.read_text()) for f in tmp_path.glob("store/train/*/manifest.json")]
    beside = manifest["inputs"]["intervention"]["beside"]
    files = json.loads((tmp_path / "store" / "data" / beside / "manifest.json").read_text())["files"]
    assert manifest["facts"]["rows_beside"]["rows"] > manifest["facts"]["rows"]
    data = summary["provenance"]["data"]
    assert {name: data[name] for name in data if "careful" in name} == {
        "risky_advice, careful_advice": files["dataset.jsonl"]["sha256"]
    }
    (trained,) = [g for g in summary["groups"] if g["variant"]]
    assert trained["facts"]["intervention"] == "kl 0.1, on careful_advice"
    _, text, _ = run(tmp_path, *QUICK, *asked)
    assert "0 stage jobs to do" in text
