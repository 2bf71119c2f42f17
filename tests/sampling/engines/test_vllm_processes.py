"""vLLM's engine in a process of its own, as on a GPU: it is spawned, ends with a killed worker, and its rows stay."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import psutil

from em.runtime.events import FD_VARIABLE
from em.store import Store, job_file
from em.store.layout import COMPLETIONS
from support.sampling import QUESTIONS, rows, run_jobs, sample_job
from support.training import kill_when, mistral_folder

GONE_S = 10
OWN_PROCESS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
ROWS = 160


def test_a_killed_worker_takes_its_engine_with_it_and_leaves_its_rows(vllm_engine, tmp_path, monkeypatch):
    """kill -9 while it samples. On a GPU the engine's process would keep 92 % of the memory.

    The folder of its model also has Mistral's own files, from which vLLM would take tokenizer, config and weights: the
    rows are those of the folder without them.
    """
    many = [dataclasses.replace(q, samples=ROWS // 2) for q in QUESTIONS]
    job = sample_job(hi=ROWS // 2, questions=many, max_tokens=32)
    interrupted, undisturbed = Store.open(tmp_path / "killed"), Store.open(tmp_path / "whole")
    model = dataclasses.replace(job.model, path=mistral_folder(tmp_path / "model"))
    batch, log = tmp_path / "batch.json", tmp_path / "log.txt"
    job_file.write(batch, tmp_path / "killed", [dataclasses.replace(job, model=model)])
    read, write = os.pipe()
    environment = {**os.environ, **OWN_PROCESS, FD_VARIABLE: str(write), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "em.sweep.worker", "sample", str(batch)]
    with log.open("w") as output:
        worker = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[write], env=environment)
    os.close(write)
    pipe = os.readlink(f"/proc/self/fd/{read}")
    partial: Path = interrupted.partial("sample", "base") / COMPLETIONS
    children, held = [], []

    def sampling():
        if partial.exists() and partial.stat().st_size > 0:
            children.extend(psutil.Process(worker.pid).children(recursive=True))
            held.extend(open_files(child) for child in children if "EngineCore" in child.name())
        return children

    kill_when(worker, sampling, log)
    _, alive = psutil.wait_procs(children, timeout=GONE_S)
    assert not alive
    (files,) = held
    assert files and pipe not in files  # it was spawned: a fork would hold the worker's pipe
    with os.fdopen(read) as events:
        assert events.read()  # nobody holds the pipe open: the sweep sees the end of its worker
    left = partial.read_bytes().count(b"\n")
    assert 0 < left < ROWS
    assert not interrupted.has("sample", "base")

    seen = run_jobs(interrupted, [job], vllm_engine, monkeypatch)
    run_jobs(undisturbed, [job], vllm_engine, monkeypatch)
    assert left - 1 <= next(e for e in seen if e["event"] == "progress")["done"] <= left  # killed between row and sum
    assert len(rows(undisturbed, "base")) == ROWS
    found = [(s.path("sample", "base") / COMPLETIONS).read_bytes() for s in (interrupted, undisturbed)]
    assert found[0] == found[1]
    interrupted.verify("sample", "base")


def open_files(process):
    """What a process has open now, but for what it closes while we look."""
    found = []
    for path in Path(f"/proc/{process.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(path))
    return found
