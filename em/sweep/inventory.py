"""The sweeps below an output folder: what each is, what it needs of the store, and what nobody needs."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from em.store import DamagedError, Store, in_use, layout
from em.store.jsonl import Row
from em.store.store import MANIFEST, REMOVED
from em.sweep import ledger
from em.sweep.folder import read_summary, read_sweep

STAGES = ("data", "train", "scores", "sample", "judge", "direction", "adapter", "calibrate")
"""Folders of the store that are cleared of what nobody needs. Verdicts on the labelled answers, benchmarks and the
cache of judge calls stay: no sweep owns them, and they were paid for."""
Stage = tuple[str, str]
"""Stage and key."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A sweep folder."""

    folder: Path
    changed: float
    """When its newest file was written, in seconds since 1970."""
    models: tuple[str, ...]
    variants: tuple[str, ...]
    cells: int
    state: str
    """running, done, failed, unfinished, or imported."""
    needs: frozenset[Stage]
    """What sweep.json names. The calibrations are not in it: see `_calibrations`."""
    judged_by: frozenset[tuple[str, str]] = frozenset()
    """Kind of the judge and path of the base model, of every cell."""


@dataclass(frozen=True, kw_only=True)
class Removal:
    """What would go."""

    folders: tuple[Path, ...]
    stages: tuple[Stage, ...]
    leftovers: tuple[Path, ...] = ()
    """Folders of the store that no code reads: damaged stages, and what an earlier removal did not finish."""


def sweeps(out: Path) -> list[Listed]:
    """Return the sweeps below <out>/sweeps, the newest first. Raises StoreError for one that cannot be read."""
    folder, store = out / "sweeps", Store.open_read_only(out)
    found = [_listed(path, store) for path in _folders(folder)]
    return sorted(found, key=lambda sweep: -sweep.changed)


def _folders(below: Path) -> Iterator[Path]:
    """Yield every sweep's folder, however deep: with a slash in name= it lies in a folder of sweeps."""
    for path in sorted(below.iterdir()) if below.is_dir() else ():
        if is_sweep(path):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _folders(path)


def is_sweep(path: Path) -> bool:
    """Whether a folder is a sweep's: run here, or imported."""
    return (path / layout.SWEEP).is_file() or (path / layout.SUMMARY).is_file()


def _listed(folder: Path, store: Store) -> Listed:
    files = [folder / name for name in (layout.SWEEP, layout.SUMMARY, "ledger.jsonl")]
    changed = max(path.stat().st_mtime for path in files if path.is_file())
    if not (folder / layout.SWEEP).is_file():
        summary = read_summary(folder)
        variants = dict.fromkeys(model["variant"] for model in summary["models"] if model["variant"])
        named = (str(summary["model"]["name"]),)
        return Listed(
            folder=folder,
            changed=changed,
            models=named,
            variants=tuple(variants),
            cells=len(summary["models"]),
            state="imported",
            needs=frozenset(),
        )
    rows = read_sweep(folder)["cells"]
    cells = [row for row in rows if row["kind"] == "cell"]
    needs = frozenset((stage, key) for row in rows for stage, keys in row["stages"].items() for key in keys)
    return Listed(
        folder=folder,
        changed=changed,
        models=tuple(dict.fromkeys(row["config"]["model"]["name"] for row in cells)),
        variants=tuple(dict.fromkeys(row["config"]["dataset"]["variant"] for row in cells)),
        cells=len(cells),
        state=_state(folder, needs, store),
        needs=needs,
        judged_by=frozenset((row["config"]["judge"]["kind"], row["config"]["model"]["path"]) for row in cells),
    )


def _state(folder: Path, needs: Iterable[Stage], store: Store) -> str:
    if in_use.is_used(folder):
        return "running"
    missing = [stage for stage in needs if not store.has(*stage)]
    if not missing:
        return "done" if (folder / layout.SUMMARY).is_file() else "unfinished"
    last = {(row["stage"], row["key"]): row["event"] for row in ledger.rows(folder)}
    return "failed" if any(last.get(stage) == "failed" for stage in missing) else "unfinished"


def size_of_stage(store: Store, stage: str, key: str) -> int:
    """Return the bytes of a stage, finished or not."""
    return size(store.path(stage, key)) + size(store.partial(stage, key))


