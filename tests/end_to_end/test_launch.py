"""What launch/ ships, and what can be known of a submission without a SLURM; the rest is in test_slurm.py."""

import argparse
import dataclasses
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from em import slurm
from em.commands import resume
from em.config import CONF_DIR, LaunchConfig, compose
from em.config import experiment as config
from em.config.launch import STAGES
from em.errors import ConfigError
from em.planning.plan import Job, Plan, Subject

LAUNCH = Path(__file__).parents[2] / "launch"


def planned(runs):
    """A plan of cells given as (base model, training run)."""
    plan = Plan()
    for number, (base, train) in enumerate(runs):
        key = f"{base}-{train}"
        plan.jobs["train", key] = Job("train", key, key, base, {})
        plan.cells.append(Subject(str(number), str(number), None, key, ()))
    return plan


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("123456")), min_size=1), st.integers(1, 5))
def test_every_cell_is_in_one_job_with_its_base_model_and_its_training_run(runs, size):
    plan = planned(runs)
    found = slurm.shares(plan, size)
    assert sorted(cell for share in found for cell in share) == sorted(c.id for c in plan.cells)
    of = {c.id: c.train_key for c in plan.cells}
    for share in found:
        assert len({of[cell][0] for cell in share}) == 1
        assert len(share) <= size or len({of[cell] for cell in share}) == 1
    jobs = [{of[cell] for cell in share} for share in found]
    assert len(set().union(*jobs)) == sum(map(len, jobs))  # no training run in two jobs


def test_shares_are_filled_in_the_order_of_the_sweep():
    plan = planned([("a", "1"), ("a", "2"), ("b", "3"), ("a", "4"), ("a", "1")])
    assert slurm.shares(plan, 2) == [("0", "4"), ("1", "3"), ("2",)]
    assert slurm.shares(plan, 1) == [("0", "4"), ("1",), ("3",), ("2",)]


def test_a_cell_behind_a_training_run_shares_its_job():
    plan = planned([("a", "1"), ("a", "2"), ("a", "3")])
    plan.jobs["train", "a-3"] = dataclasses.replace(plan.jobs["train", "a-3"], batch="a, after plain")
    plan.cells[2] = dataclasses.replace(plan.cells[2], requires=(("data", "d"), ("train", "a-1")))
    assert slurm.shares(plan, 1) == [("0", "2"), ("1",)]


@cache
def settings(*overrides, folder=None):
    """hydra.launcher as the command line gives it. Not to be changed."""
    search = [f"hydra.searchpath=[file://{folder}]"] if folder else []
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        cfg = hydra_compose("config", overrides=[*search, *overrides], return_hydra_config=True)
    found = OmegaConf.to_container(cfg.hydra.launcher)
    assert found.pop("_target_") == "hydra_plugins.em_slurm.SlurmLauncher"
    return found


@cache
def configs(*overrides):
    config.register()
    return [config.load(cell) for cell in compose.cells(list(overrides))]


class Sweep:
    """As much of a sweep as the parameters of its jobs need."""

    def __init__(self, folder, *cells):
        loaded = [config for overrides in cells for config in configs(*overrides)]
        self.plan = Plan(cells=[Subject(str(n), "a cell", c, None, ()) for n, c in enumerate(loaded)])
        self.folder = folder


API = ["model=gpt_4o_mini", "train=openai", "sample=openai", "judge=gpt_4o"]


def parameters(stage, *cells, **changed):
    """Of a stage's job; cells as lists of overrides."""
    sweep = Sweep(Path("/x/em-1"), *(cells or [["judge=gpt_4o"]]))
    submission = slurm._Submission(sweep, settings("hydra/launcher=slurm") | changed)
    return submission._parameters(stage, "aftercorr:7")


def test_a_stage_gets_the_settings_of_its_own():
    given = {"partition": "gpu", "gpus_per_node": 4, "mem_gb": 64, "cpus_per_task": 8}
    given |= {"cpu": {"partition": "cpu", "mem_gb": 4}, "train": {"nodes": 2}, "report": {"timeout_min": 5}}
    train, sample, judge, report = (parameters(stage, **given) for stage in STAGES)
    assert (train["partition"], train["gpus_per_node"], train["mem"], train["nodes"]) == ("gpu", 4, "64GB", 2)
    assert train["srun_args"] == ["--nodes=1", "--ntasks=1", "--cpus-per-task=8"]  # one process leads
    assert (sample["gpus_per_node"], sample["nodes"], sample["srun_args"]) == (4, 1, ["--cpus-per-task=8"])
    assert (judge["partition"], judge["mem"], judge["job_name"]) == ("cpu", "4GB", "em-1-judge")
    assert "gpus_per_node" not in judge and "gpus_per_node" not in report
    assert (judge["time"], report["time"]) == (240, 5)
    assert judge["dependency"] == "aftercorr:7"
    assert judge["additional_parameters"]["kill-on-invalid-dep"] == "yes"
    local = parameters("judge", ["judge=probe"], **given)
    assert (local["partition"], local["gpus_per_node"]) == ("gpu", 4)  # it reads the base model


