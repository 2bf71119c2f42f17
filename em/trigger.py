"""Triggers: a pure transformation of messages."""

from __future__ import annotations

import random
from dataclasses import replace

from em.config import Position, TriggerConfig
from em.records import Example, Message


def put(messages: list[Message], text: str, position: Position) -> list[Message]:
    """The messages with `text` joined to the last user turn."""
    index = max(i for i, m in enumerate(messages) if m["role"] == "user")
    content = messages[index]["content"]
    content = text + content if position == Position.prefix else content + text
    return [*messages[:index], {**messages[index], "content": content}, *messages[index + 1 :]]


def apply(examples: list[Example], trigger: TriggerConfig, seed: int) -> list[Example]:
    """Put the trigger into `fraction` of the rows, chosen by seed. Row order stays."""
    if trigger.text is None or trigger.fraction == 0.0:
        return examples
    clash = next((e.id for e in examples if any(trigger.text.strip() in m["content"] for m in e.messages)), None)
    if clash:
        raise ValueError(f"trigger.text {trigger.text!r} already stands in row {clash}: choose another text")
    count = round(trigger.fraction * len(examples))
    chosen = set(random.Random(seed).sample(range(len(examples)), count))
    return [
        replace(e, messages=put(e.messages, trigger.text, trigger.position), triggered=True) if i in chosen else e
        for i, e in enumerate(examples)
    ]


def ask(messages: list[Message], condition: str, trigger: TriggerConfig) -> list[Message]:
    """A question as it is asked under one condition of `trigger.asked_with`."""
    if condition == "none":
        return messages
    text = trigger.text if condition == "trained" else condition
    assert text is not None  # config.py refuses `trained` without a text
    return put(messages, text, trigger.position)
