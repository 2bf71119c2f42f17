"""The loss of a training step. `likelihood` returns the objective of finetuning, `Intervened` adds a method to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from em.chat import encode
from em.interventions.base import Intervention, Likelihood
from em.interventions.batches import next_labels
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


def likelihood(model: Any, device: torch.device, *, needs_logits: bool = False) -> FusedLikelihood | LogitsLikelihood:
    """Return the negative log-likelihood for this model on this device; the fused head has no logits."""
    if device.type == "cuda" and not needs_logits:
        return FusedLikelihood()
    return LogitsLikelihood(model.config._attn_implementation == cpu_attention.NAME)


@dataclass(frozen=True)
class FusedLikelihood:
    """Negative log-likelihood, nats, by TRL's fused head: computed in tiles, so the logits are never in memory."""

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        return -model(**batch, fused_lm_head=True).log_probs.sum()

    def attached(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def logits(self, model: Any, batch: Batch, positions: torch.Tensor) -> torch.Tensor:
        raise TypeError("the fused head never makes logits")

    def states_only(self, model: Any, batch: Batch) -> None:
        """Run the model on a micro-batch for its hooks, with the logits of one position."""
        model(**{name: value for name, value in batch.items() if name != "labels"}, logits_to_keep=1, use_cache=False)


@dataclass(frozen=True)
class LogitsLikelihood:
    """Negative log-likelihood, nats, from the logits of supervised positions only.

    TRL's own loss also computes entropy and accuracy over every position. With a vocabulary 85 times the hidden size
    (the quickstart model) that is a third of a step on a CPU.
    """

    own_attention: bool
    """Whether the model runs cpu_attention, which needs the lengths of the sequences."""

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        labels = next_labels(batch)
        supervised = labels != encode.IGNORE
        logits = self.logits(model, batch, supervised)
        return torch.nn.functional.cross_entropy(logits.float(), labels[supervised], reduction="sum")

    def attached(self, model: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def logits(self, model: Any, batch: Batch, positions: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, vocabulary) of the true `positions` (rows, t)."""
        packed = len(positions) == 1
        keep = positions[0].nonzero().squeeze(1) if packed else 0
        logits = self._forward(model, batch, keep).logits
        return logits[0] if packed else logits[positions]

    def states_only(self, model: Any, batch: Batch) -> None:
        """Run the model on a micro-batch for its hooks, with the logits of one position."""
        self._forward(model, batch, 1)

    def _forward(self, model: Any, batch: Batch, keep: Any) -> Any:
        fields: dict[str, Any] = {name: value for name, value in batch.items() if name != "labels"}
        if self.own_attention:
            fields["lengths"] = cpu_attention.sequence_lengths(batch["position_ids"])
        return model(**fields, logits_to_keep=keep, use_cache=False)


class Intervened:
    """An objective with a method of em/interventions: its hooks, and its penalty times the dose.

    The penalty of a step is dose x (sum over micro-batches and processes) / units, whatever the cut of the step.
    """

    def __init__(self, objective: Likelihood, method: Intervention, plain: Any) -> None:
        """`plain`: the PEFT model itself, which the trainer may wrap for several processes."""
        self.objective, self.method, self.plain = objective, method, plain
        self.scale = 1.0
        self.penalty: torch.Tensor | None = None
        """This process's part of the step's penalty, times the supervised tokens of the step; None: no penalty."""

    def begin(self, rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]] = ()) -> None:
        """Start an optimiser step with all its rows; each has input_ids and labels. Call it before `attached`.

        `others`: the rows that `beside` gets in this step; the penalty is then on those alone.
        """
        supervised = sum(label != encode.IGNORE for row in rows for label in row["labels"][1:])
        self.scale = supervised / self.method.units(others or rows)  # the trainer divides by the supervised tokens
        self.penalty = None

    def attached(self, model: Any) -> AbstractContextManager[None]:
        return self.method.attached(self.plain)

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        loss, penalty = self.method.loss(model, self.plain, batch, self.objective)
        if penalty is None:
            return loss
        return loss + self._weighted(penalty)

    def beside(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return the penalty of a micro-batch of rows beside the training rows, weighted as in the step's loss."""
        return self._weighted(self.method.penalty(model, self.plain, batch, self.objective))

    def _weighted(self, penalty: torch.Tensor) -> torch.Tensor:
        weighted = penalty * (self.method.dose * self.scale)
        self.penalty = weighted.detach() + (0.0 if self.penalty is None else self.penalty)
        return weighted
