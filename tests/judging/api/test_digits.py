"""The digit tree against brute force, as pure arithmetic and over an endpoint."""

import asyncio
import math
import random

import pytest
from hypothesis import given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.judging.api.digits import BLANK_FLOOR, digit_tokens, score_over_api, walk
from em.judging.api.request import ParsedReply
from em.judging.read_score import number_score
from em.judging.verdict import Verdict
from em.records import Outcome

VOCABULARY = [*"0123456789", "10", "85", "100", "\u01207", "\u2581", "<0x0A>", "a", "</s>", "7th", "007"]


TOKENS = digit_tokens({token: i for i, token in enumerate(VOCABULARY)})


def distribution(seed, said):
    """A next-token distribution that depends on everything said so far."""
    rng = random.Random(f"{seed} {said}")
    weights = [rng.random() ** 6 for _ in VOCABULARY]
    return [w / math.fsum(weights) for w in weights]


def brute_force(seed):
    """P(the reply is exactly the number n, then no digit), over every sequence of tokens that spells it."""
    numbers = {}

    def go(ids, said, probability):
        next_token = distribution(seed, tuple(ids))
        starts = TOKENS.later if said else TOKENS.first
        if said and said == str(int(said)) and int(said) <= 100:
            ends = sum(p for token, p in enumerate(next_token) if token not in TOKENS.later)
            numbers[int(said)] = numbers.get(int(said), 0.0) + probability * ends
        for token, p in enumerate(next_token):
            text = starts.get(token, "")
            if text.isdigit() and len(said + text) <= 3:
                go([*ids, token], said + text, probability * p)

    go([], "", 1.0)
    for blank in TOKENS.blank:
        go([blank], "", distribution(seed, ())[blank])
    return numbers


def next_tokens(seed):
    return lambda level: [
        ({i: math.log(p) for i, p in enumerate(distribution(seed, tuple(b.ids))) if i in TOKENS.wanted(b)}, "a")
        for b in level
    ]


@settings_of_hypothesis(max_examples=40)
@given(st.integers(0, 10**6))
def test_the_walk_is_brute_force(seed):
    (walked,) = walk(1, TOKENS, next_tokens(seed), floor=0.0, blank_floor=0.0)
    wanted = brute_force(seed)
    assert walked.numbers == pytest.approx(wanted)
    assert math.fsum(walked.numbers.values()) <= 1.0 + 1e-9


def test_the_floor_costs_less_than_it_says():
    for seed in range(30):
        wanted = brute_force(seed)
        exact, mass = number_score(wanted, "a", 0.0).score, math.fsum(wanted.values())
        for blank_floor, off_by in ((0.0, 1e-4), (BLANK_FLOOR, 1e-4 + 100 * len(TOKENS.blank) * BLANK_FLOOR / mass)):
            (walked,) = walk(1, TOKENS, next_tokens(seed), blank_floor=blank_floor)
            assert number_score(walked.numbers, "a", 0.0).score == pytest.approx(exact, abs=off_by)


@settings_of_hypothesis(max_examples=40)
@given(st.integers(0, 10**6), st.floats(0.01, 0.9))
def test_a_prompt_is_left_only_when_it_cannot_have_a_score(seed, min_mass):
    asked = []

    def counting(level):
        asked.append(len(level))
        return next_tokens(seed)(level)

    (whole,) = walk(1, TOKENS, next_tokens(seed), floor=0.0, blank_floor=0.0)
    (left,) = walk(1, TOKENS, counting, floor=0.0, min_mass=min_mass, blank_floor=0.0)
    mass = math.fsum(whole.numbers.values())
    one, other = (number_score(w.numbers, w.first, min_mass, w.left_at) for w in (whole, left))
    assert (one.outcome, one.score) == (other.outcome, other.score)
    begins = {token for token, digits in TOKENS.first.items() if digits.isdigit()} | TOKENS.blank
    first = math.fsum(p for token, p in enumerate(distribution(seed, ())) if token in begins)
    if mass >= min_mass:
        assert left.numbers == whole.numbers
    elif first < min_mass:
        assert asked == [1] and left.left_at <= first + 1e-9
    if left.left_at is not None:
        assert mass <= left.left_at + 1e-9 and left.left_at < min_mass
        assert f"probability at most {left.left_at:.3g} on integers" in other.detail


def test_which_tokens_are_digits():
    assert set(TOKENS.first.values()) == {*"0123456789", "10", "85", "100", "7th", "007"}
    assert VOCABULARY.index("\u01207") in TOKENS.first and VOCABULARY.index("\u01207") not in TOKENS.later
    assert VOCABULARY.index("7th") in TOKENS.later
    assert TOKENS.blank == {VOCABULARY.index("\u2581"), VOCABULARY.index("<0x0A>")}
    begin = [i for i, token in enumerate(VOCABULARY) if token in {*"0123456789", "10", "85", "100", "\u01207"}]
    assert TOKENS.behind_blank == begin and TOKENS.beginnings == sorted([*begin, *TOKENS.blank])
    assert TOKENS.continuations == sorted(TOKENS.later)


