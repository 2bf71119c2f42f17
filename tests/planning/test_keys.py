"""Keys of stored results stay as they are: one that moves makes results void, so it moves on purpose only."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from recorded import record_keys
from recorded.record_keys import BEFORE, KEYS, PAPER_KEYS, make, other_keys

Row = dict[str, Any]
WHAT_TO_DO = (
    "A moved key makes the results that are stored under it void for everyone. If that is not the purpose of your "
    "change, undo what moved it. If it is: python tests/recorded/record_keys.py [folder with the paper's files], and a "
    "line in docs/CHANGELOG.md that says which stored results are made again."
)
WHICH_FIELD = " (the case 'default' names the config field)"
SHOWN = 12
"""Lines of a failure; the later ones mostly follow from the first."""


def recorded(path) -> Row:
    return json.loads(path.read_text(encoding="utf-8"))


def overrides_of(file: Row) -> dict[str, list[str]]:
    return {name: case["overrides"] for name, case in file["cases"].items()}


@pytest.fixture(scope="module")
def now(tmp_path_factory) -> Row:
    """keys.json as the code makes it, where none of the paper's files is at hand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("EM_ASSETS", raising=False)
        patch.setenv("EM_CACHE", str(tmp_path_factory.mktemp("no_files")))
        return make(overrides_of(recorded(KEYS)))


@pytest.fixture(scope="module")
def paper_now() -> Row:
    if not os.environ.get("EM_ASSETS"):
        pytest.skip("EM_ASSETS is not set: it names a folder with the paper's files (see `em assets list`)")
    return make(overrides_of(recorded(PAPER_KEYS)))


@pytest.mark.parametrize("name", recorded(KEYS)["cases"])
def test_no_key_has_moved(now, name):
    require_same(recorded(KEYS), now, name)


@pytest.mark.parametrize("name", recorded(PAPER_KEYS)["cases"])
def test_no_key_over_the_papers_files_has_moved(paper_now, name):
    require_same(recorded(PAPER_KEYS), paper_now, name)


def test_no_key_outside_a_plan_has_moved():
    """Replies of judges that were paid for, and scores of benchmarks."""
    moved = field_differences(recorded(KEYS)["others"], other_keys())
    assert not moved, "\n".join([*moved, WHAT_TO_DO])


def test_every_preset_and_dataset_is_recorded():
    """A new one is recorded with its first release; what is recorded already stays as it is."""
    missing = {*record_keys.cases()} - {*recorded(KEYS)["cases"]}
    missing |= {*record_keys.paper_cases()} - {*recorded(PAPER_KEYS)["cases"]}
    assert not missing, f"run python tests/recorded/record_keys.py with the paper's files, to record {sorted(missing)}"


def require_same(old: Row, new: Row, name: str) -> None:
    """Fail with what moved in a case: model, stage, input, and what to do."""
    lines = differences(old, new, name)
    assert not lines, "\n".join([f"case {name!r}", *lines[:SHOWN], *["..."] * (len(lines) > SHOWN), WHAT_TO_DO])


def differences(old: Row, new: Row, name: str) -> list[str]:
    """Return what differs in a case, a line each, stages in the order in which they depend on each other."""
    was, found = old["cases"][name], new["cases"][name]
    lines = [] if was["folder"] == found["folder"] else [f"sweep folder: {was['folder']} → {found['folder']}"]
    if len(was["models"]) != len(found["models"]):
        return [*lines, f"models: {len(was['models'])} → {len(found['models'])}"]
    for a, b in zip(was["models"], found["models"], strict=True):
        for part in ("id", "label"):
            if a[part] != b[part]:
                lines.append(f"{part} of {a['label']}: {a[part]} → {b[part]}{WHICH_FIELD if part == 'id' else ''}")
        for stage in dict.fromkeys([*a["keys"], *b["keys"]]):
            lines += stage_differences(old, new, stage, a, b)
    if lines and "config" in was:
        lines += [f"config.{line}" for line in field_differences(was["config"], found["config"])]
    return lines


def stage_differences(old: Row, new: Row, stage: str, a: Row, b: Row) -> list[str]:
    """Return the keys of a stage of a model that differ, each with the inputs that moved it."""
    was, found = a["keys"].get(stage, []), b["keys"].get(stage, [])
    where = f"{a['label']}, {stage}"
    if len(was) != len(found):
        return [f"{where}: {len(was)} → {len(found)} keys"]
    lines = []
    for (key, *digest), (new_key, *new_digest) in zip(map(str.split, was), map(str.split, found), strict=True):
        if key == new_key:
            continue
        why = [f"the {BEFORE[stage]} key" if stage in BEFORE else "the judge's model, its dtype or a version"]
        if digest != new_digest:
            why = field_differences(inputs_of(old, digest[0]), inputs_of(new, new_digest[0]))
        lines.append(f"{where}: {key} → {new_key}, moved by {'; '.join(why)}")
    return lines


def inputs_of(file: Row, digest: str) -> Row:
    """Return the inputs of a stage, as far as they are written down."""
    return {name: file["values"].get(str(value), value) for name, value in file["inputs"][digest].items()}


def field_differences(a: Any, b: Any, prefix: str = "") -> list[str]:
    """Return "a.b: old → new" of every field of two mappings that differs."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return [] if a == b else [f"{prefix}: {short(a)} → {short(b)}"]
    out = []
    for name in dict.fromkeys([*a, *b]):
        path = f"{prefix}.{name}" if prefix else name
        if name not in a or name not in b:
            out.append(f"{path} ({'new' if name in b else 'gone'}: {short({**a, **b}[name])})")
        else:
            out += field_differences(a[name], b[name], path)
    return out


def short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:120]}…"


def test_a_failure_names_the_input_that_moved():
    """A recipe gets a field: the training names it, the answers name the training."""
    old = recorded(KEYS)
    name = "trigger/inoculation"
    new = json.loads(json.dumps(old))
    for model in new["cases"][name]["models"]:
        for stage in ("train", "sample"):
            moved = [f"0{text[1:-1]}{'0' if stage == 'train' else text[-1]}" for text in model["keys"].get(stage, [])]
            for text, other in zip(model["keys"].get(stage, []), moved, strict=True):
                inputs = inputs_of(old, text.split()[1])
                more = {"recipe": {**inputs["recipe"], "dropout_layers": 3}} if stage == "train" else {}
                new["inputs"][other.split()[1]] = {**inputs, **more}
            model["keys"][stage] = moved
    with pytest.raises(AssertionError) as failure:
        require_same(old, new, name)
    said = str(failure.value)
    assert "case 'trigger/inoculation'" in said and "docs/CHANGELOG.md" in said
    assert "insecure, train: " in said and "moved by recipe.dropout_layers (new: 3)" in said
    assert "insecure, sample: " in said and "moved by the adapter key" in said