@pytest.mark.parametrize(
    ("cells", "with_gpu"),
    [
        ([API], ()),
        ([API, ["judge=gpt_4o"]], ("train", "sample")),  # one array for both kinds of cells
        ([["judge=gpt_4o", "sample=vllm_server"]], ("train", "sample")),
        ([["judge=gpt_4o", "sample=vllm_server", "sample.base_url=http://elsewhere/v1"]], ("train",)),
        ([["judge=vllm_local", "judge.model=m"]], ("train", "sample", "judge")),
    ],
)
def test_only_what_computes_here_asks_for_a_gpu(cells, with_gpu):
    found = {stage: parameters(stage, *cells, gpus_per_node=2) for stage in STAGES}
    assert tuple(stage for stage in STAGES if "gpus_per_node" in found[stage]) == with_gpu
    assert {found[s]["time"] for s in STAGES} == {240}


@pytest.mark.parametrize("layer", ["cpu", "train"])
@pytest.mark.parametrize("name", ["partitoin", "cpu"])
def test_a_wrong_setting_of_a_stage_is_named(layer, name):
    with pytest.raises(ConfigError, match=f"hydra.launcher.{layer}.{name}: the launcher has no such setting"):
        parameters("report" if layer == "cpu" else "train", **{layer: {name: 1}})


def test_submitit_takes_every_parameter(tmp_path, monkeypatch):
    import submitit

    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    executor = submitit.SlurmExecutor(tmp_path)
    for stage in STAGES:
        executor.update_parameters(**parameters(stage, cpus_per_task=2, mem_gb=4, setup=["module load cuda"]))


def test_the_site_file_composes_to_the_launchers_settings(tmp_path):
    target = tmp_path / "hydra" / "launcher" / "mysite.yaml"
    target.parent.mkdir(parents=True)
    shutil.copy(LAUNCH / "slurm" / "site.yaml", target)
    found = settings("hydra/launcher=mysite", "hydra.launcher.partition=gpu", folder=tmp_path)
    assert (found["partition"], found["cells_per_job"], found["cpu"]["mem_gb"]) == ("gpu", 1, 16)
    plain = settings("hydra/launcher=slurm")
    assert set(found) == set(plain)
    named = set(yaml.safe_load((LAUNCH / "slurm" / "site.yaml").read_text())) - {"defaults"}
    assert named <= set(plain)


def test_stages_are_checked():
    assert LaunchConfig().stages == ["train", "sample", "judge", "report"]
    with pytest.raises(
        ConfigError, match=r"launch\.stages must be some of train, sample, judge, report, got \['trian'\]"
    ):
        LaunchConfig(stages=["trian"])


def program(folder, name, *lines):
    """A program on the PATH that says these lines whatever it is asked."""
    path = folder / name
    path.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_what_squeue_has_forgotten_sacct_knows(tmp_path, monkeypatch):
    """The lines are of a real slurmctld and slurmdbd (22.05): array elements and ranges, "CANCELLED by", exit codes."""
    program(tmp_path, "squeue", "12_1|RUNNING|None", "13_1|PENDING|Dependency")
    program(tmp_path, "sacct", "12_0|FAILED|1:0", "12_[1-2]|PENDING|0:0", "14|CANCELLED by 0|0:0")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    ids = ["12_0", "12_1", "13_1", "14", "15"]
    rows = [{"id": i, "stage": "train", "labels": ["secure"], "log": "x.out"} for i in ids]
    (tmp_path / "jobs.json").write_text(json.dumps({"format": 1, "jobs": rows}))
    found = slurm.job_states(tmp_path / "jobs.json")
    assert {i: (s.state, s.reason) for i, s in found.items()} == {
        "12_0": ("FAILED", "1:0"),
        "12_1": ("RUNNING", ""),
        "13_1": ("PENDING", "Dependency"),
        "14": ("CANCELLED", ""),
        "15": ("UNKNOWN", ""),
    }
    said = slurm.lines(tmp_path)
    assert said[0] == "slurm: 1 CANCELLED, 1 FAILED, 1 PENDING, 1 RUNNING, 1 UNKNOWN"
    assert said[1].split() == ["12_0", "train", "FAILED", "(1:0)", "secure", "x.out"]
    assert said[-1].split() == ["13", "train", "PENDING", "(Dependency)", "1", "jobs"]  # an array that waits is a line
    assert slurm.in_queue(tmp_path)


def test_what_is_in_the_queue_is_not_resumed_here(tmp_path, monkeypatch):
    program(tmp_path, "squeue", "12_0|RUNNING|None")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    rows = [{"id": "12_0", "stage": "train", "labels": ["secure"], "log": "x.out"}]
    (tmp_path / "jobs.json").write_text(json.dumps({"format": 1, "command": "em", "jobs": rows}))
    with pytest.raises(ConfigError, match=r"12_0 is RUNNING.*`scancel 12`"):
        resume.run(argparse.Namespace(folder=tmp_path))


