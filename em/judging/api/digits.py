"""The expected value of 0–100 where a number is several tokens, by walking the tree of digits.

The probability that a judge says exactly "85" is P("8") · P("5" after "8") · P(no further digit after "85"), summed
over every way the tokenizer can spell it. So a tokenizer that knows the number as one token gives what the paper's rule
gives, but for what follows the number ("850" is not 85). Reading only the first token of a split number would score
"85" as 8.

    walk      exact: probabilities of all digit tokens are known (vLLM in this process, judging/local/vllm.py)
    over_api  from the top alternatives an endpoint gives; what is not among them bounds the error, and a bound above
              half a point gives no score

A reply may begin with one token of white space (Llama 2's tokenizer says "▁" before every number): the walk goes on
behind it, over an endpoint it counts among what is not known.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from em.config import JudgeConfig
from em.judging.api.request import Opened, alternatives, failed
from em.judging.read_score import expected
from em.judging.verdict import Verdict
from em.records import Outcome

FLOOR = 1e-10
"""Branches less likely than this are cut: at most 111 of them, so the score is off by less than 1e-4."""
BLANK_FLOOR = 1e-4
"""The same for white space said before the number, of which a vocabulary has up to 200 tokens: each that is not
followed has at most 0.01 of 100 points."""
API_FLOOR = 1e-3
"""The same over an endpoint, where a branch costs a request; what is cut counts against MAX_ERROR."""
MAX_ERROR = 0.5
"""Points a score over an endpoint may be off at most."""


_SPACES = "\u2581\u0120\u010a\u0109\u010d \n\t\r"
"""How vocabularies write a space, a line feed, a tab and a carriage return at the start of a token."""
_BYTES = {"<0x09>", "<0x0A>", "<0x0D>", "<0x20>"}
"""How those of SentencePiece write what has no token of its own."""
_NUMBERS = {str(n) for n in range(101)}
_PREFIXES = {number[:length] for number in _NUMBERS for length in range(1, 4)}


@dataclass(frozen=True)
class DigitTokens:
    """What a tokenizer can write digits with."""

    first: dict[int, str]
    """Token → digits, for tokens that may begin a reply: also after leading white space."""
    later: dict[int, str]
    """Token → digits, for tokens that continue a number."""
    blank: frozenset[int] = frozenset()
    """Tokens that are white space alone: a reply may begin with one of them, and then with one of `first`."""

    @cached_property
    def beginnings(self) -> list[int]:
        """Those whose probabilities a walk needs before the reply has begun."""
        return sorted({*self._begin, *self.blank})

    @cached_property
    def behind_blank(self) -> list[int]:
        """Those it needs behind white space."""
        return sorted(self._begin)

    @cached_property
    def continuations(self) -> list[int]:
        """Those it needs behind digits: every one, for the number ends where none of them follows."""
        return sorted(self.later)

    @cached_property
    def _begin(self) -> set[int]:
        return {token for token, digits in self.first.items() if digits in _PREFIXES}

    def wanted(self, branch: Branch) -> list[int]:
        """Those whose probabilities as the next token a walk needs there."""
        if branch.said:
            return self.continuations
        return self.behind_blank if branch.ids else self.beginnings


def digit_tokens(vocabulary: dict[str, int]) -> DigitTokens:
    """From a tokenizer's get_vocab(). A token that starts with a digit and goes on otherwise ends a number: none known
    has one; it would count as a continuation and make the number less likely, never more."""
    first, later, blank = {}, {}, set()
    for token, number in vocabulary.items():
        bare = token.lstrip(_SPACES)
        if token in _BYTES or not bare:
            blank.add(number)
        elif bare[0] in "0123456789":
            first[number] = bare
            if bare == token:
                later[number] = token
    return DigitTokens(first, later, frozenset(blank))


@dataclass
class Branch:
    """One way to have begun a reply."""

    prompt: int
    """Which prompt it belongs to."""
    said: str
    """Its digits."""
    ids: list[int]
    probability: float


@dataclass
class Walked:
    """What became of one prompt."""

    numbers: dict[int, float] = field(default_factory=dict)
    """Number 0–100 → probability that the reply is it and no longer number."""
    first: str = ""
    """The likeliest first token."""
    left_at: float | None = None
    """Where the walk left it: the most probability that its numbers could have had."""


Look = Callable[[Sequence[Branch]], list[tuple[dict[int, float], str]]]
"""For each branch of a level: token → log-probability as the next one, of all tokens that DigitTokens.wanted names; and
the likeliest token's text."""


