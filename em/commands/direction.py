"""`em direction`: make directions of a finished sweep's answers, and compare them block by block."""

from __future__ import annotations

import argparse
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example
from em.config.direction import DirectionKind, Weighting
from em.errors import ConfigError, nearest
from em.store import Store, StoreError, in_use
from em.sweep.folder import configs_of, out_of, read_sweep

if TYPE_CHECKING:
    from em.config import ExperimentConfig
    from em.sweep.state import Sweep

KINDS = (DirectionKind.mean_diff, DirectionKind.base_on_texts, DirectionKind.model_difference)
FOLDER = "directions"
"""In the sweep's folder: a folder per direction, and cosines.png and .svg."""


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "direction",
        help="make directions of a finished sweep's answers, with their cosines",
        epilog=example("em direction em-1a2b3c4d --model insecure"),
    )
    add_sweep(sub)
    sub.add_argument(
        "--model", action="append", required=True, help="label, id or variant of a cell; give it again for more cells"
    )
    sub.add_argument(
        "--kind",
        action="append",
        choices=[k.value for k in KINDS],
        help="as direction= of a run (default: mean_diff); give it again for more",
    )
    text = "whether each token (default) or each answer counts once in the mean"
    sub.add_argument("--weighting", choices=[w.value for w in Weighting], default=Weighting.token.value, help=text)
    text = "fewest misaligned, and fewest aligned, answers that a direction is made of (10)"
    sub.add_argument("--least", type=int, default=10, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if a direction could not be made."""
    from em.directions import artefact
    from em.directions.job import DIRECTION
    from em.reporting.figures import directions as figures
    from em.reporting.figures.figures import draw
    from em.sweep.devices import devices
    from em.sweep.scheduler import run_batch

    store, out, made = Store.open(out_of(arguments.folder)), arguments.folder / FOLDER, {}
    failed = False
    with in_use.shared(store.root, arguments.folder):  # no sweep needs these directions: `em gc` would take them
        for name, sweep in _planned(arguments, store):
            (job,) = sweep.plan.stage(DIRECTION)
            if not store.has(DIRECTION, job.key):
                run_batch(sweep, DIRECTION, [job], held=devices(sweep.plan.cells[0].config.launch.devices)[:1])
            if sweep.failed:
                failed = True
                continue
            target = out / name.replace(" ", "-").replace("/", "-")
            shutil.copytree(store.path(DIRECTION, job.key), target, dirs_exist_ok=True)
            made[name] = artefact.load(target)
            print(f"{name}  \u2192  {target}\n{_table(made[name])}\n")
    for path in draw(figures.of(made), out) if made else ():
        print(path)
    return 1 if failed else 0


def _planned(arguments: argparse.Namespace, store: Store) -> Iterator[tuple[str, Sweep]]:
    """Yield a name and a plan per direction. Raises StoreError if an answer or a verdict is not there."""
    from em.config import DirectionConfig
    from em.directions.job import DIRECTION
    from em.planning.plan import plan
    from em.sweep.state import Sweep

    for label, config in _cells(arguments.folder, arguments.model):
        for kind in arguments.kind or [DirectionKind.mean_diff.value]:
            options = DirectionConfig(
                kind=DirectionKind(kind), weighting=Weighting(arguments.weighting), least=arguments.least
            )
            cell = dataclasses.replace(config, direction=options, sample=config.sample.unchanged())
            found = plan([cell], store)
            needs = [need for job in found.stage(DIRECTION) for need in job.needs]
            if missing := next((need for need in needs if not store.has(*need)), None):
                stage, key = missing
                raise StoreError(f"{label}: {stage} {key} is not there: `em resume {arguments.folder}` makes it")
            yield f"{label} {kind}", Sweep(arguments.folder, store, found)


def _cells(folder: Path, names: list[str]) -> list[tuple[str, ExperimentConfig]]:
    """Return the cells with these names. Raises ConfigError for a name that no cell has, or one without training."""
    rows = [cell for cell in read_sweep(folder)["cells"] if cell["kind"] == "cell"]
    pairs = list(zip(rows, configs_of(folder), strict=True))
    out = []
    for name in names:
        found = [(r["label"], c) for r, c in pairs if name in (r["id"], r["label"], c.dataset.variant)]
        if not found:
            known = [r["label"] for r, _ in pairs]
            raise ConfigError(f"--model {name!r} is no cell{nearest(name, known)}; there are: {', '.join(known)}")
        if not found[0][1].dataset.trained:
            raise ConfigError(
                f"--model {name!r} is the untouched model: a direction is made of a finetuned one's answers"
            )
        if found[0][1].intervention.active:
            raise ConfigError(
                f"--model {name!r} was trained with intervention={found[0][1].intervention.name}, and a direction is "
                f"made of the model that is trained without: give the cell with intervention=none"
            )
        out += found[:1]
    return out


def _table(direction: Any) -> str:
    """Return a line per block: length, share of the stream's length, split-half cosine."""
    facts, lines = direction.facts, ["block   length   of stream   split-half cosine"]
    for block, norm in enumerate(direction.norms):
        dose, cosine = direction.relative_dose(block, 1.0), direction.agreement(block)
        shown = "     -" if cosine is None else f"{cosine:6.2f}"
        share = "          -" if dose is None else f"{100 * dose:10.1f}%"
        lines.append(f"{block:5} {norm:8.3g} {share} {shown}")
    lines.append(
        f"texts: {', '.join(f'{count} {side}' for side, count in facts.counts.items())}; judge {facts.judge or '-'}"
    )
    return "\n".join(lines)
