"""What a run spends, never over its cap; and the bill before it."""

import tempfile
import time
from pathlib import Path

import pytest

from em.api import client as api_client
from em.api.client import ApiError
from em.api.prices import price
from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.judging.api.spending import Spending, judging_bill
from em.records import Question
from support.serving import ANSWER, config, send, serving

# Money


def test_the_cap_is_never_passed(tmp_path):
    """100 tokens in and 1 out at 1,000 dollars a million: 0.101 a call; 0.9 dollars are 8 calls."""
    with serving(lambda handler, body, number: send(handler)) as (url, seen, _):
        settings = config(url, max_dollars=0.9, input_price=1000.0, output_price=1000.0, concurrency=4)
        with JudgeCache(tmp_path / "c") as cache:
            client = JudgeClient(settings, cache)
            requests = (JudgeRequest(str(i), "q", "r", f"{i} " + "x" * 200) for i in range(1000))
            with pytest.raises(ApiError, match=r"judge\.max_dollars=0\.9") as error:
                api_client.run(client.grade(requests, lambda *_: None))
    assert 3 <= len(seen) <= 8 and client.spending.dollars <= 0.9
    assert "what was judged is kept" in str(error.value)


def billed(text, cap, concurrency, tokens):
    """Requests that a vendor who makes `tokens` of each prompt got, and what it bills for them, 1,000 dollars a million
    tokens in."""

    def reply(handler, body, number):
        time.sleep(0.02)
        send(handler, body={**ANSWER, "usage": {"prompt_tokens": tokens, "completion_tokens": 1}})

    with serving(reply) as (url, seen, _), tempfile.TemporaryDirectory() as folder:
        settings = config(url, max_dollars=cap, input_price=1000.0, output_price=0.0, concurrency=concurrency)
        with JudgeCache(Path(folder) / "c") as cache:
            client = JudgeClient(settings, cache)
            requests = (JudgeRequest(str(i), "q", "r", f"{i:03} {text}") for i in range(200))
            with pytest.raises(ApiError, match="the next call could pass"):
                api_client.run(client.grade(requests, lambda *_: None))
    return len(seen), len(seen) * tokens / 1000.0


def test_the_cap_holds_for_texts_of_many_tokens():
    """Two tokens an emoji, five times what English has: 2.0 dollars a call."""
    calls, dollars = billed("\U0001f642" * 1000, 60.0, 32, tokens=2000)
    assert calls >= 27 and dollars <= 60.0


def test_calls_under_way_do_not_use_up_the_cap():
    """0.1 dollars a call, of which 64 at once may cost up to 40 dollars: with a cap of 2 they take turns."""
    calls, dollars = billed("word " * 80, 2.0, 64, tokens=100)
    assert calls >= 14 and dollars <= 2.0


