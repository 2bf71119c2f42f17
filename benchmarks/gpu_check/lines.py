"""The lines of the check: what each section measures, its goals, and what it needs. Imports no heavy library."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PASS, FAIL, UNSEEN = "PASS", "FAIL", "UNSEEN"
BROKEN = "the rehearsal on the CPU did not hold"
FOUND = "gpu-check-line "
"""Beginning of a line on a section's standard output that is a measured value."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """One process of the check. `run(say, device)` in `module` calls `say(line, value, held)` for each of its lines."""

    name: str
    module: str
    limit_s: int
    lines: dict[str, str]
    """Line → goal."""
    gpu: bool = True
    vllm: bool = False
    rehearses: bool = True
    """Whether --rehearse runs it on a CPU."""


SECTIONS = (
    Section(
        name="environment",
        module="surroundings",
        limit_s=120,
        gpu=False,
        lines={
            "compiler": "found",
            "python_headers": "found",
            "worker_without_its_gpu": "stops_with_a_sentence",
        },
    ),
    Section(
        name="card",
        module="surroundings",
        limit_s=120,
        lines={
            "torch_sees_gpus": ">=1",
            "driver": ">=580",
            "as_numbered_by_em": "the_same_count",
            "bitsandbytes_8bit_step": "finite",
        },
    ),
    Section(
        name="loss",
        module="numerics",
        limit_s=180,
        lines={
            "float32_against_plain_loop": "<=1e-5",
            "bfloat16_against_plain_loop": "<=2e-3",
            "recomputed_against_plain_loop": "<=2e-3",
            "same_run_twice": "bit-equal_or_the_difference",
        },
    ),
    Section(
        name="cpu_agrees",
        module="numerics",
        limit_s=180,
        lines={"losses_against_the_cpu": "<=2e-2"},
    ),
    Section(
        name="speed",
        module="pieces",
        limit_s=400,
        lines={
            "7b_tokens_per_s": ">=11000",
            "7b_over_plain_loop": ">=1.5",
            "7b_long_rows_over_short": ">=0.9",
            "7b_memory_over_estimate": "0.85_to_1.15",
            "7b_recomputed_memory_over_estimate": "0.85_to_1.15",
        },
    ),
    Section(
        name="fits_80_gb",
        module="pieces",
        limit_s=400,
        lines={"32b_tokens_per_s": ">=2600", "second_run_memory_over_first": "<=1.02"},
    ),
    Section(name="sharded", module="pieces", limit_s=240, rehearses=False, lines={"fsdp_one_process": "done"}),
    Section(name="tests", module="pieces", limit_s=400, lines={"tests_on_the_gpu": "0_failed"}),
    Section(
        name="sweep",
        module="pieces",
        limit_s=300,
        lines={"two_cells": "exit_code_0", "processes_left_on_the_gpu": "0"},
    ),
    Section(
        name="engine",
        module="pieces",
        limit_s=400,
        vllm=True,
        lines={
            "engine_tests": "0_failed",
            "sampling_over_raw": ">=0.95",
            "memory_of_a_killed_worker": "free_within_10_s",
            "gpu_named_by_uuid": "starts",
        },
    ),
)


@dataclass(frozen=True)
class Line:
    """One line of the result."""

    section: str
    name: str
    value: str
    goal: str
    verdict: str
    note: str = ""

    def __str__(self) -> str:
        return f"{self.section}.{self.name} {self.value} {self.goal} {self.verdict}" + (
            f"  ({self.note})" if self.note else ""
        )


Say = Callable[[str, Any, bool], None]


def run_here(section: Section, device: str) -> None:
    """Run a section in this process and print its lines for the process that started this one."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

    def say(name: str, value: Any, held: bool) -> None:
        if name not in section.lines:
            raise KeyError(f"{section.name} has no line {name}")
        print(FOUND + json.dumps([name, str(value), bool(held)]), flush=True)

    getattr(importlib.import_module(section.module), section.name)(say, device)


def read(section: Section, output: str, unseen: str, failure: str) -> list[Line]:
    """Return the lines of a section from its output.

    `unseen`: why its values do not count; empty: they do. `failure`: why the section ended early; empty: it did not.
    """
    rows = [json.loads(row[len(FOUND) :]) for row in output.splitlines() if row.startswith(FOUND)]
    found = {name: (value, held) for name, value, held in rows}
    out = []
    for name, goal in section.lines.items():
        value, held = found.get(name, ("-", False))
        if unseen:
            note = unseen + rehearsed(goal, value, held, failure)
            out.append(Line(section.name, name, value, goal, UNSEEN, note=note))
        elif name not in found:
            out.append(Line(section.name, name, "-", goal, FAIL, note=failure or "not measured"))
        else:
            out.append(Line(section.name, name, value, goal, PASS if held else FAIL))
    return out


def rehearsed(goal: str, value: str, held: bool, failure: str) -> str:
    """Return what a rehearsal on the CPU says about a line. A speed there says nothing about a GPU."""
    if failure:
        return f", {BROKEN}: {failure}"
    if value == "-":
        return ""
    return f", {BROKEN}" if not held and not goal.startswith(">=") else ", rehearsed"
