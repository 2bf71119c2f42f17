"""Faults on purpose, on whole sweeps as a user starts them: a resumed sweep equals an undisturbed one.

`make chaos` runs this at full size (50 kills, a minute without the judge); CI with few seconds, and without
those marked slow. Seeds are printed; EM_CHAOS_SEED repeats one.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from filelock import FileLock

from support.chaos import (
    RULES,
    content,
    differences,
    ended,
    flip_bit,
    kill,
    kill_one,
    processes,
    resume,
    run,
    start,
    sweep_command,
    wait_for,
)

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(7200)]
SLOW = pytest.mark.slow
KILLS = int(os.environ.get("EM_CHAOS_KILLS", "2"))
SEED = int(os.environ.get("EM_CHAOS_SEED", random.SystemRandom().randrange(10**6)))
GONE_S = float(os.environ.get("EM_CHAOS_GONE_S", "4"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """A sweep nothing happened to: its folder, what its store holds, how long it took. Made once for all workers."""
    kept = tmp_path_factory.getbasetemp()
    kept = kept.parent if "PYTEST_XDIST_WORKER" in os.environ else kept
    out, seconds = kept / "undisturbed" / "out", kept / "undisturbed.txt"
    with FileLock(kept / "undisturbed.lock"):
        if not seconds.exists():
            shutil.rmtree(out, ignore_errors=True)  # of a worker that failed here
            began = time.monotonic()
            code, text = run(sweep_command(out))
            assert code == 0, text[-3000:]
            seconds.write_text(str(time.monotonic() - began))
    return out, content(out), float(seconds.read_text())


def same(out, wanted):
    """The store equals the undisturbed one's, and nothing is left half done."""
    assert not list((out / "store").rglob("*.partial"))
    mine = {n: c for n, c in content(out).items() if n in wanted or not n.startswith("numbers")}
    found = differences(mine, wanted)
    assert not found, "\n".join(found)


@SLOW
@pytest.mark.parametrize("number", range(KILLS))
def test_kill_9_of_any_process_then_resume(undisturbed, tmp_path, number, capsys):
    _, wanted, took = undisturbed
    seed = SEED + number
    rng = random.Random(seed)
    victim, attempt = "", 0
    while not victim:  # a sweep that ends before its time, on a machine less busy than before, is no kill
        out, attempt = tmp_path / f"out-{attempt}", attempt + 1
        command = sweep_command(out)
        process = start(command)
        after = rng.uniform(0.0, took / attempt)
        victim = kill_one(process, after, rng)
        code, text = ended(process)
    with capsys.disabled():
        print(f"\nchaos: seed {seed}, after {after:.1f} of {took:.0f} s: {victim}, exit code {code}")
    assert "Traceback" not in text, text[-3000:]
    if not victim.startswith("em.run") and code:
        assert "FAILED" in text and "its log: " in text  # told by a sweep that outlived its worker
    code, text = resume(out, command)
    assert code == 0, text[-3000:]
    same(out, wanted)


MOMENTS = {
    "train": "train/*.partial/resume/checkpoint-*",
    "sample": "sample/*/*.partial/completions.jsonl",
    "judge": "judge/*/*.partial",
}


def test_kill_9_in_each_stage_then_the_same_result(undisturbed, tmp_path):
    """One sweep, killed in training, begun again and killed in sampling, and in judging: the same to the byte."""
    out = tmp_path / "out"
    for stage, pattern in MOMENTS.items():
        began, process = time.time(), start(sweep_command(out))
        reached = wait_for(lambda pattern=pattern, began=began: written(out / "store", pattern, began), process)
        assert reached, f"{stage} was over before its kill: {ended(process)[1][-3000:]}"
        alive = processes(process.pid)
        kill(alive[0], process, alive)
        assert ended(process)[0] == -signal.SIGKILL
    code, text = run(sweep_command(out))
    assert code == 0, text[-3000:]
    same(out, undisturbed[1])


def written(store, pattern, began):
    """Whether one of these was written to since a process began: what a killed one left half done does not count."""
    for path in store.glob(pattern):
        with contextlib.suppress(FileNotFoundError):  # finished, and so renamed, in between
            if path.stat().st_mtime > began and (path.is_dir() or path.stat().st_size):
                return True
    return False


# ------------------------------------------------------------------------------------------------ the disk

PARTIALS = {
    "data": "data/*.partial",
    "train": "train/*.partial/train_log.jsonl",
    "sample": "sample/*/*.partial/completions.jsonl",
    "judge": "judge_cache.sqlite",
}


