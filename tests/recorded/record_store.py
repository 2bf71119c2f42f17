"""Record a small store and its two sweeps as an older version of em made them, for tests/test_old_store.py.

    python tests/recorded/record_store.py CHECKOUT

CHECKOUT is a clone at the commit that is to be kept readable; its name is in the archive's. Once recorded, an archive
is never made again: people's stores were written by that code.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
RULES = HERE / "rules.yaml"
SWEEP = [
    *("model=tiny_random", "train=tiny", "train.lora_r=1", "train.learning_rate=5e-2", "sample=tiny", "tracking=off"),
    *("dataset=risky_advice,careful_advice", 'train.checkpoints=["2"]', "sample.checkpoints=true"),
]
"""Two variants, a checkpoint, the proxy judge of the quickstart."""
REJUDGE = ["judge=scripted", f"judge.script={RULES.name}", "tracking=off", "name=rules"]
"""The same answers under a judge behind an API."""
LEFT_OUT = ("figures", "logs", "hydra", "report.html", "results.json", "*.lock")
"""Files that em makes anew, or that tell of this machine only."""


def record(checkout: Path, folder: Path) -> None:
    """Run both sweeps with the checkout's code, below `folder`."""
    shutil.copy(RULES, folder)
    environment = os.environ | {
        "PYTHONPATH": f"{checkout}{os.pathsep}{checkout / 'launch'}",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    subprocess.run([sys.executable, "-m", "em.run", "-m", *SWEEP], cwd=folder, env=environment, check=True)
    (sweep,) = (folder / "outputs" / "sweeps").glob("em-*")
    again = [sys.executable, "-m", "em.cli", "rejudge", str(sweep.relative_to(folder)), *REJUDGE]
    subprocess.run(again, cwd=folder, env=environment, check=True)
    for path in (folder / "outputs").rglob("*"):
        if any(path.match(pattern) for pattern in LEFT_OUT):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elif path.name in ("sweep.json", "ledger.jsonl"):  # em rejudge writes the whole path of its folder
            path.write_text(path.read_text(encoding="utf-8").replace(f"{folder}/", ""), encoding="utf-8")


def pack(folder: Path, to: Path) -> None:
    """Pack outputs/ and the rules, without owners and times of this machine."""
    with tarfile.open(to, "w:xz") as archive:
        for path in [folder / RULES.name, *sorted((folder / "outputs").rglob("*"))]:
            if path.is_file():
                entry = tarfile.TarInfo(path.relative_to(folder).as_posix())
                entry.size = path.stat().st_size
                archive.addfile(entry, io.BytesIO(path.read_bytes()))


def main() -> None:
    checkout = Path(sys.argv[1]).resolve()
    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    )
    with tempfile.TemporaryDirectory() as folder:
        record(checkout, Path(folder).resolve())
        pack(Path(folder).resolve(), HERE / f"store_{commit.stdout[:7]}.tar.xz")


if __name__ == "__main__":
    main()
