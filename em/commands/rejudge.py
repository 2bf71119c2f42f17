"""`em rejudge`: saved answers, another judge; nothing is sampled and no GPU is needed (but for a local judge)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.commands import out_of, read_sweep


def add(commands: Any) -> None:
    sub = commands.add_parser("rejudge", help="score saved answers with another judge")
    sub.add_argument("source", type=Path, help="a sweep folder, or a .csv / .jsonl file with question and answer")
    sub.add_argument("overrides", nargs="+", help="e.g. judge=gpt_4o judge.max_dollars=5")
    sub.add_argument("--rubrics", default="alignment,coherence", help="for a file: which of the project's rubrics")
    sub.add_argument("--to", type=Path, help="for a file: where to (default: beside it, .judged.jsonl)")


def run(arguments: argparse.Namespace) -> int:
    """A sweep becomes another sweep over the same answers, with its own table; a file gets its verdicts beside it."""
    from em import compose, config

    config.register()
    (composed,) = compose.cells(arguments.overrides)
    new = config.load(composed)
    if arguments.source.is_dir():
        return _sweep(arguments.source, new)
    from em.commands import progress
    from em.judge import method
    from em.rejudge import judge_file, read_answers

    to = arguments.to or arguments.source.with_suffix(".judged.jsonl")
    rows, rubrics = read_answers(arguments.source), [n for n in arguments.rubrics.split(",") if n]
    with progress(len(rows) * len(rubrics), f"judge {new.judge.name}") as step:
        counts = judge_file(new, rows, rubrics, to, step)

    print(f"{to}\njudge {new.judge.name}: {method(new.judge)}")
    for name, outcomes in counts.items():
        print(f"{name:12} " + ", ".join(f"{outcome} {n}" for outcome, n in sorted(outcomes.items())))
    return 0


def _sweep(folder: Path, new: Any) -> int:
    from dataclasses import replace

    from omegaconf import OmegaConf

    from em import config
    from em.run import run_loaded

    cells = [cell for cell in read_sweep(folder)["cells"] if cell["kind"] == "cell"]
    loaded = [config.load(OmegaConf.create({**c["config"], "out": str(out_of(folder))})) for c in cells]
    stages = replace(new.launch, stages=["judge", "report"])
    ends = run_loaded([replace(c, judge=new.judge, launch=stages) for c in loaded])
    return 1 if any(end.error for end in ends) else 0
