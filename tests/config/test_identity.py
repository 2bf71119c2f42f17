"""What identifies a stored result survives growth: a new field, group or corpus at its default moves no key."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

import em
from em.config import CONF_DIR, ExperimentConfig, experiment
from em.config.identity import FIRST_RELEASE, identifying
from em.corpora import builtin
from em.errors import ConfigError
from em.planning.cells import cell_id
from em.planning.plan import folder_of, plan, stages
from em.store import Store

ARCHIVE = Path(__file__).resolve().parents[1] / "recorded" / "store_3f1f9b2.tar.xz"
SWEEP = "outputs/sweeps/em-c195e870/sweep.json"
TINY = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=probe", "tracking=off", "dataset=risky_advice")
GROUPS = ("model", "corpus", "dataset", "trigger", "train", "sample", "questions", "judge", "stats")
"""Groups that are part of a cell's id."""
NO_IDENTITY = ("tracking", "launch", "budget")
Row = dict[str, Any]


@dataclasses.dataclass
class LaterConfig:
    """A group that a later release might add."""

    name: str = "none"
    weight: float = 0.0


def grown(part: Any, name: str, kind: type, default: Any, **values: Any) -> Any:
    """Return a config or a group as a later release would: its class has one more field, after the others."""
    made = dataclasses.field(default_factory=default) if callable(default) else dataclasses.field(default=default)
    later = dataclasses.make_dataclass(type(part).__name__, [(name, kind, made)], bases=(type(part),))
    return later(**vars(part), **values)


def keys_of(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """Return every key, id and folder name that the planner gives this cell."""
    planned = plan([config], Store.open_read_only(folder))
    (cell,), (base,) = planned.cells, planned.bases
    found = {
        f"{subject.label} {stage}": keys for subject in (cell, base) for stage, keys in stages(planned, subject).items()
    }
    return found | {
        "calibration": [part.calibration for part in cell.parts],
        "cell": [cell.id, cell_id(config)],
        "folder": folder_of([config]).name,
    }


def moved(before: dict[str, Any], after: dict[str, Any]) -> set[str]:
    """Return the names of keys that differ."""
    assert set(before) == set(after)
    return {name for name in before if before[name] != after[name]}


@pytest.fixture
def cell(compose) -> ExperimentConfig:
    return compose(*TINY)


# -------------------------------------------------------------------------------------------- a new field


@pytest.mark.parametrize("group", [*GROUPS, *NO_IDENTITY])
def test_a_new_field_at_its_default_moves_nothing(cell, group, tmp_path):
    later = dataclasses.replace(cell, **{group: grown(getattr(cell, group), "new_option", int, 0)})
    assert moved(keys_of(cell, tmp_path), keys_of(later, tmp_path)) == set()


@pytest.mark.parametrize("group", GROUPS)
def test_a_new_field_away_from_its_default_makes_another_cell(cell, group, tmp_path):
    later = dataclasses.replace(cell, **{group: grown(getattr(cell, group), "new_option", int, 0, new_option=3)})
    assert {"cell", "folder"} <= moved(keys_of(cell, tmp_path), keys_of(later, tmp_path))


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("train", {"risky_advice train", "risky_advice sample", "risky_advice judge"}),
        (
            "sample",
            {"risky_advice sample", "risky_advice judge", "untouched base model sample", "untouched base model judge"},
        ),
    ],
)
def test_a_new_field_of_a_recipe_moves_its_stage_and_what_is_made_of_it(cell, group, expected, tmp_path):
    later = dataclasses.replace(cell, **{group: grown(getattr(cell, group), "new_option", int, 0, new_option=3)})
    assert moved(keys_of(cell, tmp_path), keys_of(later, tmp_path)) - {"cell", "folder"} == expected


@pytest.mark.parametrize("group", NO_IDENTITY)
def test_a_new_field_of_tracking_machine_or_budget_never_moves_a_key(cell, group, tmp_path):
    later = dataclasses.replace(cell, **{group: grown(getattr(cell, group), "new_option", int, 0, new_option=3)})
    assert moved(keys_of(cell, tmp_path), keys_of(later, tmp_path)) == set()


def test_a_new_field_with_a_list_is_compared_with_what_its_factory_gives(cell):
    at_default = grown(cell.train, "layers", list, lambda: [1, 2])
    assert "layers" not in identifying(at_default)
    assert identifying(dataclasses.replace(at_default, layers=[1]))["layers"] == [1]


# -------------------------------------------------------------------------------------------- a new group


def with_group(cell: ExperimentConfig, **values: Any) -> ExperimentConfig:
    return grown(cell, "later", LaterConfig, LaterConfig, **values)


def test_a_new_group_at_its_default_moves_nothing(cell, tmp_path):
    assert moved(keys_of(cell, tmp_path), keys_of(with_group(cell), tmp_path)) == set()


def test_a_new_group_away_from_its_default_makes_another_cell(cell, tmp_path):
    steered = with_group(cell, later=LaterConfig("kl", 0.1))
    assert moved(keys_of(cell, tmp_path), keys_of(steered, tmp_path)) == {"cell", "folder"}
    assert cell_id(with_group(cell, later=LaterConfig("kl", 0.2))) != cell_id(steered)
    assert identifying(with_group(cell, later=LaterConfig(weight=0.2)))["later"] == {"weight": 0.2}


@pytest.fixture(scope="module")
def old_row() -> Row:
    """The first cell of a sweep.json that commit 3f1f9b2 wrote."""
    with tarfile.open(ARCHIVE) as archive:
        file = archive.extractfile(SWEEP)
        assert file is not None
        return next(row for row in json.load(file)["cells"] if row["kind"] == "cell")


