"""`em monitor`: draw how far a finetuned model moves along a stored direction, at each kept checkpoint."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example, phase, reading
from em.config.intervention import Where
from em.errors import ConfigError
from em.store import StoreError, write_atomic
from em.sweep.folder import read_summary

if TYPE_CHECKING:
    from em.commands.reading import Trained
    from em.directions.artefact import Direction
    from em.directions.monitor import Asked, Read
    from em.metrics.summary_types import MetricRow

FOLDER = "monitor"
"""In the sweep's folder: a folder per cell, direction and block with points.csv and the figure."""
HEAD = ("measure", "step", "block", "value", "low", "high", "n")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "monitor",
        help="draw how far a model moves along a direction over its kept checkpoints",
        description="Project prompts and stored answers on a direction, for the untouched model, each kept checkpoint "
        "(train.checkpoints) and the finished model.",
        epilog=example("em monitor em-1a2b3c4d --model insecure --direction my_direction --block 12"),
    )
    add_sweep(sub)
    sub.add_argument("--model", required=True, help="label, id or variant of a cell")
    sub.add_argument("--direction", type=Path, required=True, help="folder of a stored direction")
    sub.add_argument("--block", type=int, help="the block of the figure, counted from 0 (default: the middle one)")


def run(arguments: argparse.Namespace) -> int:
    from em.directions.stage import Models
    from em.reporting.figures import monitor as figures
    from em.reporting.figures.figures import draw

    summary, cell = read_summary(arguments.folder), reading.trained(arguments.folder, arguments.model)
    _require_one_phase(cell)
    source = arguments.direction.expanduser().resolve()
    direction, block = reading.direction_in(source, cell.subject, arguments.block)
    prompts, reads = _read(cell, Models(cell.subject.config.model), direction)
    found = figures.points(reads, prompts.questions)
    target = arguments.folder / FOLDER / cell.subject.id / source.name / reading.setting(block=block)
    rates: dict[float, list[tuple[int, MetricRow]]] = phase.rates(
        summary, phase.of_run(arguments.folder, phase.cell_named(arguments.folder, arguments.model))
    )
    for point in found:
        if point.block == block:
            bounds = "" if point.low is None else f" [{point.low:+.3g}, {point.high:+.3g}]"
            print(f"step {point.step:5}  {point.measure}: {point.value:+.3g}{bounds}")
    drawn = draw([figures.of(cell.subject.label, found, block, rates, summary)], target)
    rows = ([getattr(point, name) for name in HEAD] for point in found)
    print(reading.write_table(target / "points.csv", HEAD, rows))
    facts = {"direction": dataclasses.asdict(direction.facts), "cell": cell.subject.id, "block": block}
    write_atomic(target / "monitor.json", json.dumps(facts, indent=1) + "\n")
    for path in drawn:
        print(path)
    return 0


def _require_one_phase(cell: Trained) -> None:
    """Raise ConfigError for a run that continues another: its step 0 is not the untouched model."""
    if cell.subject.config.intervention.changes(Where.second_phase):
        raise ConfigError(
            f"{cell.subject.label} continues a finished run, and its kept checkpoints are those of the second phase "
            f"only: em monitor follows one phase, name a cell with intervention=none"
        )


def _read(cell: Trained, models: Any, direction: Direction) -> tuple[Asked, list[Read]]:
    """Return the prompts, and what each model gives: the untouched one, the kept checkpoints, the finished one.

    Raises DirectionError for a direction of another shape than the model's.
    """
    from em.directions import monitor
    from em.models import activations

    direction.check_fits(*activations.shape(models.base), cell.subject.config.model.path)
    sets = {part.set_name for part in cell.subject.parts}  # the untouched model is asked those of other cells as well
    own = reading.asked(cell.subject, sets, cell.store, models.tokenizer)
    if own is None:
        raise StoreError(f"the answers of {cell.subject.label} are not there: `em resume` makes them")
    prompts = _distinct(own)
    checkpoints = {s.step: s for s in cell.plan.checkpoints if s.cell == cell.subject.id}
    reads, steps = [], list(dict.fromkeys([None, *cell.facts["checkpoints"], cell.facts["steps"]]))
    with reading.progress(f"reading {cell.subject.label}", len(steps), "models") as on_done:
        for step in steps:
            last = step == cell.facts["steps"]
            subject = cell.base() if step is None else cell.subject if last else checkpoints.get(step)
            answers = reading.asked(subject, sets, cell.store, models.tokenizer) if subject else None
            weights = None if step is None else cell.weights(None if last else step)
            with models.finetuned(cell.store, weights) as model:
                reads.append(monitor.read(model, step or 0, prompts, answers, direction))
            on_done(1)
    return prompts, reads


def _distinct(answers: Asked) -> Asked:
    """Return one text per prompt. The state of its last token does not depend on the answer."""
    from em.directions.extract import Text
    from em.directions.monitor import Asked

    found = {tuple(text.prompt_ids): q for text, q in zip(answers.texts, answers.questions, strict=True)}
    texts = [Text(f"prompt-{number}", list(ids), []) for number, ids in enumerate(found)]
    return Asked(texts, list(found.values()))
