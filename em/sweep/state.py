"""The state of a running sweep: folder, plan, counters, failures, ledger."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from em.planning.plan import Job, Plan, Spec, Subject, stages
from em.planning.stages import BETWEEN, SCORES
from em.runtime import terminal
from em.store import Store

COUNTERS = (
    "model_loads",
    "engine_starts",
    "stages_run",
    "stages_reused",
    "judge_calls",
    "judge_cache_hits",
    "merged_bytes_kept",
)


@dataclass(frozen=True)
class Share:
    """The part of a sweep that one of several processes does, e.g. one SLURM job."""

    name: str
    """Names its ledger: several nodes must not append to one file on a network file system."""
    subjects: tuple[str, ...]
    """Ids of the models whose stages this process runs."""


@dataclass
class Sweep:
    folder: Path
    store: Store
    plan: Plan
    share: Share | None = None
    """None: the whole sweep."""
    counters: Counter[str] = field(default_factory=Counter)
    failed: dict[tuple[str, str], str] = field(default_factory=dict)
    """(stage, key) → error message."""

    @property
    def ledger(self) -> Path:
        return self.folder / (f"ledger.{self.share.name}.jsonl" if self.share else "ledger.jsonl")

    def record_job(self, event: str, job: Job[object], **more: Any) -> None:
        """Add a line about a job to the ledger. Values of `more` that are None are left out."""
        self.record(event, (job.stage, job.key), job.label, **more)

    def record(self, event: str, name: tuple[str, str], label: str, **more: Any) -> None:
        """Add a line about a stage and key to the ledger, whether the plan has a job for it or not."""
        stage, key = name
        if event in ("started", "done"):  # what fails is told at every level
            terminal.detail(f"{event:8}{stage} {label}" + (f"  [log: {more['log']}]" if more.get("log") else ""))
        time_of_day = time.strftime("%Y-%m-%dT%H:%M:%S")
        row = {"time": time_of_day, "event": event, "stage": stage, "key": key, "label": label}
        row |= {k: v for k, v in more.items() if v is not None}
        try:
            with self.ledger.open("a+", encoding="utf-8") as file:
                file.write("\n" * _torn(file) + json.dumps(row, ensure_ascii=False) + "\n")
        except OSError as error:  # what is done is decided by the store; the ledger only tells
            terminal.alert(f"em: the ledger cannot be written ({error.strerror}): {event} {stage} {label}")

    def fail(self, job: Job[object], error: str, log: str | None = None) -> None:
        self.failed[job.stage, job.key] = error
        self.record_job("failed", job, error=error, log=log)
        terminal.alert(f"FAILED {job.stage} {job.label}: {error}")

    def warn(self, text: str) -> None:
        terminal.alert(f"WARNING {text}")

    def first_error(self, subject: Subject) -> str:
        """Return the first error that keeps a model from having numbers, or ""."""
        wanted = [(stage, key) for stage, keys in stages(self.plan, subject).items() for key in keys]
        return next((self.failed[w] for w in wanted if w in self.failed), "")

    @property
    def stages(self) -> list[str]:
        """The stages to run here (launch.stages); a dataset belongs to its training."""
        wanted = self.plan.cells[0].config.launch.stages
        between = [stage.name for stage in BETWEEN if ("train" if stage == SCORES else "sample") in wanted]
        return [*(["data"] if "train" in wanted else []), *wanted, *between]

    def subjects(self) -> list[Subject]:
        """Return the models whose stages are run here."""
        every = self.plan.subjects
        if self.share is None:
            return every
        return [
            s for s in every if s.id in self.share.subjects or (s.step is not None and s.cell in self.share.subjects)
        ]

    def todo(self, stage: str) -> list[Job[Spec]]:
        """Return the unfinished jobs of a stage that are run here."""
        if stage not in self.stages:
            return []
        mine = {key for subject in self.subjects() for key in stages(self.plan, subject).get(stage, [])}
        return [j for j in self.plan.stage(stage) if j.key in mine and not self.store.has(stage, j.key)]


def _torn(file: TextIO) -> bool:
    """Return whether the last line has no end, because a full disk or a kill cut it."""
    end = file.seek(0, os.SEEK_END)
    return end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
