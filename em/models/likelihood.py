"""Log-probabilities and hidden states of given answers on a base model, for the local proxy judges."""

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
"""Most answer tokens, padding included, per forward pass."""


@dataclass(frozen=True)
class Item:
    """One answer under one prompt."""

    messages: tuple[tuple[str, str], ...]
    """((role, content), ...) before the answer; hashable, because answers to one prompt share its computation."""
    answer: str


def item(messages: list[Message], answer: str) -> Item:
    """Return an answer with the messages before it."""
    return Item(tuple((m["role"], m["content"]) for m in messages), answer)


class LikelihoodModel:
    """A causal model that reads given answers and never generates. Its weights are not changed."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model, self.tokenizer = model.eval(), tokenizer

    def token_logprobs(self, items: Sequence[Item], on_done: Callable[[int], None] | None = None) -> list[list[float]]:
        """Return the log-probability (nats) of each answer token, one list per item; [] for an answer without tokens.

        Each distinct prompt is computed once. `on_done` gets the number of items finished since its last call.
        """
        out: list[list[float]] = [[] for _ in items]
        with torch.inference_mode():
            for batch, ids, lengths, before, hidden in self._read(items, on_done):
                hidden = torch.cat([before, hidden[:, :-1]], dim=1)
                for row, (i, length) in enumerate(zip(batch, lengths, strict=True)):
                    logits = self.model.get_output_embeddings()(hidden[row, :length]).float()
                    gold = logits.gather(1, ids[row, :length, None]).squeeze(1)
                    out[i] = (gold - logits.logsumexp(1)).tolist()
        return out

    def mean_states(
        self, items: Sequence[Item], on_done: Callable[[int], None] | None = None, layer: int | None = None
    ) -> list[np.ndarray]:
        """Return per item the mean state of the answer's tokens, (hidden,) float32; nan without tokens.

        `layer`: the states after so many layers; None: the last ones, which the model's norm has scaled.
        """
        out = [np.full(self.model.config.get_text_config().hidden_size, np.nan, dtype=np.float32) for _ in items]
        with torch.inference_mode():
            for batch, _, lengths, _, hidden in self._read(items, on_done, layer):
                for row, (i, length) in enumerate(zip(batch, lengths, strict=True)):
                    out[i] = hidden[row, :length].float().mean(0).cpu().numpy()
        return out

    def _read(
        self, items: Sequence[Item], on_done: Callable[[int], None] | None, layer: int | None = None
    ) -> Iterator[Any]:
        """Yield batches: item indices, ids (b, t), lengths, last prompt state (b, 1, h), answer states (b, t, h).

        The answer states are those after `layer` layers, or the model's last.
        """
        by_prompt: dict[Any, list[int]] = defaultdict(list)
        for index, it in enumerate(items):
            by_prompt[it.messages].append(index)
        for messages, indices in by_prompt.items():
            prompt = encode.prompt_ids(self.tokenizer, [{"role": r, "content": c} for r, c in messages])
            answers = {i: encode.plain_ids(self.tokenizer, items[i].answer) for i in indices}
            indices.sort(key=lambda i: len(answers[i]))
            for batch in _batches([i for i in indices if answers[i]], answers):
                yield batch, *self._forward(prompt, [answers[i] for i in batch], layer)
            if on_done:
                on_done(len(indices))

    def _forward(
        self, prompt: list[int], answers: list[list[int]], layer: int | None
    ) -> tuple[Any, list[int], Any, Any]:
        device = self.model.device
        longest = max(map(len, answers))
        ids = torch.full((len(answers), longest), self.tokenizer.pad_token_id, device=device)
        for row, answer in enumerate(answers):
            ids[row, : len(answer)] = torch.tensor(answer, device=device)
        prefix = torch.tensor([prompt], device=device)
        decoder = self.model.get_decoder()  # of a model that also reads images, the text model
        first = decoder(prefix, use_cache=True)
        cache = first.past_key_values
        cache.batch_repeat_interleave(len(answers))
        # Right padding needs no mask: in a causal model the tokens before it do not see it.
        read = decoder(ids, past_key_values=cache, use_cache=True, output_hidden_states=layer is not None)
        hidden = read[0] if layer is None else read.hidden_states[layer]
        return ids, [len(a) for a in answers], first[0][:, -1:].expand(len(answers), -1, -1), hidden


def _batches(indices: list[int], answers: dict[int, list[int]]) -> list[list[int]]:
    """Cut indices, sorted by length, into batches of at most BATCH_TOKENS padded tokens."""
    out: list[list[int]] = []
    for i in indices:
        if out and (len(out[-1]) + 1) * len(answers[i]) <= BATCH_TOKENS:
            out[-1].append(i)
        else:
            out.append([i])
    return out
