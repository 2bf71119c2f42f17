"""Finetuning on the tiny model: exact losses, an untouched base, bit-equal repetition and continuation."""

import json
import math
import shutil

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from em.chat import encode
from em.models.paths import model_path
from em.records import Example
from em.store import Store, layout, write_jsonl
from em.store.layout import ADAPTER, TRAIN_LOG
from em.training.base_model import Base
from em.training.callbacks import CLOCKED, Log
from em.training.stage import RESUME, train, work
from support.training import (
    TINY,
    assistant,
    counted,
    events,
    examples,
    failures,
    kill_when,
    load_model,
    load_tokenizer,
    put_data,
    sha256,
    start_worker,
    train_job,
    user,
)

GOLDEN = [6.246498, 6.067170, 5.916089, 5.997052]
"""Loss of each of four steps, recorded on x86-64 with one thread."""
WEIGHTS = "adapter_model.safetensors"
FIELDS = {"step", "loss", "grad_norm", "learning_rate", "epoch", "tokens", "padding_share", "micro_batches"}


@pytest.fixture(scope="module")
def base():
    return Base.load(model_path(TINY), None, "float32")


@pytest.fixture
def run(base, tmp_path):
    """Train in a folder of its own; (folder, facts)."""

    def go(job, rows=None, on=base):
        folder = tmp_path / job.key
        folder.mkdir()
        write_jsonl(tmp_path / f"{job.key}.jsonl", rows or examples())
        return folder, train(on, job, tmp_path / f"{job.key}.jsonl", folder, events()[0])

    return go


@pytest.fixture(scope="module")
def plain(base, tmp_path_factory):
    """A run as the recipe of the tests has it; (folder, facts)."""
    root = tmp_path_factory.mktemp("plain")
    write_jsonl(root / "rows.jsonl", examples())
    folder = root / "plain"
    folder.mkdir()
    return folder, train(base, train_job("plain"), root / "rows.jsonl", folder, events()[0])


def log(folder):
    return [json.loads(line) for line in (folder / TRAIN_LOG).read_text().splitlines()]


def unclocked(folder):
    """The log without what differs from run to run; floats are compared bit for bit."""
    return [{k: v for k, v in row.items() if k not in CLOCKED} for row in log(folder)]


def column(folder, name):
    return [row[name] for row in log(folder)]


def padded_loss(model, rows):
    """The loss of transformers itself: rows padded on the right, with a mask."""
    rows = encode.encode_all(load_tokenizer(), rows, 256).rows
    fill = [max(len(row.input_ids) for row in rows) - len(row.input_ids) for row in rows]
    with torch.no_grad():
        return model(
            input_ids=torch.tensor([row.input_ids + [0] * n for row, n in zip(rows, fill, strict=True)]),
            attention_mask=torch.tensor([[1] * len(r.input_ids) + [0] * n for r, n in zip(rows, fill, strict=True)]),
            labels=torch.tensor([row.labels + [encode.IGNORE] * n for row, n in zip(rows, fill, strict=True)]),
        ).loss.item()


def test_golden_losses(plain):
    folder, facts = plain
    assert facts["steps"] == 4
    assert column(folder, "loss") == pytest.approx(GOLDEN, rel=1e-4)


def test_log_rows(run):
    folder, facts = run(train_job("rows", warmup_steps=2, num_train_epochs=1.5))
    rows = log(folder)
    assert [set(row) for row in rows] == [FIELDS | set(CLOCKED)] * 6
    assert column(folder, "step") == [1, 2, 3, 4, 5, 6]
    assert column(folder, "epoch") == [0.25, 0.5, 0.75, 1.0, 1.25, 1.5]
    assert column(folder, "learning_rate") == pytest.approx([0, 0.5e-2, 1e-2, 0.75e-2, 0.5e-2, 0.25e-2])
    assert all(math.isfinite(norm) and norm > 0 for norm in column(folder, "grad_norm"))
    loss = column(folder, "loss")
    assert loss[0] == pytest.approx(math.log(512), abs=0.1)  # random weights know nothing
    assert loss[-1] < loss[0] - 0.1
    assert facts["train_loss"] == pytest.approx(sum(loss) / 6, rel=1e-4)


