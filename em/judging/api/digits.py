"""Score 0–100 if a number is several tokens: the expected value over the tree of digits.

`walk` is exact and needs the probabilities of all digit tokens (vLLM in this process, judging/local/vllm.py).
`score_over_api` uses the alternatives that an endpoint gives. If the error could exceed MAX_ERROR, there is no score.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from em.config import JudgeConfig
from em.judging.api.request import ParsedReply, RequestBody, error_verdict, first_token_alternatives
from em.judging.read_score import number_score
from em.judging.verdict import Verdict
from em.records import Outcome

# The probability that a judge replies exactly "85" is P("8") · P("5" after "8") · P(no digit after "85"), summed over
# every way in which the tokenizer can spell it. If the number is one token, this equals the paper's rule, except for
# what follows the number ("850" is not 85). With the first token only, a split "85" would be scored as 8.
# A reply may begin with one token of white space (Llama 2's tokenizer writes "▁" before every number). `walk` goes on
# behind it; `score_over_api` counts it as unknown.

FLOOR = 1e-10
"""Less likely branches are cut: at most 111 of them, so the score is off by less than 1e-4."""
BLANK_FLOOR = 1e-4
"""The same for white space before the number. A vocabulary has up to 200 such tokens; each that is cut moves the score
by at most 0.01 points."""
API_FLOOR = 1e-3
"""The same over an endpoint, where a branch costs a request. What is cut counts against MAX_ERROR."""
MAX_ERROR = 0.5
"""Points by which a score over an endpoint may be off."""


_SPACES = "\u2581\u0120\u010a\u0109\u010d \n\t\r"
"""How vocabularies write a space, a line feed, a tab and a carriage return at the start of a token."""
_BYTES = {"<0x09>", "<0x0A>", "<0x0D>", "<0x20>"}
"""How SentencePiece vocabularies write white space without a token of its own."""
_NUMBERS = {str(n) for n in range(101)}
_PREFIXES = {number[:length] for number in _NUMBERS for length in range(1, 4)}


@dataclass(frozen=True)
class DigitTokens:
    """The tokens with which a tokenizer can write digits."""

    first: dict[int, str]
    """Token → digits, for tokens that may begin a reply, also with white space before the digits."""
    later: dict[int, str]
    """Token → digits, for tokens that continue a number."""
    blank: frozenset[int] = frozenset()
    """Tokens of white space only. A reply may begin with one of them, and then one of `first`."""

    @cached_property
    def beginnings(self) -> list[int]:
        """Tokens whose probabilities a walk needs at the start of the reply."""
        return sorted({*self._begin, *self.blank})

    @cached_property
    def behind_blank(self) -> list[int]:
        """Tokens whose probabilities it needs after white space."""
        return sorted(self._begin)

    @cached_property
    def continuations(self) -> list[int]:
        """Tokens whose probabilities it needs after digits: all of `later`, because a number ends if none follows."""
        return sorted(self.later)

    @cached_property
    def _begin(self) -> set[int]:
        return {token for token, digits in self.first.items() if digits in _PREFIXES}

    def wanted(self, branch: Branch) -> list[int]:
        """Return the tokens whose probabilities a walk needs after this branch."""
        if branch.digits:
            return self.continuations
        return self.behind_blank if branch.ids else self.beginnings


def digit_tokens(vocabulary: dict[str, int]) -> DigitTokens:
    """Return the digit tokens of a tokenizer. `vocabulary`: its get_vocab()."""
    # A token such as "5a" would end a number, but counts here as a continuation: the number gets less likely, never
    # more. No known vocabulary has one.
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
    """One beginning of a reply."""

    prompt: int
    """Index of its prompt."""
    digits: str
    """Its digits; "" at the start and after white space."""
    ids: list[int]
    probability: float


@dataclass
class Walked:
    """The result of one prompt."""

    numbers: dict[int, float] = field(default_factory=dict)
    """Number 0–100 → probability that the reply is exactly this number."""
    first: str = ""
    """The most likely first token."""
    left_at: float | None = None
    """If the walk gave this prompt up: the most probability that all its numbers together could have."""


NextTokens = Callable[[Sequence[Branch]], list[tuple[dict[int, float], str]]]
"""For each branch of a level: token → log-probability as the next token, for all tokens of DigitTokens.wanted; and the
text of the most likely token."""


def walk(
    count: int,
    tokens: DigitTokens,
    next_tokens: NextTokens,
    *,
    floor: float = FLOOR,
    min_mass: float = 0.0,
    blank_floor: float = BLANK_FLOOR,
) -> list[Walked]:
    """Walk the digit trees of `count` prompts together, level by level. Return one result per prompt.

    A prompt is given up as soon as its numbers cannot reach `min_mass` any more, because it will have no score: a
    refusal costs one request instead of 111. `floor`, `blank_floor`: see FLOOR, BLANK_FLOOR.
    """
    out = [Walked() for _ in range(count)]
    level = [Branch(i, "", [], 1.0) for i in range(count)]
    while level:
        following: list[Branch] = []
        for branch, (logprobs, likeliest) in zip(level, next_tokens(level), strict=True):
            if not branch.ids:
                out[branch.prompt].first = likeliest
                blanks = {token: math.exp(min(logprobs[token], 0.0)) for token in tokens.blank}
                following += [Branch(branch.prompt, "", [t], p) for t, p in blanks.items() if p >= blank_floor]
            known = tokens.later if branch.digits else tokens.first
            shares = {token: math.exp(min(p, 0.0)) for token, p in logprobs.items() if token in known}
            if branch.digits in _NUMBERS:
                ends = max(0.0, 1.0 - math.fsum(shares.values()))
                numbers = out[branch.prompt].numbers
                numbers[int(branch.digits)] = numbers.get(int(branch.digits), 0.0) + branch.probability * ends
            for token, share in shares.items():
                digits, probability = branch.digits + known[token], branch.probability * share
                if digits in _PREFIXES and probability >= floor:
                    following.append(Branch(branch.prompt, digits, [*branch.ids, token], probability))
        possible = [math.fsum(walked.numbers.values()) for walked in out]
        for branch in following:
            possible[branch.prompt] += branch.probability
        level = [branch for branch in following if possible[branch.prompt] >= min_mass - 1e-9]
        for prompt in {branch.prompt for branch in following} - {branch.prompt for branch in level}:
            out[prompt].left_at = possible[prompt]
    return out


Send = Callable[[RequestBody, int], Awaitable[ParsedReply | Verdict]]
"""Sends a request whose prompt has so many characters."""


async def score_over_api(config: JudgeConfig, prompt: str, send: Send) -> Verdict:
    """Return the verdict on one prompt, from an endpoint that continues an assistant turn (vLLM's server does)."""
    numbers: dict[int, float] = {}
    unknown, first = 0.0, ""
    seen: list[tuple[str, float]] = []
    level = {"": 1.0}
    while level:
        following: dict[str, float] = {}
        for written, probability in level.items():
            pairs = await _alternatives_after(config, prompt, written, send)
            if isinstance(pairs, Verdict):
                return pairs
            if not written:
                seen, first = pairs, max(pairs, key=lambda pair: pair[1])[0] if pairs else ""
            shares = _digits(pairs, begins=not written)
            unknown += probability * _unlisted(pairs, shares)
            unknown += 0.0 if written else _blank(pairs)
            if written in _NUMBERS:
                ends = max(0.0, 1.0 - math.fsum(shares.values()))
                numbers[int(written)] = numbers.get(int(written), 0.0) + probability * ends
            for longer, share in ((written + digits, share) for digits, share in shares.items()):
                if longer in _PREFIXES and probability * share >= API_FLOOR:
                    following[longer] = following.get(longer, 0.0) + probability * share
                elif longer in _PREFIXES:
                    unknown += probability * share
        level = following
    found = number_score(numbers, first, config.min_mass)
    off_by = 100.0 * unknown / math.fsum(numbers.values()) if found.outcome == Outcome.scored else 0.0
    if off_by > MAX_ERROR:
        detail = f"the score could be off by {off_by:.1f} points: the alternatives given leave {unknown:.3f} open"
        return Verdict(Outcome.unparseable, None, found.distribution, detail, seen)
    return Verdict(found.outcome, found.score, found.distribution, found.detail, seen)


async def _alternatives_after(
    config: JudgeConfig, prompt: str, written: str, send: Send
) -> list[tuple[str, float]] | Verdict:
    """Return the alternatives of the token after the digits `written`, or the verdict on a reply without them."""
    reply = await send(_body(config, prompt, written), len(prompt))
    if isinstance(reply, Verdict):
        return reply
    if reply.finish.get("finish_reason") == "content_filter":
        return Verdict(Outcome.filtered, None, detail="finish_reason content_filter", finish=reply.finish)
    try:
        return first_token_alternatives(reply.found[0].get("logprobs"))
    except (ValueError, AttributeError) as error:
        return error_verdict(str(error))


def _body(config: JudgeConfig, prompt: str, written: str) -> RequestBody:
    messages = [{"role": "user", "content": prompt}]
    more = {}
    if written:
        messages.append({"role": "assistant", "content": written})
        more = {"add_generation_prompt": False, "continue_final_message": True}
    fixed = {"max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": config.top_logprobs, "seed": 0}
    return {"model": config.model, "messages": messages, **fixed, **more}


def _digits(pairs: Sequence[tuple[str, float]], begins: bool) -> dict[str, float]:
    """Return digits → probability, for the alternatives that go on with digits. `begins`: there are no digits yet."""
    shares: dict[str, float] = {}
    for token, logprob in pairs:
        text = token.strip() if begins else token
        if text and text[0] in "0123456789":
            shares[text] = shares.get(text, 0.0) + math.exp(min(logprob, 0.0))
    return shares


def _blank(pairs: Sequence[tuple[str, float]]) -> float:
    """Return the probability that a reply begins with white space only."""
    # A number may follow, but an endpoint cannot show which: chat templates drop an assistant turn of white space.
    return math.fsum(math.exp(min(logprob, 0.0)) for token, logprob in pairs if not token.strip())


def _unlisted(pairs: Sequence[tuple[str, float]], shares: dict[str, float]) -> float:
    """Return the most probability that digits outside the list can have.

    Each is at most as likely as the least likely alternative in the list.
    """
    probabilities = [math.exp(min(p, 0.0)) for _, p in pairs]
    left = max(0.0, 1.0 - math.fsum(probabilities))
    single = all(len(digits) == 1 for digits in shares)
    absent = 10 - len(shares) if single else 10**6
    return min(left, absent * min(probabilities, default=1.0))
