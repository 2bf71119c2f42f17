"""Run standard benchmarks on a sweep's models: adapter gates first, then Inspect's task on our engine's answers.

    em benchmark outputs/sweeps/em-1a2b3c4d inspect_evals/truthfulqa my_task.py --limit 200

<out>/store/benchmark/<key>/   log.eval (Inspect's own log), scores.json (sample → score in [0, 1])
<sweep>/benchmarks.json        mean score per task and group, and its increase over the untouched model
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from em.chat import prompts, render
from em.config import ModelConfig, SampleConfig
from em.gates.record import GateError
from em.metrics import stats
from em.metrics.summary_types import Summary
from em.models import fingerprint, paths
from em.planning import keys
from em.planning.plan import Job, Subject
from em.runtime.events import Emitter
from em.sampling import gating
from em.sampling.engine import Sampler
from em.sampling.engines.open import open_sampler
from em.store import Store, content_key, file_sha256, layout, write_atomic

SCORES = "scores.json"
LOG = "log.eval"
RESULTS = layout.BENCHMARKS
VERSION = 2
"""Part of the key. 2: a value that is not a number is no score; a request's seed depends on its prompt."""


class BenchmarkError(RuntimeError):
    """A task cannot be run; the message says why."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkJob:
    """One task on one model."""

    key: str
    label: str
    subject: str
    """Id of the model."""
    adapter_key: str | None
    """Key of the train stage; None: the untouched base model."""
    model: ModelConfig
    """`path`: a folder or hub id."""
    sample: SampleConfig
    chat: render.Options
    max_lora_rank: int
    """Largest rank of all models of the command, because they share an engine."""
    task: str
    limit: int | None
    """Number of samples of the task; None: all."""
    grader: str | None
    """Inspect's name of the grading model; None: the task's default."""
    inputs: dict[str, Any]
    """The inputs that the key is a hash of; kept in the manifest."""


def work(store: Store, jobs: list[BenchmarkJob], emit: Emitter) -> None:
    """Run every task of a batch on every model, with one engine."""
    from em.analysis.inspect_model import Batcher

    first = jobs[0]
    sampler = open_sampler(first.model, first.sample, max(j.max_lora_rank for j in jobs))
    emit.count("model_loads")
    emit.count("engine_starts")
    asking = prompts.Prompts(sampler.tokenizer, first.chat)
    refused = _gates(sampler, jobs, store, asking.stops)
    batcher = Batcher(sampler)
    for number, job in enumerate(jobs):
        with emit.job(job.key), store.claim("benchmark", job.key) as folder:
            if folder is None:
                continue
            if job.subject in refused:
                raise refused[job.subject]
            emit.progress("benchmarks", number, len(jobs), job.label)
            facts = run_task(batcher, asking, job, store, folder)
            store.finish("benchmark", job.key, job.inputs, facts)


def _gates(sampler: Sampler, jobs: Sequence[BenchmarkJob], store: Store, stops: list[int]) -> dict[str, GateError]:
    """Return the id of each model whose gates failed → the error."""
    subjects = {
        j.subject: gating.ServedModel(
            f"adapter {j.subject}" if j.adapter_key else "the untouched base model",
            _adapter(store, j),
            store.path("train", j.adapter_key) if j.adapter_key else None,
            stops=tuple(stops),
        )
        for j in jobs
    }
    found = gating.check(sampler, list(subjects.values()), jobs[0].model.max_model_len)
    return {name: why for name, s in subjects.items() if isinstance(why := found[s], GateError)}


def _adapter(store: Store, job: BenchmarkJob) -> Path | None:
    return store.path("train", job.adapter_key) / layout.ADAPTER if job.adapter_key else None


def run_task(batcher: Any, asking: prompts.Prompts, job: BenchmarkJob, store: Store, folder: Path) -> dict[str, Any]:
    """Run one task on one model and write log.eval and scores.json into `folder`. Return the facts.

    Raises BenchmarkError if Inspect reports any status but success.
    """
    import inspect_ai
    from inspect_ai.log import write_eval_log
    from inspect_ai.model import GenerateConfig, Model, get_model

    from em.analysis.inspect_model import EmModel

    sample, length = job.sample, job.model.max_model_len
    api = EmModel(
        name=job.label,
        batcher=batcher,
        asking=asking,
        adapter=_adapter(store, job),
        sample=sample,
        max_model_len=length,
    )
    (log,) = inspect_ai.eval(
        load_task(job.task),
        model=Model(api, GenerateConfig()),
        model_roles={"grader": get_model(job.grader)} if job.grader else None,
        limit=job.limit,
        log_dir=str(folder / "inspect"),
        display="none",
        fail_on_error=True,
    )
    if log.status != "success":
        why = log.error.message if log.error else "no reason given"
        raise BenchmarkError(f"{job.task} ended with status {log.status}: {why}")
    write_eval_log(log, str(folder / LOG))
    shutil.rmtree(folder / "inspect")
    scores, unscored, why = sample_scores(log)
    write_atomic(folder / SCORES, json.dumps(scores) + "\n")
    metrics = {f"{s.name}/{m.name}": m.value for s in log.results.scores for m in s.metrics.values()}
    counts = {"samples": len(scores), "unscored": unscored, "unscored_why": why}
    return {"task": log.eval.task, **counts, "metrics": metrics, "gate": "passed"}


def load_task(name: str) -> Any:
    """Return a task by its registered name (inspect_evals/...) or file. Raises BenchmarkError if there is not just one.

    A model's code runs only in the task's own container: a task that would run it on this machine (sandbox "local")
    is refused.
    """
    from inspect_ai._eval.loader import (
        load_tasks,
    )  # Inspect has no public function that loads a task without running it

    file, at, task = name.partition("@")
    relative = os.path.relpath(file) if Path(file).is_absolute() else file  # Inspect globs relative names only
    try:
        found = load_tasks([relative + at + task])
    except Exception as error:
        raise BenchmarkError(f"Inspect cannot load {name!r}: {' '.join(str(error).split())}") from error
    package, slash, _ = name.partition("/")
    if not found and slash and package.isidentifier() and not Path(package).exists() and find_spec(package) is None:
        raise BenchmarkError(
            f"{name!r} is a task of the package {package}, which is not installed: "
            f"pip install {package.replace('_', '-')}"
        )
    if len(found) != 1:
        raise BenchmarkError(f"{name!r} holds {len(found)} tasks: name one, as FILE.py@TASK")
    specs = [found[0].sandbox, *(s.sandbox for s in found[0].dataset)]
    if any(spec is not None and spec.type == "local" for spec in specs):
        raise BenchmarkError(f"{name!r} would run a model's code on this machine (sandbox local): give it a container")
    return found[0]


def sample_scores(log: Any) -> tuple[dict[str, float], int, str]:
    """Return (sample id → score, number of answers without a score, reason of the first of them).

    The score is the first scorer's, as the mean over the epochs that have one.
    """
    values: dict[str, list[float]] = {}
    without: list[str] = []
    for sample in log.samples or ():
        score = next(iter((sample.scores or {}).values()), None)
        value = None if score is None else score.value
        if isinstance(value, dict) and len(value) == 1:
            (value,) = value.values()
        number = None if value is None else score_number(value)
        if number is None:
            without.append("no scorer gave a score" if value is None else _no_number(value))
        else:
            values.setdefault(str(sample.id), []).append(number)
    return {name: sum(v) / len(v) for name, v in values.items()}, len(without), without[0] if without else ""


WORDS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
"""Inspect's words for scores: correct, partial, incorrect, no answer, and booleans."""


