"""The project's own benchmarks, tests and sweeps, run on this device and read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from lines import Say

from em.config import Dtype, ModelConfig, TrainConfig
from em.config.model import ShapeConfig
from em.models import memory
from em.records import Example
from em.runtime import machine
from em.store import Store, job_file, layout, write_jsonl
from em.training import launch
from em.training.job import TrainJob

ROOT = Path(__file__).resolve().parents[2]
TRAINED = (
    "tests/training/test_trainer.py",
    "tests/training/test_stage.py",
    "tests/training/test_batches.py",
    "tests/gates",
    "tests/sampling/engines/test_hf.py",
    "tests/judging/local",
)
SERVED = ("tests/sampling/engines", "tests/sampling/test_gating.py")
SPEED = re.compile(r"^(?P<shape>\S+) +(?P<arm>\S+) +(?P<speed>\d+) tokens/s .*?(?P<gb>[\d.]+) GB", re.M)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this checkout and pass its output on."""
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    print(done.stdout[-20_000:], done.stderr[-5_000:], flush=True)
    return done


def train_gpu(*options: str) -> list[tuple[str, float, float]]:
    """Run benchmarks/train_gpu.py. Return (arm, tokens per second, GB) of each arm that fits."""
    done = run(sys.executable, "benchmarks/train_gpu.py", *options)
    return [(m["arm"], float(m["speed"]), float(m["gb"])) for m in SPEED.finditer(done.stdout)]


def speed(say: Say, device: str) -> None:
    """Measure training of a 7B shape: rows of mean length 350, and micro-batches four times as long."""
    size = ("--shape", "7b") if device == "cuda" else ("--tiny",)
    found = train_gpu(*size)
    own, plain = (next((s for arm, s, _ in found if arm == name), 0.0) for name in ("em", "hand"))
    say("7b_tokens_per_s", round(own), own >= 11_000)
    say("7b_over_plain_loop", f"{own / plain:.2f}" if plain else "-", bool(plain) and own >= 1.5 * plain)
    for arm, line in (("em", "7b_memory"), ("em_recompute", "7b_recomputed_memory")):
        measured = next((gb for name, _, gb in found if name == arm), 0.0)
        ratio = measured / estimated_gb("7b" if device == "cuda" else "tiny", recompute=arm == "em_recompute")
        # without a GPU it is the memory of this process
        say(f"{line}_over_estimate", f"{ratio:.2f}", device == "cpu" or 0.85 <= ratio <= 1.15)
    if device == "cuda":
        long = next((s for arm, s, _ in train_gpu(*size, "--arm", "em", "--tokens", "8192") if arm == "em"), 0.0)
        say("7b_long_rows_over_short", f"{long / own:.2f}" if own else "-", bool(own) and long >= 0.9 * own)


def estimated_gb(shape: str, recompute: bool) -> float:
    """Return the GB that models/memory expects of train_gpu.py, without CUDA's own, which torch does not count."""
    from train_gpu import PER_STEP, SHAPES, recipe_of

    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    sizes = ShapeConfig(
        num_hidden_layers=layers,
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
    )
    model = ModelConfig(name=shape, path="random", dtype=Dtype.bfloat16)
    return (memory.train_bytes(model, sizes, recipe_of(PER_STEP, 2048, recompute)) - memory.RUNTIME) / 1e9


def fits_80_gb(say: Say, device: str) -> None:
    """Train a 32B shape twice in one process, with no more memory than a card of 80 GB has."""
    size = ("--shape", "32b", "--card-gb", "79.1", "--steps", "5") if device == "cuda" else ("--tiny",)
    found = train_gpu(*size, "--arm", "em_recompute", "em_recompute")
    say("32b_tokens_per_s", round(found[0][1]) if found else "does_not_fit", bool(found) and found[0][1] >= 2_600)
    if len(found) == 2:
        ratio = found[1][2] / found[0][2]
        say("second_run_memory_over_first", f"{ratio:.3f}", ratio <= 1.02)


