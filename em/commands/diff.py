"""`em diff`: what two sweeps did differently, and what came out of each."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_sweep, example

if TYPE_CHECKING:
    from em.metrics.summary_types import GroupRow, MetricRow, Summary

PLACES = ("out", "name", "tracking", "launch", "budget")
"""Keys that change no number."""
ABSENT = "-"


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "diff",
        help="show what two sweeps did differently, and their numbers side by side",
        description="Show the keys in which the configs of two sweeps differ, then their numbers side by side. A key\n"
        "that varies inside a sweep shows all of its values. Numbers of runs with the same label stand in one row;\n"
        "no test is made between sweeps: for that, run both as one sweep (-m), which prints contrasts.",
        epilog=example("em diff em-1a2b3c4d em-5e6f7a8b"),
    )
    add_sweep(sub, "a")
    add_sweep(sub, "b")
    sub.add_argument("--all", action="store_true", help="also equal numbers, and those of single questions")


def run(arguments: argparse.Namespace) -> int:
    from em.runtime import terminal
    from em.sweep.folder import read_summary

    folders = arguments.a, arguments.b
    names = [folder.resolve().name for folder in folders]
    configs = [(key, *pair) for key, pair in _configs(folders).items() if pair[0] != pair[1]]
    table = terminal.grid(("key", *names), configs, terminal.most(), wrapped=(1, 2)) if configs else []
    print(terminal.printed(table) or "the configs are equal")
    rows = _numbers([read_summary(folder) for folder in folders], arguments.all)
    head = ("model", "number", *names, "difference")
    table = terminal.grid(head, rows, terminal.most(), wrapped=(0, 1)) if rows else []
    print("\n" + (terminal.printed(table) or "no number differs"))
    return 0


def _configs(folders: tuple[Path, Path]) -> dict[str, tuple[str, str]]:
    """Return key → its values in both sweeps, as text. An imported sweep has no configs."""
    from em.planning.cells import flatten
    from em.store import layout
    from em.sweep.folder import read_sweep

    found: list[dict[str, str]] = []
    for folder in folders:
        rows = read_sweep(folder)["cells"] if (folder / layout.SWEEP).is_file() else []
        values: dict[str, dict[str, None]] = {}
        for row in rows:
            for key, value in flatten(row["config"]) if row["kind"] == "cell" else ():
                if key.split(".")[0] not in PLACES:
                    values.setdefault(key, {})[str(value) or '""'] = None
        found.append({key: ", ".join(seen) for key, seen in values.items()})
    keys = dict.fromkeys([*found[0], *found[1]])
    return {key: (found[0].get(key, ABSENT), found[1].get(key, ABSENT)) for key in keys}


def _numbers(summaries: list[Summary], every: bool) -> list[tuple[str, ...]]:
    """Return a row per group and metric: both values with their intervals, and B - A where both are there."""
    found = [_metrics(summary, every) for summary in summaries]
    rows = []
    for label, number in dict.fromkeys([*found[0], *found[1]]):
        a, b = (metrics.get((label, number)) for metrics in found)
        texts = [_text(metric) for metric in (a, b)]
        if every or texts[0] != texts[1]:
            rows.append((label, number, *texts, _difference(a, b)))
    return rows


def _metrics(summary: Summary, every: bool) -> dict[tuple[str, str], MetricRow]:
    """Return (label of the group, name of the number) → the metric, for groups at the end of their training."""
    groups: list[GroupRow] = [group for group in summary["groups"] if group["step"] is None]
    return {
        (group["label"], _name(metric)): metric
        for group in groups
        for metric in group["metrics"]
        if every or (metric["question_id"] is None and metric["category"] is None)
    }


def _name(metric: MetricRow) -> str:
    label = f" {metric['label']}" if metric["label"] else ""
    return f"{metric['name']}{label}, {metric['group']}"


def _text(metric: MetricRow | None) -> str:
    from em.reporting.text import metric_text

    return ABSENT if metric is None else f"{metric_text(metric)}, n {metric['n']}"


def _difference(a: MetricRow | None, b: MetricRow | None) -> str:
    """Return B - A in the metric's unit; "-" unless both sweeps have the number."""
    if a is None or b is None or a["value"] is None or b["value"] is None or a["unit"] != b["unit"]:
        return ABSENT
    gap = b["value"] - a["value"]
    return f"{100 * gap:+.1f} points" if a["unit"] == "share" else f"{gap:+.2f}"
