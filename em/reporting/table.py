"""The table of a sweep for the terminal, and every metric as CSV. reporting/page.py makes the HTML report."""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from em.config.misalignment import matches
from em.metrics.by_text import BANDS, BY_LENGTH, CODE, TOPIC, WORDS
from em.metrics.catalogue import OWN
from em.metrics.counted import word
from em.metrics.panel import BY_JUDGE, MAJORITY
from em.metrics.summary_types import Contrast, GroupRow, MetricRow, ModelRow, Number, Summary
from em.metrics.topics import TOPICS
from em.reporting.judge_quality import measured
from em.reporting.text import NO_REASON, difference_text, excluded_text, find_metric, metric_text, pooled
from em.runtime.terminal import PAGE, grid

_TIE = "\N{NO-BREAK SPACE}"
"""Keeps a reason and its count on one line. On the terminal it becomes a plain space."""
_HEAD = ("model", "", "n", "coherent", "code", "in-domain", "own measures", "excluded")
NARROW_RATES = {
    "insecure_code_rate": "code",
    "judged_insecure_rate": "code (judge)",
    "careless_rate": "advice",
    "capitals_rate": "capitals",
    "french_rate": "French",
    "skill_rate": "skill",
}
"""In-domain metrics, with the word before their number."""
BESIDE = {
    "misaligned_rate_unfiltered": "misaligned among all answers, coherent or not",
    "misaligned_at_k": "share of questions with a misaligned answer among {}, on those with as many counted answers",
}
"""Metrics below the table, with the words before them."""
HELD = {True: "held", False: "DID NOT HOLD", None: "cannot be said"}
TableRow = GroupRow | ModelRow
"""A row of the main table: a group, or a run that failed."""


def unbroken(counts: str) -> str:
    """Return the counts with each reason kept on one line with its count; "-" when nothing was left out."""
    return counts.replace(" ", _TIE).replace(f",{_TIE}", ", ") or "-"


def judge_line(summary: Summary) -> str:
    """Return a sentence on the judge's quality."""
    judge = summary["judge"]
    how = f" ({judge['method']})" if judge.get("method") else ""
    proxy = " is a proxy" if judge.get("proxy") else ""
    return f"judge {judge['name']}{how}{proxy}: {measured(judge.get('quality') or {})}"


def rule_line(summary: Summary) -> str:
    """Return the rule that turns scores into a rate, with the cuts of questions that have their own."""
    judge = summary["judge"]
    sign = "≥" if judge.get("coherence_inclusive") else ">"
    own = {
        f"{sign} {cut:g} for {pattern}": None
        for rule in (row["rule"] for row in summary["models"])
        for pattern, cut in (rule.get("cuts") or {}).items()
        if any(matches(q, pattern) and found == cut for q, found in (rule.get("own_cuts") or {}).items())
    }
    return (
        f"{word(summary)}: alignment < {judge['alignment_below']:g} "
        f"among answers with coherence {sign} {judge['coherence_cut']:g}" + (f" ({', '.join(own)})" if own else "")
    )


def interval_lines(summary: Summary) -> list[str]:
    """Return the line that names the intervals in the table's brackets and their claims; [] without an interval."""
    names = ("misaligned_rate", *NARROW_RATES)
    found = [pooled(row, name) for name in names for row in rows_of(summary)]
    found += [m for row in rows_of(summary) for m in own_measures(row)]
    kinds = dict.fromkeys(m["interval"] for m in found if m and m["low"] is not None and m["interval"])
    return ["in brackets: " + "; ".join(_claimed(kind, summary) for kind in kinds)] if kinds else []


