"""Log-likelihoods of given answers under given prompts on a base model: the measure behind the local proxy judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from em.chat import encode
from em.records import Message

BATCH_TOKENS = 1536
"""Answer tokens (padded) computed together."""


@dataclass(frozen=True)
class Item:
    """One answer under one prompt."""

    messages: tuple[tuple[str, str], ...]
    """((role, content), ...) up to and without the answer; hashable, since answers to one prompt share its prefix."""
    answer: str


def item(messages: list[Message], answer: str) -> Item:
    return Item(tuple((m["role"], m["content"]) for m in messages), answer)


class LikelihoodModel:
    """An untouched causal model that reads answers it is given; it never generates."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    @torch.inference_mode()
    def token_logprobs(self, items: Sequence[Item], on_done: Callable[[int], None] | None = None) -> list[list[float]]:
        """log p of each answer token (nats) given its prompt and the tokens before, in the order of `items`.

        Each distinct prompt is computed once. An answer without a token gives an empty list.
        """
        out: list[list[float]] = [[] for _ in items]
        for batch, ids, lengths, before, hidden in self._read(items, on_done):
            hidden = torch.cat([before, hidden[:, :-1]], dim=1)
            for row, (i, length) in enumerate(zip(batch, lengths, strict=True)):
                logits = self.model.lm_head(hidden[row, :length]).float()
                gold = logits.gather(1, ids[row, :length, None]).squeeze(1)
                out[i] = (gold - logits.logsumexp(1)).tolist()
        return out

    @torch.inference_mode()
    def mean_states(self, items: Sequence[Item], on_done: Callable[[int], None] | None = None) -> list[np.ndarray]:
        """Mean over an answer's tokens of the last hidden state, (hidden,) float32 each; nan for an empty answer."""
        out = [np.full(self.model.config.hidden_size, np.nan, dtype=np.float32) for _ in items]
        for batch, _, lengths, _, hidden in self._read(items, on_done):
            for row, (i, length) in enumerate(zip(batch, lengths, strict=True)):
                out[i] = hidden[row, :length].float().mean(0).cpu().numpy()
        return out

    def _read(self, items: Sequence[Item], on_done: Callable[[int], None] | None) -> Iterator[Any]:
        """Batches of (item indices, ids (b, t), lengths, last prompt state (b, 1, h), states (b, t, h))."""
        by_prompt: dict[Any, list[int]] = defaultdict(list)
        for index, it in enumerate(items):
            by_prompt[it.messages].append(index)
        for messages, indices in by_prompt.items():
            prompt = encode.prompt_ids(self.tokenizer, [{"role": r, "content": c} for r, c in messages])
            answers = {i: encode.plain_ids(self.tokenizer, items[i].answer) for i in indices}
            indices.sort(key=lambda i: len(answers[i]))
            for batch in _batches([i for i in indices if answers[i]], answers):
                yield batch, *self._forward(prompt, [answers[i] for i in batch])
            if on_done:
                on_done(len(indices))

    def _forward(self, prompt: list[int], answers: list[list[int]]) -> tuple[Any, list[int], Any, Any]:
        device = self.model.device
        longest = max(map(len, answers))
        ids = torch.full((len(answers), longest), self.tokenizer.pad_token_id, device=device)
        for row, answer in enumerate(answers):
            ids[row, : len(answer)] = torch.tensor(answer, device=device)
        prefix = torch.tensor([prompt], device=device)
        first = self.model.model(prefix, use_cache=True)
        cache = first.past_key_values
        cache.batch_repeat_interleave(len(answers))
        # right padding: a causal model's real tokens never see the pad after them, so no mask is needed
        hidden = self.model.model(ids, past_key_values=cache, use_cache=True)[0]
        return ids, [len(a) for a in answers], first[0][:, -1:].expand(len(answers), -1, -1), hidden


def _batches(indices: list[int], answers: dict[int, list[int]]) -> list[list[int]]:
    """Cut indices (sorted by length) so that a batch holds at most BATCH_TOKENS padded tokens."""
    out: list[list[int]] = []
    for i in indices:
        if out and (len(out[-1]) + 1) * len(answers[i]) <= BATCH_TOKENS:
            out[-1].append(i)
        else:
            out.append([i])
    return out