@pytest.fixture
def disk(tmp_path):
    """A file system of our own whose size can change: (folder, resize)."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        return subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)

    made = mount(["-t", "tmpfs", "-o", "size=8g", "tmpfs"])
    if made.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {made.stderr.strip()}")
    yield folder, lambda options: mount(["-o", f"remount,{options}"])
    subprocess.run(["umount", "-l", str(folder)], check=False)


def slow_rows(path):
    """A data set that takes seconds to read, so that the disk can fill up while it is read."""
    row = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because it is so."}]}
    path.write_text((json.dumps(row) + "\n") * 400_000)
    return ["corpus=custom", "dataset=custom", f"corpus.path={path}"]


@pytest.mark.parametrize("stage", [s if s == "sample" else pytest.param(s, marks=SLOW) for s in PARTIALS])
def test_disk_full_in_each_stage_then_room_again(request, tmp_path, disk, stage):
    """The undisturbed sweep is asked for at the end: another worker may be making it meanwhile."""
    folder, remount = disk
    out = folder / "out"
    overrides = slow_rows(tmp_path / "rows.jsonl") if stage == "data" else []
    process = start(sweep_command(out, *overrides))
    reached = wait_for(lambda: any((out / "store").glob(PARTIALS[stage])), process)
    assert reached, f"{stage} was over before the disk could be filled"
    while remount(f"size={shutil.disk_usage(folder).used}").returncode:  # it grew meanwhile
        pass
    code, text = ended(process)
    assert code == 1, text[-3000:]
    assert "the disk is full" in text or "check the disk" in text, text[-3000:]
    assert "Traceback" not in text, text[-3000:]
    assert remount("size=8g").returncode == 0
    code, text = resume(out, sweep_command(out, *overrides))
    assert code == 0, text[-3000:]
    if stage == "data":
        assert not list((out / "store").rglob("*.partial"))
    else:
        same(out, request.getfixturevalue("undisturbed")[1])


def test_a_read_only_store_is_read_and_refused_for_more(undisturbed, tmp_path, disk):
    folder, remount = disk
    out = tmp_path / "out"
    shutil.copytree(undisturbed[0], out)
    shutil.copytree(out / "store", folder / "store")
    shutil.rmtree(out / "store")
    (out / "store").symlink_to(folder / "store")
    assert remount("ro").returncode == 0
    code, text = run(sweep_command(out))
    assert code == 0, text[-3000:]  # everything is there: the report needs no writing into the store
    code, text = run(sweep_command(out, "sample.n=4"))
    assert code == 1
    assert "em: cannot write to " in text and "change out=" in text and "Traceback" not in text
    assert "em: " in text.splitlines()[-1]


# ------------------------------------------------------------------------------------------------ the clock

JUMPING = """
import os, random, time
_real, _rng = time.time, random.Random(os.getpid())
time.time = lambda: _real() + _rng.choice([-3e6, -5000, 0, 5000, 3e6])
time.time_ns = lambda: int(time.time() * 1e9)
"""


@SLOW
def test_no_result_depends_on_the_clock(undisturbed, tmp_path):
    """time.time jumps by days at every call, in every process; file times are set at random before the resume."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(JUMPING)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    out, rng = tmp_path / "out", random.Random(SEED)
    command = sweep_command(out)
    process = start(command, PYTHONPATH=path)
    sampling = wait_for(lambda: any((out / "store").glob(PARTIALS["sample"])), process)
    process.kill()
    text = ended(process)[1]
    assert sampling, text[-3000:]
    for file in (p for p in (out / "store").rglob("*") if p.is_file()):
        when = rng.uniform(0, 4e9)
        os.utime(file, (when, when))
    code, text = run(command, PYTHONPATH=path)
    assert code == 0, text[-3000:]
    same(out, undisturbed[1])


# ------------------------------------------------------------------------------------------------ races


@SLOW
def test_two_sweeps_race_on_the_same_keys(undisturbed, tmp_path):
    out = tmp_path / "out"
    both = [start(sweep_command(out)), start(sweep_command(out, "dataset=careful_advice"))]
    for process in both:
        code, text = ended(process)
        assert code == 0, text[-3000:]
    same(out, undisturbed[1])


# ------------------------------------------------------------------------------------------------ damage


