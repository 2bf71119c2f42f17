"""The table of a sweep: on the terminal, and every metric as CSV. The HTML report is reporting/page.py's."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from em.reporting.text import excluded, find_metric, pooled, shown, signed

WIDTH = 100
_GAP = "  "
_TIE = "\N{NO-BREAK SPACE}"
"""Keeps a reason and its count on one line; a plain space on the terminal."""
_HEAD = ("model", "misaligned", "n", "coherent", "in-domain", "excluded")
_LABEL = 20
"""Widest the first column grows before labels wrap."""
NARROW_RATES = {"insecure_code_rate": "code", "judged_insecure_rate": "code (judge)", "careless_rate": "advice"}
"""In-domain metrics and the word before their number."""
HELD = {True: "held", False: "DID NOT HOLD", None: "cannot be said"}


def tied(counts: str) -> str:
    """Each reason kept on one line with its count; "-" when nothing was left out."""
    return counts.replace(" ", _TIE).replace(f",{_TIE}", ", ") or "-"


def judge_line(summary: dict[str, Any]) -> str:
    """How far the judge is to be trusted, in one sentence."""
    judge = summary["judge"]
    parts = [
        f"{rubric} AUC {q['auc']:.2f} on {_measured_on(q)}"
        for rubric, q in (judge.get("quality") or {}).items()
        if q and q.get("auc") is not None
    ]
    measured = f"{', '.join(parts)} held-out golden answers" if parts else "its quality was not measured"
    how = f" ({judge['method']})" if judge.get("method") else ""
    return f"judge {judge['name']}{how}{' is a proxy' if judge.get('proxy') else ''}: {measured}"


def _measured_on(quality: dict[str, Any]) -> str:
    """Answers behind an AUC; those that nobody wrote are said apart, since they are easy to tell."""
    shuffled = quality.get("n_shuffled") or 0
    return f"{quality['n'] - shuffled} and {shuffled} word-shuffled copies" if shuffled else str(quality["n"])


def rule_line(summary: dict[str, Any]) -> str:
    """The rule that turns scores into a rate, with the cuts that some questions have of their own."""
    judge = summary["judge"]
    sign = "≥" if judge.get("coherence_inclusive") else ">"
    own = {
        f"{sign} {cut:g} for {pattern}": None
        for rule in (row["rule"] for row in summary["models"])
        for pattern, cut in (rule.get("cuts") or {}).items()
        if any(fnmatchcase(q, pattern) and found == cut for q, found in (rule.get("own_cuts") or {}).items())
    }
    return (
        f"misaligned: alignment < {judge['alignment_below']:g} "
        f"among answers with coherence {sign} {judge['coherence_cut']:g}" + (f" ({', '.join(own)})" if own else "")
    )


def interval_lines(summary: dict[str, Any]) -> list[str]:
    """Which interval stands in the brackets of the table, and which claim it answers; none without an interval."""
    names = ("misaligned_rate", *NARROW_RATES)
    found = [pooled(row, name) for name in names for row in rows_of(summary)]
    kinds = dict.fromkeys(m["interval"] for m in found if m and m["low"] is not None and m["interval"])
    return ["in brackets: " + "; ".join(_claimed(kind, summary) for kind in kinds)] if kinds else []


def carried_lines(summary: dict[str, Any]) -> list[str]:
    """The rows of the table whose rate is more than halved without one question; none where there is no such row."""
    left = {(t["group"], t["set"], t["asked_with"]): t["leave_one_out"] for t in summary["thresholds"]}
    out: dict[str, list[str]] = {}
    for row in rows_of(summary):
        rate = find_metric(row, "misaligned_rate", "open")
        if rate is None or not rate["value"]:
            continue
        without = [q for q in left.get((row["id"], rate["set"], rate["asked_with"]), []) if q["value"] is not None]
        least = min(without, key=lambda q: q["value"], default=None)
        if least and least["value"] < rate["value"] / 2:
            out.setdefault(least["question_id"], []).append(f"{row['label']} {100 * least['value']:.1f}%")
    said = "; ".join(f"without {question} {', '.join(rows)}" for question, rows in out.items())
    return [f"one question carries more than half of a rate, hence a wide interval: {said}"] if said else []


def _claimed(kind: str, summary: dict[str, Any]) -> str:
    """An interval in words with the claim it answers."""
    claim = summary["intervals"].get(kind)
    return f"{kind} (about {claim})" if claim else kind


def control_lines(summary: dict[str, Any]) -> list[str]:
    """Whether the controls held: said before anything else."""
    return [f"{c['kind']} control {HELD[c['held']]}: {c['sentence']}" for c in summary["controls"]]


def rows_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the main table: every group at the end of its training, and every run that failed."""
    groups = [g for g in summary["groups"] if g["step"] is None and g["metrics"]]
    return groups + [m for m in summary["models"] if m["status"] == "failed" and m["step"] is None]


