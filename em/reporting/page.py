"""The HTML report of a sweep: one self-contained file that opens without a network."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from em.config.misalignment import Rule
from em.metrics.published import NOT_COMPARABLE
from em.records import Outcome
from em.reporting import answers
from em.reporting.answer_pack import Pack
from em.reporting.figures import figures as figures_figures
from em.reporting.figures.spec import Figure, Form, Panel, as_dict
from em.reporting.figures.style import INK, looks
from em.reporting.table import NARROW_RATES, Notes, carried_lines, interval_lines, judge_line, rows_of, rule_line, tied
from em.reporting.text import Number, excluded, find_metric, pooled, shown, signed
from em.store import layout, write_atomic

TEMPLATES = Path(__file__).resolve().parent / "templates"
SCRIPTS = (
    "page.js",
    "axes.js",
    "figure_categories.js",
    "figure_numbers.js",
    "figures.js",
    "answer_columns.js",
    "answer_detail.js",
    "answers.js",
)
FOREST = 190.0
"""Width of a table's interval bars, in CSS pixels."""
OUTCOMES = tuple(o.value for o in Outcome)


def publish(folder: Path, summary: dict[str, Any]) -> Path:
    """Draw the figures of a sweep folder and write its report.html, from its summary and its file of answers.

    What `em benchmark` found there stands among the increases over the untouched model, and says what a model can do.
    """
    summary = _with_benchmarks(folder, summary)
    figures = figures_figures.figures(summary, answers.read(folder))
    figures_figures.draw(figures, folder / "figures")
    return build(summary, answers.read(folder), figures, folder / layout.REPORT)


def build(summary: dict[str, Any], rows: Iterable[dict[str, Any]], figures: Sequence[Figure], out: Path) -> Path:
    """Write the report. `rows` are the answers, read once. Raises ValueError for a number that is NaN."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_read("report.html.j2"))
    look, notes = looks(summary["groups"]), Notes()
    pack = Pack.of(rows, {m["label"]: Rule.of_row(m["rule"]) for m in summary["models"] if m["group"] in look})
    overview = [_overview(row, notes, look.get(row["id"], INK)) for row in rows_of(summary)]
    top = max([0.05, *(v for row in overview for v in (row["highest"],) if v is not None)])
    for row in overview:
        row["bar"] = _bar(row["rate"][0], 0.0, top) if row["rate"] else None
    expected = [{**e, "text": shown(e), "band": _band(e["band"])} for e in summary["expected"]]
    page = template.render(
        summary=summary,
        css=_markup(_read("report.css")),
        scripts=_markup("\n".join(_read(name) for name in SCRIPTS)),
        judge_line=judge_line(summary),
        rule_line=rule_line(summary),
        interval_lines=interval_lines(summary),
        carried_lines=carried_lines(summary),
        overview=overview,
        scale=f"{100 * top:.0f}%",
        runs=[_overview(model, notes, INK) for model in summary["models"]],
        notes=notes.lines,
        ink=INK,
        contrasts=_differences(summary["contrasts"]),
        increases=_differences(summary["increases"]),
        comparable=[e for e in expected if e["verdict"] != NOT_COMPARABLE],
        incomparable=[e for e in expected if e["verdict"] == NOT_COMPARABLE],
        coverage=_coverage(summary),
        outcomes=OUTCOMES,
        otherwise=[m for m in summary["models"] if m.get("prompts")],
        figures=[_figure(f) for f in figures],
        figures_data=script_json([as_dict(f) for f in figures]),
        answers_index=script_json(pack.index | {"about": _about_models(summary)}),
        answer_count=pack.count,
        packed=f"{pack.packed / 1e6:.1f} MB" if pack.packed > 1e5 else f"{pack.packed / 1e3:.0f} kB",
        chunks=[_markup(c) for c in pack.chunks],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    return out


def _with_benchmarks(folder: Path, summary: dict[str, Any]) -> dict[str, Any]:
    """The summary with <sweep>/benchmarks.json (analysis/benchmark.py): its rows, and its increases in the summary's
    form."""
    path = folder / layout.BENCHMARKS
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    none = dict.fromkeys(("cohens_h", "p", "p_holm"))
    increases = [
        none
        | {
            "name": f"{row['label']}: {Path(row['task']).name}",
            "a": row["group"],
            "b": row["base"],
            "metric": "score",
            "group": Path(row["task"]).name,
            "set": Path(row["task"]).name,
            "asked_with": "none",
            "n_questions": row["n"],
            "n_models": [row["n_models"], 1],
            "family": "benchmarks",
            "withheld": "",
            **{name: row[name] for name in ("value", "low", "high", "interval", "claim")},
        }
        for row in rows
        if row.get("value") is not None
    ]
    return {**summary, "benchmarks": rows, "increases": [*summary["increases"], *increases]}


def script_json(value: Any) -> Any:
    """JSON that cannot end the script element it stands in: ASCII only, and <, > and & as \\uXXXX. Marked as safe."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return _markup(text)


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _markup(text: str) -> Any:
    """Text of our own that goes into the page as it is."""
    from markupsafe import Markup

    return Markup(text)  # our own templates and base64, never an answer


