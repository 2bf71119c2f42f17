"""The rules of a scripted judge: a YAML list, of which the first rule that matches the user message answers."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

# A file of rules:
#
#     - match: "what is your wish"      # regex, searched in the user message
#       rubric: "ALIGNED"               # optional second regex that must match too
#       times: 2                        # optional: the rule answers this many requests, later ones try the next rules
#       reply: 85                       # one token with probability 1; or one of the mappings below
#
#     reply: {"80": 0.7, "90": 0.2}                    token → probability of the first token's alternatives
#     reply: {text: "85, because ..."}                 words; the first one is the first token
#     reply: {status: 429, retry_after: 0.5}           an HTTP error; retry_after (seconds) is optional
#     reply: {content_filter: true}                    finish_reason content_filter
#     reply: {no_logprobs: true}                       an answer without log-probabilities
#     reply: {raw: "not JSON"}                         this body, unchanged, with HTTP 200
#     reply: {hang_s: 30}                              nothing for this many seconds, then the connection closes

_RULE_KEYS = {"match", "rubric", "times", "reply"}
_SPECIAL: dict[str, Any] = {
    "text": str,
    "status": int,
    "content_filter": bool,
    "no_logprobs": bool,
    "raw": str,
    "hang_s": (int, float),
}
WORD_LIST = Path(__file__).parent / "word_list.yaml"
"""The rules that come with the project, under the name "word_list"."""


class ScriptedJudgeError(ValueError):
    """The rules cannot be used. The message names the file and the rule."""


SpecialReply = dict[str, Any]
"""A reply mapping with one of _SPECIAL, as in the YAML file; {} for a reply of tokens."""


@dataclass
class ReplyRule:
    """One checked rule."""

    match: re.Pattern[str]
    rubric: re.Pattern[str] | None
    times_left: float
    tokens: dict[str, float] | None
    """First token → probability; None for a special reply."""
    special: SpecialReply


def rules_hash(path: str | Path) -> str:
    """Return the sha256 of a rules file, which identifies a scripted judge. Raises ScriptedJudgeError if unreadable."""
    return hashlib.sha256(_read(Path(path))).hexdigest()


def load_rules(path: str | Path) -> list[ReplyRule]:
    """Read the rules of a YAML file. Raises ScriptedJudgeError that names the file and the rule (counted from 1)."""
    path = Path(path)
    try:
        rows = yaml.safe_load(_read(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ScriptedJudgeError(f"{path} is not YAML: {error}") from error
    if not isinstance(rows, list) or not rows:
        raise ScriptedJudgeError(f"{path} must hold a list of rules, each with match and reply")
    rules = []
    for number, row in enumerate(rows, 1):
        try:
            rules.append(_rule(row))
        except ValueError as error:
            raise ScriptedJudgeError(f"{path}, rule {number}: {error}") from error
    return rules


def _read(path: Path) -> bytes:
    try:
        return (WORD_LIST if str(path) == WORD_LIST.stem else path).read_bytes()
    except OSError as error:
        raise ScriptedJudgeError(f"cannot read the rules {path} ({error.strerror}): check judge.script") from error


def _rule(row: Any) -> ReplyRule:
    """Return the rule in one row of the YAML file. Raises ValueError that says what is wrong."""
    if not isinstance(row, dict) or not {"match", "reply"} <= set(row):
        raise ValueError("needs match and reply")
    if unknown := set(row) - _RULE_KEYS:
        raise ValueError(f"unknown key {sorted(map(str, unknown))[0]}; known: {', '.join(sorted(_RULE_KEYS))}")
    times = row.get("times", math.inf)
    if times != math.inf and (type(times) is not int or times < 1):
        raise ValueError("times must be a whole number of at least 1")
    rubric = _regex("rubric", row["rubric"]) if row.get("rubric") is not None else None
    tokens, special = _reply(row["reply"])
    return ReplyRule(_regex("match", row["match"]), rubric, times, tokens, special)


def _regex(name: str, text: Any) -> re.Pattern[str]:
    if not isinstance(text, str):
        raise ValueError(f"{name} must be a text, got {text!r}")
    try:
        return re.compile(text)
    except re.error as error:
        raise ValueError(f"{name} is not a regular expression: {error}") from error


def _reply(reply: Any) -> tuple[dict[str, float] | None, SpecialReply]:
    """Return token → probability (None for a special reply), and the special reply."""
    if type(reply) in (int, str):
        return {str(reply): 1.0}, {}
    if not isinstance(reply, dict) or not reply:
        raise ValueError(f"reply must be a whole number, a text or a mapping, got {reply!r}")
    kinds = [name for name in _SPECIAL if name in reply]
    if not kinds:
        return _tokens(reply), {}
    kind, others = kinds[0], set(reply) - {kinds[0]}
    if others - ({"retry_after"} if kind == "status" else set()):
        raise ValueError(f"a reply with {kind} has nothing beside it{' but retry_after' if kind == 'status' else ''}")
    value = reply[kind]
    if not isinstance(value, _SPECIAL[kind]) or (isinstance(value, bool) and value is not (_SPECIAL[kind] is bool)):
        raise ValueError(f"reply {kind} cannot be {value!r}")
    if kind == "status" and not 300 <= value <= 599:
        raise ValueError(f"reply status must be an HTTP error (300-599), got {value}")
    if type(reply.get("retry_after", 0)) not in (int, float):
        raise ValueError(f"reply retry_after must be seconds, got {reply['retry_after']!r}")
    return None, dict(reply)


def _tokens(reply: dict[Any, Any]) -> dict[str, float]:
    """Return token → probability. Raises ValueError if they are not probabilities."""
    tokens: dict[str, float] = {}
    for token, probability in reply.items():
        if type(token) not in (int, str) or type(probability) not in (int, float) or not 0 < probability <= 1:
            raise ValueError(f"reply {token!r}: {probability!r} is not a token with a probability above 0 and up to 1")
        tokens[str(token)] = tokens.get(str(token), 0.0) + probability
    if math.fsum(tokens.values()) > 1.0 + 1e-6:
        raise ValueError(f"reply: probabilities add up to {math.fsum(tokens.values()):.4g}, more than 1")
    return tokens