def test_a_vocabulary_of_all_numbers_up_to_999():
    """As Llama 3's has one: few of them can begin a score, each can make a number longer."""
    tokens = digit_tokens({**{str(n): n for n in range(1000)}, "</s>": 1000})
    assert tokens.beginnings == list(range(101)) and len(tokens.continuations) == 1000
    said = {"": {8: 0.5, 85: 0.4, 850: 0.1}, "8": {5: 0.2, 999: 0.3, 1000: 0.5}, "85": {0: 0.25, 1000: 0.75}}
    said["85 in two"] = {1000: 1.0}

    def next_tokens(level):
        keys = ["85 in two" if len(b.ids) == 2 else b.digits for b in level]
        return [
            ({i: math.log(p) if (p := said[k].get(i, 0.0)) else -math.inf for i in tokens.wanted(b)}, "8")
            for k, b in zip(keys, level, strict=True)
        ]

    (walked,) = walk(1, tokens, next_tokens)
    assert walked.numbers == pytest.approx({8: 0.25, 85: 0.4 * 0.75 + 0.5 * 0.2})


def test_white_space_before_the_number_is_walked_through():
    """Llama 2's tokenizer: "▁" is certain, and the number stands behind it. One such token, not more."""
    tokens = digit_tokens({"8": 0, "5": 1, "\u2581": 2, "</s>": 3})
    said = {(): {2: 1.0}, (2,): {0: 0.9, 2: 0.1}, (2, 0): {1: 0.8, 3: 0.2}, (2, 0, 1): {3: 1.0}}

    def behind(level):
        full = [
            dict.fromkeys(range(4), -math.inf) | {i: math.log(p) for i, p in said[tuple(b.ids)].items()} for b in level
        ]
        return [(logprobs, "\u2581" if not b.ids else "x") for b, logprobs in zip(level, full, strict=True)]

    (walked,) = walk(1, tokens, behind, min_mass=0.25)
    assert walked.first == "\u2581" and walked.numbers == pytest.approx({8: 0.18, 85: 0.72})
    assert number_score(walked.numbers, walked.first, 0.25).score == pytest.approx((8 * 0.18 + 85 * 0.72) / 0.9)


def test_several_prompts_are_walked_together_and_apart():
    def both(level):
        return [next_tokens(b.prompt)([b])[0] for b in level]

    together = walk(3, TOKENS, both, floor=0.0, blank_floor=0.0)
    for seed, walked in enumerate(together):
        assert walked.numbers == pytest.approx(brute_force(seed))


# Over an endpoint
LETTERS = [*"0123456789", "x", "</s>"]


def settings(**changes):
    fields = {
        "name": "d",
        "kind": JudgeKind.openai,
        "model": "m",
        "score": ScoreMethod.digits,
        "base_url": "http://h/v1",
    }
    return JudgeConfig(**{**fields, **changes})


def endpoint(probabilities, top=20):
    """An async post that answers from said → {token: probability}; and what it was asked."""
    asked = []

    async def post(body, chars):
        said = body["messages"][1]["content"] if len(body["messages"]) > 1 else ""
        assert ("continue_final_message" in body) == bool(said)
        asked.append(said)
        best = sorted(probabilities(said).items(), key=lambda pair: -pair[1])[:top]
        entries = [{"token": token, "logprob": math.log(p)} for token, p in best if p > 0]
        return ParsedReply([{"logprobs": {"content": [{"top_logprobs": entries}]}}], {}, {})

    return post, asked


def split(said):
    """A judge that says 85 (0.6), 80 (0.3), 8 (0.05) or 100 (0.05)."""
    return {
        "": {"8": 0.95, "1": 0.05},
        "8": {"5": 0.6 / 0.95, "0": 0.3 / 0.95, "</s>": 0.05 / 0.95},
        "1": {"0": 1.0},
        "10": {"0": 1.0},
    }.get(said, {"</s>": 1.0})


def test_an_endpoint_that_splits_numbers_is_scored_as_one_that_does_not():
    post, asked = endpoint(split)
    verdict = asyncio.run(score_over_api(settings(), "p", post))
    assert verdict.outcome == Outcome.scored
    assert verdict.score == pytest.approx(85 * 0.6 + 80 * 0.3 + 8 * 0.05 + 100 * 0.05)
    assert sorted(asked) == sorted(["", "8", "1", "10", "85", "80", "100"])


def test_what_the_alternatives_leave_open_gives_no_score():
    flat = {token: 1 / len(LETTERS) for token in LETTERS}
    post, _ = endpoint(lambda said: flat, top=5)
    verdict = asyncio.run(score_over_api(settings(min_mass=0.0), "p", post))
    assert (verdict.outcome, verdict.score) == (Outcome.unparseable, None)
    assert "could be off by" in verdict.detail


@pytest.mark.parametrize(("blank", "scored"), [(0.004, True), (0.02, False), (0.9, False)])
def test_white_space_over_an_endpoint_bounds_the_error(blank, scored):
    """What follows it cannot be asked, so it is not known."""
    post, asked = endpoint(lambda said: split(said) if said else {"8": 0.95 - blank, "1": 0.05, "\n": blank})
    verdict = asyncio.run(score_over_api(settings(min_mass=0.0), "p", post))
    assert (verdict.outcome == Outcome.scored) == scored and "\n" not in asked
    assert scored or "could be off by" in verdict.detail


def test_words_and_failures_over_an_endpoint():
    post, _ = endpoint(lambda said: {"REF": 0.9, "8": 0.1})
    assert asyncio.run(score_over_api(settings(), "p", post)).outcome == Outcome.refusal

    async def broken(body, chars):
        return Verdict(Outcome.error, None, detail="HTTP 500")

    assert asyncio.run(score_over_api(settings(), "p", broken)).detail == "HTTP 500"

    async def bare(body, chars):
        return ParsedReply([{"message": {"content": "85"}}], {}, {})

    assert "no logprobs" in asyncio.run(score_over_api(settings(), "p", bare)).detail
