"""Several finished sweeps of one model and judge as one summary, for figures over several presets. The door: merged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from em.metrics.summary_types import Summary
from em.reporting import answers
from em.reporting.answers import AnswerRow

REFERENCES = ("id", "group", "base", "a", "b")
"""Fields of a summary's rows that hold the id of a model or group."""
JOINED = ("models", "groups", "contrasts", "increases", "thresholds", "trajectories", "benchmarks", "doses")
"""Lists of a summary that are put one after the other."""
SIZES = ("max_examples", "num_train_epochs")
"""Facts that tell groups of one label apart."""


@dataclass(frozen=True)
class FinishedSweep:
    """A finished sweep: its folder and its summary, with the results of `em benchmark`."""

    folder: Path
    summary: Summary

    @property
    def models(self) -> tuple[str, ...]:
        """The base models of the sweep's groups."""
        own = self.summary["model"]["name"]  # a sweep that failed has no groups
        return tuple(sorted({group["facts"]["model"] for group in self.summary["groups"]})) or (own,)

    @property
    def kind(self) -> tuple[tuple[str, ...], str, bool]:
        """What sweeps must share to be in one figure: base models, judge, and whether the judge is a proxy."""
        judge = self.summary["judge"]
        return self.models, judge["name"], judge["proxy"]


def merged(sweeps: Sequence[FinishedSweep]) -> tuple[Summary, Iterator[AnswerRow]]:
    """Return the sweeps as one summary with its answers. Their `kind` must be the same.

    An untouched model with the same numbers in several sweeps is kept once. Groups of one label get the size of their
    training data, else the name of their sweep, after it.
    """
    if len(sweeps) == 1:
        return sweeps[0].summary, answers.read(sweeps[0].folder)
    labels, dropped = _labels(sweeps), _same_untouched(sweeps)
    out: dict[str, Any] = dict(sweeps[0].summary)
    for name in JOINED:
        rows = [_renamed(r, n, labels, dropped) for n, s in enumerate(sweeps) for r in _rows(s, name)]
        out[name] = [row for row in rows if row is not None]
    out["trigger_matrix"] = None  # a matrix of one sweep has no meaning for the others
    out["warnings"] = list(dict.fromkeys(w for s in sweeps for w in s.summary["warnings"]))
    return cast(Summary, out), _answers(sweeps, labels, dropped)


def _rows(sweep: FinishedSweep, name: str) -> list[Mapping[str, Any]]:
    return cast(Mapping[str, Any], sweep.summary).get(name) or []


def _labels(sweeps: Sequence[FinishedSweep]) -> dict[tuple[int, str], str]:
    """Return (number of the sweep, label) → the label in the merged summary."""
    rows = [(n, g["label"], g["facts"], s.summary["name"]) for n, s in enumerate(sweeps) for g in s.summary["groups"]]
    shared = {label for label, count in Counter(label for _, label, _, _ in rows).items() if count > 1}
    same = {label: len({_size(facts) for _, own, facts, _ in rows if own == label}) < 2 for label in shared}
    out = {}
    for number, label, facts, sweep in rows:
        more = "" if label not in shared else f" ({sweep})" if same[label] else f" {_size(facts)}"
        out[number, label] = label + more
    for number, finished in enumerate(sweeps):
        names = {g["id"]: g["label"] for g in finished.summary["groups"]}
        for model in finished.summary["models"]:
            own = names.get(model["group"], model["label"])
            more = out.get((number, own), own).removeprefix(own)
            out.setdefault((number, model["label"]), model["label"] + more)
    return out


def _size(facts: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={facts.get(name)}" for name in SIZES)


def _same_untouched(sweeps: Sequence[FinishedSweep]) -> set[str]:
    """Return the new ids of untouched groups and models that an earlier sweep has with the same numbers."""
    seen: list[Any] = []
    out: set[str] = set()
    for number, sweep in enumerate(sweeps):
        for group in sweep.summary["groups"]:
            if group["variant"] is not None:
                continue
            if group["metrics"] in seen:
                out |= {f"{number}/{group['id']}", *(f"{number}/{name}" for name in group["models"])}
            else:
                seen.append(group["metrics"])
    return out


def _renamed(
    row: Mapping[str, Any], number: int, labels: Mapping[tuple[int, str], str], dropped: set[str]
) -> dict[str, Any] | None:
    """Return a row with the merged summary's ids and labels; None for a row of a dropped model."""
    new = dict(row)
    for name in REFERENCES:
        if isinstance(row.get(name), str):
            new[name] = f"{number}/{row[name]}"
    if {new.get("id"), new.get("group")} & dropped:
        return None
    for name in ("models", "failed"):
        if name in row:
            new[name] = [f"{number}/{own}" for own in row[name]]
    if "label" in row:
        new["label"] = labels.get((number, row["label"]), row["label"])
    return new


def _answers(
    sweeps: Sequence[FinishedSweep], labels: Mapping[tuple[int, str], str], dropped: set[str]
) -> Iterator[AnswerRow]:
    for number, sweep in enumerate(sweeps):
        rows: Iterable[AnswerRow] = answers.read(sweep.folder)
        for row in rows:
            if f"{number}/{row['model_id']}" not in dropped:
                yield {**row, "model": labels[number, row["model"]], "model_id": f"{number}/{row['model_id']}"}
