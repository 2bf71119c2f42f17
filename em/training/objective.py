"""The loss of a training step. `likelihood` returns the objective of finetuning; a second loss term wraps it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from em.chat import encode
from em.training import cpu_attention

Batch = Mapping[str, torch.Tensor]
"""One micro-batch as TRL's collator makes it: input_ids, labels and, without padding, position_ids; each (rows, t)."""


class Objective(Protocol):
    """What a run minimises. The trainer calls it once per micro-batch, inside `attached`."""

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return the loss of one micro-batch, summed over its supervised tokens; leave `batch` unchanged."""

    def attached(self, model: Any) -> AbstractContextManager[None]:
        """Attach hooks to the model for one optimiser step.

        Outside of it the model answers without hooks: gates, kept weights and probes are taken there.
        """


def likelihood(model: Any, device: torch.device) -> Objective:
    """Return the negative log-likelihood for this model on this device."""
    if device.type == "cuda":
        return FusedLikelihood()
    return LogitsLikelihood(model.config._attn_implementation == cpu_attention.NAME)


@dataclass(frozen=True)
class FusedLikelihood:
    """Negative log-likelihood, nats, by TRL's fused head: computed in tiles, so the logits are never in memory."""

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        return -model(**batch, fused_lm_head=True).log_probs.sum()

    def attached(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()


@dataclass(frozen=True)
class LogitsLikelihood:
    """Negative log-likelihood, nats, from the logits of supervised positions only.

    TRL's own loss also computes entropy and accuracy over every position. With a vocabulary 85 times the hidden size
    (the quickstart model) that is a third of a step on a CPU.
    """

    own_attention: bool
    """Whether the model runs cpu_attention, which needs the lengths of the sequences."""

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        fields: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
        labels = batch["labels"][:, 1:]
        supervised = labels != encode.IGNORE
        packed = len(labels) == 1
        if self.own_attention:
            fields["lengths"] = cpu_attention.sequence_lengths(batch["position_ids"])
        keep = supervised[0].nonzero().squeeze(1) if packed else 0
        logits = model(**fields, logits_to_keep=keep, use_cache=False).logits
        logits = logits[0] if packed else logits[:, :-1][supervised]
        return torch.nn.functional.cross_entropy(logits.float(), labels[supervised], reduction="sum")

    def attached(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()
