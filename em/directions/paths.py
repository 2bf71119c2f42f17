"""The path of an adapter through training: how sharply it turns, its plane of greatest variance, its length.

Turner et al. 2025 (2506.11613) read a turn of a rank-1 adapter's B as the moment at which misalignment is learned. A
later study finds no consistent link between the two (2607.09053): read it beside the rates, never instead of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """The two directions of greatest variance of a path."""

    places: Points
    """[points, 2]: where each point lies in the plane."""
    explained: float
    """Share of the variance that lies in it."""


def b_matrices(folder: Path) -> Points:
    """Return all B matrices of an adapter's file as one vector, modules in the order of their names."""
    from safetensors.numpy import load_file

    weights = load_file(folder / "adapter_model.safetensors")
    return np.concatenate([weights[n].astype(np.float64).ravel() for n in sorted(weights) if ".lora_B" in n])


def local_cosines(path: Mapping[int, Points], window: int) -> dict[int, float | None]:
    """Return step → cosine of (B[t - window] - B[t]) and (B[t + window] - B[t]), where both neighbours are there.

    -1 is a straight path, 0 a right angle, 1 a turn back. None: a neighbour is the same point.
    """
    out: dict[int, float | None] = {}
    for step, here in path.items():
        if step - window in path and step + window in path:
            back, on = path[step - window] - here, path[step + window] - here
            length = float(np.linalg.norm(back) * np.linalg.norm(on))
            out[step] = float(back @ on) / length if length > 0 else None
    return out


def plane(points: Sequence[Points]) -> Plane:
    """Return the plane of greatest variance of a path. Raises ValueError for fewer than three points."""
    if len(points) < 3:
        raise ValueError(f"a plane needs three points of a path, got {len(points)}: keep more checkpoints")
    stack = np.stack(points)
    centred = stack - stack.mean(0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    total = float((sizes**2).sum())
    explained = float((sizes[:2] ** 2).sum()) / total if total > 0 else 1.0
    return Plane(left[:, :2] * sizes[:2], explained)
