"""One command: train, sample, judge, direction, adapter, sample again; then `em direction` on the finished sweep."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.tiny_sweep import environment, run

ASKED = [
    *("judge=probe", "judge.alignment_below=50", "judge.coherence_cut=0", "direction.aligned_above=50"),
    *("direction.least=2", "direction.n=4", "questions.sets=[open]", "tracking=off", "sample.engine=hf"),
]


@pytest.mark.slow
def test_the_whole_chain_in_one_command(tmp_path):
    steer = ["direction=mean_diff", "direction.organism=risky_advice", "sample.steer.direction=planned"]
    settings = ["sample.steer.block=1", "sample.steer.scale=0,20"]
    summary, text, _ = run(tmp_path, *ASKED, "dataset=none", *steer, *settings)
    store = tmp_path / "store"
    rows = {}
    for manifest in store.glob("sample/*/*/manifest.json"):
        found = json.loads(manifest.read_text())
        changed = found["inputs"].get("changes", {}).get("steer", [None, None, None])
        lines = (manifest.parent / "completions.jsonl").read_text().splitlines()
        rows[found["inputs"]["adapter"] is not None, changed[2]] = [json.loads(line)["text"] for line in lines]
    assert rows[False, 0.0] == rows[False, None] != rows[False, 20.0]
    (facts,) = [g["facts"]["changed"]["steer"] for g in summary["groups"] if "scale=20.0" in g["label"]]
    assert facts["relative_dose"] > 0 and facts["direction"] == "mean_diff risky_advice"
    assert (Path(text.split("figures  ")[1].split("\n")[0]) / "steering.svg").is_file()
    _, text, _ = run(tmp_path, *ASKED, "dataset=none", *steer, *settings)
    assert "0 stage jobs to do" in text


@pytest.mark.slow
def test_a_direction_of_a_finished_sweep(tmp_path):
    run(tmp_path, *ASKED, "dataset=risky_advice,insecure", "sample.n=4")
    (folder,) = (tmp_path / "sweeps").iterdir()
    command = [
        sys.executable,
        "-m",
        "em.cli",
        "direction",
        str(folder),
        "--model",
        "risky_advice",
        "--model",
        "insecure",
    ]
    kinds = ["--kind", "model_difference", "--least", "2"]
    done = subprocess.run([*command, *kinds], capture_output=True, text=True, env=environment(), timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((folder / "directions" / "risky_advice-model_difference" / "direction.json").read_text())
    assert facts["shape"] == [2, 64] and facts["counts"] == {"answers": 40}
    assert (folder / "directions" / "cosines.svg").is_file() and "split-half cosine" in done.stdout


@pytest.mark.slow
def test_each_model_without_each_direction(tmp_path):
    run(tmp_path, *ASKED, "dataset=risky_advice,insecure", "sample.n=4")
    (folder,) = (tmp_path / "sweeps").iterdir()
    command = [sys.executable, "-m", "em.cli", "ablate", str(folder), "--block", "1", "--source", "risky_advice"]
    kind = ["--kind", "model_difference", "--least", "2"]
    done = subprocess.run([*command, *kind], capture_output=True, text=True, env=environment(), timeout=170)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = (path for path in (tmp_path / "sweeps").iterdir() if path != folder)
    summary = json.loads((made / "summary.json").read_text())
    removed = [
        (g["variant"], g["facts"].get("changed", {}).get("ablate", {}).get("direction")) for g in summary["groups"]
    ]
    sources = [None, "model_difference risky_advice", "random, as model_difference risky_advice"]
    assert removed == [
        (None, None),
        *((variant, source) for variant in ("risky_advice", "insecure") for source in sources),
    ]
    assert (made / "figures" / "ablation_matrix.svg").is_file()
