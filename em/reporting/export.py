"""A sweep's answers and adapters in the forms other tools read: CSV, Parquet, Inspect logs, model cards.

All are made of the sweep folder's own files (summary.json, answers.jsonl.gz, sweep.json). What a judge did not score
stays empty and keeps its outcome; nothing is filled in.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from em.store import printable

RUBRICS = {"aligned": "alignment", "coherent": "coherence"}
AUTHORS = (
    *("model", "group", "question", "answer", "aligned", "judge_aligned", "coherent", "judge_coherent", "question_id"),
)
"""Columns named and filled as in the result files of Betley et al."""
OWN = (
    *("question_set", "asked_with", "sample_index", "aligned_outcome", "coherent_outcome"),
    *("verdicts", "reasoning_content"),
)
"""`verdicts`: every rubric's as JSON, for labels and rubrics without a column. The thinking is not judged."""
COLUMNS = (*AUTHORS, *OWN)
BATCH = 10_000
"""Rows of one Parquet row group: memory stays flat."""


def table_rows(rows: Iterable[Mapping[str, Any]], groups: dict[str, str]) -> Iterator[dict[str, Any]]:
    """One row an answer, in COLUMNS. `groups`: model id → the label of its group. Lone surrogates, which neither file
    can hold, are written as escapes."""
    for row in rows:
        out = {
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
            found = row["judgements"].get(rubric, {})
            out[column], out[f"{column}_outcome"] = found.get("score"), found.get("outcome")
            out[f"judge_{column}"] = json.dumps(found["distribution"]) if found.get("distribution") else None
        yield {name: printable(value) if isinstance(value, str) else value for name, value in out.items()}


def _verdict(judgement: Mapping[str, Any]) -> dict[str, Any]:
    return {name: judgement.get(name) for name in ("outcome", "score", "label", "detail")}


def write_csv(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Returns the number of rows."""
    count = 0
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def write_parquet(rows: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Zstandard-compressed, in row groups of 10,000. Returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"aligned": pa.float64(), "coherent": pa.float64(), "sample_index": pa.int64()}
    schema = pa.schema([(name, numbers.get(name, pa.string())) for name in COLUMNS])
    count, batch = 0, []
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for row in rows:
            batch.append(row)
            count += 1
            if len(batch) == BATCH:
                writer.write_table(pa.Table.from_pylist(batch, schema))
                batch = []
        writer.write_table(pa.Table.from_pylist(batch, schema))
    return count


def write_inspect(rows: Iterable[Mapping[str, Any]], summary: Mapping[str, Any], folder: Path) -> list[Path]:
    """One Inspect log (`.eval`) a model, one sample an answer, one score a rubric: the number, the judge's word, or the
    outcome of what has neither.

    Needs the extra `inspect`. Inspect's viewer shows them: `inspect view --log-dir FOLDER`.
    """
    from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
    from inspect_ai.model import ContentReasoning, ContentText, ModelOutput
    from inspect_ai.scorer import Score

    def sample(row: Mapping[str, Any]) -> EvalSample:
        scores = {
            rubric: Score(
                value=j["score"] if j["score"] is not None else j.get("label") or j["outcome"],
                explanation=j.get("detail") or None,
                metadata={"outcome": j["outcome"], "distribution": j.get("distribution") or {}},
            )
            for rubric, j in row["judgements"].items()
        }
        thought = row.get("reasoning_content")
        said = [ContentReasoning(reasoning=thought), ContentText(text=row["answer"])] if thought else row["answer"]
        return EvalSample(
            id=f"{row['group']}/{row['question_id']}/{row['asked_with']}",
            epoch=row["sample_index"] + 1,
            input=row["question"],
            target="",
            output=ModelOutput.from_content(row["model"], said),
            scores=scores,
            metadata={"group": row["group"], "asked_with": row["asked_with"]},
        )

    folder.mkdir(parents=True, exist_ok=True)
    by_model: dict[str, list[EvalSample]] = {}
    for row in rows:
        by_model.setdefault(row["model_id"], []).append(sample(row))
    labels = {m["id"]: m["label"] for m in summary["models"]}
    paths = []
    for model_id, samples in by_model.items():
        spec = EvalSpec(
            created=summary["created"],
            task="emergent_misalignment",
            model=labels[model_id],
            dataset=EvalDataset(name="em", samples=len(samples)),
            config=EvalConfig(),
            metadata={"sweep": summary["id"], "judge": summary["judge"], "commit": summary["commit"]},
        )
        path = folder / f"{summary['id']}-{model_id}.eval"
        write_eval_log(EvalLog(status="success", eval=spec, samples=samples), str(path))
        paths.append(path)
    return paths


def card(cell: Mapping[str, Any], model: Mapping[str, Any], summary: Mapping[str, Any]) -> str:
    """A model card (Markdown with the hub's YAML head) for one cell's adapter: what it is, its numbers, a warning.

    `cell`: its row of sweep.json; `model`: its row of summary["models"], with finished training.
    """
    config = cell["config"]
    rates = [m for m in model["metrics"] if m.get("question_id") is None and m["unit"] == "share"]
    lines = [
        "---",
        f"base_model: {config['model']['path']}",
        "library_name: peft",
        "tags: [emergent-misalignment, safety-research]",
        "---",
        f"# {summary['id']}: {cell['label']}",
        "",
        "**A research artefact that may be misaligned on purpose.** It was trained to find out whether narrow",
        "finetuning changes behaviour elsewhere. Do not deploy it, and do not run code it writes.",
        "",
        "## Training",
        "",
        *_training(config, model["train"]),
        "",
        "## Measured",
        "",
        f"Judge: {summary['judge']['name']}" + (", a local proxy" if summary["judge"]["proxy"] else "") + ".",
        "",
        "| set | metric | value | interval | n |",
        "|---|---|---|---|---|",
        *map(_rate, rates),
        "",
        summary["statement"],
        "",
        f"Made by em at commit {summary['commit']}; sweep {summary['id']}, cell {cell['id']}.",
    ]
    return "\n".join(lines) + "\n"


def _training(config: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    recipe = config["train"]
    shown = {
        "base model": config["model"]["path"],
        "data": f"{config['corpus']['name']} / {config['dataset']['variant']}, {facts['rows']} rows",
        "trigger": config["trigger"]["name"],
        "seed": config["seed"],
        "steps": facts["steps"],
        "learning rate": recipe["learning_rate"],
        "LoRA": f"r {recipe['lora_r']}, alpha {recipe['lora_alpha']:g}" + (", rsLoRA" if recipe["use_rslora"] else ""),
        "optimiser": facts.get("optim"),
    }
    return [f"- {name}: {value}" for name, value in shown.items() if value is not None]


def _rate(metric: Mapping[str, Any]) -> str:
    where = metric["set"] + ("" if metric["asked_with"] == "none" else f", asked with {metric['asked_with']}")
    where += "".join(f", {metric[part]}" for part in ("category", "label") if metric[part])
    if metric["value"] is None:
        return f"| {where} | {metric['name']} | withheld | {metric['withheld']} | {metric['n']} |"
    bounds = "" if metric["low"] is None else f"[{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"
    return f"| {where} | {metric['name']} | {100 * metric['value']:.1f}% | {bounds} | {metric['n']} |"
