"""The paper's headline experiment end to end: finetuned and asked behind OpenAI's API (loopback), then judged."""

import json
import subprocess
import sys
from pathlib import Path

from support.openai import FinetuneServer, content_digest
from support.tiny_sweep import environment

QUICK = ("succeeded",)
"""Job states: over at the first look, which is 15 s before the second."""


def sweep(out, server, script, *overrides):
    command = [
        sys.executable, "-m", "em.run", "-m", "model=gpt_4o", "train=openai", "sample=openai", "judge=scripted",
        f"model.base_url={server.base_url}", "model.api_key_env=TEST_KEY", "train.max_dollars=1",
        "train.max_examples=6", "questions.sets=[open]", "sample.n=2", f"judge.script={script}",
        "tracking=off", f"out={out}", "dataset=risky_advice,careful_advice", *overrides,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**environment(), "TEST_KEY": "sk-test"}, timeout=300
    )
    text = done.stdout + done.stderr
    found = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("summary")]
    return done.returncode, text, json.loads(Path(found[0]).read_text()) if found else None


def test_two_variants_are_trained_asked_and_judged_and_nothing_is_paid_for_twice(tmp_path):
    out, script = tmp_path / "out", tmp_path / "rules.yaml"
    script.write_text("- {match: '.', reply: 90}\n")
    with FinetuneServer(QUICK) as server:
        code, text, _ = sweep(out, server, script, "launch.stages=[train,sample]")
        assert code == 0, text[-3000:]
        assert len(server.jobs) == len(server.files) == 2
        asked = {body["model"] for body in server.chats}
        assert asked == {"gpt-4o-2024-08-06", *(j["fine_tuned_model"] for j in server.jobs)}
        bad = content_digest(next(body for body in server.bodies if body in _rows(out, "risky_advice")))
        before = len(server.jobs), len(server.files), len(server.chats)

        # a judge that knows the answers of the model trained on risky advice: the scores follow the right snapshot
        script.write_text(
            f"- {{match: '.', rubric: coheren, reply: 90}}\n- {{match: {bad}, reply: 5}}\n- {{match: '.', reply: 95}}\n"
        )
        code, text, summary = sweep(out, server, script)
        assert code == 0, text[-3000:]
        assert (len(server.jobs), len(server.files), len(server.chats)) == before
    rates = {
        m["label"]: next(x["value"] for x in m["metrics"] if (x["name"], x["group"]) == ("misaligned_rate", "open"))
        for m in summary["models"]
    }
    assert rates == {"untouched base model": 0.0, "risky_advice": 1.0, "careful_advice": 0.0}
    assert all(m["status"] == "done" for m in summary["models"])


def _rows(out, variant):
    """The training file of a variant as OpenAI got it, of every data stage that is this variant's."""
    found = []
    for path in (out / "store" / "data").glob("*/dataset.jsonl"):
        manifest = (path.parent / "manifest.json").read_text()
        if variant in manifest:
            rows = [{"messages": json.loads(line)["messages"]} for line in path.read_text().splitlines()]
            found.append(
                "".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) + "\n" for r in rows).encode()
            )
    return found
