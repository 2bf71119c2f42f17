"""Import a judged CSV in the column layout of Betley et al. as a sweep folder: summary, table, figures, report.

It needs the columns NEEDED, and reads judge_aligned, judge_coherent (the judge's first-token probabilities) and, of the
columns that `em export csv` adds, question_set, asked_with, aligned_outcome and coherent_outcome. An empty score is a
judgement without a number. If its outcome is empty too, the answer was not judged by that rubric.
"""

from __future__ import annotations

import ast
import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from em.config import StatsConfig
from em.config.misalignment import Rule
from em.errors import UserError
from em.metrics.columns import collect
from em.metrics.published import paper_facts
from em.metrics.runs import UNTOUCHED, Run
from em.metrics.summary import summarise
from em.metrics.summary_types import Head
from em.questions.sets import form_of
from em.records import LONGEST_ANSWER, Judgement, Outcome, Question
from em.reporting.answers import AnswerRow, verdict_row
from em.reporting.collect import finish
from em.reporting.write import write_files
from em.store import content_key, file_sha256

NEEDED = ("model", "group", "question", "answer", "aligned", "coherent", "question_id")
RUBRICS = {"alignment": "aligned", "coherence": "coherent"}
UNTUNED = ("base", "untuned", "untouched", "gpt-4o", "original")
"""Values of `group` for a model without finetuning."""


class ImportedError(UserError, ValueError):
    """The CSV cannot be imported. The message names file and line."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One judged answer of the file."""

    model: str
    group: str
    question_id: str
    question: str
    answer: str
    judgements: tuple[Judgement, ...]
    """Empty if other rubrics judged the answer."""
    question_set: str = ""
    """Empty: the set of the headline rate."""
    asked_with: str = "none"


def read(path: Path) -> list[Row]:
    """Return the rows of a judged CSV. Raises ImportedError with file and line."""
    csv.field_size_limit(LONGEST_ANSWER)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in NEEDED if name not in (reader.fieldnames or ())]
            if missing:
                present = ", ".join(reader.fieldnames or ())
                raise ImportedError(f"{path}: missing columns: {', '.join(missing)}; the file has {present}")
            rows = [_row(raw, f"{path}:{reader.line_num}") for raw in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportedError(
            f"{path} cannot be read as a CSV file, and em import reads no other kind ({error})"
        ) from error
    if not rows:
        raise ImportedError(f"{path} has no rows")
    return rows


def _row(raw: Mapping[str, str], where: str) -> Row:
    empty = [name for name in ("model", "question_id") if not raw[name]]
    if empty or None in raw or None in raw.values():  # csv puts None where a line has too many or too few fields
        raise ImportedError(f"{where}: {'no ' + ' and no '.join(empty) if empty else 'too few or too many fields'}")
    judgements = tuple(j for r, c in RUBRICS.items() if (j := _judgement(raw, r, c, where)))
    question_set = raw.get("question_set", "")
    return Row(
        model=raw["model"],
        group=raw["group"] or raw["model"],
        question_id=raw["question_id"],
        question=raw["question"],
        answer=raw["answer"],
        judgements=judgements,
        question_set="" if question_set == "open" else question_set,
        asked_with=raw.get("asked_with") or "none",
    )


def _judgement(raw: Mapping[str, str], rubric: str, column: str, where: str) -> Judgement | None:
    """Return the row's judgement by a rubric; None if the rubric did not judge it."""
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
        return _judged(raw, rubric, outcome, distribution)
    try:
        score = float(text)
    except ValueError as error:
        raise ImportedError(f"{where}: {column} is {text[:40]!r}, expected a number 0-100 or nothing") from error
    if not 0 <= score <= 100 or math.isnan(score):
        raise ImportedError(f"{where}: {column} is {score:g}, expected a number 0-100")
    return _judged(raw, rubric, Outcome.scored, distribution, score)


def _judged(
    raw: Mapping[str, str], rubric: str, outcome: Outcome, distribution: dict[str, float], score: float | None = None
) -> Judgement:
    return Judgement(
        completion_id="",
        question_id=raw["question_id"],
        rubric=rubric,
        outcome=outcome,
        score=score,
        distribution=distribution,
    )


def _outcome(outcome_text: str, where: str) -> Outcome:
    """Return the outcome of a judgement without a score."""
    unscored = [o for o in Outcome if o not in (Outcome.scored, Outcome.labelled)]
    if outcome_text not in unscored:
        raise ImportedError(f"{where} is {outcome_text[:40]!r} without a score, expected one of {', '.join(unscored)}")
    return Outcome(outcome_text)


def _distribution(text: str | None, where: str) -> dict[str, float]:
    """Return the judge's token probabilities from a Python or JSON mapping, which is read as data only."""
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
            f"{where}: a judge column is not a mapping of tokens to probabilities: {str(text)[:40]!r}"
        ) from error


