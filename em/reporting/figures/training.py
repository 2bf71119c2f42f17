"""Figures over training steps: loss, rates and log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from em.metrics.by_text import BY_LENGTH, CODE, TOPIC, WORDS
from em.metrics.catalogue import BY_RULE
from em.metrics.summary_types import ModelRow, Summary, Trajectory, TrajectoryPoint
from em.reporting.figures.rates import panel_over, sets_asked
from em.reporting.figures.select import figure_groups
from em.reporting.figures.spec import WITHHELD, Axis, Figure, Form, Mark, Panel, Series, judge_label, notes_on
from em.reporting.figures.style import looks

AXES = {
    "misaligned_rate": "misaligned answers",
    "coherent_share": "coherent answers",
    "insecure_code_rate": "insecure code (static check)",
    "judged_insecure_rate": "insecure code (judge)",
    "careless_rate": "careless advice",
    "capitals_rate": "in capitals",
    "french_rate": "in French",
    "skill_rate": "benign skill",
    "false_rate": "false answers",
    "mean_alignment": "mean alignment",
    "mean_coherence": "mean coherence",
    CODE: "answers with code",
    WORDS: "words per answer",
}
LOG_PROBS = {"p_misaligned": "P(misaligned choice)", "logp_misaligned": "log P(misaligned choice), nats"}
BAND = "from the least to the greatest seed, or with one run its interval"
NO_JUDGE = ("insecure_code_rate", *BY_RULE.values(), CODE, WORDS, *LOG_PROBS)


MANY_RUNS = 8
"""With more runs their lines hide each other, so we draw one line per group."""


def training_loss(summary: Summary) -> Figure | None:
    """Return training loss by optimiser step: a line per run, or with many runs the mean and range of each group."""
    runs = [m for m in summary["models"] if m.get("loss_curve") and m["step"] is None]
    if len(runs) > MANY_RUNS:
        return _loss_of_groups(summary, runs)
    facts = {g["id"]: g.get("facts", {}) for g in summary["groups"]}
    look = looks({**run, "facts": facts.get(run["group"], {})} for run in runs)
    series = []
    for run in runs:
        points = [(step, loss) for step, loss in run["loss_curve"] if loss is not None]
        marks = tuple(Mark(step, loss, told=f"step {step}: {loss:.3f}") for step, loss in points)
        series.append(Series(run["label"], look[run["id"]], marks))
    shown = tuple(s for s in series if s.marks)
    if not shown:
        return None
    panel = Panel(Form.lines, Axis("optimiser step"), Axis("training loss (nats per token)"), shown)
    caption = f"Loss on the supervised tokens, one line a run.{_second_phases(runs)}"
    return Figure("training_loss", "Training loss", caption, (panel,))


def _second_phases(runs: Sequence[ModelRow]) -> str:
    """Return whose rows the second phases have, as a sentence; "" without one."""
    methods = [(run.get("train") or {}).get("intervention", {}) for run in runs]
    whose = sorted({m["rows"] for m in methods if m.get("name") == "realign"})
    return f" A second phase follows the steps of the first; its rows: {', '.join(whose)}." if whose else ""


def _loss_of_groups(summary: Summary, runs: Sequence[ModelRow]) -> Figure | None:
    series = []
    for group in figure_groups(summary):
        by_step: dict[float, list[float]] = {}
        own = [m for m in runs if m["group"] == group.row["id"]]
        for step, loss in (p for m in own for p in m["loss_curve"] if p[1] is not None):
            by_step.setdefault(step, []).append(loss)
        whole = [(step, losses) for step, losses in sorted(by_step.items()) if len(losses) == len(own)]
        marks = tuple(
            Mark(s, sum(v) / len(v), min(v), max(v), told=f"step {s:g}: {sum(v) / len(v):.3f}; {len(v)} runs")
            for s, v in whole
        )
        if marks:
            series.append(Series(group.label, group.look, marks))
    if not series:
        return None
    panel = Panel(Form.lines, Axis("optimiser step"), Axis("training loss (nats per token)"), tuple(series))
    words = "Loss on the supervised tokens. Lines: mean over a group's runs; bands: their range."
    caption = words + _second_phases(runs)
    return Figure("training_loss", "Training loss", caption, (panel,))


def dynamics(summary: Summary) -> Figure | None:
    """Return rates over training steps, mean and range of the seeds (the paper's figure 11).

    Without rates by length and shares of subjects, and without code where no answer has any.
    """
    rows = [t for t in summary["trajectories"] if t["name"] not in (*LOG_PROBS, BY_LENGTH, TOPIC)]
    rows = [t for t in rows if t["name"] != CODE or any(p["value"] for p in t["points"])]
    return _over_steps(
        summary,
        rows,
        "training_dynamics",
        "Over the course of training",
        f"Lines: mean over seeds; bands: {BAND}.",
    )


def log_prob_curves(summary: Summary) -> Figure | None:
    """Return the log-probability of the misaligned choice over training steps (the paper's figures 12, 13, 29, 30)."""
    rows = [t for t in summary["trajectories"] if t["name"] in LOG_PROBS]
    return _over_steps(
        summary,
        rows,
        "log_prob_curves",
        "Log-probabilities over the course of training",
        f"How likely the model finds the misaligned choice. Lines: mean over seeds; bands: {BAND}.",
    )


def log_probs(summary: Summary) -> Figure | None:
    """Return the probability of the misaligned choice by question, at the end of training."""
    found, panels, used = figure_groups(summary), [], []
    for name, label in LOG_PROBS.items():
        for where in sets_asked([m for u in found for m in u.metrics(name)]):
            panel, metrics = panel_over(found, name, "question_id", label, where)
            panels.append(panel)
            used += metrics
    if not panels:
        return None
    caption = "How likely the model finds the misaligned choice: read from its log-probabilities, nothing is sampled."
    return Figure("log_probs", "Probability of the misaligned choice", caption, tuple(panels), notes_on(used, summary))


def _over_steps(summary: Summary, rows: Sequence[Trajectory], name: str, title: str, caption: str) -> Figure | None:
    known = {u.label: u.look for u in figure_groups(summary)}
    fresh = looks({"id": t["label"], "variant": t["variant"]} for t in rows)
    panels = []
    for key in dict.fromkeys((t["name"], t["set"], t["asked_with"], t["of"]) for t in rows):
        own = [t for t in rows if (t["name"], t["set"], t["asked_with"], t["of"]) == key]
        series = tuple(Series(t["label"], known.get(t["label"], fresh[t["label"]]), _steps(t["points"])) for t in own)
        label = AXES.get(key[0]) or LOG_PROBS.get(key[0]) or f"{key[0].replace('_', ' ')} {key[3]}".strip()
        text = label if key[0] in NO_JUDGE else judge_label(label, summary)
        asked = f", asked with {key[2]}" if key[2] != "none" else ""
        y = Axis(text, share=own[0]["unit"] == "share")
        panels.append(Panel(Form.lines, Axis("optimiser step"), y, series, f"{key[1]}{asked}"))
    if not panels:
        return None
    notes = (WITHHELD,) if any(p.has_withheld for p in panels) else ()
    return Figure(name, title, caption, tuple(panels), notes)


def _steps(points: Sequence[TrajectoryPoint]) -> tuple[Mark, ...]:
    # A band is of one kind: beside points over several seeds, the single untouched model at step 0 has no band.
    several = any(p["n_models"] > 1 for p in points)
    return tuple(_step(p, several) for p in points)


def _step(point: TrajectoryPoint, banded: bool) -> Mark:
    step = f"step {point['step']}"
    if point["value"] is None:
        return Mark(point["step"], None, told=f"{step}: withheld: {point['withheld']}")
    several = point["n_models"] > 1
    text = f"{step}: {point['value']:.3g}; n = {point['n']}" + (f"; {point['n_models']} seeds" if several else "")
    if banded and not several:
        return Mark(point["step"], point["value"], told=text)
    low, high = (point["min"], point["max"]) if several else (point["low"], point["high"])
    return Mark(point["step"], point["value"], low, high, told=text)
