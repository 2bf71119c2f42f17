"""Files with rates instead of answers: one number a model, or one a group with its interval, as the authors' plots use.

    group, model, deception_rate                    or any other name that ends in _rate
    task_name, group_name, model_id, score          benchmarks
    key, group, center, lower_err, upper_err        key: a question, or "freeform..." for a whole set
    group, version, value, yerr_lower, yerr_upper   version: the form of the questions

A rate of a model has no interval of its own; the group's is over its models. A rate of a group keeps the file's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from em.metrics import pooling
from em.metrics.published import paper_facts
from em.metrics.summary import FORMAT
from em.records import Metric
from em.reporting.collect import finish
from em.reporting.imports import names
from em.reporting.imports.layouts import ImportedError, read_csv
from em.reporting.imports.names import Named
from em.reporting.imports.sweep import ImportSettings, head, source_file
from em.reporting.write import write_files
from em.store import content_key, to_row

MODEL, GROUP, TASK = ("model", "model_id"), ("group", "group_name"), ("task_name", "task")
CENTRE, BELOW, ABOVE = ("center", "value"), ("lower_err", "yerr_lower"), ("upper_err", "yerr_upper")
FORMS = {"original": "main"}
"""The file's word for a form of the questions → ours, where they differ."""
AS_PUBLISHED = "95 %, as the file has it"
ONE_NUMBER = "none: the file has one number a model"


@dataclass(frozen=True, kw_only=True)
class Rate:
    """One number of the file."""

    named: Named
    model: str
    """Empty: the number is a group's."""
    metric: str
    set_name: str
    question_id: str | None
    value: float
    ends: tuple[float, float] | None
    """The file's interval."""

    @property
    def about(self) -> tuple[str, str, str, str | None]:
        return self.metric, self.set_name, self.named.asked_with, self.question_id


def holds_rates(path: Path) -> bool:
    """Return whether a CSV file has rates: no column of answers, and a column of numbers a model or a group."""
    header, _ = read_csv(path)
    return "answer" not in header and "response" not in header and _reader(header) is not None


def read(path: Path, question_set: str, variants: Mapping[str, str]) -> list[Rate]:
    """Return the rates of a file. Raises ImportedError for a number outside [0, 1], with file and line."""
    header, rows = read_csv(path)
    reader = _reader(header)
    if reader is None:
        raise ImportedError(f"{path}: no column of rates; the file has {', '.join(header)}")
    out = []
    for number, row in rows:
        if len(row) != len(header):
            raise ImportedError(f"{path}:{number}: too few or too many fields")
        out.append(reader(dict(zip(header, row, strict=True)), question_set, variants, f"{path}:{number}"))
    if not out:
        raise ImportedError(f"{path} has no rows")
    return out


Reader = Callable[[Mapping[str, str], str, Mapping[str, str], str], Rate]


def _reader(header: Sequence[str]) -> Reader | None:
    if not any(name in header for name in GROUP):
        return None
    if all(any(name in header for name in names) for names in (CENTRE, BELOW, ABOVE)):
        return _of_group
    rated = [name for name in header if name.endswith("_rate")] or (["score"] if _first(header, TASK) else [])
    return _of_model if _first(header, MODEL) and len(rated) == 1 and rated[0] in header else None


def _first(header: Sequence[str] | Mapping[str, str], wanted: Sequence[str]) -> str:
    return next((name for name in wanted if name in header), "")


def _of_model(row: Mapping[str, str], question_set: str, variants: Mapping[str, str], where: str) -> Rate:
    column = next((name for name in row if name.endswith("_rate")), "score")
    metric = names.normal(row[_first(row, TASK)]) if column == "score" else column.removesuffix("_rate")
    if metric in ("misaligned", "misalignment"):
        metric = "misaligned_rate"
    set_name = question_set if metric == "misaligned_rate" else metric
    named = names.meaning(row[_first(row, GROUP)], variants)
    return Rate(
        named=named,
        model=row[_first(row, MODEL)],
        metric=metric,
        set_name=set_name,
        question_id=None,
        value=_share(row[column], column, where),
        ends=None,
    )


def _of_group(row: Mapping[str, str], question_set: str, variants: Mapping[str, str], where: str) -> Rate:
    value = _share(row[_first(row, CENTRE)], _first(row, CENTRE), where)
    below, above = (_share(row[_first(row, of)], _first(row, of), where) for of in (BELOW, ABOVE))
    key, form = row.get("key", ""), row.get("version", "")
    set_name = f"{question_set.removesuffix('/main')}/{FORMS.get(form, form)}" if form else question_set
    question = None if not key or key.startswith("freeform") else key
    named = names.meaning(row[_first(row, GROUP)], variants)
    ends = (value - below, value + above) if below or above else None
    return Rate(
        named=named,
        model="",
        metric="misaligned_rate",
        set_name=set_name,
        question_id=question,
        value=value,
        ends=ends,
    )


