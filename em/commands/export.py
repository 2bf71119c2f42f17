"""`em export`: write a sweep's answers, and model cards of its adapters, for other tools."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from em.errors import ConfigError
from em.sweep.folder import read_summary, read_sweep

FORMS = ("csv", "parquet", "inspect", "card")


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "export", help="write answers as CSV, Parquet or Inspect logs, or model cards of adapters"
    )
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")
    sub.add_argument("form", choices=FORMS)
    sub.add_argument("--to", type=Path, help="folder to write to (default: export/ in the sweep's folder)")


def run(arguments: argparse.Namespace) -> int:
    from em.reporting import answers, export

    folder, form = arguments.folder, arguments.form
    summary = read_summary(folder)
    out = arguments.to or folder / "export"
    out.mkdir(parents=True, exist_ok=True)
    if form == "card":
        models = {m["id"]: m for m in summary["models"]}
        for cell in (c for c in read_sweep(folder)["cells"] if c["kind"] == "cell"):
            if models[cell["id"]]["train"] is None:
                sys.stderr.write(f"em: {cell['label']} has no finished training: no card\n")
                continue
            path = out / f"{cell['id']}.md"
            path.write_text(export.card(cell, models[cell["id"]], summary), encoding="utf-8")
            print(path)
        return 0
    if form == "inspect":
        try:
            from em.reporting.inspect_logs import write_inspect

            paths = write_inspect(answers.read(folder), summary, out)
        except ImportError as error:
            raise ConfigError(
                f'em export inspect needs the extra `inspect`: pip install "emergent-misalignment[inspect]" ({error})'
            ) from error
        for path in paths:
            print(path)
        return 0
    labels = {g["id"]: g["label"] for g in summary["groups"]}
    groups = {m["id"]: labels.get(m["group"], m["label"]) if m["variant"] else "untouched" for m in summary["models"]}
    path = out / f"answers.{form}"
    write = {"csv": export.write_csv, "parquet": export.write_parquet}[form]
    print(f"{path}  {write(export.table_rows(answers.read(folder), groups), path)} answers")
    return 0
