"""The jobs of the tracker's processes: runs, with their numbers at the end of a sweep. Imports no tracker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from em.config import TrackingConfig, TrackingMode
from em.metrics.cue_grid import CueCell
from em.metrics.summary_types import Contrast, DoseRow, ModelRow

Row = dict[str, Any]
"""A JSON object: a config, the name of a judge, or a row of a training log."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run of the tracker, without numbers."""

    key: str
    id: str
    """Stable, so logging again continues the same run."""
    label: str
    sweep: str
    """The sweep's name: the group of its runs."""
    tags: tuple[str, ...]
    mode: TrackingMode
    """The meaning of tracking.mode on this machine; never auto."""
    tracking: TrackingConfig
    folder: str
    """Folder of tracked.json, which says what was logged before."""
    out: str
    """The client's own files are in <out>/wandb."""
    config: Row = field(default_factory=dict)
    """A cell's resolved config as JSON."""


@dataclass(frozen=True, kw_only=True)
class CellNumbers:
    """The numbers of a finished cell."""

    model: ModelRow
    checkpoints: list[ModelRow]
    judge: Row
    """name, proxy; counts if the rate does not count misaligned answers, and quality if it was measured."""
    commit: str | None
    rows: list[list[Any]]
    """[file of answers, file of judgements, number of the cell's answers per question] per stage."""
    adapter: str | None = None
    """Folder of the adapter, or None."""
    training: list[Row] = field(default_factory=list)
    """One row per optimiser step."""


@dataclass(frozen=True, kw_only=True)
class SweepFigures:
    """The figures and contrasts of a sweep."""

    figures: tuple[str, ...]
    """PNG files. The SVG of the same name beside each is logged too, if there is one."""
    contrasts: list[Contrast]
    statement: str
    increases: list[Contrast] = field(default_factory=list)
    """Every group against its untouched model."""
    questions: list[list[Any]] = field(default_factory=list)
    """[group, question, rate, low, high, n] of the headline questions, withheld rates too."""
    doses: list[DoseRow] = field(default_factory=list)
    """What each dose of an intervention costs and gives."""
    cues: list[CueCell] = field(default_factory=list)
    """The misaligned rate of each group under each cue."""


@dataclass(frozen=True, kw_only=True)
class TrackJob:
    """One run with its numbers: those of a cell, or those of a sweep."""

    run: Run
    cell: CellNumbers | None = None
    sweep: SweepFigures | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """One training run, with the tracker's runs of the cells that share it."""

    key: str
    runs: tuple[Run, ...]


@dataclass(frozen=True, kw_only=True)
class LiveJob:
    """Training runs to follow while they go on."""

    ledger: str
    offset: int
    """Bytes of the ledger from before this sweep."""
    trainings: tuple[Training, ...]
