"""A direction as two files: direction.safetensors (the vectors) and direction.json (where they come from).

Row b of the vectors belongs to the residual stream after block b, counted from 0. transformers' hidden_states[b + 1] is
the same place, except after the last block, where transformers gives the state behind the final norm.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from em.errors import UserError
from em.store import write_atomic
from em.store.jsonl import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

VECTORS, FACTS = "direction.safetensors", "direction.json"
FORMAT = 1
LOW_AGREEMENT = 0.5
"""Split-half cosine below which a direction is called unreliable: half of the answers gives another direction."""


class DirectionError(UserError, ValueError):
    """A direction cannot be made or used; the message says what to change."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Where a direction comes from. Lists have one entry per block."""

    kind: str
    """mean_diff, base_on_texts, model_difference, persona, contrast, random or stored; or another maker's word."""
    model: str
    """Path or hub id of the base model."""
    fingerprint: str = ""
    """The content of the base model (models/fingerprint.py); empty: unknown."""
    read_from: str = ""
    """The model whose stream was read: the train key of an adapter on `model`; empty: the base model itself."""
    counts: dict[str, int] = field(default_factory=dict)
    """Side → texts it is the mean of."""
    tokens: dict[str, int] = field(default_factory=dict)
    """Side → tokens it is the mean of."""
    weighting: str = ""
    """token: the mean of all tokens; answer: the mean of the answers' means."""
    split_half: list[float | None] = field(default_factory=list)
    """Cosine of the directions of two halves of the texts; empty or None: not measured."""
    stream_norms: list[float] = field(default_factory=list)
    """Mean norm of the stream over the texts' tokens, without the first token, of the model that was read."""
    answers: str = ""
    """Digest of the texts' ids (`digest`), in the order of the sides."""
    cuts: dict[str, float] = field(default_factory=dict)
    """The thresholds that put an answer on a side."""
    judge: str = ""
    """The judge whose scores were compared with the cuts; empty: none."""
    seed: int = 0
    """Of the halves, and of a random direction."""
    note: str = ""
    """What else a reader must know, in words."""
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class Direction:
    """One vector per block, float32 [blocks, hidden], and its provenance."""

    vectors: Vectors
    facts: Facts

    def __post_init__(self) -> None:
        import numpy as np

        if self.vectors.ndim != 2:
            raise DirectionError(f"a direction has shape [blocks, hidden], got {list(self.vectors.shape)}")
        if not np.isfinite(self.vectors).all():
            raise DirectionError(f"the direction {self.facts.kind} has entries that are not numbers")

    @property
    def blocks(self) -> int:
        return int(self.vectors.shape[0])

    @property
    def hidden(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def norms(self) -> list[float]:
        """Return the length of each block's vector."""
        import numpy as np

        return [float(x) for x in np.linalg.norm(self.vectors.astype(np.float64), axis=1)]

    def at(self, block: int) -> Vectors:
        """Return the vector of one block, [hidden]. Raises DirectionError for a block that does not exist."""
        self.check_block(block)
        row: Vectors = self.vectors[block]
        return row

    def unit(self, block: int) -> Vectors:
        """Return the vector of one block at length 1. Raises DirectionError for a vector of zeros."""
        import numpy as np

        row = self.at(block).astype(np.float64)
        length = float(np.linalg.norm(row))
        if length == 0:
            raise DirectionError(f"the direction {self.facts.kind} is zero at block {block}: it has no direction there")
        found: Vectors = (row / length).astype(np.float32)
        return found

    def check_block(self, block: int) -> None:
        """Raise DirectionError for a block that does not exist."""
        if not 0 <= block < self.blocks:
            raise DirectionError(f"block {block} does not exist: the model has the blocks 0 to {self.blocks - 1}")

    def check_fits(self, blocks: int, hidden: int, model: str) -> None:
        """Raise DirectionError unless the model has as many blocks and as wide a stream as the direction."""
        if (self.blocks, self.hidden) != (blocks, hidden):
            raise DirectionError(
                f"the direction {self.facts.kind} of {self.facts.model} has {self.blocks} blocks of width "
                f"{self.hidden}, {model} has {blocks} of width {hidden}: make a direction of this model"
            )

    def relative_dose(self, block: int, scale: float) -> float | None:
        """Return |scale * vector| over the stream's mean norm at a block; None: that norm was not measured.

        Doses of different blocks cannot be compared without it: the stream grows with depth.
        """
        self.check_block(block)
        if not self.facts.stream_norms:
            return None
        return abs(scale) * self.norms[block] / self.facts.stream_norms[block]

    def agreement(self, block: int) -> float | None:
        """Return the split-half cosine of a block; None: not measured."""
        self.check_block(block)
        return self.facts.split_half[block] if self.facts.split_half else None


def save(direction: Direction, folder: Path) -> None:
    """Write both files of a direction into a folder, which is created if absent."""
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({"vectors": np.ascontiguousarray(direction.vectors, dtype=np.float32)}, folder / VECTORS)
    row = {**dataclasses.asdict(direction.facts), "norms": direction.norms, "shape": list(direction.vectors.shape)}
    write_atomic(folder / FACTS, json.dumps(row, indent=1) + "\n")


def require_model(folder: Path, fingerprint: str, model: str) -> None:
    """Raise DirectionError unless the direction in a folder is of the base model with this fingerprint.

    A direction without one, made by another program, passes: only its shape can tell. It is read by its JSON alone.
    """
    try:
        row: Row = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DirectionError(f"{folder} holds no readable direction: {error}") from error
    _require_object(row, folder)
    own = str(row.get("fingerprint", ""))
    if own and own != fingerprint:
        raise DirectionError(
            f"the direction in {folder} is of {row.get('model')} ({own[:24]}) and model.path={model} is another model "
            f"({fingerprint[:24]}), even if both have the same shape: make a direction of this model. If both are the "
            f"same weights under two names, set fingerprint in {FACTS} to {fingerprint}"
        )


def load(folder: Path) -> Direction:
    """Return the direction in a folder. Raises DirectionError if a file is missing, damaged or of another format."""
    from safetensors.numpy import load_file

    try:
        row: Row = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        vectors = load_file(folder / VECTORS)["vectors"]
    except FileNotFoundError as error:
        raise DirectionError(f"{folder} holds no direction: {Path(str(error.filename)).name} is missing") from error
    except Exception as error:  # json's, safetensors' and a missing tensor: each library has its own
        raise DirectionError(f"{folder} holds no readable direction: {error}") from error
    _require_object(row, folder)
    if row.get("format") != FORMAT:
        raise DirectionError(f"{folder / FACTS} has format {row.get('format')}, this em reads {FORMAT}")
    if missing := [name for name in ("kind", "model", "shape") if name not in row]:
        raise DirectionError(f"{folder / FACTS} has no {missing[0]}: add it")
    known = {f.name for f in dataclasses.fields(Facts)}
    direction = Direction(vectors, Facts(**{name: value for name, value in row.items() if name in known}))
    if list(vectors.shape) != row["shape"]:
        raise DirectionError(f"{folder}: the vectors have shape {list(vectors.shape)}, {FACTS} says {row['shape']}")
    for name in ("split_half", "stream_norms"):
        found = getattr(direction.facts, name)
        if not isinstance(found, list) or len(found) not in (0, direction.blocks):
            raise DirectionError(
                f"{folder / FACTS}: {name} is no list of one number for each of {direction.blocks} blocks: write it "
                f"so, or as []"
            )
    return direction


def _require_object(row: object, folder: Path) -> None:
    if not isinstance(row, dict):
        raise DirectionError(f"{folder / FACTS} is no JSON object: write it as docs/directions.md says")


def digest(ids: Iterable[str]) -> str:
    """Return the sha256 of text ids in their order."""
    return hashlib.sha256("\n".join(ids).encode()).hexdigest()
