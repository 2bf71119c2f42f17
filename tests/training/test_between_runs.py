"""Runs of one process do not know of each other: memory, hooks, recomputation, torch's settings."""

import gc
import json
import weakref
from contextlib import nullcontext

import pytest
import torch

from em.config.train import Method
from em.models.paths import model_path
from em.store import write_jsonl
from em.store.layout import TRAIN_LOG
from em.training import stage, trainer
from em.training.base_model import Base
from em.training.callbacks import CLOCKED, StepCallback
from support.training import TINY, events, examples, train_job


@pytest.fixture(scope="module")
def bases():
    return {dtype: Base.load(model_path(TINY), None, dtype) for dtype in ("float32", "bfloat16")}


@pytest.fixture
def run(bases, tmp_path):
    def go(key, probes=(), dtype="float32", base=None, **changes):
        job, folder = train_job(key, dtype=dtype, **changes), tmp_path / key
        folder.mkdir()
        write_jsonl(tmp_path / "rows.jsonl", examples(8))
        facts = stage.train(base or bases[dtype], job, tmp_path / "rows.jsonl", folder, events()[0], probes=probes)
        rows = [json.loads(line) for line in (folder / TRAIN_LOG).read_text().splitlines()]
        return facts, [{name: value for name, value in row.items() if name not in CLOCKED} for row in rows]

    return go


class Watch(StepCallback):
    """Looks at a run at its first step."""

    def __init__(self, look=lambda trainer: None, fail=False):
        self.look, self.fail, self.seen = look, fail, None

    def on_step_begin(self, args, state, control, **_):
        self.trainer_then = weakref.ref(self.trainer)
        self.weight = weakref.ref(next(p for p in self.trainer.model.parameters() if p.requires_grad))
        self.optimizer = weakref.ref(self.trainer.optimizer)
        self.seen = self.look(self.trainer)
        if self.fail:
            raise RuntimeError("as asked")


@pytest.mark.parametrize("fail", [False, True])
def test_adapters_and_optimiser_are_freed_with_the_run(run, fail):
    """Without Python's collector running by chance. A notebook may keep its probes."""
    watch = Watch(fail=fail)
    gc.collect()
    gc.disable()
    try:
        with pytest.raises(RuntimeError, match="as asked") if fail else nullcontext():
            run("once", [watch])
        if fail:
            run("next")  # what an exception still held is freed when the next run ends
        assert watch.trainer is None
        assert [ref() for ref in (watch.trainer_then, watch.weight, watch.optimizer)] == [None] * 3
    finally:
        gc.enable()


def test_a_full_runs_base_is_freed_before_the_next_is_loaded(run):
    base = Base.load(model_path(TINY), None, "float32", Method.full)
    model = weakref.ref(base.model)
    run("full", base=base, method=Method.full)
    gc.disable()
    try:
        base = None
        Base.load(model_path(TINY), None, "float32")
        assert model() is None
    finally:
        gc.enable()


def test_recomputation_ends_with_its_run(run, bases):
    model = bases["float32"].model
    embedding = model.get_input_embeddings()
    own = embedding.register_forward_hook(lambda module, given, out: None)
    try:
        plain, log = run("plain")
        assert plain["gradient_checkpointing"] is False
        for key in ("again", "once more"):
            facts, found = run(key, gradient_checkpointing=True)
            assert facts["gradient_checkpointing"] is True
            assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in log], abs=1e-6)
            assert not model.is_gradient_checkpointing and len(embedding._forward_hooks) == 1
        watch = Watch(lambda trainer: [m.gradient_checkpointing for m in model.model.layers])
        assert run("plain again", [watch])[1] == log and watch.seen == [False, False]
    finally:
        own.remove()


@pytest.mark.parametrize(("room", "recomputed"), [(10**12, False), (10**9, True), (None, True)])
def test_auto_recomputes_what_would_not_fit(run, monkeypatch, room, recomputed):
    monkeypatch.setattr(stage, "room", lambda: room)
    assert run("auto", gradient_checkpointing="auto")[0]["gradient_checkpointing"] is recomputed


def test_inputs_of_adapters_are_not_cast_and_the_numbers_stay(run, monkeypatch):
    def dtypes(made):
        seen = []
        for name, module in made.model.named_modules():
            if name.endswith("q_proj.lora_A.default"):
                module.register_forward_pre_hook(
                    lambda module, given: seen.append(given[0].dtype) if module.training else None
                )
        return seen

    watches = [Watch(dtypes), Watch(dtypes)]
    _, log = run("as they are", [watches[0]], dtype="bfloat16")
    monkeypatch.setattr(trainer, "disable_input_dtype_casting", lambda model, active: nullcontext())
    _, cast = run("cast", [watches[1]], dtype="bfloat16")
    assert torch.float32 not in watches[0].seen and torch.float32 in watches[1].seen
    assert log == cast


def test_deterministic_holds_for_its_run_only(run):
    watches = [Watch(lambda _: torch.are_deterministic_algorithms_enabled()) for _ in range(2)]
    facts, exact = run("exact", [watches[0]], deterministic=True)
    _, log = run("usual", [watches[1]])
    assert [w.seen for w in watches] == [True, False]
    assert facts["deterministic"] is True and exact == log
    assert torch.utils.deterministic.fill_uninitialized_memory is False