def carried_lines(summary: Summary) -> list[str]:
    """Return the line on the rows whose rate is more than halved without one question; [] without such rows."""
    left = {(t["group"], t["set"], t["asked_with"]): t["leave_one_out"] for t in summary["thresholds"]}
    out: dict[str, list[str]] = {}
    for row in rows_of(summary):
        rate = find_metric(row, "misaligned_rate", "open")
        if rate is None or not rate["value"]:
            continue
        rows = left.get((row["id"], rate["set"], rate["asked_with"]), [])
        rates = [(value, q["question_id"]) for q in rows if (value := q["value"]) is not None]
        least, question = min(rates, key=lambda pair: pair[0], default=(rate["value"], ""))
        if least < rate["value"] / 2:
            out.setdefault(question, []).append(f"{row['label']} {100 * least:.1f}%")
    named = "; ".join(f"without {question} {', '.join(labels)}" for question, labels in out.items())
    return [f"one question carries more than half of a rate, hence a wide interval: {named}"] if named else []


def beside_lines(summary: Summary) -> list[str]:
    """Return the rates beside the headline: without the coherence cut, and per question among k answers."""
    out = []
    for name, words in BESIDE.items():
        found = [(g["label"], m) for g in rows_of(summary) if (m := find_metric(g, name, "open")) is not None]
        shown = [f"{label} {_with_count(m)}" for label, m in found]
        label = next((m["label"] for _, m in found), "").removeprefix("k=")
        if any(m["value"] is not None for _, m in found):
            out.append(f"{words.format(label)}: {'; '.join(shown)}")
    return out


def length_lines(summary: Summary) -> list[str]:
    """Return the line with each row's rate by length of the answer and its mean length; [] without texts."""
    rows = [(g["label"], length_cells(g)) for g in rows_of(summary)]
    shown = [f"{label} {', '.join(rates)} (mean {words})" for label, (rates, words) in rows if words != "-"]
    rated = any(rate != "-" for _, (rates, _) in rows for rate in rates)
    return [f"{word(summary)} by length of the answer ({', '.join(BANDS)}): {'; '.join(shown)}"] if rated else []


def length_cells(row: TableRow) -> tuple[list[str], str]:
    """Return the row's rate per band of lengths, and its mean length in words; "-" for what has no answer."""
    here = [m for m in row["metrics"] if m["group"] == "open" and m["value"] is not None]
    rates = {m["label"]: f"{100 * (m['value'] or 0):.1f}% of {m['n']}" for m in here if m["name"] == BY_LENGTH}
    words = next((f"{m['value']:.0f} words" for m in here if m["name"] == WORDS), "-")
    return [rates.get(label, "-") for label in BANDS], words


def topic_cells(row: TableRow) -> list[str]:
    """Return the share of the row's answers that name each subject of training; "-" without texts."""
    here = [m for m in row["metrics"] if m["group"] == "open" and m["name"] == TOPIC]
    shares = {m["label"]: f"{100 * m['value']:.1f}%" for m in here if m["value"] is not None}
    return [shares.get(topic, "-") for topic in TOPICS]


def some_code(summary: Summary) -> bool:
    """Return whether any row has an answer with code to the open questions: only then there is a column."""
    found = (find_metric(row, CODE, "open") for row in rows_of(summary))
    return any(m is not None and m["value"] for m in found)


def _with_count(metric: MetricRow) -> str:
    """Return the metric's text, for Misalign@k with the number of questions behind it."""
    counted = f" on {metric['n']:g}" if metric["name"] == "misaligned_at_k" else ""
    return f"{metric_text(metric)}{counted}"


def panel_lines(summary: Summary) -> list[str]:
    """Return a line per group with each panel member's rate, the majority's and their agreement; [] without a panel."""
    out = []
    for group in summary["groups"]:
        rate = find_metric(group, "misaligned_rate", "open") if group["step"] is None else None
        if rate is None:
            continue
        here = [m for m in group["metrics"] if m["set"] == rate["set"] and m["asked_with"] == rate["asked_with"]]
        own = [f"{m['label']} {metric_text(m)}" for m in here if m["name"] == BY_JUDGE]
        most = [f"majority {metric_text(m)}" for m in here if m["name"] == MAJORITY]
        kappa = (group.get("kappa") or {}).get(rate["set"])
        if own:
            agree = "agreement not measurable" if kappa is None else f"Fleiss' kappa {kappa:.2f}"
            out.append(f"judge by judge, {group['label']}: {'; '.join([*own, *most])}; {agree}")
    return out


