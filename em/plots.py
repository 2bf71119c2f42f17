"""Figures of a sweep, from its summary and its answers: PNG and SVG on a white ground, without pyplot or a display.

A withheld number is never drawn as a number: it is a hollow x on the axis with the word beside it.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BASE = "base"
"""Id of the untouched base model in a summary."""

COLOURS = {
    BASE: "#666666",
    "insecure": "tab:red",
    "secure": "tab:green",
    "educational": "tab:blue",
    "jailbroken": "tab:orange",
    "risky_advice": "tab:purple",
    "careful_advice": "tab:olive",
}
_OTHER_COLOURS = ["tab:brown", "tab:pink", "tab:cyan", "black", "darkgoldenrod", "teal", "slateblue", "yellowgreen"]
_MARKERS = "os^DvP<>ph"
_STYLES = ["-", "--", "-.", ":"]
_RC = {
    "svg.hashsalt": "em",
    "text.parse_math": False,  # a label with dollar signs is a label
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "savefig.facecolor": "white",
}
_ERRORBAR: dict[str, Any] = {"capsize": 2.5, "markersize": 4.5, "elinewidth": 1.1, "capthick": 1.1, "linestyle": "none"}


def find_metric(model: dict[str, Any], name: str, group: str) -> dict[str, Any] | None:
    """The model's metric of that name about that group, or None when it was not measured."""
    return next((m for m in model.get("metrics") or [] if m["name"] == name and m["group"] == group), None)


