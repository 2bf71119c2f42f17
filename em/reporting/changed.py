"""What is changed in a model while it is sampled, as facts beside its numbers."""

from __future__ import annotations

from em.config import ExperimentConfig
from em.config.direction import OF_ORGANISM
from em.config.steer import PLANNED
from em.metrics.summary_types import Facts
from em.planning.plan import Subject
from em.sweep.state import Sweep


def facts_of(sweep: Sweep, subject: Subject) -> Facts:
    """Return {"changed": {steer, ablate, lora_scale}} of a model; {} if it is as it is.

    steer has the relative dose, the vector's length and the split-half cosine once its answers are there.
    """
    sample = subject.config.sample
    if not sample.changed:
        return {}
    changed: Facts = {}
    if sample.steer.direction:
        changed["steer"] = {
            "direction": direction_name(subject.config, sample.steer.direction),
            "block": sample.steer.block,
            "scale": sample.steer.scale,
            **_measured(sweep, subject),
        }
    if sample.ablate.direction:
        changed["ablate"] = {
            "direction": direction_name(subject.config, sample.ablate.direction),
            "block": sample.ablate.block,
            "where": sample.ablate.where.value,
        }
    if sample.lora_scale != 1.0:
        changed["lora_scale"] = sample.lora_scale
    return {"changed": changed}


def direction_name(config: ExperimentConfig, source: str) -> str:
    """Return a direction in words: its kind and what it is made of, or its folder."""
    if source != PLANNED:
        return source
    options = config.direction
    made_of = config.dataset.variant if options.kind in OF_ORGANISM else ""
    parts = [options.kind.value, options.organism or options.path or made_of]
    return " ".join(filter(None, ["random, as" if options.random else "", *parts]))


def _measured(sweep: Sweep, subject: Subject) -> Facts:
    """Return what the sample stage measured of the dose; {} before it has run."""
    for part in subject.parts:
        for key in part.samples:
            if sweep.store.has("sample", key):
                facts = sweep.store.manifest("sample", key)["facts"].get("changed", {})
                return {name: facts.get(name) for name in ("relative_dose", "vector_norm", "split_half")}
    return {}
