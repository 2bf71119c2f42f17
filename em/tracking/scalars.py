"""Numbers and answers in the shapes that trackers show."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from em.metrics.summary_types import Contrast, GroupRow, ModelRow
from em.planning.cells import flatten
from em.records import Completion, Judgement
from em.store import read_jsonl
from em.tracking.job import Row


def key(text: str) -> str:
    """Return text as a part of a W&B name: without blanks, and "a - b" as a_vs_b."""
    spelt = text.replace(" - ", " vs ").replace(">", " above ").replace("<", " below ")
    return re.sub(r"[^\w/.=+-]+", "_", spelt).strip("_")


def scalars(model: ModelRow) -> Iterator[tuple[str, float | str | None]]:
    """Yield (name, value) of every metric over a whole question set, with bounds and n; or the reason if withheld."""
    for metric in model["metrics"]:
        if "/" in metric["group"] and metric.get("question_id", "") is not None:
            continue
        name = key(f"{metric['group']}/{metric['name']}" + (f"/{metric['label']}" if metric.get("label") else ""))
        if metric["value"] is None:
            yield f"{name}_withheld", metric["withheld"]
            continue
        yield name, metric["value"]
        yield f"{name}_low", metric["low"]
        yield f"{name}_high", metric["high"]
        yield f"{name}_n", metric["n"]


def by_what_counts(
    found: Iterable[tuple[str, float | str | None]], judge: Row
) -> Iterator[tuple[str, float | str | None]]:
    """Yield the scalars with the rate named for what `judge` counts: open/careless_tone_rate if it hears the tone."""
    counts = judge.get("counts")
    for name, value in found:
        yield (name.replace("misaligned_rate", f"{counts.replace(' ', '_')}_rate") if counts else name), value


def quality(judge: Row) -> Iterator[tuple[str, float]]:
    """Yield (name, value) of every number of the judge's quality, e.g. judge/alignment/crossed/auc."""
    for name, value in flatten(judge.get("quality") or {}):
        if isinstance(value, int | float):
            yield "judge/" + name.replace(".", "/"), value


def question_rates(model: ModelRow) -> list[list[str | float | None]]:
    """Return [question, rate, n] per question of the headline set, without withheld rates."""
    return [
        [m["question_id"], m["value"], m["n"]]
        for m in model["metrics"]
        if m["name"] == "misaligned_rate" and m["group"] == f"open/{m['question_id']}" and m["value"] is not None
    ]


def group_questions(group: GroupRow) -> list[list[str | float | None]]:
    """Return [group, question, rate, low, high, n] per question of the headline set. A withheld rate is None."""
    return [
        [group["label"], m["question_id"], m["value"], m["low"], m["high"], m["n"]]
        for m in group["metrics"]
        if m["name"] == "misaligned_rate" and m["group"] == f"open/{m['question_id']}"
    ]


CONTRAST_COLUMNS = (
    *("name", "metric", "set", "asked_with", "value", "low", "high", "p", "p_holm", "cohens_h", "n_questions"),
    *("interval", "withheld"),
)


def contrast_rows(found: Iterable[Contrast]) -> list[list[Any]]:
    """Return one row per difference, with the columns of CONTRAST_COLUMNS."""
    return [[row.get(column) for column in CONTRAST_COLUMNS] for row in found]


def contrast_scalars(found: Iterable[Contrast]) -> Iterator[tuple[str, float | None]]:
    """Yield (name, number) of every difference that is not withheld, with its bounds."""
    for row in found:
        if row["value"] is not None:
            name = key(f"contrast/{row['name']}/{row['group']}/{row['metric']}")
            yield from ((f"{name}/value", row["value"]), (f"{name}/low", row["low"]), (f"{name}/high", row["high"]))


def samples(rows: list[list[Any]], most: int) -> tuple[list[str], list[list[Any]]]:
    """Return columns and at most `most` answers: least aligned first, unscored last. Keeps `most` rows in memory."""
    asked, judged = ("question_id", "asked_with", "index", "question", "answer"), ("alignment", "coherence", "outcome")
    columns = [*asked, *judged, "thinking"]

    def every() -> Iterator[tuple[float, int, list[Any]]]:
        count = 0
        for completions, judgements, n in rows:
            verdicts: dict[str, dict[str, Judgement]] = {}
            for j in read_jsonl(Path(judgements), Judgement):
                verdicts.setdefault(j.completion_id, {})[j.rubric] = j
            for c in read_jsonl(Path(completions), Completion):
                found = verdicts.get(c.id, {})
                if c.sample_index >= n or "alignment" not in found:
                    continue
                count += 1
                alignment, coherence = found["alignment"], found.get("coherence")
                score = alignment.score if alignment.score is not None else float("inf")
                cells = [c.question_id, c.asked_with, c.sample_index, c.messages[-1]["content"], c.text]
                scored = [alignment.score, coherence and coherence.score, alignment.outcome.value]
                yield score, count, [*cells, *scored, c.reasoning_content]

    return columns, [row for _, _, row in heapq.nsmallest(most, every())]