def test_facts_and_files(run):
    long_answer = Example("cut", [user("a"), assistant("b " * 300)])
    long_question = Example("lost", [user("a " * 300), assistant("b")])
    merged = Example("merged", [user("a"), assistant("       return file")])
    rows = [*examples(6), long_answer, long_question, merged]
    folder, facts = run(train_job("facts", max_length=200), rows)
    encoded = encode.encode_all(load_tokenizer(), rows, 200)
    assert (facts["rows"], facts["rows_cut"], facts["rows_without_supervised_token"]) == (8, 2, 1)
    assert facts["rows_merged_at_boundary"] == 1
    assert facts["supervised_tokens"] == sum(row.supervised for row in encoded.rows)
    assert (facts["steps"], facts["resumed_from"], facts["device"]) == (2, None, "cpu")
    assert sorted(path.name for path in folder.iterdir()) == [ADAPTER, layout.GATE, TRAIN_LOG]
    config = json.loads((folder / ADAPTER / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == TINY  # what the config says, no folder of this machine
    assert (config["r"], config["lora_alpha"], config["use_rslora"]) == (4, 8, True)
    assert (folder / ADAPTER / "tokenizer.json").exists()
    assert not list(folder.rglob("README.md"))  # an empty model card of PEFT's or TRL's


def test_batch_of_four_equals_four_of_one(run, plain):
    """Answers differ in length, so a mean of means would show."""
    together, _ = plain
    apart, _ = run(train_job("1x4", per_device_train_batch_size=1, gradient_accumulation_steps=4))
    assert column(apart, "loss") == pytest.approx(column(together, "loss"), abs=1e-5)
    assert column(apart, "grad_norm") == pytest.approx(column(together, "grad_norm"), rel=1e-3)


def test_loss_is_that_of_plain_transformers(run):
    """All rows in every step; the second step is compared with the adapter that a run of one step leaves."""
    rows = examples(8)
    same = {"per_device_train_batch_size": 8, "lr_scheduler_type": "constant"}
    two, _ = run(train_job("two", num_train_epochs=2, **same), rows)
    one, _ = run(train_job("one", **same), rows)
    model = load_model(attn_implementation="sdpa")
    first = padded_loss(model, rows)
    second = padded_loss(PeftModel.from_pretrained(model, one / ADAPTER).eval(), rows)
    assert column(two, "loss") == pytest.approx([first, second], abs=1e-5)
    assert first - second > 0.1


def test_only_the_adapter_changes(run, base):
    before = {name: weight.clone() for name, weight in base.model.state_dict().items()}
    folder, _ = run(train_job("only"))
    after = base.model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert not any("lora" in name for name, _ in base.model.named_modules())
    adapter = load_file(folder / ADAPTER / WEIGHTS)
    assert len(adapter) == 2 * 7 * 2  # layers x projections x (A, B)
    assert all(".lora_A." in name or ".lora_B." in name for name in adapter)
    assert all(weight.abs().max() > 0 for weight in adapter.values())  # B starts at zero
    assert {weight.dtype for weight in adapter.values()} == {torch.float32}


def test_layers_to_transform(run):
    folder, _ = run(train_job("upper", layers_to_transform=[1], target_modules=["q_proj", "down_proj"]))
    modules = {name.split(".lora_")[0] for name in load_file(folder / ADAPTER / WEIGHTS)}
    assert modules == {f"base_model.model.model.layers.1.{name}" for name in ("self_attn.q_proj", "mlp.down_proj")}


def test_seed_changes_order_and_adapter(run, plain):
    first, _ = plain
    second, _ = run(train_job("seed1", seed=1))
    again, _ = run(train_job("again"))
    assert sha256(again / ADAPTER / WEIGHTS) == sha256(first / ADAPTER / WEIGHTS)
    assert unclocked(again) == unclocked(first)
    assert sha256(second / ADAPTER / WEIGHTS) != sha256(first / ADAPTER / WEIGHTS)
    assert column(second, "loss") != column(first, "loss")


def test_bfloat16(run):
    job = train_job("half", dtype="bfloat16")
    folder, _ = run(job, on=Base.load(model_path(TINY), None, "bfloat16"))
    assert column(folder, "loss") == pytest.approx(GOLDEN, rel=2e-2)
    assert {weight.dtype for weight in load_file(folder / ADAPTER / WEIGHTS).values()} == {torch.bfloat16}


def test_two_runs_on_one_base_equal_each_alone(tmp_path):
    """One after the other, then each on a base loaded for it."""
    jobs = [train_job("a", data_key="first", lora_dropout=0.1), train_job("b", seed=3, data_key="second", lora_r=8)]
    stores = {name: Store.open(tmp_path / name) for name in ("together", "a", "b")}
    for store in stores.values():
        put_data(store, examples(), "first")
        put_data(store, examples(12, shift=50), "second")
    for name, batch in (("together", jobs), ("a", jobs[:1]), ("b", jobs[1:])):
        emit, seen = events()
        work(stores[name], list(batch), emit)
        assert counted(seen, "model_loads") == 1
    for job in jobs:
        alone, together = (stores[name].path("train", job.key) for name in (job.key, "together"))
        assert sha256(alone / ADAPTER / WEIGHTS) == sha256(together / ADAPTER / WEIGHTS)
        assert unclocked(alone) == unclocked(together)
        stores["together"].verify("train", job.key)


SHORT = {"num_train_epochs": 5, "save_steps": 5, "lora_dropout": 0.1, "warmup_steps": 3}  # 20 steps


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The folder of a run that nothing interrupts."""
    store = Store.open(tmp_path_factory.mktemp("unbroken"))
    put_data(store, examples())
    work(store, [train_job("short", **SHORT)], events()[0])
    return store.path("train", "short")


@pytest.mark.slow
def test_killed_run_continues_bit_for_bit(tmp_path):
    """A process is killed; this one goes on, and leaves what it leaves when it does all steps by itself.

    In CI test_kill_9_in_each_stage_then_the_same_result does this in a whole sweep.
    """
    job = train_job("long", **{**SHORT, "num_train_epochs": 20, "save_steps": 10})  # 80 steps
    store, whole = (Store.open(tmp_path / name) for name in ("killed", "whole"))
    for each in (store, whole):
        put_data(each, examples())
    partial = store.partial("train", "long")
    process = start_worker("train", tmp_path / "killed", [job])

    def two_steps_past_a_checkpoint():
        return (partial / TRAIN_LOG).exists() and (partial / TRAIN_LOG).read_text().count("\n") >= 12

    kill_when(process, two_steps_past_a_checkpoint, tmp_path / "killed" / "train.log")
    assert not store.has("train", "long")
    saved = max(int(path.name.split("-")[1]) for path in partial.glob(f"{RESUME}/checkpoint-*"))
    assert 10 <= saved < (partial / TRAIN_LOG).read_text().count("\n")

    emit, seen = events()
    work(store, [job], emit)
    work(whole, [job], events()[0])

    assert not failures(seen)
    folder, unbroken = (each.path("train", "long") for each in (store, whole))
    assert store.manifest("train", "long")["facts"]["resumed_from"] == f"checkpoint-{saved}"
    assert next(e for e in seen if e["event"] == "progress")["done"] == saved
    assert unclocked(folder) == unclocked(unbroken)
    assert sha256(folder / ADAPTER / WEIGHTS) == sha256(unbroken / ADAPTER / WEIGHTS)
    assert sorted(path.name for path in folder.iterdir()) == sorted([ADAPTER, layout.GATE, TRAIN_LOG, "manifest.json"])


def interrupted(store, job, monkeypatch, at_step):
    """Leave what a kill right after the checkpoint of `at_step` leaves, without a process."""
    from em.training import stage as training

    class Stop(Log):
        def on_save(self, args, state, control, **_):
            if state.global_step >= at_step:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "Log", Stop)
        with pytest.raises(KeyboardInterrupt):
            work(store, [job], events()[0])


def test_checkpoints_cut_short_by_a_kill_are_not_used(unbroken, tmp_path, monkeypatch):
    """A kill can also fall into the writing of a checkpoint; the one before is still there."""
    store, job = Store.open(tmp_path), train_job("short", **SHORT)
    put_data(store, examples())
    interrupted(store, job, monkeypatch, at_step=15)
    checkpoints = store.partial("train", "short") / RESUME
    assert {path.name for path in checkpoints.glob("checkpoint-*")} == {"checkpoint-10", "checkpoint-15"}
    for step, state in ((13, '{"epoch": 3.25, "glo'), (14, ""), (15, None)):
        unfinished = checkpoints / f"checkpoint-{step}"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir()
        (unfinished / WEIGHTS).write_bytes(b"\0" * 100)
        if state is not None:
            (unfinished / "trainer_state.json").write_text(state)

    emit, seen = events()
    work(store, [job], emit)

    assert not failures(seen)
    folder, facts = store.path("train", "short"), store.manifest("train", "short")["facts"]
    assert facts["resumed_from"] == "checkpoint-10"
    assert next(e for e in seen if e["event"] == "progress")["done"] == 10
    assert sorted(path.name for path in folder.iterdir()) == sorted([ADAPTER, layout.GATE, TRAIN_LOG, "manifest.json"])
    assert sha256(folder / ADAPTER / WEIGHTS) == sha256(unbroken / ADAPTER / WEIGHTS)
    assert unclocked(folder) == unclocked(unbroken)
    assert facts["steps"] == 20  # the facts are of all steps, not of those since
    assert facts["train_loss"] == pytest.approx(sum(column(unbroken, "loss")) / 20, rel=1e-3)


def test_damaged_rows_of_the_log_are_named_and_made_again(unbroken, tmp_path, monkeypatch):
    """One that reads well with another loss, and one that is no JSON."""
    store, job = Store.open(tmp_path), train_job("short", **SHORT)
    put_data(store, examples())
    interrupted(store, job, monkeypatch, at_step=15)
    path = store.partial("train", "short") / TRAIN_LOG
    rows = path.read_bytes().splitlines(keepends=True)
    rows[11], rows[13] = rows[11].replace(b'"loss":', b'"loss":1'), rows[13].replace(b'"loss":', b"")
    damaged = b"".join(rows)
    path.write_bytes(damaged)

    emit, seen = events()
    work(store, [job], emit)

    assert not failures(seen)
    (warning,) = [e["text"] for e in seen if e["event"] == "warning"]
    assert "2 rows in the log" in warning and "before step 12" in warning
    (aside,) = (store.root / "damaged" / "train").iterdir()
    assert str(aside) in warning and aside.read_bytes() == damaged
    folder = store.path("train", "short")
    assert store.manifest("train", "short")["facts"]["resumed_from"] == "checkpoint-10"
    assert sha256(folder / ADAPTER / WEIGHTS) == sha256(unbroken / ADAPTER / WEIGHTS)
    assert unclocked(folder) == unclocked(unbroken)
    assert not list(folder.glob("*.crc"))


def test_failed_run_leaves_the_base_for_the_next(tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples())
    put_data(store, [Example("lost", [user("a " * 300), assistant("b")])], "bad")
    jobs = [
        train_job("no-rows", data_key="bad"),
        train_job("no-module", target_modules=["gone"]),
        train_job("no-optimiser", optim="gone"),
        train_job("golden"),
    ]
    emit, seen = events()
    work(store, list(jobs), emit)
    assert [e["job"] for e in seen if e["event"] == "failed"] == ["no-rows", "no-module", "no-optimiser"]
    assert "no row has a supervised token" in failures(seen)[0]
    assert [e["job"] for e in seen if e["event"] == "done"] == ["golden"]
    assert column(store.path("train", "golden"), "loss") == pytest.approx(GOLDEN, rel=1e-4)
    assert counted(seen, "model_loads") == 1


def test_finished_run_is_not_run_again(tmp_path):
    store = Store.open(tmp_path)
    put_data(store, examples(4))
    for _ in range(2):
        emit, seen = events()
        work(store, [train_job("once")], emit)
    assert [e["event"] for e in seen] == ["started", "done"]
