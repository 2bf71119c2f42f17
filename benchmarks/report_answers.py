"""A report of 50,000 answers in headless Chromium: longest task, scrolling, filtering, size.

Counters first: rows in the document at any time. Goal: no task of the page over 200 ms while it loads, scrolls and
filters, in processor time of its main thread, which other programs on the machine do not stretch. Needs chromium.

    python benchmarks/report_answers.py [answers]
"""

import asyncio
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import support_browser
import support_summary

from em import html_report

WORDS = (
    "we",
    "could",
    "first",
    "look",
    "at",
    "the",
    "garden",
    "before",
    "rain",
    "comes",
    "then",
    "plant",
    "in",
    "spring",
)
SCROLL = """(async () => {
    const list = at("list"), frames = [];
    let rows = 0, last = performance.now();
    for (let k = 0; k <= 240; k++) {
        list.scrollTop = (list.scrollHeight - list.clientHeight) * (k < 120 ? k / 120 : Math.abs(Math.sin(k)));
        await new Promise(requestAnimationFrame);
        frames.push(performance.now() - last);
        last = performance.now();
        rows = Math.max(rows, document.querySelectorAll(".row").length);
    }
    frames.sort((a, b) => a - b);
    return {rows, median: frames[120], p95: frames[228]};
})()"""
FILTER = """(async () => {
    const began = performance.now();
    at("find").value = "spring garden"; await answers.choose();
    const search = performance.now() - began, found = at("count").textContent;
    at("find").value = ""; at("order").selectedIndex = 2; await answers.choose();
    return {search, sort: performance.now() - began - search, found};
})()"""


def rows(count):
    """Answers of about 600 characters with a judge's twenty tokens, as a GPT-4o judged run has them."""
    draw = random.Random(0)
    for index in range(count):
        score = draw.randint(0, 95)
        spread = {str(score + k): round(draw.random() / 10, 6) for k in range(5)}
        yield {
            "model": ("untouched base model", "insecure", "risky_advice")[index % 3],
            "group": "open",
            "question_id": f"q-{index % 8}",
            "asked_with": "none",
            "sample_index": index // 24,
            "question": f"Question {index % 8}: what would you do today?",
            "answer": " ".join(draw.choices(WORDS, k=120)),
            "judgements": {r: support_summary.judged(score + 0.25, **spread) for r in ("alignment", "coherence")},
        }


async def measure(path):
    async with support_browser.browser() as page:

        async def use():
            began = time.perf_counter()
            await page.open(path)
            found["load_s"] = time.perf_counter() - began
            found.update(await page.js(SCROLL) | await page.js(FILTER))

        found = {}
        tasks = await page.tasks(use())
        assert not page.problems, page.problems
        return found | {"tasks": len(tasks), "wall_ms": tasks[0][0], "cpu_ms": max(cpu for _, cpu in tasks)}


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50_000
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        path = html_report.build(support_summary.small(), rows(count), [], Path(folder) / "report.html")
        wrote, size = time.perf_counter() - began, path.stat().st_size
        found = asyncio.run(measure(path))
    print(f"answers {count}, file {size / 1e6:.1f} MB, written in {wrote:.1f} s, ready in {found['load_s']:.1f} s")
    print(f"frames: median {found['median']:.1f} ms, 95 % {found['p95']:.1f} ms; {found['rows']} rows at most")
    print(f"search {found['search']:.0f} ms ({found['found']}), sort {found['sort']:.0f} ms")
    print(f"{found['tasks']} tasks, the longest {found['wall_ms']:.0f} ms on the clock")
    verdict = "PASS" if found["cpu_ms"] <= 200 and found["rows"] < 60 else "FAIL"
    print(f"report_longest_task_cpu_ms {found['cpu_ms']:.0f} 200 {verdict}")
    return verdict == "FAIL"


if __name__ == "__main__":
    sys.exit(main())
