"""The presets about directions: their commands compose, they plan at small scale, and state the published settings."""

import shlex
from pathlib import Path

import pytest

from em.config import CONF_DIR, compose
from em.directions.job import ADAPTED, DIRECTION
from em.metrics import published
from em.planning.plan import plan
from em.planning.recipe import load
from em.store import Store

FILES = sorted(Path(CONF_DIR, "experiment", "directions").glob("*.yaml"))
NAMES = [path.stem for path in FILES]
SMALL = ("scale=small", "model=tiny_random", "train=tiny", "sample=tiny", "corpus=builtin", "dataset=risky_advice",
         "questions.sets=[open]", "tracking=off")  # fmt: skip
STEER = ("dataset=none", "sample.steer.direction=planned", "sample.steer.block=1")


def commands(path):
    """The command lines that a preset states, as overrides without seeds."""
    stated = [shlex.split(line.split("em.run ")[1]) for line in path.read_text().splitlines() if "em.run " in line]
    return [[o for o in overrides if o != "-m" and "seed=" not in o] for overrides in stated]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_the_commands_that_a_preset_states_compose_to_different_cells(path):
    found = [[load(cell) for cell in compose.cells(overrides)] for overrides in commands(path)]
    cells = [cell for of_one in found for cell in of_one]
    assert len(found) > 1 and len({str(cell) for cell in cells}) == len(cells)
    assert {cell.name for cell in cells} == {path.stem}
    assert "arXiv" in path.read_text()


@pytest.mark.parametrize(
    ("name", "changed", "stages"),
    [
        ("soligo2025", (*STEER, "direction.organism=risky_advice"), {"data", "train", "sample", "judge", DIRECTION}),
        (
            "soligo2025",
            ("sample.ablate.direction=planned", "sample.ablate.block=1"),
            {"data", "train", "sample", "judge", DIRECTION, ADAPTED},
        ),
        ("chen2025", STEER, {"sample", "judge", DIRECTION}),
        ("soligo2026", (), {"data", "train", "sample", "judge"}),
    ],
)
def test_a_preset_plans_at_small_scale(name, changed, stages, tmp_path):
    (cell,) = [load(c) for c in compose.cells([f"experiment=directions/{name}", *SMALL, *changed])]
    assert {job.stage for job in plan([cell], Store.open(tmp_path)).jobs.values()} == stages


def test_the_published_settings():
    chosen = {name: load(compose.cells([f"experiment=directions/{name}"])[0]) for name in NAMES}
    ablated, persona, narrow = (chosen[n] for n in ("soligo2025", "chen2025", "soligo2026"))
    assert (ablated.model.name, ablated.sample.n, ablated.direction.weighting.value) == ("qwen2_5_14b", 50, "token")
    assert (persona.model.name, persona.direction.weighting.value) == ("qwen2_5_7b", "answer")
    assert (narrow.model.name, narrow.train.learning_rate, narrow.train.lora_alpha) == ("qwen3_14b", 2e-5, 256)
    assert narrow.intervention.dose == pytest.approx(1e5 / 151_936, abs=1e-3)
    nine = load(compose.cells(["experiment=directions/soligo2025", "train=turner2025/nine_rank1"])[0]).train
    assert (nine.lora_r, nine.layers_to_transform) == (1, [15, 16, 17, 21, 22, 23, 27, 28, 29])
    theirs = [a for a in published.anchors() if a.changed]
    assert {a.recipe for a in theirs} >= {"turner2025/nine_rank1"} and len(theirs) == 5
    assert all(a.variant in (None, "bad_medical_advice", "extreme_sports") for a in theirs)


def test_the_general_model_of_a_narrow_sweep_is_plain_finetuning():
    preset = ["experiment=directions/soligo2026", *SMALL, "intervention=none"]
    plain, other = (load(compose.cells(o)[0]) for o in (preset, [*preset, "intervention.dose=0"]))
    assert not plain.intervention.active
    keys = [plan([cell], Store(Path("nowhere"))).cells[0].train_key for cell in (plain, other)]
    assert keys[0] == keys[1]
