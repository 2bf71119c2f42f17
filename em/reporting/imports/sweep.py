"""Imported answers as a sweep folder: summary, table, figures, report."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path

from em.config import StatsConfig
from em.config.misalignment import Rule
from em.metrics.columns import JudgedRow, collect
from em.metrics.published import paper_facts
from em.metrics.runs import UNTOUCHED, Run
from em.metrics.summary import summarise
from em.metrics.summary_types import Head, SourceFile
from em.questions.sets import form_of
from em.records import Question
from em.reporting.answers import AnswerRow, verdict_row
from em.reporting.collect import finish
from em.reporting.imports import names
from em.reporting.imports.layouts import ImportedError
from em.reporting.imports.rows import RUBRICS, Judged, Row
from em.reporting.write import write_files
from em.store import content_key, file_sha256


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
    models = list(dict.fromkeys((r.group, r.variant, r.model) for r in rows))
    untouched = next((_id(group, model) for group, variant, model in models if variant is None), None)
    out: list[Run] = []
    seeds: dict[str, int] = {}
    for group, variant, model in models:
        seed = seeds[group] = seeds.get(group, -1) + 1
        own: dict[str, list[JudgedRow]] = {}
        for name, r in in_sets:
            if (r.group, r.model) == (group, model):
                own.setdefault(name, []).append((r.question_id, r.asked_with, r.judgements, r.answer))
        sets = {name: collect(name, list(questions[name].values()), found) for name, found in own.items()}
        several = sum(g == group for g, *_ in models) > 1
        recipe = paper_facts(variant) if about.paper else {}
        run = Run(
            id=_id(group, model),
            label=f"{group} {seed + 1}" if several else group,
            group=group,
            group_label=group,
            variant=variant,
            seed=seed if variant else None,
            rule=about.rule,
            sets={name: replace(judged, no_sample=no_sample) for name, judged in sets.items()},
            headline=headline,
            stats=about.stats,
            base=untouched if variant else None,
            line=group if variant else "",
            peers=headline if variant else "",
            trained_with="none" if variant else UNTOUCHED,
            model=model,
            facts={"model": about.model, "judge": about.judge, **recipe},
        )
        out.append(run)
    return sorted(out, key=lambda r: r.variant is not None)


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
            "reasoning_content": row.reasoning_content,
            "judgements": {j.rubric: verdict_row(j) for j in row.judgements},
        }


def write(found: Judged, paths: Sequence[Path], out: Path, about: ImportSettings) -> Path:
    """Write what `rows.read` found in `paths` below `out`/sweeps. Return the folder: the same files give the same."""
    rows = separate_forms([r for r in found.rows if r.judgements], about.question_set)
    if not rows:
        where = ", ".join(map(str, paths))
        raise ImportedError(f"{where}: no answer was judged for alignment or coherence (aligned, coherent)")
    selected = selection_warning(rows, about.rule)
    imported = runs(rows, about, selected)
    labels = {run.id: run.label for run in imported}
    source = source_file(paths, len(rows))
    source["models"] = {labels[_id(*key)]: key[1] for key in dict.fromkeys((r.group, r.model) for r in rows)}
    folder = out / "sweeps" / f"import-{source['sha256'][:8]}"
    folder.mkdir(parents=True, exist_ok=True)
    summary = finish(summarise(imported, head(source, about, [*_warnings(found, len(rows)), selected])))
    write_files(folder, summary, answers(rows, imported))
    return folder


def _warnings(found: Judged, judged: int) -> list[str]:
    out = [names.unknown_warning(found.names.values())]
    out += [f"columns that are not read: {columns}" for columns in found.not_read]
    if judged < len(found.rows):
        out.append(
            f"{len(found.rows) - judged} of {len(found.rows)} rows were judged by other rubrics and are left out"
        )
    return out


def source_file(paths: Sequence[Path], rows: int) -> SourceFile:
    """Return the facts of the imported files; several have the hash of their hashes."""
    digests = [file_sha256(path) for path in paths]
    digest = digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    name = paths[0].name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    return {"name": name, "sha256": digest, "rows": rows, "models": {}}


def head(source: SourceFile, about: ImportSettings, warnings: Sequence[str]) -> Head:
    """Return the first fields of an import's summary."""
    return {
        "source": "import",
        "name": source["name"],
        "id": f"import-{source['sha256'][:8]}",
        "created": datetime.now().astimezone().isoformat("T", "seconds"),
        "commit": None,
        "versions": {},
        "file": source,
        "model": {"name": about.model, "note": f"nothing was run here: read from {source['name']}"},
        "judge": {
            "name": about.judge,
            "proxy": False,
            "quality": {},
            "alignment_below": about.rule.alignment_below,
            "coherence_cut": about.rule.coherence_cut,
            "coherence_inclusive": about.rule.coherence_inclusive,
        },
        "counters": {},
        "warnings": [w for w in warnings if w],
    }
