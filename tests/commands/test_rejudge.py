"""`em rejudge` of a finished sweep."""

import json
import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_a_finished_sweep_is_judged_again_without_a_model(tmp_path, rules):
    """Real sampling once; then another judge over the same answers: no model is loaded, no engine started."""
    tiny = ["model=tiny_random", "train=tiny", "sample=tiny", "sample.engine=hf", "questions.sets=[open]"]
    first = rules([{"match": "", "reply": 90}])
    more = ["tracking=off", "judge=scripted", f"judge.script={first}", f"out={tmp_path / 'out'}"]
    done = subprocess.run([sys.executable, "-m", "em.run", *tiny, *more], capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    (folder,) = (tmp_path / "out" / "sweeps").iterdir()
    second = rules([{"match": "", "rubric": "How well", "reply": 5}, {"match": "", "reply": 90}], "second.yaml")
    command = [sys.executable, "-m", "em.cli", "rejudge", str(folder), "judge=scripted", f"judge.script={second}"]
    for other in ("sample.n=1", "out=elsewhere", "+dataset=secure"):
        done = subprocess.run([*command, other], capture_output=True, text=True, timeout=500)
        assert done.returncode and f"not of {re.split('[=.]', other.lstrip('+'))[0]}: everything else" in done.stderr
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-2000:]
    (new,) = set((tmp_path / "out" / "sweeps").iterdir()) - {folder}
    before, after = (json.loads((f / "summary.json").read_text()) for f in (folder, new))
    assert (after["counters"]["model_loads"], after["counters"]["engine_starts"]) == (0, 0)
    rates = [m["value"] for s in (before, after) for m in s["models"][1]["metrics"] if m["name"] == "misaligned_rate"]
    assert rates[0] == 0.0 and rates[-1] == 1.0
    assert "judges scripted / scripted" in done.stdout and "same verdict: 0.0 %" in done.stdout
