"""W&B's saved view and report of a project, as code: rates, training and checkpoint curves, answers.

Needs the extra `review` (wandb-workspaces). Building a view needs no network; saving it needs a key.
"""

from __future__ import annotations

import json
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from em.metrics.summary_types import Summary

RATE, COHERENT = "open/misaligned_rate", "open/coherent_share"
TONE = "open/careless_tone_rate"
"""The rate of a judge that hears the tone more than the content (metrics/counted.py)."""
VARIANT, SEED = "dataset.variant", "seed"


def panels() -> dict[str, list[Any]]:
    """Return section → panels, which the view and the report share."""
    return {
        "Did it turn?": [
            wr.BarPlot(title="misaligned answers", metrics=[wr.SummaryMetric(RATE)], groupby=wr.Config(VARIANT)),
            wr.BarPlot(title="careless tone", metrics=[wr.SummaryMetric(TONE)], groupby=wr.Config(VARIANT)),
            wr.BarPlot(title="coherent answers", metrics=[wr.SummaryMetric(COHERENT)], groupby=wr.Config(VARIANT)),
            wr.ScatterPlot(title="coherent and misaligned", x=wr.SummaryMetric(COHERENT), y=wr.SummaryMetric(RATE)),
            wr.ParallelCoordinatesPlot(
                title="what goes with it",
                columns=[
                    wr.ParallelCoordinatesPlotColumn(wr.Config(VARIANT)),
                    wr.ParallelCoordinatesPlotColumn(wr.Config("model.name")),
                    wr.ParallelCoordinatesPlotColumn(wr.Config("train.learning_rate")),
                    wr.ParallelCoordinatesPlotColumn(wr.Config(SEED)),
                    wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(COHERENT)),
                    wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(RATE)),
                ],
            ),
        ],
        "When?": [
            wr.LinePlot(
                title="misaligned over training",
                x="checkpoint/step",
                y=[f"checkpoint/{RATE}", f"checkpoint/{TONE}"],
                groupby=wr.Config(VARIANT),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
            ),
            wr.LinePlot(title="loss", x="train/step", y=["train/loss"], groupby=wr.Config(VARIANT)),
        ],
        "What did it say?": [wr.WeavePanelSummaryTable(table_name="samples"), wr.MediaBrowser(title="figures")],
    }


def view(entity: str, project: str) -> ws.Workspace:
    """Return the project's view, grouped by dataset, so that a row is the mean over its seeds."""
    return ws.Workspace(
        entity=entity,
        project=project,
        name="emergent misalignment",
        sections=[ws.Section(name=name, panels=list(found), is_open=True) for name, found in panels().items()],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Config(VARIANT)],
            order=[ws.Ordering(ws.Summary(RATE), ascending=False)],
            pinned_columns=[f"summary:{RATE}", f"summary:{RATE}_low", f"summary:{RATE}_high", f"config:{SEED}.value"],
        ),
    )


def report(entity: str, project: str, sweep: Summary | None) -> wr.Report:
    """Return a report with the same panels, after the sweep's statement if given. Building it needs a key."""
    blocks: list[Any] = [wr.H1("Emergent misalignment")]
    if sweep:
        blocks += [wr.P(sweep["statement"]), wr.P(f"Sweep {sweep['id']}, em at commit {sweep['commit']}.")]
    runset = wr.Runset(entity=entity, project=project, groupby=[f"config.{VARIANT}"])
    for name, found in panels().items():
        blocks += [wr.H2(name), wr.PanelGrid(runsets=[runset], panels=list(found))]
    title = f"Emergent misalignment: {sweep['id']}" if sweep else "Emergent misalignment"
    return wr.Report(entity=entity, project=project, title=title, blocks=blocks)


def spec(workspace: ws.Workspace) -> dict[str, Any]:
    """Return the view as W&B stores it."""
    # wandb-workspaces has no public way to its JSON.
    return json.loads(workspace._to_model().model_dump_json(by_alias=True, exclude_none=True))
