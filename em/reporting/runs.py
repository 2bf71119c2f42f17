"""A model of a sweep with its judged answers, as the metrics take it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from em.config.intervention import Where
from em.config.misalignment import Rule
from em.metrics.runs import UNTOUCHED, Run
from em.metrics.summary_types import Facts
from em.planning.plan import Subject
from em.reporting import changed, run_groups
from em.reporting.stored_answers import first_open, question_sets
from em.store.layout import TRAIN_LOG
from em.sweep.state import Sweep


def run_of(sweep: Sweep, subject: Subject, axes: Mapping[str, str]) -> Run:
    """Return a model of the sweep with its answers, or with its error if it failed. `axes`: of its cell."""
    config, trained = subject.config, subject.train_key is not None
    error = sweep.first_error(subject)
    train, curve = _training(sweep, subject)
    cell = subject.cell is not None
    line = run_groups.group_id(config) if cell else ""
    step = f"@{subject.step}" if subject.step is not None else ""
    return Run(
        id=subject.id,
        label=subject.label,
        group=f"{line}{step}" if cell else subject.id,
        group_label=run_groups.group_label(subject.label, config),
        variant=config.dataset.variant if trained else None,
        seed=config.seed if trained else None,
        rule=Rule.of(config),
        sets=None if error else question_sets(sweep, subject),
        headline=first_open(subject),
        stats=config.stats,
        step=subject.step,
        cell=subject.cell,
        base=subject.base,
        line=line,
        peers=run_groups.peers(config) if trained else "",
        axes=axes if trained else {},
        trained_with=run_groups.trained_with(config) if trained else UNTOUCHED,
        subset=run_groups.subset_number(config) if trained else "",
        answers=tuple(key for part in subject.parts for key in part.judgements),
        error=error,
        train=train,
        loss_curve=curve,
        facts={**run_groups.recipe_facts(config), **changed.facts_of(sweep, subject)},
        prompts=_prompts(sweep, subject),
    )


def _prompts(sweep: Sweep, subject: Subject) -> list[str] | None:
    """Return a sentence per difference between prompts in training and in sampling; None if they were not compared."""
    names = [(p.set_name, key) for p in subject.parts for key in p.samples if sweep.store.has("sample", key)]
    records = [(name, sweep.store.manifest("sample", key)["facts"].get("prompts", {})) for name, key in names]
    compared = [(name, record["differences"]) for name, record in records if "differences" in record]
    found = [f"{name}: {difference}" for name, differences in compared for difference in differences]
    return list(dict.fromkeys(found)) if compared else None


def _training(sweep: Sweep, subject: Subject) -> tuple[Facts | None, list[list[float]]]:
    """Return the facts of a model's training run, and [step, loss] in nats per token; None and [] without one.

    The steps of a second phase follow those of the first.
    """
    key = str(subject.train_key)
    if subject.train_key is None or not sweep.store.has("train", key):
        return None, []
    run, facts = sweep.plan.train(key), sweep.store.manifest("train", key)["facts"]
    before = _curve(sweep, run.plain_key) if run.intervention.changes(Where.second_phase) else []
    return facts, [*before, *([len(before) + step, loss] for step, loss in _curve(sweep, key))]


def _curve(sweep: Sweep, key: str) -> list[list[float]]:
    if not sweep.store.has("train", key):  # cleared away after the second phase was made
        return []
    log = sweep.store.path("train", key) / TRAIN_LOG
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    return [[row["step"], row["loss"]] for row in rows]
