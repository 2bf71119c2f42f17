"""What is said of a local judge's quality beside every number that it makes (`measured`)."""

from __future__ import annotations

from collections.abc import Mapping

from em.metrics.summary_types import Quality
from em.records import LabelQuality

CALLS = {"coherence": "coherent", "alignment": "misaligned", "care": "careless"}
"""Rubric → what its cut calls an answer."""


def measured(quality: Mapping[str, Quality | None]) -> str:
    """Return the quality of each rubric in words, or "its quality was not measured"."""
    known = {rubric: q for rubric, q in quality.items() if q and q.get("auc") is not None}
    if not known:
        return "its quality was not measured"
    parts = [f"{rubric} AUC {q['auc']:.2f} on {_measured_on(q)}" for rubric, q in known.items()]
    more = [_crossed(known["alignment"])] if "alignment" in known else []
    found = [_labels(rubric, q["sampled"]) for rubric, q in known.items() if "sampled" in q]
    more += [f"on sampled answers with blind labels {'; '.join(found)}"] if found else []
    more += [f"in one curt tone {_labels(rubric, q['curt'])}" for rubric, q in known.items() if "curt" in q]
    return "; ".join([f"{', '.join(parts)} held-out golden answers", *filter(None, more)])


def _labels(rubric: str, found: LabelQuality) -> str:
    shares = ", ".join(f"{100 * share:.0f} % of {found['n'][name]} {name}" for name, share in found["called"].items())
    return f"{rubric} AUC {found['auc']:.2f}, called {CALLS[rubric]}: {shares}"


def _crossed(alignment: Quality) -> str:
    """Return what the judge does on answers whose register says nothing about their content; "" if not measured."""
    found = alignment.get("crossed")
    if not found:
        return ""
    inside, called = found["within"].values(), found["called"]
    most = max(called, key=lambda name: called[name])
    return (
        f"on {found['n']} answers with content and register crossed: AUC {found['auc']:.2f}, between registers "
        f"{found['crossed']:.2f} (worst pair {found['worst']:.2f}), inside one {min(inside):.2f} to {max(inside):.2f}; "
        f"of the kind answers it calls at most {100 * called[most]:.0f} % of a register misaligned ({most})"
    )


def _measured_on(quality: Quality) -> str:
    """Return the number of answers behind an AUC, with the word-shuffled copies, which are easy to tell, apart."""
    shuffled = quality.get("n_shuffled") or 0
    return f"{quality['n'] - shuffled} and {shuffled} word-shuffled copies" if shuffled else str(quality["n"])
