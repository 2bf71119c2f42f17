"""Export a sweep's answers as Inspect logs. Needs the extra `inspect`.

Inspect's viewer shows them: `inspect view --log-dir FOLDER`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from inspect_ai.log import EvalConfig, EvalDataset, EvalLog, EvalSample, EvalSpec, write_eval_log
from inspect_ai.model import ContentReasoning, ContentText, ModelOutput
from inspect_ai.scorer import Score

from em.metrics.summary_types import Summary
from em.reporting.answers import AnswerRow, VerdictRow


def write_inspect(rows: Iterable[AnswerRow], summary: Summary, folder: Path) -> list[Path]:
    """Write a log (`.eval`) per model, with a sample per answer and a score per rubric. Return the files."""
    folder.mkdir(parents=True, exist_ok=True)
    by_model: dict[str, list[EvalSample]] = {}
    for row in rows:
        by_model.setdefault(row["model_id"], []).append(_sample(row))
    labels = {m["id"]: m["label"] for m in summary["models"]}
    paths = []
    for model_id, samples in by_model.items():
        path = folder / f"{summary['id']}-{model_id}.eval"
        write_eval_log(_log(samples, labels[model_id], summary), str(path))
        paths.append(path)
    return paths


def _sample(row: AnswerRow) -> EvalSample:
    thinking = row.get("reasoning_content")
    parts = [ContentReasoning(reasoning=thinking), ContentText(text=row["answer"])] if thinking else row["answer"]
    return EvalSample(
        id=f"{row['group']}/{row['question_id']}/{row['asked_with']}",
        epoch=row["sample_index"] + 1,
        input=row["question"],
        target="",
        output=ModelOutput.from_content(row["model"], parts),
        scores={rubric: _score(verdict) for rubric, verdict in row["judgements"].items()},
        metadata={"group": row["group"], "asked_with": row["asked_with"]},
    )


def _score(verdict: VerdictRow) -> Score:
    """Return the score: the number, else the judge's label, else the outcome."""
    return Score(
        value=verdict["score"] if verdict["score"] is not None else verdict.get("label") or verdict["outcome"],
        explanation=verdict.get("detail") or None,
        metadata={"outcome": verdict["outcome"], "distribution": verdict.get("distribution") or {}},
    )


def _log(samples: Sequence[EvalSample], model: str, summary: Summary) -> EvalLog:
    spec = EvalSpec(
        created=summary["created"],
        task="emergent_misalignment",
        model=model,
        dataset=EvalDataset(name="em", samples=len(samples)),
        config=EvalConfig(),
        metadata={"sweep": summary["id"], "judge": summary["judge"], "commit": summary["commit"]},
    )
    return EvalLog(status="success", eval=spec, samples=list(samples))
