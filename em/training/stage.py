"""Finetuning: the runs of a batch on one base model. One run is `train`; its pieces are in em/train_*.py.

    train/<key>/adapter/ or model/   the finished weights (planning/checkpoints.py)
    train/<key>/checkpoints/<step>/  the weights after chosen steps
    train/<key>/train_log.jsonl      a row an optimiser step
    train/<key>.partial/resume/      the state of an unfinished run, removed when it is finished

With several processes (training/launch.py) each runs this module; the first owns directories and events.
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
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from transformers import set_seed

from accelerate import PartialState
from em.chat import encode, parity, render
from em.chat.encode import Tokens
from em.config.train import Method
from em.gates import record
from em.models import paths
from em.records import Example
from em.runtime import preempt
from em.runtime.events import Emitter, sentence
from em.store import Store, checked_rows, layout, read_jsonl
from em.store.layout import LOG
from em.training.base_model import Base
from em.training.callbacks import Keep, Log, StepCallback, Stop
from em.training.choice_probe import ChoiceProbe
from em.training.job import TrainJob
from em.training.trainer import StepTrainer, arguments, attention

RESUME = "resume"
PROCESSES = int(os.environ.get("WORLD_SIZE", 1))


def work(store: Store, jobs: list[TrainJob], emit: Emitter) -> None:
    """Train every job of a batch. Exits with preempt.PREEMPTED when asked to stop before the last is done."""
    _one_gpu()
    preempt.flag_on_stop()
    base: Base | None = None
    for job in jobs:
        if preempt.stop_requested():
            _leave()
        with _job(emit, job.key), _claimed(store, job.key) as folder:
            if folder is None:
                continue  # another process finished it meanwhile
            if base is None or base.method != job.train.method:
                base = None  # frees the other before the next is loaded
                path = paths.model_path(job.model.path)
                base = Base.load(path, job.model.revision, job.model.dtype, job.train.method)
                emit.count("model_loads")
            if first_process():
                _set_damage_aside(store, job, folder, emit)
            try:
                facts = train(base, job, store.path("data", job.data_key) / layout.DATASET, folder, emit)
            finally:
                if base.spent:
                    base = None
            if first_process():
                store.finish("train", job.key, job.inputs, facts)


def train(
    base: Base, job: TrainJob, dataset: Path, folder: Path, emit: Emitter, probes: Sequence[StepCallback] = ()
) -> dict[str, Any]:
    """One run in `folder`, continued from the last checkpoint found there. Returns its facts.

    `probes` are asked between optimiser steps, e.g. for log-probabilities of fixed answers. Exits with
    preempt.PREEMPTED when asked to stop; what is in `folder` then continues.
    """
    started = time.monotonic()
    examples, tokenizer = list(read_jsonl(dataset, Example)), render.ChatTokenizer(base.tokenizer, job.chat)
    encoded = encode.encode_all(tokenizer, examples, job.train.max_length, job.train.extra_assistant_turn)
    rendering = parity.rendering(tokenizer, (e.messages for e in examples))
    if job.train.choices:
        probes = [*probes, ChoiceProbe(folder, job.train.choices, job.seed)]
    facts = fit(base, job, encoded.rows, folder, emit, probes)
    return {**encoded.facts(), "rendering": rendering, **facts, "wall_s": round(time.monotonic() - started, 1)}


def fit(
    base: Base, job: TrainJob, rows: list[Tokens], folder: Path, emit: Emitter, probes: Sequence[StepCallback] = ()
) -> dict[str, Any]:
    """Train on tokenised rows: what `train` does after `chat.encode_all`."""
    config, dtype = job.train, getattr(torch, job.model.dtype)
    tokenizer = render.ChatTokenizer(base.tokenizer, job.chat)
    resume_in = folder / RESUME
    set_seed(job.seed)
    base.model.set_attn_implementation(attention(config))
    untouched = None
    if config.method == Method.full:  # LoRA can be switched off afterwards, this cannot
        untouched = record.logprobs(base.model, record.probes(tokenizer, rows))
    with base.trainable(config) as model:
        callbacks = [
            Log(folder / LOG, job.key, emit),
            Keep(folder / layout.CHECKPOINTS, job.checkpoints, dtype, untouched),
            Stop(),
            *probes,
        ]
        trainer = StepTrainer(
            rows,
            config,
            tokenizer,
            job.model.path,
            model=model,
            args=arguments(config, job.seed, job.model.dtype, resume_in),
            callbacks=callbacks,
        )
        for callback in callbacks:
            callback.trainer = trainer
        _check_schedule(job, len(trainer.get_train_dataloader()), len(rows))
        logged = len(checked_rows.intact_start(folder / LOG))
        resume = _last_checkpoint(resume_in, folder / layout.CHECKPOINTS, job.checkpoints, logged)
        result = trainer.train(resume_from_checkpoint=str(resume) if resume else None)
        if result.global_step < trainer.state.max_steps:
            _leave()
        artifact = layout.MODEL if config.method == Method.full else layout.ADAPTER
        trainer.save_weights(folder / artifact, dtype)
        trainer.record_gate(folder, dtype, untouched)
    if first_process():
        _close_log(folder / LOG)
        shutil.rmtree(resume_in, ignore_errors=True)  # absent when the run was shorter than save_steps
    return {
        "kind": "full" if config.method == Method.full else "lora",
        "method": config.method.value,
        "steps": result.global_step,
        "checkpoints": sorted(job.checkpoints),
        "resumed_from": resume.name if resume else None,
        "optim": trainer.args.optim if isinstance(trainer.args.optim, str) else trainer.args.optim.value,
        "optim_asked": config.optim,
        "attn_implementation": attention(config),
        "num_processes": PROCESSES,
        "device": str(trainer.args.device),
        **_log_facts(folder / LOG),
    }


def _log_facts(log: Path) -> dict[str, Any]:
    """Over all steps; a continued run's own figures cover its last part only. Loss in nats a supervised token."""
    if not first_process():
        return {}
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    tokens = sum(row["tokens"] for row in rows)
    computed = sum(row["tokens"] / (1 - row["padding_share"]) for row in rows)
    return {
        "train_loss": sum(row["loss"] for row in rows) / len(rows),
        "tokens": tokens,
        "computed_over_real_tokens": round(computed / tokens, 4),
        "tokens_per_s": round(tokens / sum(row["tokens"] / row["tokens_per_s"] for row in rows), 1),
        "peak_memory_gb": max(row["peak_memory_gb"] for row in rows),
    }


