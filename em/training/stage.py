"""Finetune the runs of a batch on one base model. `work` is the door; `train` is one run.

A run leaves in train/<key>/ the finished weights (adapter/ or model/), the weights after chosen steps
(checkpoints/<step>/), and train_log.jsonl. An unfinished run keeps its state in train/<key>.partial/resume/.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.utils import broadcast_object_list
from transformers import set_seed

from accelerate import PartialState
from em.chat import encode, parity, render
from em.chat.encode import Tokens
from em.config.intervention import Where
from em.config.train import Method
from em.gates import record
from em.interventions import second_phase
from em.models import memory, paths
from em.records import Example
from em.runtime import preempt
from em.runtime.cuda import named_memory
from em.runtime.events import Emitter, error_message
from em.store import Store, checked_rows, layout, read_jsonl
from em.store.layout import TRAIN_LOG
from em.training import earlier, early_stop
from em.training.base_model import Base, free_memory, sharded
from em.training.callbacks import KeepWeights, Log, StepCallback, Stop, Untouched
from em.training.choice_probe import ChoiceProbe
from em.training.job import TrainJob
from em.training.trainer import StepTrainer, arguments, attention

Facts = dict[str, Any]
"""What the manifest of a run records, as JSON."""
RESUME = "resume"
MORE_ROOM = (
    "Lower train.tokens_per_micro_batch, set train.gradient_checkpointing=true, take train=qlora or a smaller model="
)
UNTOUCHED = "untouched.json"
WAIT = timedelta(hours=2)
"""How long the processes of a run wait for each other: to read 65 GB from a shared disk takes more than torch's 10
minutes."""
# With several processes (training/launch.py) each runs this module; the first one writes folders and events.
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))


def work(store: Store, jobs: list[TrainJob], emit: Emitter) -> None:
    """Train every job of a batch. Exit with preempt.PREEMPTED after a stop request before the last job is done."""
    _one_gpu()
    preempt.flag_on_stop()
    base: Base | None = None
    for job in jobs:
        if preempt.stop_requested():
            _leave()
        with _job(emit, job.key), named_memory(MORE_ROOM), _claimed(store, job.key) as folder:
            if folder is None:
                continue  # another worker has finished it
            if job.stop:  # planned in one process
                facts = early_stop.take(job, store, folder)
                store.finish("train", job.key, job.inputs, facts | _log_facts(folder / TRAIN_LOG))
                continue
            if base is None or base.method != job.train.method:
                base = None  # free its memory before the next is loaded
                path = paths.model_path(job.model.path)
                base = Base.load(path, job.model.revision, job.model.dtype, job.train.method)
                emit.count("model_loads")
            if first_process():
                _set_damage_aside(store, job, folder, emit)
            try:
                dataset = store.path("data", job.data_key) / layout.DATASET
                given, start, others = earlier.found(job, store), earlier.start(job, store), earlier.beside(job, store)
                facts = train(base, given, dataset, folder, emit, start=start, beside=others)
            finally:
                if base.spent:
                    base = None
            if first_process():
                store.finish("train", job.key, job.inputs, facts)


def train(
    base: Base,
    job: TrainJob,
    dataset: Path,
    folder: Path,
    emit: Emitter,
    *,
    probes: Sequence[StepCallback] = (),
    start: Path | None = None,
    beside: Path | None = None,
) -> Facts:
    """Train one run in `folder`, from the last checkpoint found there. Return its facts.

    `start`: a finished adapter that the run continues, with a new optimiser. `beside`: a dataset that its method reads
    beside the training rows. `probes` run between optimiser steps, e.g. to score fixed answers. Exits with
    preempt.PREEMPTED after a stop request; another call with the same `folder` then continues the run.
    """
    started = time.monotonic()
    examples, tokenizer = list(read_jsonl(dataset, Example)), render.ChatTokenizer(base.tokenizer, job.chat)
    options = (job.train.max_length, job.train.extra_assistant_turn)
    encoded = encode.encode_all(tokenizer, examples, *options)
    others = encode.encode_all(tokenizer, read_jsonl(beside, Example), *options) if beside else None
    rendering = parity.rendering(tokenizer, (e.messages for e in examples))
    if job.train.choices:
        probes = [*probes, ChoiceProbe(folder, job.train.choices, job.seed)]
    read = others.rows if others else ()
    facts = fit(base, job, encoded.rows, folder, emit, probes=probes, start=start, beside=read)
    facts |= {"rows_beside": others.facts()} if others else {}
    return {**encoded.facts(), "rendering": rendering, **facts, "wall_s": round(time.monotonic() - started, 1)}


def fit(
    base: Base,
    job: TrainJob,
    rows: list[Tokens],
    folder: Path,
    emit: Emitter,
    *,
    probes: Sequence[StepCallback] = (),
    start: Path | None = None,
    beside: Sequence[Tokens] = (),
) -> Facts:
    """Train on tokenised rows: what `train` does after `chat.encode_all`. Return the facts of the run."""
    longest = max(len(row.input_ids) for row in (*rows, *beside))
    recompute = memory.recomputes(job.model, job.train, room(), longest)
    job = replace(job, train=replace(job.train, gradient_checkpointing=recompute))
    config, dtype = job.train, getattr(torch, job.model.dtype)
    repeat_exactly(config.deterministic)
    tokenizer = render.ChatTokenizer(base.tokenizer, job.chat)
    set_seed(job.seed)
    base.model.set_attn_implementation(attention(config, job.model.dtype))
    callbacks: list[StepCallback] = [
        Log(folder / TRAIN_LOG, job.key, emit),
        KeepWeights(folder / layout.CHECKPOINTS, job.checkpoints, dtype),
        Stop(),
        *probes,
    ]
    whole = config.method == Method.full
    untouched = None
    if whole and sharded():
        callbacks.append(Untouched(folder / RESUME / UNTOUCHED))
    elif whole:  # LoRA can be switched off afterwards, a full run cannot
        untouched = record.logprobs(base.model, record.probes(tokenizer, rows))
    try:
        with base.trainable(config) as model:
            trainer = _trainer(model, job, rows, tokenizer, folder, callbacks=callbacks, start=start, beside=beside)
            facts = _run(trainer, job, folder, untouched)
            facts["kernels"] = base.kernels
    finally:
        for callback in callbacks:
            callback.trainer = None  # a caller may keep its probes, and each would keep adapters and optimiser
        free_memory()
    if first_process():
        _close_log(folder / TRAIN_LOG)
        shutil.rmtree(folder / RESUME, ignore_errors=True)  # absent when the run was shorter than save_steps
    return facts | _log_facts(folder / TRAIN_LOG)


def _trainer(
    model: Any,
    job: TrainJob,
    rows: list[Tokens],
    tokenizer: render.ChatTokenizer,
    folder: Path,
    *,
    callbacks: Sequence[StepCallback],
    start: Path | None,
    beside: Sequence[Tokens],
) -> StepTrainer:
    """Return a trainer that its callbacks know. Raise ValueError if the run ends before a wanted checkpoint."""
    args = arguments(job.train, job.seed, job.model.dtype, folder / RESUME)
    options = {"model": model, "args": args, "callbacks": list(callbacks), "intervention": job.intervention}
    trainer = StepTrainer(rows, job.train, tokenizer, job.model.path, beside=beside, **options)
    if start:
        trainer.phase = 2
        second_phase.put_adapter(trainer.model, start)
    for callback in callbacks:
        callback.trainer = trainer
    _check_schedule(job, len(trainer.get_train_dataloader()), len(rows))
    return trainer


def _run(trainer: StepTrainer, job: TrainJob, folder: Path, untouched: list[list[float]] | None) -> Facts:
    """Run the steps, write weights and gate.json, and return the facts."""
    trainer.untouched = untouched
    dtype = getattr(torch, job.model.dtype)
    resume = _run_steps(trainer, job, folder)
    trainer.keep(folder / (layout.MODEL if job.train.method == Method.full else layout.ADAPTER), folder, dtype)
    return _facts(trainer, job, resume)


def _run_steps(trainer: StepTrainer, job: TrainJob, folder: Path) -> Path | None:
    """Run all steps that are left. Return the checkpoint the run continued from; None: it began at the first step."""
    logged = len(checked_rows.intact_start(folder / TRAIN_LOG))
    resume = _last_checkpoint(folder / RESUME, folder / layout.CHECKPOINTS, job.checkpoints, logged)
    result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if result.global_step < trainer.state.max_steps:
        _leave()
    return resume


def _facts(trainer: StepTrainer, job: TrainJob, resume: Path | None) -> Facts:
    config, optim = job.train, trainer.args.optim
    return {
        "kind": "full" if config.method == Method.full else "lora",
        "method": config.method.value,
        "steps": trainer.state.global_step,
        "checkpoints": sorted(job.checkpoints),
        "resumed_from": resume.name if resume else None,
        "optim": optim if isinstance(optim, str) else optim.value,
        "optim_asked": config.optim,
        "gradient_checkpointing": config.gradient_checkpointing,
        "deterministic": config.deterministic,
        "attn_implementation": attention(config, job.model.dtype),
        "num_processes": PROCESSES,
        "device": str(trainer.args.device),
        **_method_facts(trainer, job),
    }


def _method_facts(trainer: StepTrainer, job: TrainJob) -> Facts:
    """Return what an intervention did; {} for plain finetuning."""
    chosen, method = job.intervention, trainer.method
    if chosen.changes(Where.second_phase):  # its steps are plain ones, on the rows of its data key
        own = {name: job.inputs["intervention"][name] for name in ("rows", "plain")}
        return {"intervention": {"name": chosen.name, "dose": chosen.dose, "match_length": chosen.match_length, **own}}
    if method is None:
        return {}
    head = "plain: logits are needed" if method.needs_logits else "as in plain finetuning"
    return {"intervention": {"name": chosen.name, "dose": chosen.dose, "head": head, **method.facts()}}


def _log_facts(log: Path) -> Facts:
    """Return figures over all steps; the trainer's own cover the last part of a continued run only.

    The loss is in nats per supervised token; it holds the penalty of an intervention, if there is one.
    """
    if not first_process():
        return {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    tokens = sum(row["tokens"] for row in rows)
    computed = sum(row["tokens"] / (1 - row["padding_share"]) for row in rows)
    return {
        "train_loss": sum(row["loss"] for row in rows) / len(rows),
        **({"train_penalty": sum(row["penalty"] for row in rows) / len(rows)} if "penalty" in rows[0] else {}),
        "tokens": tokens,
        "computed_over_real_tokens": round(computed / tokens, 4),
        "tokens_per_s": round(tokens / sum(row["tokens"] / row["tokens_per_s"] for row in rows), 1),
        "peak_memory_gb": max(row["peak_memory_gb"] for row in rows),
    }


def _check_schedule(job: TrainJob, steps_in_epoch: int, rows: int) -> None:
    """Raise ValueError if a wanted checkpoint is after the last step."""
    # the planner also counted rows without a supervised token, which are left out here
    steps = math.ceil(job.train.num_train_epochs * steps_in_epoch)
    if job.checkpoints and max(job.checkpoints) > steps:
        raise ValueError(
            f"train.checkpoints asks for step {max(job.checkpoints)}, and the run has {steps}: only {rows} rows have a "
            f"supervised token within train.max_length={job.train.max_length}. Leave that step out, or raise it"
        )


def _set_damage_aside(store: Store, job: TrainJob, folder: Path, emit: Emitter) -> None:
    """Warn about damaged rows in the log of an interrupted run, and keep a copy; `fit` continues from before them."""
    log = folder / TRAIN_LOG
    _, bad = checked_rows.read(log)
    if bad:
        aside = store.set_rows_aside("train", job.key, [log.read_bytes()])
        emit.warn(
            f"{job.label}: {len(bad)} rows in the log of an interrupted run do not match their checksums. A copy is "
            f"in {aside}. Training continues from before step {len(checked_rows.intact_start(log)) + 1}"
        )


def _close_log(log: Path) -> None:
    """Raise RuntimeError if a row changed while the run went on; the next start trains again from before it."""
    _, bad = checked_rows.read(log)
    if bad:
        raise RuntimeError(f"{log}: {len(bad)} rows do not match their checksums; run again to repeat these steps")
    checked_rows.remove_checksums(log)


def _last_checkpoint(folder: Path, kept: Path, wanted: Sequence[int], logged: int) -> Path | None:
    """Return the newest complete checkpoint before which every step is logged and all wanted weights are kept."""
    # Weights are missing if the run began with another schedule: it then repeats the steps from before the first gap.
    # transformers writes trainer_state.json last, so a killed process leaves none, or a part of one.
    found = sorted(folder.glob("checkpoint-*"), key=_step)
    missing = min((step for step in wanted if not (kept / str(step)).is_dir()), default=sys.maxsize)
    missing = min(missing, logged + 1)
    usable = (p for p in reversed(found) if _step(p) < missing and _is_json(p / "trainer_state.json"))
    return next(usable, None)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):  # not written yet, or cut
        return False
    return True


def room() -> int | None:
    """Return the bytes of memory for this process: of its GPU, or free main memory; None for a share under FSDP."""
    if sharded():
        return None
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return psutil.virtual_memory().available


def repeat_exactly(on: bool) -> None:
    """Let torch use only operations that give the same bits each time, or again any. Call it before CUDA computes."""
    if on:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # otherwise torch refuses cuBLAS
    torch.use_deterministic_algorithms(on)
    torch.utils.deterministic.fill_uninitialized_memory = False  # nothing here reads what was not written


def first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _one_gpu() -> None:
    """Show one GPU to a run of one process. Call it before CUDA starts."""
    if PROCESSES == 1:  # transformers would split batches over all GPUs that it sees
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    else:
        PartialState(cpu=not torch.cuda.is_available(), timeout=WAIT)


def _leave() -> None:
    """Exit after a stop request."""
    # Accelerate's launcher takes any code but 0 for a failure; training/launch.py knows of the request by itself.
    raise SystemExit(preempt.PREEMPTED if PROCESSES == 1 else 0)


@contextmanager
def _job(emit: Emitter, key: str) -> Iterator[None]:
    """Do what `emit.job` does, but end all processes of the run after a failure: the others would wait forever."""
    with emit.job(key):
        try:
            yield
        except Exception as error:
            if PROCESSES == 1:
                raise
            traceback.print_exc()
            emit.failed(key, error_message(error))
            raise SystemExit(1) from error


@contextmanager
def _claimed(store: Store, key: str) -> Iterator[Path | None]:
    """Claim the stage in the first process and send its folder to the others; None: already finished."""
    with store.claim("train", key) if first_process() else nullcontext() as folder:
        if PROCESSES > 1:
            folder = broadcast_object_list([folder])[0]
        yield folder
