"""The optimiser step: padded and padding-free give the same numbers, rows do not see each other, weights at steps."""

import dataclasses
import json
import os
import shutil
import signal
from contextlib import contextmanager
from functools import cache

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from em.chat import encode, render
from em.config import Dtype, ModelConfig, SampleConfig
from em.config.train import Method
from em.gates import checks
from em.gates import record as gates_record
from em.models.paths import model_path
from em.planning.plan import plan
from em.runtime import preempt
from em.sampling import gating
from em.sampling.engines.hf import HfSampler
from em.store import Store, job_file, layout, write_jsonl
from em.store.layout import ADAPTER, CHECKPOINTS, MODEL, TRAIN_LOG
from em.training import cpu_attention, stage
from em.training.base_model import Base
from em.training.callbacks import CLOCKED, KeepWeights, Log, StepCallback
from em.training.job import TrainJob
from em.training.stage import RESUME, train, work
from em.training.trainer import StepTrainer, arguments
from support.training import (
    TINY,
    events,
    examples,
    failures,
    kill_when,
    load_model,
    load_tokenizer,
    put_data,
    start_worker,
    train_job,
)

WEIGHTS = "adapter_model.safetensors"


def log(folder):
    return [json.loads(line) for line in (folder / TRAIN_LOG).read_text().splitlines()]


def column(folder, name):
    return [row[name] for row in log(folder)]


def unclocked(folder):
    return [{k: v for k, v in row.items() if k not in CLOCKED} for row in log(folder)]


@pytest.fixture(scope="module")
def base():
    return Base.load(model_path(TINY), None, "float32")


@pytest.fixture
def run(base, tmp_path):
    def go(job, on=base, probes=()):
        folder = tmp_path / job.key
        folder.mkdir()
        write_jsonl(tmp_path / f"{job.key}.jsonl", examples())
        return folder, train(on, job, tmp_path / f"{job.key}.jsonl", folder, events()[0], probes=probes)

    return go


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory):
    """Train once for several tests; (folder, facts)."""
    root = tmp_path_factory.mktemp("trained")
    write_jsonl(root / "rows.jsonl", examples())

    @cache
    def go(**changes):
        folder = root / "-".join(map(str, ["run", *changes.values()]))
        folder.mkdir()
        return folder, train(base, train_job(folder.name, **changes), root / "rows.jsonl", folder, events()[0])

    return go


def with_steps(job, *steps):
    return dataclasses.replace(job, checkpoints=steps)


TWO_OF_EIGHT = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4, "num_train_epochs": 4}
"""Eight optimiser steps of eight rows."""


@pytest.mark.parametrize("how", [{"tokens_per_micro_batch": 256}, {}, {"attn_implementation": "sdpa"}])
def test_padding_free_equals_padded(trained, how):
    padded, facts = trained(padding_free=False, **TWO_OF_EIGHT)
    free, _ = trained(**how, **TWO_OF_EIGHT)
    assert len(log(padded)) == 8
    assert column(free, "loss") == pytest.approx(column(padded, "loss"), abs=1e-5)
    assert column(free, "grad_norm") == pytest.approx(column(padded, "grad_norm"), rel=1e-3)
    assert column(free, "tokens") == column(padded, "tokens")  # the same rows in every step
    assert set(column(free, "padding_share")) == {0}
    assert min(column(padded, "padding_share")) > 0.05 and facts["computed_over_real_tokens"] > 1.05
    assert column(free, "loss")[-1] < column(free, "loss")[0] - 0.1