def score_number(value: Any) -> float | None:
    """Return a score as a number, by Inspect's rules. None if it is not a number. (Inspect would return 0.)"""
    if isinstance(value, str):
        if value in WORDS or value.lower() in WORDS:
            return WORDS.get(value, WORDS.get(value.lower()))
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _no_number(value: Any) -> str:
    if isinstance(value, dict):
        return f"each score is several numbers ({', '.join(map(str, value))}); em benchmark needs one"
    return f"a score is {value!r:.40}, which is not a number"


def plan_jobs(
    subjects: Sequence[Subject], tasks: Sequence[str], limit: int | None, grader: str | None
) -> list[Job[BenchmarkJob]]:
    """Return one job per model and task. Every input that could change a score is in its key."""
    out: list[Job[BenchmarkJob]] = []
    for subject in subjects:
        config = subject.config
        model = dataclasses.replace(config.model, path=paths.model_path(config.model.path))
        rendering, sampling = keys.chat_options(config, asking=True), dataclasses.asdict(config.sample)
        for task in tasks:
            inputs = {
                "version": VERSION,
                "adapter": subject.train_key,
                "base": fingerprint.base_fingerprint(config),
                "dtype": config.model.dtype.value,
                "max_model_len": config.model.max_model_len,
                "chat": rendering,
                "sampling": {k: sampling[k] for k in ("engine", "temperature", "top_p", "max_tokens", "seed")},
                "task": _source(task),
                "limit": limit,
                "grader": grader,
            }
            key, label = content_key(**inputs), f"{subject.label}: {task}"
            spec = BenchmarkJob(
                key=key,
                label=label,
                subject=subject.id,
                adapter_key=subject.train_key,
                model=model,
                sample=config.sample,
                chat=rendering,
                max_lora_rank=max(config.train.lora_r if s.train_key else 0 for s in subjects),
                task=task,
                limit=limit,
                grader=grader,
                inputs=inputs,
            )
            out.append(Job("benchmark", key, label, "benchmark", spec))
    return out


