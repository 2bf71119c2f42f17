"""Standard benchmarks on a sweep's models: Inspect runs the task, our engine answers, the adapter gates go first.

    em benchmark outputs/sweeps/em-1a2b3c4d inspect_evals/truthfulqa my_task.py --limit 200

<out>/store/benchmark/<key>/   log.eval (Inspect's own log), scores.json (sample → score in [0, 1])
<sweep>/benchmarks.json        every model's scores of this sweep, with its difference from the untouched model
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from em import chat, live
from em.events import Emitter
from em.gates import GateError
from em.sampler import Sampler, open_sampler
from em.store import Store, write_atomic

SCORES = "scores.json"
LOG = "log.eval"


class BenchmarkError(RuntimeError):
    """A task cannot be run; the message says why."""


def work(store: Store, jobs: list[dict[str, Any]], emit: Emitter) -> None:
    """Run every (model, task) of a batch on one engine."""
    from em.inspect_model import Batcher

    first = jobs[0]
    sampler = open_sampler(first["model"], first["sample"], max(j["max_lora_rank"] for j in jobs))
    emit.count("model_loads")
    emit.count("engine_starts")
    stops = chat.end_of_turn_ids(sampler.tokenizer)
    refused = _gates(sampler, jobs, store, stops)
    batcher = Batcher(sampler)
    for number, job in enumerate(jobs):
        with emit.job(job["key"]), store.claim("benchmark", job["key"]) as folder:
            if folder is None:
                continue
            if job["subject"] in refused:
                raise refused[job["subject"]]
            emit.progress("benchmarks", number, len(jobs), job["label"])
            facts = run_task(batcher, job, store, stops, folder)
            store.finish("benchmark", job["key"], job["inputs"], facts)


def _gates(sampler: Sampler, jobs: Sequence[dict[str, Any]], store: Store, stops: list[int]) -> dict[str, GateError]:
    """Subject id → why its adapter may not answer."""
    subjects = {
        j["subject"]: live.Subject(
            f"adapter {j['subject']}" if j["adapter_key"] else "the untouched base model",
            _adapter(store, j),
            store.path("train", j["adapter_key"]) if j["adapter_key"] else None,
        )
        for j in jobs
    }
    found = live.check(sampler, list(subjects.values()), stops, jobs[0]["model"]["max_model_len"])
    return {name: found[s] for name, s in subjects.items() if isinstance(found[s], GateError)}


def _adapter(store: Store, job: dict[str, Any]) -> Path | None:
    return store.path("train", job["adapter_key"]) / "adapter" if job["adapter_key"] else None


def run_task(batcher: Any, job: dict[str, Any], store: Store, stops: list[int], folder: Path) -> dict[str, Any]:
    """One task on one model: log.eval and scores.json in `folder`. Returns the facts. Raises BenchmarkError."""
    import inspect_ai
    from inspect_ai.log import write_eval_log
    from inspect_ai.model import GenerateConfig, Model, get_model

    from em.inspect_model import EmModel

    api = EmModel(job["label"], batcher, _adapter(store, job), stops, job["sample"], job["model"]["max_model_len"])
    (log,) = inspect_ai.eval(
        load_task(job["task"]),
        model=Model(api, GenerateConfig()),
        model_roles={"grader": get_model(job["grader"])} if job["grader"] else None,
        limit=job["limit"],
        log_dir=str(folder / "inspect"),
        display="none",
        fail_on_error=True,
    )
    if log.status != "success":
        why = log.error.message if log.error else "no reason given"
        raise BenchmarkError(f"{job['task']} ended with status {log.status}: {why}")
    write_eval_log(log, str(folder / LOG))
    shutil.rmtree(folder / "inspect")
    scores, unscored = sample_scores(log)
    write_atomic(folder / SCORES, json.dumps(scores) + "\n")
    metrics = {f"{s.name}/{m.name}": m.value for s in log.results.scores for m in s.metrics.values()}
    return {"task": log.eval.task, "samples": len(scores), "unscored": unscored, "metrics": metrics, "gate": "passed"}


def load_task(name: str) -> Any:
    """A task by its registered name (inspect_evals/...) or file. Raises BenchmarkError for one that is not one task.

    Code that a model wrote runs in the task's own container or not at all: a task that would run it on this machine
    (sandbox "local") is refused.
    """
    from inspect_ai._eval.loader import load_tasks  # Inspect has no public way to look at a task before it runs

    try:
        found = load_tasks([name])
    except Exception as error:
        raise BenchmarkError(f"Inspect cannot load {name!r}: {' '.join(str(error).split())}") from error
    if len(found) != 1:
        raise BenchmarkError(f"{name!r} holds {len(found)} tasks: name one, as FILE.py@TASK")
    specs = [found[0].sandbox, *(s.sandbox for s in found[0].dataset)]
    if any(spec is not None and spec.type == "local" for spec in specs):
        raise BenchmarkError(f"{name!r} would run a model's code on this machine (sandbox local): give it a container")
    return found[0]


def sample_scores(log: Any) -> tuple[dict[str, float], int]:
    """Sample id → first scorer's score, mean over epochs; and how many samples have none."""
    from inspect_ai.scorer import value_to_float

    number, values, asked = value_to_float(), {}, set()
    for sample in log.samples or ():
        asked.add(str(sample.id))
        score = next(iter((sample.scores or {}).values()), None)
        if score is not None and score.value is not None:
            values.setdefault(str(sample.id), []).append(float(number(score.value)))
    return {name: sum(v) / len(v) for name, v in values.items()}, len(asked) - len(values)
