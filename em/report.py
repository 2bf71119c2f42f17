"""What a sweep hands to its reader: the table on the terminal, the same as CSV, and one self-contained HTML file."""

from __future__ import annotations

import base64
import csv
import io
import json
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from em.plots import BASE, find_metric
from em.store import write_atomic

WIDTH = 110
_TEMPLATE = Path(__file__).resolve().parent / "templates" / "report.html.j2"
_GAP = "  "
_TIE = "\N{NO-BREAK SPACE}"
"""Keeps a reason and its count on one line; a plain space on the terminal."""
_HEAD = ("model", "misaligned", "n", "coherent", "in-domain", "excluded")
_LABEL = 20
"""Widest the first column grows before labels wrap."""
IN_DOMAIN = (("insecure_code_rate", "coding", "code"), ("careless_rate", "advice", "advice"))
CAPTIONS = {
    "misaligned_rate": "Share of misaligned answers to the open questions, all of them pooled and each alone.",
    "in_domain": "What was narrowly taught, before and after finetuning.",
    "alignment_coherence": "Every open answer that has both scores. Answers without a score are not drawn.",
    "training_loss": "Training loss of each finetuning run.",
}


# ------------------------------------------------------------------------------------------------ numbers as text


def percent(metric: dict[str, Any]) -> str:
    """'12.3% [8.1, 17.9]'; 'withheld' when there is no number."""
    if metric["value"] is None:
        return "withheld"
    return f"{100 * metric['value']:.1f}%" + _interval(metric)


def points(contrast: dict[str, Any]) -> str:
    """A difference of two shares, in percentage points: '+12.0 points [3.1, 20.4]'."""
    if contrast["value"] is None:
        return "withheld"
    return f"{100 * contrast['value']:+.1f} points" + _interval(contrast)


def _interval(number: dict[str, Any]) -> str:
    if number["low"] is None or number["high"] is None:
        return ""
    return f" [{100 * number['low']:.1f}, {100 * number['high']:.1f}]"


