"""The HTML report of a sweep: one self-contained file that opens without a network. The door is publish."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.config.misalignment import Rule
from em.metrics.by_text import BANDS
from em.metrics.conclusions import caveats, claim
from em.metrics.counted import word
from em.metrics.published import NOT_COMPARABLE
from em.metrics.summary_types import BenchmarkRow, Contrast, Summary
from em.metrics.topics import TOPICS
from em.reporting import answers, doses, page_figures, page_tables
from em.reporting.answer_pack import Pack
from em.reporting.answers import AnswerRow
from em.reporting.figures import figures as figures_figures
from em.reporting.figures.spec import Figure
from em.reporting.figures.style import INK, looks
from em.reporting.table import (
    Notes,
    carried_lines,
    judge_line,
    length_lines,
    rows_of,
    rule_line,
    some_code,
)
from em.store import layout, write_atomic

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parent / "templates"
HEADLINE = "misaligned_rate"
"""The figure above the table."""
SCRIPTS = (
    "page.js",
    "figures.js",
    "answer_columns.js",
    "answer_detail.js",
    "answers.js",
)


def publish(folder: Path, summary: Summary) -> Path:
    """Draw the figures of a sweep folder and write its report.html, from its summary and its file of answers.

    Results of `em benchmark` in the folder are added to the increases over the untouched model, and are the capability
    in the figure of in-domain against out-of-domain rates. Returns the report's path.
    """
    summary = with_benchmarks(folder, summary)
    figures = figures_figures.figures(summary, answers.read(folder))
    figures_figures.draw(figures, folder / "figures")
    return build(summary, answers.read(folder), figures, folder / layout.REPORT)


def build(summary: Summary, rows: Iterable[AnswerRow], figures: Sequence[Figure], out: Path) -> Path:
    """Write the report. `rows` are the answers, which are read once. Raises ValueError for a number that is NaN."""
    first = next((f for f in figures if f.name == HEADLINE), None)
    shown = [f for f in figures if f is not first]
    look, notes = looks(summary["groups"]), Notes()
    pack = Pack.of(rows, {m["label"]: Rule.of_row(m["rule"]) for m in summary["models"] if m["group"] in look})
    overview, scale = page_tables.overview(rows_of(summary), look, notes)
    expected = page_tables.expected(summary["expected"])
    page = page_template("report.html.j2").render(
        summary=summary,
        css=markup(template("report.css")),
        scripts=markup("\n".join(template(name) for name in SCRIPTS)),
        judge_line=judge_line(summary),
        rule_line=rule_line(summary),
        counts=word(summary),
        claim=claim(summary),
        caveats=caveats(summary),
        carried_lines=carried_lines(summary),
        overview=overview,
        with_own=any(row.own for row in overview),
        with_code=some_code(summary),
        bands=list(BANDS) if length_lines(summary) else [],
        topics=TOPICS,
        scale=scale,
        runs=[page_tables.overview_row(model, notes, INK) for model in summary["models"]],
        notes=notes.lines,
        ink=INK,
        contrasts=page_tables.differences(summary["contrasts"]),
        increases=page_tables.differences(summary["increases"]),
        comparable=[e for e in expected if e["verdict"] != NOT_COMPARABLE],
        incomparable=[e for e in expected if e["verdict"] == NOT_COMPARABLE],
        doses=doses.texts(dose_rows := summary.get("doses", [])),
        dose_columns=list(doses.columns(dose_rows).values()),
        coverage=page_tables.coverage(summary["models"]),
        outcomes=page_tables.OUTCOMES,
        otherwise=[m for m in summary["models"] if m.get("prompts")],
        first=on_page(first, wide=True, low=True) if first else None,
        figures=[on_page(f) for f in shown],
        figures_data=script_json([page_figures.data(f) for f in ([first] if first else []) + shown]),
        answers_index=script_json({**pack.index, "about": _about_models(summary)}),
        answer_count=pack.count,
        packed=f"{pack.packed / 1e6:.1f} MB" if pack.packed > 1e5 else f"{pack.packed / 1e3:.0f} kB",
        chunks=[markup(c) for c in pack.chunks],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    return out


def with_benchmarks(folder: Path, summary: Summary) -> Summary:
    """Return the summary with the rows of <sweep>/benchmarks.json (analysis/benchmark.py), and their increases."""
    path = folder / layout.BENCHMARKS
    rows: list[BenchmarkRow] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    increases = [_benchmark_increase(row) for row in rows if row.get("value") is not None]
    return {**summary, "benchmarks": rows, "increases": [*summary["increases"], *increases]}


def _benchmark_increase(row: BenchmarkRow) -> Contrast:
    task = Path(row["task"]).name
    return {
        "cohens_h": None,
        "p": None,
        "p_holm": None,
        "name": f"{row['label']}: {task}",
        "a": row["group"],
        "b": row["base"],
        "metric": "score",
        "group": task,
        "set": task,
        "asked_with": "none",
        "n_questions": row["n"],
        "n_models": [row["n_models"], 1],
        "family": "benchmarks",
        "withheld": "",
        "value": row["value"],
        "low": row["low"],
        "high": row["high"],
        "interval": row["interval"],
        "claim": row["claim"],
    }


def script_json(value: Any) -> Markup:
    """Return JSON, marked as safe, that cannot end its script element: ASCII, with <, > and & as \\uXXXX."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markup(text)


def template(name: str) -> str:
    """Return the text of a file of templates/."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def markup(text: str) -> Markup:
    """Return text as markup that the template does not escape. Only for our own text."""
    from markupsafe import Markup

    return Markup(text)  # our own templates and base64, never an answer


def page_template(name: str) -> Template:
    """Return a template of a page, which escapes what it is given."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(TEMPLATES)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=loader
    )
    return environment.get_template(name)


def on_page(figure: Figure, *, wide: bool | None = None, low: bool = False) -> Mapping[str, Any]:
    """Return a figure as a template shows it: its texts and its drawn panels."""
    shown = {**page_figures.texts(figure), "panels": page_figures.drawn(figure, wide=wide, low=low)}
    return shown if wide is None else {**shown, "wide": wide}


def _about_models(summary: Summary) -> Mapping[str, Any]:
    """Return model label → the colours of its group, and its rule for misaligned answers."""
    look = looks(summary["groups"])
    return {
        m["label"]: {"light": look[m["group"]].light, "dark": look[m["group"]].dark, **m["rule"]}
        for m in summary["models"]
        if m["group"] in look
    }
