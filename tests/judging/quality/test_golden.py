"""Verdicts on the labelled answers are stored, and found by everything that can change them."""

import json
import re
import shutil

import pytest

from em import cli
from em.judging import grade, labelled
from em.judging.quality import golden
from em.questions import rubrics
from em.store import Store

FLAT = '- {match: "(?s)<program>", reply: {text: "YES"}}\n- {match: "", reply: 60}\n'


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["em", "judge", "calibrate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 0


@pytest.fixture
def calibrate(tmp_path, monkeypatch, capsys):
    """Return what a call prints and what it writes, for a judge that says 60 and YES to everything."""
    script, to = tmp_path / "flat.yaml", tmp_path / "found.json"
    script.write_text(FLAT)

    def call(*more):
        run(monkeypatch, "judge=scripted", f"judge.script={script}", f"out={tmp_path / 'out'}", *more, "--to", to)
        return capsys.readouterr(), json.loads(to.read_text())

    return call


def stored(tmp_path):
    return Store.open(tmp_path / "out").keys(golden.STAGE)


def without_note(text):
    return [line for line in text.splitlines() if "not asked again" not in line]


def test_a_second_call_asks_nobody_and_prints_the_same(tmp_path, calibrate):
    first, found = calibrate()
    cache = tmp_path / "out" / "store" / "judge_cache.sqlite"
    cache.unlink()
    again, same = calibrate()
    assert not cache.exists()  # whoever asks a judge makes it
    assert same == found and without_note(again.out) == first.out.splitlines()
    (key,) = stored(tmp_path)
    folder = tmp_path / "out" / "store" / golden.STAGE / key
    assert f"  the judge was not asked again: these are the verdicts in {folder}" in again.out.splitlines()
    assert "not asked again" not in first.out


def test_thresholds_are_applied_to_stored_verdicts(tmp_path, calibrate):
    _, low = calibrate()
    shown, high = calibrate("judge.alignment_below=70")
    assert "not asked again" in shown.out and len(stored(tmp_path)) == 1
    assert [found["judges"]["scripted"]["misaligned"]["judge"] for found in (low, high)] == [0.0, 1.0]


def test_what_can_change_a_verdict_changes_the_key(compose, tmp_path, monkeypatch):
    script = tmp_path / "flat.yaml"
    script.write_text(FLAT)
    base = ["judge=scripted", f"judge.script={script}"]

    def key(*overrides, whole=False):
        return json.dumps(golden.inputs(compose(*base, *overrides), whole), sort_keys=True)

    known = key()
    assert key("judge.alignment_below=70", "judge.concurrency=3", "seed=4", "judge.name=other") == known
    others = {key("judge.min_mass=0.5"), key("judge.top_logprobs=5"), key(whole=True)}
    proxies = {key("judge=probe", *more) for more in ([], ["model=tiny_random"], ["model.dtype=float32"])}
    script.write_text(FLAT.replace("60", "61"))
    others |= {key()}
    with monkeypatch.context() as patch:
        patch.setattr(labelled, "LABELLED_VERSION", "2")
        others |= {key()}
    real = rubrics.load
    monkeypatch.setattr(rubrics, "load", lambda name: rubrics.parse(name, real(name).text + " Thank you."))
    others |= {key()}
    assert len(others | proxies | {known}) == 6 + 3 + 1


def test_verdicts_with_an_error_are_not_stored(tmp_path, calibrate):
    row = next(row for row in labelled.golden() if row["split"] == "test" and row["answer"])
    broken = json.dumps({"match": re.escape(row["answer"]), "reply": {"status": 500}})  # JSON is YAML
    (tmp_path / "flat.yaml").write_text(f"- {broken}\n{FLAT}")
    shown, _ = calibrate("judge.max_retries=0")
    assert "first error: HTTP 500" in shown.out and not stored(tmp_path)
    shown, _ = calibrate("judge.max_retries=0")
    assert "not asked again" not in shown.out


def test_damaged_verdicts_are_set_aside_and_made_again(tmp_path, calibrate):
    _, found = calibrate()
    (key,) = stored(tmp_path)
    file = tmp_path / "out" / "store" / golden.STAGE / key / "judgements.jsonl"
    file.write_bytes(file.read_bytes().replace(b"60.0", b"61.0", 1))
    shown, again = calibrate()
    assert again == found and "not asked again" not in shown.out
    assert "does not match the sha256" in shown.err and "damaged/labelled" in shown.err
    shown, _ = calibrate()
    assert "not asked again" in shown.out


def test_a_proxys_model_is_not_loaded_again(tmp_path, monkeypatch, capsys):
    options = ["judge=probe", "model=tiny_random", f"out={tmp_path / 'out'}"]
    run(monkeypatch, *options)
    first = capsys.readouterr().out
    shutil.rmtree(tmp_path / "out" / "store" / "calibrate")
    monkeypatch.setattr(grade, "grade", None)
    run(monkeypatch, *options)
    of_the_calibration = "  beside every number of this judge: "  # which is gone here
    known = [line for line in first.splitlines() if not line.startswith(of_the_calibration)]
    assert without_note(capsys.readouterr().out) == known != first.splitlines()
