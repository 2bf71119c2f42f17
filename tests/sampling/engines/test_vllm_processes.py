"""vLLM's engine in a process of its own, as on a GPU: it is spawned, and ends with a worker that is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from em.runtime.events import FD_VARIABLE
from em.store import Store, job_file
from em.store.layout import COMPLETIONS
from support.sampling import sample_job

START_S = 240
GONE_S = 10
OWN_PROCESS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}


def test_a_killed_worker_takes_its_engine_with_it(tmp_path):
    """kill -9 while it samples. On a GPU the engine's process would keep 92 % of the memory."""
    pytest.importorskip("vllm")
    store, batch, log = Store.open(tmp_path / "out"), tmp_path / "batch.json", tmp_path / "log.txt"
    job_file.write(batch, tmp_path / "out", [sample_job(hi=400, max_tokens=400, max_num_seqs=4)])
    read, write = os.pipe()
    environment = {**os.environ, **OWN_PROCESS, FD_VARIABLE: str(write), "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "em.sweep.worker", "sample", str(batch)]
    with log.open("w") as output:
        worker = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[write], env=environment)
    os.close(write)
    try:
        engine = sampling_engine(worker, store, log)
        assert os.readlink(f"/proc/self/fd/{read}") not in open_files(engine)  # a fork would hold the worker's pipe
        children = psutil.Process(worker.pid).children(recursive=True)
        worker.send_signal(signal.SIGKILL)
        worker.wait()
        _, alive = psutil.wait_procs(children, timeout=GONE_S)
        assert engine in children and not alive
        with os.fdopen(read) as events:
            assert events.read()  # and nobody holds the pipe open: the sweep sees the end of its worker
    finally:
        worker.kill()


def open_files(process):
    return [os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()]


def sampling_engine(worker, store, log):
    """Return the engine's process, once the first answers are on disk."""
    until = time.monotonic() + START_S
    rows = store.partial("sample", "base") / COMPLETIONS
    while time.monotonic() < until:
        assert worker.poll() is None, log.read_text()[-3000:]
        if rows.exists() and rows.stat().st_size:
            return next(p for p in psutil.Process(worker.pid).children() if "EngineCore" in p.name())
        time.sleep(0.5)
    raise AssertionError(log.read_text()[-3000:])