def _source(task: str) -> str:
    """Return what identifies a task's content: the hash of its file, or its name with the versions of its packages."""
    path = Path(task.split("@")[0])
    if path.is_file():
        return f"{path.name}:{file_sha256(path)}"
    found = []
    for name in ("inspect_ai", "inspect_evals"):
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return f"{task} ({', '.join(found)})"


def rows(store: Store, jobs: Sequence[Job[BenchmarkJob]], summary: Summary) -> list[dict[str, Any]]:
    """Return a row per task and group of seeds: mean score, and increase over the untouched model on the same samples.

    There is no increase if a score is outside [0, 1]. If a run is missing, the row has the reason instead of a mean.
    """
    models = {m["id"]: m for m in summary["models"]}
    untouched = next(m["group"] for m in summary["models"] if m["variant"] is None)
    scores: dict[tuple[str, str], list[dict[str, float] | None]] = {}
    unscored: dict[tuple[str, str], int] = {}
    why: dict[tuple[str, str], str] = {}
    for job in jobs:
        group = models[job.spec.subject]["group"]
        name = job.spec.task, group
        scores.setdefault(name, []).append(_read(store, job))
        if scores[name][-1] is not None:
            facts = store.manifest("benchmark", job.key)["facts"]
            unscored[name] = unscored.get(name, 0) + facts["unscored"]
            why[name] = why.get(name) or facts["unscored_why"]
    labels = {g["id"]: g["label"] for g in summary["groups"]}
    out = []
    for (task, group), runs in scores.items():
        row = {
            "task": task,
            "group": group,
            "label": labels[group],
            "base": untouched,
            "n_models": len(runs),
            "withheld": "",
        }
        base = scores.get((task, untouched), [None])
        if any(run is None for run in runs):
            out.append(row | {"mean": None, "withheld": f"{sum(r is None for r in runs)} of {len(runs)} runs missing"})
            continue
        row |= {"unscored": unscored[task, group], "unscored_why": why[task, group]}
        if not all(runs):
            out.append(row | {"mean": None, "withheld": f"no sample has a score: {why[task, group]}"})
            continue
        row |= {"n": len(runs[0] or {}), "mean": float(np.mean([np.mean(list(r.values())) for r in runs if r]))}
        found = None
        if group != untouched and all(base):
            found = increase([r for r in runs if r], [r for r in base if r])
        out.append(
            row | ({f: getattr(found, f) for f in ("value", "low", "high", "interval", "claim")} if found else {})
        )
    return out


def _read(store: Store, job: Job[BenchmarkJob]) -> dict[str, float] | None:
    if not store.has("benchmark", job.key):
        return None
    scores: dict[str, float] = json.loads((store.path("benchmark", job.key) / SCORES).read_text(encoding="utf-8"))
    return scores


def increase(a: Sequence[dict[str, float]], b: Sequence[dict[str, float]]) -> stats.Contrast | None:
    """Return the mean score of runs a minus that of runs b, on the samples that all runs have.

    None if a score is outside [0, 1].
    """
    every = [*a, *b]
    shared = sorted(set.intersection(*(set(run) for run in every)))
    if any(not 0 <= run[s] <= 1 for run in every for s in shared):
        return None
    tables = [np.array([[run[s] for s in shared] for run in side]) for side in (a, b)]
    return stats.score_contrast(tables[0], tables[1])


def table(found: Sequence[dict[str, Any]]) -> str:
    """Return the rows as a table for the terminal."""
    lines = [f"{'task':32} {'model':28} {'mean':>7}  {'increase over the untouched model'}"]
    for row in found:
        mean = row["withheld"] or f"{row['mean']:.3f}"
        more = f"{row['value']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}]" if row.get("value") is not None else ""
        more += f"  {row['unscored']} answers without a score: {row['unscored_why']}" if row.get("unscored") else ""
        lines.append(f"{Path(row['task']).name[-32:]:32} {row['label'][:28]:28} {mean:>7}  {more}".rstrip())
    notes = dict.fromkeys(row["interval"] for row in found if row.get("interval"))
    return "\n".join([*lines, *(f"in brackets: {note}" for note in notes)])
