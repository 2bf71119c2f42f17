"""Asked to stop by a signal: what a sweep's process and its workers do (the trainer's own part: test_train*.py)."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from em import run
from em.runtime.preempt import PREEMPTED, Preempted, raise_on_stop
from em.sweep import ledger


def test_ctrl_c_says_that_it_stopped(capsys):
    """Ctrl-C has no words of its own."""
    with pytest.raises(SystemExit) as end, run._without_traceback():
        raise KeyboardInterrupt
    assert end.value.code == 130
    assert capsys.readouterr().err == "\nem: stopped. What is finished is kept; the same command continues.\n"


WORKER = """
import sys, time
from em.runtime.preempt import exit_on_stop
exit_on_stop()
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_the_first_signal_raises_and_later_ones_do_not_disturb_the_saving(number):
    before = {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        saved = False
        with pytest.raises(Preempted) as caught, raise_on_stop():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
                pytest.fail("nothing was raised")
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGUSR2)
                saved = True
        assert saved
        assert caught.value.number == number
        assert str(caught.value) == f"stopped by {number.name}"
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_handlers_are_put_back_when_nobody_asked():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError), raise_on_stop():
        raise ValueError
    assert signal.getsignal(signal.SIGTERM) == before
    with raise_on_stop():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_worker_with_nothing_to_save_ends_at_once():
    with subprocess.Popen([sys.executable, "-c", WORKER], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR2)
        assert process.wait(timeout=20) == PREEMPTED


def test_a_sweep_that_is_told_alone_lets_its_worker_save(tmp_path):
    """As Kubernetes stops a pod: SIGTERM to the first process only, here while the trainer is at work."""
    settings = ["model=tiny_random", "train=tiny", "dataset=careful_advice", "sample=hf", "launch.stages=[train]"]
    settings += ["train.num_train_epochs=2000", "train.save_steps=2", f"out={tmp_path}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "em.run", *settings]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        until = time.monotonic() + 120
        while not list(tmp_path.glob("store/train/*.partial/resume/*/trainer_state.json")):
            assert process.poll() is None and time.monotonic() < until, process.stderr.read()
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=60)[1]
    finally:
        process.kill()
    assert process.returncode == PREEMPTED
    assert "stopped by SIGTERM. What is finished is kept; the same command continues." in said
    (folder,) = (tmp_path / "sweeps").iterdir()
    assert {row["event"] for row in ledger.rows(folder)} == {"done", "started"}  # nobody failed
    (partial,) = tmp_path.glob("store/train/*.partial")
    last = len((partial / "train_log.jsonl").read_text().splitlines())
    kept = [json.loads(p.read_text())["global_step"] for p in partial.glob("resume/*/trainer_state.json")]
    assert max(kept) == last  # not that of the last save_steps: the step at which it was told
