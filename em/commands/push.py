"""`em push`: put a cell's adapter with its model card on the Hugging Face Hub. Without --upload it only says what."""

from __future__ import annotations

import argparse
import re
import tempfile
from pathlib import Path
from typing import Any

from em.commands import example
from em.commands.why import add_cell_place, find


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "push",
        help="put an adapter and its model card on the Hugging Face Hub; says first what would go",
        description="Put a cell's adapter and its model card on the Hugging Face Hub, as a private model. Without\n"
        "--upload nothing is sent: it shows the files, their sizes, the place, and the card. These models may be\n"
        "misaligned on purpose; whoever makes the repository public does that on the Hub's own page.",
        epilog=example("em push insecure --to TEAM/em-insecure            # what would go\n")
        + "         em push insecure --to TEAM/em-insecure --upload   # send it",
    )
    sub.add_argument("cell", help="id or label of a cell, as `em status` and `em plan` print them")
    add_cell_place(sub)
    sub.add_argument("--to", metavar="OWNER/NAME", help="place on the Hub (default: em-LABEL-ID of your own)")
    sub.add_argument("--upload", action="store_true", help="send it")


def run(arguments: argparse.Namespace) -> int:
    from em.errors import ConfigError
    from em.reporting import hub
    from em.reporting.adapters import export_model
    from em.runtime import terminal
    from em.store import Store, StoreError
    from em.sweep.folder import out_of, read_summary

    folder, cell = find(arguments.out, arguments.cell, arguments.sweep)
    summary = read_summary(folder)
    store = Store.open_read_only(out_of(folder))
    model = next((m for m in summary["models"] if m["id"] == cell["id"]), None)
    if cell["kind"] != "cell" or model is None or model["train"] is None:
        raise StoreError(f"{cell['label']} of {folder} has no finished training of its own: there is nothing to push")
    for key in cell["stages"]["train"]:
        store.verify("train", key)
    to = arguments.to or "em-" + re.sub(r"[^\w.-]+", "-", f"{cell['label']}-{cell['id']}").strip("-.")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", to):
        raise ConfigError(f"--to {to}: write OWNER/NAME, or NAME")
    with tempfile.TemporaryDirectory() as work:
        made = export_model(store, cell, model, summary, Path(work))
        base = hub.name_base(made, cell["config"]["model"]["path"])
        rows = [(name, terminal.size_text(size)) for name, size in hub.files(made)]
        print(f"{cell['label']} ({cell['id']}) of {folder} → a private model {_place(to)}\n")
        print("\n".join(terminal.grid(("file", "size"), rows, terminal.most())))
        if not base.is_on_the_hub:
            print(f"\nwarning: the base model {base.name} is no model of the Hub: others cannot load the adapter by it")
        if not arguments.upload:
            print(f"\nREADME.md would say:\n\n{(made / 'README.md').read_text(encoding='utf-8')}")
            print("nothing was sent: --upload sends it")
            return 0
        message = f"{summary['id']}, cell {cell['id']}"
        print(f"\nsent     {hub.upload(made, to, message)}")
    return 0


def _place(to: str) -> str:
    return to if "/" in to else f"{to} of your own account"
