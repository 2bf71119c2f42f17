"""Compare finished stages with their manifests before they are used. Damaged ones are reported and made again.

Files that this sweep reads are checked, and nothing else: rows and training logs always, an adapter or a dataset only
if an unfinished stage needs it. Earlier checks are not remembered: a disk can change a file without changing its time.
"""

from __future__ import annotations

from collections.abc import Iterator

from em.planning.plan import Plan
from em.planning.stages import BY_NAME, VERIFY_ORDER
from em.store import MANIFEST, DamagedError, Store
from em.store.jsonl import Row

Name = tuple[str, str]
"""Stage and key."""


def set_aside_damaged(plan: Plan, store: Store) -> Iterator[tuple[str, str, str]]:
    """Move damaged stages, and what was made from them, aside. Return (stage, key, message) per stage."""
    for stage in (one.name for one in VERIFY_ORDER):
        for key in _keys(plan, stage):
            problem = _problem(plan, store, stage, key)
            if not problem:
                continue
            for kind, dependent in _all_made_of(store, (stage, key)):
                store.set_aside(kind, dependent)
                yield kind, dependent, f"{kind} {dependent} was made of {stage} {key}, which is damaged"
            where = store.set_aside(stage, key)
            yield stage, key, problem + (f"; it is kept in {where}" if where else "")


def _keys(plan: Plan, stage: str) -> list[str]:
    if stage == "calibrate":
        parts = [part for subject in plan.subjects for part in subject.parts]
        return list(dict.fromkeys(part.calibration for part in parts if part.calibration))
    return [job.key for job in plan.stage(stage)]


def _problem(plan: Plan, store: Store, stage: str, key: str) -> str:
    """Return what is wrong with a finished stage, or ""."""
    if not store.has(stage, key):
        folder = store.path(stage, key)
        return f"{folder} has no manifest" if folder.is_dir() and stage != "calibrate" else ""
    always = BY_NAME[stage].verified
    try:
        if always is None or _needed(plan, store, stage, key):
            store.verify(stage, key)
        elif always:
            store.verify(stage, key, only=list(always))
    except DamagedError as error:
        return str(error)
    return ""


def _needed(plan: Plan, store: Store, stage: str, key: str) -> bool:
    return any((stage, key) in job.needs and not store.has(job.stage, job.key) for job in plan.jobs.values())


def _all_made_of(store: Store, damaged: Name) -> list[Name]:
    """Return every finished stage, of any sweep, that was made of this one; those at the end of a chain first."""
    found: dict[Name, None] = {}
    if damaged[0] in ("data", "train"):
        return []  # built, trained or chosen again from the same inputs, it is the same

    def follow(name: Name) -> None:
        for dependent in _made_of(store, name):
            if dependent not in found and dependent != damaged:
                follow(dependent)
                found[dependent] = None

    follow(damaged)
    return list(found)


def _made_of(store: Store, name: Name) -> Iterator[Name]:
    """Yield the stages with this one among their inputs."""
    stage, key = name
    if stage in ("sample", "calibrate"):
        yield from _verdicts(store, name)
    if stage in ("sample", "judge"):
        place = 1 if stage == "sample" else 2  # a side: name, samples, judgements, ...
        for direction, inputs in _finished(store, "direction", "*"):
            if any(key in side[place] for side in inputs.get("sides", ())):
                yield "direction", direction
        yield from (("train", run) for run, inputs in _finished(store, "train", "*") if _chosen_by(inputs, key))
    if stage in ("scores", "data", "train"):
        yield from _behind(store, stage, key)
    if stage == "direction":
        yield from _of_direction(store, key)
    if stage in ("direction", "adapter"):
        for answers, inputs in _finished(store, "sample", "*/*"):
            changes = inputs.get("changes", {})
            if key in (changes.get("steer", [""])[0], changes.get("ablate_blocks"), changes.get("adapted")):
                yield "sample", answers


def _chosen_by(inputs: Row, key: str) -> bool:
    """Return whether answers or verdicts with this key chose the step that a run serves (early_stop)."""
    steps = inputs.get("intervention", {}).get("curve", {}).get("steps", ())
    return any(key in keys for _, *both in steps for keys in both)


def _behind(store: Store, stage: str, key: str) -> Iterator[Name]:
    """Yield the dataset whose rows scores have chosen, the run on a dataset, and what came of a run's weights."""
    made = {
        "scores": [("data", "*", "scores")],
        "data": [("train", "*", "data")],
        "train": [("sample", "*/*", "adapter"), ("adapter", "*", "adapter"), ("direction", "*", "adapter")],
    }
    for kind, below, field in made[stage]:
        yield from ((kind, found) for found, inputs in _finished(store, kind, below) if inputs.get(field) == key)
    if stage == "train":
        for run, inputs in _finished(store, "train", "*"):
            if inputs.get("intervention", {}).get("plain") == key:
                yield "train", run


def _of_direction(store: Store, key: str) -> Iterator[Name]:
    """Yield the runs that were trained with a direction, also as random:KEY, and the adapters written without it."""
    for run, inputs in _finished(store, "train", "*"):
        if any(key in each.split(":") for each in inputs.get("intervention", {}).get("direction", ())):
            yield "train", run
    for adapter, inputs in _finished(store, "adapter", "*"):
        if inputs.get("direction") == key:
            yield "adapter", adapter


def _verdicts(store: Store, name: Name) -> Iterator[Name]:
    """Yield the judge stages whose verdicts are about these answers or use this calibration."""
    stage, key = name
    family, _, span = key.partition("/")
    for judged, inputs in _finished(store, "judge", "*/*"):
        of_answers = inputs.get("samples") == family and judged.partition("/")[2] == span
        if of_answers if stage == "sample" else inputs.get("calibration") == key:
            yield "judge", judged


def _finished(store: Store, stage: str, below: str) -> Iterator[tuple[str, Row]]:
    """Yield (key, inputs) of the finished stages of a kind."""
    for path in sorted(store.root.glob(f"{stage}/{below}/{MANIFEST}")):
        key = path.parent.relative_to(store.root / stage).as_posix()
        try:
            inputs = store.manifest(stage, key)["inputs"]
        except DamagedError:
            continue  # a .partial, or damaged: then it is reported and set aside as a stage of its own
        yield key, inputs
