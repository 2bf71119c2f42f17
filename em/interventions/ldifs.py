"""LDIFS: keep the features of the base model (Mukhoti et al. 2023; for emergent misalignment Kaczér et al. 2025).

The penalty has a live gradient. In a public implementation by one of the authors the features are detached, so that
the penalty is logged and changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import normalize

from em.config.intervention import InterventionConfig
from em.interventions.base import Facts, Intervention, Likelihood
from em.interventions.batches import Batch, rows_of
from em.interventions.reference import base_answers
from em.models import activations

FEATURES = 5
"""Blocks whose output is a feature, from the first to the last at equal distances."""


class Ldifs(Intervention):
    """Adds dose x the mean squared distance of a row's features from the base model's."""

    def __init__(self, config: InterventionConfig, model: Any) -> None:
        super().__init__(config)
        depth, _ = activations.shape(model)
        self.blocks = sorted({round(i) for i in torch.linspace(0, depth - 1, FEATURES).tolist()})

    def loss(
        self, model: Any, plain: Any, batch: Batch, likelihood: Likelihood
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        mine: dict[int, torch.Tensor] = {}
        base: dict[int, torch.Tensor] = {}
        with activations.reading(plain, self._into(mine)):
            nll = likelihood(model, batch)
        with base_answers(plain), activations.reading(plain, self._into(base)):
            likelihood.states_only(plain, batch)
        return nll, sum((distance(batch, mine[b], base[b]) for b in self.blocks), torch.zeros((), device=nll.device))

    def _into(self, found: dict[int, torch.Tensor]) -> Callable[[int, torch.Tensor], None]:
        def keep(block: int, states: torch.Tensor) -> None:
            if block in self.blocks:
                found[block] = states

        return keep

    def units(self, rows: Sequence[Mapping[str, Any]]) -> int:
        return len(rows)

    def facts(self) -> Facts:
        return {"blocks": self.blocks}


def distance(batch: Batch, mine: torch.Tensor, base: torch.Tensor) -> torch.Tensor:
    """Return the squared distance of normalised features, summed over rows. Each: (rows, t, hidden).

    The feature of a row is its states in one vector of length 1, so padding and row length do not set its scale.
    """
    pairs = zip(rows_of(batch, mine), rows_of(batch, base), strict=True)
    apart = [normalize(a.float().flatten(), dim=0) - normalize(b.float().flatten(), dim=0) for a, b in pairs]
    return torch.stack([(x**2).sum() for x in apart]).sum() if apart else mine.sum() * 0.0