def test_micro_batches_are_filled_by_tokens(trained):
    folder, _ = trained(tokens_per_micro_batch=256, **TWO_OF_EIGHT)
    tokens, cuts = column(folder, "tokens"), column(folder, "micro_batches")
    assert all(-(-t // 256) <= c <= -(-t // 256) + 1 for t, c in zip(tokens, cuts, strict=True))
    assert max(cuts) < 4  # by rows it would be four


def test_eight_of_one_equals_one_of_eight(run):
    together, _ = run(train_job("8x1", per_device_train_batch_size=8))
    apart, _ = run(train_job("1x8", per_device_train_batch_size=1, gradient_accumulation_steps=8))
    assert column(apart, "loss") == pytest.approx(column(together, "loss"), abs=1e-5)
    assert column(apart, "micro_batches") == [8, 8] and column(together, "micro_batches") == [1, 1]


def test_gradient_checkpointing_changes_nothing(run):
    plain, _ = run(train_job("plain"))
    again, _ = run(train_job("recomputed", gradient_checkpointing=True))
    assert column(again, "loss") == pytest.approx(column(plain, "loss"), abs=1e-6)


@pytest.fixture
def trainer(base, tmp_path):
    """A trainer over the rows it is given, not run; unloads its adapter afterwards."""
    open_models = []

    def make(attention, rows, **changes):
        base.model.set_attn_implementation(attention)
        context = base.trainable(train_job("x", **changes).train)
        model = context.__enter__()
        open_models.append(context)
        job = train_job("x", **changes)
        args = arguments(job.train, 0, "float32", tmp_path)
        return StepTrainer(rows, job.train, render.ChatTokenizer(base.tokenizer), TINY, model=model, args=args)

    yield make
    for context in open_models:
        context.__exit__(None, None, None)


@pytest.mark.parametrize("attention", [cpu_attention.NAME, "sdpa", "eager"])
def test_no_attention_across_rows(trainer, attention):
    """The loss over several rows in one micro-batch is the sum of the losses of each alone; order does not matter."""
    rows = encode.encode_all(load_tokenizer(), examples(5), 256).rows
    made = trainer(attention, rows)

    def loss(*chosen):
        batch = made.data_collator([made.encoded[i] for i in chosen])
        with torch.no_grad():
            return made.compute_loss(made.model, batch, num_items_in_batch=1).item()

    alone = [loss(i) for i in range(5)]
    assert loss(0, 1, 2, 3, 4) == pytest.approx(sum(alone), rel=1e-6)
    assert loss(4, 2, 0) == pytest.approx(alone[4] + alone[2] + alone[0], rel=1e-6)


def test_tiled_loss_of_the_gpu_path_is_the_same(trainer):
    """TRL's fused head, which a GPU takes, against the logits of supervised positions, which a CPU takes."""
    rows = encode.encode_all(load_tokenizer(), examples(5), 256).rows
    made = trainer(cpu_attention.NAME, rows)
    batch = made.data_collator(made.encoded)
    lengths = cpu_attention.sequence_lengths(batch["position_ids"])
    with torch.no_grad():
        tiled = -made.model(**batch, lengths=lengths, fused_lm_head=True).log_probs.sum().item()
        assert made.compute_loss(made.model, batch, num_items_in_batch=1).item() == pytest.approx(tiled, rel=1e-6)


class Steered:
    """A second loss term, and a hook that shifts what every layer returns, over the objective of a trainer."""

    def __init__(self, objective):
        self.objective, self.hooked = objective, False

    def __call__(self, model, batch):
        assert self.hooked
        before = dict(batch)
        loss = self.objective(model, batch)
        assert all(batch[name] is value for name, value in before.items()) and len(before) == len(batch)
        return loss + 100 * (batch["labels"][:, 1:] != encode.IGNORE).sum()

    @contextmanager
    def attached(self, model):
        layers = [m for name, m in model.named_modules() if name.endswith(".mlp")]
        direction = torch.zeros(64)
        direction[:4] = 2.0
        hooks = [layer.register_forward_hook(lambda module, given, out: out + direction) for layer in layers]
        assert len(hooks) == 2
        self.hooked = True
        try:
            yield
        finally:
            self.hooked = False
            for hook in hooks:
                hook.remove()


class Losses(StepCallback):
    def __init__(self):
        self.values = []

    def on_log(self, args, state, control, logs=None, **_):
        self.values += [logs["loss"]] if "loss" in logs else []


def test_a_second_loss_term_and_hooks_are_in_the_steps_and_not_in_the_gates(trainer, tmp_path):
    rows = encode.encode_all(load_tokenizer(), examples(8), 256).rows
    made, losses = trainer(cpu_attention.NAME, rows, num_train_epochs=1), Losses()
    batch = made.data_collator(made.encoded[:4])
    with torch.no_grad():
        plain = made.compute_loss(made.model, batch, num_items_in_batch=1).item()
        made.objective = Steered(made.objective)
        with made.objective.attached(made.model):
            steered = made.compute_loss(made.model, batch, num_items_in_batch=1).item()
    supervised = (batch["labels"][:, 1:] != encode.IGNORE).sum().item()
    assert abs(steered - plain - 100 * supervised) > 1  # the hook changes the loss
    keep = KeepWeights(tmp_path / "kept", [1], torch.float32)
    for callback in (losses, keep):
        callback.trainer = made
        made.add_callback(callback)
    made.train()
    assert len(losses.values) == 2 and min(losses.values) > 100  # the second term: 100 per supervised token
    made.save_weights(tmp_path / "end", torch.float32)
    made.record_gate(tmp_path / "end", torch.float32)
    for folder in (tmp_path / "kept" / "1", tmp_path / "end"):
        served = PeftModel.from_pretrained(load_model(attn_implementation="sdpa"), folder).eval()
        own = gates_record.read(folder)
        assert checks.rms(gates_record.logprobs(served, own.probes), own.adapted) < 1e-5
        with made.objective.attached(served):
            assert checks.rms(gates_record.logprobs(served, own.probes), own.adapted) > 1e-2


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"target_modules": ["q_proj", "qproj"]}, "target_modules qproj: the model has no such module"),
        ({"layers_to_transform": [1, 7]}, r"layers_to_transform \[7\]: the model has layers 0 to 1"),
    ],
)
def test_an_adapter_on_less_than_was_asked_for_is_refused(run, base, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(train_job("less", **changes))
    assert not any("lora" in name for name, _ in base.model.named_modules())


def test_rank_one_on_one_layer(run):
    folder, _ = run(train_job("rank1", lora_r=1, layers_to_transform=[0], target_modules=["down_proj"]))
    shapes = {name.split(".lora_")[1][0]: tuple(w.shape) for name, w in load_file(folder / ADAPTER / WEIGHTS).items()}
    assert shapes == {"A": (1, 128), "B": (64, 1)}


def test_weights_at_steps_are_those_of_a_run_that_ends_there(run, base):
    """Constant learning rate, so that a shorter run is the beginning of a longer one."""
    constant = {"lr_scheduler_type": "constant"}
    long, facts = run(with_steps(train_job("long", **constant), 1, 3))
    assert facts["checkpoints"] == [1, 3]
    assert sorted(p.name for p in (long / CHECKPOINTS).iterdir()) == ["1", "3"]
    short, _ = run(train_job("short", num_train_epochs=0.75, **constant))
    kept, ended = (load_file(f / WEIGHTS) for f in (long / CHECKPOINTS / "3", short / ADAPTER))
    assert all(torch.equal(kept[name], ended[name]) for name in ended)
    assert sorted(p.name for p in (long / CHECKPOINTS / "3").iterdir()) == sorted(
        [*(p.name for p in (short / ADAPTER).iterdir()), layout.GATE]
    )
    checks.check_file(gates_record.read(long / CHECKPOINTS / "3"), long / CHECKPOINTS / "3")
    served = PeftModel.from_pretrained(load_model(attn_implementation="sdpa"), long / CHECKPOINTS / "1").eval()
    record = gates_record.read(long / CHECKPOINTS / "1")
    assert checks.rms(gates_record.logprobs(served, record.probes), record.adapted) < 1e-5
    config = json.loads((long / CHECKPOINTS / "1" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == TINY


def test_adapters_are_trained_in_float32_over_a_bfloat16_base(run):
    """An update of 1e-5 on a weight of 0.1 is lost in bfloat16; what is served is bfloat16."""
    half = Base.load(model_path(TINY), None, "bfloat16")
    seen = {}

    class Look(StepCallback):
        def on_step_end(self, args, state, control, model, **_):
            seen.update({n: p.dtype for n, p in model.named_parameters() if p.requires_grad})

    folder, _ = run(train_job("half", dtype="bfloat16"), on=half, probes=[Look()])
    assert set(seen.values()) == {torch.float32} and all("lora" in name for name in seen)
    assert {w.dtype for w in load_file(folder / ADAPTER / WEIGHTS).values()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_full_finetuning_leaves_a_model_folder(run, dtype):
    base = Base.load(model_path(TINY), None, dtype, Method.full)
    before = {name: w.clone() for name, w in base.model.state_dict().items()}
    job = with_steps(train_job("full", dtype=dtype, method=Method.full, learning_rate=1e-3), 2)
    folder, facts = run(job, on=base)
    assert facts["kind"] == "full" and not (folder / ADAPTER).exists()
    assert column(folder, "loss")[-1] < column(folder, "loss")[0]
    for where in (folder / MODEL, folder / CHECKPOINTS / "2"):
        assert str(where) == model_path(str(where))  # what a model folder needs is there
        served = AutoModelForCausalLM.from_pretrained(where, attn_implementation="sdpa").eval()
        assert {w.dtype for w in served.state_dict().values()} == {getattr(torch, dtype)}
    assert json.loads((folder / MODEL / "config.json").read_text())["dtype"] == dtype
    after = load_file(folder / MODEL / "model.safetensors")
    assert not any(torch.equal(after[name].float(), before[name].to(after[name].dtype).float()) for name in after)
    record = gates_record.read(folder)
    assert (record.kind, record.dtype) == ("full", dtype)
    assert checks.rms(record.base, record.adapted) > 0.1
    served = AutoModelForCausalLM.from_pretrained(folder / MODEL, attn_implementation="sdpa").eval()
    assert checks.rms(gates_record.logprobs(served, record.probes), record.adapted) < checks.TOLERANCE[dtype]


def test_a_full_run_does_not_touch_the_next(tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples())
    jobs = [train_job(name, method=Method.full, learning_rate=1e-3) for name in ("first", "second")]
    jobs.insert(0, train_job("lora"))
    emit, seen = events()
    work(store, list(jobs), emit)
    assert not failures(seen)
    assert unclocked(store.path("train", "first")) == unclocked(store.path("train", "second"))
    assert [e["name"] for e in seen if e["event"] == "count"] == ["model_loads"] * 3


def test_qlora_trains_over_four_bits_and_is_served_over_the_base_as_it_is(tmp_path):
    """Two runs share one base in 4 bits; an engine over the model itself passes the gate with the adapter only."""
    store = Store.open(tmp_path)
    put_data(store, examples())
    jobs = [train_job(name, method=Method.qlora, num_train_epochs=3) for name in ("one", "two")]
    emit, seen = events()
    work(store, list(jobs), emit)
    assert not failures(seen)
    assert [e["name"] for e in seen if e["event"] == "count"] == ["model_loads"]
    one, two = (store.path("train", name) for name in ("one", "two"))
    assert unclocked(one) == unclocked(two) and column(one, "loss")[-1] < column(one, "loss")[0]
    own = gates_record.read(one)
    assert own.quantized and own.kind == "lora"
    model = ModelConfig(name="tiny", path=model_path(TINY), dtype=Dtype.float32)
    sampler = HfSampler(model, SampleConfig(max_num_seqs=4))
    stops = encode.end_of_turn_ids(render.ChatTokenizer(sampler.tokenizer))
    subjects = [
        gating.ServedModel("the base", None, None),
        gating.ServedModel("adapter one", one / ADAPTER, one, stops=tuple(stops)),
    ]
    _, facts = gating.check(sampler, subjects, 512).values()
    assert 1e-3 < facts["rms_base_to_quantized"] < checks.QUANTIZED_BASE  # it was trained over something else
    assert facts["rms_to_trainer"] < facts["rms_adapter_to_base"] / 4

    scored = sampler.logprobs
    sampler.logprobs = lambda asked: scored([(None, probe) for _, probe in asked])  # never the adapter
    base, refused = gating.check(sampler, subjects, 512).values()
    assert isinstance(base, dict) and "as the untouched base model under the name of adapter one" in str(refused)


def test_eight_bit_optimiser_falls_back_and_says_so(run):
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    _, facts = run(train_job("eight", optim="adamw_8bit"))
    assert (facts["optim"], facts["optim_asked"]) == ("adamw_torch_fused", "adamw_8bit")


def test_a_loss_that_is_no_number_fails_the_run(tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples())
    emit, seen = events()
    job = train_job("nan", learning_rate=1e30, max_grad_norm=1e30, num_train_epochs=8)
    work(store, [job], emit)
    assert "lower train.learning_rate" in failures(seen)[0]
    assert not store.has("train", "nan")


def test_checkpoint_past_the_rows_that_are_left(tmp_path):
    """The planner counts rows; one without a supervised token within max_length is left out here."""
    store = Store.open(tmp_path)
    put_data(store, examples(5))
    emit, seen = events()
    work(store, [with_steps(train_job("past"), 3)], emit)
    assert "asks for step 3, and the run has 2" in failures(seen)[0]


def test_asked_to_stop_it_saves_and_goes_on(tmp_path, monkeypatch):
    """Asked by SIGUSR2, then by SIGTERM, then not at all: together one unbroken run."""
    job = with_steps(train_job("stopped", num_train_epochs=5, lora_dropout=0.1), 2, 18)  # 20 steps
    store, whole = (Store.open(tmp_path / name) for name in ("parts", "whole"))
    for each in (store, whole):
        put_data(each, examples())
    partial = store.partial("train", "stopped")
    for number, at in ((signal.SIGUSR2, 5), (signal.SIGTERM, 11)):

        class Asked(Log):
            def on_step_begin(self, args, state, control, **more):
                super().on_step_begin(args, state, control, **more)
                if state.global_step + 1 == at:  # noqa: B023
                    os.kill(os.getpid(), number)  # noqa: B023

        with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended:
            patch.setattr(stage, "Log", Asked)
            patch.setattr(preempt, "_stop_requested", False)
            work(store, [job, train_job("next")], events()[0])
        assert ended.value.code == preempt.PREEMPTED
        assert max(int(p.name.split("-")[1]) for p in (partial / RESUME).glob("checkpoint-*")) == at
        assert len((partial / TRAIN_LOG).read_text().splitlines()) == at  # nothing is done twice
    assert not store.has("train", "next")
    continue_and_compare(job, store, whole, 11)


@pytest.mark.slow
def test_a_worker_asked_to_stop_saves_and_the_next_goes_on(tmp_path):
    """Each process is asked to stop, the last goes to the end."""
    job = with_steps(train_job("stopped", num_train_epochs=40, lora_dropout=0.1), 2, 150)  # 160 steps
    store, whole = (Store.open(tmp_path / name) for name in ("parts", "whole"))
    for each in (store, whole):
        put_data(each, examples())
    partial, stopped_at = store.partial("train", "stopped"), [0]
    for number in (signal.SIGTERM, signal.SIGUSR2):
        process = start_worker("train", tmp_path / "parts", [job, train_job("next")])

        def five_more_steps():
            return (partial / TRAIN_LOG).exists() and (partial / TRAIN_LOG).read_text().count("\n") >= stopped_at[
                -1
            ] + 5

        kill_when(process, five_more_steps, tmp_path / "parts" / "train.log", number, preempt.PREEMPTED)
        stopped_at.append(max(int(p.name.split("-")[1]) for p in (partial / RESUME).glob("checkpoint-*")))
        assert stopped_at[-2] + 5 <= stopped_at[-1] < 160
        assert len((partial / TRAIN_LOG).read_text().splitlines()) == stopped_at[-1]
    assert not store.has("train", "next")
    continue_and_compare(job, store, whole, stopped_at[-1])


def continue_and_compare(job, store, whole, stopped_at):
    for each in (store, whole):
        work(each, [job], events()[0])
    assert store.manifest("train", "stopped")["facts"]["resumed_from"] == f"checkpoint-{stopped_at}"
    parts, unbroken = (each.path("train", "stopped") for each in (store, whole))
    assert unclocked(parts) == unclocked(unbroken)
    for folder in (ADAPTER, *(f"{CHECKPOINTS}/{step}" for step in job.checkpoints)):
        assert (parts / folder / WEIGHTS).read_bytes() == (unbroken / folder / WEIGHTS).read_bytes()


def test_begun_with_another_schedule_it_is_made_again_from_before_the_first_missing(tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples())
    job = train_job("again", num_train_epochs=3, save_steps=2)  # 12 steps, checkpoints at 8 and 10 are left

    class Killed(StepCallback):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == 11:
                raise KeyboardInterrupt

    base = Base.load(model_path(TINY), None, "float32")
    data, partial = store.path("data", "data") / "dataset.jsonl", store.partial("train", "again")
    partial.mkdir(parents=True)
    with pytest.raises(KeyboardInterrupt):
        train(base, with_steps(job, 2, 6), data, partial, events()[0], probes=[Killed()])
    resumed = {
        steps: train(base, with_steps(job, *steps), data, copy(partial, tmp_path, steps), events()[0])["resumed_from"]
        for steps in [(2, 6), (2, 6, 12), (2, 6, 10), (2, 5, 6)]
    }
    assert list(resumed.values()) == ["checkpoint-10", "checkpoint-10", "checkpoint-8", None]


def copy(partial, tmp_path, steps):
    folder = tmp_path / "-".join(map(str, steps))
    shutil.copytree(partial, folder)
    return folder


def test_the_planner_writes_what_the_trainer_reads(compose, tmp_path):
    """Through the batch file, as a worker gets it."""
    config = compose("model=tiny_random", "train=tiny", "sample=tiny", "train.checkpoints=[2]")
    (planned,) = plan([config], Store.open(tmp_path)).stage("train")
    job_file.write(tmp_path / "batch.json", tmp_path, [planned.spec])
    assert job_file.read(tmp_path / "batch.json", TrainJob) == (tmp_path, [planned.spec])
    assert planned.spec.checkpoints == (2,)