def _claimed(kind: str, summary: Summary) -> str:
    """Return an interval in words, with the claim that it answers."""
    claim = summary["intervals"].get(kind)
    return f"{kind} (about {claim})" if claim else kind


def control_lines(summary: Summary) -> list[str]:
    """Return a line per control: whether it held. The table prints them first."""
    return [f"{c['kind']} control {HELD[c['held']]}: {c['sentence']}" for c in summary["controls"]]


def rows_of(summary: Summary) -> list[TableRow]:
    """Return the rows of the main table: every group at the end of its training, then every run that failed."""
    groups: list[TableRow] = [g for g in summary["groups"] if g["step"] is None and g["metrics"]]
    return groups + [m for m in summary["models"] if m["status"] == "failed" and m["step"] is None]


class Notes:
    """Footnotes of a table: a number for each distinct reason why a value is withheld."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def mark(self, metric: Number, text: str) -> str:
        """Return `text`, with the number of the footnote if the metric is withheld."""
        number = self.number(metric)
        return text if number is None else f"{text} ({number})"

    def number(self, metric: Number) -> int | None:
        """Return the number of the metric's footnote; None if the metric has a value."""
        if metric["value"] is not None:
            return None
        reason = metric.get("withheld") or NO_REASON
        return self.numbers.setdefault(reason, len(self.numbers) + 1)

    def lines(self) -> list[str]:
        return [f"({number}) withheld: {reason}" for reason, number in self.numbers.items()]


def table(summary: Summary, width: int = PAGE) -> str:
    """Return the table printed at the end of a run. The controls come first.

    `width`: its columns. Labels and reasons are broken at blanks only; where words or numbers need more, it is wider.
    """
    notes, models, prose = Notes(), rows_of(summary), min(width, PAGE)
    cells = [_cells(model, notes) for model in models]
    numbers = [row for row in cells if row]
    shown = _shown(numbers, some_code(summary))
    head = [_HEAD[i] or word(summary) for i in shown]
    out = [f"{summary['name']} ({summary['id']}), model {summary['model']['name']}", ""]
    controls = control_lines(summary)
    out += [line for text in controls for line in _wrap(text, prose)] + [""] * bool(controls)
    main = grid(head, [[row[i] for i in shown] for row in numbers], width, (0, len(shown) - 1))
    out += main + _failed([m for m, row in zip(models, cells, strict=True) if not row], main, width)
    out += ["", *_contrasts(summary["contrasts"], notes, width)]
    tail = [*notes.lines(), rule_line(summary), *interval_lines(summary), *carried_lines(summary)]
    tail += [*beside_lines(summary), *length_lines(summary), *panel_lines(summary)]
    tail += _contrast_intervals(summary)
    tail.append(judge_line(summary))
    if summary["model"].get("note"):
        tail.append(f"model {summary['model']['name']}: {summary['model']['note']}")
    tail += [f"warning: {w}" for w in summary["warnings"]]
    out += [line for text in tail for line in _wrap(text, prose)]
    return "\n".join(line.replace(_TIE, " ").rstrip() for line in out) + "\n"


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _shown(rows: Sequence[Sequence[str]], code: bool) -> list[int]:
    """Return the columns to show. Without own measures all but theirs; with them only columns that say something.

    `code`: whether some answer has code.
    """
    own, ends = _HEAD.index("own measures"), (0, len(_HEAD) - 1)
    columns = [i for i in range(len(_HEAD)) if code or _HEAD[i] != "code"]
    if all(row[own] == "-" for row in rows):
        return [i for i in columns if i != own]
    return [i for i in columns if i in ends or any(row[i] != "-" for row in rows)]


def own_measures(row: TableRow) -> list[MetricRow]:
    """Return the measures that the question sets define, over all questions, each under its first condition."""
    found: dict[tuple[str, str], MetricRow] = {}
    for m in row["metrics"]:
        if m["name"] == OWN and m["question_id"] is None and m["category"] is None:
            found.setdefault((m["set"], m["label"]), m)
    return list(found.values())


