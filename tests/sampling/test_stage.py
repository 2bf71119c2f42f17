"""The sample stage: several jobs in one queue, broken engines, kills, checkpoints and whole models."""

import dataclasses
import shutil

from em.config import Engine
from em.config.train import Method
from em.records import Example
from em.sampling import stage as sampling
from em.sampling.engine import Answer, row_seed
from em.store import Store
from em.store.layout import ADAPTER
from em.training.stage import work as train_work
from support.sampling import ASKED, QUESTIONS, RANK, SENTENCE, Scripted, rows, run_jobs, sample_job, trained_stage
from support.training import assistant, counted, events, failures, put_data, train_job, user


def test_answers_of_several_jobs_reach_their_own_stage(tmp_path, monkeypatch, adapters):
    store, sampler = Store.open(tmp_path), Scripted(["x", "y"])
    trained = trained_stage(store, "strong", adapters)
    jobs = [sample_job("tuned", "strong", hi=3), sample_job("base", hi=2), sample_job("more", lo=2, hi=4)]
    seen = run_jobs(store, jobs, sampler, monkeypatch)
    assert {e["job"] for e in seen if e["event"] == "done"} == {"tuned", "base", "more"}
    assert store.manifest("sample", "tuned")["facts"]["prompts"]["training"] == trained
    assert [r["sample_index"] for r in rows(store, "tuned")] == [0, 1, 2] * 2
    assert [r["sample_index"] for r in rows(store, "base")] == [0, 1] * 2
    assert [r["sample_index"] for r in rows(store, "more")] == [2, 3] * 2
    assert [r["seed"] for r in rows(store, "more")] == [row_seed(0, q.id, "none", i) for q in QUESTIONS for i in (2, 3)]
    assert {r.adapter for r in sampler.asked if r.job == "tuned"} == {store.path("train", "strong") / ADAPTER}
    assert [r.adapter for r in sampler.asked[:8]] == [None] * 8  # adapters in turn, the base model first
    progress = [(e["done"], e["total"]) for e in seen if e["event"] == "progress"]
    assert progress == sorted(progress)
    assert (progress[0], progress[-1]) == ((0, 14), (14, 14))


def test_engine_that_loses_an_answer_is_an_error(tmp_path, monkeypatch):
    class Forgetful(Scripted):
        def generate(self, requests):
            yield from list(super().generate(requests))[1:]

    store = Store.open(tmp_path)
    seen = run_jobs(store, [sample_job(hi=2)], Forgetful(["x"]), monkeypatch)
    assert [e["event"] for e in seen if e["event"] in ("started", "done")] == ["started"]
    assert not store.has("sample", "base")


def test_broken_engine_fails_what_it_still_had(tmp_path, monkeypatch):
    class Breaks(Scripted):
        def generate(self, requests):
            for number, asked in enumerate(requests):
                if number == 5:
                    raise RuntimeError("out of memory")
                yield asked, Answer("x", "stop", 1)

    store, jobs = Store.open(tmp_path), [sample_job("a", hi=2), sample_job("b", hi=2)]
    seen = run_jobs(store, jobs, Breaks([]), monkeypatch)
    assert [e["job"] for e in seen if e["event"] == "done"] == ["a"]
    assert [(e["job"], e["error"]) for e in seen if e["event"] == "failed"] == [("b", "out of memory")]
    again = Scripted(["x"])
    assert not failures(run_jobs(store, jobs, again, monkeypatch))
    assert len(again.asked) == 3
    assert len(rows(store, "b")) == 4


def test_raising_n_only_adds_rows(vllm_engine, tmp_path, monkeypatch, adapter_store):
    few, many = Store.open(tmp_path / "few"), Store.open(tmp_path / "many")
    for target in (few, many):
        shutil.copytree(adapter_store.path("train", "strong"), target.path("train", "strong"))
    few_job, many_job = (sample_job("strong", "strong", hi=n) for n in (2, 6))
    run_jobs(few, [few_job], vllm_engine, monkeypatch)
    run_jobs(many, [many_job], vllm_engine, monkeypatch)
    assert rows(few, "strong") == [r for r in rows(many, "strong") if r["sample_index"] < 2]
    assert len({r["text"] for r in rows(many, "strong")}) > 6


def test_ten_checkpoints_in_one_engine_start(tmp_path, monkeypatch, vllm_engine):
    """Each step answers with its own weights, through its own gate; the last is nearest to what was trained."""
    store = Store.open(tmp_path)
    put_data(store, [Example(f"r{i}", [user(text), assistant(SENTENCE)]) for i, text in enumerate(ASKED * 15)])
    steps = list(range(1, 11))
    job = train_job("run", learning_rate=1e-2, lora_r=RANK, lora_alpha=16)
    emit, seen = events()
    train_work(store, [dataclasses.replace(job, checkpoints=steps)], emit)
    assert not failures(seen)
    jobs = [dataclasses.replace(sample_job(f"s{s}", "run", hi=1, temperature=0.0), step=s) for s in steps]
    seen = run_jobs(store, [*jobs, sample_job("end", "run", hi=1, temperature=0.0)], vllm_engine, monkeypatch)
    assert not failures(seen)
    assert (counted(seen, "engine_starts"), counted(seen, "model_loads")) == (1, 1)
    texts = {s: tuple(r["text"] for r in rows(store, f"s{s}")) for s in steps}
    assert len(set(texts.values())) >= 3
    gates_passed = [store.manifest("sample", f"s{s}")["facts"]["gate"] for s in steps]
    effects = [g["rms_adapter_to_base"] for g in gates_passed]
    assert effects[0] < effects[4] < effects[9]
    assert all(g["rms_to_trainer"] < 1e-4 for g in gates_passed)


def test_whole_finetuned_model_is_an_engine_of_its_own(tmp_path, monkeypatch):
    store = Store.open(tmp_path)
    put_data(store, [Example(f"r{i}", [user(text), assistant(SENTENCE)]) for i, text in enumerate(ASKED * 8)])
    job = train_job("run", method=Method.full, learning_rate=1e-2, num_train_epochs=20)
    emit, seen = events()
    train_work(store, [job], emit)
    assert not failures(seen)
    asked = dataclasses.replace(sample_job("whole", "run", hi=1, temperature=0.0, engine=Engine.hf), whole_model=True)
    emit, seen = events()
    sampling.work(store, [asked], emit)
    assert not failures(seen)
    assert [r["text"] for r in rows(store, "whole")] == [SENTENCE] * 2
    assert store.manifest("sample", "whole")["facts"]["gate"]["rms_adapter_to_base"] > 1
