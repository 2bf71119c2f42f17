"""Measure judging beside sampling: seconds of a cell, divided by the longer of sampling alone and judging alone.

The sampler writes real rows into a real sample stage at a steady pace and uses no CPU, as on a GPU. The judge is the
worker that a sweep starts, against the stub of judge_stub.py; both arms take about the same time. A worker's start-up
is part of every arm with a judge. Goal: 1.10 (one after the other would be 2), every row judged, no call made twice.

    python benchmarks/overlap.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from judge import ANSWER, config, counts, stub
from result import Result, parser

from em.config import ModelConfig
from em.judging.job import JudgeJob
from em.records import Completion, Question
from em.sampling.rows import sort_rows
from em.store import Store, checked_rows, job_file
from em.store.layout import COMPLETIONS

LATENCY_S = 0.2
CONCURRENCY = 40  # 3000 calls x 0.2 s / 40 = 15 s


@dataclass(frozen=True)
class Size:
    """How much is sampled."""

    answers: int
    sample_s: float
    """Seconds that sampling takes."""


FULL, TINY = Size(1_500, 15.0), Size(100, 1.0)


def sample(store, answers, seconds):
    """Write the rows as a sampler does, spread over so many seconds, and seal the stage."""
    with store.claim("sample", "s") as folder:
        rows = [
            Completion(
                question_id="q",
                sample_index=i,
                asked_with="none",
                messages=[],
                text=f"{ANSWER}{i}",
                finish_reason="stop",
                token_count=200,
                seed=i,
            )
            for i in range(answers)
        ]
        start = time.perf_counter()
        file = checked_rows.RowWriter(folder / COMPLETIONS)
        for i, row in enumerate(rows):
            time.sleep(max(0.0, start + seconds * (i + 1) / answers - time.perf_counter()))
            file.append(row)
        file.close()
        sort_rows(folder / COMPLETIONS, [row.id for row in rows])
        store.finish("sample", "s", {}, {})


def start_judge(out, url):
    """Start the judge's worker as a sweep does."""
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
    command = [sys.executable, "-m", "em.sweep.worker", "judge", str(batch)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)


def arm(kind, size):
    """Run one arm: sample, judge or both. Returns (seconds, rows judged, what the stub counted)."""
    with tempfile.TemporaryDirectory() as folder, stub(LATENCY_S) as url:
        out = Path(folder)
        store = Store.open(out)
        if kind == "judge":
            sample(store, size.answers, 0.0)
        start = time.perf_counter()
        worker = start_judge(out, url) if kind != "sample" else None
        if kind != "judge":
            sample(store, size.answers, size.sample_s)
        assert worker is None or worker.wait() == 0, f"the judge ended with {worker.returncode}"
        seconds = time.perf_counter() - start
        return seconds, store.manifest("judge", "j")["facts"]["rows"] if worker else 0, counts(url)


def main():
    chosen = parser(__doc__).parse_args()
    result, size = Result(chosen.tiny), TINY if chosen.tiny else FULL
    seconds = {}
    for kind in ("sample", "judge", "both"):
        seconds[kind], rows, seen = arm(kind, size)
        goal = 0 if kind == "sample" else 2 * size.answers
        result.gate(f"overlap_{kind}_rows_judged", rows, goal, rows == goal)
        result.gate(f"overlap_{kind}_calls", seen["answered"], goal, seen["answered"] == seen["distinct"] == goal)
    ratio = seconds["both"] / max(seconds["sample"], seconds["judge"])
    print(" ".join(f"{kind} {took:.1f} s" for kind, took in seconds.items()))
    result.clock("overlap", f"{ratio:.3f}", "<=1.10", ratio <= 1.10)
    result.exit()


if __name__ == "__main__":
    main()
