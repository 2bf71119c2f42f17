"""em list, show, diff, rm and gc: on stores with stages made by hand, and on a real sweep of the tiny model."""

import argparse
import contextlib
import json
import os
import pty
import shutil
import subprocess
import sys
from contextlib import ExitStack

import pytest

from em.commands import direction
from em.judging.quality import golden
from em.store import Store, StoreError, in_use
from support import tiny_sweep
from support.hub import Hub
from support.sweeps import finish, write_sweep

TINY = ["model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open]"]


def em(*arguments, cwd=None, **environment):
    clean = {k: v for k, v in os.environ.items() if k not in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")}
    return subprocess.run(
        [sys.executable, "-m", "em.cli", *map(str, arguments)],
        capture_output=True, text=True, timeout=400, check=False, cwd=cwd, env={**clean, **environment},
    )  # fmt: skip


@pytest.fixture
def two(compose, tmp_path):
    """Two finished sweeps that share the untouched model and one variant. Returns (out, store, first, second)."""
    out = tmp_path / "outputs"
    store, made = Store.open(out), []
    for variants in (["risky_advice"], ["risky_advice", "careful_advice"]):
        configs = [compose(*TINY, f"dataset={v}", f"out={out}") for v in variants]
        made.append(write_sweep(configs, store))
        finish(store, made[-1].plan, "data", "train", "sample", "judge")
    return out, store, *made


def stages(store):
    return {str(p.parent.relative_to(store.root)) for p in store.root.rglob("manifest.json")}


def test_a_list_has_a_row_per_sweep_and_is_plain_when_piped(two, compose, here):
    out, store, first, second = two
    (first.folder / "summary.json").write_text("{}")
    write_sweep([compose(*TINY, "dataset=insecure", "seed=7", f"out={out}")], store)
    shown = here("list", "--out", out)
    rows = {line.split()[0]: line for line in shown.stdout.splitlines()[2:] if line}
    assert "risky_advice, careful_advice  2 " in rows[second.folder.name] and "unfinished" in rows[second.folder.name]
    assert " done " in rows[first.folder.name] and rows[first.folder.name].endswith("B")
    assert "3 sweeps" in shown.stdout and "\x1b" not in shown.stdout + shown.stderr
    with in_use.shared(first.folder):
        assert f"{first.folder.name}  " in (text := here("list", "--out", out).stdout) and " running " in text


def test_a_list_without_sweeps_says_what_makes_one(tmp_path, here):
    shown = here("list", "--out", tmp_path)
    assert shown.returncode == 0 and "em run makes one" in shown.stdout and not list(tmp_path.iterdir())


def test_rm_takes_what_only_this_sweep_needs(two, here):
    _, store, first, second = two
    needed = {f"{stage}/{key}" for stage, key in ((j.stage, j.key) for j in first.plan.jobs.values())}
    asked = here("rm", second.folder)
    assert asked.returncode == 1 and "give --yes" in asked.stderr and second.folder.is_dir()
    done = here("rm", second.folder, "--yes")
    assert done.returncode == 0, done.stderr
    assert "train in the store 1 " in " ".join(done.stdout.split()) and "removed " in done.stdout
    assert not second.folder.exists() and first.folder.is_dir()
    assert stages(store) == needed
    assert here("rm", first.folder, "--yes").returncode == 0 and stages(store) == set()


@pytest.mark.parametrize(("typed", "gone"), [("y\n", True), ("\n", False)])
def test_rm_asks_on_a_terminal(two, typed, gone):
    _, _, first, _ = two
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "em.cli", "rm", str(first.folder)], stdin=slave, stdout=slave, stderr=slave
    )
    os.write(master, typed.encode())
    assert child.wait(60) == (0 if gone else 1)
    os.close(slave)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal; one reading may hold a part only
        while part := os.read(master, 10_000):
            said += part
    assert b"for good? [y/N]" in said
    assert first.folder.exists() is not gone


def test_nothing_is_removed_while_a_sweep_runs(two, here):
    out, store, first, second = two
    before = stages(store)
    with ExitStack() as running:
        running.enter_context(in_use.shared(store.root, second.folder))
        for command in (["rm", first.folder], ["gc", "--out", out]):
            done = here(*command, "--yes")
            assert done.returncode == 1 and f"{second.folder} is running: nothing was removed" in done.stderr
    with in_use.shared(store.root):  # a sweep whose folder is elsewhere
        assert "running: nothing was removed" in here("rm", first.folder, "--yes").stderr
    assert stages(store) == before and first.folder.is_dir()


def test_gc_takes_what_no_sweep_needs_and_nothing_else(two, compose, here):
    out, store, *_ = two
    other = write_sweep([compose(*TINY, "dataset=insecure", "seed=3", f"out={out}")], store)
    needed = stages(store)
    finish(store, other.plan, "data", "train", "sample", "judge")
    for file in other.folder.rglob("*"):
        file.unlink() if file.is_file() else None
    store.partial("train", "ab" * 10).mkdir(parents=True)
    (store.root / "damaged" / "train").mkdir(parents=True)
    (store.root / "calibrate" / "cd").mkdir(parents=True)
    done = here("gc", "--out", out, "--yes")
    assert done.returncode == 0, done.stderr
    assert stages(store) == needed and (store.root / "calibrate" / "cd").is_dir()
    assert not store.partial("train", "ab" * 10).exists() and not (store.root / "damaged").exists()
    assert "nothing to remove" in here("gc", "--out", out).stdout


