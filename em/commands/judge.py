"""`em judge calibrate`: how well judges agree with our labelled answers and with each other."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    sub = commands.add_parser("judge", help="calibrate: agreement of judges with labelled answers and with each other")
    sub.add_argument("action", choices=["calibrate"])
    sub.add_argument("overrides", nargs="+", help="judge=probe,persona_ratio (commas: several judges), model=, out=")
    sub.add_argument("--all", action="store_true", help="all labelled answers, also those a local proxy is fitted on")
    sub.add_argument("--to", type=Path, help="write everything as JSON")


def run(arguments: argparse.Namespace) -> int:
    """One block a judge, one a pair of judges. 1 when some judge has no verdict at all."""
    from em import agreement, compose, config, corpora, rejudge

    config.register()
    configs = [config.load(cell) for cell in compose.cells(arguments.overrides)]
    rows = [r for r in corpora.golden() if arguments.all or r["split"] == "test"]
    rubrics = ("alignment", "coherence")
    found, out = [], {"answers": len(rows), "judges": {}, "pairs": {}}
    for one in configs:
        pairs = [rejudge.pair(r["id"], r["question"], r["answer"], name) for r in rows for name in rubrics]
        graded = rejudge.grade(one, pairs)
        found.append({(c.removesuffix("/none/0"), name): j for (c, name), j in graded.items()})
        out["judges"][one.judge.name] = agreement.against_labels(rows, found[-1], one.judge)
        _show(one.judge, out["judges"][one.judge.name])
    for i, a in enumerate(configs):
        for k in range(i + 1, len(configs)):
            name = f"{a.judge.name} / {configs[k].judge.name}"
            out["pairs"][name] = agreement.between(found[i], found[k], (a.judge, configs[k].judge))
            _show_pair(name, out["pairs"][name])
    if arguments.to:
        arguments.to.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
        print(arguments.to)
    return 1 if any(not sum(j["scored"].values()) for j in out["judges"].values()) else 0


def _show(judge: Any, row: dict[str, Any]) -> None:
    from em.judge import method

    print(f"judge {judge.name}: {method(judge)}")
    for rubric, value in row["auc"].items():
        text = "no score" if value is None else f"AUC {value:.3f}"
        print(f"  {rubric:10} {text} on {row['scored'][rubric]} of the labelled answers")
    print(f"  right by the rule: {100 * row['right']:.1f} % of {row['n']}")
    _table("  label → verdict", row["confusion"])
    _table("  alignment score → label", row["alignment_bins"])


def _show_pair(name: str, row: dict[str, Any]) -> None:
    print(f"judges {name}")
    for rubric, value in row["rank_correlation"].items():
        said = "none" if value is None else f"{value:+.3f}"
        print(f"  {rubric:10} rank correlation {said} on {row['n'][rubric]}")
        for part, found in row["difference_by_bin"][rubric].items():
            print(f"    {part:7} second - first {found['mean']:+6.1f} points on {found['n']}")
    if row["same_verdict"] is not None:
        print(f"  same verdict: {100 * row['same_verdict']:.1f} %")
    _table("  first → second", row["confusion"])


def _table(title: str, rows: dict[str, dict[str, int]]) -> None:
    print(title)
    for label, counts in rows.items():
        print(f"    {label:12} " + ", ".join(f"{said} {n}" for said, n in counts.items()))