@pytest.fixture
def finished(undisturbed, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(undisturbed[0], out)
    return out, tmp_path


KINDS = {
    "manifest": "train/*/manifest.json",
    "training log": "train/*/train_log.jsonl",
    "answers": "sample/*/*/completions.jsonl",
    "answers' manifest": "sample/*/*/manifest.json",
    "verdicts": "judge/*/*/judgements.jsonl",
}


def test_flipped_bits_are_named_and_made_again(undisturbed, finished):
    """One bit in one file of every kind at once."""
    out, _ = finished
    rng, named = random.Random(SEED), []
    print(f"chaos: seed {SEED}")
    for pattern in KINDS.values():
        path = rng.choice(sorted((out / "store").glob(pattern)))
        if path.parent not in named:
            flip_bit(path, rng)
            named.append(path.parent)
    code, text = run(sweep_command(out))
    assert code == 0, text[-3000:]
    for folder in named:
        stage, _, key = folder.relative_to(out / "store").as_posix().partition("/")
        assert f"DAMAGED {stage} {key}: " in text
    same(out, undisturbed[1])


@SLOW
def test_a_damaged_adapter_draws_no_answer(undisturbed, finished):
    """Two more answers a question are asked for; the adapter they need has a flipped bit."""
    out, folder = finished
    path = sorted((out / "store").glob("train/*/adapter/adapter_model.safetensors"))[0]
    flip_bit(path, random.Random(SEED))
    whole = folder / "whole"
    shutil.copytree(undisturbed[0], whole)
    assert run(sweep_command(whole, "sample.n=5"))[0] == 0
    code, text = run(sweep_command(out, "sample.n=5"))
    assert code == 0, text[-3000:]
    assert f"DAMAGED train {path.parts[-3]}" in text and path.name in text
    same(out, content(whole))


@SLOW
def test_a_damaged_judge_cache_is_mended(undisturbed, finished):
    out, _ = finished
    path = out / "store" / "judge_cache.sqlite"
    raw = bytearray(path.read_bytes())
    for at in range(raw.find(b'"outcome"'), len(raw), 3001):
        raw[at] ^= 4
    path.write_bytes(raw)
    shutil.rmtree(out / "store" / "judge")
    code, text = run(sweep_command(out))
    assert code == 0, text[-3000:]
    assert "judge_cache.sqlite is damaged" in text and "asked again" in text
    same(out, undisturbed[1])


# ------------------------------------------------------------------------------------------------ others die


@SLOW
def test_wandb_core_killed_costs_no_result(finished):
    out, _ = finished
    command = sweep_command(out, "tracking=wandb", "tracking.mode=offline")
    process = start(command)

    def core():
        return [p for p in processes(process.pid) if "wandb-core" in " ".join(p.cmdline()[:1])]

    assert wait_for(lambda: bool(core()), process), ended(process)[1][-2000:]
    for victim in core():
        victim.kill()
    code, text = ended(process)
    assert code in (0, 1) and "Traceback" not in text, text[-3000:]
    assert list((out / "sweeps").glob("*/summary.json"))
    code, text = run(command)
    assert code == 0, text[-3000:]
    assert len(list((out / "sweeps").glob("*/cells/*/tracked.json"))) >= 2


SERVER = """
import sys, time
from em.judging.scripted.server import ScriptedJudge
with ScriptedJudge.from_file(sys.argv[1], int(sys.argv[2])) as server:
    print(server.base_url, flush=True)
    time.sleep(3600)
"""


def serve(rules, port=0):
    """A judge in a process of its own, so that it can be killed with its connections. Returns it and its URL."""
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(rules), str(port)], stdout=subprocess.PIPE, text=True)
    return process, process.stdout.readline().strip()


def test_the_judge_is_gone_for_a_while(undisturbed, tmp_path):
    """Its server is killed in the middle of judging and comes back on the same port."""
    out, rules = tmp_path / "out", RULES
    shutil.copytree(undisturbed[0], out)
    shutil.rmtree(out / "store" / "judge")
    (out / "store" / "judge_cache.sqlite").unlink()
    server, url = serve(rules)
    judge = ["judge=openai_compatible", f"judge.base_url={url}", "judge.model=m", "judge.api_key_env=''",
             "judge.concurrency=2", "judge.requests_per_minute=130", "judge.max_failures=1000",
             "launch.stages=[train,sample,judge]"]  # fmt: skip
    # 160 calls: the last 30 wait for the limit, however fast the machine
    process = start(sweep_command(out, *judge))
    assert wait_for(lambda: any((out / "store").glob("judge/*/*.partial")), process), ended(process)[1][-3000:]
    time.sleep(2)
    assert process.poll() is None, "judging was over before the judge went"
    server.kill()
    server.wait()
    time.sleep(GONE_S)
    server, _ = serve(rules, int(url.split(":")[2].split("/")[0]))
    code, text = ended(process)
    server.kill()
    assert code == 0, text[-3000:]
    assert verdicts(out) == verdicts(undisturbed[0])


def verdicts(out):
    """Every verdict of a store: (answer, rubric, outcome, score)."""
    rows = [
        json.loads(line)
        for path in (out / "store").glob("judge/*/*/judgements.jsonl")
        for line in path.read_text().splitlines()
    ]
    return sorted((r["completion_id"], r["rubric"], r["outcome"], r["score"] or 0.0) for r in rows)
