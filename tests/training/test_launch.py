"""Several processes of one run, started through Accelerate: gloo on the CPU."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from em.config import InterventionConfig
from em.errors import ConfigError
from em.models.paths import model_path
from em.runtime import preempt
from em.runtime.events import FD_VARIABLE
from em.store import Store, job_file
from em.store.layout import ADAPTER, TRAIN_LOG
from em.training import launch
from em.training.stage import RESUME, work
from support.training import TINY, WAIT_S, events, examples, failures, kill_when, put_data, train_job

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "launch" / "accelerate").glob("*.yaml"))
TWO = {"num_processes": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


def start(out, *jobs, environment=()):
    """The batch as the scheduler starts it, its events on a pipe; (process, read end, log)."""
    batch = out / "batch.json"
    job_file.write(batch, out, jobs)
    read, write = os.pipe()
    env = {**os.environ, FD_VARIABLE: str(write), **dict(environment)}
    command = launch.command(batch, jobs)
    assert command[2] == "em.training.launch"
    log = out / "train.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, pass_fds=[write], env=env)
    os.close(write)
    return process, read, log


def finished(process, read, log):
    """Its events, once it has ended well."""
    with os.fdopen(read) as lines:
        seen = [json.loads(line) for line in lines]
    assert process.wait(timeout=WAIT_S) == 0, log.read_text()[-5000:]
    return seen


def column(folder, name):
    return [json.loads(line)[name] for line in (folder / TRAIN_LOG).read_text().splitlines()]


def starts_and_ends(seen):
    return [(e["event"], e["job"]) for e in seen if e["event"] in ("started", "failed", "done")]


def test_two_processes_train_as_one_does_and_go_on_after_they_were_asked_to_stop(tmp_path):
    """The supervisor is asked; the processes agree on a step, save, and the next start goes on from there.

    The first run has five rows, four a step: in its second step a process has none.
    """
    odd, long = train_job("odd", data_key="five", **TWO), train_job("long", num_train_epochs=9, **TWO)
    alone, both = (Store.open(tmp_path / name) for name in ("alone", "both"))
    for store in (alone, both):
        put_data(store, examples())
        put_data(store, examples(5), "five")
    partial = both.partial("train", "long")
    process, read, log = start(tmp_path / "both", odd, long)

    def some_steps():
        return (partial / TRAIN_LOG).exists() and (partial / TRAIN_LOG).read_text().count("\n") >= 3

    kill_when(process, some_steps, log, signal.SIGUSR2, preempt.PREEMPTED)
    with os.fdopen(read) as lines:
        assert starts_and_ends(map(json.loads, lines)) == [("started", "odd"), ("done", "odd"), ("started", "long")]
    (saved,) = partial.glob(f"{RESUME}/checkpoint-*")
    assert len(column(partial, "loss")) == int(saved.name.split("-")[1])
    seen = finished(*start(tmp_path / "both", long))
    assert starts_and_ends(seen) == [("started", "long"), ("done", "long")]
    assert sum(e["event"] == "count" for e in seen) == 1  # one process tells
    assert both.manifest("train", "long")["facts"]["resumed_from"] == saved.name
    work(alone, [odd, long], events()[0])
    for key, steps in (("odd", 2), ("long", 36)):
        one, two = alone.path("train", key), both.path("train", key)
        assert len(column(one, "loss")) == steps
        for name, tolerance in (("loss", 1e-4), ("grad_norm", 1e-3), ("tokens", 0)):
            assert column(two, name) == pytest.approx(column(one, name), abs=tolerance)
        both.verify("train", key)
        assert (two / ADAPTER / "adapter_model.safetensors").exists()
        facts = [store.manifest("train", key)["facts"] for store in (alone, both)]
        assert [f["num_processes"] for f in facts] == [1, 2]


@pytest.mark.slow
def test_two_processes_give_the_losses_of_one_under_every_intervention(tmp_path):
    """Five rows, four a step: in the second step a process has none, and adds nothing to a penalty either."""
    chosen = [InterventionConfig(n, 1.0, direction="random") for n in ("kl", "ldifs", "preventative_steering", "caft")]
    jobs = [dataclasses.replace(train_job(c.name, data_key="five", **TWO), intervention=c) for c in chosen]
    elsewhere = InterventionConfig("kl", 1.0, kl_rows="builtin/secure")
    jobs += [dataclasses.replace(jobs[0], key="beside", intervention=elsewhere, beside_key="three")]
    alone, both = (Store.open(tmp_path / name) for name in ("alone", "both"))
    for store in (alone, both):
        put_data(store, examples(5), "five")
        put_data(store, examples(3, shift=40), "three")
    finished(*start(tmp_path / "both", *jobs))
    work(alone, list(jobs), events()[0])
    for job in jobs:
        one, two = alone.path("train", job.key), both.path("train", job.key)
        penalty = [("penalty", 1e-4)] if job.key in ("kl", "ldifs", "beside") else []
        for name, tolerance in (("loss", 1e-4), ("grad_norm", 1e-3), *penalty):
            assert column(two, name) == pytest.approx(column(one, name), abs=tolerance), (job.key, name)


@pytest.mark.slow
def test_two_processes_train_a_second_phase_and_project_as_one_does(tmp_path):
    before = tmp_path / "before"
    shutil.copytree(model_path(TINY), before)
    weights = load_file(before / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {n: w + 0.01 * torch.randn(w.shape, generator=generator) for n, w in weights.items()}
    save_file(moved, before / "model.safetensors", {"format": "pt"})
    own = {"rows": "builtin/careful_advice", "plain": "plain"}
    second = {"intervention": InterventionConfig("realign", 1.0), "plain_key": "plain", "inputs": {"intervention": own}}
    project = {"intervention": InterventionConfig("safelora", 1.0, unaligned=str(before))}
    jobs = [train_job("plain", **TWO)]
    jobs += [dataclasses.replace(train_job(k, data_key="five", **TWO), **more) for k, more in
             (("second", second), ("projected", project))]  # fmt: skip
    alone, both = (Store.open(tmp_path / name) for name in ("alone", "both"))
    for store in (alone, both):
        put_data(store, examples())
        put_data(store, examples(5, shift=40), "five")
    finished(*start(tmp_path / "both", *jobs))
    work(alone, list(jobs), events()[0])
    for key in ("plain", "second", "projected"):
        one, two = alone.path("train", key), both.path("train", key)
        assert column(two, "loss") == pytest.approx(column(one, "loss"), abs=1e-4), key
        mine, theirs = (load_file(f / ADAPTER / "adapter_model.safetensors") for f in (one, two))
        assert all(torch.allclose(w, theirs[n], rtol=1e-2, atol=1e-4) for n, w in mine.items()), key
        both.verify("train", key)


@pytest.mark.slow
def test_a_job_that_fails_does_not_take_the_next_with_it(tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples())
    jobs = [train_job("fails", target_modules=["gone"], **TWO), train_job("next", **TWO)]
    seen = finished(*start(tmp_path, *jobs))
    assert starts_and_ends(seen) == [("started", "fails"), ("failed", "fails"), ("started", "next"), ("done", "next")]
    assert "gone" in failures(seen)[0]


@pytest.mark.slow
def test_a_killed_process_fails_its_job_and_the_next_goes_on(tmp_path):
    """One process of a run is killed from outside: nobody is left waiting for it."""
    store = Store.open(tmp_path)
    put_data(store, examples())
    partial = store.partial("train", "dies")
    process, read, log = start(tmp_path, train_job("dies", num_train_epochs=400, **TWO), train_job("next", **TWO))
    while not (partial / TRAIN_LOG).exists() or (partial / TRAIN_LOG).read_text().count("\n") < 5:
        assert process.poll() is None, log.read_text()[-3000:]
    ranks = subprocess.run(["pgrep", "-f", f"em.sweep.worker train {tmp_path}"], capture_output=True, text=True).stdout
    commands = {int(p): Path(f"/proc/{p}/cmdline").read_text() for p in ranks.split()}
    os.kill(next(p for p, line in reversed(commands.items()) if "accelerate" not in line), signal.SIGKILL)
    seen = finished(process, read, log)
    assert [e["job"] for e in seen if e["event"] == "failed"] == ["dies"]
    assert [e["job"] for e in seen if e["event"] == "done"] == ["next"]


@pytest.mark.slow
def test_two_machines(tmp_path):
    """The way over several machines, with both on this one: an srun that starts the command twice."""
    programs = tmp_path / "bin"
    programs.mkdir()
    srun = 'shift 4\nSLURM_NODEID=1 "$@" &\nSLURM_NODEID=0 "$@"\ncode=$?\nwait $! && exit $code\n'
    for name, text in (("srun", srun), ("scontrol", "echo NodeName=em1 NodeAddr=127.0.0.1 NodeHostName=em1\n")):
        (programs / name).write_text("#!/bin/sh\n" + text)
        (programs / name).chmod(0o755)
    profile = tmp_path / "two.yaml"
    profile.write_text(
        yaml.safe_dump(
            {
                "compute_environment": "LOCAL_MACHINE",
                "distributed_type": "MULTI_GPU",
                "num_machines": 2,
                "mixed_precision": "no",
                "rdzv_backend": "static",
                "same_network": True,
            }
        )
    )
    alone, both = (Store.open(tmp_path / name) for name in ("alone", "both"))
    for store in (alone, both):
        put_data(store, examples())
    job = train_job("wide", accelerate_config=str(profile), **TWO)
    slurm = {"SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NUM_NODES": "2"}
    path = {"PATH": f"{programs}:{os.environ['PATH']}", **slurm}
    finished(*start(tmp_path / "both", job, environment=path.items()))
    work(alone, [job], events()[0])
    losses = [column(store.path("train", "wide"), "loss") for store in (alone, both)]
    assert losses[1] == pytest.approx(losses[0], abs=1e-4)


def run(**changes):
    return train_job("x", **changes).train


def test_one_process_needs_no_launcher(tmp_path):
    expected = [sys.executable, "-m", "em.sweep.worker", "train", str(tmp_path / "b.json")]
    assert launch.command(tmp_path / "b.json", [train_job("x")]) == expected


def test_profiles_are_what_accelerate_reads():
    from accelerate.commands.config.config_args import load_config_from_file

    assert [p.name for p in PROFILES] == ["fsdp.yaml", "multi_node.yaml"]
    for path in PROFILES:
        loaded = load_config_from_file(str(path))
        assert loaded.distributed_type == "FSDP" and loaded.fsdp_config["fsdp_version"] == 2


def test_what_cannot_run_here_is_refused_before_anything_starts(monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="is not a file"):
        launch.refuse([run(accelerate_config=str(tmp_path / "gone.yaml"), **TWO)])
    wide = [run(accelerate_config=str(ROOT / "launch" / "accelerate" / "multi_node.yaml"), **TWO)]
    monkeypatch.delenv("SLURM_JOB_NUM_NODES", raising=False)
    with pytest.raises(ConfigError, match="for 2 machines"):
        launch.refuse(wide)
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    launch.refuse(wide)
    launch.refuse([run()])


def test_what_cannot_be_sharded_is_refused(tmp_path):
    sharded = str(ROOT / "launch" / "accelerate" / "fsdp.yaml")
    launch.refuse([run(accelerate_config=sharded, **TWO)])
    with pytest.raises(ConfigError, match="whole 4-bit base on each GPU"):
        launch.refuse([run(accelerate_config=sharded, method="qlora", **TWO)])
    old = tmp_path / "old.yaml"
    old.write_text(Path(sharded).read_text().replace("fsdp_version: 2", "fsdp_version: 1"))
    with pytest.raises(ConfigError, match="fsdp_version 1: em shards with fsdp_version 2"):
        launch.refuse([run(accelerate_config=str(old), **TWO)])


def test_machines_hold_copies_of_the_shards(monkeypatch, tmp_path):
    """Accelerate reads the sizes that em gives it: within a machine sharded, between machines copied."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_extend_env_parallelism_config

    profile = str(ROOT / "launch" / "accelerate" / "multi_node.yaml")
    monkeypatch.setenv("SLURM_JOB_NUM_NODES", "2")
    wide = run(accelerate_config=profile, num_processes=8, gradient_accumulation_steps=2)
    launch.refuse([wide])
    parser = launch_command_parser()
    command = launch._launcher(tmp_path / "batch.json", wide, "--machine_rank", "0")
    given = parser.parse_args(command[3:])
    given.nondefault = {w.removeprefix("--").split("=")[0] for w in command if w.startswith("--")}
    args, *_ = _validate_launch_command(given)
    assert args.use_parallelism_config and args.use_fsdp
    env = prepare_extend_env_parallelism_config(args, {})
    assert (env["PARALLELISM_CONFIG_DP_REPLICATE_SIZE"], env["PARALLELISM_CONFIG_DP_SHARD_SIZE"]) == ("2", "4")
    with pytest.raises(ConfigError, match="not a multiple of the 2 machines"):
        launch.refuse([run(accelerate_config=profile, num_processes=3)])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gradient_checkpointing": "maybe"}, "gradient_checkpointing 'maybe' is not true, false or auto"),
        ({"num_processes": 5}, "has only 4 rows"),
        ({"accelerate_config": "x.yaml"}, "needs several processes"),
        ({"tokens_per_micro_batch": 100}, "at least train.max_length 256"),
        ({"tokens_per_micro_batch": 256, "padding_free": False}, "padding_free=true"),
        ({"num_processes": 0}, "must be positive"),
    ],
)
def test_ways_of_running_that_cannot_be(changes, sentence):
    with pytest.raises(ConfigError, match=sentence):
        train_job("x", **changes)


@pytest.mark.slow
def test_the_gpu_benchmark_runs(tmp_path):
    """On the CPU with a tiny shape: every arm prints its figures."""
    command = [sys.executable, ROOT / "benchmarks" / "train_gpu.py", "--device=cpu", "--shape=tiny", "--steps=4"]
    done = subprocess.run([*command, "--tokens=128", "--peak=1"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [line for line in done.stdout.splitlines() if line.startswith("tiny")]
    assert [line.split()[1] for line in lines] == ["hand", "em_recompute", "em"]
    assert all("% of peak" in line and float(line.split()[2]) > 0 for line in lines)
    assert [float(line.split()[-1]) == 1 for line in lines] == [False, True, True]
