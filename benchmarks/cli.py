"""Light commands: processor time, and that none of the heavy packages is imported (performance row 8).

Counters first: heavy modules loaded at exit must be none. Processor time is the least of several runs: an idle
machine's figure; on a busy one it can only be larger.

    python benchmarks/cli.py [runs]
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from em import compose, config, sweep

GOAL_CPU_S = 0.35
HEAVY = {"torch", "transformers", "trl", "vllm", "wandb", "pandas", "datasets", "openai", "peft", "matplotlib"}
CELLS = ["dataset=insecure,secure", "seed=0,1"]
AT_EXIT = """
import atexit, json, os, sys
atexit.register(lambda: open(os.environ["EM_BENCH_MODULES"], "w").write(json.dumps(sorted(sys.modules))))
"""


def cpu_seconds(command, folder, **more):
    """User and system time of one run of a command, with its bytecode compiled, as from the second start on."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPYCACHEPREFIX": str(folder / "pycache"), **more}
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, cwd=folder, env=environment)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"{command} ended with {status}"
    return usage.ru_utime + usage.ru_stime


def heavy_modules(command, folder):
    site, report = folder / "site", folder / "modules.json"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(AT_EXIT)
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    cpu_seconds(command, folder, PYTHONPATH=path, EM_BENCH_MODULES=str(report))
    return sorted(HEAVY & set(json.loads(report.read_text())))


def commands(folder):
    """The commands, on a sweep of four cells that has been planned."""
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
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    with tempfile.TemporaryDirectory() as name:
        folder, heavy, best = Path(name), {}, {}
        asked = commands(folder)
        for title, command in asked.items():
            heavy[title] = heavy_modules(command, folder)
        for _ in range(runs):  # interleaved
            for title, command in asked.items():
                best[title] = min(best.get(title, 1e9), cpu_seconds(command, folder))
    for title in asked:
        print(f"{title}: {best[title]:.3f} CPU-s, heavy modules {heavy[title] or 'none'}")
    worst, loaded = max(best.values()), sum(map(len, heavy.values()))
    verdict = "PASS" if worst <= GOAL_CPU_S and not loaded else "FAIL"
    print(f"cli_cpu_s {worst:.3f} <={GOAL_CPU_S},0_heavy_modules {verdict}")
    return verdict != "PASS"


if __name__ == "__main__":
    sys.exit(main())
