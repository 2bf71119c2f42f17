"""One prompt over chat completions: what is sent, and how the answer is read. The other ways to a verdict than
`digits`, which needs several requests a prompt (judging/api/digits.py)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from em.api.client import VLLM_ONLY, Reply, neutral, short
from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.judging import json_codec
from em.judging.read_score import Score, choice_score, majority, sampled_score, score, text_score
from em.judging.verdict import Refused, Unreached, Verdict
from em.records import Outcome
from em.store import printable

FINISH_FIELDS = ("finish_reason", "model", "system_fingerprint")
OPTIONAL: tuple[tuple[str, ...], ...] = ((), VLLM_ONLY, (*VLLM_ONLY, "seed"), (*VLLM_ONLY, "seed", "n"))
"""What is left out of a request for vendors that refuse it: what only vLLM knows; Mistral `seed`, Anthropic more than
one reply at a time."""
FILTERED = "(filtered)"
"""In the place of a sampled reply that is withheld."""
HIDDEN = "<think>"
"""Before what a judge thought instead of a reply, where no mark says so; all there is where it is not shown."""
REPLY_TOKENS = 8
"""Room for a number or a label said in words."""


def body(config: JudgeConfig, prompt: str, choices: Sequence[str] = (), have: int = 0) -> dict[str, Any]:
    """The request for one prompt. With score=logprobs and no choices it is the paper's (its public judge.py).

    `have`: sampled replies that are there already, from an API that gives fewer than `n` at once.
    """
    request: dict[str, Any] = {
        "model": config.model or "scripted",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 1 if config.score == ScoreMethod.logprobs and not choices else REPLY_TOKENS,
        "temperature": 1 if config.score == ScoreMethod.sampled else 0,
    }
    if config.score in (ScoreMethod.logprobs, ScoreMethod.digits):
        request |= {"logprobs": True, "top_logprobs": config.top_logprobs}
    if config.score == ScoreMethod.sampled:
        request["n"] = config.samples - have
    return request | {"seed": have} | (neutral(config.base_url) if said_in_words(config, choices) else {})


def said_in_words(config: JudgeConfig, choices: Sequence[str]) -> bool:
    """Whether a verdict is read from words that the server drew, in whose drawing the model's defaults have a part."""
    drawn = bool(choices) or config.score in (ScoreMethod.text, ScoreMethod.sampled)
    return drawn and config.kind == JudgeKind.openai


def encode(request: dict[str, Any]) -> bytes:
    """JSON in which lone surrogates and null bytes of an answer arrive as they are."""
    return json_codec.dumps(request)


class Opened(NamedTuple):
    """The body of a reply, taken apart."""

    found: list[Any]
    """choices, at least one."""
    finish: dict[str, str]
    usage: dict[str, Any]


def opened(reply: Reply) -> Opened | Verdict:
    """The parts of a reply, or why there are none. What is not what was asked for becomes an error with its reason."""
    if reply.body is None:
        kind = Unreached if reply.unreached else Refused if reply.refused else Verdict
        return kind(Outcome.filtered if reply.filtered else Outcome.error, None, detail=reply.detail)
    try:
        answer = json_codec.loads(reply.body)
        if problem := _error_inside(answer):
            return failed(f"the answer holds an error: {problem}")
        found = answer["choices"]
        finish = {**answer, "finish_reason": found[0].get("finish_reason")}
        usage = answer.get("usage")
    except (ValueError, RecursionError) as error:
        return failed(f"the answer is not JSON ({error})")
    except (KeyError, IndexError, TypeError, AttributeError):
        return failed("the answer has the wrong form: no choices[0]")
    named = {name: finish[name] for name in FINISH_FIELDS if isinstance(finish.get(name), str)}
    return Opened(found, named, usage if isinstance(usage, dict) else {})


def _error_inside(answer: Any) -> str:
    """The error inside an answer of status 200, as routers of several providers give it; "" where there is none."""
    if not isinstance(answer, dict):
        return ""
    for part in (answer, *(c for c in answer.get("choices") or () if isinstance(c, dict))):
        if part.get("error") or part.get("finish_reason") == "error":
            return str(part.get("error") or "finish_reason error")
    return ""


def verdict(config: JudgeConfig, found: list[Any], finish: dict[str, str], choices: Sequence[str] = ()) -> Verdict:
    """The verdict of an answer's choices, one or `judge.samples` of them. A reply that is withheld is no number; where
    too few others are left (judge.min_mass) the verdict is filtered."""
    first = found[0]
    cut = [_withheld(c) for c in found]
    if all(cut) or cut.count("") < config.min_mass * len(cut):
        return Verdict(Outcome.filtered, None, detail=next(filter(None, cut)), finish=finish)
    top_logprobs: list[tuple[str, float]] = []
    try:
        if config.score in (ScoreMethod.logprobs, ScoreMethod.digits):
            top_logprobs = alternatives(first.get("logprobs"))
        read = config.score != ScoreMethod.logprobs or bool(choices)
        texts = [FILTERED if gone else _text(c) for c, gone in zip(found, cut, strict=True)] if read else []
    except ValueError as error:
        return failed(str(error))
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
        return majority(texts, choices, config.min_mass) if choices else sampled_score(texts, config.min_mass)
    if choices:
        seen: dict[str, float] = {}
        for token, logprob in top_logprobs:
            seen[token] = seen.get(token, 0.0) + math.exp(min(logprob, 0.0))
        return choice_score(texts[0], choices, seen)
    return text_score(texts[0]) if config.score == ScoreMethod.text else score(top_logprobs, config.min_mass)


def _withheld(choice: Any) -> str:
    """Why there is no reply: the vendor cut it, or the judge refuses in the field for that. "" where there is one.

    It is no refusal of the answer that is judged, for which the rubrics have a word.
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
    """What one reply says; nothing said is "". Thinking that the vendor keeps apart, or to itself, stands before it."""
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


def alternatives(logprobs: Any) -> list[tuple[str, float]]:
    """(token, log-probability) of the first token. Raises ValueError for what is not that; [] is allowed."""
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
    """What a judge most likely says first: a token, or the words of its reply; "" where there is neither."""
    return max(verdict.top_logprobs or verdict.distribution.items(), key=lambda pair: pair[1], default=("", 0.0))[0]


def failed(detail: str) -> Verdict:
    return Verdict(Outcome.error, None, detail=short(detail))
