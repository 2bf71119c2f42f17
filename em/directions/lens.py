"""The activation difference lens: what finetuning adds to the stream at the first tokens of unrelated texts.

The mean difference of finetuned and untouched model at each position is read with the untouched model's output head
(logit lens), as in the diffing-toolkit. Narrow finetuning can often be read off it; mixing in other data hides it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from em.chat import encode
from em.directions.artefact import DirectionError
from em.directions.extract import BATCH_TOKENS, Reader, Text
from em.directions.projections import Done
from em.models import activations

NEUTRAL = Path(__file__).with_name("neutral.txt")
"""Sentences on everyday subjects, one a line."""


@dataclass(frozen=True)
class Means:
    """Mean states at the first positions of texts, float64 [blocks, positions, hidden], and texts per position."""

    states: NDArray[np.float64]
    norms: NDArray[np.float64]
    """Mean length of the states, [blocks, positions]."""
    counts: NDArray[np.int64]


@dataclass(frozen=True)
class Readout:
    """The difference at one position."""

    position: int
    texts: int
    length: float
    """Length of the mean difference."""
    share: float
    """Over the mean length of the untouched model's states."""
    tokens: list[tuple[str, float]]
    """The tokens with the highest logits and their logits, highest first; empty for a difference of exactly 0."""


def check_block(block: int, blocks: int) -> None:
    """Raise DirectionError for a block that does not exist."""
    if not 0 <= block < blocks:
        raise DirectionError(f"block {block} does not exist: the model has the blocks 0 to {blocks - 1}")


def texts_of(tokenizer: Any, lines: Sequence[str], longest: int) -> list[Text]:
    """Return lines as texts without a chat template, at most `longest` tokens of each.

    They begin with BOS where the tokenizer adds it, as the rows of training and the prompts of sampling do. It is no
    token of the line. Raises DirectionError if no line has a token.
    """
    begin = encode.begin_ids(tokenizer)
    ids = [encode.plain_ids(tokenizer, line)[:longest] for line in lines]
    found = [Text(f"line-{number}", begin, line) for number, line in enumerate(ids) if line]
    if not found:
        raise DirectionError("the lens has no text to read: give a file with a text per line")
    return found


def means(
    model: Any, texts: Sequence[Text], positions: int, on_done: Done | None = None, batch_tokens: int = BATCH_TOKENS
) -> Means:
    """Return the means of a model at the first `positions` tokens of each text, BOS not counted."""
    reader = Reader(model, batch_tokens=batch_tokens)
    total = np.zeros((reader.blocks, positions, reader.hidden))
    norms = np.zeros((reader.blocks, positions))
    order = np.zeros(positions, np.int64)
    for text in texts:
        order[: min(positions, len(text.answer_ids))] += 1

    def on_states(index: int, block: int, states: torch.Tensor) -> None:
        own = states[len(texts[index].prompt_ids) :][:positions]
        total[block, : len(own)] += own.cpu().numpy()
        norms[block, : len(own)] += own.norm(dim=1).cpu().numpy()

    reader.walk(texts, on_states, on_done)
    known = np.maximum(order, 1)
    return Means(total / known[None, :, None], norms / known, order)


@torch.inference_mode()
def readouts(base: Any, tokenizer: Any, untouched: Means, finetuned: Means, *, block: int, top: int) -> list[Readout]:
    """Return the difference at each position after a block, read with the final norm and output head of `base`.

    Raises DirectionError for a block that does not exist.
    """
    check_block(block, len(untouched.states))
    out = []
    for position, count in enumerate(untouched.counts):
        difference = finetuned.states[block, position] - untouched.states[block, position]
        if not count:
            continue
        length = float(np.linalg.norm(difference))
        share = length / float(untouched.norms[block, position])
        out.append(Readout(position, int(count), length, share, _tokens(base, tokenizer, difference, top)))
    return out


def _tokens(base: Any, tokenizer: Any, difference: NDArray[np.float64], top: int) -> list[tuple[str, float]]:
    if not difference.any():
        return []
    head = base.get_output_embeddings()
    vector = torch.from_numpy(difference).to(head.weight.device, head.weight.dtype)
    logits = head(_final_norm(base)(vector[None]))[0].float()
    found = logits.topk(min(top, len(logits)))
    return [(tokenizer.decode([int(i)]), float(x)) for x, i in zip(found.values, found.indices, strict=True)]


def _final_norm(base: Any) -> Any:
    found = getattr(activations.decoder(base), "norm", None)
    if found is None:
        raise DirectionError(f"{type(base).__name__} has no final norm named norm: its stream cannot be read as tokens")
    return found
