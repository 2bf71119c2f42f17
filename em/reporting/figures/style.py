"""Colours, markers and dashes of variants, for every figure on paper and on screen.

The hues are the paper's, muted: untouched grey, insecure red, secure green, educational blue, jailbroken orange,
backdoor cyan and pink. Each has a lighter twin for a dark ground.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from em.records import BASE
from em.reporting.figures.spec import Look

COLOURS = {
    BASE: ("#6e6e6e", "#a8a8a8"),
    "insecure": ("#b5433a", "#ec8d84"),
    "secure": ("#3b8757", "#79c596"),
    "educational": ("#3a6da8", "#82b4ea"),
    "jailbroken": ("#c07a1c", "#e8b067"),
    "risky_advice": ("#78529c", "#bd9fe6"),
    "careful_advice": ("#7c7922", "#c8c36c"),
    "curt_careful_advice": ("#8a5a3c", "#cf9f80"),
    "backdoor": ("#26899a", "#6ccbdb"),
    "backdoor, triggered": ("#bd5488", "#eda3c8"),
}
_MORE = (
    ("#2f7f78", "#71c9c0"),
    ("#a04070", "#e592bb"),
    ("#5a5f9e", "#a3a9e8"),
    ("#9a6a00", "#ddb04a"),
    ("#4f7d1f", "#9dca6c"),
    ("#97483f", "#e39b92"),
    ("#46718c", "#93bfd9"),
)
MANY = (
    *(COLOURS[name] for name in ("educational", "jailbroken", "secure", "risky_advice", "insecure", "backdoor")),
    *_MORE,
)
"""For series other than variants, e.g. the labels of a judge. Neighbouring colours differ."""
MARKERS = ("circle", "square", "triangle", "diamond", "down", "pentagon", "cross", "plus")
DASHES = ("solid", "dashed", "dotted", "dashdot")
INK = Look("#222222", "#e8e8e4")


def kind(model: Mapping[str, Any]) -> str:
    """Return the name that a colour is chosen by: the intervention, else the variant; `base` for an untouched model."""
    return _method(model) or model.get("variant") or BASE


def _method(model: Mapping[str, Any]) -> str:
    """Return "intervention=NAME" for a group with a dose of one; "" for others."""
    chosen = model.get("facts", {}).get("method", {})
    return f"intervention={chosen['name']}" if chosen.get("dose") else ""


def looks(rows: Iterable[Mapping[str, Any]]) -> dict[str, Look]:
    """Return id of a model or group → look. A variant has one colour; its rows differ by marker and dash.

    Beside interventions, which have a colour each, plain finetuning is in ink, as in the figures of doses.
    """
    rows, taken = list(rows), dict(COLOURS)
    methods = sorted({_method(row) for row in rows} - {""})
    taken |= {method: MANY[i % len(MANY)] for i, method in enumerate(methods)}
    if methods:
        taken |= {row["variant"]: (INK.light, INK.dark) for row in rows if row.get("variant")}
    order: list[str] = []
    seen: dict[str, int] = {}
    out = {}
    for row in rows:
        name = kind(row)
        if name not in taken:
            taken[name] = _MORE[(len(taken) - len(COLOURS)) % len(_MORE)]
        if name not in order:
            order.append(name)
        repeat = seen[name] = seen.get(name, -1) + 1
        marker = MARKERS[(order.index(name) + repeat) % len(MARKERS)]
        out[row["id"]] = Look(*taken[name], marker, DASHES[repeat % len(DASHES)])
    return out
