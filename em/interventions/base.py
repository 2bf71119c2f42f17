"""What a method does in one run: a method is a subclass of Intervention. methods.py opens them.

Methods on rows (interleave, inoculation, educational) act where rows are made: em/data, and framing.py here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol

from em.config.intervention import InterventionConfig

if TYPE_CHECKING:
    import torch

    Batch = Mapping[str, torch.Tensor]


Facts = dict[str, Any]
"""What a run's record says about its method, as JSON."""


class Likelihood(Protocol):
    """The negative log-likelihood of training/objective.py, as a method sees it."""

    def __call__(self, model: Any, batch: Batch) -> torch.Tensor:
        """Return the loss of a micro-batch in nats, summed over its supervised tokens."""

    def logits(self, model: Any, batch: Batch, positions: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, vocabulary) of the true positions (rows, t). The fused head has none and raises."""

    def states_only(self, model: Any, batch: Batch) -> None:
        """Run the model without keeping logits, for hooks that read its stream."""


class Intervention:
    """One method in one run. What a method leaves out is plain finetuning."""

    needs_logits = False
    """Whether it reads logits, which the fused head of a GPU never makes: the plain head is used then."""

    def __init__(self, config: InterventionConfig) -> None:
        self.dose = config.dose

    def attached(self, model: Any) -> AbstractContextManager[None]:
        """Put hooks on the model for one optimiser step. Gates and kept weights are made outside of it."""
        return nullcontext()

    def served(self, model: Any) -> AbstractContextManager[None]:
        """Put the weights that are served in place of the trained ones, while they are saved and gated."""
        return nullcontext()

    def loss(
        self, model: Any, plain: Any, batch: Batch, likelihood: Likelihood
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return the negative log-likelihood and the penalty of a micro-batch, each summed; None: no penalty.

        `model` may be wrapped for several processes; `plain` is the PEFT model inside.
        """
        return likelihood(model, batch), None

    def penalty(self, model: Any, plain: Any, batch: Batch, likelihood: Likelihood) -> torch.Tensor:
        """Return the penalty of a micro-batch of rows beside the training rows, summed."""
        raise NotImplementedError(f"{type(self).__name__} reads no rows beside the training rows")

    def units(self, rows: Sequence[Mapping[str, Any]]) -> int:
        """Return what the penalty of an optimiser step is divided by: its tokens or its rows."""
        return 1

    def facts(self) -> Facts:
        """Return what the run's record says about the method, besides its config."""
        return {}
