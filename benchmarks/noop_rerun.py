"""Run a sweep of 144 finished cells again: seconds, judge calls, and whether torch is imported.

One cell is made by the real command. The stages of the other cells are copies of its stages under their own keys, with
the facts that the real workers wrote. Then the whole sweep is run: nothing is left to do, so planning, verifying every
file and reporting are measured. The first run writes figures and report, the second finds them. Goal: 10 s, no calls.

    python benchmarks/noop_rerun.py [cells]
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from result import Result, parser

from em import config
from em.config import compose
from em.judging.scripted.server import ScriptedJudge
from em.planning.plan import plan
from em.store import Store

GOAL_S = 10.0
RULES = Path(__file__).resolve().parents[1] / "tests" / "support" / "chaos_rules.yaml"
BASE = ["model=tiny_random", "train=tiny", "sample=tiny", "sample.engine=hf", "questions.sets=[open]",
        "tracking=off", "judge=openai_compatible", "judge.model=stub"]  # fmt: skip
HEAVY = ("torch", "transformers", "trl", "vllm", "wandb", "pandas", "datasets")
SEEN = """
import atexit, os, sys
atexit.register(lambda: open(os.environ["EM_BENCH_MODULES"], "w").write(" ".join(sys.modules)))
"""


def overrides(cells):
    """Return the swept options of so many cells; the first value of each is the cell that is really run."""
    assert cells > 0 and cells % 12 == 0, "give a multiple of 12 cells"
    rates = [f"{i}e-4" for i in range(1, cells // 12 + 1)]
    return {"dataset": ["insecure", "secure", "risky_advice"], "seed": list("0123"), "train.learning_rate": rates}


def run(arguments, folder):
    """Run a sweep by the real command. Returns (seconds, heavy packages that were imported)."""
    modules = folder / "modules.txt"
    (folder / "sitecustomize.py").write_text(SEEN)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "EM_BENCH_MODULES": str(modules)}
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "em.run", "-m", *arguments], capture_output=True, text=True, env=environment, cwd=folder
    )
    seconds = time.monotonic() - began
    assert done.returncode == 0, done.stderr[-3000:]
    return seconds, sorted(set(HEAVY) & set(modules.read_text().split()))


def copy_stages(store, jobs):
    """Give every unfinished job the files and facts of a finished stage of its kind that belongs to a trained model."""
    made = {job.stage: job for job in jobs if store.has(job.stage, job.key) and not of_base(job, jobs)}
    for job in jobs:
        if store.has(job.stage, job.key):
            continue
        template = made[job.stage]
        facts = store.manifest(template.stage, template.key)["facts"]
        with store.claim(job.stage, job.key) as folder:
            source = store.path(template.stage, template.key)
            shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
            store.finish(job.stage, job.key, job.spec.inputs, facts)


def of_base(job, jobs):
    """Return whether a sample or judge job belongs to the untouched model: its facts lack those of an adapter."""
    samples = {j.key: j for j in jobs if j.stage == "sample"}
    sample = {"sample": job, "judge": samples.get(getattr(job.spec, "sample_key", None))}.get(job.stage)
    return sample is not None and sample.spec.adapter_key is None


def main():
    options = parser(__doc__)
    options.add_argument("cells", type=int, nargs="?", default=144)
    chosen = options.parse_args()
    result, cells, reruns = Result(chosen.tiny), 12 if chosen.tiny else chosen.cells, 1 if chosen.tiny else 2
    answers = 1 if chosen.tiny else 10  # per question
    swept = overrides(cells)
    with tempfile.TemporaryDirectory() as name, ScriptedJudge.from_file(RULES) as judge:
        folder = Path(name)
        same = [*BASE, f"sample.n={answers}", f"judge.base_url={judge.base_url}", f"out={folder / 'out'}"]
        arguments = [*same, *(f"{option}={','.join(values)}" for option, values in swept.items())]
        one = [*same, *(f"{option}={values[0]}" for option, values in swept.items())]
        run([*one, "launch.stages=[train,sample,judge]"], folder)
        called = judge.requests
        config.register()
        store = Store.open(folder / "out")
        jobs = list(plan([config.load(c) for c in compose.cells(arguments)], store).jobs.values())
        copy_stages(store, jobs)
        (first, _), *again = (run(arguments, folder) for _ in range(1 + reruns))
        calls = judge.requests - called
        summaries = [json.loads(path.read_text()) for path in (folder / "out" / "sweeps").glob("*/summary.json")]
    (counters,) = [summary["counters"] for summary in summaries]
    seconds, heavy = max(s for s, _ in again), sorted({module for _, loaded in again for module in loaded})
    print(f"{cells} cells; heavy modules: {heavy or 'none'}; counters {counters}")
    print(f"the first run writes the results: {first:.1f} s; rerun " + " ".join(f"{s:.1f}" for s, _ in again))
    result.gate("noop_stages_reused", counters["stages_reused"], len(jobs), counters["stages_reused"] == len(jobs))
    for counter in ("stages_run", "model_loads", "engine_starts"):
        result.gate(f"noop_{counter}", counters[counter], 0, counters[counter] == 0)
    result.gate("noop_judge_calls", calls, 0, calls == counters["judge_calls"] == 0 < called)
    result.gate("noop_heavy_modules", len(heavy), 0, not heavy)
    result.clock("noop_rerun_s", f"{seconds:.1f}", f"<={GOAL_S:g}", seconds <= GOAL_S)
    result.exit()


if __name__ == "__main__":
    main()
