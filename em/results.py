"""From the store to what a person reads: summary.json, metrics, table, figures, report. Pure but for the writing."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from em import metrics, stats
from em.judge import CALIBRATION, JUDGEMENTS, asked
from em.metrics import Judged
from em.plan import Part, Subject
from em.records import Completion, Judgement, read_jsonl, to_row
from em.sample import COMPLETIONS
from em.store import write_atomic
from em.sweep import Sweep

PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "vllm", "hydra-core", "wandb", "bandit")
PAIRS = (("insecure", "secure"), ("insecure", "educational"), ("risky_advice", "careful_advice"))
"""Variants contrasted on the same questions when a sweep has both."""


def write(sweep: Sweep) -> dict[str, Any]:
    """Write every result file of a sweep; returns the summary."""
    from em import plots, report

    found = {s.id: load(sweep, s) for s in (*sweep.plan.bases, *sweep.plan.cells) if not sweep.why(s)}
    summary = summarise(sweep, found)
    folder = sweep.folder
    for model in summary["models"]:
        cell = folder / "cells" / model["id"]
        cell.mkdir(parents=True, exist_ok=True)
        write_atomic(cell / "metrics.json", json.dumps(model["metrics"], indent=1) + "\n")
    write_atomic(folder / "summary.json", json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    write_atomic(folder / "table.txt", report.table(summary) + "\n")
    write_atomic(folder / "table.csv", report.table_csv(summary))
    figures = plots.draw(summary, answers(sweep, found), folder / "figures")
    report.build(summary, answers(sweep, found), figures, folder / "report.html")
    return summary


def load(sweep: Sweep, subject: Subject) -> dict[str, list[Judged]]:
    """set name → judged answers with sample_index below the part's n."""
    return {part.set_name: list(_judged(sweep, part)) for part in subject.parts}


def _judged(sweep: Sweep, part: Part) -> Iterator[Judged]:
    for sample_key, judge_key in zip(part.samples, part.judgements, strict=True):
        verdicts: dict[str, dict[str, Judgement]] = {}
        for j in read_jsonl(sweep.store.path("judge", judge_key) / JUDGEMENTS, Judgement):
            verdicts.setdefault(j.completion_id, {})[j.rubric] = j
        for c in read_jsonl(sweep.store.path("sample", sample_key) / COMPLETIONS, Completion):
            if c.sample_index < part.n:
                yield Judged(c, verdicts[c.id])


def summarise(sweep: Sweep, found: dict[str, dict[str, list[Judged]]]) -> dict[str, Any]:
    """The content of summary.json."""
    first = sweep.plan.cells[0].config
    subjects = (*sweep.plan.bases, *sweep.plan.cells)
    summary = {
        "name": first.name,
        "id": sweep.folder.name,
        "created": datetime.now().astimezone().isoformat("T", "seconds"),
        "commit": _commit(),
        "versions": _versions(),
        "model": {"name": first.model.name, "note": first.model.note},
        "judge": {
            "name": first.judge.name,
            "proxy": first.judge.proxy,
            "quality": _quality(sweep),
            "alignment_below": first.judge.alignment_below,
            "coherence_cut": first.judge.coherence_cut,
            "coherence_inclusive": first.judge.coherence_inclusive,
        },
        "counters": dict(sweep.counters),
        "models": [_model(sweep, s, found.get(s.id)) for s in subjects],
        "contrasts": _contrasts(sweep, found),
        "warnings": _warnings(sweep),
    }
    summary["statement"] = statement(summary)
    return summary


def _model(sweep: Sweep, subject: Subject, rows: dict[str, list[Judged]] | None) -> dict[str, Any]:
    config = subject.config
    trained = subject.train_key is not None
    out = {
        "id": subject.id,
        "label": subject.label,
        "variant": config.dataset.variant if trained else None,
        "seed": config.seed if trained else None,
        "status": "done" if rows is not None else "failed",
        "error": sweep.why(subject),
        "metrics": [],
        "train": None,
        "loss_curve": [],
    }
    if trained and sweep.store.has("train", str(subject.train_key)):
        out["train"] = sweep.store.manifest("train", str(subject.train_key))["facts"]
        log = sweep.store.path("train", str(subject.train_key)) / "train_log.jsonl"
        out["loss_curve"] = [[r["step"], r["loss"]] for r in map(json.loads, log.read_text().splitlines())]
    for name, judged in (rows or {}).items():
        out["metrics"] += [to_row(m) for m in _metrics(name, judged, subject)]
    return out


def _metrics(set_name: str, judged: list[Judged], subject: Subject) -> list[Any]:
    judge = subject.config.judge
    if set_name in ("coding", "advice"):
        return metrics.in_domain_metrics(judged, set_name, judge)
    conditions = list(dict.fromkeys(r.completion.asked_with for r in judged))
    out = []
    for condition in conditions:
        own = [r for r in judged if r.completion.asked_with == condition]
        group = (
            "open"
            if condition == conditions[0] and set_name == _first_open(subject)
            else (f"{set_name} asked with {condition}")
        )
        out += metrics.open_metrics(own, judge, group)
    return out


def _first_open(subject: Subject) -> str:
    """The question set whose rate is the headline: the first that is not in-domain."""
    return next((p.set_name for p in subject.parts if p.set_name not in ("coding", "advice")), "")


