"""Limits learned from headers, pauses, slow and vanishing servers: over real loopback sockets."""

import asyncio
import base64
import socket
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from email.parser import BytesParser
from email.utils import format_datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.api import client as api_client
from em.api.client import Api, ApiError, ApiSettings, RequestForms
from em.api.limits import Bucket, Limits, retry_after_s, seconds
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.records import Outcome
from support.serving import ANSWER, config, send, serving


def grade(settings, count, cache, backoff_s=0.01):
    found = []
    with JudgeCache(cache) as opened:
        client = JudgeClient(settings, opened, backoff_s)
        requests = (JudgeRequest(str(i), "q", "r", f"prompt {i}") for i in range(count))
        api_client.run(client.grade(requests, lambda r, j: found.append((r.completion_id, j))))
    assert sorted(int(name) for name, _ in found) == list(range(count))  # nothing lost, nothing twice
    return [j for _, j in found], client


# Faults


def test_a_storm_of_429_loses_nothing_and_stops_everybody_for_a_while(tmp_path):
    def reply(handler, body, number):
        if 5 < number <= 25:
            send(handler, 429, {"error": {"message": "slow down"}}, Retry_After=0.2)
        else:
            send(handler)

    with serving(reply) as (url, seen, _):
        found, client = grade(config(url), 60, tmp_path / "c")
    assert {j.score for j in found} == {85.0} and client.calls == len(seen)
    assert 80 <= len(seen) <= 60 + 20
    gaps = [b[0] - a[0] for a, b in pairwise(seen)]
    assert max(gaps) >= 0.15  # the pause holds all workers, not only the one that was told


