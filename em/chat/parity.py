"""Compare how training and sampling render conversations, for the run record.

Sampling with another system prompt or template than in training is another experiment
(docs/decisions/data_and_chat.md). Both stages record their `rendering`; `compare` lists the differences, `require`
refuses an unintended one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import tee
from typing import Any

from em.chat.encode import row_text
from em.chat.render import ChatError, ChatTokenizer, prompt_text
from em.records import Message

QUESTION = "{question}"
Rendering = dict[str, Any]
"""JSON for the run record; `rendering` lists the fields."""


def rendering(tokenizer: ChatTokenizer, conversations: Iterable[list[Message]]) -> Rendering:
    """Return how conversations (training rows, or questions) are rendered. There must be at least one.

    `frame`: the prompt around a question; `system_prompt`: the system text and its source; `example`: the first
    conversation as text.
    """
    first, rest = tee(conversations)
    example = next(first)
    counted = [any(m["role"] == "system" for m in messages) for messages in rest]
    answered = example[-1]["role"] == "assistant"
    return {
        "frame": prompt_text(tokenizer, [{"role": "user", "content": QUESTION}]),
        "system_prompt": _system(tokenizer),
        "template_sha256": hashlib.sha256(str(tokenizer.template).encode()).hexdigest(),
        "chat_template_kwargs": tokenizer.kwargs,
        "conversations": len(counted),
        "with_own_system_turn": sum(counted),
        "example": row_text(tokenizer, example) if answered else prompt_text(tokenizer, example),
    }


def _system(tokenizer: ChatTokenizer) -> str:
    """Return in words the system text of conversations without a system turn."""
    if tokenizer.system_prompt:
        return f"the config's: {tokenizer.system_prompt!r}"
    default = tokenizer.default_system
    if default is None:
        return "none"
    if tokenizer.system_prompt == "":
        return "none (the template's default is taken out)"
    return f"the template's default: {default!r}" if default else "a system block of the template's, without a text"


def compare(trained: Mapping[str, Any], sampled: Mapping[str, Any]) -> Rendering:
    """Return both renderings and their differences in words."""
    differences = []  # part of the stored run record: changed words would change its bytes
    if trained["frame"] != sampled["frame"]:
        differences.append(
            f"the prompt around a question: {trained['frame']!r} in training, {sampled['frame']!r} asked"
        )
    if trained["system_prompt"] != sampled["system_prompt"]:
        differences.append(
            f"the system prompt: {trained['system_prompt']} in training, {sampled['system_prompt']} asked"
        )
    shares = [(r["with_own_system_turn"], r["conversations"]) for r in (trained, sampled)]
    if len({own / total for own, total in shares}) > 1:
        (t, rows), (a, questions) = shares
        differences.append(f"a system turn of their own: {t} of {rows} training rows, {a} of {questions} questions")
    return {"training": dict(trained), "asking": dict(sampled), "differences": differences}


def require(trained: Mapping[str, Any], sampled: Mapping[str, Any], overridden: bool) -> None:
    """Raise ChatError if the prompt around a question differs from training, unless a sample.* option changes it
    (`overridden`)."""
    if trained["frame"] == sampled["frame"] or overridden:
        return
    raise ChatError(
        f"the model was trained with the prompt {trained['frame']!r} and would be sampled with {sampled['frame']!r}, "
        "though no option says so: a template that writes today's date? Fix it with model.chat_template_kwargs or "
        "model.system_prompt"
    )
