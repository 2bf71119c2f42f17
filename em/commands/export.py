"""`em export`: write a sweep's answers, its adapters with their model cards, and its directions for other tools."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import Any

from em.commands import add_sweep, example
from em.commands.direction import FOLDER
from em.errors import ConfigError
from em.metrics.summary_types import Summary
from em.store import Store, StoreError, layout
from em.sweep import ledger
from em.sweep.folder import out_of, read_summary, read_sweep

DIRECTIONS = ("persona_vectors", "vllm_lens")
FORMS = ("csv", "parquet", "inspect", "peft", *DIRECTIONS)


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "export",
        help="write answers as CSV, Parquet or Inspect logs, adapters for PEFT, or directions for other projects",
        description="Write answers as CSV, Parquet or Inspect logs, adapters for PEFT with their model cards, or the "
        "sweep's directions as persona_vectors or vllm-lens read them.",
        epilog=example("em export em-1a2b3c4d csv"),
    )
    add_sweep(sub)
    sub.add_argument(
        "form", choices=FORMS, help="answers: csv, parquet, inspect; adapters: peft; directions: the others"
    )
    sub.add_argument("--to", type=Path, help="folder to write to (default: export/ in the sweep's folder)")
    sub.add_argument("--block", type=int, help="vllm_lens: the block whose vector is written, counted from 0")


def run(arguments: argparse.Namespace) -> int:
    from em.reporting import answers, export

    folder, form = arguments.folder, arguments.form
    out = arguments.to or folder / "export"
    if form in DIRECTIONS:
        return _directions(folder, form, arguments.block, out)
    summary = read_summary(folder)
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


def _directions(folder: Path, form: str, block: int | None, out: Path) -> int:
    """Export the directions that `em direction` made of a sweep, and those that its cells are changed with."""
    from em.directions import artefact, formats
    from em.directions.job import DIRECTION

    if form == "vllm_lens" and block is None:
        raise ConfigError("vllm_lens keeps one block's vector per file: give the block, --block 15")
    if form != "vllm_lens" and block is not None:
        raise ConfigError(f"{form} keeps every block in one file: leave --block {block} out, or export vllm_lens")
    store, made = Store.open_read_only(out_of(folder)), {}
    for path in sorted((folder / FOLDER).glob(f"*/{artefact.FACTS}")):
        made[path.parent.name] = artefact.load(path.parent)
    keys = (key for cell in read_sweep(folder)["cells"] for key in cell["stages"].get(DIRECTION, []))
    for key in dict.fromkeys(keys):
        if store.has(DIRECTION, key):
            found = artefact.load(store.path(DIRECTION, key))
            kind = re.sub(r"[^\w.-]", "-", found.facts.kind)  # of a stored direction it is another maker's word
            made[f"{kind}-{key[:8]}"] = found
    if not made:
        raise ConfigError(f"{folder} has no direction: em direction {folder} --model LABEL makes one")
    for name, direction in made.items():
        if block is None:
            path = out / f"{name}{formats.PERSONA_SUFFIX}"
            formats.write_persona_vectors(direction, path)
        else:
            path = out / f"{name}-block-{block}.json"
            formats.write_vllm_lens(direction, block, path)
        print(path)
    return 0


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
