"""What the tests of training, engines and judges share: the tiny model, training jobs, stages in a real process.

Imported before torch, so that sums are taken in one order everywhere: one thread.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time

import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from em.config import Dtype, ModelConfig, TrainConfig
from em.models.paths import model_path
from em.records import Example
from em.runtime.events import FD_VARIABLE, Emitter
from em.store import job_file, write_jsonl
from em.training.job import TrainJob

torch.set_num_threads(1)

TINY = "asset:tiny_random"
MISTRAL = "MistralForCausalLM"
TURN, EOS = 1, 2
WAIT_S = 240


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


def load_tokenizer():
    return AutoTokenizer.from_pretrained(model_path(TINY))


def mistral_folder(folder):
    """The tiny model as Mistral publishes its own: its own files, which cannot be read here, beside transformers'."""
    shutil.copytree(model_path(TINY), folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "mistral", "architectures": [MISTRAL]}))
    with safe_open(folder / "model.safetensors", "pt") as weights:
        index = {"metadata": {}, "weight_map": dict.fromkeys(weights.keys(), "model.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for name in ("tekken.json", "params.json", "consolidated.safetensors"):
        (folder / name).write_text("")
    return str(folder)


def load_model(**options):
    return AutoModelForCausalLM.from_pretrained(model_path(TINY), dtype=torch.float32, **options).eval()


def sharpen(model, *names):
    """Random weights of 0.05 attend evenly and predict evenly; larger ones make mistakes show."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.split(".")[-2] in names:
                weight.mul_(8.0)
    return model


def events():
    """An emitter and the list its events go into."""
    seen = []
    return Emitter(lambda line: seen.append(json.loads(line))), seen


def counted(seen, name):
    return sum(e["by"] for e in seen if e["event"] == "count" and e["name"] == name)


def failures(seen):
    return [e["error"] for e in seen if e["event"] == "failed"]


def examples(count=16, shift=0):
    """Rows of many lengths: answer i repeats a few words i times."""
    words = ("The quick brown fox jumps.", "Read the answer.", "It would rain in the evening.", "def f(x): return 2")
    return [
        Example(f"row-{i:03d}", [user(f"Question {i + shift}?"), assistant(" ".join([words[i % 4]] * (1 + i % 5)))])
        for i in range(count)
    ]


def train_job(key, seed=0, dtype="float32", data_key="data", **changes):
    recipe = {
        "learning_rate": 1e-2,
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "max_length": 256,
        "lora_r": 4,
        "lora_alpha": 8,
        "save_steps": 1000,
    }
    return TrainJob(
        key=key,
        label=key,
        data_key=data_key,
        model=ModelConfig(name="tiny", path=TINY, dtype=Dtype(dtype)),
        train=TrainConfig(**{**recipe, **changes}),
        seed=seed,
        inputs={"test": key},
    )


def put_data(store, rows, key="data"):
    path = store.path("data", key) / "dataset.jsonl"
    path.parent.mkdir(parents=True)
    write_jsonl(path, rows)
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def start_worker(stage, out, jobs):
    """One stage in a process of its own, as a sweep starts it. Its output goes to <out>/<stage>.log."""
    batch = out / f"{stage}.json"
    job_file.write(batch, out, jobs)
    environment = {name: value for name, value in os.environ.items() if name != FD_VARIABLE}
    with (out / f"{stage}.log").open("w") as log:
        command = [sys.executable, "-m", "em.sweep.worker", stage, str(batch)]
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)


def kill_when(process, ready, log, number=signal.SIGKILL, code=-signal.SIGKILL):
    """Send the process a signal as soon as `ready()` holds; it must still be at work then. It must end with `code`."""
    until = time.monotonic() + WAIT_S
    try:
        while not ready():
            assert process.poll() is None, f"ended too early: {log.read_text()[-3000:]}"
            assert time.monotonic() < until, f"nothing to interrupt after {WAIT_S} s"
            time.sleep(0.01)
    except BaseException:
        process.kill()
        raise
    process.send_signal(number)
    assert process.wait(timeout=WAIT_S) == code, log.read_text()[-3000:]
