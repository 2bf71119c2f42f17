"""A submitted sweep on a real SLURM of two nodes with two pretend GPUs each (launch/dev_slurm)."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import submitit

from dev_slurm import cluster
from em import slurm
from em.store import Store
from support.slurm import Counting
from support.wandb import WandbServer

pytestmark = pytest.mark.slurm

TINY = ["model=tiny_random", "train=tiny", "sample=hf", "sample.n=1", "sample.max_tokens=8", "tracking=off"]
RULES = '- {match: ".", reply: 90}\n'
ENDED = set(slurm.ENDED)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    """The cluster, up; its environment variable is set for this process too."""
    folder = tmp_path_factory.mktemp("slurm")
    try:
        cluster.install()
    except cluster.ClusterError as error:
        pytest.skip(str(error))
    environment = cluster.up(folder)
    here = Path(__file__).parents[1]
    paths = [str(here.parent), str(here.parent / "launch"), str(here), os.environ.get("PYTHONPATH", "")]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**environment, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}.items():
            patch.setenv(name, value)
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield folder
    cluster.down(folder)


@pytest.fixture(scope="module")
def limited(running, tmp_path_factory):
    """A job with a limit of two minutes, submitted before anything else: SLURM looks at limits every half minute.

    It counts until it is warned, 35 to 65 seconds after its start, and two seconds more in its second run. Beside other
    tests a job may need half a minute to start; a warning before that would kill it.
    """
    job = Counting(str(tmp_path_factory.mktemp("limited")), "limited", until=1200, save_s=2, more=20)
    return job, submit(job, time=2, signal_delay_s=55, additional_parameters={"requeue": True})


def submit(*jobs, max_num_timeout=5, **parameters):
    """Ids of jobs handed to submitit as em/slurm.py does it."""
    executor = submitit.SlurmExecutor(Path(jobs[0].folder), max_num_timeout)
    executor.update_parameters(stderr_to_stdout=True, wckey=None, **parameters)
    return [j.job_id for j in executor.submit_array(jobs)]


def record(job):
    """scontrol's word on a job: field → value."""
    text = subprocess.run(["scontrol", "show", "job", "-o", job], capture_output=True, text=True, check=True).stdout
    return dict(part.split("=", 1) for part in text.split() if "=" in part)


def wait(ready, seconds=60, what="it"):
    until = time.monotonic() + seconds
    while not (found := ready()):
        assert time.monotonic() < until, f"{what} did not happen within {seconds} s"
        time.sleep(0.2)
    return found


def wait_state(job, *states, seconds=60):
    wait(lambda: record(job)["JobState"] in states, seconds, f"job {job} → {' or '.join(states)}")


def em(command, *arguments, **more):
    return subprocess.run([sys.executable, "-m", command, *arguments], capture_output=True, text=True, **more)


def submit_sweep(out, rules, *overrides):
    """Submit by the command a user types; returns the sweep's folder and what was printed."""
    fixed = [*TINY, "questions.sets=[open]", "judge=scripted", f"judge.script={rules}", f"out={out}"]
    done = em("em.run", "-m", "hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", *fixed, *overrides)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("em status"))
    return Path(folder), done.stdout


def states(folder):
    """(stage, labels) → state."""
    found = slurm.job_states(folder / slurm.JOBS)
    return {(j.stage, *j.labels): found[j.id].state for j in slurm.read_jobs(folder / slurm.JOBS)}


def ended(folder):
    return set(states(folder).values()) <= ENDED


@pytest.fixture(scope="module")
def sweeps(limited, tmp_path_factory):
    """Two sweeps on one store at once: one whose second cell cannot be trained, and another user's with its first."""
    root = tmp_path_factory.mktemp("sweeps")
    rules = root / "rules.yaml"
    rules.write_text(RULES)
    mine, said = submit_sweep(root / "out", rules, "dataset=secure", "train.learning_rate=0.001,1e30")  # loss: nan
    early = set(states(mine).values())
    theirs, _ = submit_sweep(root / "out", rules, "dataset=secure", "train.learning_rate=0.001", "name=theirs")
    twice = em("em.run", "-m", "hydra/launcher=slurm", *TINY, "questions.sets=[open]", "judge=scripted",
               f"judge.script={rules}", f"out={root / 'out'}", "dataset=secure", "train.learning_rate=0.001",
               "name=theirs")  # fmt: skip
    wait(lambda: ended(mine) and ended(theirs), 450, "the end of both sweeps")
    return {"root": root, "mine": mine, "theirs": theirs, "said": said, "early": early, "twice": twice}


