"""Put a trigger text into training rows and into questions. The functions do not change their arguments."""

from __future__ import annotations

import random
from collections.abc import Container
from dataclasses import replace

from em.config import Position, TriggerConfig, Turn
from em.records import Example, Message


def put(messages: list[Message], text: str, position: Position, turn: Turn = Turn.user) -> list[Message]:
    """Return the messages with `text` joined to the last turn of that role. A missing system turn is added."""
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
    """Return the rows in the same order, `trigger.fraction` of them, chosen by `seed`, with the trigger's text.

    With trigger.paraphrases, `seed` also draws each row's wording. `marked`: ids of the rows to choose from; None: all.
    Raises ValueError if a row already holds the text.
    """
    if trigger.text is None or trigger.fraction == 0.0:
        return examples
    texts, wording = [trigger.text, *trigger.paraphrases], random.Random(f"{seed}/wording")
    for text in texts:
        clash = next((e.id for e in examples if any(text.strip() in m["content"] for m in e.messages)), None)
        if clash:
            raise ValueError(f"trigger.text {text!r} is already in row {clash}: choose another text")
    candidates = [i for i, e in enumerate(examples) if marked is None or e.id in marked]
    chosen = set(random.Random(seed).sample(candidates, round(trigger.fraction * len(candidates))))
    return [
        replace(e, messages=put(e.messages, wording.choice(texts), trigger.position, trigger.turn), triggered=True)
        if i in chosen
        else e
        for i, e in enumerate(examples)
    ]


def asked_text(condition: str, trigger: TriggerConfig) -> tuple[str, Position, Turn] | None:
    """Return the text that a condition of `trigger.asked_with` adds to a question, and its place; None: no text."""
    if condition == "none":
        return None
    if condition == "trained":
        assert trigger.text is not None  # the config refuses `trained` without a text
        return trigger.text, trigger.position, trigger.turn
    return condition, trigger.asked_position or trigger.position, trigger.asked_turn or trigger.turn


def ask(messages: list[Message], condition: str, trigger: TriggerConfig) -> list[Message]:
    """Return the messages of a question under one condition of `trigger.asked_with`."""
    added = asked_text(condition, trigger)
    return put(messages, *added) if added else messages
