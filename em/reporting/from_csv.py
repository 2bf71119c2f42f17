"""A judged CSV in the authors' column layout → a sweep folder like one's own: summary, table, figures, report.

Columns: model, group, question, answer, aligned, coherent, question_id; judge_aligned and judge_coherent hold the
judge's first-token probabilities where they are there. An empty score is a judgement without a number. Of what
`em export csv` writes beside them question_set, asked_with, aligned_outcome and coherent_outcome are read; an outcome
that is empty as well says that the judge was not asked.
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

from em.config import StatsConfig
from em.config.misalignment import Rule
from em.errors import UserError
from em.metrics.columns import collect
from em.metrics.published import paper_facts
from em.metrics.runs import UNTOUCHED, Run
from em.questions.sets import form_of
from em.records import LONGEST_ANSWER, Judgement, Outcome, Question
from em.reporting.answers import AnswerRow, verdict_row
from em.store import content_key, file_sha256

NEEDED = ("model", "group", "question", "answer", "aligned", "coherent", "question_id")
RUBRICS = {"alignment": "aligned", "coherence": "coherent"}
UNTUNED = ("base", "untuned", "untouched", "gpt-4o", "original")
"""Values of `group` that mean a model that was not finetuned."""


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
    """Empty where another rubric was asked."""
    question_set: str = ""
    """Empty: the headline's."""
    asked_with: str = "none"


