"""Make the chat completions request for one prompt, and read the verdict from the reply.

For every `judge.score`. score=digits sends several requests per prompt (judging/api/digits.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from em.api.client import VLLM_ONLY, Reply, neutral, short
from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.judging import json_codec
from em.judging.read_score import Score, choice_score, logprob_score, majority_label, sampled_score, text_score
from em.judging.verdict import Refused, Unreached, Verdict
from em.records import Outcome
from em.store import printable

FINISH_FIELDS = ("finish_reason", "model", "system_fingerprint")
LEFT_OUT: tuple[tuple[str, ...], ...] = ((), VLLM_ONLY, (*VLLM_ONLY, "seed"), (*VLLM_ONLY, "seed", "n"))
"""Fields to leave out of a request, in the order of the attempts. Many vendors refuse fields that only vLLM has,
Mistral refuses `seed`, Anthropic more than one reply per request."""
FILTERED = "(filtered)"
"""Takes the place of a sampled reply that the vendor withheld."""
HIDDEN = "<think>"
"""Put before thinking that comes instead of a reply and has no mark of its own."""
REPLY_TOKENS = 8
"""Tokens for a number or a label in words."""
RequestBody = dict[str, Any]
"""JSON object of a chat completions request."""
Usage = dict[str, Any]
"""JSON object with the tokens that a vendor counted."""


def body(config: JudgeConfig, prompt: str, choices: Sequence[str] = (), have: int = 0) -> RequestBody:
    """Return the request for one prompt. With score=logprobs and no choices it is the paper's (its public judge.py).

    `have`: number of sampled replies received so far, from an API that gives fewer than `n` per request.
    """
    request: RequestBody = {
        "model": config.model or "scripted",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1 if config.score == ScoreMethod.logprobs and not choices else REPLY_TOKENS,
        "temperature": 1 if config.score == ScoreMethod.sampled else 0,
    }
    if config.score in (ScoreMethod.logprobs, ScoreMethod.digits):
        request |= {"logprobs": True, "top_logprobs": config.top_logprobs}
    if config.score == ScoreMethod.sampled:
        request["n"] = config.samples - have
    return request | {"seed": have} | (neutral(config.base_url) if is_read_from_words(config, choices) else {})


def is_read_from_words(config: JudgeConfig, choices: Sequence[str]) -> bool:
    """Return whether the verdict is read from sampled words. The served model's sampling defaults would change them."""
    in_words = bool(choices) or config.score in (ScoreMethod.text, ScoreMethod.sampled)
    return in_words and config.kind == JudgeKind.openai


def encode(request: RequestBody) -> bytes:
    """Return the request as JSON. Lone surrogates and null bytes of an answer arrive at the server unchanged."""
    return json_codec.dumps(request)


class ParsedReply(NamedTuple):
    """The parts of a reply's body."""

    found: list[Any]
    """`choices`, at least one."""
    finish: dict[str, str]
    """FINISH_FIELDS, as far as the server gives them."""
    usage: Usage


def parse_reply(reply: Reply) -> ParsedReply | Verdict:
    """Parse a reply. Return its parts, or a Verdict that says why it cannot be used."""
    if reply.body is None:
        kind = Unreached if reply.unreached else Refused if reply.refused else Verdict
        return kind(Outcome.filtered if reply.filtered else Outcome.error, None, detail=reply.detail)
    try:
        answer = json_codec.loads(reply.body)
        if problem := _error_inside(answer):
            return error_verdict(f"the answer holds an error: {problem}")
        found = answer["choices"]
        finish = {**answer, "finish_reason": found[0].get("finish_reason")}
        usage = answer.get("usage")
    except (ValueError, RecursionError) as error:
        return error_verdict(f"the answer is not JSON ({error})")
    except (KeyError, IndexError, TypeError, AttributeError):
        return error_verdict("the answer has the wrong form: no choices[0]")
    named = {name: finish[name] for name in FINISH_FIELDS if isinstance(finish.get(name), str)}
    return ParsedReply(found, named, usage if isinstance(usage, dict) else {})


def _error_inside(answer: Any) -> str:
    """Return the error inside an answer of status 200, or "". Routers of several providers report errors so."""
    if not isinstance(answer, dict):
        return ""
    for part in (answer, *(c for c in answer.get("choices") or () if isinstance(c, dict))):
        if part.get("error") or part.get("finish_reason") == "error":
            return str(part.get("error") or "finish_reason error")
    return ""


