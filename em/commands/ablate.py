"""`em ablate`: remove each model's direction from each model of a finished sweep: does one repair another?"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example
from em.config.direction import OF_ORGANISM, DirectionKind
from em.errors import ConfigError, nearest
from em.sweep.folder import configs_of, read_sweep

if TYPE_CHECKING:
    from em.config import ExperimentConfig


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "ablate",
        help="remove each model's direction from each model of a finished sweep, and a random one",
        description="Remove the direction of each finetuned model of a finished sweep from each of them, and a random "
        "direction as the control. A direction is that of the model with the target's own seed and recipe. It is a "
        "sweep of its own: what is there is used again, and its figure ablation_matrix shows direction x model.",
        epilog=example("em ablate em-1a2b3c4d --block 15 --source risky_advice"),
    )
    add_sweep(sub)
    sub.add_argument("--block", type=int, required=True, help="the block whose vector is removed, counted from 0")
    of = "label, id or variant of a cell"
    sub.add_argument("--source", action="append", help=f"whose direction is removed: {of} (default: all)")
    sub.add_argument("--target", action="append", help=f"what it is removed from: {of} (default: all)")
    kinds = [kind.value for kind in OF_ORGANISM]
    text = "how a direction is made, as direction= of a run (default: mean_diff)"
    sub.add_argument("--kind", choices=kinds, default=DirectionKind.mean_diff.value, help=text)
    text = "fewest misaligned, and fewest aligned, answers that a direction is made of (10)"
    sub.add_argument("--least", type=int, default=10, help=text)


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if a cell failed."""
    from em.config import DirectionConfig
    from em.config.launch import STAGES
    from em.planning.crossed import Crossing, matrix
    from em.run import run_loaded

    trained = _trained(arguments.folder)
    direction = DirectionConfig(kind=DirectionKind(arguments.kind), least=arguments.least)
    sources, targets = (_named(trained, names) for names in (arguments.source, arguments.target))
    cells = matrix(sources, targets, Crossing(direction, arguments.block))
    ends = run_loaded([replace(c, launch=replace(c.launch, stages=list(STAGES))) for c in cells])
    return 1 if any(end.error for end in ends) else 0


def _trained(folder: Path) -> list[tuple[set[str], ExperimentConfig]]:
    """Return the names and the config of every cell that trains a model and samples it as it is."""
    rows = [cell for cell in read_sweep(folder)["cells"] if cell["kind"] == "cell"]
    pairs = zip(rows, configs_of(folder), strict=True)
    found = [({r["id"], r["label"], c.dataset.variant}, c) for r, c in pairs if c.dataset.trained]
    found = [(names, config) for names, config in found if not config.sample.changed]
    if not found:
        raise ConfigError(f"{folder} has no finetuned model that is sampled as it is: there is no direction to remove")
    return found


def _named(cells: list[tuple[set[str], ExperimentConfig]], wanted: list[str] | None) -> list[ExperimentConfig]:
    """Return the cells with these names, all without any. Raises ConfigError for a name that no cell has."""
    known = sorted(set.union(*(names for names, _ in cells)))
    for name in wanted or ():
        if name not in known:
            raise ConfigError(f"{name!r} is no finetuned model{nearest(name, known)}; there are: {', '.join(known)}")
    return [config for names, config in cells if wanted is None or names & set(wanted)]
