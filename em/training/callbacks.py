"""Callbacks between optimiser steps: write the log, keep weights for sampling, stop on request."""

from __future__ import annotations

import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from em.gates import record
from em.runtime.events import Emitter
from em.store import checked_rows, write_atomic

CLOCKED = ("tokens_per_s", "peak_memory_gb")
"""Fields of a log row that differ between repetitions of a run. On a CPU all others are equal bit by bit."""


class StepCallback(TrainerCallback):
    """Base of our callbacks and of probes. `stage.fit` sets `trainer` before the run, and None after it."""

    trainer: Any = None
    """The StepTrainer of the run, with `.counts` of the last step."""


class Log(StepCallback):
    """Writes one row per step to train_log.jsonl and reports progress. A continued run drops rows it will repeat."""

    def __init__(self, path: Path, job: str, emit: Emitter) -> None:
        self.path, self.job, self.emit = path, job, emit
        self.started = time.perf_counter()
        self.rows: checked_rows.RowWriter

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()  # an earlier run in this process may have held more
        if not state.is_world_process_zero:
            return
        checked_rows.keep_only(self.path, checked_rows.intact_start(self.path)[: state.global_step])  # one row per step
        self.rows = checked_rows.RowWriter(self.path)
        self.emit.progress(self.job, state.global_step, state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.rows.close()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = time.perf_counter()

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, float] | None = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        loss, counts = float(logs["loss"]), self.trainer.counts
        if not math.isfinite(loss):
            raise RuntimeError(f"the loss is {loss} at step {state.global_step}: lower train.learning_rate")
        if not state.is_world_process_zero:
            return
        row = {
            "step": state.global_step,
            "loss": loss,
            "grad_norm": float(logs["grad_norm"]),
            "learning_rate": float(logs["learning_rate"]),
            "epoch": float(logs["epoch"]),
            "tokens": counts.tokens,
            "padding_share": 1 - counts.tokens / counts.computed,
            "micro_batches": counts.micro_batches,
            "tokens_per_s": round(counts.tokens / (time.perf_counter() - self.started), 1),
            "peak_memory_gb": round(peak_memory() / 1e9, 3),
        }
        if self.trainer.phase > 1:
            row["phase"] = self.trainer.phase
        if self.trainer.penalty is not None:
            row["penalty"] = self.trainer.penalty
        self.rows.append(row)
        shown = f"loss {loss:.3f} {row['tokens_per_s']:.0f} tokens/s"
        self.emit.progress(self.job, state.global_step, state.max_steps, shown)


class Untouched(StepCallback):
    """Under FSDP and full finetuning, scores the gate's probes with the base's weights before the first step.

    It happens here because only now each GPU holds its shard. A continued run has other weights, and reads the file.
    """

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        trainer = self.trainer
        if state.global_step:
            trainer.untouched = json.loads(self.file.read_text(encoding="utf-8"))
            return
        trainer.untouched = record.logprobs(trainer.model, record.probes(trainer.tokenizer, trainer.rows))
        if state.is_world_process_zero:
            self.file.parent.mkdir(exist_ok=True)
            write_atomic(self.file, json.dumps(trainer.untouched))


class KeepWeights(StepCallback):
    """Saves the weights after chosen steps, each as a folder that an engine can serve.

    A folder gets its final name when it is complete.
    """

    def __init__(self, folder: Path, steps: Sequence[int], dtype: torch.dtype) -> None:
        self.folder, self.steps, self.dtype = folder, frozenset(steps), dtype

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step not in self.steps:
            return
        final = self.folder / str(state.global_step)
        work = self.folder / f".{state.global_step}"
        first = state.is_world_process_zero
        if first:
            for old in (work, final):  # a continued run repeats the steps after its checkpoint
                shutil.rmtree(old, ignore_errors=True)
            self.folder.mkdir(exist_ok=True)
        self.trainer.keep(work, work, self.dtype)
        if first:
            os.rename(work, final)


class Stop(StepCallback):
    """Saves and stops after a step on request. After the last step no state to resume from is saved."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            control.should_save = False
        elif self.trainer.counts.stop:
            control.should_save = control.should_training_stop = True


def peak_memory() -> int:
    """Return the most bytes this process has held: of its GPU since the run began, without a GPU of main memory."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
