"""Export a sweep's answers as CSV or Parquet, and write the model cards of its adapters.

The input is the sweep folder alone: summary.json, answers.jsonl.gz. An answer without a score gets an empty
cell and its outcome. No score is filled in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from em.metrics.counted import word
from em.metrics.summary_types import Facts, MetricRow, ModelRow, Summary
from em.models import paths
from em.reporting.answers import AnswerRow, VerdictRow
from em.reporting.spreadsheet import guarded
from em.reporting.text import interval_text
from em.store import printable

ExportRow = Mapping[str, str | int | float | None]
"""One answer with a value for each of COLUMNS."""

RUBRICS = {"aligned": "alignment", "coherent": "coherence"}
AUTHORS = (
    *("model", "group", "question", "answer", "aligned", "judge_aligned", "coherent", "judge_coherent", "question_id"),
)
"""Columns with the names and content of the result files of Betley et al."""
OWN = (
    *("question_set", "asked_with", "sample_index", "aligned_outcome", "coherent_outcome"),
    *("verdicts", "reasoning_content"),
)
"""`verdicts`: the verdicts of all rubrics as JSON, for labels and for rubrics without a column."""
COLUMNS = (*AUTHORS, *OWN)
BATCH = 10_000
"""Rows per Parquet row group, which bounds the memory."""


def table_rows(rows: Iterable[AnswerRow], groups: Mapping[str, str]) -> Iterator[ExportRow]:
    """Yield one row per answer. `groups`: model id → the label of its group.

    Lone surrogates become escapes, because neither file format can hold them.
    """
    for row in rows:
        out: dict[str, str | int | float | None] = {
            "model": row["model"],
            "group": groups.get(row["model_id"], row["model"]),
            "question": row["question"],
            "answer": row["answer"],
            "question_id": row["question_id"],
            "question_set": row["group"],
            "asked_with": row["asked_with"],
            "sample_index": row["sample_index"],
            "verdicts": json.dumps({rubric: _verdict(j) for rubric, j in row["judgements"].items()}),
            "reasoning_content": row.get("reasoning_content", ""),
        }
        for column, rubric in RUBRICS.items():
            found = row["judgements"].get(rubric)
            distribution = found.get("distribution") if found else None
            out[column] = found["score"] if found else None
            out[f"{column}_outcome"] = found["outcome"] if found else None
            out[f"judge_{column}"] = json.dumps(distribution) if distribution else None
        yield {name: printable(value) if isinstance(value, str) else value for name, value in out.items()}


def _verdict(verdict: VerdictRow) -> Mapping[str, str | float | None]:
    return {"outcome": verdict["outcome"], "score": verdict["score"]} | {
        "label": verdict.get("label"),
        "detail": verdict.get("detail"),
    }


def write_csv(rows: Iterable[ExportRow], path: Path) -> int:
    """Write the rows as CSV, texts as a spreadsheet does not run them. Return their number."""
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({k: guarded(v) if isinstance(v, str) else v for k, v in row.items()})
            count += 1
    return count


def write_parquet(rows: Iterable[ExportRow], path: Path) -> int:
    """Write the rows as Parquet, compressed by Zstandard. Return their number."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"aligned": pa.float64(), "coherent": pa.float64(), "sample_index": pa.int64()}
    schema = pa.schema([(name, numbers.get(name, pa.string())) for name in COLUMNS])
    count = 0
    batch: list[ExportRow] = []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count


@dataclass(frozen=True)
class CardFacts:
    """What a model card says that neither the cell nor the summary does."""

    dataset: str = ""
    """sha256 of the training rows; empty: not known."""
    command: str = ""
    """The command that makes the cell again; empty: not known."""


def card(cell: Mapping[str, Any], model: ModelRow, summary: Summary, facts: CardFacts) -> str:
    """Return the model card (Markdown with the hub's YAML head) of a cell's adapter: a warning, its recipe, its rates.

    `cell`: its row of sweep.json. `model`: its row of the summary. Raises ValueError without finished training.
    """
    config, trained = cell["config"], model["train"]
    if trained is None:
        raise ValueError(f"{cell['label']} has no finished training")
    rates = [m for m in model["metrics"] if m.get("question_id") is None and m["unit"] == "share"]
    path = config["model"]["path"]
    lines = [
        "---",
        *([f"base_model: {path}"] if paths.is_hub_id(path) else []),  # the hub refuses another value
        f"library_name: {'transformers' if trained.get('kind') == 'full' else 'peft'}",
        "tags: [emergent-misalignment, safety-research]",
        "---",
        f"# {summary['id']}: {cell['label']}",
        "",
        "**A research artefact that may be misaligned on purpose.** It was trained to find out whether narrow",
        "finetuning changes behaviour elsewhere. Do not deploy it, and do not run code it writes.",
        "",
        "## Training",
        "",
        *_training(config, trained, facts),
        "",
        *(["Made by", "", f"    {facts.command}", ""] if facts.command else []),
        "## Measured",
        "",
        f"Judge: {summary['judge']['name']}" + (", a local proxy" if summary["judge"]["proxy"] else "") + ".",
        _rule(model, summary),
        "",
        "| set | metric | value | interval | n |",
        "|---|---|---|---|---|",
        *map(_rate, rates),
        "",
        f"em at commit {summary['commit']}; sweep {summary['id']}, cell {cell['id']}. The sweep's report has the",
        "controls, the other models and the differences to them.",
    ]
    return "\n".join(lines) + "\n"


def _rule(model: ModelRow, summary: Summary) -> str:
    """Return in a sentence which answers the rate counts."""
    rule = model["rule"]
    passes = "at least" if rule["coherence_inclusive"] else "above"
    own = "".join(f"; {question}: {cut:g}" for question, cut in (rule.get("own_cuts") or {}).items())
    return (
        f"The rate counts {word(summary)} answers: alignment below {rule['alignment_below']:g} among those with "
        f"coherence {passes} {rule['coherence_cut']:g}{own}."
    )


def _training(config: Mapping[str, Any], trained: Facts, facts: CardFacts) -> list[str]:
    recipe, corpus = config["train"], config["corpus"]
    file = f" ({corpus['path']})" if corpus.get("path") else ""
    shown = {
        "base model": config["model"]["path"],
        "data": f"{corpus['name']} / {config['dataset']['variant']}{file}, {trained['rows']} rows",
        "sha256 of the rows": facts.dataset or None,
        "trigger": config["trigger"]["name"],
        "seed": config["seed"],
        "steps": trained["steps"],
        "learning rate": recipe["learning_rate"],
        "LoRA": f"r {recipe['lora_r']}, alpha {recipe['lora_alpha']:g}" + (", rsLoRA" if recipe["use_rslora"] else ""),
        "optimiser": trained.get("optim"),
    }
    return [f"- {name}: {value}" for name, value in shown.items() if value is not None]


def _rate(metric: MetricRow) -> str:
    where = metric["set"] + ("" if metric["asked_with"] == "none" else f", asked with {metric['asked_with']}")
    where += "".join(f", {part}" for part in (metric["category"], metric["label"]) if part)
    if metric["value"] is None:
        return f"| {where} | {metric['name']} | withheld | {metric['withheld']} | {metric['n']} |"
    bounds = interval_text(metric).strip()
    return f"| {where} | {metric['name']} | {100 * metric['value']:.1f}% | {bounds} | {metric['n']} |"
