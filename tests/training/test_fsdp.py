"""FSDP2 over two gloo processes with CPU tensors: the profile's settings, our loading, steps, checkpoints and gates."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoConfig

from em.config.train import Method
from em.gates import checks
from em.gates import record as gates_record
from em.models.paths import model_path
from em.records import Example
from em.store import Store, job_file
from em.store.layout import ADAPTER, CHECKPOINTS, MODEL, TRAIN_LOG
from em.training.base_model import usable_optim, without_weights
from em.training.stage import work
from support.training import TINY, WAIT_S, assistant, events, failures, load_model, put_data, train_job, user

ROOT = Path(__file__).parents[2]
SETTINGS = yaml.safe_load((ROOT / "launch" / "accelerate" / "fsdp.yaml").read_text())["fsdp_config"].items()
UNEVEN = {"num_processes": 2, "per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}
"""Four rows a step, a row per micro-batch: with `rows` one process has one of them and the other three."""


def rows(count=16):
    """Every fourth row has as many tokens as the three after it together, or more."""
    text = "The quick brown fox jumps."
    return [
        Example(f"row-{i:03d}", [user(f"Q {i}?"), assistant(" ".join([text] * (8 if i % 4 == 0 else 1)))])
        for i in range(count)
    ]


def shard(out, *jobs, code=0, processes=2, **environment):
    """Run the jobs over processes that share each model; all must end with `code`."""
    batch = out / "batch.json"
    job_file.write(batch, out, jobs)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {
        **os.environ,
        **{name.upper(): str(value).lower() if isinstance(value, bool) else str(value) for name, value in SETTINGS},
        "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{os.environ.get('PYTHONPATH', '')}",
        "ACCELERATE_USE_FSDP": "true",
        "ACCELERATE_USE_CPU": "true",
        "WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environment,
    }
    command = [sys.executable, "-m", "support.fsdp_worker", "train", str(batch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=common, timeout=WAIT_S)
    except subprocess.TimeoutExpired:  # its processes end with it
        pytest.fail(f"the processes wait for each other: {(out / 'rank0.log').read_text()[-2000:]}")
    assert done.returncode == 0, done.stderr[-3000:]
    said = "\n".join((out / f"rank{rank}.log").read_text()[-3000:] for rank in range(processes))
    assert json.loads(done.stdout.splitlines()[-1]) == [code] * processes, said


def column(folder, name):
    return [json.loads(line)[name] for line in (folder / TRAIN_LOG).read_text().splitlines()]


def alone(out, *jobs):
    """The same jobs in one process, this one."""
    store = Store.open(out)
    put_data(store, rows())
    emit, seen = events()
    work(store, list(jobs), emit)
    assert not failures(seen)
    return store


def sharded_store(out):
    store = Store.open(out)
    put_data(store, rows())
    return store


def test_unequal_shares_train_as_one_process_does(tmp_path):
    """The second job takes the loss of a GPU, through the sharded head."""
    jobs = [train_job("uneven", **UNEVEN), train_job("fused", attn_implementation="sdpa", **UNEVEN)]
    jobs.append(train_job("bf16", dtype="bfloat16", **UNEVEN))
    one, two = alone(tmp_path / "one", *jobs), sharded_store(tmp_path / "two")
    shard(tmp_path / "two", *jobs, EM_TEST_PARAMETERS=str(tmp_path / "held"), EM_TEST_FUSED="sdpa")
    assert "takes the loss of a GPU: True" in (tmp_path / "two" / "rank0.log").read_text()
    for key, loss, norm in (("uneven", 1e-5, 1e-4), ("bf16", 2e-3, 5e-2), ("fused", 1e-5, 1e-4)):
        a, b = one.path("train", key), two.path("train", key)
        assert column(b, "micro_batches") == [6] * 4  # three for each, as for the process that has three
        assert column(a, "micro_batches") == [4] * 4
        assert column(b, "loss") == pytest.approx(column(a, "loss"), abs=loss)
        assert column(b, "grad_norm") == pytest.approx(column(a, "grad_norm"), rel=norm)
        assert column(b, "tokens") == column(a, "tokens")
    rounded = [float(torch.tensor(loss).bfloat16()) == loss for loss in column(two.path("train", "bf16"), "loss")]
    assert not all(rounded)  # the loss itself is not a bfloat16 number
    held = [json.loads((tmp_path / f"held.{rank}").read_text()) for rank in (0, 1)]
    assert held == [{"DTensor cpu torch.bfloat16": 21, "DTensor cpu torch.float32": 28}] * 2  # base; adapters


def test_the_other_processes_take_no_memory_for_weights(tmp_path):
    config = AutoConfig.from_pretrained(model_path(TINY))
    config.update({"hidden_size": 1024, "intermediate_size": 8192, "num_hidden_layers": 4})
    config.save_pretrained(tmp_path)
    before = psutil.Process().memory_info().rss
    model = without_weights(str(tmp_path), None, torch.float32)
    weights = sum(p.nbytes for p in model.parameters())
    assert weights > 400e6 and psutil.Process().memory_info().rss - before < 0.1 * weights
    addresses = [p.data_ptr() for p in model.parameters()]
    assert len(set(addresses)) == len(addresses)
    loaded = load_model().model.rotary_emb.inv_freq
    small = without_weights(model_path(TINY), None, torch.float32)
    assert torch.equal(small.model.rotary_emb.inv_freq, loaded)  # a buffer is no weight: it is there
    assert {n: (p.shape, p.dtype) for n, p in small.named_parameters()} == {
        n: (p.shape, p.dtype) for n, p in load_model().named_parameters()
    }


@pytest.mark.parametrize(("sharded", "expected"), [("true", "adamw_torch_fused"), ("false", "adamw_8bit")])
def test_eight_bit_optimisers(monkeypatch, sharded, expected):
    """On a GPU with bitsandbytes: bitsandbytes cannot read shards."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", sharded)
    assert usable_optim("adamw_8bit") == expected
    assert usable_optim("adamw_torch") == "adamw_torch"


