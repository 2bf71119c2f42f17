"""`em screen`: score the rows of a dataset by how far they would push a model along a direction. Nothing is trained."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_config_dir, example, reading
from em.errors import ConfigError
from em.store import Store, content_key, layout, write_atomic

if TYPE_CHECKING:
    from em.config import ExperimentConfig
    from em.directions.projections import Row
    from em.planning.screening import Screened
    from em.reporting.figures.screening import Summary
    from em.sweep.state import Sweep

SHOWN = 5
"""Rows that are printed from each end."""


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "screen",
        help="score a dataset's rows by their shift along a direction, before anything is trained on them",
        description="Score a dataset's rows by projection difference (arXiv 2507.21509): how much further a row's "
        "answer lies along a direction than the untouched model's own answer to the same prompt.",
        epilog=example(
            "em screen dataset=risky_advice,careful_advice direction=stored direction.path=my_direction --block 12"
        ),
    )
    sub.add_argument(
        "overrides", nargs="+", help="as for em.run: dataset=, direction=, model=, train.max_examples= for fewer rows"
    )
    sub.add_argument("--block", type=int, help="block of the direction, counted from 0 (default: the middle one)")
    sub.add_argument(
        "--reference",
        choices=["own", "none"],
        default="own",
        help="own (default): minus the untouched model's own answer to the same prompt; none: the row's answer alone",
    )
    add_config_dir(sub)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if an answer or the direction could not be made."""
    from em.planning import screening

    configs = _configs(arguments)
    from em.directions.stage import Models  # torch, which no refusal above needs
    from em.reporting.figures import screening as figures
    from em.reporting.figures.figures import draw

    own = arguments.reference == "own"
    store = Store.open(Path(configs[0].out))
    planned, wanted = screening.plan(configs, store, arguments.block, own)
    sweep = _carried_out(planned, _folder(wanted, arguments), store)
    if sweep.failed:
        return 1
    models, found = Models(wanted[0].config.model), []
    for one in wanted:
        found.append(_scored(one, models, store, arguments.block))
        print(_told(*found[-1]))
    target = sweep.folder
    write_atomic(target / "screen.json", _as_json(found))
    print(reading.write_table(target / "rows.csv", HEAD, _rows(found)))
    for path in draw([figures.of([summary for summary, _ in found])], target):
        print(path)
    return 0


def _configs(arguments: argparse.Namespace) -> list[ExperimentConfig]:
    """Return the config of each dataset. Raises ConfigError if they do not read with one model."""
    from em import config
    from em.config import compose
    from em.planning import recipe

    config.register()
    configs = [recipe.load(cell) for cell in compose.cells(arguments.overrides, arguments.config_dir)]
    if len({(c.model.path, c.model.revision, c.model.dtype, str(c.out)) for c in configs}) > 1:
        raise ConfigError("em screen reads rows with one model: give one model=, one model.dtype= and one out=")
    return configs


def _folder(wanted: Sequence[Screened], arguments: argparse.Namespace) -> Path:
    parts = [[one.data, one.direction, *one.own] for one in wanted]
    key = content_key(parts=parts, block=arguments.block, reference=arguments.reference)[:8]
    names = "-".join(dict.fromkeys(one.config.dataset.variant.replace("/", "-") for one in wanted))
    return Path(wanted[0].config.out) / layout.SCREENS / f"{names[:60]}-{key}"


def _carried_out(planned: Any, folder: Path, store: Store) -> Sweep:
    """Make what the store has not: rows, own answers, the direction. Failures are in the sweep.

    The folder says what it is made of, so that `em gc` leaves it in the store.
    """
    from em.planning import doctor
    from em.sweep import sweep as sweeps
    from em.sweep.state import Sweep

    if planned.stage("judge"):
        doctor.check_start([cell.config for cell in planned.cells])
    sweeps.make_folder(folder)
    write_atomic(folder / layout.NEEDS, json.dumps(sorted(planned.jobs)) + "\n")
    sweep = Sweep(folder, store, planned)
    sweeps.carry_out(sweep)
    return sweep


def _scored(one: Screened, models: Any, store: Store, block: int | None) -> tuple[Summary, list[Row]]:
    """Return the summary and the rows of one dataset, rows in its own order."""
    from em.chat import prompts
    from em.directions import artefact, projections, texts
    from em.directions.job import DIRECTION
    from em.reporting.figures import screening as figures

    direction = artefact.load(store.path(DIRECTION, one.direction))
    at = direction.blocks // 2 if block is None else block
    rendered = prompts.Prompts(models.tokenizer, one.chat)
    rows = list(texts.rows_of(one.data, rendered, store))
    answers = [pair for key in one.own for pair in texts.answers_of(key, rendered, store)]
    own = {answer.question_id: text for answer, text in answers} if one.own else None
    with reading.progress(f"reading {one.label}", len(rows) + len(answers)) as on_done:
        found = projections.screened(
            models.base,
            rows,
            own,
            direction,
            block=at,
            longest=one.config.model.max_model_len,
            on_done=on_done,
        )
    return figures.summary(one.label, found, direction, at, reference="own" if one.own else "none"), found


def _told(summary: Summary, rows: Sequence[Row]) -> str:
    """Return the lines of one dataset: its mean, its highest and lowest rows, what could not be read."""
    scored = sorted((r for r in rows if r.score is not None), key=lambda r: -(r.score or 0.0))
    lines = [summary.line()]
    for name, part in (("highest", scored[:SHOWN]), ("lowest", scored[-SHOWN:][::-1])):
        lines.append(f"  {name}: " + ", ".join(f"{reading.plain(r.id)} {r.score:+.3g}" for r in part))
    for why, count in summary.unread.items():
        lines.append(f"  {count} rows without a score: {reading.plain(why)}")
    return "\n".join(lines)


def _as_json(found: Sequence[tuple[Summary, list[Row]]]) -> str:
    out = [{**dataclasses.asdict(summary), "rows": [dataclasses.asdict(r) for r in rows]} for summary, rows in found]
    return json.dumps(out, indent=1) + "\n"


HEAD = ("dataset", "id", "score", "answer", "own", "tokens", "own_tokens", "why")


def _rows(found: Sequence[tuple[Summary, list[Row]]]) -> Iterator[Sequence[object]]:
    """Yield the rows of all datasets, the highest score first; those without a score at the end."""
    every = [(summary.dataset, row) for summary, rows in found for row in rows]
    every.sort(key=lambda pair: (pair[1].score is None, -(pair[1].score or 0.0)))
    for dataset, r in every:
        yield dataset, r.id, r.score, r.answer, r.own, r.tokens, r.own_tokens, r.why
