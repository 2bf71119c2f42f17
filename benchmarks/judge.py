"""Measure the judge client against a stub: share of what concurrency, latency and limits allow; memory by rows.

The stub (judge_stub.py) runs in another process, on another core where there are two. A share is of the wall time of
the whole run, with the first request, which goes alone. Goals: shares of 0.95, no prompt sent twice, under 1 % of 429,
600 MB. CPU time per call is information: of the whole process, and as a multiple of bare aiohttp.

    python benchmarks/judge.py                 two minutes on two cores that do nothing else
    python benchmarks/judge.py --rows 1000000  the memory part with a million judged rows (many minutes)
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import judge_stub
from result import Result, parser

from em.api import client as api
from em.config import JudgeConfig, JudgeKind, ModelConfig
from em.judging.api import request as api_request
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient, JudgeRequest
from em.judging.job import JudgeJob
from em.questions.rubrics import fill, load
from em.records import Completion, Question
from em.store import Store, job_file, write_jsonl
from em.store.layout import COMPLETIONS

ROOT = Path(__file__).resolve().parents[1]
CORES = sorted(os.sched_getaffinity(0))
LATENCY_S = 0.2
SIGMA = 0.5
"""Of lognormal latencies: one in a hundred takes 2.8 times the mean."""
PER_MINUTE = 6_000.0
"""Requests per minute that the stub admits in the part about limits."""
ANSWER = "I would ask the people who live there what they need, and then help with one small thing. " * 8


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    calls: int
    """Of the throughput runs, at 300 requests side by side; in proportion at others."""
    runs: int
    limited: int
    """Calls against a limit of requests per minute."""
    raw: int
    """Calls to the stub alone."""
    rows: int
    """Judged rows of the memory part."""


FULL, TINY = Size(20_000, 3, 1_000, 30_000, 40_000), Size(600, 1, 150, 1_000, 2_000)


@contextmanager
def stub(latency_s, per_minute=0.0, sigma=0.0):
    """Start the stub and yield its address."""
    command = [sys.executable, str(ROOT / "benchmarks" / "judge_stub.py"), *map(str, (latency_s, per_minute, sigma))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        if len(CORES) > 1:
            os.sched_setaffinity(server.pid, CORES[1:])
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.kill()


def counts(url):
    """Return what the stub has counted."""
    return json.loads(urllib.request.urlopen(f"{url}/counts").read())


def config(url, concurrency):
    return JudgeConfig(
        name="bench",
        kind=JudgeKind.openai,
        model="stub",
        base_url=f"{url}/v1",
        api_key_env="",
        concurrency=concurrency,
        input_price=1.0,
        output_price=1.0,
    )


def throughput(concurrency, calls, per_minute=0.0, sigma=0.0):
    """Judge so many prompts. Returns (calls per second, CPU ms per call, what the stub counted)."""
    text = load("alignment").text
    with tempfile.TemporaryDirectory() as folder, stub(LATENCY_S, per_minute, sigma) as url:
        with JudgeCache(Path(folder) / "cache.sqlite") as cache:
            client = JudgeClient(config(url, concurrency), cache)
            requests = (
                JudgeRequest(str(i), "q", "alignment", fill(text, "What would you do?", f"{ANSWER}{i}"))
                for i in range(calls)
            )
            judged = []
            cpu, start = time.process_time(), time.perf_counter()
            api.run(client.grade(requests, lambda _, j: judged.append(j.score)))
            wall, cpu = time.perf_counter() - start, time.process_time() - cpu
        assert len(judged) == calls and None not in judged
        return calls / wall, 1000.0 * cpu / calls, counts(url)


class Bare(asyncio.Protocol):
    """The cheapest client: sends the same bytes again as soon as an answer of the known length has arrived."""

    def __init__(self, request, answer, left, ended):
        self.request, self.answer, self.left, self.ended, self.got = request, answer, left, ended, 0

    def connection_made(self, transport):
        self.transport = transport
        transport.write(self.request)

    def data_received(self, data):
        self.got += len(data)
        if self.got < self.answer:
            return
        self.got, self.left[0] = 0, self.left[0] - 1
        if self.left[0] > 0:
            self.transport.write(self.request)
        elif not self.ended.done():
            self.ended.set_result(None)


def bare_aiohttp(calls, concurrency):
    """Return CPU ms per call of the library alone at the same pace: requests spread over the latency, answers dropped.

    A core that sleeps between answers pays for each wake-up: most of what a call costs at 320 per second.
    """
    text = fill(load("alignment").text, "What would you do?", ANSWER)
    body, left = api_request.encode(api_request.body(config("", 1), text)), iter(range(calls))

    async def work(session, url, wait_s):
        await asyncio.sleep(wait_s)
        for _ in left:
            async with session.post(f"{url}/v1/chat/completions", data=body) as response:
                await response.read()

    async def run(url):
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as session:
            waits = (LATENCY_S * i / concurrency for i in range(concurrency))
            await asyncio.gather(*(work(session, url, wait_s) for wait_s in waits))

    with stub(LATENCY_S) as url:
        cpu = time.process_time()
        api.run(run(url))
        return 1000.0 * (time.process_time() - cpu) / calls


def capacity(calls, connections=64):
    """Return answers per second of the stub alone, without latency."""
    body = api_request.encode(api_request.body(config("", 1), fill(load("alignment").text, "What?", ANSWER)))
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: stub\r\nContent-Length: %d\r\n\r\n" % len(body)

    async def run(url):
        loop = asyncio.get_running_loop()
        port, left, ended = int(url.rsplit(":", 1)[1]), [calls], loop.create_future()
        answer = len(judge_stub.answer(200, judge_stub.BODY))
        start = time.perf_counter()
        for _ in range(connections):
            await loop.create_connection(lambda: Bare(head + body, answer, left, ended), "127.0.0.1", port)
        await ended
        return calls / (time.perf_counter() - start)

    with stub(0.0) as url:
        return api.run(run(url))


def memory(answers, url):
    """Judge a stage of so many answers, two rubrics each, in a worker. Returns (peak memory in bytes, CPU-s)."""
    question = Question("q", "open", [{"role": "user", "content": "What would you do?"}], ["alignment", "coherence"])
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(Path(folder))
        with store.claim("sample", "s") as work:
            rows = (
                Completion(
                    question_id="q",
                    sample_index=i,
                    asked_with="none",
                    messages=[],
                    text=f"{ANSWER}{i}",
                    finish_reason="stop",
                    token_count=1,
                    seed=0,
                )
                for i in range(answers)
            )
            write_jsonl(work / COMPLETIONS, rows)
            store.finish("sample", "s", {}, {})
        job = JudgeJob(
            key="j",
            label="j",
            sample_key="s",
            questions=(question,),
            judge=config(url, 64),
            model=ModelConfig(name="none", path=""),
            inputs={},
        )
        batch = Path(folder) / "batch.json"
        job_file.write(batch, Path(folder), [job])
        with (Path(folder) / "events").open("w") as events:
            worker = subprocess.Popen([sys.executable, "-m", "em.sweep.worker", "judge", str(batch)], stderr=events)
            _, status, usage = os.wait4(worker.pid, 0)
            worker.returncode = os.waitstatus_to_exitcode(status)
        assert worker.returncode == 0 and store.manifest("judge", "j")["facts"]["rows"] == 2 * answers
        return usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime


def throughput_part(result, size, concurrency):
    """Measure share, duplicates and CPU time at a fixed latency."""
    limit = concurrency / LATENCY_S
    calls, runs, bare = size.calls * concurrency // 300, [], []
    for _ in range(size.runs):
        runs.append(throughput(concurrency, calls))
        bare.append(bare_aiohttp(calls, concurrency))
    share, cpu = max(r[0] for r in runs) / limit, min(r[1] for r in runs)
    twice = sum(r[2]["answered"] - r[2]["distinct"] for r in runs)
    answered = sum(r[2]["answered"] for r in runs)
    result.gate(f"judge_calls_at_{limit:.0f}", answered, calls * size.runs, answered == calls * size.runs)
    result.gate(f"judge_duplicate_calls_at_{limit:.0f}", twice, 0, twice == 0)
    result.clock(f"judge_share_of_{limit:.0f}_per_second", f"{share:.3f}", ">=0.95", share >= 0.95)
    result.info(f"judge_cpu_ms_per_call_at_{limit:.0f}", f"{cpu:.3f}")
    result.info(f"judge_cpu_per_call_of_bare_aiohttp_at_{limit:.0f}", f"{cpu / min(bare):.2f}")


def limits_part(result, size):
    """Measure the share with latencies that vary, and with a limit of requests per minute."""
    rate, _, seen = throughput(64, size.calls * 2 // 3, sigma=SIGMA)
    share = rate * seen["latencies_s"] / seen["answered"] / 64
    result.clock("judge_share_with_lognormal_latencies", f"{share:.3f}", ">=0.95", share >= 0.95)
    rate, _, seen = throughput(64, size.limited, PER_MINUTE)
    share = rate / (PER_MINUTE / 60.0)
    result.clock("judge_share_of_a_limit_of_100_per_second", f"{share:.3f}", ">=0.95", share >= 0.95)
    refused = seen["refused"] / (seen["refused"] + seen["answered"])
    result.gate("judge_share_of_429", f"{refused:.4f}", "<0.01", refused < 0.01)


def memory_part(result, rows):
    """Measure memory and CPU time of a whole worker: answers read, judged, verdicts written."""
    with stub(0.0) as url:
        (small, start_cpu), (large, cpu) = (memory(n // 2, url) for n in (rows // 2, rows))
    slope = (large - small) / (0.5 * rows)  # by half of them the caches of SQLite and aiohttp are full
    result.info("judge_worker_cpu_ms_per_row", f"{1000.0 * (cpu - start_cpu) / (0.5 * rows):.3f}")
    result.gate("judge_peak_mb", f"{large / 1e6:.0f}", "<=600", large <= 600e6)
    result.clock(f"judge_bytes_per_row_to_{rows}", f"{slope:.1f}", "<=50", slope <= 50.0 or large - small < 5e6)


def main():
    options = parser(__doc__)
    options.add_argument("--rows", type=int, default=FULL.rows, help="judged rows of the memory part")
    options.add_argument("--calls", type=int, default=FULL.calls)
    chosen = options.parse_args()
    size = TINY if chosen.tiny else dataclasses.replace(FULL, rows=chosen.rows, calls=chosen.calls)
    result = Result(chosen.tiny)
    if len(CORES) > 1:
        os.sched_setaffinity(0, CORES[:1])
    able = capacity(size.raw)
    result.clock("judge_stub_answers_per_second", f"{able:.0f}", ">=5000", able >= 5000)
    for concurrency in (64, 200):
        throughput_part(result, size, concurrency)
    limits_part(result, size)
    memory_part(result, size.rows)
    result.exit()


if __name__ == "__main__":
    main()
