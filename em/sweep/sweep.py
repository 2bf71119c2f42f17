"""Runs a sweep: stage by stage over all its cells, each stage in worker processes, with a ledger of what happened.

    <out>/sweeps/<name>-<hash of the cells>/
        sweep.json        the cells: id, label, resolved config, stage keys
        ledger.jsonl      every stage job: started, done, failed with its error (of a share: ledger.<share>.jsonl)
        logs/             one log per worker
        summary.json, table.txt, table.csv, report.html, figures/, cells/<id>/metrics.json   (reporting/collect.py)

The same command gives the same folder; what is done is found again in the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from em import config
from em.config import Backend, ExperimentConfig
from em.config.judge import LOCAL, PROXIES
from em.data import stage as data_stage
from em.data.job import DataJob
from em.errors import ConfigError
from em.judging.job import JudgeJob, count_errors
from em.models import paths
from em.models.prepare import PrepareJob
from em.planning import doctor, estimate
from em.planning.plan import Job, Spec, folder_of, plan, stages
from em.planning.stages import BETWEEN, PLANNED
from em.runtime import terminal
from em.runtime.events import error_message
from em.sampling.job import SampleJob
from em.store import SWEEP_FORMAT, Store, StoreError, in_use, layout, write_atomic
from em.sweep import ledger
from em.sweep.scheduler import run_batch, run_stages
from em.sweep.state import COUNTERS, Share, Sweep
from em.sweep.verify import set_aside_damaged
from em.training import launch
from em.training.job import TrainJob


def run(
    configs: Sequence[ExperimentConfig],
    share: Share | None = None,
    errors_again: bool = False,
    around: Callable[[Sweep], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Sweep:
    """Plan all cells and run them, or a share of them. Failed jobs are in `failed`; their cells have no numbers.

    `errors_again`: set judge stages with errors aside and make them again; the cache has all but the failed judgements.
    That happens only after every check before the start has passed. `around` wraps the stages, e.g. live tracking.
    """
    sweep = planned(configs, share)
    carry_out(sweep, errors_again, around)
    return sweep


def carry_out(
    sweep: Sweep,
    errors_again: bool = False,
    around: Callable[[Sweep], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> None:
    """Run what the plan of a sweep has and the store has not."""
    with in_use.shared(sweep.store.root, sweep.folder):
        _run(sweep, errors_again, around)


def _run(sweep: Sweep, errors_again: bool, around: Callable[[Sweep], AbstractContextManager[None]]) -> None:
    store = sweep.store
    for stage, key, problem in set_aside_damaged(sweep.plan, store):
        _record_damaged(sweep, stage, key, problem)
    todo = [job for stage in (*PLANNED, *BETWEEN) for job in sweep.todo(stage.name)]
    again = failed_judgements(sweep) if errors_again and "judge" in sweep.stages else {}
    if errors_again:
        terminal.note(f"em: {sum(again.values())} judgements are errors: they are asked for again")
    todo += [sweep.plan.jobs["judge", key] for key in again]
    sweep.counters["stages_reused"] = sum(store.has(j.stage, j.key) for j in sweep.plan.jobs.values()) - len(again)
    terminal.note(
        f"em: {len(sweep.plan.cells)} cells, {len(todo)} stage jobs to do, {sweep.counters['stages_reused']} reused "
        f"→ {sweep.folder}"
    )
    if todo:
        check_budget(sweep)
        _preflight(sweep, todo)
    for key in again:
        store.set_aside("judge", key)
    _build_data(sweep)
    if all(sweep.first_error(cell) for cell in sweep.plan.cells):  # the untouched model alone answers no question
        raise ConfigError(f"no cell has data to train on; the first: {sweep.first_error(sweep.plan.cells[0])}")
    with around(sweep):
        run_stages(sweep)
    _explain_missing(sweep)


def planned(configs: Sequence[ExperimentConfig], share: Share | None = None) -> Sweep:
    """Return a planned sweep; nothing has run. Raises ConfigError, AssetError, ModelError for what can fail already."""
    first = configs[0]
    for name in ("out", "launch"):
        if any(getattr(c, name) != getattr(first, name) for c in configs):
            raise ConfigError(f"{name} differs between the cells of a sweep: give one")
    store = Store.open(Path(first.out))
    doctor.check_start(configs)
    sweep = Sweep(folder_of(configs), store, plan(configs, store), share)
    make_folder(sweep.folder)
    sweep.counters.update(dict.fromkeys(COUNTERS, 0))
    if share is None:  # or whoever shared it out has written it
        _write_cells(sweep)
    return sweep


def failed_judgements(sweep: Sweep) -> dict[str, int]:
    """Return finished judge stage → judgements without a usable answer, for judges behind an API."""
    mine = {key for subject in sweep.subjects() for key in stages(sweep.plan, subject).get("judge", [])}
    apis = [j for j in sweep.plan.specs(JudgeJob) if j.key in mine and j.judge.kind not in LOCAL]
    found = {j.key: count_errors(sweep.store, j.key) for j in apis if sweep.store.has("judge", j.key)}
    return {key: count for key, count in found.items() if count}


def _explain_missing(sweep: Sweep) -> None:
    """Set the error of every stage that this run does not make and the store does not have: the last known error, if
    any."""
    if "report" not in sweep.stages:
        return
    last = {(row["stage"], row["key"]): row for row in ledger.rows(sweep.folder)}
    for job in sweep.plan.jobs.values():
        name = job.stage, job.key
        if job.stage not in sweep.stages and not sweep.store.has(*name):
            said = last.get(name, {}).get("error")
            sweep.failed[name] = said or f"{job.stage} {job.key} is not there and launch.stages leaves it out"


def make_folder(folder: Path) -> None:
    """Make the folder of a sweep, with one for its logs. Raises StoreError."""
    try:
        (folder / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"cannot write to {folder} ({error.strerror}); change out=") from error


def _record_damaged(sweep: Sweep, stage: str, key: str, problem: str) -> None:
    terminal.alert(f"DAMAGED {stage} {key}: {problem}. It is made again")
    job = sweep.plan.jobs.get((stage, key))
    sweep.record("damaged", (stage, key), job.label if job else stage, error=problem)


def _write_cells(sweep: Sweep) -> None:
    plan = sweep.plan
    rows = [
        {
            "id": subject.id,
            "kind": kind,
            "label": subject.label,
            "config": config.as_dict(subject.config),
            "stages": stages(plan, subject),
        }
        for kind, subjects in (("base", plan.bases), ("cell", plan.cells), ("checkpoint", plan.checkpoints))
        for subject in subjects
    ]
    head = {"format": SWEEP_FORMAT, "out": str(sweep.store.root.parent), "work": estimate.work(plan)}
    # a line a cell: with indent, json takes ten times as long
    cells = ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    text = f'{json.dumps(head, ensure_ascii=False)[:-1]}, "cells": [\n{cells}\n]}}'
    write_atomic(sweep.folder / layout.SWEEP, text + "\n")


def check_budget(sweep: Sweep) -> None:
    """Raise ConfigError if the unfinished work is expected to cost more than the caps of budget.*."""
    budget = sweep.plan.cells[0].config.budget
    if any(cap is not None for cap in vars(budget).values()):
        estimate.check(estimate.estimate(sweep.plan, sweep.store), budget)


def _preflight(sweep: Sweep, todo: list[Job[Spec]]) -> None:
    """Check what can fail before any training: disk, memory, model folders, room for the questions."""
    sweep.store.require_writable()
    runs = [j.spec for j in todo if isinstance(j.spec, TrainJob)]
    doctor.check_disk(sweep.store.root, [estimate.run_config(run, sweep.plan) for run in runs])
    launch.refuse([run.train for run in runs])
    found = {s.config.model.path: s.config.model for s in sweep.plan.cells}
    needed = any(_needs_model(j) for j in todo)  # judging by an API does not
    wanted = {path: m for path, m in found.items() if m.backend == Backend.hf and needed}
    missing = [
        Job("prepare", m.path, m.name, "prepare", PrepareJob(key=m.path))
        for m in wanted.values()
        if not paths.ready(m.path)
    ]
    if missing:
        run_batch(sweep, "prepare", missing)
        broken = [sweep.failed["prepare", j.key] for j in missing if ("prepare", j.key) in sweep.failed]
        if broken:
            raise ConfigError(broken[0])
    doctor.require_memory([paths.model_path(path) for path in wanted])
    doctor.require_question_room(job.spec for job in todo if isinstance(job.spec, SampleJob))


def _needs_model(job: Job[Spec]) -> bool:
    if isinstance(job.spec, JudgeJob):
        return job.spec.judge.kind in PROXIES
    return isinstance(job.spec, TrainJob | SampleJob) or job.stage in [stage.name for stage in BETWEEN]


def _build_data(sweep: Sweep) -> None:
    for job in sweep.todo("data"):
        assert isinstance(job.spec, DataJob)
        if job.needs:  # rows that are chosen by scores: a worker builds it when they are there
            continue
        try:
            if not data_stage.build(sweep.store, job.spec):
                continue
        except (ValueError, RuntimeError, OSError) as error:
            sweep.fail(job, error_message(error))
            continue
        sweep.record_job("done", job)
        sweep.counters["stages_run"] += 1
