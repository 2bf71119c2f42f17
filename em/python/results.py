"""Run or load a sweep from Python. The doors are `run_sweep` and `load_sweep`; both return SweepResults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from em.config import compose, register
from em.errors import ConfigError, nearest
from em.metrics.summary_types import Summary
from em.python import frames
from em.python.asking import Engines, Models
from em.store import layout
from em.sweep.folder import read_summary

if TYPE_CHECKING:
    import pandas as pd

    from em.reporting.figures.spec import Figure


def run_sweep(*overrides: str, config_dir: str | Path | None = None) -> SweepResults:
    """Run a sweep on this machine, as `python -m em.run -m` does, and return its results.

    What is finished is found again, so the second call takes a second. `overrides`: as on the command line, e.g.
    "dataset=insecure,secure"; commas make cells. `config_dir`: a folder with options of your own. Models that failed
    are in `failed`. Raises ConfigError and other UserErrors for what a person can fix.
    """
    from em import run
    from em.planning import recipe
    from em.runtime.preempt import raise_on_stop

    if elsewhere := [o for o in overrides if o.lstrip("+").startswith("hydra/launcher=")]:
        raise ConfigError(f"{elsewhere[0]}: em.run_sweep runs on this machine; submit with python -m em.run -m")
    register()
    composed = compose.cells(overrides, Path(config_dir) if config_dir else None)
    with raise_on_stop():
        done, summary = run.results_of([recipe.load(cell) for cell in composed])
    if summary is None:
        raise ConfigError("launch.stages leaves out report, so there are no results: give launch.stages with report")
    return SweepResults(done.folder, summary)


def load_sweep(folder: str | Path) -> SweepResults:
    """Return the results in a sweep's folder, e.g. outputs/sweeps/em-1a2b3c4d. Raises StoreError if it has none."""
    path = Path(folder).expanduser()
    return SweepResults(path, read_summary(path))


class SweepResults:
    """The results of a sweep: numbers, answers, figures, and its models to ask.

    As a context manager it ends its engines.
    """

    def __init__(self, folder: Path, summary: Summary) -> None:
        self.folder, self.summary = folder, summary
        """The sweep's folder; the content of its summary.json (docs/summary.md)."""
        self._engines = Engines(folder)
        self.models = Models(summary["models"], self._engines)
        """Label → model, e.g. models["insecure"].ask("Hi")."""

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / layout.REPORT

    @property
    def failed(self) -> dict[str, str]:
        """Label → error of the models without numbers."""
        return {m["label"]: m["error"] for m in self.summary["models"] if m["status"] == "failed"}

    @property
    def table(self) -> str:
        """The table that the command prints."""
        from em.reporting import table

        return table.table(self.summary)

    def metrics(self, each_model: bool = False) -> pd.DataFrame:
        """Return one row per metric of every group of runs; `each_model`: of every single model.

        python/frames.METRICS says what each column holds.
        """
        return frames.metrics(self.summary, each_model)

    def contrasts(self) -> pd.DataFrame:
        """Return one row per difference between two groups, and between a group and its untouched model.

        python/frames.CONTRASTS says what each column holds.
        """
        return frames.contrasts(self.summary)

    def answers(self) -> pd.DataFrame:
        """Return one row per answer with its verdicts. python/frames.ANSWERS says what each column holds."""
        from em.reporting import answers

        return frames.answers(self.summary, answers.read(self.folder))

    @property
    def figures(self) -> list[str]:
        """The names of the figures that this sweep has."""
        return list(self._drawn())

    def figure(self, name: str) -> Any:
        """Return a figure as an Altair chart, which a notebook shows as a picture and its methods restyle.

        Raises ConfigError if the sweep has none of that name.
        """
        from em.reporting.figures import chart

        drawn = self._drawn()
        if name not in drawn:
            raise ConfigError(f"the sweep has no figure {name!r}, it has {', '.join(drawn)}{nearest(name, drawn)}")
        return chart.in_notebook(drawn[name])

    def _drawn(self) -> dict[str, Figure]:
        from em.reporting import answers
        from em.reporting.figures import figures

        return {figure.name: figure for figure in figures.figures(self.summary, answers.read(self.folder))}

    def close(self) -> None:
        """End the engines and free their memory. A later question starts one again."""
        self._engines.close()

    def __enter__(self) -> SweepResults:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        lost = f", {len(self.failed)} failed" if self.failed else ""
        return f"<sweep {self.summary['id']}: {', '.join(self.models)}{lost}; {self.folder}>"
