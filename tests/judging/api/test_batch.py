"""The batch API against a loopback server that speaks it: half price, resumed after a crash without a second batch."""

import asyncio
import dataclasses
import json
import re
import shutil
import subprocess
import sys

import pytest
from filelock import FileLock

from em.api.client import ApiError
from em.api.prices import price
from em.config import JudgeConfig, JudgeKind
from em.config.judge import ScoreMethod
from em.judging.api import batch as api_batch
from em.judging.api import batch_files
from em.judging.api.batch import BatchClient
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeRequest
from em.records import Outcome
from support.batch_vendor import Vendor, serving


def settings(url, **changes):
    fields = {"name": "b", "kind": JudgeKind.openai, "model": "m", "base_url": url, "api_key_env": "", "batch": True}
    return JudgeConfig(**{**fields, "max_retries": 0, **changes})


def grade(tmp_path, config, prompts, on_wait=lambda _: None):
    found = {}
    with JudgeCache(tmp_path / "cache") as cache:
        client = BatchClient(config, cache, tmp_path / "batches", poll_s=0.01, on_wait=on_wait)
        requests = [JudgeRequest(str(i), "q", "r", prompt) for i, prompt in enumerate(prompts)]
        asyncio.run(client.grade(requests, lambda r, j: found.__setitem__(r.completion_id, j)))
    client.spending = client._client.spending
    return [found[str(i)] for i in range(len(prompts))], client


PROMPTS = ["say 10", "say 20", "forbidden", "say 10"]


def test_a_batch_gives_what_single_requests_give(tmp_path):
    vendor = Vendor(("validating", "in_progress", "finalizing", "completed"))
    with serving(vendor) as url:
        found, client = grade(tmp_path, settings(url), PROMPTS)
        assert [(j.outcome, j.score) for j in found] == [
            (Outcome.scored, 10.0),
            (Outcome.scored, 20.0),
            (Outcome.filtered, None),
            (Outcome.scored, 10.0),
        ]
        assert (client.calls, client.cache_hits, len(vendor.batches)) == (3, 1, 1)
        again, client = grade(tmp_path, settings(url), PROMPTS)
        assert again == found and (client.calls, client.cache_hits, len(vendor.batches)) == (0, 4, 1)
        row = json.loads(vendor.files["file-0"].splitlines()[0])
        assert set(row) == {"custom_id", "method", "url", "body"} and row["body"]["max_tokens"] == 1
    assert not list((tmp_path / "batches").glob("*/*/state.json"))


def test_many_prompts_are_several_batches_and_it_says_where_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_files, "MAX_REQUESTS", 2)
    vendor, said = Vendor(("in_progress", "completed")), []
    prompts = [f"say {i}" for i in range(10, 17)]
    with serving(vendor) as url:
        found, client = grade(tmp_path, settings(url), [*prompts, *prompts], said.append)
    assert [j.score for j in found] == [float(i) for i in range(10, 17)] * 2
    assert (client.calls, client.cache_hits, len(vendor.batches)) == (7, 7, 4)
    assert said[-1] == "batches at the vendor: 4 completed; prompts answered: 7 of 7"
    assert not list((tmp_path / "batches").glob("*/*.jsonl")) and not list((tmp_path / "batches").glob("*/*/*"))


def test_a_second_run_waits_for_the_first_and_says_so(tmp_path):
    vendor, said = Vendor(), []
    with serving(vendor) as url:
        grade(tmp_path, settings(url), ["say 10"])
        lock = FileLock(next((tmp_path / "batches").iterdir()) / "lock", thread_local=False)
        lock.acquire()

        def say(text):
            said.append(text)
            lock.release(force=True)

        found, _ = grade(tmp_path, settings(url), ["say 20"], say)
    assert found[0].score == 20.0
    assert said[0].startswith("another run waits for its batch of this judge")


