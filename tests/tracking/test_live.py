"""Training curves in W&B while they come: the real client against a loopback stand-in, the log of a run growing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from em.config import TrackingConfig, TrackingMode
from em.store import Store, job_file
from em.tracking import job
from em.tracking.job import CellNumbers, LiveJob, Run, TrackJob
from support.tiny_sweep import command
from support.wandb import WandbServer
from support.wandb_worker import work

KEY = "feed"
ONLINE = ["tracking.mode=online", "tracking.project=em", "train.max_examples=null", "train.num_train_epochs=12"]


def environment(server, home):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("WANDB")}
    own = {"WANDB_BASE_URL": server.address, "WANDB_API_KEY": "k" * 40, "HOME": str(home), "WANDB_SILENT": "true"}
    return {**clean, **own, "WANDB_ERROR_REPORTING": "false", "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1"}


def wait_for(what, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if what():
            return True
        time.sleep(0.05)
    return False


class Training:
    """What a trainer writes down, a step at a time, and a follower of it for two cells."""

    def __init__(self, out, server):
        self.out, self.server, self.store = out, server, Store.open(out)
        self.folder = self.store.partial("train", KEY)
        self.folder.mkdir(parents=True)
        self.ledger = out / "ledger.jsonl"
        self.runs = [self.run(name) for name in ("a", "b")]

    def run(self, name):
        return Run(
            key=name, id=f"em-{name}", label=name, sweep="em-1", tags=("tiny",), config={"seed": 1},
            mode=TrackingMode.online, folder=str(self.out / name), out=str(self.out),
            tracking=TrackingConfig(project="em", entity=None, samples=0),
        )  # fmt: skip

    def row(self, step):
        return {"step": step, "loss": 8.0 / step}

    def write(self, first, last):
        with (self.folder / "train_log.jsonl").open("a") as file:
            for step in range(first, last + 1):
                file.write(json.dumps(self.row(step)) + "\n")

    def follow(self):
        batch = self.out / "live.json"
        trainings = (job.Training(key=KEY, runs=tuple(self.runs)),)
        job_file.write(batch, self.out, [LiveJob(ledger=str(self.ledger), offset=0, trainings=trainings)])
        log = (self.out / "live.log").open("w")
        return subprocess.Popen(
            [sys.executable, "-m", "em.sweep.worker", "live", str(batch)],
            stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, env=environment(self.server, self.out),
        )  # fmt: skip

    def steps(self, name):
        history = self.server.runs.get(f"em-{name}", {"history": []})["history"]
        return [row["train/step"] for row in history if row and "train/step" in row]

    def track(self):
        """What the sweep does at its end."""
        numbers = CellNumbers(
            model={"metrics": []},
            checkpoints=[],
            judge={"name": "j"},
            commit="c",
            rows=[],
            training=[self.row(step) for step in range(1, 9)],
        )
        jobs = [TrackJob(run=run, cell=numbers) for run in self.runs]
        work(self.out, jobs, **environment(self.server, self.out))


@pytest.fixture
def training(tmp_path):
    with WandbServer() as server:
        yield Training(tmp_path, server)


def test_rows_arrive_while_it_trains_and_none_comes_twice(training):
    """Stopped in the middle it goes on in its run: its log begins again from the last checkpoint, step 2."""
    training.write(1, 3)
    follower = training.follow()
    assert wait_for(lambda: training.steps("a") == training.steps("b") == [1, 2, 3])
    assert not training.store.has("train", KEY) and training.server.runs["em-a"]["exitcode"] is None
    training.write(4, 4)
    follower.send_signal(signal.SIGUSR2)  # as SLURM does, to every process
    follower.stdin.write(b"stopped\n")
    follower.stdin.close()
    assert follower.wait(60) == 0 and training.server.runs["em-a"]["exitcode"] == 75
    assert training.steps("a") == training.steps("b") == [1, 2, 3, 4]

    (training.folder / "train_log.jsonl").unlink()
    training.write(1, 8)
    training.store.finish("train", KEY, {}, {})
    assert training.follow().wait(60) == 0
    run = training.server.runs["em-a"]
    assert run["exitcode"] == 0 and run["group"] == "em-1" and run["config"]["seed"]["value"] == 1
    training.track()
    training.track()  # other numbers of the same cell are logged again, its curve is not
    for name in ("a", "b"):
        assert training.steps(name) == list(range(1, 9))
    assert [r["train/loss"] for r in run["history"] if "train/step" in r] == [8.0 / s for s in range(1, 9)]
    assert training.server.sessions["em-a"] == 4 and set(training.server.runs) == {"em-a", "em-b"}


def test_wandb_core_killed_in_the_middle_ends_the_follower_alone(training):
    training.write(1, 3)
    follower = training.follow()
    assert wait_for(lambda: "em-b" in training.server.runs)
    for pid in children(follower.pid):
        if b"wandb-core" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    training.write(4, 5)
    assert follower.wait(60) == 1
    assert "live tracking ended: " in (training.out / "live.log").read_text()
    assert training.steps("b") == []  # what its helper held is lost, and comes with the results
    training.track()
    for name in ("a", "b"):
        assert training.steps(name) == list(range(1, 9))


def test_a_failed_training_is_a_failed_run(training):
    training.write(1, 2)
    row = {"event": "failed", "stage": "train", "key": KEY, "error": "no"}
    training.ledger.write_text('{"event": "fai\n' + json.dumps(row) + "\n")
    assert training.follow().wait(60) == 0
    assert training.server.runs["em-a"]["exitcode"] == training.server.runs["em-b"]["exitcode"] == 1
    assert training.steps("a") == training.steps("b") == [1, 2]


def children(pid):
    listed = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in listed.split()]


@pytest.mark.slow
def test_a_sweep_shows_its_curves_while_it_trains(tmp_path):
    """Two cells that share a training: each has its own run, and both curves grow before the weights are there."""
    with WandbServer() as server:
        process = subprocess.Popen(
            command(tmp_path, "dataset=risky_advice", "sample.temperature=0.7,1.0", *ONLINE),
            env=environment(server, tmp_path / "home") | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

        def early():
            trained = [p for p in (tmp_path / "store" / "train").glob("*") if (p / "manifest.json").exists()]
            grown = [len(run["history"]) for run in server.runs.values()]
            return process.poll() is not None or (len(grown) == 2 and min(grown) > 1 and not trained)

        assert wait_for(early, 120) and process.poll() is None, process.communicate()[0][-3000:]
        text = process.communicate(timeout=300)[0]
        assert process.returncode == 0, text[-3000:]
        (trained,) = (tmp_path / "store" / "train").glob("*/train_log.jsonl")
        want = [json.loads(line)["step"] for line in trained.read_text().splitlines()]
        named = {run["displayName"]: run for run in server.runs.values()}
        assert sum("untouched" in name for name in named) == 2, "one for each temperature"
        cells = [run for name, run in named.items() if "figures" not in name and "untouched" not in name]
        assert len(cells) == 2
        for run in cells:
            assert [r["train/step"] for r in run["history"] if "train/step" in r] == want
            assert run["exitcode"] == 0 and "open/misaligned_rate_n" in run["summary"]


@pytest.mark.slow
def test_a_sweep_does_not_wait_for_a_network_that_is_gone(tmp_path):
    with WandbServer() as server:
        gone = environment(server, tmp_path / "home")
    shutil.rmtree(tmp_path / "home", ignore_errors=True)
    done = subprocess.run(
        command(tmp_path, "dataset=risky_advice", "tracking.mode=online", "tracking.timeout_s=5"),
        env=gone | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    text = done.stdout + done.stderr
    assert done.returncode in (0, 1) and "Traceback" not in text, text[-3000:]
    assert "they are logged with the results" in text and list(tmp_path.glob("sweeps/*/summary.json"))