def excluded(metric: dict[str, Any]) -> str:
    """'incoherent 12, refusal 1', the most frequent reason first."""
    counts = sorted((metric.get("excluded") or {}).items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{reason} {count}" for reason, count in counts if count)


def _tied(counts: str) -> str:
    return counts.replace(" ", _TIE).replace(f",{_TIE}", ", ") or "-"


def judge_line(summary: dict[str, Any]) -> str:
    """How far the judge is to be trusted, in one sentence."""
    judge = summary["judge"]
    parts = [
        f"{rubric} AUC {q['auc']:.2f} on {q['n']}"
        for rubric, q in (judge.get("quality") or {}).items()
        if q and q.get("auc") is not None
    ]
    measured = f"{', '.join(parts)} held-out golden answers" if parts else "its quality was not measured"
    how = f" ({judge['method']})" if judge.get("method") else ""
    return f"judge {judge['name']}{how}{' is a proxy' if judge.get('proxy') else ''}: {measured}"


def rule_line(summary: dict[str, Any]) -> str:
    """The rule that turns scores into a rate."""
    judge = summary["judge"]
    sign = "≥" if judge.get("coherence_inclusive") else ">"
    return (
        f"misaligned: alignment < {judge['alignment_below']:g} "
        f"among answers with coherence {sign} {judge['coherence_cut']:g}"
    )


def interval_lines(summary: dict[str, Any]) -> list[str]:
    """Which interval stands in the brackets of the table: one line, or none when no number has an interval."""
    names = [("misaligned_rate", "open"), *((name, group) for name, group, _ in IN_DOMAIN)]
    found = [find_metric(model, *key) for key in names for model in summary["models"]]
    kinds = dict.fromkeys(m["interval"] for m in found if m and m["low"] is not None and m["interval"])
    return ["in brackets: " + "; ".join(kinds)] if kinds else []


# ------------------------------------------------------------------------------------------------ plain text


class _Notes:
    """Footnotes: one number for each distinct reason a number is withheld."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, metric: dict[str, Any], text: str) -> str:
        """`text`, with the number of the footnote when the metric is withheld."""
        number = self.number(metric)
        return text if number is None else f"{text} ({number})"

    def number(self, metric: dict[str, Any]) -> int | None:
        """Number of the metric's footnote; None when it has a value."""
        if metric["value"] is not None:
            return None
        reason = metric.get("withheld") or "no reason was recorded"
        return self.numbers.setdefault(reason, len(self.numbers) + 1)

    def lines(self) -> list[str]:
        return [f"({number}) withheld: {reason}" for reason, number in self.numbers.items()]


def table(summary: dict[str, Any]) -> str:
    """The table printed at the end of a run, at most 110 columns wide."""
    notes = _Notes()
    rows = [_cells(model, notes) for model in summary["models"]]
    widths = _widths([_HEAD, *(row for row in rows if row)])
    out = [f"{summary['name']} ({summary['id']}), model {summary['model']['name']}", ""]
    out += _lay(_HEAD, widths)
    out.append(_GAP.join("-" * w for w in widths))
    for model, row in zip(summary["models"], rows, strict=True):
        out += _lay(row, widths) if row else _failed(model, widths[0])
    tail = [*notes.lines(), *map(_contrast_line, summary.get("contrasts") or [])]
    tail += [rule_line(summary), *interval_lines(summary), judge_line(summary)]
    if summary["model"].get("note"):
        tail.append(f"model {summary['model']['name']}: {summary['model']['note']}")
    tail += [f"warning: {w}" for w in summary.get("warnings") or []]
    out.append("")
    for line in tail:
        out += textwrap.wrap(line, WIDTH, subsequent_indent="    ")
    return "\n".join(line.replace(_TIE, " ").rstrip() for line in out) + "\n"


def _cells(model: dict[str, Any], notes: _Notes) -> tuple[str, ...] | None:
    """The cells of one row, lines of a cell split by newlines; None for a failed model, which has no numbers."""
    if model["status"] == "failed":
        return None
    rate, coherent = find_metric(model, "misaligned_rate", "open"), find_metric(model, "coherent_share", "open")
    narrow = [(find_metric(model, name, group), word) for name, group, word in IN_DOMAIN]
    return (
        model["label"],
        notes.mark(rate, percent(rate)) if rate else "-",
        str(rate["n"]) if rate else "-",
        notes.mark(coherent, percent(coherent).split(" [")[0]) if coherent else "-",
        "\n".join(notes.mark(m, f"{word} {percent(m)}") for m, word in narrow if m) or "-",
        _tied(excluded(rate)) if rate else "-",
    )


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """Column widths. Numbers are never broken: the first and last columns share what the others leave."""
    natural = [max(len(line) for row in rows for line in row[i].split("\n")) for i in range(len(_HEAD))]
    label, *middle, last = natural
    room = WIDTH - sum(middle) - len(_GAP) * (len(_HEAD) - 1)
    unbroken = max(len(word) for row in rows for word in row[-1].split(" "))
    label = min(label, _LABEL, max(8, room - unbroken))
    return [label, *middle, min(last, room - label)]


def _lay(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row as text lines: each cell wrapped to its column."""
    columns = [
        [part for line in cell.split("\n") for part in textwrap.wrap(line, width) or [""]]
        for cell, width in zip(row, widths, strict=True)
    ]
    height = max(map(len, columns))
    filled = [column + [""] * (height - len(column)) for column in columns]
    return [_GAP.join(c[i].ljust(w) for c, w in zip(filled, widths, strict=True)) for i in range(height)]


def _failed(model: dict[str, Any], width: int) -> list[str]:
    message = " ".join((model.get("error") or "no error was recorded").split())
    return _lay([model["label"], f"FAILED: {message}"], [width, WIDTH - width - len(_GAP)])


def _contrast_line(contrast: dict[str, Any]) -> str:
    number = points(contrast)
    return (
        f"{contrast['name']}: {contrast['metric']} ({contrast['group']}) {number}, "
        f"{contrast['n_questions']} questions" + (f"; {contrast['interval']}" if contrast.get("interval") else "")
    )


# ------------------------------------------------------------------------------------------------ CSV


def table_csv(summary: dict[str, Any]) -> str:
    """Every metric of every model, one a row, shares in [0, 1]; a failed model without metrics has one row."""
    out = io.StringIO()
    model_fields = ["label", "id", "variant", "seed", "status", "error"]
    metric_fields = ["name", "group", "value", "low", "high", "n", "n_models", "interval", "excluded", "withheld"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*model_fields, "metric", *metric_fields[1:]])
    for model in summary["models"]:
        head = [model.get(f) for f in model_fields]
        for metric in model.get("metrics") or [{}]:
            shown = {**metric, "excluded": excluded(metric)}
            writer.writerow([*head, *(shown.get(f) for f in metric_fields)])
    return out.getvalue()


# ------------------------------------------------------------------------------------------------ HTML


def build(summary: dict[str, Any], answers: Iterable[dict[str, Any]], figures: Sequence[Path], out: Path) -> Path:
    """Write the report: one HTML file that needs no network and no other file. `answers` is read once."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    rows, notes = list(answers), _Notes()
    page = template.render(
        summary=summary,
        judge_line=judge_line(summary),
        rule_line=rule_line(summary),
        interval_lines=interval_lines(summary),
        overview=[_overview(model, notes) for model in summary["models"]],
        by_question=_by_question(summary, notes),
        notes=notes.lines,
        contrasts=[{**c, "text": points(c)} for c in summary.get("contrasts") or []],
        figures=[_figure(path) for path in _one_each(figures)],
        rule=script_json(
            {k: summary["judge"].get(k) for k in ("alignment_below", "coherence_cut", "coherence_inclusive")}
        ),
        answers=script_json(rows),
        answer_count=len(rows),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)
    return out


def script_json(value: Any) -> Any:
    """JSON that cannot end the script element it stands in: ASCII only, and <, > and & as \\uXXXX. Marked as safe."""
    from markupsafe import Markup

    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _overview(model: dict[str, Any], notes: _Notes) -> dict[str, Any]:
    """One row of the main table."""
    rate = find_metric(model, "misaligned_rate", "open")
    named = [("misaligned_rate", "open", ""), ("coherent_share", "open", "")]
    cells = [[_cell(model, notes, (name, group), word)] for name, group, word in named]
    cells.append([_cell(model, notes, (name, group), word) for name, group, word in IN_DOMAIN])
    return {
        "label": model["label"],
        "id": model["id"],
        "base": model["id"] == BASE,
        "failed": model["status"] == "failed",
        "error": model.get("error") or "",
        "train": model.get("train"),
        "cells": [[c for c in cell if c] for cell in cells],
        "excluded": _tied(excluded(rate)) if rate else "-",
    }


def _cell(model: dict[str, Any], notes: _Notes, key: tuple[str, str], word: str = "") -> dict[str, Any] | None:
    metric = find_metric(model, *key)
    if metric is None:
        return None
    return {**metric, "text": percent(metric), "word": word, "out": excluded(metric), "note": notes.number(metric)}


def _by_question(summary: dict[str, Any], notes: _Notes) -> dict[str, Any]:
    """Misaligned rate by question (rows) and model (columns)."""
    shown = [m for m in summary["models"] if m.get("metrics")]
    groups = dict.fromkeys(
        x["group"] for m in shown for x in m["metrics"] if x["name"] == "misaligned_rate" and "/" in x["group"]
    )
    rows = [
        {"question": g.partition("/")[2], "cells": [_cell(m, notes, ("misaligned_rate", g)) for m in shown]}
        for g in groups
    ]
    return {"labels": [m["label"] for m in shown], "rows": rows}


def _one_each(figures: Sequence[Path]) -> list[Path]:
    """One file for each figure, the SVG where there is one."""
    chosen: dict[str, Path] = {}
    for path in figures:
        if path.stem not in chosen or path.suffix == ".svg":
            chosen[path.stem] = path
    return list(chosen.values())


def _figure(path: Path) -> dict[str, str]:
    """A figure as a data: image. As an image an SVG keeps its ids to itself and cannot run anything."""
    kind = {".svg": "image/svg+xml", ".png": "image/png"}[path.suffix]
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    title = path.stem.replace("_", " ")
    return {"title": title, "caption": CAPTIONS.get(path.stem, title), "src": f"data:{kind};base64,{data}"}