def verdict(config: JudgeConfig, found: list[Any], finish: dict[str, str], choices: Sequence[str] = ()) -> Verdict:
    """Return the verdict from a reply's `choices`, one or `judge.samples` of them.

    A withheld reply does not count as a number. If fewer than judge.min_mass of the replies remain, the verdict is
    filtered.
    """
    first = found[0]
    withheld = [_withheld(c) for c in found]
    if all(withheld) or withheld.count("") < config.min_mass * len(withheld):
        return Verdict(Outcome.filtered, None, detail=next(filter(None, withheld)), finish=finish)
    top_logprobs: list[tuple[str, float]] = []
    try:
        if config.score in (ScoreMethod.logprobs, ScoreMethod.digits):
            top_logprobs = first_token_alternatives(first.get("logprobs"))
        read = config.score != ScoreMethod.logprobs or bool(choices)
        texts = [FILTERED if gone else _text(c) for c, gone in zip(found, withheld, strict=True)] if read else []
    except ValueError as error:
        return error_verdict(str(error))
    result = _score(config, texts, top_logprobs, choices)
    return Verdict(
        result.outcome,
        result.score,
        result.distribution,
        result.detail,
        top_logprobs=top_logprobs,
        finish=finish,
        label=result.label,
        derived=config.score == ScoreMethod.logprobs and not choices,
    )


def _score(
    config: JudgeConfig, texts: list[str], top_logprobs: list[tuple[str, float]], choices: Sequence[str]
) -> Score:
    if config.score == ScoreMethod.sampled:
        return majority_label(texts, choices, config.min_mass) if choices else sampled_score(texts, config.min_mass)
    if choices:
        seen: dict[str, float] = {}
        for token, logprob in top_logprobs:
            seen[token] = seen.get(token, 0.0) + math.exp(min(logprob, 0.0))
        return choice_score(texts[0], choices, seen)
    if config.score == ScoreMethod.text:
        return text_score(texts[0])
    return logprob_score(top_logprobs, config.min_mass)


def _withheld(choice: Any) -> str:
    """Return why there is no reply: the vendor filtered it, or the judge refused in the field for that. Else "".

    (This is not a refusal in the judged answer. The rubrics have the word REFUSAL for that.)
    """
    if not isinstance(choice, dict):
        return ""
    if choice.get("finish_reason") == "content_filter":
        return "finish_reason content_filter"
    message = choice.get("message")
    if isinstance(message, dict) and message.get("refusal") and not message.get("content"):
        return short(f"the judge refuses: {message['refusal']}")
    return ""


def _text(choice: Any) -> str:
    """Return the text of one reply, "" for an empty one. Thinking without a text is returned behind HIDDEN.

    Raises ValueError if the choice has another form.
    """
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ValueError("the answer has the wrong form: no message in a choice")
    text = message.get("content") or ""
    if not isinstance(text, str):
        raise ValueError("the answer has the wrong form: message.content is no text")
    thought = message.get("reasoning_content") or message.get("reasoning")
    if not text and (thought or choice.get("finish_reason") == "length"):
        return f"{HIDDEN}{thought or ''}"
    return text


def first_token_alternatives(logprobs: Any) -> list[tuple[str, float]]:
    """Return (token, log-probability) of each alternative of the first token, from the `logprobs` of a choice.

    [] if the reply has no token. Raises ValueError for another form and for values that are not log-probabilities.
    """
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if content is None:
        raise ValueError("the answer has no logprobs: this endpoint or model does not give them (see judge.score)")
    found, total = [], 0.0
    try:
        for entry in content[0]["top_logprobs"] if content != [] else ():
            token, logprob = entry["token"], entry["logprob"]
            if type(logprob) not in (float, int) or logprob > 0.01:
                raise ValueError(f"logprob {logprob!r:.40}")
            total += math.exp(logprob)
            found.append((token if token.isascii() else printable(token), float(logprob)))
    except (LookupError, TypeError, AttributeError, ValueError, OverflowError) as error:
        raise ValueError(f"the answer has the wrong form: logprobs.content[0].top_logprobs ({error!r})") from error
    if not total <= 1.05:  # nan too
        raise ValueError("the answer has the wrong form: its logprobs are no probabilities")
    return found


def first_words(verdict: Verdict) -> str:
    """Return the judge's most likely first token, or the words of its reply, or "" without either."""
    return max(verdict.top_logprobs or verdict.distribution.items(), key=lambda pair: pair[1], default=("", 0.0))[0]


def error_verdict(detail: str) -> Verdict:
    """Return an error with its reason, shortened to one line."""
    return Verdict(Outcome.error, None, detail=short(detail))
