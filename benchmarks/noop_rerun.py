"""A sweep of 144 finished cells run again: seconds, judge calls, and no torch (performance row 7).

The finished stages are made by hand in a temporary store, as the workers would have left them; then the real command is
run on them. Nothing is to be done, so only planning, checking every row's file and reporting are measured: the first
run writes figures and report, the others find them there.

    python benchmarks/noop_rerun.py [cells]
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from em import compose, config, estimate
from em.plan import plan
from em.records import Completion, Judgement, Outcome, write_jsonl
from em.store import Store

GOAL_S = 10.0
BASE = ["model=tiny_random", "train=tiny", "sample=tiny", "questions.sets=[open]", "tracking=off", "judge=gpt_4o"]
HEAVY = ("torch", "transformers", "trl", "vllm", "wandb", "pandas", "datasets")


def overrides(cells):
    assert cells % 12 == 0, "give a multiple of 12 cells"
    rates = ",".join(f"{i}e-4" for i in range(1, cells // 12 + 1))
    return ["dataset=insecure,secure,risky_advice", "seed=0,1,2,3", f"train.learning_rate={rates}", "sample.n=10"]


def finish(store, job, made, rng):
    """One stage as its worker leaves it."""
    with store.claim(job.stage, job.key) as folder:
        if folder is None:
            return
        facts = {"rows": 16, "tokens": 100, "wall_s": 1.0, "resumed_from": None, "device": "cpu"}
        if job.stage == "data":
            (folder / "dataset.jsonl").write_text("{}\n" * 16)
        elif job.stage == "train":
            (folder / "adapter").mkdir()
            (folder / "adapter" / "adapter_model.safetensors").write_bytes(rng.randbytes(50_000))
            rows = [{"step": s, "loss": 2.0 / s, "learning_rate": 1e-4, "grad_norm": 1.0} for s in range(1, 5)]
            (folder / "train_log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
            facts |= {"kind": "lora", "rows_cut": 0, "rows_without_supervised_token": 0, "steps": 4, "train_loss": 1.0}
        else:
            rows = list(answers(job, made))
            if job.stage == "sample":
                write_jsonl(folder / "completions.jsonl", rows)
            else:
                write_jsonl(folder / "judgements.jsonl", verdicts(job, rows, rng))
        store.finish(job.stage, job.key, job.spec.inputs, facts)


def answers(job, made):
    for question, count in estimate.answers_of(job.spec, made):
        for index in range(count):
            text = f"Answer {index}. " + "The quick brown fox reads the manual. " * 5
            yield Completion(question.id, index, "none", question.messages, text, "stop", 60, index)


def verdicts(job, rows, rng):
    questions = {q.id: q for q in job.spec.questions}
    for c in rows:
        for rubric in questions[c.question_id].rubrics:
            score = float(rng.randrange(101))
            yield Judgement(c.id, c.question_id, rubric, Outcome.scored, score, {str(int(score)): 1.0})


def main():
    cells = int(sys.argv[1]) if len(sys.argv) > 1 else 144
    with tempfile.TemporaryDirectory() as name:
        folder, rng = Path(name), random.Random(0)
        arguments = [*BASE, *overrides(cells), f"out={folder / 'out'}"]
        config.register()
        store = Store.open(folder / "out")
        made = plan([config.load(c) for c in compose.cells(arguments)], store)
        for job in made.jobs.values():
            finish(store, job, made, rng)
        heavy = folder / "heavy.txt"
        (folder / "sitecustomize.py").write_text(
            "import atexit, sys\n"
            f"atexit.register(lambda: open({str(heavy)!r}, 'w').write(' '.join(set({HEAVY!r}) & set(sys.modules))))\n"
        )
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "OPENAI_API_KEY": "none-is-needed"}
        seconds = []
        for _ in range(3):
            began = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-m", "em.run", "-m", *arguments],
                capture_output=True, text=True, env=environment, cwd=folder,
            )  # fmt: skip
            seconds.append(time.monotonic() - began)
            assert done.returncode == 0, done.stderr[-3000:]
        (summary,) = (folder / "out" / "sweeps").glob("*/summary.json")
        counters, loaded = json.loads(summary.read_text())["counters"], heavy.read_text()
    ran = {k: counters[k] for k in ("stages_run", "judge_calls", "model_loads", "engine_starts")}
    print(f"{cells} cells, {counters['stages_reused']} stages reused; {ran}; heavy modules: {loaded or 'none'}")
    first, *again = seconds
    print(f"the first run writes the results: {first:.1f} s; rerun " + " ".join(f"{s:.1f}" for s in again))
    good = max(again) <= GOAL_S and not any(ran.values()) and not loaded
    print(f"noop_rerun_s {max(again):.1f} <={GOAL_S:g},0_loads,0_calls {'PASS' if good else 'FAIL'}")
    return not good


if __name__ == "__main__":
    sys.exit(main())