def test_slow_drips_are_given_up_and_asked_again(tmp_path):
    def reply(handler, body, number):
        if number > 2:
            return send(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        for _ in range(20):
            handler.wfile.write(b" ")
            handler.wfile.flush()
            time.sleep(0.05)
        return None

    with serving(reply) as (url, seen, _):
        start = time.monotonic()
        found, _ = grade(config(url, timeout_s=0.3, concurrency=1), 3, tmp_path / "c")
    assert {j.score for j in found} == {85.0} and len(seen) == 5
    assert time.monotonic() - start < 3


def test_a_connection_reset_in_the_middle_of_an_answer_is_asked_again(tmp_path):
    def reply(handler, body, number):
        if number > 2:
            return send(handler)
        handler.send_response(200)
        handler.send_header("Content-Length", "1000")
        handler.end_headers()
        handler.wfile.write(b'{"choices": [')
        handler.wfile.flush()
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close is a reset
        handler.connection.close()
        handler.close_connection = True
        return None

    with serving(reply) as (url, seen, _):
        found, client = grade(config(url, concurrency=1), 3, tmp_path / "c")
    assert {j.score for j in found} == {85.0} and len(seen) == client.calls == 5


@pytest.mark.parametrize("fault", ["busy", "reset"])
def test_an_upload_is_sent_whole_again_after_a_failed_try(fault):
    """The second try comes after one that was read to its end (503), or not at all (reset)."""
    rows = b"".join(b'{"row": %d, "text": "\xc3\xa9 \r\n--x"}\n' % i for i in range(60_000))
    heads = []

    def reply(handler, body, number):
        heads.append(dict(handler.headers))
        if number == 2:
            send(handler, body={"id": "file-1"})
        elif fault == "busy":
            send(handler, 503, {"error": {"message": "busy"}})
        else:
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
            handler.close_connection = True

    async def main(url):
        async with Api(ApiSettings("judge", url, "m", "", backoff_s=0.01)) as api:
            return await api.upload("/files", {"purpose": "batch", "note": "é"}, "judge.jsonl", rows)

    with serving(reply) as (url, seen, _):
        assert api_client.run(main(url)).body == b'{"id": "file-1"}'
    assert len(seen) == 2 and len(rows) > 2**20  # more than is written to a socket at once
    for head, (_, body) in zip(heads, seen, strict=True):
        assert int(head["Content-Length"]) == len(body) and "Transfer-Encoding" not in head
        assert head["Content-Type"].startswith("multipart/form-data; boundary=")
        form = BytesParser().parsebytes(f"Content-Type: {head['Content-Type']}\r\n\r\n".encode() + body)
        parts = {part.get_param("name", header="Content-Disposition"): part for part in form.get_payload()}
        sent = {name: part.get_payload(decode=True) for name, part in parts.items()}
        assert sent == {"purpose": b"batch", "note": "é".encode(), "file": rows}
        assert parts["file"].get_filename() == "judge.jsonl"
        assert parts["file"].get_content_type() == "application/octet-stream"


def test_only_json_is_sent_as_json():
    heads = []

    def reply(handler, body, number):
        heads.append(handler.headers.get("Content-Type"))
        send(handler)

    async def main(url):
        async with Api(ApiSettings("judge", url, "m", "")) as api:
            await api.post("/chat/completions", b"{}")
            await api.upload("/files", {}, "rows.jsonl", b"{}\n")

    with serving(reply) as (url, _, _):
        api_client.run(main(url))
    assert heads[0] == "application/json" and heads[1].startswith("multipart/form-data; ")


def test_a_redirect_is_an_error_and_the_key_goes_nowhere_else(tmp_path, monkeypatch):
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    with (
        serving(lambda handler, body, number: send(handler)) as (elsewhere, stolen, _),
        serving(lambda handler, body, number: send(handler, 307, {}, Location=elsewhere)) as (url, _, _),
    ):
        found, _ = grade(config(url, api_key_env="JUDGE_KEY"), 1, tmp_path / "c")
    assert (found[0].outcome, found[0].score) == (Outcome.error, None) and found[0].detail.startswith("HTTP 307")
    assert stolen == []


def test_a_server_that_restarts_in_the_middle_loses_nothing(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = []

    def work():
        settings = config(f"http://127.0.0.1:{port}/v1", max_retries=9)
        done.extend(grade(settings, 120, tmp_path / "c", backoff_s=0.05)[0])

    def slow(handler, body, number):
        time.sleep(0.02)
        send(handler)

    thread = threading.Thread(target=work)
    with serving(slow, port) as (_, seen, server):
        thread.start()
        while len(seen) < 30:
            time.sleep(0.005)
        first = len(seen)
    time.sleep(0.4)  # nobody listens
    with serving(slow, port) as (_, seen, server):
        thread.join(30)
        assert not thread.is_alive()
    assert len(done) == 120 and {j.score for j in done} == {85.0}
    assert first < 120 and server is not None


def test_an_error_between_is_asked_once_more_at_the_end(tmp_path):
    def reply(handler, body, number):
        send(handler, 200, {"nothing": "useful"} if number == 3 else ANSWER)

    with serving(reply) as (url, seen, _):
        found, _ = grade(config(url, concurrency=1), 10, tmp_path / "c")
    assert {j.outcome for j in found} == {Outcome.scored} and len(seen) == 11
    assert seen[10][1] == seen[2][1]


def test_the_environments_proxy_is_used_but_not_for_loopback(tmp_path, monkeypatch):
    """A host that no resolver knows is reached through the proxy, with the proxy's password; ~/.netrc is not read."""
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    (tmp_path / "netrc").write_text("machine judge.invalid login me password secret\n")
    monkeypatch.setenv("JUDGE_KEY", "sk-1")
    heard = []

    def reply(handler, body, number):
        heard.append((handler.path, handler.headers.get("Proxy-Authorization"), handler.headers["Authorization"]))
        send(handler)

    with serving(reply) as (url, _, _):
        monkeypatch.setenv("http_proxy", url.removesuffix("/v1").replace("//", "//user:pass@"))
        monkeypatch.delenv("no_proxy", raising=False)
        for address in ("http://judge.invalid/v1", url):
            found, _ = grade(config(address, api_key_env="JUDGE_KEY"), 1, tmp_path / address[7:10])
            assert found[0].score == 85.0
    basic = "Basic " + base64.b64encode(b"user:pass").decode()
    assert heard == [
        ("http://judge.invalid/v1/chat/completions", basic, "Bearer sk-1"),
        ("/v1/chat/completions", None, "Bearer sk-1"),
    ]


# Limits


def test_the_first_request_goes_alone_and_tells_the_limits(tmp_path):
    def reply(handler, body, number):
        if number == 1:
            time.sleep(0.3)
        send(handler, x_ratelimit_limit_requests=6000, x_ratelimit_remaining_requests=5999)

    with serving(reply) as (url, seen, _):
        _, client = grade(config(url), 20, tmp_path / "c")
    assert seen[1][0] - seen[0][0] >= 0.3
    assert client.api.limits.requests.limit == 6000 and client.api.limits.requests.in_flight == 0
    assert seen[-1][0] - seen[-7][0] >= 0.15  # the seven that waited go over 0.3 s, not together


def test_a_limit_of_requests_is_kept(tmp_path):
    """1200 a minute and 5 left: 5 at once, then 20 a second."""

    def reply(handler, body, number):
        left = max(0, 5 - number)
        send(handler, x_ratelimit_limit_requests=1200, x_ratelimit_remaining_requests=left)

    with serving(reply) as (url, seen, _):
        grade(config(url), 25, tmp_path / "c")
    assert 0.8 <= seen[-1][0] - seen[0][0] <= 3.0


def test_a_limit_of_tokens_is_kept(tmp_path):
    """The second limit counts tokens: 60,000 a minute and few left let 1,000 a second through."""

    def reply(handler, body, number):
        left = max(0, 200 - 100 * number)
        send(handler, x_ratelimit_limit_tokens=60_000, x_ratelimit_remaining_tokens=left)

    with serving(reply) as (url, seen, _):
        settings = config(url)
        with JudgeCache(tmp_path / "c") as cache:
            client = JudgeClient(settings, cache)
            requests = [JudgeRequest(str(i), "q", "r", f"{i} " + "x" * 248) for i in range(12)]  # about 107 tokens each
            api_client.run(client.grade(requests, lambda *_: None))
    assert seen[-1][0] - seen[0][0] >= 0.6


def test_a_known_limit_is_not_raised_by_a_header():
    limits = Limits(requests_per_minute=120)
    limits.answered(0, {"x-ratelimit-limit-requests": "1000000", "x-ratelimit-remaining-requests": "999999"})
    assert limits.requests.limit == 120 and limits.requests.level <= 120
    limits.answered(0, {"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59"})
    assert limits.requests.limit == 60


def requests_left(limit, remaining, reset):
    names = ("limit", "remaining", "reset")
    values = (limit, remaining, reset)
    return {f"x-ratelimit-{n}-requests": str(v) for n, v in zip(names, values, strict=True)}


@pytest.mark.parametrize(
    ("reset", "window_s"),
    [("6ms", 60.0), ("59s", 60.0), ("1m0s", 60.0), ("soon", 60.0), ("2m59.56s", 3600.0), ("1h0m5s", 86400.0)],
)
def test_a_limit_of_a_day_is_not_one_of_a_minute(reset, window_s):
    """Groq's headers: 14,400 a day, of which 30 are back in three minutes."""
    limits = Limits()
    limits.answered(0, requests_left(14_400, 14_370, reset))
    limits.answered(0, requests_left(14_400, 14_370, "1s"))  # what was learned stays
    assert limits.requests.window_s == window_s
    limits.requests.level = 0.0
    assert limits.requests.wait_s(1.0) == pytest.approx(window_s / 14_400, rel=0.01)


def test_a_limit_of_a_day_does_not_replace_the_users_of_a_minute():
    limits = Limits(requests_per_minute=30)
    for remaining in (14_000, 3):
        limits.answered(0, requests_left(14_400, remaining, "2h"))
    assert limits.requests.limit == 30 and limits.requests.level > 3
    limits.requests.level = 0.0
    assert limits.requests.wait_s(1.0) == pytest.approx(2.0, rel=0.01)


def test_known_limits_need_no_headers():
    async def run():
        limits, start = Limits(requests_per_minute=600), time.monotonic()
        limits.requests.level = 2.0
        for _ in range(6):
            await limits.take(10)
            limits.answered(10, {})
        return time.monotonic() - start

    assert 0.3 <= asyncio.run(run()) <= 1.5


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 100)), max_size=30))
def test_a_bucket_never_holds_more_than_its_limit_nor_than_the_server_says(answers):
    bucket = Bucket("requests")
    for amount, remaining in answers:
        bucket.take(amount)
        headers = {"x-ratelimit-limit-requests": "100", "x-ratelimit-remaining-requests": str(remaining)}
        bucket.answered(amount, headers)
        assert bucket.level <= remaining <= 100 and bucket.in_flight >= 0
        assert bucket.wait_s(1e9) <= 60.0 * (1 + 50 * len(answers) / 100)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1.5", 1.5), ("20ms", 0.02), ("6m0s", 360.0), ("1h2m3s", 3723.0), ("0", 0.0), ("2d", 172800.0)],
)
def test_durations(text, value):
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "soon", "-1", "nan", "inf", "5 apples", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_no_durations(text):
    assert seconds(text) is None


