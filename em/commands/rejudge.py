"""`em rejudge`: score saved answers with another judge. Samples nothing; only a local judge needs a GPU."""

from __future__ import annotations

import argparse
import re
from itertools import count
from pathlib import Path
from typing import Any

from em.commands import add_config_dir, progress, sweep_folder
from em.sweep.folder import configs_of, out_of, read_sweep

ABOUT_JUDGING = {"budget", "hydra", "judge", "launch", "name", "stats", "tracking"}
"""Config groups and keys that may differ from those of the sweep."""


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "rejudge",
        help="score saved answers with another judge",
        description="Score saved answers with another judge; nothing is sampled. For a sweep, this makes another sweep "
        "over the same answers, with its own table, and prints how far the two judges agree. For a file, it writes "
        "the verdicts to another file, a new one for each judge and rubric.",
        epilog="example: em rejudge em-1a2b3c4d judge=gpt_4o judge.max_dollars=5",
    )
    sub.add_argument("source", type=sweep_folder, help="a sweep, or a .csv / .jsonl file with question and answer")
    sub.add_argument("overrides", nargs="+", help="e.g. judge=gpt_4o judge.max_dollars=5")
    add_config_dir(sub)
    sub.add_argument(
        "--rubrics",
        default="alignment,coherence",
        help="for a file: names of the project's rubrics, or paths of yours (.txt)",
    )
    sub.add_argument(
        "--to",
        type=Path,
        help="for a file: path of the verdicts; no file may be there (default: beside the file, named after it, the "
        "judge and the rubrics, ending in .judged.jsonl)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Return 1 if a cell of the sweep failed, or if no answer of the file has a verdict."""
    from em import errors
    from em.config import compose
    from em.config import experiment as config

    config.register()
    if arguments.source.is_dir():
        _require_about_judging(arguments.overrides)
    composed = compose.cells(arguments.overrides, arguments.config_dir)
    if len(composed) > 1:
        raise errors.ConfigError(f"em rejudge takes one judge, {len(composed)} were given: call it once for each")
    new = config.load(composed[0])
    return (_sweep if arguments.source.is_dir() else _file)(arguments, new)


def _groups(overrides: list[str]) -> set[str]:
    """Return the config groups and top-level keys that the overrides change."""
    return {re.split(r"[=./]", override.lstrip("+~"), maxsplit=1)[0] for override in overrides}


def _require_about_judging(overrides: list[str]) -> None:
    """Raise ConfigError for overrides that would change the answers or their place: the answers exist already."""
    from em.errors import ConfigError

    if others := sorted(_groups(overrides) - ABOUT_JUDGING):
        raise ConfigError(
            f"em rejudge of a sweep takes overrides of {', '.join(sorted(ABOUT_JUDGING))}, not of {', '.join(others)}: "
            f"everything else stays as the sweep has it"
        )


def _file(arguments: argparse.Namespace, new: Any) -> int:
    from em.errors import ConfigError
    from em.judging.grade import judge_file, read_answers
    from em.judging.job import method

    rows, rubrics = read_answers(arguments.source), [n for n in arguments.rubrics.split(",") if n]
    to = arguments.to or _unused(arguments.source, new.judge.name, rubrics)
    if to.exists():
        raise ConfigError(f"{to} is there already, and verdicts are never overwritten: give another --to")
    with progress(len(rows) * len(rubrics), f"judge {new.judge.name}") as step:
        counts, error = judge_file(new, rows, rubrics, to, step)
    print(f"{to}\njudge {new.judge.name}: {method(new.judge)}")
    for name, outcomes in counts.items():
        print(f"{name:12} " + ", ".join(f"{outcome} {n}" for outcome, n in sorted(outcomes.items())))
    if error:
        print(f"first error: {error}")
    return 0 if any(set(outcomes) != {"error"} for outcomes in counts.values()) else 1


def _unused(source: Path, judge: str, rubrics: list[str]) -> Path:
    """Return a path that is free: answers.gpt_4o.alignment.judged.jsonl, then ...judged-2.jsonl and so on."""
    words = [judge, "+".join(Path(rubric).stem for rubric in rubrics)]
    stem = ".".join([source.stem, *(re.sub(r"[^\w.=+-]+", "_", word) for word in words)])
    names = (f"{stem}.judged{f'-{number}' if number > 1 else ''}.jsonl" for number in count(1))
    return next(path for name in names if not (path := source.with_name(name)).exists())


def _sweep(arguments: argparse.Namespace, new: Any) -> int:
    from dataclasses import replace

    from em.planning.plan import folder_of
    from em.run import run_loaded

    old = configs_of(arguments.source)
    launch = replace(new.launch, stages=["judge", "report"])
    given = _groups(arguments.overrides) & {"name", "stats", "tracking"}
    mine = {"judge": new.judge, "launch": launch, "budget": new.budget, **{name: getattr(new, name) for name in given}}
    cells = [replace(c, **mine) for c in old]
    ends = run_loaded(cells)
    if (folder := folder_of(cells).resolve()) != arguments.source.resolve():
        _compare(arguments.source, folder, (old[0], cells[0]))
    return 1 if any(end.error for end in ends) else 0


def _compare(old: Path, new: Path, configs: tuple[Any, Any]) -> None:
    """Print how far the two judges agree on the same answers."""
    from em.commands.judge import show_pair
    from em.config.misalignment import Rule
    from em.judging.grade import MAX_COMPARED, verdicts_of
    from em.judging.quality.agreement import between
    from em.store import Store

    sweeps = [read_sweep(folder) for folder in (old, new)]
    same = set.intersection(*({k for c in s["cells"] for k in c["stages"].get("judge", ())} for s in sweeps))
    store = Store.open(out_of(old))
    before, after = (verdicts_of(store, s, skip=same) for s in sweeps)
    if not (before and after):
        return
    rules = [Rule.of(c) for c in configs]
    show_pair(" / ".join(c.judge.name for c in configs), between(before, after, (rules[0], rules[1])))
    if any(len(f) == MAX_COMPARED for f in (before, after)):
        print(f"  compared on the first {MAX_COMPARED} verdicts of each")