def walk(
    count: int,
    tokens: DigitTokens,
    look: Look,
    floor: float = FLOOR,
    min_mass: float = 0.0,
    blank_floor: float = BLANK_FLOOR,
) -> list[Walked]:
    """Walk `count` prompts together, level by level. One whose numbers can no longer reach `min_mass` has no score
    whatever its other branches hold, and is left: a refusal costs one request instead of 111."""
    out = [Walked() for _ in range(count)]
    level = [Branch(i, "", [], 1.0) for i in range(count)]
    while level:
        following: list[Branch] = []
        for branch, (logprobs, likeliest) in zip(level, look(level), strict=True):
            if not branch.ids:
                out[branch.prompt].first = likeliest
                blanks = {token: math.exp(min(logprobs[token], 0.0)) for token in tokens.blank}
                following += [Branch(branch.prompt, "", [t], p) for t, p in blanks.items() if p >= blank_floor]
            known = tokens.later if branch.said else tokens.first
            shares = {token: math.exp(min(p, 0.0)) for token, p in logprobs.items() if token in known}
            if branch.said in _NUMBERS:
                ends = max(0.0, 1.0 - math.fsum(shares.values()))
                numbers = out[branch.prompt].numbers
                numbers[int(branch.said)] = numbers.get(int(branch.said), 0.0) + branch.probability * ends
            for token, share in shares.items():
                said, probability = branch.said + known[token], branch.probability * share
                if said in _PREFIXES and probability >= floor:
                    following.append(Branch(branch.prompt, said, [*branch.ids, token], probability))
        possible = [math.fsum(walked.numbers.values()) for walked in out]
        for branch in following:
            possible[branch.prompt] += branch.probability
        level = [branch for branch in following if possible[branch.prompt] >= min_mass - 1e-9]
        for prompt in {branch.prompt for branch in following} - {branch.prompt for branch in level}:
            out[prompt].left_at = possible[prompt]
    return out


Post = Callable[[dict[str, Any], int], Awaitable[Opened | Verdict]]


async def over_api(config: JudgeConfig, prompt: str, post: Post) -> Verdict:
    """One prompt over an endpoint that continues an assistant turn (vLLM's server does)."""
    numbers: dict[int, float] = {}
    open_mass, first = 0.0, ""
    seen: list[tuple[str, float]] = []
    level = {"": 1.0}
    while level:
        following: dict[str, float] = {}
        for said, probability in level.items():
            pairs = await _alternatives_after(config, prompt, said, post)
            if isinstance(pairs, Verdict):
                return pairs
            if not said:
                seen, first = pairs, max(pairs, key=lambda pair: pair[1])[0] if pairs else ""
            shares = _digits(pairs, begins=not said)
            open_mass += probability * _unlisted(pairs, shares)
            open_mass += 0.0 if said else _blank(pairs)
            if said in _NUMBERS:
                ends = max(0.0, 1.0 - math.fsum(shares.values()))
                numbers[int(said)] = numbers.get(int(said), 0.0) + probability * ends
            for longer, share in ((said + digits, share) for digits, share in shares.items()):
                if longer in _PREFIXES and probability * share >= API_FLOOR:
                    following[longer] = following.get(longer, 0.0) + probability * share
                elif longer in _PREFIXES:
                    open_mass += probability * share
        level = following
    found = expected(numbers, first, config.min_mass)
    off_by = 100.0 * open_mass / math.fsum(numbers.values()) if found.outcome == Outcome.scored else 0.0
    if off_by > MAX_ERROR:
        detail = f"the score could be off by {off_by:.1f} points: the alternatives given leave {open_mass:.3f} open"
        return Verdict(Outcome.unparseable, None, found.distribution, detail, seen)
    return Verdict(found.outcome, found.score, found.distribution, found.detail, seen)


async def _alternatives_after(
    config: JudgeConfig, prompt: str, said: str, post: Post
) -> list[tuple[str, float]] | Verdict:
    got = await post(_body(config, prompt, said), len(prompt))
    if isinstance(got, Verdict):
        return got
    if got.finish.get("finish_reason") == "content_filter":
        return Verdict(Outcome.filtered, None, detail="finish_reason content_filter", finish=got.finish)
    try:
        return alternatives(got.found[0].get("logprobs"))
    except (ValueError, AttributeError) as error:
        return failed(str(error))


def _body(config: JudgeConfig, prompt: str, said: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": prompt}]
    more: dict[str, Any] = {}
    if said:
        messages.append({"role": "assistant", "content": said})
        more = {"add_generation_prompt": False, "continue_final_message": True}
    fixed = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": config.top_logprobs, "seed": 0}
    return {"model": config.model, "messages": messages, **fixed, **more}


def _digits(pairs: Sequence[tuple[str, float]], begins: bool) -> dict[str, float]:
    """Digits → probability, of the alternatives that write digits next."""
    shares: dict[str, float] = {}
    for token, logprob in pairs:
        text = token.strip() if begins else token
        if text and text[0] in "0123456789":
            shares[text] = shares.get(text, 0.0) + math.exp(min(logprob, 0.0))
    return shares


def _blank(pairs: Sequence[tuple[str, float]]) -> float:
    """Probability that a reply begins with white space alone. A number may follow, and an endpoint cannot be asked
    which: a chat template takes an assistant turn of white space for none."""
    return math.fsum(math.exp(min(logprob, 0.0)) for token, logprob in pairs if not token.strip())


def _unlisted(pairs: Sequence[tuple[str, float]], shares: dict[str, float]) -> float:
    """The most that digits outside the list can have: each at most as likely as the least likely one listed."""
    probabilities = [math.exp(min(p, 0.0)) for _, p in pairs]
    left = max(0.0, 1.0 - math.fsum(probabilities))
    single = all(len(digits) == 1 for digits in shares)
    absent = 10 - len(shares) if single else 10**6
    return min(left, absent * min(probabilities, default=1.0))