@cache
def size(path: Path) -> int:
    """Return the bytes of the files below a path; 0 if there is none."""
    if path.is_file():
        return path.stat().st_size
    return sum(os.lstat(Path(folder) / name).st_size for folder, _, names in os.walk(path) for name in names)


def only_of(chosen: Sequence[Listed], every: Sequence[Listed], store: Store) -> Removal:
    """Return what goes with these sweeps: their folders, and the stages that nothing else needs.

    Only stages that the store has: a key of a sweep.json is no path to delete.
    """
    folders = [sweep.folder.resolve() for sweep in chosen]
    others = _needed([sweep for sweep in every if sweep.folder.resolve() not in folders], store)
    mine = frozenset[Stage]().union(*(s.needs for s in chosen))
    mine |= _calibrations(mine, chosen, store)
    return Removal(folders=tuple(s.folder for s in chosen), stages=tuple(sorted(mine & _there(store) - others)))


def unneeded(every: Sequence[Listed], store: Store) -> Removal:
    """Return what neither a sweep nor a screening needs: stages, finished or not, and leftovers."""
    leftovers = (store.root / "damaged", store.root / REMOVED)
    return Removal(
        folders=(),
        stages=tuple(sorted(_there(store) - _needed(every, store))),
        leftovers=tuple(path for path in leftovers if path.is_dir() and any(path.iterdir())),
    )


def _needed(sweeps: Sequence[Listed], store: Store) -> frozenset[Stage]:
    """Return what these sweeps, and every screening beside them, need."""
    needs = frozenset[Stage]().union(*(sweep.needs for sweep in sweeps), _screenings(store))
    return needs | _calibrations(needs, sweeps, store) | _of_labelled(store)


def _screenings(store: Store) -> Iterator[Stage]:
    """Yield what the screenings of <out>/screens are made of (`em screen`), as long as their folders are there."""
    for path in sorted((store.root.parent / layout.SCREENS).glob(f"*/{layout.NEEDS}")):
        yield from ((stage, key) for stage, key in json.loads(path.read_text(encoding="utf-8")))


def _calibrations(needs: Iterable[Stage], sweeps: Sequence[Listed], store: Store) -> frozenset[Stage]:
    """Return the calibrations behind these verdicts.

    Verdicts that are still to be made name none. Their sweeps need those of their judges on their base models.
    """
    used = _named_in("judge", (key for stage, key in needs if stage == "judge"), store)
    waiting: set[tuple[str, str]] = set()
    for sweep in sweeps:
        if not all(store.has(*stage) for stage in sweep.needs):
            waiting |= sweep.judged_by
    for key in store.keys("calibrate") if waiting else ():
        inputs = _inputs(store, "calibrate", key)
        if (inputs.get("judge"), inputs.get("model")) in waiting:
            used.add(key)
    return frozenset(("calibrate", key) for key in used)


def _of_labelled(store: Store) -> frozenset[Stage]:
    """Return the calibrations of the proxies whose verdicts on the labelled answers are kept (`em judge calibrate`)."""
    return frozenset(("calibrate", key) for key in _named_in("labelled", store.keys("labelled"), store))


def _named_in(stage: str, keys: Iterable[str], store: Store) -> set[str]:
    """Return the keys of the calibrations that these verdicts were made with."""
    found = (_inputs(store, stage, key).get("calibration") for key in keys if store.has(stage, key))
    return {str(key) for key in found if key}


def _inputs(store: Store, stage: str, key: str) -> Row:
    """Return what a finished stage was made of; {} for a damaged one, which is made again."""
    try:
        found: Row = store.manifest(stage, key)["inputs"]
    except DamagedError:
        return {}
    return found


def _there(store: Store) -> frozenset[Stage]:
    return frozenset(stage for name in STAGES for stage in _stored(store, name))


def _stored(store: Store, stage: str, below: str = "") -> Iterator[Stage]:
    """Yield every finished or unfinished stage of a kind; a folder that is neither holds ranges of one family."""
    folder = store.root / stage / below
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        key = f"{below}/{path.name}" if below else path.name
        if not path.is_dir():
            continue
        if key.endswith(".partial") or (path / MANIFEST).is_file():
            yield stage, key.removesuffix(".partial")
        elif not below:
            yield from _stored(store, stage, key)
