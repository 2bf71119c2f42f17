"""The content of summary.json: a finished sweep's numbers, with its head and the conclusions from them."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any, cast

from em.judging import labelled
from em.judging.job import method
from em.metrics import conclusions, counted, published
from em.metrics.summary import summarise
from em.metrics.summary_types import Head, Quality, Summary
from em.planning import cells, doctor
from em.reporting import run_groups
from em.reporting.provenance import provenance
from em.reporting.runs import run_of
from em.store import Store
from em.store.layout import CALIBRATION
from em.sweep.state import Sweep
from em.sweep.sweep import failed_judgements


def summary_of(sweep: Sweep) -> Summary:
    """Return the content of summary.json."""
    first = sweep.plan.cells[0].config
    quality = judge_quality(sweep)
    axes = run_groups.axes([cell.config for cell in sweep.plan.cells])
    runs = [run_of(sweep, s, axes.get(cells.cell_id(s.config), {})) for s in sweep.plan.subjects]
    head: Head = {
        "source": "sweep",
        "name": first.name,
        "id": sweep.folder.name,
        "created": datetime.now().astimezone().isoformat("T", "seconds"),
        "commit": _commit(),
        "versions": doctor.versions(),
        "provenance": provenance(sweep),
        "model": {"name": first.model.name, "note": first.model.note},
        "judge": {
            "name": first.judge.name,
            "proxy": first.judge.proxy,
            "quality": quality,
            "alignment_below": first.judge.alignment_below,
            "coherence_cut": first.judge.coherence_cut,
            "coherence_inclusive": first.judge.coherence_inclusive,
            "method": method(first.judge),
        },
        "counters": dict(sweep.counters),
        "warnings": _warnings(sweep, quality),
    }
    if (counts := counted.counted(quality)) != counted.MISALIGNED:
        head["judge"]["counts"] = counts
    return finish(summarise(runs, head))


def finish(numbers: dict[str, Any]) -> Summary:
    """Add controls, the comparison with published numbers and the statement to what `summarise` returned."""
    numbers["controls"] = conclusions.controls(numbers)
    numbers["expected"] = published.compare(numbers)
    numbers["statement"] = conclusions.statement(numbers)
    return cast(Summary, numbers)


def judge_quality(sweep: Sweep) -> dict[str, Quality | None]:
    """Return rubric → quality of a local judge on labelled answers that it was not fitted on; {} if not measured.

    For coherence, `n_shuffled` of the answers are copies of coherent ones in random word order
    (judging/local/calibration.py).
    """
    key = next((p.calibration for p in sweep.plan.cells[0].parts if p.calibration), None)
    return {} if key is None else stored_quality(sweep.store, key)


def stored_quality(store: Store, key: str) -> dict[str, Quality | None]:
    """Return what `judge_quality` does, of the calibration with this key; {} if the store has none."""
    if not store.has("calibrate", key):
        return {}
    found = json.loads((store.path("calibrate", key) / CALIBRATION).read_text())
    quality: dict[str, Quality | None] = {}
    for rubric, calibration in found.items():
        measured: Quality = {"auc": calibration["auc"], "n": calibration["n_test"]}
        if rubric == "coherence":
            measured["n_shuffled"] = len(labelled.coherent("test"))
        for name in ("crossed", "sampled", "curt"):
            if calibration.get(name):
                measured[name] = calibration[name]
        quality[rubric] = measured
    return quality


def _warnings(sweep: Sweep, quality: dict[str, Quality | None]) -> list[str]:
    first = sweep.plan.cells[0].config
    out = []
    if len({c.config.judge.name for c in sweep.plan.cells}) > 1:
        out.append("several judges in one sweep: their rates are not comparable with each other")
    if first.judge.proxy and not quality:
        out.append("the judge's quality was not measured")
    if lost := sum(failed_judgements(sweep).values()):
        out.append(f"{lost} judgements are errors of the judge: `em resume FOLDER --errors` asks for them again")
    for cell in sweep.plan.cells:
        if cell.step is None and cell.train_key and sweep.store.has("train", cell.train_key):
            facts = sweep.store.manifest("train", cell.train_key)["facts"]
            for name in ("rows_cut", "rows_without_supervised_token"):
                if facts["kind"] != "openai" and facts[name]:  # OpenAI does not report them
                    out.append(f"{cell.label}: {facts[name]} {name.replace('_', ' ')}")
    return out


def _commit() -> str | None:
    """Return the commit of this checkout of em, with + if files differ from it; None outside a checkout."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = ["git", "-C", str(root)]
    head = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    dirty = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=False)
    return head.stdout.strip() + ("+" if dirty.stdout.strip() else "") if head.returncode == 0 else None