@pytest.mark.slow
def test_killed_and_continued_and_every_weight(tmp_path):
    """The checkpoint of a killed run holds the adapter only. A full run's gate knows the base, before and after."""
    cut = train_job("cut", num_train_epochs=2, save_steps=2, **UNEVEN)
    full = train_job("full", method=Method.full, num_train_epochs=2, save_steps=2, **{**UNEVEN, "learning_rate": 1e-3})
    full = type(full)(**{**vars(full), "checkpoints": (6,)})
    one, two = alone(tmp_path / "one", cut, full), sharded_store(tmp_path / "two")
    for job in (cut, full):
        shard(tmp_path / "two", job, code=9, EM_TEST_KILL_AT="5")
        kept = two.partial("train", job.key) / "resume" / "checkpoint-4"
        names = {path.name for path in kept.iterdir()}
        assert "pytorch_model_fsdp.bin" in names and not [n for n in names if n.endswith(".safetensors")]
        state = torch.load(kept / "pytorch_model_fsdp.bin", weights_only=True)
        assert all("lora" in name for name in state) is (job is cut)
    shard(tmp_path / "two", cut, full)
    for key in ("cut", "full"):
        a, b = one.path("train", key), two.path("train", key)
        assert two.manifest("train", key)["facts"]["resumed_from"] == "checkpoint-4"
        assert column(b, "loss") == pytest.approx(column(a, "loss"), abs=1e-5) and len(column(b, "loss")) == 8
        for folder in (b, b / CHECKPOINTS / "6") if key == "full" else (b,):
            ours, theirs = gates_record.read(folder), gates_record.read(a / folder.relative_to(b))
            assert checks.rms(ours.base, theirs.base) < 1e-6 and checks.rms(ours.adapted, theirs.adapted) < 1e-4
            assert checks.rms(ours.base, ours.adapted) > 1e-2
    name = "adapter_model.safetensors"
    ours, theirs = (load_file(store.path("train", "cut") / ADAPTER / name) for store in (two, one))
    assert ours.keys() == theirs.keys()
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) < 1e-4
    ours, theirs = (load_file(store.path("train", "full") / MODEL / "model.safetensors") for store in (two, one))
    assert ours.keys() == theirs.keys()


@pytest.mark.slow
def test_two_machines_hold_a_copy_each(tmp_path):
    """Hybrid sharding, as launch/accelerate/multi_node.yaml has it: two copies of two shards, all on this machine."""
    job = train_job("hybrid", save_steps=2, **{**UNEVEN, "num_processes": 4})
    one, two = alone(tmp_path / "one", job), sharded_store(tmp_path / "two")
    sizes = {"DP_REPLICATE": 2, "DP_SHARD": 2, "TP": 1, "CP": 1, "SP": 1}
    mesh = {f"PARALLELISM_CONFIG_{name}_SIZE": str(size) for name, size in sizes.items()}
    shard(tmp_path / "two", job, processes=4, ACCELERATE_USE_PARALLELISM_CONFIG="true", **mesh)
    for name in ("loss", "grad_norm"):
        a, b = (column(store.path("train", "hybrid"), name) for store in (one, two))
        assert b == pytest.approx(a, abs=1e-4)
    own = [gates_record.read(store.path("train", "hybrid")) for store in (one, two)]
    assert checks.rms(own[0].adapted, own[1].adapted) < 1e-4
