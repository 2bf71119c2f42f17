"""Logs jobs as the sweep does: in a worker process."""

import json
import os
import subprocess
import sys

from em.store import job_file


def work(tmp_path, jobs, **environment):
    """Log jobs as the sweep does: in a worker process. Returns its events."""
    batch = tmp_path / "batch.json"
    job_file.write(batch, tmp_path, jobs)
    quiet = {"WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "em.sweep.worker", "track", str(batch)],
        env={k: v for k, v in os.environ.items() if not k.startswith("WANDB")} | quiet | environment,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith('{"event"')]
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in lines]
