"""What runs on the nodes of the test cluster where no model is needed: jobs that count, and save when they are asked.

Imported on the node too, so it needs nothing of pytest.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from em.runtime.preempt import Preempted, raise_on_stop
from em.slurm import requeued


@dataclass(frozen=True)
class Counting:
    """Counts to `until`, ten a second, one line a step and run; what it has counted survives its being stopped."""

    folder: str
    name: str
    until: int
    save_s: float = 0.0
    """How long saving takes after the request to stop."""
    more: int | None = None
    """Steps after it was put back into the queue, instead of those up to `until`."""

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"{self.name}.jsonl"

    def steps(self) -> list[dict]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return [json.loads(line) for line in lines]

    def __call__(self) -> None:
        requeued(self.count)

    def checkpoint(self):
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def count(self) -> None:
        restarts = int(os.environ.get("SLURM_RESTART_COUNT", 0))
        seen = {"run": restarts, "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "")}
        with self.path.open("a") as file, raise_on_stop():
            try:
                first = len(self.steps())
                last = first + self.more if restarts and self.more is not None else self.until
                for step in range(first, last):
                    file.write(json.dumps({"step": step, **seen}) + "\n")
                    file.flush()
                    time.sleep(0.1)
            except Preempted:
                time.sleep(self.save_s)
                (Path(self.folder) / f"{self.name}.saved").touch()
                raise
