"""CAFT (Casademunt et al. 2025, 2507.16795): train without a direction or subspace of the stream, and serve with it.

h - dose Q Q'h after each chosen block, at all positions, forward and backward. At dose 1 no gradient flows along Q.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch

from em.config.intervention import InterventionConfig
from em.interventions.base import Facts, Intervention
from em.interventions.vectors import chosen_blocks, rows_at
from em.models import activations

DEPTH = (1 / 4, 1 / 2, 3 / 4)
"""Their blocks: 10, 20, 30 of 40."""


class Caft(Intervention):
    """Removes a share of the stream's part in the subspace after each chosen block."""

    def __init__(self, config: InterventionConfig, model: Any, seed: int) -> None:
        super().__init__(config)
        shape = activations.shape(model)
        blocks = chosen_blocks(config, shape[0], DEPTH)
        self.bases = {b: orthonormal(rows_at(config, b, shape, seed)).to(model.device) for b in blocks}

    def attached(self, model: Any) -> AbstractContextManager[None]:
        return activations.changing(model, {b: self._without(basis) for b, basis in self.bases.items()})

    def _without(self, basis: torch.Tensor) -> activations.Change:
        return lambda states: states + self.dose * (activations.project_out(states, basis) - states)

    def facts(self) -> Facts:
        return {"blocks": list(self.bases), "dimensions": {b: len(basis) for b, basis in self.bases.items()}}


def orthonormal(rows: torch.Tensor) -> torch.Tensor:
    """Return orthonormal rows that span the same space. Raises ValueError if the rows depend on each other."""
    q, r = torch.linalg.qr(rows.double().T)
    size = r.diagonal().abs()
    if bool((size <= 1e-6 * rows.norm(dim=1).max()).any()):
        raise ValueError("intervention.direction: the directions depend on each other, or one is zero")
    return q.T.float().contiguous()
