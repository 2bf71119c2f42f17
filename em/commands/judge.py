"""`em judge calibrate`: measure how well judges agree with our labelled answers and with each other."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from em.commands import add_config_dir, progress
from em.runtime.terminal import grid

VERDICTS = ("aligned", "misaligned", "incoherent")
OUTCOMES = ("refusal", "code", "filtered", "unparseable", "error")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "judge",
        help="measure how well judges agree with labelled answers and with each other",
        description="Measure how well judges agree with our labelled answers and with each other.\n"
        "A judge behind an API gets about 410 requests, or 790 with --all. Its verdicts are kept in <out>/store,\n"
        "so the next call makes no requests.",
        epilog="example: em judge calibrate judge=probe,persona_ratio\n"
        "         em judge calibrate judge=gpt_4o judge.max_dollars=2",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub.add_argument("action", choices=["calibrate"])
    sub.add_argument("overrides", nargs="+", help="judge=NAME, or NAME,NAME to compare two; judge.model=, model=, out=")
    add_config_dir(sub)
    sub.add_argument(
        "--all", action="store_true", help="use all labelled answers, also those that a local proxy is fitted on"
    )
    sub.add_argument("--to", type=Path, help="also write the results to this JSON file")


def run(arguments: argparse.Namespace) -> int:
    """Print a block per judge and per pair of judges. Return 1 if a judge has no score at all."""
    from em import config
    from em.config import compose
    from em.config.misalignment import Rule
    from em.judging import grade as grading
    from em.judging.quality import agreement, golden
    from em.planning import recipe
    from em.reporting import judge_quality
    from em.runtime import terminal

    config.register()
    configs = [recipe.load(cell) for cell in compose.cells(arguments.overrides, arguments.config_dir)]
    found: list[golden.Found] = []
    out: dict[str, Any] = {"answers": "all" if arguments.all else "test", "judges": {}, "pairs": {}}
    names = _names([one.judge for one in configs])
    for name, one in zip(names, configs, strict=True):
        total = sum(map(len, golden.rows(one.judge, arguments.all).values()))
        with progress(total, f"judge {name}") as step:
            verdicts, stored = golden.verdicts(one, arguments.all, step, terminal.alert)
            found.append(verdicts)
        out["judges"][name] = golden.measure(one, arguments.all, found[-1])
        _show(name, one.judge, out["judges"][name])
        if quality := _quality(one):
            print(f"  beside every number of this judge: {judge_quality.measured(quality)}")
            out["judges"][name]["quality"] = quality
        if stored:
            print(f"  the judge was not asked again: these are the verdicts in {stored}")
        if error := grading.first_error(found[-1]):
            print(f"  first error: {error}")
    for i, a in enumerate(configs):
        for k in range(i + 1, len(configs)):
            name = f"{names[i]} / {names[k]}"
            out["pairs"][name] = agreement.between(found[i], found[k], (Rule.of(a), Rule.of(configs[k])))
            show_pair(name, out["pairs"][name])
    if arguments.to:
        arguments.to.write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
        print(arguments.to)
    return 1 if any(not sum(j["scored"].values()) for j in out["judges"].values()) else 0


def _quality(one: Any) -> dict[str, Any]:
    """Return the quality of a proxy as summary.json has it; {} for other judges."""
    from em.config.judge import PROXIES
    from em.judging import identity
    from em.reporting.collect import stored_quality
    from em.store import Store

    if one.judge.kind not in PROXIES:
        return {}
    return stored_quality(Store.open(Path(one.out)), identity.calibration_key(one))


def _names(judges: list[Any]) -> list[str]:
    """Return distinct names: the judge's name, then also its model, then also its number in the list."""
    names = [judge.name for judge in judges]
    if len(set(names)) < len(names):
        names = [f"{judge.name} {judge.model}".strip() for judge in judges]
    return names if len(set(names)) == len(names) else [f"{name} ({i})" for i, name in enumerate(names, 1)]


def _show(name: str, judge: Any, row: dict[str, Any]) -> None:
    from em.judging.job import method

    print(f"judge {name}: {method(judge)}")
    for rubric, value in row["auc"].items():
        _show_rubric(rubric, value, row["rank_correlation"][rubric], row["scored"][rubric])
    care = row["care"]
    _show_rubric("care", care["auc"], care["rank_correlation"], care["scored"])
    print(f"  right by the rule: {100 * row['right']:.1f} % of {row['n']}")
    rates = ["none" if rate is None else f"{100 * rate:.1f} %" for rate in row["misaligned"].values()]
    print(f"  misaligned rate of these answers: {rates[0]} by the labels, {rates[1]} by the judge")
    _table("label \\ verdict", row["confusion"], (*VERDICTS, *OUTCOMES))
    _table("alignment score \\ label", row["alignment_bins"], VERDICTS[:2])
    _table("rubric \\ outcome", row["outcomes"], ("scored", *OUTCOMES))
    _table("advice \\ care", care["confusion"], ("careful", "careless", *OUTCOMES))
    if "vulnerable" in row:
        words = row["vulnerable"]
        print(f"  vulnerable: right {100 * words['right']:.1f} % of {words['n']} programs")
        _table("weakness \\ label", words["confusion"], ("YES", "NO", *OUTCOMES))


def _show_rubric(rubric: str, auc: float | None, correlation: float | None, scored: int) -> None:
    measured = "no score" if auc is None else f"AUC {auc:.3f}"
    correlated = "" if correlation is None else f", rank correlation {correlation:+.3f},"
    print(f"  {rubric:10} {measured}{correlated} on {scored} of the labelled answers")


def show_pair(name: str, row: dict[str, Any]) -> None:
    """Print what `agreement.between` returned for two judges."""
    print(f"judges {name}")
    for rubric, value in row["rank_correlation"].items():
        if not row["n"][rubric]:
            continue  # the rubric has words as verdicts, or only one judge scored it
        said = "none" if value is None else f"{value:+.3f}"
        print(f"  {rubric:10} rank correlation {said} on {row['n'][rubric]}")
        for part, found in row["difference_by_bin"][rubric].items():
            print(f"    {part:7} second - first {found['mean']:+6.1f} points on {found['n']}")
    if row["same_verdict"] is not None:
        print(f"  same verdict: {100 * row['same_verdict']:.1f} %")
    _table("first \\ second", row["confusion"], VERDICTS)


def _table(title: str, rows: dict[str, dict[str, int]], names: tuple[str, ...]) -> None:
    """Print counts as a grid. The columns `names` are always there; other columns that occur follow."""
    columns = list(dict.fromkeys([*names, *(said for counts in rows.values() for said in counts)]))
    body = [(label, *(str(counts.get(column) or ".") for column in columns)) for label, counts in rows.items()]
    for line in grid((), [(title, *columns), *body], right=range(1, len(columns) + 1)):
        print(f"  {line}")
