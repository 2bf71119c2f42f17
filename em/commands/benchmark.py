"""`em benchmark`: run standard benchmarks (Inspect tasks) on the models of a sweep."""

from __future__ import annotations

import argparse
import json
from typing import Any

from em.commands import add_sweep, example
from em.config import Backend
from em.errors import ConfigError
from em.store import Store, write_atomic
from em.sweep.folder import configs_of, out_of, read_summary


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "benchmark",
        help="run standard benchmarks (Inspect tasks) on a sweep's models",
        epilog=example("em benchmark em-1a2b3c4d inspect_evals/truthfulqa --limit 100"),
    )
    add_sweep(sub)
    sub.add_argument("tasks", nargs="+", help="Inspect tasks: inspect_evals/truthfulqa, or a file, FILE.py@TASK")
    sub.add_argument("--limit", type=int, help="number of samples per task (default: all)")
    sub.add_argument("--grader", help="the grading model by Inspect's name, e.g. openai/gpt-4o-2024-08-06")


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if a task failed on a model."""
    from importlib.util import find_spec

    from em.planning.plan import plan
    from em.reporting.page import publish
    from em.sweep.devices import devices
    from em.sweep.scheduler import run_batch
    from em.sweep.state import Sweep

    if find_spec("inspect_ai") is None:
        raise ConfigError('em benchmark needs the extra `inspect`: pip install "emergent-misalignment[inspect]"')
    if any(task.startswith("inspect_evals/") for task in arguments.tasks) and find_spec("inspect_evals") is None:
        raise ConfigError("the tasks inspect_evals/... come with a package of their own: pip install inspect-evals")
    from em.analysis import benchmark

    configs = configs_of(arguments.folder)
    if any(c.model.backend == Backend.openai for c in configs) or len({c.model.path for c in configs}) > 1:
        raise ConfigError("em benchmark runs on one base model with its own weights: give a sweep of one such model")
    if any(c.sample.changed for c in configs):
        raise ConfigError(
            "em benchmark measures models as they are: give a sweep without sample.steer, ablate, lora_scale"
        )
    summary = read_summary(arguments.folder)
    store = Store.open(out_of(arguments.folder))
    sweep = Sweep(arguments.folder, store, plan(configs, store))
    done = [
        s
        for s in (*sweep.plan.bases[:1], *sweep.plan.cells)
        if not s.train_key or sweep.store.has("train", s.train_key)
    ]
    jobs = benchmark.plan_jobs(done, arguments.tasks, arguments.limit, arguments.grader)
    todo = [j for j in jobs if not sweep.store.has("benchmark", j.key)]
    if todo:
        wide = int(configs[0].sample.engine_args.get("tensor_parallel_size", 1))
        run_batch(sweep, "benchmark", todo, held=devices(configs[0].launch.devices)[:wide])
    rows = benchmark.rows(sweep.store, jobs, summary)
    write_atomic(arguments.folder / benchmark.RESULTS, json.dumps(rows, indent=1) + "\n")
    print(benchmark.table(rows))
    print(f"\nreport   {publish(arguments.folder, summary)}")
    return 1 if sweep.failed else 0
