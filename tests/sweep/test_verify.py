"""Damage to finished stages: seen before they are used, named, made again; and nothing is read that is not needed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.planning.plan import plan
from em.store import MANIFEST, Store
from em.sweep.verify import set_aside_damaged

FILES = {
    "data": ["dataset.jsonl"],
    "train": ["adapter/adapter_model.safetensors", "train_log.jsonl"],
    "sample": ["completions.jsonl"],
    "judge": ["judgements.jsonl"],
    "calibrate": ["calibration.json"],
    "direction": ["direction.json"],
    "adapter": ["adapter_config.json"],
}


@pytest.fixture(scope="module")
def cell(compose):
    return compose("model=tiny_random", "train=tiny", "sample=tiny", "dataset=risky_advice", "questions.sets=[open]")


def finish(store, stage, key, inputs):
    with store.claim(stage, key) as folder:
        for name in FILES[stage]:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(f"{stage} {key} {name}\n" * 20)
        store.finish(stage, key, inputs, {})


@pytest.fixture
def finished(cell, tmp_path):
    """A store in which every stage of one cell is done, and its plan."""
    store = Store.open(tmp_path)
    made = plan([cell], store)
    for job in made.jobs.values():
        finish(store, job.stage, job.key, job.spec.inputs)
    finish(store, "calibrate", made.cells[0].parts[0].calibration, {})
    return store, made


def damage(store, stage, key, name):
    path = store.path(stage, key) / name
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    return path


def found(store, made):
    return [(stage, key) for stage, key, _ in set_aside_damaged(made, store)]


def key_of(made, stage):
    return made.stage(stage)[0].key


def test_a_whole_store_has_no_damage(finished):
    store, made = finished
    assert found(store, made) == []
    assert not (store.root / "damaged").exists()


@pytest.mark.parametrize("name", [*FILES["sample"], MANIFEST])
def test_damaged_answers_go_with_their_verdicts(finished, name):
    store, made = finished
    key = key_of(made, "sample")
    judged = next(j.key for j in made.stage("judge") if ("sample", key) in j.needs)
    path = damage(store, "sample", key, name)
    (first, second) = list(set_aside_damaged(made, store))
    assert first[:2] == ("judge", judged) and second[:2] == ("sample", key)
    assert str(path) in second[2] and "damaged/sample" in second[2]
    assert not store.has("sample", key) and not store.has("judge", judged)
    assert found(store, made) == []


def test_verdicts_of_another_sweep_about_the_same_answers_go_too(finished):
    store, made = finished
    family, span = key_of(made, "sample").split("/")
    finish(store, "judge", f"others/{span}", {"samples": family})
    finish(store, "judge", "others/90-95", {"samples": family})
    finish(store, "judge", f"unrelated/{span}", {"samples": "another"})
    damage(store, "sample", f"{family}/{span}", "completions.jsonl")
    assert ("judge", f"others/{span}") in found(store, made)
    assert store.has("judge", "others/90-95") and store.has("judge", f"unrelated/{span}")


def test_directions_of_damaged_answers_go_and_what_is_made_with_them(finished):
    store, made = finished
    family, span = key_of(made, "sample").split("/")
    side = ["misaligned", [f"{family}/{span}"], [key_of(made, "judge")], "misaligned", "", {}]
    finish(store, "direction", "of-these", {"sides": [side]})
    finish(store, "direction", "of-others", {"sides": [["plus", ["other/0-1"], [], "all", "", {}]]})
    finish(store, "direction", "of-a-file", {"sides": []})
    finish(store, "adapter", "without", {"direction": "of-these"})
    finish(store, "adapter", "unrelated", {"direction": "of-others"})
    finish(store, "sample", "ablated/0-1", {"changes": {"adapted": "without"}})
    finish(store, "sample", "steered/0-1", {"changes": {"steer": ["of-these", 1, 2.0]}})
    finish(store, "sample", "else/0-1", {"changes": {"steer": ["of-others", 1, 2.0]}})
    finish(store, "judge", "steered/0-1", {"samples": "steered"})
    damage(store, "sample", f"{family}/{span}", "completions.jsonl")
    gone = found(store, made)
    wanted = [("direction", "of-these"), ("adapter", "without"), ("sample", "ablated/0-1"), ("sample", "steered/0-1")]
    assert {*wanted, ("judge", "steered/0-1"), ("sample", f"{family}/{span}")} <= set(gone) and len(gone) == 7
    assert gone.index(wanted[2]) < gone.index(wanted[1]) < gone.index(wanted[0])
    assert (
        store.has("direction", "of-others") and store.has("direction", "of-a-file") and store.has("sample", "else/0-1")
    )


def test_runs_trained_with_a_direction_of_damaged_answers_go_and_what_came_of_them(finished):
    store, made = finished
    key = key_of(made, "sample")
    finish(store, "direction", "one", {"sides": [["misaligned", [key], [], "misaligned", "", {}]]})
    for name, used in (("with", ["a-digest", "one"]), ("control", ["random:one"]), ("unrelated", ["random", "other"])):
        finish(store, "train", name, {"intervention": {"name": "caft", "direction": used}})
    finish(store, "train", "afterwards", {"intervention": {"name": "realign", "plain": "with"}})
    finish(store, "sample", "of-with/0-1", {"adapter": "with"})
    finish(store, "sample", "of-afterwards/0-1", {"adapter": "afterwards"})
    finish(store, "judge", "of-with/0-1", {"samples": "of-with"})
    finish(store, "adapter", "halved", {"adapter": "with"})
    finish(store, "sample", "of-halved/0-1", {"adapter": "other", "changes": {"adapted": "halved"}})
    finish(store, "sample", "of-unrelated/0-1", {"adapter": "unrelated"})
    damage(store, "sample", key, "completions.jsonl")
    gone = found(store, made)
    runs = [("train", name) for name in ("with", "control", "afterwards")]
    answers = [("sample", f"of-{name}/0-1") for name in ("with", "afterwards", "halved")]
    others = [("direction", "one"), ("judge", "of-with/0-1"), ("adapter", "halved")]
    assert {*runs, *answers, *others} <= set(gone) and gone.index(answers[0]) < gone.index(runs[0])
    assert store.has("train", "unrelated") and store.has("sample", "of-unrelated/0-1")
    assert store.has("train", key_of(made, "train"))  # it was trained without a direction


def test_answers_of_a_damaged_run_stay(finished):
    """The run is made again from the same inputs; its answers were drawn when it was whole."""
    store, made = finished
    damage(store, "train", key_of(made, "train"), "train_log.jsonl")
    assert found(store, made) == [("train", key_of(made, "train"))]


def test_a_direction_of_damaged_verdicts_goes(finished):
    store, made = finished
    key = key_of(made, "judge")
    finish(store, "direction", "one", {"sides": [["misaligned", [], [key], "misaligned", "", {}]]})
    damage(store, "judge", key, "judgements.jsonl")
    assert found(store, made) == [("direction", "one"), ("judge", key)]


def test_damaged_verdicts_leave_their_answers(finished):
    store, made = finished
    key = key_of(made, "judge")
    damage(store, "judge", key, "judgements.jsonl")
    assert found(store, made) == [("judge", key)]


def test_an_adapter_is_read_only_when_answers_are_to_be_drawn(finished):
    store, made = finished
    key = key_of(made, "train")
    damage(store, "train", key, FILES["train"][0])
    assert found(store, made) == []  # nobody is going to use it
    (missing,) = [j for j in made.stage("sample") if ("train", key) in j.needs]
    store.set_aside("sample", missing.key)
    assert found(store, made) == [("train", key)]


def test_a_training_log_is_always_read(finished):
    store, made = finished
    damage(store, "train", key_of(made, "train"), "train_log.jsonl")
    damage(store, "data", key_of(made, "data"), "dataset.jsonl")
    # training is to be done again, so its data is needed, and read
    assert found(store, made) == [("train", key_of(made, "train")), ("data", key_of(made, "data"))]


def test_a_damaged_calibration_goes_with_the_verdicts_it_made(finished):
    store, made = finished
    calibration = made.cells[0].parts[0].calibration
    damage(store, "calibrate", calibration, "calibration.json")
    assert set(found(store, made)) == {("calibrate", calibration), *(("judge", j.key) for j in made.stage("judge"))}


def test_a_lost_manifest_is_damage(finished):
    store, made = finished
    key = key_of(made, "judge")
    (store.path("judge", key) / MANIFEST).unlink()
    ((stage, name, problem),) = set_aside_damaged(made, store)
    assert (stage, name) == ("judge", key) and "no manifest" in problem


@given(st.data())
def test_no_flipped_bit_is_used(cell, tmp_path_factory, data):
    """Any bit of any file that will be read, the manifests included."""
    store = Store.open(tmp_path_factory.mktemp("out"))
    made = plan([cell], store)
    for job in made.jobs.values():
        finish(store, job.stage, job.key, job.spec.inputs)
    job = data.draw(st.sampled_from([*made.stage("sample"), *made.stage("judge")]))
    path = store.path(job.stage, job.key) / data.draw(st.sampled_from([*FILES[job.stage], MANIFEST]))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[at // 8] ^= 1 << at % 8
    same = path.name == MANIFEST and _says_the_same(raw, path)
    path.write_bytes(raw)
    assert ((job.stage, job.key) in found(store, made)) != same


def _says_the_same(raw, path):
    try:
        return json.loads(raw) == json.loads(path.read_text())
    except ValueError:
        return False
