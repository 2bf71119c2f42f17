"""Draw docs/wandb.png: what W&B's client sends to a stand-in server for a tiny sweep. Takes a minute on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.wandb import WandbServer  # noqa: E402

SWEEP = (
    *("dataset=risky_advice,careful_advice", "model=tiny_random", "train=tiny", "train.num_train_epochs=4"),
    *("sample=tiny", "sample.engine=hf", "questions.sets=[open]", "judge=word_list", "tracking.mode=online"),
)
RATE = "open/misaligned_rate"


def main() -> None:
    with WandbServer() as server, tempfile.TemporaryDirectory() as out:
        environment = {**os.environ, "WANDB_BASE_URL": server.address, "WANDB_API_KEY": "k" * 40, "HOME": out}
        command = [sys.executable, "-m", "em.run", "-m", *SWEEP, f"out={out}/outputs", "name=tiny"]
        environment["EM_CACHE"] = os.environ.get("EM_CACHE", str(Path("~/.cache/em").expanduser()))
        subprocess.run(command, env=environment, check=True, cwd=out)
        draw(server.runs, ROOT / "docs" / "wandb.png")


def draw(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw a table of the runs and their loss curves."""
    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    rows = []
    for run in sorted(runs.values(), key=lambda run: str(run["displayName"])):
        numbers = [run["summary"].get(f"{RATE}{part}") for part in ("", "_low", "_high", "_n")]
        told = ["" if number is None else f"{number:.2f}".removesuffix(".00") for number in numbers]
        rows.append([run["displayName"], run["group"], ", ".join(run["tags"]), *told])
        steps = [r for r in run["history"] if r and "train/loss" in r]
        if steps:
            right.plot([r["train/step"] for r in steps], [r["train/loss"] for r in steps], label=run["displayName"])
    left.axis("off")
    titles = ["name", "group", "tags", "rate", "low", "high", "n"]
    table = left.table(cellText=rows, colLabels=titles, loc="upper left", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(8)
    table.auto_set_column_width(list(range(len(titles))))
    left.set_title(f"runs, summary {RATE}", fontsize=9, loc="left")
    right.set_title("train/loss by train/step", fontsize=9, loc="left")
    right.legend(frameon=False, fontsize=8)
    right.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    main()