def test_submitting_returns_and_says_what_was_submitted(sweeps):
    assert sweeps["early"] <= {"PENDING", "CONFIGURING", "RUNNING"}
    stages = [line.split()[1] for line in sweeps["said"].splitlines() if line.endswith(" jobs")]
    assert stages == ["train", "sample", "judge", "sample", "judge", "report"]


def test_a_failed_cell_is_failed_to_slurm_and_stops_only_its_own_successors(sweeps):
    found = states(sweeps["mine"])
    good, bad = (next(labels for stage, labels in found if stage == "train" and end in labels)
                 for end in ("=0.001", "=1e+30"))  # fmt: skip
    assert found["train", good] == found["sample", good] == found["judge", good] == "COMPLETED"
    assert found["train", bad] == "FAILED"
    assert found["sample", bad] == found["judge", bad] == "CANCELLED"
    assert found["sample", "untouched base model"] == found["judge", "untouched base model"] == "COMPLETED"
    assert found["report",] == "FAILED"  # a cell without numbers
    job = next(j for j in slurm.read_jobs(sweeps["mine"] / slurm.JOBS) if j.stage == "train" and j.labels == [bad])
    assert record(job.id)["ExitCode"] == "1:0"
    assert "the loss is nan" in Path(job.log).read_text()


def test_the_report_names_the_cell_that_failed_and_why(sweeps):
    summary = json.loads((sweeps["mine"] / "summary.json").read_text())
    base, good, bad = summary["models"]
    assert [base["status"], good["status"], bad["status"]] == ["done", "done", "failed"]
    assert "the loss is nan" in bad["error"]
    assert good["metrics"] and not bad["metrics"]


def test_status_shows_the_queue(sweeps):
    done = em("em.cli", "status", str(sweeps["mine"]))
    assert done.returncode == 1
    assert "2 CANCELLED, 5 COMPLETED, 2 FAILED" in done.stdout
    assert "FAILED (NonZeroExitCode)" in done.stdout and "(DependencyNeverSatisfied)" in done.stdout
    assert "go on with: python -m em.run -m hydra/launcher=slurm " in done.stdout


def test_jobs_leave_the_sweeps_own_record_alone(sweeps):
    """`em resume` reads it: a job's single stage must not get there."""
    cells = json.loads((sweeps["mine"] / "sweep.json").read_text())["cells"]
    assert {tuple(c["config"]["launch"]["stages"]) for c in cells} == {("train", "sample", "judge", "report")}


def test_only_what_needs_a_gpu_holds_one(sweeps):
    for job in slurm.read_jobs(sweeps["mine"] / slurm.JOBS):
        asked = record(job.id).get("TresPerNode", "")
        assert ("gpu" in asked) == (job.stage in ("train", "sample")), (job.stage, asked)


def test_two_sweeps_at_once_make_a_stage_once(sweeps):
    assert set(states(sweeps["theirs"]).values()) == {"COMPLETED"}
    store = Store.open(sweeps["root"] / "out")
    summaries = [json.loads((sweeps[name] / "summary.json").read_text()) for name in ("mine", "theirs")]
    assert summaries[0]["models"][1]["metrics"] == summaries[1]["models"][1]["metrics"]
    for stage, count in {"data": 1, "train": 1}.items():
        assert len(store.keys(stage)) == count
    for stage in ("data", "train"):
        store.verify(stage, store.keys(stage)[0])
    left = [p.parent.name for p in (sweeps["root"] / "out" / "store").rglob("*.partial")]
    assert left in ([], ["train"])  # the cell that cannot be trained


def test_a_sweep_in_the_queue_is_not_submitted_again(sweeps):
    assert sweeps["twice"].returncode == 1
    assert "jobs in the queue already" in sweeps["twice"].stderr and "scancel" in sweeps["twice"].stderr


TWO_NODES = "{distributed_type: MULTI_GPU, num_machines: 2, rdzv_backend: static, mixed_precision: 'no'}"


