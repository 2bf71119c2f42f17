"""Which devices a sweep uses, what a worker holds and sees, and what happens when a GPU breaks down."""

import os
import sys
from dataclasses import replace

import pytest

from em.errors import ConfigError
from em.planning.plan import Job, Plan
from em.runtime import cuda, machine
from em.store import Store
from em.sweep import devices, ledger, scheduler
from em.sweep.state import Sweep
from support.nvidia import nvidia, uuid
from support.training import train_job as train_spec


def test_a_number_takes_the_first_of_the_allocation(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=range(8), cards=8)
    assert devices.devices("auto") == [str(n) for n in range(8)]
    monkeypatch.setenv(machine.VISIBLE, f"5,{uuid(2)},7")
    assert devices.devices("auto") == ["5", uuid(2), "7"]
    assert devices.devices(2) == ["5", uuid(2)]
    assert devices.devices(["3", 5]) == ["3", "5"]
    with pytest.raises(ConfigError, match=r"launch.devices=4 and 3 GPU\(s\) are visible here \(5, GPU-"):
        devices.devices(4)


def test_without_a_gpu_workers_share_the_cpu(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[], cards=None)
    assert devices.devices("auto") == ["cpu:0"] and devices.devices(2) == ["cpu:0", "cpu:1"]
    assert devices.on_cpu(devices.devices(2))
    with pytest.raises(ConfigError, match=r"launch.devices=\[6\] names GPUs and none is visible"):
        devices.devices([6])


def test_a_hidden_gpu_is_none(monkeypatch, tmp_path):
    nvidia(monkeypatch, tmp_path, files=[0], cards=1)
    monkeypatch.setenv(machine.VISIBLE, "")
    assert devices.devices("auto") == ["cpu:0"]


def test_more_processes_than_devices_is_refused():
    two = Job("train", "k", "k", "batch", train_spec("k", num_processes=3))
    with pytest.raises(ConfigError, match=r"num_processes=3 but launch.devices has 2"):
        devices.devices_held(two, ["0", "1"])
    assert devices.devices_held(two, ["cpu:0"]) == 1