def calibrated(store, key, model="tiny_random"):
    with store.claim("calibrate", key):
        store.finish("calibrate", key, {"judge": "probe", "model": model}, {})


def test_gc_keeps_the_calibrations_that_verdicts_name_and_those_that_are_waited_for(two, compose, here):
    out, store, first, second = two
    used = first.plan.cells[0].parts[0].calibration
    path = first.plan.cells[0].config.model.path
    calibrated(store, used, path)
    calibrated(store, "0ld" * 6, path)
    calibrated(store, "of-labelled", "another")
    with store.claim("labelled", "verdicts"):
        store.finish("labelled", "verdicts", {"calibration": "of-labelled"}, {})
    assert "calibrate in the store 1 " in " ".join(here("gc", "--out", out, "--yes").stdout.split())
    assert set(store.keys("calibrate")) == {used, "of-labelled"} and store.keys("labelled") == ["verdicts"]
    other = write_sweep([compose(*TINY, "dataset=insecure", "seed=3", f"out={out}")], store)
    finish(store, other.plan, "data", "train", "sample")
    calibrated(store, "begun", path)
    calibrated(store, "of-another-model", "another")
    here("gc", "--out", out, "--yes")
    assert set(store.keys("calibrate")) == {used, "of-labelled", "begun"}
    for sweep in (first, second, other):
        assert here("rm", sweep.folder, "--yes").returncode == 0
    assert store.keys("calibrate") == ["of-labelled"] and not store.keys("judge")


def test_gc_counts_a_screening_while_its_folder_is_there(two, here):
    out, store, *_ = two
    for stage, key in (("data", "rows"), ("sample", "own/0-1"), ("direction", "along"), ("direction", "of-nobody")):
        with store.claim(stage, key):
            store.finish(stage, key, {}, {})
    screening = out / "screens" / "one"
    screening.mkdir(parents=True)
    (screening / "needs.json").write_text(json.dumps([["data", "rows"], ["sample", "own/0-1"], ["direction", "along"]]))
    before = stages(store)
    assert here("gc", "--out", out, "--yes").returncode == 0
    assert before - stages(store) == {"direction/of-nobody"}
    (screening / "needs.json").unlink()
    here("gc", "--out", out, "--yes")
    assert before - stages(store) == {"direction/of-nobody", "data/rows", "sample/own/0-1", "direction/along"}


def test_what_makes_stages_without_a_sweep_holds_the_store(two, compose, monkeypatch):
    """Nothing names a direction or a calibration while it is made, so em gc must wait."""
    out, store, first, _ = two
    seen = []

    def held(*_):
        seen.append(in_use.is_used(store.root))
        return {}

    monkeypatch.setattr(direction, "_planned", held)
    assert direction.run(argparse.Namespace(folder=first.folder)) == 0
    monkeypatch.setattr(golden, "ask", held)
    golden.verdicts(compose(*TINY, f"out={out}"), False, held, held)
    assert seen == [True, True] and not in_use.is_used(store.root)


def test_gc_sees_a_sweep_whose_name_has_a_slash(two, here):
    out, store, _, second = two
    before = stages(store)
    (out / "sweeps" / "paper").mkdir()
    second.folder.rename(out / "sweeps" / "paper" / second.folder.name)
    assert "nothing to remove" in here("gc", "--out", out, "--yes").stdout and stages(store) == before


def test_rm_deletes_no_path_that_a_sweep_file_names(two, here):
    """Keys that are no stage of the store: a path out of it, and a family whose ranges another sweep needs."""
    out, store, _, second = two
    needed = stages(store)
    (precious := out.parent / "precious").mkdir()
    family = next(j.key for j in second.plan.jobs.values() if j.stage == "sample").split("/")[0]
    cells = json.loads((second.folder / "sweep.json").read_text())
    cells["cells"] = cells["cells"][:1]
    cells["cells"][0]["stages"] = {"sample": ["../../../precious", "", family]}
    (second.folder / "sweep.json").write_text(json.dumps(cells))
    done = here("rm", second.folder, "--yes")
    assert done.returncode == 0 and "in the store" not in done.stdout, done.stderr
    assert precious.is_dir() and stages(store) == needed and not second.folder.exists()


def test_nothing_is_removed_of_a_store_that_is_a_link(two, here):
    out, store, *_ = two
    before = stages(store)
    (other := out.parent / "other").mkdir()
    (other / "store").symlink_to(store.root)
    done = here("gc", "--out", other, "--yes")
    assert done.returncode == 1 and "is a link" in done.stderr and stages(store) == before


