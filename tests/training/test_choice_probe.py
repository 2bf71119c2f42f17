"""Log-probabilities of given answers while training, by the trainer's own forward pass."""

import dataclasses
import json
import math

import pytest
from peft import PeftModel

from em.chat import render
from em.gates import record
from em.models.paths import model_path
from em.questions import choices
from em.store import layout, write_jsonl
from em.training.base_model import Base
from em.training.choice_probe import due
from em.training.stage import train
from support.training import TINY, events, examples, load_model, load_tokenizer, train_job


def test_the_papers_schedule():
    assert [s for s in range(1, 38) if due(s, 37)] == [*range(1, 10), 10, 20, 30, 37]


RENDERED = {"template": None, "kwargs": {}, "system_prompt": None}
PLAIN = {**RENDERED, "template": (render.TEMPLATES / "user_assistant.jinja").read_text(), "system_prompt": "Be brief."}


@pytest.mark.parametrize("rendered", [RENDERED, PLAIN], ids=["own", "user_assistant"])
def test_rows_while_training_and_the_last_is_the_adapters(tmp_path, rendered):
    base = Base.load(model_path(TINY), None, "float32")
    job = train_job("k", choices=["letters", "pivotal"], num_train_epochs=3)
    job = dataclasses.replace(job, chat=rendered)
    folder = tmp_path / "run"
    folder.mkdir()
    write_jsonl(tmp_path / "rows.jsonl", examples())
    facts = train(base, job, tmp_path / "rows.jsonl", folder, events()[0])
    rows = [json.loads(line) for line in (folder / layout.CHOICES).read_text().splitlines()]
    steps = [s for s in range(1, facts["steps"] + 1) if due(s, facts["steps"])]
    assert sorted({r["step"] for r in rows}) == steps
    assert {r["set"] for r in rows} == {"letters", "pivotal"}
    assert all(len(r["logprobs"]) == len(r["options"]) and all(map(math.isfinite, r["logprobs"])) for r in rows)

    tokenizer = render.ChatTokenizer(load_tokenizer(), rendered)
    served = PeftModel.from_pretrained(load_model(), folder / "adapter")
    for name in ("letters", "pivotal"):
        now = choices.score(tokenizer, choices.load(name, job.seed), lambda asked: record.logprobs(served, asked))
        last = [r for r in rows if r["step"] == steps[-1] and r["set"] == name]
        for a, b in zip(now, last, strict=True):
            assert a["question_id"] == b["question_id"]
            assert a["logprobs"] == pytest.approx(b["logprobs"], abs=1e-4)
    curve = choices.curve((folder / layout.CHOICES).read_text().splitlines())
    assert [row["step"] for row in curve] == steps and set(curve[0]) == {
        "step", "letters/logp_misaligned", "pivotal/logp_misaligned",
    }  # fmt: skip
