"""The page: `python -m em.run [-m] key=value ...` → config → plan → stages → report.

Hydra composes; one cell is a sweep of one; all cells of `-m` are run together, stage by stage (em/sweep.py).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import hydra
from omegaconf import DictConfig

from em import config, help
from em.config import CONF_DIR, ConfigError, ExperimentConfig

config.register()


def run_cells(composed: Sequence[DictConfig]) -> list[str]:
    """Run cells as one sweep and print what came out. Returns one error sentence a cell, "" where it is done."""
    try:
        cells = [config.load(c) for c in composed]
    except ConfigError as error:
        sys.exit(f"em: {error}")
    return run_loaded(cells)


def run_loaded(cells: Sequence[ExperimentConfig]) -> list[str]:
    """`run_cells` for configs that are typed already, as `em resume` has them."""
    from em import results, sweep, track
    from em.assets import AssetError
    from em.chat import ChatError
    from em.models import ModelError
    from em.report import table
    from em.store import StoreError

    try:
        done = sweep.run(cells)
        summary = results.write(done)
        track.log(done, summary)
    except (ConfigError, AssetError, ModelError, StoreError, ChatError) as error:
        sys.exit(f"em: {error}")
    except KeyboardInterrupt:
        sys.stderr.write("\nem: stopped. What is finished is kept; the same command continues.\n")
        sys.exit(130)
    _print(table(summary))
    _print("\n" + summary["statement"])
    _print("")
    for name in ("figures", "report.html", "summary.json"):
        _print(f"{name.split('.')[0]:8} {done.folder / name}")
    _print("counters " + ", ".join(f"{k} {v}" for k, v in summary["counters"].items()))
    return [done.why(cell) for cell in done.plan.cells]


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


@hydra.main(version_base="1.3", config_path=CONF_DIR, config_name="config")
def main(cfg: DictConfig) -> None:
    errors = [e for e in run_cells([cfg]) if e]
    if errors:
        sys.exit(1)


if __name__ == "__main__":
    if help.wanted(sys.argv[1:]):
        sys.exit(help.show(sys.argv[1:]))
    main()