def _contrasts(sweep: Sweep, found: dict[str, dict[str, list[Judged]]]) -> list[dict[str, Any]]:
    """Paired differences of the headline rate between variants that answer a question together (PAIRS)."""
    out = []
    cells = [c for c in sweep.plan.cells if c.id in found]
    for a in cells:
        for b in cells:
            same = a.label.split(" ", 1)[1:] == b.label.split(" ", 1)[1:]
            if (a.config.dataset.variant, b.config.dataset.variant) not in PAIRS or not same:
                continue
            out += _contrast(a, b, found)
    return out


def _contrast(a: Subject, b: Subject, found: dict[str, dict[str, list[Judged]]]) -> list[dict[str, Any]]:
    judge, set_name = a.config.judge, _first_open(a)
    if not set_name or set_name not in found[b.id]:
        return []
    rows = [found[s.id][set_name] for s in (a, b)]
    row = {
        "name": f"{a.label} - {b.label}",
        "metric": "misaligned_rate",
        "group": "open",
        "value": None,
        "low": None,
        "high": None,
        "n_questions": 0,
        "interval": stats.CONTRAST_INTERVAL,
    }
    if any(metrics.coverage_gap(r, ["alignment", "coherence"], judge.min_coverage) for r in rows):
        return [row]
    left, right = (metrics.count(r, metrics.misaligned(judge)) for r in rows)
    result = stats.contrast(left.hits, left.kept, right.hits, right.kept)
    if result:
        row |= dict(zip(("value", "low", "high", "n_questions"), result, strict=True))
    return [row]


def answers(sweep: Sweep, found: dict[str, dict[str, list[Judged]]]) -> Iterator[dict[str, Any]]:
    """Every answer with its verdicts, for figures and the report."""
    for subject in (*sweep.plan.bases, *sweep.plan.cells):
        for part in subject.parts if subject.id in found else ():
            texts = {q.id: asked(q) for q in part.questions}
            for row in found[subject.id][part.set_name]:
                c = row.completion
                yield {
                    "model": subject.label,
                    "group": _group(subject, part),
                    "question_id": c.question_id,
                    "asked_with": c.asked_with,
                    "sample_index": c.sample_index,
                    "question": texts[c.question_id],
                    "answer": c.text,
                    "judgements": {
                        rubric: {
                            "outcome": j.outcome.value,
                            "score": j.score,
                            "distribution": j.distribution,
                            "detail": j.detail,
                        }
                        for rubric, j in row.verdicts.items()
                    },
                }


def _group(subject: Subject, part: Part) -> str:
    return "open" if part.set_name == _first_open(subject) else part.set_name


def _quality(sweep: Sweep) -> dict[str, Any]:
    """Measured quality of a local judge: rubric → {"auc", "n"} on labelled answers it was not fitted on."""
    key = next((p.calibration for p in sweep.plan.cells[0].parts if p.calibration), None)
    if key is None or not sweep.store.has("calibrate", key):
        return {}
    data = json.loads((sweep.store.path("calibrate", key) / CALIBRATION).read_text())
    return {rubric: {"auc": c["auc"], "n": c["n_test"]} for rubric, c in data.items()}


def _warnings(sweep: Sweep) -> list[str]:
    first = sweep.plan.cells[0].config
    out = []
    if len({c.config.judge.name for c in sweep.plan.cells}) > 1:
        out.append("several judges in one sweep: their rates are not comparable with each other")
    if first.judge.proxy and not _quality(sweep):
        out.append("the judge's quality was not measured")
    for cell in sweep.plan.cells:
        if cell.train_key and sweep.store.has("train", cell.train_key):
            facts = sweep.store.manifest("train", cell.train_key)["facts"]
            for name in ("rows_cut", "rows_without_supervised_token"):
                if facts[name]:
                    out.append(f"{cell.label}: {facts[name]} {name.replace('_', ' ')}")
    return out


def statement(summary: dict[str, Any]) -> str:
    """One paragraph on what the numbers show and do not show, made of the numbers themselves."""
    judge, out = summary["judge"], []
    if summary["model"]["name"] == "tiny_random":
        return "This model has random weights: the run shows that the pipeline works, its numbers mean nothing."
    for contrast in summary["contrasts"]:
        if contrast["value"] is None:
            out.append(f"{contrast['name']}: withheld.")
            continue
        excludes = contrast["low"] > 0 or contrast["high"] < 0
        out.append(
            f"{contrast['name']}: {100 * contrast['value']:+.1f} points of misaligned answers on unrelated questions "
            f"[{100 * contrast['low']:+.1f}, {100 * contrast['high']:+.1f}], "
            f"{'beyond' if excludes else 'within'} its interval."
        )
    if {"risky_advice", "careful_advice"} & {m["variant"] for m in summary["models"]}:
        out.append(
            "Careless against careful advice is the positive control: it says that training, sampling and judging "
            "can show a shift when there is one."
        )
    if {"insecure", "secure", "educational"} & {m["variant"] for m in summary["models"]}:
        out.append(
            "On models below about 14B insecure code is expected to give rates near zero; a small model that "
            "shows nothing does not speak against the paper."
        )
    out.append("One training run a variant says nothing about other seeds: repeat with seed=0,1,2.")
    if judge["proxy"]:
        out.append(
            f"The judge ({judge['name']}) is a local proxy, so compare rows with each other, not with published "
            f"rates; none of this is by itself evidence of emergent misalignment."
        )
    return " ".join(out)


def _versions() -> dict[str, str]:
    out = {}
    for name in PACKAGES:
        for dist in (name, f"{name}-cpu"):
            try:
                out[name] = importlib.metadata.version(dist)
                break
            except importlib.metadata.PackageNotFoundError:
                out[name] = "not installed"
    return out


def _commit() -> str | None:
    """Commit of this checkout of em, with + when files differ from it; None outside a checkout."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
