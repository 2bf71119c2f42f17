"""Console script `em`: assets, status, report. Experiments are run with `python -m em.run`."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from em import assets
from em.store import Store, StoreError


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="em",
        description="Emergent misalignment: what is around the experiments. They run with `python -m em.run`.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sub = commands.add_parser("assets", help="files of others: list, fetch or verify them")
    sub.add_argument("action", choices=["list", "fetch", "verify"])
    sub.add_argument("names", nargs="*", help="asset names; none: all")
    sub = commands.add_parser("status", help="what is done, missing or failed in a sweep folder")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")
    sub = commands.add_parser("report", help="print a sweep's table again and say where its report is")
    sub.add_argument("folder", type=Path, help="a folder below outputs/sweeps")
    arguments = parser.parse_args()
    try:
        code = {"assets": _assets, "status": _status, "report": _report}[arguments.command](arguments)
    except (assets.AssetError, StoreError) as error:
        sys.exit(f"em: {error}")
    sys.exit(code)


def _assets(arguments: argparse.Namespace) -> int:
    if arguments.action == "fetch":
        for name, path in assets.fetch(arguments.names).items():
            print(f"{name}  {path}")
        return 0
    rows = assets.verify(arguments.names) if arguments.action == "verify" else _listed(arguments.names)
    for row in rows:
        size = f"{row.size:>11,}" if row.size is not None else " " * 11
        print(f"{row.state:8} {size}  {row.pin[:19]:19}  {row.name}" + (f"  {row.problem}" if row.problem else ""))
    bad = [r for r in rows if r.state == "WRONG" or (arguments.action == "verify" and r.state == "missing")]
    return 1 if bad else 0


def _listed(names: list[str]) -> list[assets.AssetRow]:
    unknown = sorted(set(names) - set(assets.ASSETS))
    if unknown:
        raise assets.AssetError(f"no asset is called {', '.join(unknown)}; `em assets list` shows all")
    return [row for row in assets.list_assets() if not names or row.name in names]


def _sweep_file(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise StoreError(f"{folder} holds no {name}: give a sweep folder, e.g. outputs/sweeps/em-1a2b3c4d")
    return path


def _status(arguments: argparse.Namespace) -> int:
    """One line a cell: each stage done / of all, and the last error."""
    sweep = json.loads(_sweep_file(arguments.folder, "sweep.json").read_text())
    out = arguments.folder.resolve().parents[1]  # <out>/sweeps/<this folder>, from wherever it is looked at
    if not (out / "store").is_dir():
        raise StoreError(f"{out} holds no store: a sweep folder lies in <out>/sweeps/")
    store = Store.open(out)
    ledger = arguments.folder / "ledger.jsonl"
    last = {}
    text = ledger.read_text(encoding="utf-8") if ledger.exists() else ""
    for line in text[: text.rfind("\n") + 1].splitlines():  # a kill may have cut the last one
        row = json.loads(line)
        last[row["stage"], row["key"]] = row
    failed = False
    for cell in sweep["cells"]:
        parts, errors, missing = [], [], 0
        for stage, keys in cell["stages"].items():
            done = sum(store.has(stage, key) for key in keys)
            missing += len(keys) - done
            partial = any(store.partial(stage, key).is_dir() for key in keys)
            parts.append(f"{stage} {done}/{len(keys)}" + ("…" if partial else ""))
            errors += [
                last[stage, k]["error"]
                for k in keys
                if not store.has(stage, k) and last.get((stage, k), {}).get("event") == "failed"
            ]
        state = "failed" if errors else "done" if not missing else "unfinished"
        failed |= bool(errors)
        print(f"{state:10} {cell['label']:28} {'  '.join(parts)}")
        for error in dict.fromkeys(errors):
            print(f"           {error}")
    print(f"logs: {arguments.folder / 'logs'}")
    return 1 if failed else 0


def _report(arguments: argparse.Namespace) -> int:
    from em.report import table

    summary = json.loads(_sweep_file(arguments.folder, "summary.json").read_text(encoding="utf-8"))
    print(table(summary))
    print("\n" + summary["statement"])
    print(f"\nreport   {arguments.folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    main()