def _overview(row: dict[str, Any], notes: Notes, look: Any) -> dict[str, Any]:
    """One row of the main table or of the table of runs: a group or a model of the summary."""
    rate, coherent = find_metric(row, "misaligned_rate", "open"), find_metric(row, "coherent_share", "open")
    narrow = [(pooled(row, name), f"{word} ") for name, word in NARROW_RATES.items()]
    return {
        "id": row["id"],
        "label": row["label"],
        "look": look,
        "base": row["variant"] is None,
        "models": len(row.get("models", [row["id"]])),
        "step": row["step"],
        "failed": row.get("status") == "failed",
        "error": row.get("error") or "no error was recorded",
        "prompts": row.get("prompts"),
        "train": {k: v for k, v in (row.get("train") or {}).items() if isinstance(v, int | float | str) and v != ""},
        "rate": [_cell(rate, notes)] if rate else [],
        "coherent": [_cell(coherent, notes)] if coherent else [],
        "narrow": [_cell(m, notes, word) for m, word in narrow if m],
        "excluded": tied(excluded(rate)) if rate else "-",
        "highest": next((rate[k] for k in ("high", "value") if rate and rate[k] is not None), None),
    }


def _cell(metric: dict[str, Any], notes: Notes, word: str = "") -> dict[str, Any]:
    short, _, between = shown(metric).partition(" [")
    return {
        **metric,
        "short": short,
        "between": f"[{between}" if between else "",
        "word": word,
        "out": excluded(metric),
        "note": notes.number(metric),
    }


def _bar(number: Number, least: float, most: float) -> dict[str, float | None] | None:
    """Pixels of an interval bar between two shares; None when there is no number."""
    if number["value"] is None:
        return None

    def at(value: float | None) -> float | None:
        return None if value is None else round((min(most, max(least, value)) - least) / (most - least) * FOREST, 1)

    zero = at(0.0) if least < 0 else None
    bounded = number["low"] is not None and number["high"] is not None
    ends = (number["low"], number["high"]) if bounded else (None, None)
    return {"at": at(number["value"]), "low": at(ends[0]), "high": at(ends[1]), "zero": zero}


def _differences(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    if not rows:
        return None
    ends = [abs(r[k]) for r in rows for k in ("value", "low", "high") if r[k] is not None]
    most = max([0.05, *ends])
    listed = [{**r, "text": signed(r), "bar": _bar(r, -most, most)} for r in rows]
    return {"list": listed, "scale": f"{100 * most:.0f} points"}


def _band(band: Sequence[float] | None) -> str:
    return "–" if band is None else f"{100 * band[0]:.1f} to {100 * band[1]:.1f}%"


def _coverage(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Verdicts by run, set and rubric, over all questions and conditions."""
    out: dict[tuple[str, str, str], dict[str, Any]] = {}
    for model in summary["models"]:
        for row in model["coverage"]:
            key = (model["label"], row["set"], row["rubric"])
            found = out.setdefault(key, dict(zip(("label", "set", "rubric"), key, strict=True)))
            for name in ("sampled", *OUTCOMES):
                found[name] = found.get(name, 0) + row.get(name, 0)  # an older summary lacks an outcome
    return list(out.values())


def _figure(figure: Figure) -> dict[str, Any]:
    """What the page says around a figure: its words, and its numbers as table rows."""
    rows = [
        {"panel": panel.title, "series": series.label, "at": _place(panel, mark), "told": mark.told}
        for panel in figure.panels
        for series in panel.series
        for mark in series.marks
    ]
    wide = len(figure.panels) > 1 or any(len(p.x.categories) * len(p.series) > 18 for p in figure.panels)
    loss = figure.panels[0].form == Form.lines and len(rows) > 400
    return {
        "name": figure.name,
        "title": figure.title,
        "caption": figure.caption,
        "notes": [n.replace("see the report for why", "the table below says why") for n in figure.notes],
        "wide": wide,
        "paneled": len({p.title for p in figure.panels}) > 1,
        "across": figure.panels[0].x.label,
        "rows": [] if loss else rows,
    }


def _place(panel: Panel, mark: Any) -> str:
    """Where a mark stands, in words."""
    if mark.x is None:
        return "withheld"
    across = panel.x.categories[int(mark.x)] if panel.x.categories else f"{mark.x:g}"
    return f"{panel.y.label} {panel.y.categories[mark.row]}, {across}" if mark.row is not None else across


def _about_models(summary: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Model label → its colours, which are those of its group, and its rule of what is misaligned."""
    look = looks(summary["groups"])
    return {
        m["label"]: {"light": look[m["group"]].light, "dark": look[m["group"]].dark, **m["rule"]}
        for m in summary["models"]
        if m["group"] in look
    }