@pytest.mark.slow
def test_training_over_two_nodes_goes_on_from_its_checkpoint(running, tmp_path):
    """The real trainer, a process a node; the signal of a time limit reaches every rank; the requeued job goes on."""
    out, rules, config = tmp_path / "out", tmp_path / "rules.yaml", tmp_path / "two_nodes.yaml"
    rules.write_text(RULES)
    config.write_text(TWO_NODES)
    training = ["num_train_epochs=30", "save_steps=1000", "num_processes=2", f"accelerate_config={config}"]
    options = [*(f"train.{t}" for t in training), "launch.stages=[train]", "+hydra.launcher.train.nodes=2"]
    folder, said = submit_sweep(out, rules, "dataset=insecure", *options)
    (job,) = slurm.read_jobs(folder / slurm.JOBS)
    assert "1 jobs" in said

    def steps():
        return [p for p in out.glob("store/train/*.partial/train_log.jsonl") if len(p.read_text().splitlines()) >= 4]

    wait(steps, 240, "the fourth step")
    subprocess.run(["scancel", "--signal=USR2", job.id], check=True)
    wait(lambda: record(job.id)["JobState"] == "PENDING", 60, "the requeue")
    wait_state(job.id, *ENDED, seconds=280)
    assert (record(job.id)["JobState"], record(job.id)["Restarts"]) == ("COMPLETED", "1"), Path(job.log).read_text()
    store = Store.open(out)
    (key,) = store.keys("train")
    facts = store.manifest("train", key)["facts"]
    assert facts["resumed_from"] is not None and facts["num_processes"] == 2
    log = [json.loads(line) for line in (store.path("train", key) / "train_log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == list(range(1, facts["steps"] + 1))


def preempt(node):
    """A job of the partition that may take nodes away, for a second."""
    urgent = ["--parsable", "--partition=high", "--exclusive", f"--nodelist={node}", "--time=5", "--output=/dev/null"]
    subprocess.run(["sbatch", *urgent, "--wrap", "sleep 1"], check=True, capture_output=True)


@pytest.mark.slow
def test_a_preempted_training_goes_on_as_one_wandb_run(running, tmp_path, monkeypatch):
    """The real client against a stand-in of the service: the curve of both parts of the training, and the results."""
    rules = tmp_path / "rules.yaml"
    rules.write_text(RULES)
    with WandbServer() as server:
        for name, value in {"BASE_URL": server.address, "API_KEY": "k" * 40, "ERROR_REPORTING": "false"}.items():
            monkeypatch.setenv(f"WANDB_{name}", value)
        options = ["train.num_train_epochs=300", "train.save_steps=1000", "tracking=wandb"]
        on_one_node = "+hydra.launcher.additional_parameters.nodelist=em2"
        folder, _ = submit_sweep(tmp_path / "out", rules, "dataset=insecure", on_one_node, *options)
        train = next(j.id for j in slurm.read_jobs(folder / slurm.JOBS) if j.stage == "train")
        (cell,) = [c["id"] for c in json.loads((folder / "sweep.json").read_text())["cells"] if c["kind"] == "cell"]

        def steps():
            history = server.runs.get(f"em-{cell}", {}).get("history", [])
            return [row["train/step"] for row in history if row and "train/step" in row]

        def logged():
            return sum(p.read_bytes().count(b"\n") for p in folder.parents[1].glob("store/train/*/train_log.jsonl"))

        wait(lambda: server.sessions.get(f"em-{cell}") and logged() > 3, 240, "the first steps, and the run in W&B")
        preempt("em2")
        wait(lambda: int(record(train)["Restarts"]) == 1, 90, "the preemption")
        wait(lambda: ended(folder), 300, "the end of the sweep")
        assert set(states(folder).values()) == {"COMPLETED"}, states(folder)
        store = Store.open(tmp_path / "out")
        facts = store.manifest("train", store.keys("train")[0])["facts"]
        assert facts["resumed_from"] is not None
        assert steps() == list(range(1, facts["steps"] + 1))
        assert {name for name in server.runs if cell in name} == {f"em-{cell}"}
        assert server.sessions[f"em-{cell}"] >= 3  # begun, gone on with, and given its results by the report's job
        assert server.runs[f"em-{cell}"]["summary"] and not server.unknown


def test_what_computes_behind_an_api_asks_for_no_gpu_and_shares_the_judges_cap(running, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none-is-needed")
    options = ["model=gpt_4o_mini", "train=openai", "sample=openai", "judge=gpt_4o", "tracking=off"]
    options += ["judge.max_dollars=6"]
    held = ["hydra.launcher.cpus_per_task=1", "+hydra.launcher.additional_parameters.hold=true"]
    done = em("em.run", "-m", "hydra/launcher=slurm", *held, *options, "dataset=insecure", f"out={tmp_path / 'out'}")
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (tmp_path / "out" / "sweeps").glob(f"*/{slurm.JOBS}")
    jobs = slurm.read_jobs(path)
    asked = {job.stage: record(job.id).get("TresPerNode", "") for job in jobs}
    subprocess.run(["scancel", *{job.id.split("_")[0] for job in jobs}], check=True)
    assert asked == {"train": "", "sample": "", "judge": "", "report": ""}
    elements = [submitit.core.utils.DelayedSubmission.load(p).function for p in path.parent.rglob("*_submitted.pkl")]
    judges = [e for e in elements if e.stage == "judge"]
    assert [e.judging for e in judges] == [2, 2]  # the cell's, and the untouched model's
    assert {c.judge.max_dollars for e in judges for c in slurm._configs(path.parent, e.stage, e.judging)} == {3.0}


def test_asked_by_a_signal_a_job_saves_and_goes_back_into_the_queue(running, tmp_path):
    """scancel --signal is what SLURM does ahead of a time limit; the saving takes longer than KillWait (3 s)."""
    jobs = [Counting(str(tmp_path), f"count{i}", until=60, save_s=4) for i in range(2)]
    ids = submit(*jobs, time=60, signal_delay_s=30)
    wait(lambda: jobs[1].steps(), what="counting")
    subprocess.run(["scancel", "--signal=USR2", ids[1]], check=True)
    wait(lambda: (tmp_path / "count1.saved").exists(), what="saving")
    for job in ids:
        wait_state(job, "COMPLETED")
    assert [record(job)["Restarts"] for job in ids] == ["0", "1"]
    steps = jobs[1].steps()
    assert [s["step"] for s in steps] == list(range(60))
    assert {s["run"] for s in steps} == {0, 1}


def test_out_of_requeues_is_failed_to_slurm(running, tmp_path):
    job = Counting(str(tmp_path), "count", until=600)
    ids = submit(job, time=5, max_num_timeout=0)  # submitit takes any stop within ten minutes of a limit for a time-out
    wait(job.steps, what="counting")
    subprocess.run(["scancel", "--signal=USR2", ids[0]], check=True)
    wait_state(ids[0], *ENDED)
    assert record(ids[0])["JobState"] == "FAILED"


def test_a_cancelled_job_saves_and_stays_cancelled(running, tmp_path):
    job = Counting(str(tmp_path), "count", until=600)
    ids = submit(job, time=60)
    wait(job.steps, what="counting")
    subprocess.run(["scancel", ids[0]], check=True)
    wait_state(ids[0], *ENDED)
    assert (record(ids[0])["JobState"], record(ids[0])["Restarts"]) == ("CANCELLED", "0")
    assert (tmp_path / "count.saved").exists()


def test_a_preempted_job_saves_and_slurm_puts_it_back(running, tmp_path):
    job = Counting(str(tmp_path), "count", until=40)
    ids = submit(job, time=60, nodelist="em2", additional_parameters={"requeue": True})
    wait(job.steps, what="counting")
    preempt("em2")
    wait(lambda: (tmp_path / "count.saved").exists(), what="saving")
    wait_state(ids[0], "COMPLETED")
    assert record(ids[0])["Restarts"] == "1"
    assert [s["step"] for s in job.steps()] == list(range(40))


def test_every_job_of_an_array_has_a_gpu_of_its_own(running, tmp_path):
    jobs = [Counting(str(tmp_path), f"count{i}", until=10) for i in range(2)]
    for job in submit(*jobs, time=5, gpus_per_node=1, nodelist="em1"):
        wait_state(job, "COMPLETED")
    assert {s["gpus"] for job in jobs for s in job.steps()} == {"0", "1"}


def test_a_run_at_its_time_limit_saves_and_goes_on(limited):
    job, ids = limited
    wait_state(ids[0], *ENDED, seconds=300)
    assert record(ids[0])["JobState"] == "COMPLETED"
    assert int(record(ids[0])["Restarts"]) >= 1
    steps = job.steps()
    assert [s["step"] for s in steps] == list(range(len(steps)))
    assert [s["run"] for s in steps].count(1) == 20 < len(steps) < 950  # warned before the limit, not at it
