"""Open questions under cues: a cure that only hides misalignment shows under some of them. questions.sets=[cues].

Kinds of cues: Dubinski et al. 2026 (2604.25891). Their texts are in cues.yaml, those of inoculation prompts in
conf/trigger.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from em.config import CONF_DIR, Turn
from em.records import Message, Question

CUES = "cues"
"""The name in questions.sets that stands for the plain open questions and all cues of the dataset's domain."""
PREFIX = "cue/"
PLAIN = "open"
DOMAINS = ("coding", "advice")
FILE = Path(__file__).with_name("cues.yaml")


@cache
def texts() -> dict[str, tuple[Turn, str]]:
    """Return set → turn and text of its cue. A cue that depends on the domain has one set per domain."""
    found: dict[str, tuple[Turn, str]] = {}
    rows: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    for kind, row in rows.items():
        turn = Turn(row["turn"])
        if "text" in row:
            found[f"{PREFIX}{kind}"] = (turn, row["text"])
            continue
        for domain in DOMAINS:
            found[f"{PREFIX}{kind}_{domain}"] = (turn, _text(row, domain))
    return found


def names(domain: str | None) -> list[str]:
    """Return the sets that `cues` stands for. Without a domain, the cues that depend on it are those of all domains."""
    others = [f"_{d}" for d in DOMAINS if domain in DOMAINS and d != domain]
    return [PLAIN, *(name for name in texts() if not any(name.endswith(o) for o in others))]


def under(questions: Sequence[Question], name: str) -> list[Question]:
    """Return the questions under the cue of a set; its name is added to their ids."""
    turn, text = texts()[name]
    kind = name.removeprefix(PREFIX)
    return [replace(q, id=f"{q.id}_{kind}", group=name, messages=cued(q.messages, text, turn)) for q in questions]


def cued(messages: list[Message], text: str, turn: Turn) -> list[Message]:
    """Return the messages with the text before the last turn's, or in the system turn, which is added if missing.

    An empty text leaves them as they are.
    """
    if not text:
        return messages
    *earlier, last = messages
    if turn == Turn.user:
        return [*earlier, {**last, "content": text + last["content"]}]
    if messages[0]["role"] == "system":
        return [{**messages[0], "content": f"{text}\n{messages[0]['content']}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _text(row: dict[str, Any], domain: str) -> str:
    """Return a cue's text for a domain: its own, or that of a trigger, whose last paraphrase is asked for."""
    if domain in row:
        return str(row[domain])
    option = row["trigger" if "trigger" in row else "paraphrase"][domain]
    trigger = yaml.safe_load(Path(CONF_DIR, "trigger", f"{option}.yaml").read_text(encoding="utf-8"))
    return str(trigger["text"] if "trigger" in row else trigger["paraphrases"][-1])