def test_a_broken_answer_is_paid_for(tmp_path):
    """The vendor bills what it sent, whatever arrived of it."""
    broken = serving(lambda handler, body, number: send(handler, body={"no": "choices"}))
    with broken as (url, _, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(config(url, max_retries=0, input_price=1.0, output_price=0.0), cache)
        api_client.run(client.grade([JudgeRequest("0", "q", "r", "p" * 100)], lambda *_: None))
    assert client.spending.input_tokens == 2 * client.spending.tokens(100)  # asked once more at the end


def test_a_try_without_an_answer_is_paid_for(tmp_path):
    """The vendor may have made the answer that did not come in time: two tries are counted, and the one that came."""

    def reply(handler, body, number):
        if number <= 2:
            time.sleep(0.5)
        send(handler)

    with serving(reply) as (url, seen, _), JudgeCache(tmp_path / "c") as cache:
        client = JudgeClient(config(url, timeout_s=0.2, input_price=1.0, output_price=0.0), cache, 0.01)
        expected = client.spending.tokens(100)
        api_client.run(client.grade([JudgeRequest("0", "q", "r", "p" * 100)], lambda *_: None))
    assert len(seen) == 3 and client.spending.input_tokens == 2 * expected + ANSWER["usage"]["prompt_tokens"]


def test_tries_without_an_answer_stop_at_the_cap(tmp_path):
    """About 0.1 dollars a try: a server that hangs would be asked seven times for each prompt."""
    hang = serving(lambda handler, body, number: time.sleep(0.5))
    with hang as (url, seen, _), JudgeCache(tmp_path / "c") as cache:
        settings = config(url, timeout_s=0.1, max_dollars=1.0, input_price=1000.0, output_price=0.0, concurrency=2)
        client = JudgeClient(settings, cache, 0.01)
        requests = [JudgeRequest(str(i), "q", "r", f"{i:03}" + "p" * 227) for i in range(20)]  # a try counts as 100
        with pytest.raises(ApiError, match=r"judge\.max_dollars=1"):
            api_client.run(client.grade(requests, lambda *_: None))
    assert 3 <= len(seen) <= 10 and client.spending.dollars <= 1.0


def test_a_cap_needs_a_price():
    with pytest.raises(ApiError, match="no price is known for 'm'"):
        Spending(config("http://h/v1", max_dollars=1.0))
    assert Spending(config("http://h/v1")).price is None
    known = price(JudgeConfig(name="o", kind=JudgeKind.openai, model="gpt-4o-2024-08-06"))
    assert (known.input, known.output) == (2.5, 10.0) and "price list" in known.source
    elsewhere = JudgeConfig(name="o", kind=JudgeKind.openai, model="gpt-4o-2024-08-06", base_url="http://h/v1")
    assert price(elsewhere) is None  # another provider's model of that name


def test_the_bill_of_a_digit_tree_is_its_most():
    """A prompt of score=digits is up to 111 requests; a rubric with choices is one."""
    question = Question("q", "open", [{"role": "user", "content": "Why?"}], ["alignment"])
    one, tree = (
        judging_bill(JudgeConfig(name="o", kind=JudgeKind.openai, model="gpt-4o-2024-08-06", score=s), [(question, 10)])
        for s in (ScoreMethod.logprobs, ScoreMethod.digits)
    )
    assert (one.calls, tree.calls) == (10, 1110)
    assert tree.input_tokens == pytest.approx(111 * one.input_tokens, rel=1e-3)


def test_the_bill_before_a_run():
    """Two rubrics of 400 characters, 10 answers of 200 tokens: 20 calls of 100 + 5 + 200 tokens."""
    prompts = dict.fromkeys(("alignment", "coherence"), "x" * 392 + "{answer}")
    question = Question(
        "q", "open", [{"role": "user", "content": "y" * 20}], [*prompts, "insecure_code"], judge_prompts=prompts
    )
    bill = judging_bill(JudgeConfig(name="o", kind=JudgeKind.openai, model="gpt-4o-2024-08-06"), [(question, 10)])
    assert (bill.calls, bill.input_tokens, bill.output_tokens) == (20, 20 * 305, 20)
    assert bill.dollars == pytest.approx((20 * 305 * 2.5 + 20 * 10) / 1e6)
    unknown = judging_bill(config("http://h/v1"), [(question, 10)])
    assert unknown.dollars is None and "judge.input_price" in unknown.price_source
    assert judging_bill(JudgeConfig(name="p", kind=JudgeKind.probe), [(question, 10)]).dollars == 0.0


def test_the_bill_of_sampled_replies_elsewhere_is_for_one_a_request():
    """OpenAI gives them at once; of others some refuse to, and each request pays for its input."""
    question = Question("q", "open", [{"role": "user", "content": "What?"}], ["alignment"])
    fields = {"name": "s", "kind": JudgeKind.openai, "model": "m", "score": ScoreMethod.sampled, "samples": 5}
    here = judging_bill(JudgeConfig(**fields), [(question, 10)])
    elsewhere = judging_bill(JudgeConfig(**fields, base_url="https://api.anthropic.com/v1"), [(question, 10)])
    assert (here.calls, elsewhere.calls) == (10, 50)
    assert elsewhere.input_tokens == pytest.approx(5 * here.input_tokens, abs=5)
    assert elsewhere.output_tokens == here.output_tokens