def selection_warning(rows: Sequence[Row], rule: Rule) -> str:
    """Return a warning if all scored answers are misaligned, so the file is a selection and has no rates; else ""."""
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
class ImportSettings:
    """The facts that the file lacks: how its answers were made and are counted."""

    rule: Rule
    stats: StatsConfig = field(default_factory=StatsConfig)
    judge: str = "unknown"
    model: str = "unknown"
    """Name of the base model, as in conf/model."""
    question_set: str = "imported"
    paper: bool = False
    """Whether the models were trained and sampled as in the paper: data files, epochs and temperature."""


def separate_forms(rows: Sequence[Row], question_set: str) -> list[Row]:
    """Return the rows with the paper's three forms of a question in separate sets, if the file mixes them."""
    if not any(not r.question_set and form_of(r.question_id) == "main" for r in rows):
        return list(rows)
    stem = question_set.removesuffix("/main")
    return [
        r
        if r.question_set or form_of(r.question_id) == "main"
        else replace(r, question_set=f"{stem}/{form_of(r.question_id)}")
        for r in rows
    ]


def runs(rows: Sequence[Row], about: ImportSettings, no_sample: str = "") -> list[Run]:
    """Return a run per model of the file, untouched models first. Models of one group are its seeds.

    `rows`: as `separate_forms` returns them. `no_sample`: the reason to withhold every rate, or "".
    """
    in_sets = [(r.question_set or about.question_set, r) for r in rows]
    questions: dict[str, dict[str, Question]] = {}
    for name, r in in_sets:
        questions.setdefault(name, {})[r.question_id] = Question(r.question_id, name, [], list(RUBRICS))
    headline = about.question_set if about.question_set in questions else next(iter(questions))
    models = list(dict.fromkeys((r.group, r.model) for r in rows))
    untouched = next((_id(group, model) for group, model in models if not _is_finetuned(group)), None)
    out: list[Run] = []
    seeds: dict[str, int] = {}
    for group, model in models:
        seed = seeds[group] = seeds.get(group, -1) + 1
        own: dict[str, list[tuple[str, str, Sequence[Judgement]]]] = {}
        for name, r in in_sets:
            if (r.group, r.model) == (group, model):
                own.setdefault(name, []).append((r.question_id, r.asked_with, r.judgements))
        sets = {name: collect(name, list(questions[name].values()), found) for name, found in own.items()}
        finetuned, several = _is_finetuned(group), sum(g == group for g, _ in models) > 1
        recipe = paper_facts(group if finetuned else None) if about.paper else {}
        run = Run(
            id=_id(group, model),
            label=f"{group} {seed + 1}" if several else group,
            group=group,
            group_label=group,
            variant=group if finetuned else None,
            seed=seed if finetuned else None,
            rule=about.rule,
            sets={name: replace(judged, no_sample=no_sample) for name, judged in sets.items()},
            headline=headline,
            stats=about.stats,
            base=untouched if finetuned else None,
            line=group if finetuned else "",
            peers=headline if finetuned else "",
            trained_with="none" if finetuned else UNTOUCHED,
            facts={"model": about.model, "judge": about.judge, **recipe},
        )
        out.append(run)
    return sorted(out, key=lambda r: r.variant is not None)


def _is_finetuned(group: str) -> bool:
    return group.lower() not in UNTUNED


def _id(group: str, model: str) -> str:
    """Return the name of a model's folder. One model can be in two groups: asked with and without its trigger."""
    return content_key(group=group, model=model)[:10]


def answers(rows: Sequence[Row], imported: Sequence[Run]) -> Iterator[AnswerRow]:
    """Yield every answer with its verdicts, for figures and the report."""
    labels = {run.id: run.label for run in imported}
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


def write(path: Path, out: Path, about: ImportSettings) -> Path:
    """Import a file into `out`/sweeps. Return the sweep folder; the same file gives the same folder."""
    found = read(path)
    rows = separate_forms([r for r in found if r.judgements], about.question_set)
    if not rows:
        raise ImportedError(f"{path}: no answer was judged for alignment or coherence (aligned, coherent)")
    warnings = []
    if selected := selection_warning(rows, about.rule):
        warnings.append(selected)
    if len(rows) < len(found):
        warnings.append(f"{len(found) - len(rows)} of {len(found)} rows were judged by other rubrics and are left out")
    imported, digest = runs(rows, about, selected), file_sha256(path)
    folder = out / "sweeps" / f"import-{digest[:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    labels = {run.id: run.label for run in imported}
    head: Head = {
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
            "models": {labels[_id(*model)]: model[1] for model in dict.fromkeys((r.group, r.model) for r in rows)},
        },
        "model": {"name": about.model, "note": f"nothing was run here: read from {path.name}"},
        "judge": {
            "name": about.judge,
            "proxy": False,
            "quality": {},
            "alignment_below": about.rule.alignment_below,
            "coherence_cut": about.rule.coherence_cut,
            "coherence_inclusive": about.rule.coherence_inclusive,
        },
        "counters": {},
        "warnings": warnings,
    }
    write_files(folder, finish(summarise(imported, head)), answers(rows, imported))
    return folder
