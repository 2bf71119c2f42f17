"""`em scalars`: show how much of its B a rank-1 adapter adds at each token of its misaligned and aligned answers."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example, reading
from em.config.direction import DirectionKind
from em.errors import ConfigError
from em.store import StoreError

if TYPE_CHECKING:
    from em.commands.reading import Trained
    from em.directions.extract import Text
    from em.reporting.scalars import Marked

FOLDER = "scalars"
"""In the sweep's folder: a folder per cell, in it one per --most with tokens.html, tokens.csv and the figure."""
HEAD = ("id", "side", "position", "token", "module", "scalar")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "scalars",
        help="show what a rank-1 adapter does at each token of its answers",
        description="How much a rank-1 adapter adds at each token of stored answers, one number per adapted module.",
        epilog=example("em scalars em-1a2b3c4d --model insecure --most 20"),
    )
    add_sweep(sub)
    sub.add_argument("--model", required=True, help="label, id or variant of a cell trained with train=rank1")
    sub.add_argument("--least", type=int, default=2, help="fewest misaligned, and fewest aligned, answers (2)")
    sub.add_argument("--most", type=int, default=20, help="most answers of each, drawn at random (20)")


def run(arguments: argparse.Namespace) -> int:
    from em.directions import scalars
    from em.directions.stage import Models
    from em.reporting import scalars as drawing
    from em.reporting.figures.figures import draw
    from em.store import write_atomic

    cell = reading.trained(arguments.folder, arguments.model)
    models = Models(cell.subject.config.model)
    sides = _answers(cell, models.tokenizer, arguments.least, arguments.most)
    texts = [text for side in sides.values() for text in side]
    with (
        reading.progress(f"reading {cell.subject.label}", len(texts)) as on_done,
        models.finetuned(cell.store, cell.weights()) as model,
    ):
        found = scalars.of_texts(model, texts, on_done)
    names = [side for side, own in sides.items() for _ in own]
    marked = [
        drawing.Marked(
            id=text.id,
            side=side,
            tokens=[reading.plain(models.tokenizer.decode([token])) for token in text.answer_ids],
            values=values[len(text.prompt_ids) :],
        )
        for side, text, values in zip(names, texts, found.values, strict=True)
    ]
    target = arguments.folder / FOLDER / cell.subject.id / reading.setting(most=arguments.most)
    figure = drawing.figure(cell.subject.label, found.modules, marked)
    for series in figure.panels[0].series:
        print(series.label + "".join(f"\n  {mark.told}" for mark in series.marks))
    drawn = draw([figure], target)
    write_atomic(target / "tokens.html", drawing.page(cell.subject.label, found.modules, marked))
    table = reading.write_table(target / "tokens.csv", HEAD, _rows(found.modules, marked))
    for path in (target / "tokens.html", table, *drawn):
        print(path)
    return 0


def _answers(cell: Trained, tokenizer: Any, least: int, most: int) -> dict[str, list[Text]]:
    """Return side → its stored answers, by the rule of the cell. Raises DirectionError for too few of them."""
    from em.config import DirectionConfig
    from em.directions import texts
    from em.directions.job import DIRECTION, DirectionJob
    from em.planning.plan import plan

    config = cell.subject.config
    if config.intervention.active:  # the sides are planned for the same training without it
        raise ConfigError(f"{cell.subject.label} was trained with intervention={config.intervention.name}: not read")
    above = config.direction.aligned_above
    options = DirectionConfig(kind=DirectionKind.mean_diff, least=least, most=most, aligned_above=above)
    changed = dataclasses.replace(config, direction=options, sample=config.sample.unchanged())
    (job,) = plan([changed], cell.store).stage(DIRECTION)
    if missing := next((need for need in job.needs if not cell.store.has(*need)), None):
        raise StoreError(f"{cell.subject.label}: {missing[0]} {missing[1]} is not there: `em resume` makes it")
    assert isinstance(job.spec, DirectionJob)
    return {side.name: texts.texts_of(side, job.spec, tokenizer, cell.store) for side in job.spec.sides}


def _rows(modules: Sequence[str], marked: Sequence[Marked]) -> Iterator[Sequence[object]]:
    for answer in marked:
        for position, (token, values) in enumerate(zip(answer.tokens, answer.values, strict=True)):
            for module, value in zip(modules, values, strict=True):
                yield answer.id, answer.side, position, token, module, float(value)
