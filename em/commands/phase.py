"""`em phase`: draw the path of an adapter through training beside the misaligned rate of its checkpoints."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example
from em.config.base import Values
from em.config.data import NO_TRAINING
from em.config.train import Method
from em.errors import ConfigError, nearest
from em.store import Store, layout
from em.sweep.folder import out_of, read_summary, read_sweep

if TYPE_CHECKING:
    from em.metrics.summary_types import MetricRow, Summary

FOLDER = "phase"
"""In the sweep's folder: phase.png and phase.svg per model."""


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "phase",
        help="draw the path of an adapter over its kept checkpoints",
        description="Draw the path of an adapter over its kept checkpoints (train.checkpoints).",
        epilog=example("em phase em-1a2b3c4d --model insecure"),
    )
    add_sweep(sub)
    sub.add_argument("--model", required=True, help="label, id or variant of a cell")
    sub.add_argument(
        "--window",
        type=int,
        help="compare the adapter with itself this many steps before and after (default: one checkpoint)",
    )


def run(arguments: argparse.Namespace) -> int:
    from em.reporting.figures import phase
    from em.reporting.figures.figures import draw

    summary = read_summary(arguments.folder)
    cell = cell_named(arguments.folder, arguments.model)
    found = found_in(arguments.folder, summary, cell, arguments.window)
    target = arguments.folder / FOLDER / cell["id"]
    for step, cosine in found.cosines.items():
        shown = "-" if cosine is None else f"{cosine:.3f}"
        print(f"step {step:5}  local cosine {shown:>7}  length {found.norms[step]:.4g}")
    print(f"two components hold {100 * found.plane.explained:.1f} % of the path's variance")
    for path in draw([phase.of(found, summary)], target):
        print(path)
    return 0


def found_in(folder: Path, summary: Summary, cell: Values, window: int | None = None) -> Any:
    """Return the path of one cell's adapter with the rates of its checkpoints.

    Raises ConfigError if fewer than three checkpoints were kept.
    """
    store = Store.open_read_only(out_of(folder))
    return path_of(store, cell, window, rates(summary, of_run(folder, cell)))


def path_of(store: Store, cell: Mapping[str, Any], window: int | None, found_rates: Any) -> Any:
    """Return the path of one cell's adapter. Raises ConfigError if fewer than three checkpoints were kept."""
    import numpy as np

    from em.directions import paths
    from em.reporting.figures.phase import Path as Drawn

    key = cell["stages"]["train"][0]  # behind it: the models that its directions are made of
    kept = store.manifest("train", key)["facts"].get("checkpoints", [])
    if len(kept) < 3:
        raise ConfigError(
            f"{cell['label']} kept {len(kept)} checkpoints and a path needs three: train with "
            f"train.checkpoints='[every 5]'"
        )
    path = {step: paths.b_matrices(layout.weights(store, key, Method.lora, step)) for step in kept}
    spacing = window or min(b - a for a, b in pairwise(kept))
    log = (store.path("train", key) / layout.TRAIN_LOG).read_text(encoding="utf-8")
    return Drawn(
        label=cell["label"],
        window=spacing,
        cosines=paths.local_cosines(path, spacing),
        norms={step: float(np.linalg.norm(b)) for step, b in path.items()},
        gradients={row["step"]: row["grad_norm"] for row in map(json.loads, log.splitlines())},
        plane=paths.plane(list(path.values())),
        steps=kept,
        rates=found_rates,
    )


def rates(summary: Summary, cells: Collection[str]) -> dict[float, list[tuple[int, MetricRow]]]:
    """Return factor of the adapter → (step, misaligned rate) of the checkpoints of some cells' groups. `cells`: ids."""
    from em.reporting.figures.select import OPEN

    groups = {model["group"] for model in summary["models"] if model["cell"] in cells}
    out: dict[float, list[tuple[int, MetricRow]]] = {}
    for group in summary["groups"]:
        changed = group.get("facts", {}).get("changed", {})
        if group["id"] not in groups or group["step"] is None or set(changed) - {"lora_scale"}:
            continue
        metric = next((m for m in group["metrics"] if m["name"] == "misaligned_rate" and m["group"] == OPEN), None)
        if metric is not None:
            out.setdefault(changed.get("lora_scale", 1.0), []).append((group["step"], metric))
    return {scale: sorted(points, key=lambda point: point[0]) for scale, points in out.items()}


def of_run(folder: Path, cell: Values) -> set[str]:
    """Return the ids of the cells whose adapter is that of `cell`: the same run, sampled in other ways."""
    cells = [other for other in read_sweep(folder)["cells"] if other["kind"] == "cell"]
    return {o["id"] for o in cells if o["stages"].get("train", [])[:1] == cell["stages"]["train"][:1]}


def cell_named(folder: Path, name: str) -> Values:
    """Return the first cell with a name. Raises ConfigError if there is none, or it was trained as a whole model."""
    cells = [cell for cell in read_sweep(folder)["cells"] if cell["kind"] == "cell"]
    found = [c for c in cells if name in (c["id"], c["label"], c["config"]["dataset"]["variant"])]
    if not found:
        known = [cell["label"] for cell in cells]
        raise ConfigError(f"--model {name!r} is no cell{nearest(name, known)}; there are: {', '.join(known)}")
    config = found[0]["config"]
    untouched = config["dataset"]["variant"] == NO_TRAINING  # its train keys are those of its direction's models
    if untouched or config["train"]["method"] == Method.full.value:
        raise ConfigError(f"{found[0]['label']} has no adapter: give a cell that trained a LoRA")
    return found[0]