def read(path: Path) -> list[Row]:
    """Rows of a judged CSV. Raises ImportedError naming file and line."""
    csv.field_size_limit(LONGEST_ANSWER)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                there = ", ".join(reader.fieldnames or ())
                raise ImportedError(f"{path}: columns that are missing: {', '.join(missing)}; it has {there}")
            rows = [_row(raw, f"{path}:{reader.line_num}") for raw in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportedError(
            f"{path} cannot be read as a CSV file, the only kind there is for import ({error})"
        ) from error
    if not rows:
        raise ImportedError(f"{path} has no rows")
    return rows


def _row(raw: dict[str, Any], where: str) -> Row:
    empty = [name for name in ("model", "question_id") if not raw[name]]
    if empty or None in raw or None in raw.values():
        raise ImportedError(f"{where}: {'no ' + ' and no '.join(empty) if empty else 'too few or too many fields'}")
    judgements = tuple(j for r, c in RUBRICS.items() if (j := _judgement(raw, r, c, where)))
    return Row(
        raw["model"],
        raw["group"] or raw["model"],
        raw["question_id"],
        raw["question"],
        raw["answer"],
        judgements,
        "" if raw.get("question_set", "") == "open" else raw.get("question_set", ""),
        raw.get("asked_with") or "none",
    )


def _judgement(raw: dict[str, Any], rubric: str, column: str, where: str) -> Judgement | None:
    text, distribution = raw[column].strip(), _distribution(raw.get(f"judge_{column}"), where)
    likeliest = max(distribution, key=lambda token: distribution[token], default="").strip().upper()
    words = {"REFUSAL": Outcome.refusal, "CODE": Outcome.code}
    if text in ("", "nan", "None") or text.upper() in words:
        outcome = words.get(text.upper() or likeliest, words.get(likeliest, Outcome.unparseable))
        outcome_text = raw.get(f"{column}_outcome")
        if outcome_text == "":
            return None
        if outcome_text is not None:
            outcome = _outcome(outcome_text, f"{where}: {column}_outcome")
        return Judgement("", raw["question_id"], rubric, outcome, None, distribution)
    try:
        score = float(text)
    except ValueError as error:
        raise ImportedError(f"{where}: {column} is {text[:40]!r}, expected a number 0-100 or nothing") from error
    if not 0 <= score <= 100 or math.isnan(score):
        raise ImportedError(f"{where}: {column} is {score:g}, expected a number 0-100")
    return Judgement("", raw["question_id"], rubric, Outcome.scored, score, distribution)


def _outcome(outcome_text: str, where: str) -> Outcome:
    """What became of a judgement without a score."""
    unscored = [o for o in Outcome if o not in (Outcome.scored, Outcome.labelled)]
    if outcome_text not in unscored:
        raise ImportedError(f"{where} is {outcome_text[:40]!r} beside no score, expected one of {', '.join(unscored)}")
    return Outcome(outcome_text)


def _distribution(text: str | None, where: str) -> dict[str, float]:
    """The judge's token probabilities: a Python or JSON mapping, which is read as data only."""
    if not (text or "").strip():
        return {}
    try:
        found = ast.literal_eval(str(text))
        out = {str(token): float(p) for token, p in found.items()}
        if not all(map(math.isfinite, out.values())):
            raise ValueError("a probability that is not finite")
        return out
    except (ValueError, SyntaxError, TypeError, AttributeError, MemoryError, RecursionError) as error:
        raise ImportedError(
            f"{where}: a judge column is no mapping of tokens to probabilities: {str(text)[:40]!r}"
        ) from error


def selection(rows: Sequence[Row], rule: Rule) -> str:
    """A sentence when the file holds chosen answers only, so that its shares are no rates; else ""."""
    scores = [{j.rubric: j.score for j in row.judgements} for row in rows]
    scored = [a for s in scores if (a := s.get("alignment")) is not None and s.get("coherence") is not None]
    hits = sum(rule.misaligned(alignment) for alignment in scored)
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


def placed(rows: Sequence[Row], question_set: str) -> list[Row]:
    """The rows with the paper's three forms of a question in sets of their own, where the file has them mixed."""
    if not any(not r.question_set and form_of(r.question_id) == "main" for r in rows):
        return list(rows)
    stem = question_set.removesuffix("/main")
    return [
        r
        if r.question_set or form_of(r.question_id) == "main"
        else replace(r, question_set=f"{stem}/{form_of(r.question_id)}")
        for r in rows
    ]


def runs(rows: Sequence[Row], about: About, no_sample: str = "") -> list[Run]:
    """One run a model of the file, the untouched first; models of one group are its seeds."""
    asked = [(r.question_set or about.question_set, r) for r in rows]  # rows: as `placed` leaves them
    questions: dict[str, dict[str, Question]] = {}
    for name, r in asked:
        questions.setdefault(name, {})[r.question_id] = Question(r.question_id, name, [], list(RUBRICS))
    headline = about.question_set if about.question_set in questions else next(iter(questions))
    models = list(dict.fromkeys((r.group, r.model) for r in rows))
    untouched = next((_id(group, model) for group, model in models if group.lower() in UNTUNED), None)
    out: list[Run] = []
    seeds: dict[str, int] = {}
    for group, model in models:
        seed = seeds[group] = seeds.get(group, -1) + 1
        own: dict[str, list[tuple[str, str, Sequence[Judgement]]]] = {}
        for name, r in asked:
            if (r.group, r.model) == (group, model):
                own.setdefault(name, []).append((r.question_id, r.asked_with, r.judgements))
        sets = {name: collect(name, list(questions[name].values()), found) for name, found in own.items()}
        variant = None if group.lower() in UNTUNED else group
        several = sum(g == group for g, _ in models) > 1
        tuned = {"variant": group, "seed": seed, "base": untouched, "line": group, "peers": headline}
        facts = {"model": about.model, "judge": about.judge, **(paper_facts(variant) if about.paper else {})}
        run = Run(
            id=_id(group, model),
            label=f"{group} {seed + 1}" if several else group,
            group=group,
            group_label=group,
            rule=about.rule,
            sets={name: replace(judged, no_sample=no_sample) for name, judged in sets.items()},
            headline=headline,
            stats=about.stats,
            facts=facts,
            **({"variant": None, "seed": None, "trained_with": UNTOUCHED} if variant is None else tuned),
        )
        out.append(run)
    return sorted(out, key=lambda r: r.variant is not None)


def _id(group: str, model: str) -> str:
    """A folder's name. One model may stand in two groups, as asked with and without its trigger."""
    return content_key(group=group, model=model)[:10]


def answers(rows: Sequence[Row], made: Sequence[Run]) -> Iterator[AnswerRow]:
    """Every answer with its verdicts, for figures and the report."""
    labels = {run.id: run.label for run in made}
    number: dict[tuple[str, ...], int] = {}
    for row in rows:
        asked = (row.group, row.model, row.question_set, row.question_id, row.asked_with)
        index = number[asked] = number.get(asked, -1) + 1
        yield {
            "model": labels[_id(row.group, row.model)],
            "model_id": _id(row.group, row.model),
            "group": row.question_set or "open",
            "question_id": row.question_id,
            "asked_with": row.asked_with,
            "sample_index": index,
            "question": row.question,
            "answer": row.answer,
            "judgements": {j.rubric: verdict_row(j) for j in row.judgements},
        }


def write(path: Path, out: Path, about: About) -> Path:
    """Import a file into `out`/sweeps; returns the sweep folder. The same file gives the same folder."""
    from em.metrics import summary as metrics_summary
    from em.reporting import collect as reporting_collect
    from em.reporting import write as reporting_write

    found, rule = read(path), about.rule
    rows = placed([r for r in found if r.judgements], about.question_set)
    if not rows:
        raise ImportedError(f"{path}: no row was asked for alignment or coherence (aligned_outcome, coherent_outcome)")
    left_out = f"{len(found) - len(rows)} of {len(found)} rows were judged by other rubrics and are left out"
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
            "models": {labels[_id(*found)]: found[1] for found in dict.fromkeys((r.group, r.model) for r in rows)},
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
        "warnings": [*([chosen] if chosen else []), *([left_out] if len(rows) < len(found) else [])],
    }
    summary = reporting_collect.finish(metrics_summary.summarise(made, head))
    reporting_write.write_files(folder, summary, answers(rows, made))
    return folder