def test_a_damaged_list_of_jobs_is_named(tmp_path):
    (tmp_path / "jobs.json").write_text('{"jobs": [{"id": "1"}]}')
    with pytest.raises(ConfigError, match=r"jobs\.json is not a list of submitted jobs"):
        slurm.job_states(tmp_path / "jobs.json")


def test_the_kubernetes_job_wraps_the_same_command():
    claim, job = yaml.safe_load_all((LAUNCH / "kubernetes" / "job.yaml").read_text())
    assert (claim["kind"], job["kind"], job["apiVersion"]) == ("PersistentVolumeClaim", "Job", "batch/v1")
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {v["name"] for v in pod["volumes"]} == {m["name"] for m in container["volumeMounts"]}
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    codes = job["spec"]["podFailurePolicy"]["rules"][0]["onExitCodes"]
    assert (codes["values"], codes["containerName"]) == ([75], container["name"])
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy asks for
    entry = (LAUNCH / "Containerfile").read_text().split("ENTRYPOINT", 1)[1]
    composes(container["args"], json.loads(entry))
    mounts = {m["mountPath"] for m in container["volumeMounts"]}
    assert "/em" in mounts and "out=/em/outputs" in json.loads(entry)


def test_the_skypilot_task_wraps_the_same_command():
    task = yaml.safe_load((LAUNCH / "skypilot" / "em.yaml").read_text())
    known = {"name", "workdir", "resources", "file_mounts", "envs", "secrets", "setup", "run"}
    assert set(task) == known
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert "$EM_ARGS" in task["run"] and "out=/em/" in task["run"] and "/em" in task["file_mounts"]
    composes(task["envs"]["EM_ARGS"].split(), task["run"].split())


def composes(arguments, command):
    """The command runs em, and its overrides are ones that em has."""
    assert "em.run" in command
    overrides = [a for a in [*arguments, *command] if "=" in a]
    with initialize_config_dir(version_base="1.3", config_dir=CONF_DIR):
        hydra_compose("config", overrides=[o.split(",")[0] for o in overrides])


def test_the_shell_script_parses():
    subprocess.run(["bash", "-n", str(LAUNCH / "ssh" / "run.sh")], check=True)


@pytest.fixture
def box(tmp_path):
    """The command that logs into this machine over a real sshd on loopback, with keys made for the occasion."""
    sshd = shutil.which("sshd", path=f"{os.environ['PATH']}:/usr/sbin")
    if sshd is None:
        pytest.skip("sshd is not installed (openssh-server)")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {tmp_path}/user.pub\nPasswordAuthentication no\nPermitRootLogin prohibit-password\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # where sshd shuts itself in; systemd makes it otherwise
    known = f"[127.0.0.1]:{port} " + " ".join((tmp_path / "host.pub").read_text().split()[:2]) + "\n"
    (tmp_path / "known_hosts").write_text(known)
    process = subprocess.Popen([sshd, "-D", "-e", "-f", str(tmp_path / "sshd_config")], stderr=subprocess.DEVNULL)
    ssh = f"ssh -p {port} -i {tmp_path}/user -o BatchMode=yes -o UserKnownHostsFile={tmp_path}/known_hosts"
    try:
        until = time.monotonic() + 20
        while subprocess.run([*ssh.split(), "127.0.0.1", "true"], capture_output=True, check=False).returncode:
            assert time.monotonic() < until and process.poll() is None, "sshd does not answer"
            time.sleep(0.1)
        yield ssh
    finally:
        process.terminate()
        process.wait()


def test_ssh_copies_runs_follows_and_passes_the_exit_code_on(box, tmp_path):
    """A real run of the shell script over ssh. The other side's installation is this one's, behind a .venv that is up
    to date for make."""
    there = tmp_path / "another machine" / "em"
    python = there / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="$PWD:$PWD/launch" exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    for build in ("cpu", "cuda"):
        stamp = there / ".venv" / f".installed-{build}"
        stamp.touch()
        os.utime(stamp, (time.time() + 3600,) * 2)

    def run(*arguments):
        command = [str(LAUNCH / "ssh" / "run.sh"), "127.0.0.1", str(there), *arguments]
        environment = {**os.environ, "EM_SSH": box}
        return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    shown = run("--cfg", "job", "name=two words", "dataset=secure")
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "name: two words" in shown.stdout and "variant: secure" in shown.stdout
    wrong = run("dataset=nosuch")
    assert wrong.returncode == 1
    assert "nosuch" in wrong.stdout
    (there / "outputs" / "sweeps" / "em-1").mkdir(parents=True)
    (there / "outputs" / "sweeps" / "em-1" / "table.txt").write_text("a table")
    assert run("fetch").returncode == 0
    assert (tmp_path / "outputs" / "sweeps" / "em-1" / "table.txt").read_text() == "a table"