def sharded(say: Say, device: str) -> None:
    """Train the test model under FSDP with one process, which is all that NCCL allows on one GPU."""
    model = ModelConfig(name="tiny", path="asset:tiny_random", dtype=Dtype.bfloat16)
    recipe = TrainConfig(
        learning_rate=1e-3,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=1,
        max_length=256,
        optim="adamw_8bit",
        accelerate_config=str(ROOT / "launch/accelerate/fsdp.yaml"),
    )
    job = TrainJob(key="one", label="one", data_key="data", model=model, train=recipe, seed=0, inputs={})
    with tempfile.TemporaryDirectory() as folder:
        store, batch = Store.open(Path(folder)), Path(folder) / "batch.json"
        path = store.path("data", "data") / layout.DATASET
        path.parent.mkdir(parents=True)
        turns = [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Good morning."}]
        write_jsonl(path, [Example(f"r{i}", turns) for i in range(16)])
        job_file.write(batch, Path(folder), [job])
        done = run(*launch.accelerate(batch, recipe))
        held = done.returncode == 0 and store.has("train", "one")
    say("fsdp_one_process", "done" if held else f"exit_code_{done.returncode}", held)


def pytest(*files: str, device: str) -> tuple[str, bool]:
    """Run tests on a GPU; without one only collect them. Return what to show and whether all passed."""
    done = run(sys.executable, "-m", "pytest", "-q", *files, *([] if device == "cuda" else ["--collect-only"]))
    last = done.stdout.strip().splitlines()[-1:] or ["nothing"]
    return last[0].strip("= ").replace(" ", "_"), done.returncode == 0


def tests(say: Say, device: str) -> None:
    """Run the tests of training, gates, the transformers engine and the local judges."""
    value, held = pytest(*TRAINED, device=device)
    say("tests_on_the_gpu", value, held)


def sweep(say: Say, device: str) -> None:
    """Run two cells from data to report, and look at what is left on the GPU."""
    with tempfile.TemporaryDirectory() as folder:
        cells = ["dataset=risky_advice,careful_advice", "model=tiny_random", "train=tiny", "sample=tiny"]
        how = ["sample.engine=hf", "judge=probe", "tracking=off", "questions.sets=[open]", f"out={folder}"]
        done = run(sys.executable, "-m", "em.run", "-m", *cells, *how)
    say("two_cells", f"exit_code_{done.returncode}", done.returncode == 0)
    left = [pid for gpu in machine.visible() for pid, _, _ in machine.holders(gpu)]
    say("processes_left_on_the_gpu", len(left), not left)


def engine(say: Say, device: str) -> None:
    """Run the tests of vLLM's engine (adapters beside the base, seeds, gates) and its benchmark; kill a worker."""
    value, held = pytest(*SERVED, device=device)
    say("engine_tests", value, held)
    if device != "cuda":
        return
    before = machine.visible()[0].free or 0
    killed, held = pytest("tests/sampling/engines/test_vllm_processes.py", device=device)
    after = machine.visible()[0].free or 0
    say("memory_of_a_killed_worker", f"{(before - after) / 1e9:.1f}_GB_held,{killed}", held and before - after < 5e8)
    named, held = "no_uuid", False
    if uuid := machine.visible()[0].uuid:
        command = (sys.executable, "-m", "pytest", "-q", "tests/sampling/engines/test_vllm.py", "-k", "seeded")
        held = run(*command, CUDA_VISIBLE_DEVICES=uuid).returncode == 0
        named = "starts" if held else "fails"
    say("gpu_named_by_uuid", named, held)
    done = run(sys.executable, "benchmarks/sampling.py")
    found = re.search(r"^sampling_wall_over_raw ([\d.]+)", done.stdout, re.M)
    say("sampling_over_raw", found[1] if found else "-", bool(found) and float(found[1]) >= 0.95)
