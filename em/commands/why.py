"""`em why`: show why stages of a cell are missing: which inputs differ from those of the nearest finished stage."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from em.commands import example, sweep_folder
from em.commands.status import error_line, last_events
from em.planning.cells import flatten
from em.store import Store, StoreError, layout
from em.sweep.folder import out_of, sweep_file

REFERENCES = {"data": "data", "adapter": "train", "samples": "sample"}
"""Input → the stage whose key it is."""


def add(commands: Any) -> None:
    sub = commands.add_parser(
        "why",
        help="show why a cell's stages are done or missing: which inputs differ from finished stages",
        epilog=example("em why insecure"),
    )
    sub.add_argument("cell", help="id or label of a cell, as `em status` and `em plan` print them")
    add_cell_place(sub)


def run(arguments: argparse.Namespace) -> int:
    from omegaconf import OmegaConf

    from em import config
    from em.planning.plan import plan

    folder, cell = find(arguments.out, arguments.cell, arguments.sweep)
    out = out_of(folder) if arguments.sweep else arguments.out
    store = Store.open_read_only(out)
    planned = plan([config.load(OmegaConf.create({**cell["config"], "out": str(out)}))], store)
    print(f"cell {cell['id']}  {cell['label']}, of {folder}")
    subjects = {"base": planned.bases, "cell": planned.cells, "checkpoint": planned.checkpoints}[cell["kind"]]
    chosen = [s for s in subjects if s.id == cell["id"]] or subjects
    wanted = {(stage, key) for s in chosen for stage, keys in _stages(planned, s).items() for key in keys}
    last = last_events(folder)
    inputs = {(j.stage, j.key.split("/")[0]): j.spec.inputs for j in planned.jobs.values()}
    for job in planned.jobs.values():
        if (job.stage, job.key) in wanted:
            print(f"{job.stage:7} {job.key}")
            for line in explain(store, job.stage, job.key, inputs):
                print(f"        {line}")
            row = last.get((job.stage, job.key), {})
            if row.get("event") == "failed" and not store.has(job.stage, job.key):
                print(f"        failed: {error_line(folder, row)}")
    return 0


def add_cell_place(sub: argparse.ArgumentParser) -> None:
    """Declare where a cell is looked for."""
    sub.add_argument("--sweep", type=sweep_folder, help="look in this sweep (default: the newest that has the cell)")
    sub.add_argument("--out", type=Path, default=Path("outputs"), help="folder of the store and the sweeps (outputs)")


def _stages(planned: Any, subject: Any) -> dict[str, list[str]]:
    from em.planning.plan import stages

    return stages(planned, subject)


def find(out: Path, name: str, sweep: Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Return the newest sweep folder with the cell, and the cell. `name`: its id, the beginning of it, or its label.

    `sweep`: look in this sweep only. Raises StoreError if no cell, or several, have this name.
    """
    files = sorted((out / "sweeps").glob("*/sweep.json"), key=lambda p: p.stat().st_mtime, reverse=True)
    files = [sweep_file(sweep, layout.SWEEP)] if sweep else files
    known: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in files:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            known.setdefault(cell["id"], (path.parent, cell))
    exact = [pair for pair in known.values() if name in (pair[1]["id"], pair[1]["label"])]
    found = exact or [pair for pair in known.values() if pair[1]["id"].startswith(name)]
    if len(found) == 1 or (found and exact):
        return found[0]
    listed = ", ".join(f"{c['id']} ({c['label']})" for _, c in (found or list(known.values()))[:12])
    what = "is the beginning of several ids" if found else "names no cell"
    where = sweep or f"the sweeps in {out / 'sweeps'}"
    raise StoreError(f"{name!r} {what} of {where}; there are: {listed or 'none'}")


def explain(store: Store, stage: str, key: str, known: dict[tuple[str, str], dict[str, Any]]) -> Iterator[str]:
    """Yield lines about one stage: done, or which inputs differ from the finished stage that differs least."""
    if store.has(stage, key):
        yield f"done: {store.path(stage, key)}"
        return
    family, _, span = key.partition("/")
    if span and (ranges := store.keys(stage, family)):
        yield f"missing; finished of the same answers: {', '.join(r.split('/')[1] for r in ranges)}"
        return
    mine = _leaves(expand(store, known[stage, family], known))
    best: tuple[str, list[str]] | None = None
    for other, inputs in _finished(store, stage):
        theirs = _leaves(expand(store, inputs, known))
        differ = [n for n in dict.fromkeys([*mine, *theirs]) if mine.get(n, "-") != theirs.get(n, "-")]
        if best is None or len(differ) < len(best[1]):
            best, nearest = (other, differ), theirs
    if best is None:
        yield f"missing; no {stage} stage is finished yet"
        return
    yield f"missing; nearest finished: {best[0]}, which differs in {len(best[1])} input{'s' * (len(best[1]) != 1)}:"
    for name in best[1]:
        yield f"  {name}: {_short(nearest.get(name, '(absent)'))} there, {_short(mine.get(name, '(absent)'))} here"


def expand(store: Store, inputs: dict[str, Any], known: dict[tuple[str, str], dict[str, Any]]) -> dict[str, Any]:
    """Replace keys of other stages in the inputs by the inputs of those stages, if they are known."""
    out = {}
    for name, value in inputs.items():
        stage = REFERENCES.get(name)
        made_of = _inputs_of(store, stage, value, known) if stage and isinstance(value, str) else None
        out[name] = expand(store, made_of, known) if made_of is not None else value
    return out


def _inputs_of(
    store: Store, stage: str, key: str, known: dict[tuple[str, str], dict[str, Any]]
) -> dict[str, Any] | None:
    if (stage, key) in known:
        return known[stage, key]
    keys = store.keys(stage, key) if stage == "sample" else [key] * store.has(stage, key)
    return store.manifest(stage, keys[0])["inputs"] if keys else None


def _finished(store: Store, stage: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield one finished key per family, with its inputs."""
    folder = store.root / stage
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        keys = store.keys(stage, path.name) if stage in ("sample", "judge") else [path.name]
        for key in keys[:1]:
            if store.has(stage, key) and not key.endswith(".partial"):
                yield key, store.manifest(stage, key)["inputs"]


def _leaves(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return name → value of every input, with tuples and enums in JSON's types, as in a manifest."""
    return {name: json.loads(json.dumps(value)) for name, value in flatten(inputs, lists=True)}


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
    return text if len(text) <= 60 else text[:57] + "..."