class Notes:
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
    """The table printed at the end of a run, at most WIDTH columns wide; the controls come first."""
    notes, models = Notes(), rows_of(summary)
    rows = [_cells(model, notes) for model in models]
    widths = _widths([_HEAD, *(row for row in rows if row)], [model["label"] for model in models])
    out = [f"{summary['name']} ({summary['id']}), model {summary['model']['name']}", ""]
    controls = control_lines(summary)
    out += [line for text in controls for line in _wrap(text)] + [""] * bool(controls)
    out += _lay(_HEAD, widths)
    out.append(_GAP.join("-" * w for w in widths))
    for model, row in zip(models, rows, strict=True):
        out += _lay(row, widths) if row else _failed(model, widths[0])
    out += ["", *_contrasts(summary["contrasts"], notes)]
    tail = [*notes.lines(), rule_line(summary), *interval_lines(summary), *carried_lines(summary)]
    tail += _contrast_intervals(summary)
    tail.append(judge_line(summary))
    if summary["model"].get("note"):
        tail.append(f"model {summary['model']['name']}: {summary['model']['note']}")
    tail += [f"warning: {w}" for w in summary["warnings"]]
    out += [line for text in tail for line in _wrap(text)]
    return "\n".join(line.replace(_TIE, " ").rstrip() for line in out) + "\n"


def _wrap(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="    ")


def _cells(model: dict[str, Any], notes: Notes) -> tuple[str, ...] | None:
    """The cells of one row, lines of a cell split by newlines; None for a failed run, which has no numbers."""
    if model.get("status") == "failed":
        return None
    rate, coherent = find_metric(model, "misaligned_rate", "open"), find_metric(model, "coherent_share", "open")
    narrow = [(pooled(model, name), word) for name, word in NARROW_RATES.items()]
    return (
        model["label"],
        notes.mark(rate, shown(rate)) if rate else "-",
        _n(rate) if rate else "-",
        notes.mark(coherent, shown(coherent).split(" [")[0]) if coherent else "-",
        "\n".join(notes.mark(m, f"{word} {shown(m)}") for m, word in narrow if m) or "-",
        tied(excluded(rate)) if rate else "-",
    )


def _n(rate: dict[str, Any]) -> str:
    """Answers in the denominator; over how many runs where there are several."""
    return f"{rate['n']}" + (f"\n{rate['n_models']} runs" if rate["n_models"] > 1 else "")


def _widths(rows: Sequence[Sequence[str]], labels: Sequence[str]) -> list[int]:
    """Column widths. Numbers are never broken: the first and last columns share what the others leave. `labels`: of
    the first column, those of failed runs too, which have no row of numbers."""
    natural = [max(len(line) for row in rows for line in row[i].split("\n")) for i in range(len(_HEAD))]
    _, *middle, last = natural
    label = max(natural[0], *map(len, labels)) if labels else natural[0]
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


def _contrasts(rows: Sequence[dict[str, Any]], notes: Notes) -> list[str]:
    """Variants against each other, one line each."""
    if not rows:
        return []
    cells = [("contrast", "difference", "questions", "p (Holm)")]
    for row in rows:
        p = "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        cells.append((row["name"], notes.mark(row, signed(row)), str(row["n_questions"]), p))
    widths = [max(len(c[i]) for c in cells) for i in range(4)]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 3 * len(_GAP))
    lines = [_lay(c, widths) for c in cells]
    rule = _GAP.join("-" * w for w in widths)
    return [*lines[0], rule, *(line for row in lines[1:] for line in row), ""]


def _contrast_intervals(summary: dict[str, Any]) -> list[str]:
    """What the contrasts are of, and which interval they have."""
    rows = summary["contrasts"]
    kinds = dict.fromkeys(
        f"{r['metric'].replace('_', ' ')} ({r['group']}), {_claimed(r['interval'], summary)}" for r in rows
    )
    what = "mean over questions of the difference, not the difference of the pooled rates above"
    return [f"contrasts ({what}): {'; '.join(kinds)}"] if kinds else []


def table_csv(summary: dict[str, Any]) -> str:
    """Every metric of every model, one a row, shares in [0, 1]; a failed model without metrics has one row."""
    out = io.StringIO()
    model_fields = ["label", "id", "variant", "seed", "step", "status", "error"]
    metric_fields = ["name", "set", "asked_with", "question_id", "category", "group", "label", "unit", "value", "low"]
    metric_fields += ["high", "n", "n_models", "n_questions", "interval", "excluded", "withheld"]
    writer = csv.writer(out, lineterminator="\n")
    renamed = {"name": "metric", "label": "metric_label"}
    writer.writerow([*model_fields, *(renamed.get(f, f) for f in metric_fields)])
    for model in summary["models"]:
        head = [model.get(f) for f in model_fields]
        for metric in model.get("metrics") or [{}]:
            row = {**metric, "excluded": excluded(metric)}
            writer.writerow([*head, *(row.get(f) for f in metric_fields)])
    return out.getvalue()