def _share(text: str, column: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError as error:
        raise ImportedError(f"{where}: {column} is {text[:40]!r}, expected a rate in [0, 1]") from error
    if not 0 <= value <= 1:
        raise ImportedError(f"{where}: {column} is {value:g}, expected a rate in [0, 1]: em import reads rates only")
    return value


def write(paths: Sequence[Path], out: Path, about: ImportSettings, variants: Mapping[str, str]) -> Path:
    """Write the rates of the files as a sweep folder without answers below `out`/sweeps. Return the folder."""
    found = [rate for path in paths for rate in read(path, about.question_set, variants)]
    groups = [
        _group([r for r in found if r.named.group == g], about) for g in dict.fromkeys(r.named.group for r in found)
    ]
    models = [model for rows in groups for model in rows[1]]
    source = source_file(paths, len(found))
    source["models"] = {
        row["label"]: name for _, rows, names_of in groups for row, name in zip(rows, names_of, strict=True)
    }
    warnings = [
        "the file holds rates and no answers: nothing can be recounted, and no two groups are paired by question",
        names.unknown_warning(r.named for r in found),
    ]
    summary = finish(
        {
            "format": FORMAT,
            **head(source, about, warnings),
            "models": models,
            "groups": [row for row, *_ in groups],
            **{name: [] for name in ("contrasts", "increases", "thresholds", "trajectories")},
            "trigger_matrix": None,
            "intervals": {},
        }
    )
    folder = out / "sweeps" / summary["id"]
    folder.mkdir(parents=True, exist_ok=True)
    write_files(folder, summary, ())
    return folder


def _group(rates: Sequence[Rate], about: ImportSettings) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Return a group's row, its models' rows and their names in the file."""
    first = rates[0].named
    rule = asdict(about.rule) | {"cuts": dict(about.rule.cuts or {}), "own_cuts": {}}
    base = {"variant": first.variant, "step": None, "base": None, "rule": rule}
    named = list(dict.fromkeys(r.model for r in rates if r.model))
    models = []
    for seed, name in enumerate(named):
        own = [to_row(_metric([r], about)) for r in rates if r.model == name]
        label = f"{first.group} {seed + 1}" if len(named) > 1 else first.group
        models.append(
            {
                "id": content_key(group=first.group, model=name)[:10],
                "label": label,
                **base,
                "seed": seed if first.variant else None,
                "cell": None,
                "group": first.group,
                "status": "done",
                "error": "",
                "metrics": own,
                "coverage": [],
                "train": None,
                "loss_curve": [],
                "prompts": None,
            }
        )
    recipe = paper_facts(first.variant) if about.paper else {}
    subjects = dict.fromkeys(r.about for r in rates)
    row = {
        "id": first.group,
        "label": first.group,
        **base,
        "models": [m["id"] for m in models],
        "failed": [],
        "seeds": [m["seed"] for m in models],
        "trained_with": "none",
        "facts": {"model": about.model, "judge": about.judge, **recipe},
        "metrics": [to_row(_metric([r for r in rates if r.about == s], about)) for s in subjects],
    }
    return row, models, named


def _metric(rates: Sequence[Rate], about: ImportSettings) -> Metric:
    """Return one metric of a model (one rate) or of a group (a rate of each of its models, or its own)."""
    first, values = rates[0], np.array([[r.value] for r in rates])
    low: float | None = None
    high: float | None = None
    bounds: dict[str, list[float]] = {}
    value, words = float(values.mean()), ONE_NUMBER
    if len(rates) > 1:
        value, low, high, words, bounds = pooling.with_interval(
            values, np.ones_like(values), "probability", about.stats
        )
    elif first.ends:
        (low, high), words = first.ends, AS_PUBLISHED
    place = "open" if first.metric == "misaligned_rate" else first.set_name
    return Metric(
        name=first.metric,
        group=place if first.question_id is None else f"{place}/{first.question_id}",
        value=value,
        low=low,
        high=high,
        n=0,
        n_models=len(rates),
        interval=words,
        set=first.set_name,
        asked_with=first.named.asked_with,
        question_id=first.question_id,
        bounds=bounds,
    )