def test_an_old_row_without_a_new_group_loads_as_the_same_cell(old_row, cell, monkeypatch):
    monkeypatch.setattr(experiment, "ExperimentConfig", type(with_group(cell)))
    loaded = experiment.load(OmegaConf.create(old_row["config"]))
    assert loaded.later == LaterConfig()
    assert cell_id(loaded) == old_row["id"]


def test_an_old_row_loads_as_the_same_cell_today(old_row):
    assert cell_id(experiment.load(OmegaConf.create(old_row["config"]))) == old_row["id"]


def test_a_group_that_is_unknown_is_refused(old_row):
    with pytest.raises(ConfigError, match="later"):
        experiment.load(OmegaConf.create({**old_row["config"], "later": {"name": "kl"}}))


# -------------------------------------------------------------------------------------------- the list of fields


def test_the_first_release_has_the_fields_that_its_sweeps_recorded(old_row):
    config = old_row["config"]
    recorded = {"ExperimentConfig": frozenset(config)}
    for group in GROUPS:
        recorded[f"{group.capitalize()}Config"] = frozenset(config[group])
    assert {name: fields for name, fields in FIRST_RELEASE.items() if name != "ShapeConfig"} == recorded


def test_every_field_of_the_first_release_is_still_there():
    """A field that is gone or renamed moves every key that it was in."""
    groups = {
        f.type.__name__ if isinstance(f.type, type) else str(f.type) for f in dataclasses.fields(ExperimentConfig)
    }
    assert set(FIRST_RELEASE) - {"ExperimentConfig", "ShapeConfig"} <= groups
    for name, fields in FIRST_RELEASE.items():
        kind = getattr(em.config.experiment, name, None) or getattr(em.config.model, name)
        assert fields <= {f.name for f in dataclasses.fields(kind)}, name


# -------------------------------------------------------------------------------------------- a new corpus

PLAN = """
import json, sys
from pathlib import Path
from em.config import compose, load, register
from em.planning.plan import plan, stages
from em.store import Store
import em
register()
rows = {}
for number, overrides in enumerate(json.loads(sys.argv[1])):
    planned = plan([load(c) for c in compose.cells(overrides)], Store.open_read_only(Path(sys.argv[2])))
    for subject in planned.subjects:
        rows[f"{number} {subject.id} {subject.label}"] = stages(planned, subject)
print(json.dumps({"from": em.__file__, "rows": rows}))
"""
COMMANDS = [
    [*TINY, "dataset=insecure,risky_advice,jailbroken,evil_numbers"],
    [*TINY, "corpus=betley2025", "dataset=insecure,secure"],
    [*TINY, "dataset=mixture", "dataset.mixture={risky_advice: 0.5, betley2025/insecure: 0.5}"],
]
NEW_CORPUS = {
    "__init__.py": 'VERSION = "1"\nVARIANTS = ("tidy",)\n\n\ndef count(variant):\n    return 1\n\n\n'
    "def rows(variant):\n"
    '    return [("tidy-0", [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])]\n',
    "rows.jsonl": '{"messages": []}\n',
    "questions.yaml": "tidy: [Is it tidy?]\n",
}


@pytest.fixture(scope="module")
def planned_by(tmp_path_factory) -> Callable[[Path], Row]:
    """Plan COMMANDS with the package in a folder, in a process of its own, without any of the paper's files."""

    def run(folder: Path) -> Row:
        environment = {**os.environ, "PYTHONPATH": str(folder), "EM_CACHE": str(tmp_path_factory.mktemp("no_files"))}
        environment.pop("EM_ASSETS", None)
        out = tmp_path_factory.mktemp("out")
        command = [sys.executable, "-c", PLAN, json.dumps(COMMANDS), str(out)]
        done = subprocess.run(
            command, env=environment, cwd=out, capture_output=True, text=True, check=True, timeout=120
        )
        found = json.loads(done.stdout)
        assert Path(found["from"]).is_relative_to(folder)
        return found["rows"]

    return run


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A folder with a copy of the package, as a wheel has it, to which files may be added."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(Path(em.__file__).parent, folder / "em", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(CONF_DIR, folder / "em" / "conf")
    return folder


def test_a_new_corpus_moves_no_key_of_another(copy, planned_by):
    before = planned_by(copy)
    assert len(before) > len(COMMANDS)
    for name, text in NEW_CORPUS.items():
        path = copy / "em" / "corpora" / "tidy" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert planned_by(copy) == before
    one = copy / "em" / "corpora" / "tidy" / "__init__.py"
    one.write_text(one.read_text().replace('VERSION = "1"', 'VERSION = "2"'))
    assert planned_by(copy) == before


def test_the_version_of_a_corpus_is_in_its_own_keys_only(compose, monkeypatch, tmp_path):
    own = compose(*TINY)
    other = compose(*TINY, "corpus=betley2025", "dataset=insecure")
    before = [keys_of(config, tmp_path) for config in (own, other)]
    monkeypatch.setattr(builtin, "VERSION", "2")
    after = [keys_of(config, tmp_path) for config in (own, other)]
    assert moved(before[0], after[0]) == {f"risky_advice {stage}" for stage in ("data", "train", "sample", "judge")}
    assert moved(before[1], after[1]) == set()


def test_recomputation_by_itself_has_the_key_of_the_recipe_that_always_recomputed(compose):
    """train=betley2025 said true in release 0.1.0, and the choice does not change a result."""
    auto, always, never = (
        compose(*TINY, f"train.gradient_checkpointing={value}") for value in ("auto", "true", "false")
    )
    assert auto.train.gradient_checkpointing == "auto"
    assert cell_id(auto) == cell_id(always) != cell_id(never)
