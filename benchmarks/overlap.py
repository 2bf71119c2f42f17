"""Judging beside sampling: wall of a cell by max(sampling alone, judging alone). Goal 1.10; one after the other is 2.

    python benchmarks/overlap.py

The sampler here writes real rows into a real sample stage at a steady pace (drawing costs no CPU, as on a GPU); the
judge is the worker the scheduler starts, against the stub of judge_stub.py, with a concurrency that makes both arms
take about the same time. All three are timed in one run; a worker's start-up is part of both arms with a judge.
Counters come first: every row judged, no call made twice.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from judge import ANSWER, config, counts, stub

from em import growing, job_file
from em.config import ModelConfig
from em.judge_job import JudgeJob
from em.records import Completion, Question
from em.sample import COMPLETIONS, sort_rows
from em.store import Store

ANSWERS = 1_500
SAMPLE_S = 15.0
LATENCY_S = 0.2
CONCURRENCY = 40  # 3000 calls x 0.2 s / 40 = 15 s


def draw(store):
    """Write the rows as a sampler does, spread over SAMPLE_S, and seal the stage."""
    with store.claim("sample", "s") as folder:
        rows = [Completion("q", i, "none", [], f"{ANSWER}{i}", "stop", 200, i) for i in range(ANSWERS)]
        start = time.perf_counter()
        file = growing.Rows(folder / COMPLETIONS)
        for i, row in enumerate(rows):
            time.sleep(max(0.0, start + SAMPLE_S * (i + 1) / ANSWERS - time.perf_counter()))
            file.append(row)
        file.close()
        sort_rows(folder / COMPLETIONS, [row.id for row in rows])
        store.finish("sample", "s", {}, {})


def start_judge(out, url):
    question = Question("q", "open", [{"role": "user", "content": "What would you do?"}], ["alignment", "coherence"])
    job = JudgeJob(
        key="j",
        label="j",
        sample_key="s",
        questions=(question,),
        judge=config(url, CONCURRENCY),
        model=ModelConfig(name="none", path=""),
        inputs={},
    )
    batch = out / "batch.json"
    job_file.write(batch, Path(out), [job])
    command = [sys.executable, "-m", "em.worker", "judge", str(batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def arm(kind):
    """Seconds of one arm: sample, judge or both."""
    with tempfile.TemporaryDirectory() as folder, stub(LATENCY_S) as url:
        out = Path(folder)
        store = Store.open(out)
        if kind == "judge":
            global SAMPLE_S
            pace, SAMPLE_S = SAMPLE_S, 0.0
            draw(store)
            SAMPLE_S = pace
        start = time.perf_counter()
        worker = start_judge(out, url) if kind != "sample" else None
        if kind != "judge":
            draw(store)
        if worker:
            assert worker.wait() == 0
            assert store.manifest("judge", "j")["facts"]["rows"] == 2 * ANSWERS
            seen = counts(url)
            assert seen["answered"] == seen["distinct"] == 2 * ANSWERS, seen
        return time.perf_counter() - start


def main():
    alone = {kind: arm(kind) for kind in ("sample", "judge")}
    both = arm("both")
    ratio = both / max(alone.values())
    print(f"sampling alone {alone['sample']:.1f} s, judging alone {alone['judge']:.1f} s, side by side {both:.1f} s")
    print(f"overlap {ratio:.3f} <=1.10 {'PASS' if ratio <= 1.10 else 'FAIL'}")


if __name__ == "__main__":
    main()
