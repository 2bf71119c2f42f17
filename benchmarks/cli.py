"""Measure the start of the light commands (--help, plan, status, why): CPU time, and the packages they import.

Goal: at most 0.35 CPU-seconds, and no heavy package loaded at exit. The CPU time is the smallest of several runs.

    python benchmarks/cli.py [runs]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from result import Result, parser

from em import config
from em.config import compose
from em.sweep import sweep

GOAL_CPU_S = 0.35
HEAVY = {"torch", "transformers", "trl", "vllm", "wandb", "pandas", "datasets", "openai", "peft", "altair"}
CELLS = ["dataset=insecure,secure", "seed=0,1"]
AT_EXIT = """
import atexit, json, os, sys
atexit.register(lambda: open(os.environ["EM_BENCH_MODULES"], "w").write(json.dumps(sorted(sys.modules))))
"""


def cpu_seconds(command, folder, **more):
    """Return user and system seconds of one run of a command. From the second run on its bytecode is compiled."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": str(folder / "pycache"), **more}
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{command} ended with {status}"
    return usage.ru_utime + usage.ru_stime


def first_run(command, folder):
    """Return (heavy packages that a command has imported when it exits, CPU-seconds)."""
    site, report = folder / "site", folder / "modules.json"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(AT_EXIT)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    seconds = cpu_seconds(command, folder, PYTHONPATH=path, EM_BENCH_MODULES=str(report))
    return sorted(HEAVY & set(json.loads(report.read_text()))), seconds


def commands(folder):
    """Plan a sweep of four cells and return title → command line, for commands that read or plan it."""
    config.register()
    planned = sweep.planned([config.load(c) for c in compose.cells([*CELLS, f"out={folder / 'out'}"])])
    return {
        "run_help": ["-m", "em.run", "--help"],
        "run_cfg_job": ["-m", "em.run", "--cfg", "job"],
        "plan": ["-m", "em.cli", "plan", *CELLS],
        "status": ["-m", "em.cli", "status", str(planned.folder)],
        "why": ["-m", "em.cli", "why", "insecure seed=1", "--out", str(folder / "out")],
    }


def main():
    options = parser(__doc__)
    options.add_argument("runs", type=int, nargs="?", default=7)
    chosen = options.parse_args()
    result, runs = Result(chosen.tiny), 0 if chosen.tiny else chosen.runs
    with tempfile.TemporaryDirectory() as name:
        folder, heavy, best = Path(name), {}, {}
        measured = commands(folder)
        for title, command in measured.items():
            heavy[title], best[title] = first_run(command, folder)
        for _ in range(runs):  # interleaved
            for title, command in measured.items():
                best[title] = min(best[title], cpu_seconds(command, folder))
    for title in measured:
        print(f"{title}: {best[title]:.3f} CPU-s, heavy modules {heavy[title] or 'none'}")
    worst, loaded = max(best.values()), sum(map(len, heavy.values()))
    result.gate("cli_heavy_modules", loaded, 0, loaded == 0)
    result.clock("cli_cpu_s", f"{worst:.3f}", f"<={GOAL_CPU_S}", worst <= GOAL_CPU_S)
    result.exit()


if __name__ == "__main__":
    main()
