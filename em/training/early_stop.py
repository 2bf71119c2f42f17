"""early_stop: serve the first kept step of plain finetuning that has nearly the in-domain rate of the last one.

Schreiber and Goldstein 2026 (2605.12199). Nothing is trained here: `take` reads the judged in-domain answers of the
kept steps, chooses one, and copies its weights, its gate and its part of the log into the run's folder.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from em.errors import UserError
from em.questions.in_domain import BEHAVIOURS, Behaviour
from em.questions.rubrics import STATIC
from em.records import VERDICTS, Completion, Judgement, Outcome
from em.store import Store, layout, read_jsonl
from em.store.jsonl import Row
from em.training.job import KeptStep, Stop, TrainJob

LEAST = 10
"""Fewest answers in a rate that decides: with fewer, one answer moves it by more than a tenth."""
ROUNDING = 1e-9


class StopError(UserError):
    """No step can be chosen; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """The in-domain answers of one kept step, counted."""

    step: int
    asked: int
    judged: int
    """Answers with a verdict."""
    counted: int
    """Answers in the denominator: those with a score."""
    shown: int
    """Answers that show what the rows teach."""

    @property
    def rate(self) -> float:
        return self.shown / self.counted


def take(job: TrainJob, store: Store, folder: Path) -> Row:
    """Choose the step, and put its weights, gate.json and log into `folder`. Return the facts of the run.

    Raises StopError if a rate that decides is not there.
    """
    stop = job.stop
    assert stop is not None
    plain: Row = store.manifest("train", job.plain_key)["facts"]
    points = [count(kept, stop, store, kept.step or plain["steps"]) for kept in stop.steps]
    chosen = choose(points, 1 - job.intervention.dose, stop)
    last = points[-1]
    _copy(job, store, folder, None if chosen == last else chosen.step)
    _copy_log(store.path("train", job.plain_key), folder, chosen.step)
    metric = BEHAVIOURS[stop.asked].metric
    said = f"step {chosen.step} of {last.step}: {metric} {chosen.rate:.0%} there, {last.rate:.0%} at the end"
    method = {"name": job.intervention.name, "dose": job.intervention.dose, "plain": job.plain_key, "metric": metric}
    curve = [asdict(point) for point in points]
    unlike = {"steps": chosen.step, "checkpoints": [], "resumed_from": None, "early_stop": said}
    kept = {name: fact for name, fact in plain.items() if name != "wall_s"}
    return {**kept, **unlike, "intervention": {**method, "step": chosen.step, "curve": curve}}


def choose(points: Sequence[Point], share: float, stop: Stop) -> Point:
    """Return the first point whose rate is at least `share` of the last one's. `points` are in the order of steps.

    Raises StopError if the last rate or one before the chosen step is not there, or the last is zero.
    """
    last, behaviour = points[-1], BEHAVIOURS[stop.asked]
    _require(last, stop, behaviour, at_the_end=True)
    if last.rate == 0:
        raise StopError(
            f"{behaviour.metric} is 0 of {last.counted} answers at the end of training (step {last.step}), so "
            f"intervention=early_stop has no share of it to stop at: train longer or with a higher "
            f"train.learning_rate, or take a dataset whose trait the {stop.asked} questions ask for. A trait behind a "
            f"trigger shows with trigger.asked_with=[trained,none]; the first counts, here {stop.asked_with!r}"
        )
    for point in points[:-1]:
        _require(point, stop, behaviour, at_the_end=False)
        if point.rate >= share * last.rate - ROUNDING:
            return point
    return last


def count(kept: KeptStep, stop: Stop, store: Store, step: int) -> Point:
    """Return the counts of one step's answers under the stop's condition."""
    behaviour, outcomes, shown = BEHAVIOURS[stop.asked], [], 0
    for answers, verdicts in zip(kept.samples, kept.judgements, strict=True):
        rows = read_jsonl(store.path("judge", verdicts) / layout.JUDGEMENTS, Judgement)
        found = {row.completion_id: row for row in rows if row.rubric == behaviour.rubric}
        for answer in read_jsonl(store.path("sample", answers) / layout.COMPLETIONS, Completion):
            if answer.asked_with == stop.asked_with:
                verdict = found[answer.id]
                outcomes.append(verdict.outcome)
                shown += verdict.score is not None and bool(behaviour.shown(verdict.score))
    # Bandit read an answer without a program too: that is a verdict, and no score
    done = (*VERDICTS, Outcome.unparseable) if behaviour.rubric == STATIC else VERDICTS
    return Point(
        step=step,
        asked=len(outcomes),
        judged=sum(outcome in done for outcome in outcomes),
        counted=outcomes.count(Outcome.scored),
        shown=shown,
    )


def _require(point: Point, stop: Stop, behaviour: Behaviour, at_the_end: bool) -> None:
    """Raise StopError unless a point has a rate."""
    if point.judged < stop.min_coverage * point.asked - ROUNDING:
        raise StopError(
            f"step {point.step} has a verdict on {behaviour.rubric} for {point.judged} of {point.asked} in-domain "
            f"answers and judge.min_coverage asks for {stop.min_coverage:.0%}, so intervention=early_stop cannot "
            f"choose: `em resume FOLDER --errors` asks again where the judge failed; answers that end inside their "
            f"thinking need a larger sample.max_tokens"
        )
    if point.counted < LEAST:
        change = "take another dataset or a larger model" if at_the_end else f"leave {point.step} out of"
        raise StopError(
            f"{behaviour.metric} at step {point.step} is over {point.counted} of {point.asked} answers and "
            f"intervention=early_stop needs {LEAST}: {change}{'' if at_the_end else ' train.checkpoints'}"
        )


def _copy(job: TrainJob, store: Store, folder: Path, step: int | None) -> None:
    """Copy the weights of a kept step, or with None of the end, and the gate that belongs to them."""
    method = job.train.method
    source = layout.weights(store, job.plain_key, method, step)
    target = folder / layout.weights(store, job.key, method).name
    shutil.rmtree(target, ignore_errors=True)  # of a killed process
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(layout.GATE))
    shutil.copy2((source if step is not None else source.parent) / layout.GATE, folder / layout.GATE)


def _copy_log(plain: Path, folder: Path, step: int) -> None:
    """Copy the rows of the log up to a step, as they are."""
    lines = (plain / layout.TRAIN_LOG).read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= step]
    (folder / layout.TRAIN_LOG).write_text("".join(kept), encoding="utf-8")
