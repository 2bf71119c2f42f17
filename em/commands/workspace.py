"""`em workspace`: save a view and a report of a W&B project."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from em.commands import example
from em.errors import ConfigError
from em.runtime.credentials import has_key
from em.sweep.folder import read_summary


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "workspace",
        help="save the project's W&B view and report (runs by dataset, seeds averaged, curves, answers)",
        epilog=example("em workspace --entity TEAM --json view.json"),
    )
    sub.add_argument("--entity", required=True, help="W&B team or user")
    sub.add_argument("--project", default="em", help="W&B project, as tracking.project (default: em)")
    sub.add_argument("--sweep", type=Path, help="a sweep folder whose statement opens the report")
    sub.add_argument(
        "--json", type=Path, help="write the view as JSON to this file instead; needs no key and no network"
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        from em.tracking import workspace
    except ImportError as error:
        hint = 'pip install "emergent-misalignment[review]"'
        raise ConfigError(f"em workspace needs the extra `review`: {hint}") from error
    view = workspace.view(arguments.entity, arguments.project)
    if arguments.json:
        arguments.json.write_text(json.dumps(workspace.spec(view), indent=1) + "\n", encoding="utf-8")
        print(f"view     {arguments.json}")
        return 0
    if not has_key():
        raise ConfigError(
            "em workspace needs a W&B key: export WANDB_API_KEY or run wandb login; "
            "--json FILE writes the view without a key"
        )
    summary = read_summary(arguments.sweep) if arguments.sweep else None
    view.save()
    print(f"view     {view.url}")
    made = workspace.report(arguments.entity, arguments.project, summary)
    made.save()
    print(f"report   {made.url}")
    return 0
