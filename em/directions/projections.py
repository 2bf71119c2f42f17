"""Projections of texts on a direction, and the shift of a row's answer against the model's own answer.

Chen et al. 2025 (2507.21509): the projection difference of a row is [a(x, y) - a(x, y0)] · v / |v|, where a is the mean
state of the answer's tokens, y the row's answer, y0 the untouched model's own. Its mean over rows predicts the trait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from em.directions.artefact import Direction
from em.directions.extract import BATCH_TOKENS, Reader, Text

Part = Callable[[Text, torch.Tensor], torch.Tensor]
"""Takes the states of the tokens that are read, [n, hidden], out of those of a text, [tokens, hidden]."""
Done = Callable[[int], None]


def answer_tokens(text: Text, states: torch.Tensor) -> torch.Tensor:
    """Return the states of the answer."""
    return states[len(text.prompt_ids) :]


def last_prompt_token(text: Text, states: torch.Tensor) -> torch.Tensor:
    """Return the state of the prompt's last token, which the answer begins with."""
    return states[len(text.prompt_ids) - 1 : len(text.prompt_ids)]


def units(direction: Direction) -> NDArray[np.float64]:
    """Return the vectors of a direction at length 1, float64 [blocks, hidden]; a zero vector becomes nan."""
    vectors = direction.vectors.astype(np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    found: NDArray[np.float64] = np.divide(vectors, lengths, out=np.full_like(vectors, np.nan), where=lengths > 0)
    return found


def of_texts(
    model: Any,
    texts: Sequence[Text],
    direction: Direction,
    part: Part = answer_tokens,
    *,
    on_done: Done | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> NDArray[np.float64]:
    """Return the projection of the mean state of each text's part on each block's unit vector, [texts, blocks].

    nan for a text whose part has no token, and at a block where the direction is zero. `on_done` gets the number of
    texts finished since its last call.
    """
    rows = torch.from_numpy(units(direction)).to(next(model.parameters()).device)
    out = np.full((len(texts), direction.blocks), np.nan)

    def on_states(index: int, block: int, states: torch.Tensor) -> None:
        found = part(texts[index], states)
        if len(found):
            out[index, block] = float(found.mean(0) @ rows[block])

    Reader(model, batch_tokens=batch_tokens).walk(texts, on_states, on_done)
    return out


@dataclass(frozen=True)
class Row:
    """The score of one training row. What cannot be read is None, and `why` says why."""

    id: str
    score: float | None
    """The projection difference; the answer's projection alone if no own answers were asked for."""
    answer: float | None
    """Projection of the row's answer."""
    own: float | None
    """Projection of the untouched model's own answer to the same prompt."""
    tokens: int
    own_tokens: int
    why: str = ""


def screened(
    model: Any,
    rows: Sequence[Text],
    own: Mapping[str, Text] | None,
    direction: Direction,
    block: int,
    longest: int,
    on_done: Done | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Row]:
    """Return the score of each row at a block, in the order of the rows.

    `model`: the untouched model. `own`: row id → its own answer to the row's prompt; None: not asked for. `longest`:
    a text with more tokens is not read. Raises DirectionError for a block that does not exist, or has a zero vector.
    """
    direction.unit(block)
    why = {row.id: _unreadable(row, own, longest) for row in rows}
    read = [row for row in rows if not why[row.id]]
    beside = [own[row.id] for row in read] if own is not None else []
    found = of_texts(model, [*read, *beside], direction, on_done=on_done, batch_tokens=batch_tokens)[:, block]
    answers = dict(zip((row.id for row in read), found, strict=False))
    others = dict(zip((row.id for row in read), found[len(read) :], strict=False))
    out = []
    for row in rows:
        answer = float(answers[row.id]) if row.id in answers else None
        other = float(others[row.id]) if row.id in others else None
        score = None if answer is None else answer - (other or 0.0)
        tokens = len(own[row.id].answer_ids) if own and row.id in own else 0
        out.append(Row(row.id, score, answer, other, len(row.answer_ids), own_tokens=tokens, why=why[row.id]))
    return out


def _unreadable(row: Text, own: Mapping[str, Text] | None, longest: int) -> str:
    """Return why a row has no score, or ""."""
    texts = {"the row": row, **({"the model's own answer": own[row.id]} if own is not None and row.id in own else {})}
    if own is not None and row.id not in own:
        return "the model gave no answer of its own"
    for name, text in texts.items():
        if not text.answer_ids:
            return f"{name} has no token"
        if len(text) > longest:
            return f"{name} has {len(text)} tokens, model.max_model_len is {longest}"
    return ""
