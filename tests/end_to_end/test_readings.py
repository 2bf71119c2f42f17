"""The commands that read the models of a finished sweep: direction, monitor, lens, scalars, stability, as typed."""

import csv
import subprocess
import sys

import pytest

from support.tiny_sweep import environment, run

JUDGED = ("judge=probe", "judge.alignment_below=50", "judge.coherence_cut=0", "tracking=off", "sample.engine=hf")
ALIGNED = "direction.aligned_above=50"
RANK1 = ("train.lora_r=1", "train.target_modules=[down_proj]", "train.checkpoints=[1]", "sample.checkpoints=true")


def em(*words):
    """What a command prints."""
    command = [sys.executable, "-m", "em.cli", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(path):
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_what_reads_a_finished_sweep(tmp_path):
    run(tmp_path, *JUDGED, *RANK1, ALIGNED, "questions.sets=[open]", "dataset=risky_advice", "sample.n=4")
    (sweep,) = (tmp_path / "sweeps").iterdir()
    model = ("--model", "risky_advice")
    em("direction", sweep, *model, "--kind", "model_difference", "--least", 2)
    direction = sweep / "directions" / "risky_advice-model_difference"

    told = em("monitor", sweep, *model, "--direction", direction, "--block", 0)
    (folder,) = (sweep / "monitor").glob("*/risky_advice-model_difference/block-0")
    points = table(folder / "points.csv")
    shift = {(int(p["step"]), int(p["block"])): float(p["value"]) for p in points if p["measure"].startswith("shift")}
    last = max(step for step, _ in shift)
    assert {step for step, _ in shift} == {0, 1, last} and last > 1
    assert shift[0, 0] == shift[0, 1] == 0.0 and shift[last, 1] != 0.0
    assert {int(p["step"]) for p in points if p["measure"].startswith("projection")} == {0, 1, last}
    assert (folder / "monitor.svg").is_file() and f"step {last:5}" in told

    em("lens", sweep, *model, "--block", 1, "--positions", 2, "--top", 3)
    (folder,) = (sweep / "lens").glob("*/block-1_first-2_top-3")
    tokens = table(folder / "tokens.csv")
    assert len(tokens) == 6 and all(float(t["length"]) > 0 for t in tokens) and (folder / "lens.svg").is_file()

    em("scalars", sweep, *model, "--most", 3)
    (folder,) = (sweep / "scalars").glob("*/most-3")
    rows = table(folder / "tokens.csv")
    assert {r["module"] for r in rows} == {"0.mlp.down_proj", "1.mlp.down_proj"}
    assert {r["side"] for r in rows} == {"misaligned", "aligned"} and len({r["id"] for r in rows}) <= 6
    assert (folder / "tokens.html").read_text().count("<h2>") == len({r["id"] for r in rows})

    em("stability", sweep, *model, "--rows", 4, "--seeds", 1)
    (folder,) = (sweep / "stability").glob("models-*_rows-4_seeds-1")
    losses = table(folder / "losses.csv")
    plain = {r["loss"] for r in losses if (r["kind"], float(r["at"])) in (("noise", 0.0), ("length", 1.0))}
    assert len({round(float(x), 5) for x in plain}) == 1 and len(losses) == 11 + 1 + 8
