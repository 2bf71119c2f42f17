"""`em export`: write a sweep's answers, and its adapters with their model cards, for other tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from em.commands import add_sweep, example
from em.errors import ConfigError
from em.metrics.summary_types import Summary
from em.store import Store, StoreError, layout
from em.sweep import ledger
from em.sweep.folder import out_of, read_summary, read_sweep

FORMS = ("csv", "parquet", "inspect", "peft")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "export",
        help="write answers as CSV, Parquet or Inspect logs, or adapters for PEFT with their model cards",
        epilog=example("em export em-1a2b3c4d csv"),
    )
    add_sweep(sub)
    sub.add_argument("form", choices=FORMS)
    sub.add_argument("--to", type=Path, help="folder to write to (default: export/ in the sweep's folder)")


def run(arguments: argparse.Namespace) -> int:
    from em.reporting import answers, export

    folder, form = arguments.folder, arguments.form
    summary = read_summary(folder)
    out = arguments.to or folder / "export"
    out.mkdir(parents=True, exist_ok=True)
    if form == "peft":
        return _adapters(folder, summary, out)
    if form == "inspect":
        return _inspect(folder, summary, out)
    labels = {g["id"]: g["label"] for g in summary["groups"]}
    groups = {m["id"]: labels.get(m["group"], m["label"]) if m["variant"] else "untouched" for m in summary["models"]}
    path = out / f"answers.{form}"
    write = {"csv": export.write_csv, "parquet": export.write_parquet}[form]
    print(f"{path}  {write(export.table_rows(answers.read(folder), groups), path)} answers")
    return 0


def _adapters(folder: Path, summary: Summary, out: Path) -> int:
    """Export every trained cell. Return 1 if there is none."""
    from em.reporting.adapters import export_model

    store, models, done = Store.open_read_only(out_of(folder)), {m["id"]: m for m in summary["models"]}, 0
    for cell in (c for c in read_sweep(folder)["cells"] if c["kind"] == "cell"):
        if models[cell["id"]]["train"] is None:
            sys.stderr.write(f"em: {cell['label']} has no finished training: nothing to export\n")
            continue
        try:
            print(export_model(store, cell, models[cell["id"]], summary, out))
            done += 1
        except StoreError as error:
            sys.stderr.write(f"em: {error}\n")
    return 0 if done else 1


def _inspect(folder: Path, summary: Summary, out: Path) -> int:
    from em.reporting import answers

    try:
        from em.reporting.inspect_logs import SweepFacts, write_inspect
    except ImportError as error:
        raise ConfigError(
            f'em export inspect needs the extra `inspect`: pip install "emergent-misalignment[inspect]" ({error})'
        ) from error
    facts = SweepFacts()
    if (folder / layout.SWEEP).is_file():  # an imported file has none
        cells, trained = read_sweep(folder)["cells"], {m["id"] for m in summary["models"] if m["train"]}
        facts = SweepFacts(
            configs={cell["id"]: cell["config"] for cell in cells},
            adapters={c["id"]: c["stages"]["train"][0] for c in cells if c["id"] in trained},
            started=ledger.began(folder),
        )
    for path in write_inspect(answers.read(folder), summary, out, facts):
        print(path)
    return 0
