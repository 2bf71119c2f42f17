"""Means of the residual stream over given texts. `Reader.means` reads them, `difference` makes vectors of two means.

The result depends neither on the batch size nor on padding: texts are padded on the right, where a causal model's
earlier tokens do not see it, and sums are float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from em.config.direction import Weighting
from em.directions.vectors import cosines
from em.models import activations

Sums = NDArray[np.float64]
OnStates = Callable[[int, int, torch.Tensor], None]
BATCH_TOKENS = 4096
"""Most tokens, padding included, per forward pass."""


@dataclass(frozen=True)
class Text:
    """A prompt and the answer whose tokens are read."""

    id: str
    prompt_ids: list[int]
    answer_ids: list[int]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.answer_ids)


@dataclass
class Mean:
    """A running mean of vectors [blocks, hidden]."""

    total: Sums
    weight: float = 0.0

    @classmethod
    def zero(cls, blocks: int, hidden: int) -> Mean:
        return cls(np.zeros((blocks, hidden)))

    @property
    def value(self) -> Sums:
        found: Sums = self.total / self.weight
        return found

    def __add__(self, other: Mean) -> Mean:
        return Mean(self.total + other.total, self.weight + other.weight)


@dataclass
class Read:
    """What was read of the texts of one side."""

    halves: tuple[Mean, Mean]
    tokens: int = 0
    """Answer tokens."""
    norms: Sums = field(default_factory=lambda: np.zeros(0))
    """Sum over tokens of the stream's norm, per block, without the first token of each text."""
    norm_tokens: int = 0

    @property
    def mean(self) -> Sums:
        return (self.halves[0] + self.halves[1]).value


def halves(count: int, seed: int) -> list[int]:
    """Return for each of `count` texts the half it belongs to, 0 or 1: equal sizes, drawn by the seed."""
    order = np.random.default_rng([seed, count]).permutation(count)
    return [int(rank % 2) for rank in order]


class Reader:
    """Reads texts with one model."""

    def __init__(self, model: Any, weighting: Weighting = Weighting.token, batch_tokens: int = BATCH_TOKENS) -> None:
        self.model, self.weighting, self.batch_tokens = model.eval(), weighting, batch_tokens
        self.blocks, self.hidden = activations.shape(model)

    def means(self, texts: Sequence[Text], half_of: Sequence[int]) -> Read:
        """Return the means over the answers' tokens. `half_of`: each text's half. Texts need one answer token each."""
        zero = (Mean.zero(self.blocks, self.hidden), Mean.zero(self.blocks, self.hidden))
        read, token = Read(zero, norms=np.zeros(self.blocks)), self.weighting == Weighting.token

        def on_states(index: int, block: int, states: torch.Tensor) -> None:
            answer = states[len(texts[index].prompt_ids) :]
            weight = len(answer) if token else 1
            read.halves[half_of[index]].total[block] += (answer.mean(0) * weight).cpu().numpy()
            read.norms[block] += float(states[1:].norm(dim=1).sum())

        self.walk(texts, on_states)
        for text, half in zip(texts, half_of, strict=True):
            read.halves[half].weight += len(text.answer_ids) if token else 1
            read.tokens += len(text.answer_ids)
            read.norm_tokens += len(text) - 1
        return read

    @torch.inference_mode()
    def walk(self, texts: Sequence[Text], on_states: OnStates, on_done: Callable[[int], None] | None = None) -> None:
        """Call `on_states(index, block, states)` for each text and block. `states`: float64 [tokens, hidden], without
        padding. `on_done` gets the number of texts finished since its last call."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for batch in self._batches(order, texts):
            self._forward(batch, texts, on_states)
            if on_done:
                on_done(len(batch))

    def _batches(self, order: Sequence[int], texts: Sequence[Text]) -> list[list[int]]:
        out: list[list[int]] = []
        for i in order:
            if out and (len(out[-1]) + 1) * len(texts[i]) <= self.batch_tokens:
                out[-1].append(i)
            else:
                out.append([i])
        return out

    def _forward(self, batch: Sequence[int], texts: Sequence[Text], on_states: OnStates) -> None:
        device, longest = next(self.model.parameters()).device, max(len(texts[i]) for i in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, index in enumerate(batch):
            text = texts[index]
            ids[row, : len(text)] = torch.tensor(text.prompt_ids + text.answer_ids)
            mask[row, : len(text)] = 1

        def after(block: int, states: torch.Tensor) -> None:
            for row, index in enumerate(batch):
                on_states(index, block, states[row, : len(texts[index])].double())

        with activations.reading(self.model, after):
            activations.decoder(self.model)(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)


def difference(plus: Read, minus: Read) -> tuple[NDArray[np.float32], list[float | None]]:
    """Return (vectors [blocks, hidden], split-half cosine per block) of plus minus minus.

    The cosine is between the differences of the first and of the second halves; None where one of them is zero.
    """
    vectors = (plus.mean - minus.mean).astype(np.float32)
    first, second = (plus.halves[h].value - minus.halves[h].value for h in (0, 1))
    return vectors, cosines(first, second)


def stream_norms(reads: Sequence[Read]) -> list[float]:
    """Return the mean norm of the stream per block over the texts of all sides, first tokens left out."""
    total, tokens = sum(r.norms for r in reads), sum(r.norm_tokens for r in reads)
    return [float(x) for x in np.asarray(total) / tokens]
