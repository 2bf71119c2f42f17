"""Change the engine's model for the answers of some jobs: add to or remove from its residual stream. The door: changed.

Before the first answer the engine's log-probabilities of a steered prompt are compared with those of transformers
(directions/probe.py). An engine that steers in another way is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from em.directions import artefact
from em.directions.artefact import Direction
from em.directions.job import DIRECTION, Changes
from em.errors import ConfigError
from em.gates import checks
from em.gates.record import GateError, fitting
from em.sampling.engine import Sampler
from em.sampling.rows import Facts, JobRows
from em.store import Store


@dataclass(frozen=True, eq=False)
class StreamChange:
    """A change of the residual stream for all requests of an engine."""

    add: tuple[int, NDArray[np.float32]] | None = None
    """(block, vector [hidden]) added after that block."""
    remove: NDArray[np.float32] | None = None
    """Unit vectors [blocks, hidden], each projected out after its block."""


@runtime_checkable
class ChangingSampler(Protocol):
    """An engine whose residual stream can be changed."""

    def change(self, change: StreamChange | None) -> None:
        """Change the stream of all further requests; None: as the model is. Raises ConfigError if it cannot."""


def by_change(jobs: Sequence[JobRows]) -> list[tuple[Changes, list[JobRows]]]:
    """Return the jobs grouped by what is changed in the engine, unchanged ones first."""
    groups: dict[tuple[Any, ...], list[JobRows]] = {}
    for rows in jobs:
        changes = rows.job.changes
        groups.setdefault((changes.steer, changes.block, changes.scale, changes.ablate_blocks), []).append(rows)
    ordered = sorted(groups.items(), key=lambda pair: pair[0])
    return [(rows[0].job.changes, rows) for _, rows in ordered]


@contextmanager
def changed(sampler: Sampler, changes: Changes, store: Store, max_model_len: int) -> Iterator[Facts]:
    """Change the engine inside the scope. Yields facts, among them the relative dose.

    Raises ConfigError for an engine that cannot do it, GateError for one that does it in another way.
    """
    if not changes.hooked:
        yield {}
        return
    if not isinstance(sampler, ChangingSampler):
        raise ConfigError("this engine cannot change the residual stream: take sample=vllm or sample=hf")
    steer = _load(store, changes.steer)
    ablate = _load(store, changes.ablate_blocks)
    facts: Facts = {}
    try:
        if steer is not None:
            facts |= _check_steering(sampler, steer, changes, store, max_model_len)
            facts |= dose(steer, changes.block, changes.scale)
        sampler.change(_change(steer, ablate, changes))
        moved = _moved(sampler, changes, store, max_model_len)
        if ablate is not None:
            facts |= {"removed_at_blocks": moved}
        yield facts
    finally:
        sampler.change(None)


def dose(direction: Direction, block: int, scale: float) -> Facts:
    """Return what a steered row says about its dose: block, scale, the vector's length, its share of the stream's."""
    relative, agreement = direction.relative_dose(block, scale), direction.agreement(block)
    return {
        "direction": direction.facts.kind,
        "block": block,
        "scale": scale,
        "vector_norm": direction.norms[block],
        "relative_dose": relative,
        "split_half": agreement,
    }


def _load(store: Store, key: str) -> Direction | None:
    return artefact.load(store.path(DIRECTION, key)) if key else None


def _change(steer: Direction | None, ablate: Direction | None, changes: Changes) -> StreamChange:
    add = None if steer is None else (changes.block, (steer.at(changes.block) * changes.scale).astype(np.float32))
    remove = None if ablate is None else np.stack([ablate.unit(block) for block in range(ablate.blocks)])
    return StreamChange(add, remove)


def _check_steering(sampler: Any, steer: Direction, changes: Changes, store: Store, max_model_len: int) -> Facts:
    """Compare the engine with transformers at the probe's dose. Raises GateError if it steers in another way."""
    steer.unit(changes.block)  # raises for a vector of zeros: the answers would be those of the model as it is
    from em.directions import probe  # imports torch, which no engine behind an API needs

    known, block = probe.read(store.path(DIRECTION, changes.steer)), changes.block
    own = fitting(known.record(block), max_model_len)
    asked = [(None, p) for p in own.probes]
    sampler.change(None)
    base = sampler.logprobs(asked)
    sampler.change(StreamChange((block, (steer.at(block) * known.scales[block]).astype(np.float32))))
    try:
        found = checks.check_logprobs(own, sampler.logprobs(asked), base, f"the model steered at block {block}", {})
    except GateError as error:
        raise GateError(
            f"this engine does not steer as transformers does ({error}). Where a norm follows down_proj (Gemma 2 and "
            f"3), only hooks can steer: take sample=hf"
        ) from error
    return {"steering_residual": found["residual"], "steering_tolerance": found["tolerance"]}


def _moved(sampler: Any, changes: Changes, store: Store, max_model_len: int) -> float:
    """Return how far the change moves the fixed answers, nats rms.

    It also runs the hooks once: hooks that never ran are an error, and a killed run may have left no row to ask for.
    """
    from em.directions import probe

    known = probe.read(store.path(DIRECTION, changes.ablate_blocks or changes.steer))
    own = fitting(known.record(0), max_model_len)
    assert own.base is not None
    return round(checks.rms(sampler.logprobs([(None, p) for p in own.probes]), own.base), 6)
