"""Arithmetic on directions: cosines, random vectors of the same lengths."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def cosines(a: NDArray[Any], b: NDArray[Any]) -> list[float | None]:
    """Return the cosine of each row of a with the same row of b; None if one of them is zero."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    dots = (a.astype(np.float64) * b).sum(1)
    return [float(d / n) if n > 0 else None for d, n in zip(dots, lengths, strict=True)]


def random_like(vectors: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return random vectors, each of the same length as the row it replaces."""
    drawn = np.random.default_rng(seed).normal(size=vectors.shape)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    found: NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True) * lengths).astype(np.float32)
    return found
