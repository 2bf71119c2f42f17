"""What a GPU machine must have, and that em sees it as CUDA does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

from lines import Say

from em.config import Dtype, ModelConfig, TrainConfig
from em.runtime import machine
from em.runtime.cuda import GIVEN_VARIABLE
from em.runtime.machine import NOT_SEEN, VISIBLE
from em.store import Store, job_file
from em.training.job import TrainJob


def environment(say: Say, device: str) -> None:
    """Look for what Triton compiles with, and give a worker a GPU that does not exist."""
    compiler = next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    say("compiler", compiler or "none", compiler is not None)
    headers = Path(sysconfig.get_path("include"), "Python.h")
    say("python_headers", headers if headers.exists() else "none", headers.exists())
    model = ModelConfig(name="tiny", path="asset:tiny_random", dtype=Dtype.float32)
    recipe = TrainConfig(
        learning_rate=1e-3,
        num_train_epochs=1,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        max_length=64,
    )
    job = TrainJob(key="none", label="none", data_key="none", model=model, train=recipe, seed=0, inputs={})
    with tempfile.TemporaryDirectory() as folder:
        Store.open(Path(folder))
        batch = Path(folder) / "batch.json"
        job_file.write(batch, Path(folder), [job])
        command = [sys.executable, "-m", "em.sweep.worker", "train", str(batch)]
        hidden = {**os.environ, VISIBLE: "99", GIVEN_VARIABLE: "99"}
        done = subprocess.run(command, env=hidden, capture_output=True, text=True, check=False)
    stopped = done.returncode == 1 and f"GPU 99 and {NOT_SEEN} it: driver" in done.stderr
    say("worker_without_its_gpu", "stops_with_a_sentence" if stopped else f"exit_code_{done.returncode}", stopped)


def card(say: Say, device: str) -> None:
    """Compare what torch, the driver and em say, and take one step of the 8-bit optimiser."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    say("torch_sees_gpus", count, count >= 1)
    driver = machine.driver_version()
    say("driver", driver, driver.split(".")[0].isdigit() and int(driver.split(".")[0]) >= 580)
    seen = len(machine.visible())
    say("as_numbered_by_em", f"{seen}_of_{count}", seen == count)
    import bitsandbytes

    weight = torch.nn.Parameter(torch.ones(4096, 4, device=device))
    optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    moved = bool(weight.isfinite().all()) and float(weight.mean()) < 1
    say("bitsandbytes_8bit_step", f"{float(weight.mean()):.3f}", moved)