MEMORY = """
import asyncio, pathlib, resource, sys
from em.judging.api import batch, batch_files
from em.config import JudgeConfig, JudgeKind
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeRequest

batch_files.MAX_BYTES = 500_000
config = JudgeConfig(name="b", kind=JudgeKind.openai, model="m", base_url=sys.argv[1], api_key_env="", batch=True)
for count in (200, 12_000):
    folder = pathlib.Path(sys.argv[2]) / str(count)
    with JudgeCache(folder / "cache") as cache:
        client = batch.BatchClient(config, cache, folder / "batches", poll_s=0.2)
        prompts = (JudgeRequest(str(i), "q", "r", f"{10 + i % 91} {i} " + "x" * 3000) for i in range(count))
        done = []
        asyncio.run(client.grade(prompts, lambda r, j: done.append(j.outcome)))
    print(len(done), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_prompts_do_not_stay_in_memory(tmp_path):
    """12,000 of 3 kB took 33 MB more than 200 while they were kept."""
    with serving(Vendor(("completed",))) as url:
        command = [sys.executable, "-c", MEMORY, url, str(tmp_path)]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
    (few, before), (many, after) = (map(int, line.split()) for line in ran.stdout.splitlines())
    assert (few, many) == (200, 12_000)
    assert after - before < 20


def test_an_outage_while_a_batch_is_waited_for_loses_nothing(tmp_path, monkeypatch):
    vendor, said = Vendor(("in_progress", "completed")), []
    vendor.out = 5
    config = dataclasses.replace(settings("http://127.0.0.1:1/v1"), max_retries=0)
    with serving(vendor) as url:
        found, _ = grade(tmp_path, dataclasses.replace(config, base_url=url), ["say 10"], said.append)
        assert found[0].score == 10.0 and vendor.polls == 6 and len(vendor.batches) == 1
        assert any("gives no news of the batch (HTTP 503: down" in text for text in said)
        monkeypatch.setattr(api_batch, "OUTAGE_S", 0.0)
        vendor.polls = 0
        with pytest.raises(ApiError, match=r"the state of the batch failed \(HTTP 503: down"):
            grade(tmp_path, dataclasses.replace(config, base_url=url), ["say 11"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("when", ["after upload", "after create", "while polling", "the answer to create is lost"])
def test_a_crash_at_any_point_makes_no_second_batch(tmp_path, monkeypatch, when):
    vendor = Vendor(("in_progress", "in_progress", "completed"))
    with serving(vendor) as url:
        with monkeypatch.context() as patch:
            if when == "after upload":
                patch.setattr(BatchClient, "_create", _killed)
            elif when == "after create":
                patch.setattr(BatchClient, "_wait", _killed)
            elif when == "while polling":
                patch.setattr(BatchClient, "_keep", _killed)
            else:
                vendor.fail_create = 1
            with pytest.raises((Killed, ApiError)):
                grade(tmp_path, settings(url), PROMPTS)
        found, _ = grade(tmp_path, settings(url), [*PROMPTS, "say 30"])
    assert [j.score for j in found] == [10.0, 20.0, None, 10.0, 30.0]
    lines = [json.loads(line) for data in vendor.files.values() for line in data.splitlines()]
    sent = [row["body"]["messages"][0]["content"] for row in lines]
    assert sorted(sent) == ["forbidden", "say 10", "say 20", "say 30"]
    assert len(vendor.batches) == 2  # the second holds the new prompt only


async def _killed(*_):
    raise Killed


def test_what_a_batch_leaves_out_is_said_kept_apart_and_asked_alone_next_time(tmp_path):
    vendor = Vendor(("expired",))
    vendor.drop = {"say 20"}
    with serving(vendor) as url:
        with pytest.raises(ApiError, match="1 judgements are not in the results of the batch: run again"):
            grade(tmp_path, settings(url), PROMPTS)
        vendor.drop = set()
        found, client = grade(tmp_path, settings(url), PROMPTS)
    assert [j.score for j in found] == [10.0, 20.0, None, 10.0]
    assert client.calls == 1


def test_a_prompt_the_api_refuses_is_an_error_and_stops_no_other(tmp_path):
    vendor = Vendor()
    with serving(vendor) as url:
        found, _ = grade(tmp_path, settings(url), ["say 10", "too long"])
        assert [(j.outcome, j.score) for j in found] == [(Outcome.scored, 10.0), (Outcome.error, None)]
        assert "HTTP 400" in found[1].detail and "too many tokens" in found[1].detail
        with pytest.raises(ApiError, match="1 judgements are not in the results of the batch"):
            grade(tmp_path, settings(url), ["later", "too long"])


@pytest.mark.parametrize(
    ("end", "said"), [("failed", "batch failed"), ("expired", "4 judgements are"), ("cancelled", "4 judgements are")]
)
def test_a_batch_without_one_answer_is_said_and_its_prompts_are_sent_again(tmp_path, end, said):
    """The vendor's list still has the old batch of just these prompts."""
    vendor = Vendor((end,))
    vendor.drop = set(PROMPTS)
    with serving(vendor) as url:
        with pytest.raises(ApiError, match=said):
            grade(tmp_path, settings(url), PROMPTS)
        vendor.steps, vendor.drop = ("completed",), set()
        found, client = grade(tmp_path, settings(url), PROMPTS)
    assert [j.score for j in found] == [10.0, 20.0, None, 10.0]
    assert (client.calls, len(vendor.batches)) == (3, 2)


