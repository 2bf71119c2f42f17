"""The jobs of the tracker: runs, with their numbers at the end of a sweep. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from em.config import TrackingConfig, TrackingMode

Row = dict[str, Any]
"""A row of JSON, as summary.json has it."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the tracker, before it has any number."""

    key: str
    id: str
    """Stable: logging again continues the same run."""
    label: str
    sweep: str
    """The sweep's name: the group of its runs."""
    tags: tuple[str, ...]
    mode: TrackingMode
    """tracking.mode as it is on this machine; never auto."""
    tracking: TrackingConfig
    folder: str
    """Folder for the files of the tracker's client."""
    out: str
    config: Row = field(default_factory=dict)
    """A cell's resolved config as JSON."""


@dataclass(frozen=True, kw_only=True)
class CellNumbers:
    """The numbers of a finished cell."""

    model: Row
    """Its entry in summary.json."""
    checkpoints: list[Row]
    """The entries of its kept steps."""
    judge: Row
    commit: str | None
    rows: list[list[Any]]
    """[answers' file, judgements' file, answers per question that are the cell's] per stage."""
    adapter: str | None = None
    """Its folder; None where there is none."""
    training: list[Row] = field(default_factory=list)
    """A row per optimiser step."""


@dataclass(frozen=True, kw_only=True)
class SweepFigures:
    """The figures and contrasts of a sweep."""

    figures: tuple[str, ...]
    """PNG files."""
    contrasts: list[Row]
    statement: str


@dataclass(frozen=True, kw_only=True)
class TrackJob:
    """One run with its numbers: either a cell's or a sweep's."""

    run: Run
    cell: CellNumbers | None = None
    sweep: SweepFigures | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """A training and the runs of the cells that share it."""

    key: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """Trainings to follow while they go on."""

    ledger: str
    offset: int
    """Bytes of the ledger that are older than this sweep."""
    trainings: tuple[Training, ...]