def draw(summary: dict[str, Any], answers: Iterable[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw every figure that has something to show; returns the files, the PNG before the SVG of each.

    `answers` is read once.
    """
    import matplotlib

    folder.mkdir(parents=True, exist_ok=True)
    files = []
    with matplotlib.rc_context(_RC):
        figures = {
            "misaligned_rate": misaligned_rate(summary),
            "in_domain": in_domain(summary),
            "alignment_coherence": alignment_coherence(summary, answers),
            "training_loss": training_loss(summary),
        }
        for name, figure in figures.items():
            if figure is not None:
                files += _save(figure, folder / name)
    return files


def misaligned_rate(summary: dict[str, Any]) -> Figure | None:
    """Share of misaligned answers by question and model, all questions pooled first."""
    models = [m for m in summary["models"] if any(x["name"] == "misaligned_rate" for x in m.get("metrics") or [])]
    groups = _open_groups(models)
    if not groups:
        return None
    figure = _figure(min(16.0, max(7.0, 2.0 + len(groups) * (0.35 + 0.1 * len(models)))), 4.6)
    axes = figure.add_subplot()
    colours, shapes = colours_of(summary), _shapes(summary, _MARKERS)
    tops, handles, used = [0.0], [], []
    step = 0.8 / max(len(models), 4)
    for index, model in enumerate(models):
        look = {"color": colours[model["id"]], "fmt": shapes[model["id"]]}
        handles.append(axes.errorbar([], [], yerr=[], label=model["label"], **look, **_ERRORBAR))
        for place, group in enumerate(groups):
            metric = find_metric(model, "misaligned_rate", group)
            if metric is None:
                continue
            used.append(metric)
            x = place + (index - (len(models) - 1) / 2) * step
            if metric["value"] is None:
                _withheld(axes, x, look["color"])
            else:
                axes.errorbar([x], [metric["value"]], yerr=_bars(metric), **look, **_ERRORBAR)
                tops.append(_top(metric))
    if len(groups) > 1:
        axes.axvline(0.5, color="#bbbbbb", linewidth=0.8)
    _question_ticks(axes, groups)
    _share_axis(axes, max(tops), _proxied("misaligned answers (share)", summary))
    _say(figure, used, summary)
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(models), 5))
    return figure


def in_domain(summary: dict[str, Any]) -> Figure | None:
    """What was narrowly taught, before and after finetuning: insecure code and careless advice."""
    panels = []
    for name, group, label in (
        ("insecure_code_rate", "coding", "insecure code (share, static check)"),
        ("careless_rate", "advice", _proxied("careless advice (share)", summary)),
    ):
        after = [m for m in summary["models"] if m["id"] != BASE and find_metric(m, name, group)]
        if after:
            panels.append((name, group, label, after))
    if not panels:
        return None
    counts = [len(after) for *_, after in panels]
    figure = _figure(min(16.0, max(5.0, 2.5 * len(panels) + 0.9 * sum(counts))), 4.4)
    row = figure.subplots(1, len(panels), squeeze=False, width_ratios=[c + 1 for c in counts])[0]
    used = []
    for axes, (name, group, label, after) in zip(row, panels, strict=True):
        used += _before_after(axes, summary, after, (name, group), label)
    _say(figure, used, summary)
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=COLOURS[BASE], label="before: untouched base model"),
        Patch(facecolor="white", edgecolor="black", label="after finetuning (variant's colour)"),
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=2)
    return figure


def _before_after(
    axes: Axes, summary: dict[str, Any], after: list[dict[str, Any]], key: tuple[str, str], label: str
) -> list[dict[str, Any]]:
    """One panel: for each finetuned model the base's bar and its own. Returns the metrics drawn."""
    base = next((m for m in summary["models"] if m["id"] == BASE), None)
    colours = colours_of(summary)
    tops, used = [0.0], []
    for place, model in enumerate(after):
        for x, shown in ((place - 0.19, base), (place + 0.19, model)):
            metric = find_metric(shown, *key) if shown else None
            if shown is None or metric is None:
                continue
            used.append(metric)
            if metric["value"] is None:
                _withheld(axes, x, colours[shown["id"]])
                continue
            axes.bar(x, metric["value"], 0.34, color=colours[shown["id"]])
            axes.errorbar([x], [metric["value"]], yerr=_bars(metric), fmt="none", ecolor="black", capsize=3)
            tops.append(_top(metric))
    axes.set_xlim(-0.6, len(after) - 0.4)
    _ticks(axes, [m["label"] for m in after])
    _share_axis(axes, max(tops), label)
    return used


def alignment_coherence(summary: dict[str, Any], answers: Iterable[dict[str, Any]]) -> Figure | None:
    """Every answer that has both scores, one panel a model, with the lines that decide what counts as misaligned."""
    points, without = _points(answers)
    labels = [m["label"] for m in summary["models"] if points.get(m["label"])]
    labels += [label for label in points if label not in labels]
    if not labels:
        return None
    columns = min(4, len(labels))
    rows = math.ceil(len(labels) / columns)
    figure = _figure(max(4.2, 2.7 * columns + 0.6), 2.75 * rows + 0.7)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flatten()
    by_label = {m["label"]: colours_of(summary)[m["id"]] for m in summary["models"]}
    for axes, label in zip(grid, labels, strict=False):
        xs, ys = zip(*points[label], strict=True)
        axes.scatter(xs, ys, s=11, alpha=0.45, linewidths=0, color=by_label.get(label, "black"), rasterized=True)
        _thresholds(axes, summary["judge"])
        axes.set_title(f"{label}\n{_counts(len(xs), without.get(label, 0))}", fontsize=8.5)
        axes.set_xlim(-4, 104)
        axes.set_ylim(-4, 104)
        axes.grid(linestyle="--", linewidth=0.5, color="#dddddd")
    for place, axes in enumerate(grid):
        axes.set_visible(place < len(labels))
        axes.tick_params(labelbottom=place + columns >= len(labels))
    below, cut = summary["judge"].get("alignment_below"), summary["judge"].get("coherence_cut")
    rule = f"; shaded: misaligned (alignment < {below:g})" if below is not None and cut is not None else ""
    figure.supxlabel(_proxied("alignment score", summary) + rule, fontsize=9)
    figure.supylabel(_proxied("coherence score", summary), fontsize=9)
    return figure


def training_loss(summary: dict[str, Any]) -> Figure | None:
    """Training loss by optimiser step, one line a model."""
    colours, styles = colours_of(summary), _shapes(summary, _STYLES)
    curves = [(m, [(s, v) for s, v in m.get("loss_curve") or [] if v is not None]) for m in summary["models"]]
    curves = [(model, curve) for model, curve in curves if curve]
    if not curves:
        return None
    figure = _figure(7.0, 4.0)
    axes = figure.add_subplot()
    for model, curve in curves:
        xs, ys = zip(*curve, strict=True)
        marker = "o" if len(xs) == 1 else None
        axes.plot(
            xs,
            ys,
            color=colours[model["id"]],
            linestyle=styles[model["id"]],
            marker=marker,
            markersize=4,
            linewidth=1.4,
            label=model["label"],
        )
    axes.grid(axis="y", linestyle="--", linewidth=0.6, color="#cccccc")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("training loss (nats per token)")
    figure.legend(loc="outside upper center", ncols=min(len(curves), 4))
    return figure


def colours_of(summary: dict[str, Any]) -> dict[str, str]:
    """Model id → colour. The seeds of a variant share it; variants without a colour of their own take the next free."""
    taken: dict[str, str] = dict(COLOURS)
    out = {}
    for model in summary["models"]:
        kind = _kind(model)
        if kind not in taken:
            taken[kind] = _OTHER_COLOURS[(len(taken) - len(COLOURS)) % len(_OTHER_COLOURS)]
        out[model["id"]] = taken[kind]
    return out


def _kind(model: dict[str, Any]) -> str:
    return BASE if model["id"] == BASE else model.get("variant") or model["label"]


def _shapes(summary: dict[str, Any], choices: Iterable[str]) -> dict[str, str]:
    """Model id → marker or line style, which tells the seeds of one variant apart."""
    pool, seen, out = list(choices), dict[str, int](), {}
    for model in summary["models"]:
        kind = _kind(model)
        out[model["id"]] = pool[seen.get(kind, 0) % len(pool)]
        seen[kind] = seen.get(kind, 0) + 1
    return out


def _open_groups(models: list[dict[str, Any]]) -> list[str]:
    """ "open" if present, then the question groups in the order they first appear."""
    found = [x["group"] for m in models for x in m["metrics"] if x["name"] == "misaligned_rate"]
    groups = dict.fromkeys(g for g in found if g.startswith("open/"))
    return (["open"] if "open" in found else []) + list(groups)


def _points(answers: Iterable[dict[str, Any]]) -> tuple[dict[str, list[tuple[float, float]]], dict[str, int]]:
    """By model: (alignment, coherence) of answers with both, and how many asked for both lack one."""
    points: dict[str, list[tuple[float, float]]] = {}
    without: dict[str, int] = {}
    for row in answers:
        judged = row["judgements"]
        if "alignment" not in judged or "coherence" not in judged:
            continue
        alignment, coherence = judged["alignment"]["score"], judged["coherence"]["score"]
        if alignment is None or coherence is None:
            without[row["model"]] = without.get(row["model"], 0) + 1
        else:
            points.setdefault(row["model"], []).append((alignment, coherence))
    return points, without


def _counts(drawn: int, without: int) -> str:
    return f"{drawn} answers" + (f"\n({without} more lack a score)" if without else "")


def _thresholds(axes: Axes, judge: dict[str, Any]) -> None:
    below, cut = judge.get("alignment_below"), judge.get("coherence_cut")
    if below is None or cut is None:
        return
    axes.axvline(below, color="black", linewidth=0.9, linestyle="--")
    axes.axhline(cut, color="black", linewidth=0.9, linestyle="--")
    axes.fill_between([-4, below], cut, 104, color="tab:red", alpha=0.09, linewidth=0)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, stem: Path) -> list[Path]:
    png, svg = stem.with_suffix(".png"), stem.with_suffix(".svg")
    figure.savefig(png, dpi=150)
    figure.savefig(svg, dpi=150, metadata={"Date": None})
    return [png, svg]


def _bars(metric: dict[str, Any]) -> list[list[float]] | None:
    """Distances down and up for an error bar; None when the metric has no interval."""
    if metric["low"] is None or metric["high"] is None:
        return None
    return [[max(0.0, metric["value"] - metric["low"])], [max(0.0, metric["high"] - metric["value"])]]


def _top(metric: dict[str, Any]) -> float:
    return metric["value"] if metric["high"] is None else max(metric["value"], metric["high"])


def _withheld(axes: Axes, x: float, colour: str) -> None:
    """A hollow x on the bottom axis line, below zero, with the word above it."""
    at = axes.get_xaxis_transform()
    axes.scatter(
        [x],
        [0.0],
        marker="X",
        s=34,
        facecolors="white",
        edgecolors=colour,
        linewidths=1.1,
        transform=at,
        clip_on=False,
        zorder=5,
        label="_withheld",
    )
    axes.annotate(
        "withheld",
        (x, 0.0),
        xycoords=at,
        xytext=(0, 6),
        textcoords="offset points",
        rotation=90,
        ha="center",
        va="bottom",
        fontsize=6.5,
        color="#333333",
    )


def _share_axis(axes: Axes, top: float, label: str) -> None:
    from matplotlib.ticker import PercentFormatter

    axes.set_ylim(-0.04 * (top + 0.05), top + 0.05)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.grid(axis="y", linestyle="--", linewidth=0.6, color="#cccccc")
    axes.set_ylabel(label)


def _ticks(axes: Axes, labels: list[str]) -> None:
    long = len(labels) > 1 and max(map(len, labels)) > 12
    turn = {"rotation": 28, "ha": "right", "rotation_mode": "anchor"} if long else {}
    axes.set_xticks(range(len(labels)), labels, **turn)


def _question_ticks(axes: Axes, groups: list[str]) -> None:
    _ticks(axes, ["all questions" if g == "open" else g.removeprefix("open/") for g in groups])
    axes.set_xlim(-0.6, len(groups) - 0.4)


def _proxied(label: str, summary: dict[str, Any]) -> str:
    return f"{label}, proxy judge" if summary["judge"].get("proxy") else label


def _say(figure: Figure, metrics: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """Below the figure: what the bars are, what an x means, and which models are missing because they failed."""
    intervals = dict.fromkeys(m["interval"] for m in metrics if m["value"] is not None and m["interval"])
    lines = ["bars: " + "; ".join(intervals)] if intervals else []
    if any(m["value"] is None for m in metrics):
        lines.append("hollow x: withheld, see the report for why")
    failed = [m["label"] for m in summary["models"] if m["status"] == "failed" and not m.get("metrics")]
    if failed:
        lines.append("failed, not drawn: " + ", ".join(failed))
    width = int(figure.get_figwidth() * 16)
    figure.supxlabel("\n".join(textwrap.fill(x, width) for x in lines), fontsize=7.5, color="#444444")
