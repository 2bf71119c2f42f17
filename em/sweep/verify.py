"""Compare finished stages with their manifests before they are used. Damaged ones are reported and made again.

Files that this sweep reads are checked, and nothing else: rows and training logs always, an adapter or a dataset only
if an unfinished stage needs it. Earlier checks are not remembered: a disk can change a file without changing its time.
"""

from __future__ import annotations

from collections.abc import Iterator

from em.planning.plan import Plan
from em.planning.stages import BY_NAME, VERIFY_ORDER
from em.store import MANIFEST, DamagedError, Store


def set_aside_damaged(plan: Plan, store: Store) -> Iterator[tuple[str, str, str]]:
    """Move damaged stages, and what was made from them, aside. Return (stage, key, message) per stage."""
    for stage in (one.name for one in VERIFY_ORDER):
        for key in _keys(plan, stage):
            problem = _problem(plan, store, stage, key)
            if not problem:
                continue
            for dependent in _made_of(store, stage, key):
                store.set_aside("judge", dependent)
                yield "judge", dependent, f"judge {dependent} was made of {stage} {key}, which is damaged"
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


def _made_of(store: Store, stage: str, key: str) -> list[str]:
    """Return finished judge stages, of any sweep, whose verdicts are about these answers or use this calibration."""
    if stage not in ("sample", "calibrate"):
        return []
    family, _, span = key.partition("/")
    found = []
    for path in sorted(store.root.glob(f"judge/*/*/{MANIFEST}")):
        judged = f"{path.parts[-3]}/{path.parts[-2]}"
        try:
            inputs = store.manifest("judge", judged)["inputs"]
        except DamagedError:
            continue  # a .partial, or damaged: then it is reported and set aside as a stage of its own
        of_answers = inputs.get("samples") == family and path.parts[-2] == span
        if of_answers if stage == "sample" else inputs.get("calibration") == key:
            found.append(judged)
    return found