def test_the_breaker_counts_in_a_row():
    api = Api(ApiSettings("sample", "http://h/v1", "m", "", max_failures=3))
    api.count_result(False, "x")
    api.count_result(False, "x")
    api.count_result(True)
    api.count_result(False, "x")
    api.count_result(False, "x")
    with pytest.raises(ApiError, match=r"3 requests in a row failed \(why\): check sample.base_url and model.path"):
        api.count_result(False, "why")


def test_the_form_that_a_vendor_accepts_is_found_out_once_and_no_failure_settles_it():
    """Each answer is (refused, accepted); a request that failed otherwise says nothing about its form."""
    forms, sent = RequestForms(((), ("a",), ("a", "b"))), []

    def send(*answers, body=None):
        left = list(answers)

        async def post(form):
            sent.append("".join(sorted(form)))
            return left.pop(0)

        got = asyncio.run(forms.send(body or {"a": 1, "b": 2, "c": 3}, post, lambda r: r == "no", lambda r: r == "yes"))
        assert not left
        return got

    assert send("failed") == "failed" and sent == ["abc"]
    assert send("no", "no", "no") == "no" and sent[1:] == ["abc", "bc", "c"]
    assert send("no", "no", body={"b": 2}) == "no" and sent[4:] == ["b", ""]  # the second form is the first one here
    assert send("no", "yes") == "yes" and send("yes") == "yes" and sent[6:] == ["abc", "bc", "bc"]


def test_a_retry_after_may_be_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True)
    assert 28.0 <= retry_after_s(soon) <= 30.0
    assert [retry_after_s(t) for t in ("Wed, 21 Oct 2015 07:28:00 GMT", "1.5", "20ms")] == [0.0, 1.5, 0.02]
    assert [retry_after_s(t) for t in ("", "soon", "nan", "-1")] == [None] * 4
