"""A judged CSV in the authors' column layout → a sweep folder like one's own: summary, table, figures, report.

Columns: model, group, question, answer, aligned, coherent, question_id; judge_aligned and judge_coherent hold the
judge's first-token probabilities where they are there. An empty score is a judgement without a number.
"""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from em.expected import paper_facts
from em.metrics import Rule, collect
from em.records import Judgement, Outcome, Question
from em.schema.base import UserError
from em.schema.stats import StatsConfig
from em.store import content_key, file_sha256
from em.summary import UNTOUCHED, Run

NEEDED = ("model", "group", "question", "answer", "aligned", "coherent", "question_id")
RUBRICS = {"alignment": "aligned", "coherence": "coherent"}
UNTUNED = ("base", "untuned", "untouched", "gpt-4o", "original")
"""Values of `group` that mean a model that was not finetuned."""
_LONGEST_ANSWER = 10_000_000


class ImportedError(UserError, ValueError):
    """The CSV cannot be used; one sentence with the line."""


@dataclass(frozen=True)
class Row:
    """One judged answer of the file."""

    model: str
    group: str
    question_id: str
    question: str
    answer: str
    judgements: tuple[Judgement, ...]


def read(path: Path) -> list[Row]:
    """Rows of a judged CSV. Raises ImportedError naming file and line."""
    csv.field_size_limit(_LONGEST_ANSWER)
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                there = ", ".join(reader.fieldnames or ())
                raise ImportedError(f"{path}: columns that are missing: {', '.join(missing)}; it has {there}")
            rows = [_row(raw, f"{path}:{reader.line_num}") for raw in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportedError(f"{path} cannot be read as a CSV file ({error})") from error
    if not rows:
        raise ImportedError(f"{path} has no rows")
    return rows


def _row(raw: dict[str, Any], where: str) -> Row:
    empty = [name for name in ("model", "question_id") if not raw[name]]
    if empty or None in raw or None in raw.values():
        raise ImportedError(f"{where}: {'no ' + ' and no '.join(empty) if empty else 'too few or too many fields'}")
    judgements = tuple(_judgement(raw, rubric, column, where) for rubric, column in RUBRICS.items())
    return Row(
        raw["model"], raw["group"] or raw["model"], raw["question_id"], raw["question"], raw["answer"], judgements
    )


def _judgement(raw: dict[str, Any], rubric: str, column: str, where: str) -> Judgement:
    text, distribution = raw[column].strip(), _distribution(raw.get(f"judge_{column}"), where)
    likeliest = max(distribution, key=lambda token: distribution[token], default="").strip().upper()
    words = {"REFUSAL": Outcome.refusal, "CODE": Outcome.code}
    if text in ("", "nan", "None") or text.upper() in words:
        outcome = words.get(text.upper() or likeliest, words.get(likeliest, Outcome.unparseable))
        return Judgement("", raw["question_id"], rubric, outcome, None, distribution)
    try:
        score = float(text)
    except ValueError as error:
        raise ImportedError(f"{where}: {column} is {text[:40]!r}, expected a number 0-100 or nothing") from error
    if not 0 <= score <= 100 or math.isnan(score):
        raise ImportedError(f"{where}: {column} is {score:g}, expected a number 0-100")
    return Judgement("", raw["question_id"], rubric, Outcome.scored, score, distribution)


def _distribution(text: str | None, where: str) -> dict[str, float]:
    """The judge's token probabilities: a Python or JSON mapping, which is read as data only."""
    if not (text or "").strip():
        return {}
    try:
        found = ast.literal_eval(str(text))
        return {str(token): float(p) for token, p in found.items()}
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise ImportedError(
            f"{where}: a judge column is no mapping of tokens to probabilities: {text[:40]!r}"
        ) from error


def selection(rows: Sequence[Row], rule: Rule) -> str:
    """A sentence when the file holds chosen answers only, so that its shares are no rates; else ""."""
    scores = [{j.rubric: j.score for j in row.judgements} for row in rows]
    scored = [s for s in scores if s["alignment"] is not None and s["coherence"] is not None]
    hits = sum(s["alignment"] < rule.alignment_below for s in scored)
    if hits < len(scored) or hits < 5:
        return ""
    return (
        f"all {hits} answers that have both scores are misaligned: the file holds chosen examples, no sample of "
        "answers, so their shares are no rates"
    )


@dataclass(frozen=True)
class About:
    """What the file does not say: how its answers came about."""

    rule: Rule
    stats: StatsConfig = field(default_factory=StatsConfig)
    judge: str = "unknown"
    model: str = "unknown"
    """Name of the base model, as in conf/model."""
    question_set: str = "imported"
    paper: bool = False
    """Trained and asked as in the paper: its data files, epochs and temperature."""


def runs(rows: Sequence[Row], about: About, no_sample: str = "") -> list[Run]:
    """One run a model of the file, the untouched first; models of one group are its seeds."""
    name = about.question_set
    questions = {r.question_id: Question(r.question_id, name, [], list(RUBRICS)) for r in rows}
    models = list(dict.fromkeys((r.group, r.model) for r in rows))
    untouched = next((_id(model) for group, model in models if group.lower() in UNTUNED), None)
    out, seeds = [], {}
    for group, model in models:
        seed = seeds[group] = seeds.get(group, -1) + 1
        own = ((r.question_id, "none", r.judgements) for r in rows if (r.group, r.model) == (group, model))
        judged = replace(collect(name, list(questions.values()), own), no_sample=no_sample)
        variant = None if group.lower() in UNTUNED else group
        several = sum(g == group for g, _ in models) > 1
        tuned = {"variant": group, "seed": seed, "base": untouched, "line": group, "peers": name}
        facts = {"model": about.model, "judge": about.judge, **(paper_facts(variant) if about.paper else {})}
        run = Run(
            id=_id(model),
            label=f"{group} {seed + 1}" if several else group,
            group=group,
            group_label=group,
            rule=about.rule,
            sets={name: judged},
            headline=name,
            stats=about.stats,
            facts=facts,
            **({"variant": None, "seed": None, "trained_with": UNTOUCHED} if variant is None else tuned),
        )
        out.append(run)
    return sorted(out, key=lambda r: r.variant is not None)


def _id(model: str) -> str:
    """A folder's name for a model's."""
    return content_key(model=model)[:10]


def answers(rows: Sequence[Row], made: Sequence[Run]) -> Iterator[dict[str, Any]]:
    """Every answer with its verdicts, for figures and the report."""
    from em.results import verdict_row

    labels, number = {run.id: run.label for run in made}, {}
    for row in rows:
        index = number[row.model, row.question_id] = number.get((row.model, row.question_id), -1) + 1
        yield {
            "model": labels[_id(row.model)],
            "model_id": _id(row.model),
            "group": "open",
            "question_id": row.question_id,
            "asked_with": "none",
            "sample_index": index,
            "question": row.question,
            "answer": row.answer,
            "judgements": {j.rubric: verdict_row(j) for j in row.judgements},
        }


def write(path: Path, out: Path, about: About) -> Path:
    """Import a file into `out`/sweeps; returns the sweep folder. The same file gives the same folder."""
    from em import results

    rows, rule = read(path), about.rule
    chosen = selection(rows, rule)
    made, digest = runs(rows, about, chosen), file_sha256(path)
    folder = out / "sweeps" / f"import-{digest[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    labels = {run.id: run.label for run in made}
    head = {
        "source": "import",
        "name": path.name,
        "id": folder.name,
        "created": datetime.now().astimezone().isoformat("T", "seconds"),
        "commit": None,
        "versions": {},
        "file": {
            "name": path.name,
            "sha256": digest,
            "rows": len(rows),
            "models": {labels[_id(model)]: model for model in dict.fromkeys(r.model for r in rows)},
        },
        "model": {"name": about.model, "note": f"nothing was run here: read from {path.name}"},
        "judge": {
            "name": about.judge,
            "proxy": False,
            "quality": {},
            "alignment_below": rule.alignment_below,
            "coherence_cut": rule.coherence_cut,
            "coherence_inclusive": rule.coherence_inclusive,
        },
        "counters": {},
        "warnings": [chosen] if chosen else [],
    }
    summary = results.finish(results.summarise(made, head))
    results.write_files(folder, summary, lambda: answers(rows, made))
    return folder
