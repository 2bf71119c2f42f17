"""`em plan`: show what a sweep would run and cost. Runs nothing and writes nothing."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.commands import add_config_dir, example

if TYPE_CHECKING:
    from em.config import BudgetConfig
    from em.planning.estimate import Estimate


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
    """Print a row per cell with stored/all per stage, then the estimate. Return 1 if that exceeds the budget."""
    from em import config
    from em.commands.status import cell_table, early_stops
    from em.config import compose
    from em.errors import ConfigError
    from em.planning import doctor, estimate, recipe
    from em.planning.plan import folder_of, plan, stages
    from em.runtime import terminal
    from em.store import Store

    config.register()
    configs = [recipe.load(cell) for cell in compose.cells(arguments.overrides, arguments.config_dir)]
    store = Store.open_read_only(Path(configs[0].out))
    planned = plan(configs, store)
    print(f"{len(planned.cells)} cells → {folder_of(configs)}")
    rows = []
    for subject in planned.subjects:
        keys_of = stages(planned, subject)
        counts = {s: f"{sum(store.has(s, k) for k in keys)}/{len(keys)}" for s, keys in keys_of.items()}
        rows.append(("", subject.label, counts))
    print(terminal.printed(cell_table(rows)))
    chosen = [(c.label, config.as_dict(c.config), stages(planned, c)) for c in planned.cells]
    print("".join(f"{line}\n" for line in early_stops(chosen, store)), end="")
    for text in dict.fromkeys(filter(None, (recipe.warning(subject.config) for subject in planned.cells))):
        print(f"warning: {text}")
    if configs[0].launch.device != "auto":
        for text in dict.fromkeys(f"{c.model.name}: {doctor.check_memory_of(c)}" for c in configs):
            print(f"memory {text}")
    found = estimate.estimate(planned, store)
    print("\n" + terminal.printed(estimate_lines(found, configs[0].budget)))
    try:
        estimate.check(found, configs[0].budget)
    except ConfigError as error:
        print(f"refused: {error}")
        return 1
    return 0


def estimate_lines(found: Estimate, budget: BudgetConfig) -> list[str]:
    """Return the estimate as the lines of a table."""
    from em.runtime.terminal import grid, most, size_text

    unit = "GPU-min" if found.device == "gpu" else "CPU-min"
    rows = []
    for name, stage in found.stages.items():
        cost = (f"{stage.seconds / 60:.1f}", size_text(round(stage.bytes))) if stage.todo else ("-", "-")
        rows.append((name, str(stage.todo), str(stage.reused), *cost, ", ".join(stage.basis)))
    rows.append(("all", "", "", f"{found.minutes:.1f}", size_text(round(found.disk_gb * 1e9)), found.card))
    out = grid(("stage", "to do", "reused", unit, "disk", "estimated from"), rows, most(), (5,), (1, 2, 3, 4))
    if found.calls:
        money = "price unknown" if found.dollars is None else f"in all at most {found.dollars:,.2f} dollars"
        out.append(f"judge calls {found.calls:,}, {money} ({found.price_note})")
    else:
        out.append("judge calls to an API: none" + (f"; {found.price_note}" if found.price_note else ""))
    caps = [f"{k}={v:g}" for k, v in vars(budget).items() if v is not None]
    out.append("budget " + (", ".join(caps) or "none (budget.max_dollars, budget.max_gpu_minutes, budget.max_disk_gb)"))
    return out
