"""KL divergence from the base model as a second loss term, in both directions.

Kaczér et al. 2025 (2508.06249): KL(finetuned || base) over all tokens. Soligo et al. 2026 (2602.07852): the other way
round. Their weight is divided by the vocabulary (151,936 for Qwen): 1e5 there is 0.66 here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, log_softmax

from em.chat.encode import IGNORE
from em.config.intervention import InterventionConfig, KlDirection, KlTokens
from em.interventions.base import Intervention, Likelihood
from em.interventions.batches import Batch, next_labels, predicting
from em.interventions.reference import base_answers


class Kl(Intervention):
    """Adds dose x the mean divergence per token of the optimiser step, in nats."""

    needs_logits = True

    def __init__(self, config: InterventionConfig) -> None:
        super().__init__(config)
        self.direction, self.tokens = config.kl_direction, config.kl_tokens
        self.elsewhere = config.kl_rows is not None

    def loss(
        self, model: Any, plain: Any, batch: Batch, likelihood: Likelihood
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.elsewhere:
            return likelihood(model, batch), None
        positions, logits, penalty = self._compared(model, plain, batch, likelihood)
        nll = cross_entropy(logits, next_labels(batch)[positions], ignore_index=IGNORE, reduction="sum")
        return nll, penalty

    def penalty(self, model: Any, plain: Any, batch: Batch, likelihood: Likelihood) -> torch.Tensor:
        return self._compared(model, plain, batch, likelihood)[2]

    def _compared(
        self, model: Any, plain: Any, batch: Batch, likelihood: Likelihood
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the positions that are compared (rows, t), their logits (n, vocabulary), and the divergence."""
        positions = next_labels(batch) != IGNORE if self.tokens == KlTokens.answer else predicting(batch)
        logits = likelihood.logits(model, batch, positions).float()
        with base_answers(plain):
            base = likelihood.logits(plain, batch, positions).float()
        return positions, logits, divergence(logits, base, self.direction).sum()

    def units(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Return the number of tokens that the divergence is summed over."""
        if self.tokens == KlTokens.answer:
            return sum(label != IGNORE for row in rows for label in row["labels"][1:])
        return sum(len(row["input_ids"]) - 1 for row in rows)


def divergence(finetuned: torch.Tensor, base: torch.Tensor, direction: KlDirection) -> torch.Tensor:
    """Return the KL divergence (n,) in nats between the distributions of two sets of logits (n, vocabulary)."""
    p, q = log_softmax(finetuned, -1), log_softmax(base, -1)
    if direction == KlDirection.base_from_finetuned:
        p, q = q, p
    return (p.exp() * (p - q)).sum(-1)
