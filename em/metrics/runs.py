"""Runs and groups of runs: what summary.summarise takes, and what it pools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from em.config import StatsConfig
from em.config.misalignment import Rule
from em.metrics import pooling
from em.metrics.catalogue import OWN, SKILL_RATE, Place
from em.metrics.columns import JudgedAnswers
from em.metrics.measures import Measure
from em.metrics.pooling import Pool

UNTOUCHED = "untouched"
RATE = "misaligned_rate"


@dataclass(frozen=True)
class What:
    """What two groups are compared in: a measure of a question set."""

    set_name: str
    name: str
    label: str = ""


@dataclass(frozen=True)
class Run:
    """One model of a sweep, with its judged answers."""

    id: str
    label: str
    group: str
    """Id of its group: runs that differ only by seed or by the subset of the data."""
    group_label: str
    variant: str | None
    """None: an untouched model."""
    seed: int | None
    rule: Rule
    sets: Mapping[str, JudgedAnswers] | None
    """None: it failed; `error` says why."""
    headline: str
    """The question set that a table shows."""
    stats: StatsConfig = field(default_factory=StatsConfig)
    step: int | None = None
    """Training step of a checkpoint; None at the end."""
    cell: str | None = None
    base: str | None = None
    """Id of the untouched model's run it is compared with."""
    line: str = ""
    """The same for all steps of a setting; groups of one line make a trajectory."""
    peers: str = ""
    """The same for all variants that are contrasted with each other."""
    axes: Mapping[str, str] = field(default_factory=dict)
    """Swept option → its value for this run, in the order of the sweep; without seeds and numbered subsets."""
    trained_with: str = "none"
    model: str = ""
    """Name of the weights; runs of one model are one model asked in several ways. "": its id."""
    subset: str = ""
    """Which of several subsets of one size it was trained on; "": all rows, or rows drawn by its seed."""
    answers: tuple[str, ...] = ()
    """Keys of its judged answers; runs with the same ones are one run under two names. (): not known."""
    error: str = ""
    train: Mapping[str, Any] | None = None
    loss_curve: Sequence[Sequence[float]] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Its setting, which decides whether published numbers are comparable (metrics/published.py)."""
    prompts: Sequence[str] | None = None
    """Differences between the prompts of training and of sampling, in words (chat/parity.py); None: not compared."""


@dataclass(frozen=True)
class Group:
    """Runs that differ only by seed or by the subset of the data. `pools` gives their metrics."""

    id: str
    runs: Sequence[Run]
    """The runs with answers."""
    measures: Mapping[str, Mapping[str, Mapping[str, list[Measure]]]]
    """run id → set → condition → measures."""

    @property
    def first(self) -> Run:
        return self.runs[0]

    @property
    def config(self) -> StatsConfig:
        return self.first.stats

    @property
    def subsets(self) -> bool:
        """Whether the runs were trained on several subsets. The subsets are then the clusters of the intervals."""
        return len({r.subset for r in self.runs}) > 1

    def of(self, set_name: str) -> list[tuple[str, Mapping[str, list[Measure]]]]:
        """Return (label, condition → measures) of every run that was asked this set."""
        return [(r.label, self.measures[r.id][set_name]) for r in self.runs if set_name in self.measures[r.id]]

    def pools(self, run: Run | None = None) -> list[Pool]:
        """Return every metric of the group, or of one of its runs."""
        out = []
        for set_name in dict.fromkeys(s for r in self.runs for s in self.measures[r.id]):
            rows = [(run.label, self.measures[run.id][set_name])] if run else self.of(set_name)
            first = next(iter(rows[0][1]))

            def place(condition: str, name: str = set_name, first: str = first) -> Place:
                return Place(name, condition, name == self.first.headline and condition == first, condition == first)

            out += pooling.pools(rows, place, self.first.rule, self.config)
        return out

    def measured(self, what: What, condition: str) -> list[tuple[str, Measure]]:
        """Return (label, measure) of every run, under one condition."""
        return [
            (label, m)
            for label, by in self.of(what.set_name)
            for m in by.get(condition, ())
            if (m.name, m.label) == (what.name, what.label)
        ]

    def compared(self) -> list[What]:
        """Return what is held against other groups: the headline rate, a benign skill, and what question sets define.

        The headline rate is left out if its set has none, but measures of its own.
        """
        every = [
            What(name, m.name, m.label)
            for name in dict.fromkeys(s for r in self.runs for s in self.measures[r.id])
            for _, by in self.of(name)
            for ms in by.values()
            for m in ms
        ]
        own, rate = [w for w in every if w.name in (OWN, SKILL_RATE)], What(self.first.headline, RATE)
        return list(dict.fromkeys([*([rate] if rate in every or not own else []), *own]))

    def headline(self, condition: str) -> list[tuple[str, Measure]]:
        """Return (label, measure behind the headline rate) of every run, under one condition."""
        return self.measured(What(self.first.headline, RATE), condition)

    def conditions(self) -> list[str]:
        headline = self.of(self.first.headline)
        asked = [headline] if headline else [self.of(what.set_name) for what in self.compared()]
        return list(dict.fromkeys(c for found in asked for _, by in found for c in by))
