"""The transformers engine: its batches, and defaults of a model that it must not use."""

import dataclasses
import json
import shutil

from em.config import Engine
from em.models.paths import model_path
from em.sampling.engines.hf import HfSampler
from em.store import Store
from support.sampling import ASKED, answers, ask, model_config, rows, run_jobs, sample_config, sample_job, spoken
from support.training import EOS, failures


def test_hf_uses_no_sampling_default_of_the_model(hf_engine, tokenizer, adapters, tmp_path):
    """Qwen2.5's generation_config.json has a repetition penalty and top_k 20; vLLM in the worker uses neither."""
    shutil.copytree(model_path("asset:tiny_random"), tmp_path / "model")
    defaults = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 1, "top_k": 1, "min_p": 0.9, "eos_token_id": EOS}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(defaults))
    with_defaults = HfSampler(dataclasses.replace(model_config(), path=str(tmp_path / "model")), sample_config())
    for how in ({}, {"temperature": 1.0}):
        asked = [ask(tokenizer, text, adapters[name], **how) for name in (None, "strong") for text in ASKED]
        assert answers(with_defaults, asked) == answers(hf_engine, asked)


def test_hf_rows_have_their_own_length_limit(hf_engine, tokenizer, expected):
    """A batch holds prompts of different lengths, so of different room."""
    rows = [ask(tokenizer, ASKED[0], max_tokens=3), ask(tokenizer, ASKED[0], max_tokens=12)]
    for order in (rows, rows[::-1]):
        for row, answer in zip(order, answers(hf_engine, order), strict=True):
            assert answer.token_count == row.max_tokens
            wanted = spoken(tokenizer, expected[None, ASKED[0]][: row.max_tokens])
            assert answer.text.rstrip("\ufffd") == wanted.rstrip("\ufffd")


def test_hf_rows_of_other_temperatures_are_other_batches(hf_engine, tokenizer):
    """A sweep over sample.temperature asks one engine; a batch has one temperature."""
    rows = [ask(tokenizer, ASKED[0], temperature=t, seed=1, index=i) for i, t in enumerate((0.0, 1.0))]
    together = answers(hf_engine, rows)
    assert together == [answers(hf_engine, [row])[0] for row in rows]
    assert together[0].text != together[1].text


def test_hf_stage_gives_the_same_rows_twice(hf_engine, tmp_path, monkeypatch):
    found = []
    for name in ("a", "b"):
        target = Store.open(tmp_path / name)
        assert not failures(run_jobs(target, [sample_job(hi=4, engine=Engine.hf)], hf_engine, monkeypatch))
        found.append(rows(target))
    assert found[0] == found[1]
    assert len({r["text"] for r in found[0]}) > 4
