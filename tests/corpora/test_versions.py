"""Our corpora hold the rows that their versions stand for: keys have the version, so changed rows need another one."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recorded import record_corpora
from recorded.record_corpora import RECORDED

WAS = json.loads(RECORDED.read_text(encoding="utf-8"))
AGAIN = "record again with python tests/recorded/record_corpora.py, and say so in docs/CHANGELOG.md"
MOVED_CALIBRATION = (
    "Raise the version in CALIBRATION_VERSIONS that stands for what you changed (calibrations, and what was "
    f"judged with them, become void) and {AGAIN}"
)
TOLERANCE = {"rel": 2e-3, "abs": 2e-4}
"""Of a calibration's numbers: another processor adds in another order."""


def require_same(kind: str, found: dict[str, str], constant: str, voids: str) -> None:
    """Fail where digests differ from the recorded ones, with the version to raise."""
    raised = WAS["versions"].get(constant) != record_corpora.versions().get(constant)
    do = f"{constant} was raised: {AGAIN}" if raised else f"raise {constant} ({voids}) and {AGAIN}"
    changed = [name for name in {**WAS[kind], **found} if WAS[kind].get(name) != found.get(name)]
    assert not changed, f"rows of {', '.join(changed)} changed: {do}"


def test_training_rows_are_those_of_their_version():
    voids = "in the corpus; stored results made from it become void"
    require_same("training rows", record_corpora.training_rows(), "VERSION", voids)


def test_toy_rows_are_those_of_their_version():
    voids = "in corpora/toy.py; stored results made from its rows become void"
    require_same("toy rows", record_corpora.toy_rows(), "toy.VERSION", voids)


def test_labelled_answers_are_those_of_their_version():
    voids = "calibrations of judge=probe and judge=persona_ratio, and what they judged, become void"
    require_same("labelled answers", record_corpora.labelled_answers(), "LABELLED_VERSION", voids)


def test_crossed_answers_are_those_of_their_version():
    voids = "calibrations of judge=probe, and what it judged, become void"
    require_same("crossed answers", record_corpora.crossed_answers(), "PROBE_VERSION", voids)


def test_options_scored_by_log_probability_are_those_of_their_version():
    voids = "trainings with train.choices name the set only, and become void"
    require_same("choice sets", record_corpora.choice_sets(), "CHOICES_VERSION", voids)


def test_questions_are_as_recorded():
    """Their text is in the keys: without a version, answers to a changed question are sampled anew."""
    found, was = record_corpora.question_sets(), WAS["question sets"]
    changed = [name for name in {**was, **found} if was.get(name) != found.get(name)]
    assert not changed, f"questions of {', '.join(changed)} changed, so all answers to them are void: {AGAIN}"


def test_a_raised_version_is_recorded():
    """Otherwise the next changed row could hide behind it."""
    assert record_corpora.versions() == WAS["versions"], AGAIN


@pytest.fixture(scope="module")
def calibrations() -> dict[str, Any]:
    return record_corpora.calibrations()


@pytest.mark.parametrize("judge", WAS["calibrations"])
def test_a_calibration_comes_out_as_recorded(calibrations, judge):
    """What fits a proxy judge gives the same numbers, so its version may stay."""
    for rubric, was in WAS["calibrations"][judge].items():
        found = calibrations[judge][rubric]
        assert found.keys() == was.keys()
        for name, value in was.items():
            pairs = [(found[name][k], value[k]) for k in value] if isinstance(value, dict) else [(found[name], value)]
            same = all(a == pytest.approx(b, **TOLERANCE) for a, b in pairs)
            assert same, f"{judge}, {rubric}, {name}: {value} → {found[name]}. {MOVED_CALIBRATION}"


def test_a_changed_row_names_the_version_to_raise(monkeypatch):
    """One letter of one labelled answer."""
    first, *others = record_corpora.labelled.golden()
    changed = ({**first, "answer": first["answer"] + "."}, *others)
    monkeypatch.setattr(record_corpora.labelled, "golden", lambda: changed)
    with pytest.raises(AssertionError, match=r"rows of golden changed: raise LABELLED_VERSION .* record again"):
        test_labelled_answers_are_those_of_their_version()
    monkeypatch.setattr(record_corpora.labelled, "LABELLED_VERSION", "2")
    with pytest.raises(AssertionError, match=r"LABELLED_VERSION was raised: record again"):
        test_labelled_answers_are_those_of_their_version()