def test_a_worker_sees_its_gpus_and_gets_its_share_of_the_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(64))
    seen = devices.environment(5, ["2", "6"], 2 / 8, "sample")
    assert (seen[machine.VISIBLE], seen[cuda.GIVEN_VARIABLE], seen["OMP_NUM_THREADS"]) == ("2,6", "2,6", "16")
    assert devices.environment(5, [], 1 / 128, "judge")["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # a person's choice wins
    monkeypatch.delenv(machine.VISIBLE, raising=False)
    plain = devices.environment(5, ["cpu:0"], 1.0, "train")
    assert plain["OMP_NUM_THREADS"] == "3" and not {machine.VISIBLE, cuda.GIVEN_VARIABLE} & set(plain)


BREAKS = """#!{python}
import json, os, signal, sys, time
from em.sweep import worker
from em.store import job_file
from em.training.job import TrainJob
if {log!r}:
    open({log!r}, "a").write(os.environ["EM_DEVICES"] + "\\n")
_, jobs = job_file.read(__import__("pathlib").Path(sys.argv[-1]), TrainJob)
with os.fdopen(int(os.environ["EM_EVENTS_FD"]), "w", buffering=1) as events:
    for job in jobs:
        print(json.dumps({{"event": "started", "job": job.key}}), file=events)
        if job.key in {killed!r}:
            os.kill(os.getpid(), signal.SIGKILL)
        if os.environ["EM_DEVICES"] in {broken!r}:
            error = "RuntimeError: CUDA error: uncorrectable ECC error encountered"
            print(json.dumps({{"event": "failed", "job": job.key, "error": error}}), file=events)
            time.sleep(60)
        else:
            print(json.dumps({{"event": "done", "job": job.key}}), file=events)
"""
"""A worker in em's own protocol whose GPU breaks down at its first job, or that is killed. A broken GPU cannot be
had for a test."""


def run_on_breaking(monkeypatch, tmp_path, broken, jobs, ids, killed=()):
    nvidia(monkeypatch, tmp_path, files=[0, 1], cards=2)
    log, program = tmp_path / "devices.txt", tmp_path / "worker.py"
    program.write_text(BREAKS.format(python=sys.executable, broken=broken, killed=killed, log=str(log)))
    program.chmod(0o755)
    monkeypatch.setattr(scheduler.launch, "command", lambda batch, _: [str(program), str(batch)])
    (tmp_path / "sweep" / "logs").mkdir(parents=True)
    found = Sweep(tmp_path / "sweep", Store.open(tmp_path / "out"), Plan())
    units = [scheduler.Batch(job.stage, [job], 1, follows=False) for job in jobs]
    scheduler.Scheduler(found, units, list(ids), timeout_s=50).run()
    return found, log.read_text().split()


def jobs_named(*names):
    return [Job("train", name, name, "batch", train_spec(name)) for name in names]


def test_jobs_of_a_lost_gpu_go_to_another_once(monkeypatch, tmp_path, capsys):
    found, used = run_on_breaking(monkeypatch, tmp_path, ["0"], jobs_named("a", "b", "c"), ["0", "1"])
    assert not found.failed
    assert used.count("0") == 1 and used.count("1") == 3  # GPU 0 got no second job
    done = [row["key"] for row in ledger.rows(found.folder) if row["event"] == "done"]
    assert sorted(done) == ["a", "b", "c"]
    said = capsys.readouterr().err
    assert "GPU 0 is lost and gets no more work: RuntimeError: CUDA error: uncorrectable ECC" in said


def test_the_last_gpu_lost_fails_what_is_left(monkeypatch, tmp_path):
    jobs = jobs_named("a", "b", "c")
    after = replace(jobs[2], stage="sample", key="answers", needs=(("train", "c"),))
    found, used = run_on_breaking(monkeypatch, tmp_path, ["0", "1"], [*jobs, after], ["0", "1"])
    assert sorted(used) == ["0", "1"]
    assert found.failed.pop(("sample", "answers")) == found.failed["train", "c"]  # its cause, not "no job makes it"
    assert {key for _, key in found.failed} == {"a", "b", "c"}
    said = " ".join(found.failed.values())
    assert said.count("is lost, and no other is left") == 1 and said.count("it needs 1 GPU(s) and 0 are left") == 2


def test_a_killed_worker_fails_its_job_and_the_sweep_goes_on(monkeypatch, tmp_path):
    """As the kernel does when memory runs out. The log is named; the GPU gets the next job."""
    found, used = run_on_breaking(monkeypatch, tmp_path, [], jobs_named("a", "b", "c"), ["0"], killed=["b"])
    assert used == ["0"] * 3
    assert {key for _, key in found.failed} == {"b"}
    said = "the train worker ended with signal 9 (SIGKILL) before this was done; its log: "
    assert found.failed["train", "b"].startswith(said)
    assert os.path.exists(found.failed["train", "b"].removeprefix(said))
    done = [row["key"] for row in ledger.rows(found.folder) if row["event"] == "done"]
    assert done == ["a", "c"]


@pytest.mark.skipif(os.path.exists("/dev/nvidia0"), reason="this machine has GPUs")
def test_a_worker_that_cannot_see_its_gpu_computes_nothing(monkeypatch, tmp_path):
    """The real worker, over a GPU that is not there: the job fails with the cause."""
    nvidia(monkeypatch, tmp_path, files=[0], cards=1)
    (tmp_path / "sweep" / "logs").mkdir(parents=True)
    found = Sweep(tmp_path / "sweep", Store.open(tmp_path / "out"), Plan())
    (job,) = jobs_named("a")
    scheduler.Scheduler(found, [scheduler.Batch("train", [job], 1, follows=False)], ["0"], timeout_s=240).run()
    (error,) = found.failed.values()
    assert error.startswith("GPU 0 is lost, and no other is left or was tried before: this process was given GPU 0 and")
    log = next((found.folder / "logs").glob("train-*.log")).read_text()
    assert "given GPU 0 and torch does not see it: driver none, torch" in log
    assert not found.store.path("train", "a").exists()


def test_training_workers_ask_for_growing_segments(monkeypatch):
    monkeypatch.delenv("PYTORCH_ALLOC_CONF", raising=False)
    found = {
        stage: devices.environment(3, ["0"], 1.0, stage).get("PYTORCH_ALLOC_CONF") for stage in ("train", "sample")
    }
    assert found == {"train": "expandable_segments:True", "sample": None}
    monkeypatch.setenv("PYTORCH_ALLOC_CONF", "backend:native")
    assert devices.environment(3, ["0"], 1.0, "train")["PYTORCH_ALLOC_CONF"] == "backend:native"