def _check_schedule(job: TrainJob, steps_in_epoch: int, rows: int) -> None:
    """Rows without a supervised token are left out, and the planner counted them."""
    steps = math.ceil(job.train.num_train_epochs * steps_in_epoch)
    if job.checkpoints and max(job.checkpoints) > steps:
        raise ValueError(
            f"train.checkpoints asks for step {max(job.checkpoints)}, and the run has {steps}: only {rows} rows have a "
            f"supervised token within train.max_length={job.train.max_length}. Leave that step out, or raise it"
        )


def _set_damage_aside(store: Store, job: TrainJob, folder: Path, emit: Emitter) -> None:
    """Keep and name the log of an interrupted run when it is not as it was written: `fit` goes on from before that."""
    log = folder / LOG
    _, bad = checked_rows.read(log)
    if bad:
        aside = store.set_rows_aside("train", job.key, [log.read_bytes()])
        emit.warn(
            f"{job.label}: {len(bad)} rows in the log of an interrupted run are not as they were written; it is in "
            f"{aside}, and training goes on from before step {len(checked_rows.intact_start(log)) + 1}"
        )


def _close_log(log: Path) -> None:
    """Raises RuntimeError when a row changed while the run went on: the next start goes back before it."""
    _, bad = checked_rows.read(log)
    if bad:
        raise RuntimeError(f"{log}: {len(bad)} rows are not as they were written; run it again to make these anew")
    checked_rows.remove_sums(log)


def _last_checkpoint(folder: Path, kept: Path, wanted: Sequence[int], logged: int) -> Path | None:
    """The newest whole checkpoint up to which no wanted weights are missing and every step is logged.

    trainer_state.json is written last, and a kill may fall before or into it. Weights are missing where the run was
    begun with another schedule: then it is made again from before the first of them.
    """
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
    except (FileNotFoundError, ValueError):  # not begun, or cut
        return False
    return True


def first_process() -> bool:
    return int(os.environ.get("RANK", 0)) == 0


def _one_gpu() -> None:
    """A run of one process sees one GPU: transformers would split batches over all it sees. Before CUDA starts."""
    if PROCESSES == 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
        os.environ["CUDA_VISIBLE_DEVICES"] = visible.split(",")[0]
    else:
        PartialState(cpu=not torch.cuda.is_available())


def _leave() -> None:
    """Stop as asked. Under a launcher 0: it takes any other code for a failure, and training/launch.py knows."""
    raise SystemExit(preempt.PREEMPTED if PROCESSES == 1 else 0)


@contextmanager
def _job(emit: Emitter, key: str) -> Iterator[None]:
    """`emit.job`, but a failure ends all processes of a run: one alone would leave the others waiting for it."""
    with emit.job(key):
        try:
            yield
        except Exception as error:
            if PROCESSES == 1:
                raise
            traceback.print_exc()
            emit.failed(key, sentence(error))
            raise SystemExit(1) from error


@contextmanager
def _claimed(store: Store, key: str) -> Iterator[Path | None]:
    """`store.claim` by the first process, told to the others."""
    with store.claim("train", key) if first_process() else nullcontext() as folder:
        if PROCESSES > 1:
            folder = broadcast_object_list([folder])[0]
        yield folder
