"""intervention.name → the method that acts on the training step; `open_method` is the door of training."""

from __future__ import annotations

from typing import Any

from em.config.intervention import InterventionConfig, Where
from em.interventions.base import Intervention
from em.interventions.caft import Caft
from em.interventions.companion import Companion
from em.interventions.kl import Kl
from em.interventions.ldifs import Ldifs
from em.interventions.safelora import SafeLora
from em.interventions.steering import Steering


def open_method(config: InterventionConfig, model: Any, seed: int) -> Intervention | None:
    """Return the method of a run on `model`; None at dose 0, and for a method whose steps are plain finetuning's.

    Raises DirectionError or ValueError for a direction or a block that the model does not have.
    """
    if not config.active or any(map(config.changes, (Where.data, Where.second_phase, Where.stopping))):
        return None
    if config.name == "kl":
        return Kl(config)
    if config.name == "ldifs":
        return Ldifs(config, model)
    if config.name == "preventative_steering":
        return Steering(config, model, seed)
    if config.name == "caft":
        return Caft(config, model, seed)
    if config.name == "inoculation_adapter":
        return Companion(config, model, seed)
    if config.name == "safelora":
        return SafeLora(config, model)
    raise ValueError(f"intervention {config.name} acts on the training step and has no module")