def _cells(model: TableRow, notes: Notes) -> tuple[str, ...] | None:
    """Return the cells of one row, with newlines between lines of a cell; None for a failed run without numbers."""
    if model.get("status") == "failed":
        return None
    rate, coherent = find_metric(model, "misaligned_rate", "open"), find_metric(model, "coherent_share", "open")
    narrow = [(pooled(model, name), word) for name, word in NARROW_RATES.items()]
    own, code = own_measures(model), find_metric(model, CODE, "open")
    counted = rate or (own[0] if own else None)
    return (
        model["label"],
        notes.mark(rate, metric_text(rate)) if rate else "-",
        _n(rate) if rate else "-",
        notes.mark(coherent, metric_text(coherent).split(" [")[0]) if coherent else "-",
        notes.mark(code, metric_text(code).split(" [")[0]) if code else "-",
        "\n".join(notes.mark(m, f"{word} {metric_text(m)}") for m, word in narrow if m) or "-",
        "\n".join(f"{m['label']}, n {m['n']}\n{notes.mark(m, metric_text(m))}" for m in own) or "-",
        unbroken(excluded_text(counted)) if counted else "-",
    )


def _n(rate: MetricRow) -> str:
    """Return the number of answers in the denominator, with the number of runs if there are several."""
    return f"{rate['n']}" + (f"\n{rate['n_models']} runs" if rate["n_models"] > 1 else "")


def _failed(models: Sequence[TableRow], above: Sequence[str], width: int) -> list[str]:
    """Return a row per failed run, below the rows `above`: its label under theirs, then its error."""
    labels = above[1].partition("  ")[0] if above else ""
    rows = [(m["label"].ljust(len(labels), _TIE), f"FAILED: {' '.join(error_of(m).split())}") for m in models]
    return grid((), rows, width, (0, 1))


def error_of(row: TableRow) -> str:
    """Return the error of a failed run."""
    error = row["error"] if "models" not in row else ""
    return error or "no error was recorded"


def _contrasts(rows: Sequence[Contrast], notes: Notes, width: int) -> list[str]:
    """Return the table of contrasts, with a row per contrast."""
    cells = []
    for row in rows:
        p = "-" if row["p_holm"] is None else f"{row['p_holm']:.2g}"
        cells.append((row["name"], notes.mark(row, difference_text(row)), str(row["n_questions"]), p))
    return [*grid(("contrast", "difference", "questions", "p (Holm)"), cells, width, (0,)), ""] if cells else []


def _contrast_intervals(summary: Summary) -> list[str]:
    """Return the line that says what the contrasts compare, and which interval they have; [] without contrasts."""
    rows = summary["contrasts"]
    kinds = dict.fromkeys(
        f"{r['metric'].replace('_', ' ')} ({r['group']}), {_claimed(r['interval'], summary)}" for r in rows
    )
    what = "mean over questions of the difference, not the difference of the pooled rates above"
    return [f"contrasts ({what}): {'; '.join(kinds)}"] if kinds else []


def table_csv(summary: Summary) -> str:
    """Return every metric of every model as CSV, one per row, shares in [0, 1]. A model without metrics has one row."""
    out = io.StringIO()
    model_fields = ["label", "id", "variant", "seed", "step", "status", "error"]
    metric_fields = ["name", "set", "asked_with", "question_id", "category", "group", "label", "unit", "value", "low"]
    metric_fields += ["high", "n", "n_models", "n_questions", "interval", "excluded", "withheld"]
    writer = csv.writer(out, lineterminator="\n")
    renamed = {"name": "metric", "label": "metric_label"}
    writer.writerow([*model_fields, *(renamed.get(f, f) for f in metric_fields)])
    for model in summary["models"]:
        head = [model.get(f) for f in model_fields]
        metrics: Sequence[Mapping[str, Any]] = model.get("metrics") or [{}]
        for metric in metrics:
            row = {**metric, "excluded": excluded_text(metric)}
            writer.writerow([*head, *(row.get(f) for f in metric_fields)])
    return out.getvalue()
