"""What the sample stage asks of an engine: answers, log-probabilities of given answers, and what it has loaded.

vllm_engine.py, hf_engine.py, api_engine.py. An engine holds one base model; adapters are served beside it, never
merged.
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
    """One answer to draw."""

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
    """`messages` with the examples before them: what an API that takes messages is sent."""
    thinking: str = ""
    """The mark the prompt opens the model's thinking with."""


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str
    token_count: int
    """Thinking included."""
    reasoning_content: str = ""
    """The model's thinking, where it is apart from the text."""


@dataclass(frozen=True)
class Inventory:
    """What an engine says it has loaded under an adapter's name; None where it cannot say."""

    modules: int | None = None
    """Adapted modules, as PEFT counts them."""
    scale: float | None = None
    """What B·A is multiplied by."""


class RefusedError(RuntimeError):
    """A server calls one request wrong; the others are none of its business."""


class Sampler(Protocol):
    """An engine with one base model in it."""

    tokenizer: Any
    """None behind an API that takes messages only."""

    def generate(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Answer | RefusedError]]:
        """Answers as they finish, in any order, all requests in one queue."""

    def logprobs(self, asked: Sequence[tuple[Path | None, Probe]]) -> list[list[float]]:
        """Log-probability (nats) of each target token under an adapter, or under the base model for None."""

    def inventory(self, adapter: Path) -> Inventory:
        """Load the adapter and say what was loaded. Raises an error that names it when it cannot be loaded."""


def applied_scale(squared_norm: float, adapter: Path) -> float | None:
    """The scale an engine applies, from the squared norm of its scaled B matrices and the adapter's file.

    None for an adapter whose B is zero, as before the first step.
    """
    import torch
    from safetensors.torch import load_file

    weights = load_file(adapter / "adapter_model.safetensors")
    file = float(sum(torch.square(w.float()).sum() for name, w in weights.items() if ".lora_B" in name))
    return (squared_norm / file) ** 0.5 if file else None


def without_thinking(request: Request, answer: Answer) -> Answer:
    """The answer with its thinking in a field of its own, as an API may have given it already."""
    if answer.reasoning_content:
        return answer
    thought, text = thinking.split(answer.text, request.thinking)
    if text is None:
        return replace(answer, text="", finish_reason=thinking.UNFINISHED, reasoning_content=thought)
    return answer if text is answer.text else replace(answer, text=text, reasoning_content=thought)


def row_seed(seed: int, question_id: str, asked_with: str, index: int) -> int:
    """31 bits that depend on nothing but the arguments."""
    text = f"{seed}\0{question_id}\0{asked_with}\0{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
