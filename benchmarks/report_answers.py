"""Measure a report of 50,000 answers in headless Chromium while it loads, scrolls, searches and sorts.

Goal: no task of the page's main thread takes over 200 ms of CPU time (other programs do not change CPU time), and fewer
than 60 rows are in the document at any time. Needs chromium.

    python benchmarks/report_answers.py [answers]
"""

import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from result import Result, exit_unseen, parser

from em.reporting import page as reporting_page
from support import browser, summary

TEXT = "we could first look at the garden before rain comes then plant in spring"
SEARCH = "spring garden"
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
    at("find").value = "SEARCH"; await answers.choose();
    const search = performance.now() - began, found = at("count").textContent;
    at("find").value = ""; at("order").selectedIndex = 3; await answers.choose();
    return {search, sort: performance.now() - began - search, found};
})()""".replace("SEARCH", SEARCH)


def rows(count):
    """Yield answers of about 600 characters with the tokens of two judges, as a run judged by GPT-4o has them."""
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
            "answer": " ".join(draw.choices(TEXT.split(), k=120)),
            "judgements": {r: summary.judged(score + 0.25, **spread) for r in ("alignment", "coherence")},
        }


async def measure(path):
    """Use the report in a browser. Returns what was found, with the longest task in milliseconds."""
    async with browser.browser() as page:

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
    options = parser(__doc__)
    options.add_argument("answers", type=int, nargs="?", default=50_000)
    chosen = options.parse_args()
    result, count = Result(chosen.tiny), 1_000 if chosen.tiny else chosen.answers
    if chosen.tiny and not shutil.which("chromium"):
        exit_unseen("report_answers", "chromium is not installed")
    matching = sum(SEARCH in row["answer"] for row in rows(count))
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        path = reporting_page.build(summary.small(), rows(count), [], Path(folder) / "report.html")
        wrote, size = time.perf_counter() - began, path.stat().st_size
        found = asyncio.run(measure(path))
    print(f"answers {count}, file {size / 1e6:.1f} MB, written in {wrote:.1f} s, ready in {found['load_s']:.1f} s")
    print(f"frames: median {found['median']:.1f} ms, 95 % {found['p95']:.1f} ms")
    print(f"search {found['search']:.0f} ms, sort {found['sort']:.0f} ms")
    print(f"{found['tasks']} tasks, the longest {found['wall_ms']:.0f} ms on the clock")
    shown = found["found"].split()[0].replace(",", "")
    result.gate("report_rows_found", shown, matching, shown == str(matching))
    result.gate("report_rows_in_document", found["rows"], "<60", 0 < found["rows"] < 60)
    result.clock("report_longest_task_cpu_ms", f"{found['cpu_ms']:.0f}", "<=200", found["cpu_ms"] <= 200)
    result.exit()


if __name__ == "__main__":
    main()
