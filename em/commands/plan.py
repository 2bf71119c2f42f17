"""`em plan`: show what a sweep would run and cost. Runs nothing and writes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from em.commands import add_config_dir, example


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "plan",
        help="show what a sweep would run, reuse and cost",
        epilog=example("em plan dataset=insecure,secure seed=0,1"),
    )
    sub.add_argument(
        "-m", "--multirun", action="store_true", help="accepted, but not needed: commas always mean a sweep here"
    )
    sub.add_argument("overrides", nargs="*", help="as for python -m em.run -m, e.g. dataset=insecure,secure seed=0,1")
    add_config_dir(sub)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per cell, then the estimate. Return 1 if the estimate exceeds the budget."""
    from em import config
    from em.config import compose
    from em.errors import ConfigError
    from em.planning import doctor, estimate, recipe
    from em.planning.plan import folder_of, plan, stages
    from em.store import Store

    config.register()
    configs = [recipe.load(cell) for cell in compose.cells(arguments.overrides, arguments.config_dir)]
    store = Store.open_read_only(Path(configs[0].out))
    planned = plan(configs, store)
    print(f"{len(planned.cells)} cells → {folder_of(configs)}")
    width = max(len(subject.label) for subject in planned.subjects)
    for subject in planned.subjects:
        parts = [
            f"{s} {sum(store.has(s, k) for k in keys)}/{len(keys)}" for s, keys in stages(planned, subject).items()
        ]
        print(f"  {subject.label:{width}} {'  '.join(parts)}")
    for text in dict.fromkeys(filter(None, (recipe.warning(subject.config) for subject in planned.cells))):
        print(f"warning: {text}")
    if configs[0].launch.device != "auto":
        for text in dict.fromkeys(f"{c.model.name}: {doctor.check_memory_of(c)}" for c in configs):
            print(f"memory {text}")
    found = estimate.estimate(planned, store)
    print("\n" + "\n".join(estimate.lines(found, configs[0].budget)))
    try:
        estimate.check(found, configs[0].budget)
    except ConfigError as error:
        print(f"refused: {error}")
        return 1
    return 0