def test_a_vendor_that_refuses_a_field_gets_a_batch_without_it(tmp_path):
    vendor = Vendor(("completed",))
    vendor.refuses = ("seed",)
    with serving(vendor) as url:
        found, client = grade(tmp_path, settings(url), PROMPTS)
    assert [j.score for j in found] == [10.0, 20.0, None, 10.0]
    assert len(vendor.batches) == 2 and client.spending.input_tokens == 200


def test_a_batch_that_is_refused_whole_is_a_sentence(tmp_path):
    vendor = Vendor(("completed",))
    vendor.refuses = ("model",)
    prompts = [f"say {i}" for i in range(20, 45)]
    with serving(vendor) as url:
        with pytest.raises(ApiError, match=r"refuses all 25 prompts of the batch \(HTTP 422: extra field\)"):
            grade(tmp_path, settings(url), prompts)
        found, _ = grade(tmp_path, settings(url), prompts[:3])  # too few to say so
    assert {j.outcome for j in found} == {Outcome.error}


def test_a_judge_that_says_numbers_digit_by_digit_is_refused_in_a_batch_too(tmp_path):
    vendor = Vendor(("completed",))
    vendor.digits = True
    prompts = [f"say {i}" for i in range(20, 45)]
    with serving(vendor) as url:
        for _ in range(2):  # the second time from the cache
            with pytest.raises(ApiError, match="writes numbers digit by digit"):
                grade(tmp_path, settings(url), prompts)


@pytest.mark.parametrize("status", [404, 403, 400])
@pytest.mark.parametrize("gone", ["/batches/batch-0", "/content"])
def test_a_batch_that_is_gone_is_named_with_what_to_delete(tmp_path, gone, status):
    vendor = Vendor(("completed",))
    vendor.gone, vendor.gone_status = gone, status
    with serving(vendor) as url:
        with pytest.raises(ApiError, match=r"batch batch-0 cannot be read at .* delete (\S+) and run again") as error:
            grade(tmp_path, settings(url), PROMPTS)
        shutil.rmtree(re.search(r"delete (\S+) and", str(error.value))[1])
        vendor.gone = ""
        found, _ = grade(tmp_path, settings(url), PROMPTS)
    assert [j.score for j in found] == [10.0, 20.0, None, 10.0]


def test_broken_answers_of_a_batch_are_paid_for(tmp_path):
    vendor = Vendor(("completed",))
    vendor.broken = True
    with serving(vendor) as url:
        found, client = grade(tmp_path, settings(url, input_price=1.0, output_price=1.0), ["say 10"])
    assert found[0].outcome == Outcome.error and client.spending.dollars > 0


def test_fewer_replies_than_asked_for_are_no_mean(tmp_path):
    vendor, config = Vendor(), {"score": ScoreMethod.sampled, "samples": 3}
    with serving(vendor) as url:
        vendor.replies = 2
        found, _ = grade(tmp_path, settings(url, **config), ["say 10"])
        assert (found[0].outcome, found[0].score) == (Outcome.error, None)
        assert "2 of 3 replies" in found[0].detail
        vendor.replies = 3
        found, _ = grade(tmp_path, settings(url, **config), ["say 10"])
        assert (found[0].outcome, found[0].score) == (Outcome.scored, 10.0)


def test_a_batch_costs_half_and_keeps_to_the_cap(tmp_path):
    whole = JudgeConfig(name="o", kind=JudgeKind.openai, model="gpt-4o-2024-08-06")
    half = JudgeConfig(name="o", kind=JudgeKind.openai, model="gpt-4o-2024-08-06", batch=True)
    assert price(half).input == price(whole).input / 2 and "batch" in price(half).source
    vendor = Vendor()
    with serving(vendor) as url:
        capped = settings(url, max_dollars=0.01, input_price=1e6, output_price=0.0)
        with pytest.raises(ApiError, match=r"judge.max_dollars=0\.01"):
            grade(tmp_path, capped, PROMPTS)
    assert not vendor.batches
    assert not list((tmp_path / "batches").glob("*/*/state.json"))
