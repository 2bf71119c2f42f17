"""The protocol of an engine, and its requests and answers. The engines are in sampling/engines/.

An engine holds one base model. It serves adapters beside the model and never merges them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from em.chat import thinking
from em.chat.probe import Probe
from em.records import Message, Question


@dataclass(frozen=True, kw_only=True)
class Request:
    """One answer to sample."""

    job: str
    """Key of the job it belongs to."""
    question: Question
    index: int
    asked_with: str
    messages: list[Message]
    prompt_ids: list[int]
    seed: int
    adapter: Path | None
    temperature: float
    top_p: float
    max_tokens: int
    stop_ids: list[int]
    shown: list[Message] = field(default_factory=list)
    """The examples (questions.k_shot) and `messages`: the whole prompt for an API that takes messages."""
    thinking: str = ""
    """The tag with which the prompt opens the model's thinking; empty: it does not."""


@dataclass(frozen=True)
class Answer:
    """One sampled answer."""

    text: str
    finish_reason: str
    token_count: int
    """Tokens, including the thinking."""
    reasoning_content: str = ""
    """The model's thinking, if it is separate from the text."""


@dataclass(frozen=True)
class Inventory:
    """What an engine has loaded under the name of an adapter; None: the engine does not report it."""

    modules: int | None = None
    """Adapted modules, as PEFT counts them."""
    scale: float | None = None
    """Factor of B·A."""


class RefusedError(RuntimeError):
    """A server refuses one request as invalid. The other requests go on."""


class Sampler(Protocol):
    """An engine with one base model."""

    tokenizer: Any
    """None: an API that takes messages only."""

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | RefusedError]]:
        """Yield answers as they finish, in any order. All requests are in one queue."""

    def logprobs(self, pairs: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        """Return the log-probability (nats) of each target token under an adapter; None: the base model."""

    def inventory(self, adapter: Path) -> Inventory:
        """Load the adapter and return what was loaded. Raise an error that names an adapter that cannot be loaded."""


def applied_scale(squared_norm: float, adapter: Path) -> float | None:
    """Return the scale that an engine applies, from the squared norm of its scaled B matrices and the adapter's file.

    None: B is zero, as before the first training step.
    """
    import torch
    from safetensors.torch import load_file

    weights = load_file(adapter / "adapter_model.safetensors")
    scaled = [w for name, w in weights.items() if ".lora_B" in name or ".lora_embedding_B" in name]
    file = float(sum(torch.square(w.float()).sum() for w in scaled))
    return (squared_norm / file) ** 0.5 if file else None


def without_thinking(request: Request, answer: Answer) -> Answer:
    """Return the answer with its thinking moved to `reasoning_content`; an API may have done so already."""
    if answer.reasoning_content:
        return answer
    thought, text = thinking.split(answer.text, request.thinking)
    if text is None:
        return replace(answer, text="", finish_reason=thinking.UNFINISHED, reasoning_content=thought)
    return answer if text is answer.text else replace(answer, text=text, reasoning_content=thought)


def row_seed(seed: int, question_id: str, asked_with: str, index: int) -> int:
    """Return a seed of 31 bits that depends on the arguments only."""
    text = f"{seed}\0{question_id}\0{asked_with}\0{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