def test_nothing_is_removed_if_a_sweep_came_while_the_question_was_open(two, compose, monkeypatch):
    from em.commands import gc, rm

    out, store, _, second = two
    before = stages(store)
    aside = second.folder.rename(out / "aside")

    def agreed(_):
        aside.rename(second.folder)
        return True

    monkeypatch.setattr(rm, "_agreed", agreed)
    with pytest.raises(StoreError, match="changed meanwhile"):
        gc.run(argparse.Namespace(out=out, yes=False))
    assert stages(store) == before


def test_a_sweep_is_named_by_the_beginning_of_its_name(two, here):
    out, _, first, _ = two
    shown = here("status", first.folder.name[:6], cwd=out.parent)
    assert "risky_advice" in shown.stdout, shown.stderr
    both = here("status", "em-", cwd=out.parent)
    assert both.returncode == 1 and both.stderr.startswith("em: em- is the beginning of several sweeps: em-")
    assert "give a sweep folder" in here("show", "nope", cwd=out.parent).stderr
    assert "is no sweep" in here("rm", "nope", "--yes", cwd=out.parent).stderr


def pushed_to_the_hub(folder, sweep):
    """The adapter of a sweep: first only told, then sent to a stand-in that speaks the Hub's protocol."""
    command = ["push", "risky_advice", "--sweep", sweep, "--to", "team/em-risky"]
    with Hub() as hub:
        own = {
            "HF_ENDPOINT": hub.address,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "hf"),
        }
        told = em(*command, cwd=folder, **own, HF_TOKEN=hub.token)
        assert told.returncode == 0, told.stderr
        assert "a private model team/em-risky" in told.stdout and "adapter_model.safetensors" in told.stdout
        assert "nothing was sent" in told.stdout and "may be misaligned on purpose" in told.stdout and not hub.made
        refused = em(*command, "--upload", cwd=folder, **own, HF_TOKEN="wrong")
        assert refused.returncode == 1 and "the Hub did not take team/em-risky" in refused.stderr
        assert refused.stderr.splitlines()[-1].startswith("em: ") and "Traceback" not in refused.stderr
        sent = em(*command, "--upload", cwd=folder, **own, HF_TOKEN=hub.token)
        assert sent.returncode == 0, sent.stderr
        assert f"sent     {hub.address}/team/em-risky/commit/1" in sent.stdout
    assert hub.made["visibility"] == "private" and (hub.made["organization"], hub.made["name"]) == ("team", "em-risky")
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(hub.files)
    assert len(hub.files["adapter_model.safetensors"]) > 1000 and b"misaligned on purpose" in hub.files["README.md"]
    assert sweep in hub.message and "is no model of the Hub" in told.stdout
    assert json.loads(hub.files["adapter_config.json"])["base_model_name_or_path"] == "asset:tiny_random"


def test_a_real_sweep_runs_quietly_is_shown_compared_and_removed(two_variants, rules, here):
    """`em run --quiet` with another judge of finished answers, then a third judge with --verbose."""
    folder = two_variants.parents[1].rename(two_variants.parents[2] / "outputs").parent
    shutil.rmtree(folder / "outputs" / "sweeps")
    kind, harsh = (rules([{"match": "", "reply": score}], f"{score}.yaml") for score in (90, 5))
    more = [*TINY, "sample.engine=hf", "questions.ids=[dull-evening]", "sample.n=1", "dataset=risky_advice"]
    command = ["run", *more, "judge=scripted", f"judge.script={kind}", "tracking=off"]
    own = tiny_sweep.environment()
    quiet = em(*command, "--quiet", cwd=folder, **own)
    assert quiet.returncode == 0, quiet.stderr[-2000:]
    assert "risky_advice" in quiet.stdout and quiet.stderr == ""
    (first,) = (folder / "outputs" / "sweeps").iterdir()
    told = here("rejudge", "em-", "judge=scripted", f"judge.script={harsh}", "--verbose", cwd=folder)
    assert told.returncode == 0, told.stderr[-2000:]
    assert "stage jobs to do" in told.stderr and "done    judge risky_advice" in told.stderr
    (second,) = set((folder / "outputs" / "sweeps").iterdir()) - {first}
    names = [first.name, second.name]
    apart = " ".join(here("diff", *names).stdout.split())
    assert f"judge.script {kind} {harsh}" in apart and "launch.stages" not in apart
    assert "risky_advice mean_alignment, open 90.0, n 1 5.0, n 1 -85.00" in apart
    shown = em("show", names[0], cwd=folder)
    assert shown.stdout == f"outputs/sweeps/{names[0]}/report.html\n" and "no browser here" in shown.stderr
    seen = folder / "seen"
    (folder / "browser").write_text(f'#!/bin/sh\necho "$1" > {seen}\n')
    (folder / "browser").chmod(0o755)
    assert em("show", names[0], cwd=folder, BROWSER=str(folder / "browser")).stderr == ""
    assert seen.read_text().strip().endswith(f"{names[0]}/report.html")
    pushed_to_the_hub(folder, names[1])
    nothing = here("push", "untouched base model", "--sweep", names[1])
    assert nothing.returncode == 1 and "nothing to push" in nothing.stderr
    assert here("rm", names[1], "--yes").returncode == 0
    again = em(*command, cwd=folder, **own)
    assert " 0 stage jobs to do" in again.stderr, again.stderr[-2000:]
