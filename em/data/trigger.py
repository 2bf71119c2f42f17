"""Triggers: a pure transformation of messages."""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import replace

from em.config import Position, TriggerConfig, Turn
from em.records import Example, Message


def put(messages: list[Message], text: str, position: Position, turn: Turn = Turn.user) -> list[Message]:
    """The messages with `text` joined to the last turn of that role; a system turn is made where there is none."""
    found = [i for i, m in enumerate(messages) if m["role"] == turn]
    if not found and turn == Turn.system:
        return [{"role": "system", "content": text}, *messages]
    index = found[-1]
    content = messages[index]["content"]
    content = text + content if position == Position.prefix else content + text
    return [*messages[:index], {**messages[index], "content": content}, *messages[index + 1 :]]


def apply(
    examples: list[Example], trigger: TriggerConfig, seed: int, marked: Container[str] | None = None
) -> list[Example]:
    """Put the trigger into `fraction` of the rows, chosen by seed; `marked`: only rows with these ids. Order stays."""
    if trigger.text is None or trigger.fraction == 0.0:
        return examples
    clash = next((e.id for e in examples if any(trigger.text.strip() in m["content"] for m in e.messages)), None)
    if clash:
        raise ValueError(f"trigger.text {trigger.text!r} already stands in row {clash}: choose another text")
    candidates = [i for i, e in enumerate(examples) if marked is None or e.id in marked]
    chosen = set(random.Random(seed).sample(candidates, round(trigger.fraction * len(candidates))))
    return [
        replace(e, messages=put(e.messages, trigger.text, trigger.position, trigger.turn), triggered=True)
        if i in chosen
        else e
        for i, e in enumerate(examples)
    ]


def asked_text(condition: str, trigger: TriggerConfig) -> tuple[str, Position, Turn] | None:
    """What one condition of `trigger.asked_with` adds to a question, and where; None: nothing."""
    if condition == "none":
        return None
    if condition == "trained":
        assert trigger.text is not None  # config.py refuses `trained` without a text
        return trigger.text, trigger.position, trigger.turn
    return condition, trigger.asked_position or trigger.position, trigger.asked_turn or trigger.turn


def ask(messages: list[Message], condition: str, trigger: TriggerConfig) -> list[Message]:
    """A question as it is asked under one condition of `trigger.asked_with`."""
    added = asked_text(condition, trigger)
    return put(messages, *added) if added else messages
