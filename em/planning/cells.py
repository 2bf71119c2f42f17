"""Name the cells of a sweep: a stable id, and a short label that says what sets a cell apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from em.config import ExperimentConfig, as_dict
from em.config.identity import identifying
from em.interventions.framing import labelled
from em.records import BASE_LABEL
from em.store import content_key

UNNAMED = ("dataset.variant", "out", "name")


def cell_id(config: ExperimentConfig) -> str:
    """Return a cell's stable id: the hash of its resolved config, without names of folders and trackers.

    A group or field that is at its default, and is younger than release 0.1.0, is not in it (identifying).
    """
    row = identifying(config)
    for name in ("out", "name", "tracking", "launch", "budget"):
        row.pop(name)
    return content_key(**row)[:10]


def cell_labels(configs: Sequence[ExperimentConfig]) -> list[str]:
    """Return a short name per cell: the variant, and whatever else differs between the cells of this sweep."""
    names = [c.dataset.variant if c.dataset.trained else BASE_LABEL for c in configs]
    return [" ".join([name, *extra]) for name, extra in zip(names, differences(configs), strict=True)]


def labels_without_seeds(configs: Sequence[ExperimentConfig]) -> list[str]:
    """Return the labels of cells without the words that differ within a group of runs."""
    own = ("seed=", "subset_index=")
    return [" ".join(w for w in label.split(" ") if not w.startswith(own)) for label in cell_labels(configs)]


def differences(configs: Sequence[ExperimentConfig], only: Sequence[str] = ()) -> list[list[str]]:
    """Return what differs between configs, as "key=value": a group by its name if the names tell, else by its fields.

    A key is the last part of its name if no other has it, e.g. "dose"; `sample.seed` stays, for the cell has a `seed`.
    `only`: consider only these groups. The dataset variant is left out.
    """
    flat = [{k: v for k, v in flatten(as_dict(labelled(c))) if v != {}} for c in configs]
    keys = [k for k in dict.fromkeys(k for f in flat for k in f) if not only or k.split(".")[0] in only]
    varying = [k for k in keys if len({str(f.get(k)) for f in flat}) > 1 and k not in UNNAMED]
    names = {"dataset": "dataset.variant"} | {k.split(".")[0]: k for k in varying if k.endswith(".name")}

    def said_by_name(key: str) -> bool:
        name = names.get(key.split(".")[0], "")
        pairs = {(f.get(name), str(f.get(key))) for f in flat}
        return name not in ("", key) and len(pairs) == len({n for n, _ in pairs})

    kept = [k for k in varying if not said_by_name(k)]
    short = {k: k.removesuffix(".name").split(".")[-1] for k in kept}
    taken = Counter([*short.values(), "seed"])
    words = {k: name if taken[name] == 1 or k == name else k for k, name in short.items()}
    return [[f"{word}={f.get(k)}" for k, word in words.items()] for f in flat]


def flatten(value: Any, name: str = "", lists: bool = False) -> Iterator[tuple[str, Any]]:
    """Yield ("a.b.c", value) of every leaf of nested mappings; an empty mapping is a leaf.

    `lists`: lists that hold mappings or lists are entered too, as "a[0].b".
    """
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from flatten(inner, f"{name}.{key}" if name else key, lists)
    elif lists and isinstance(value, list) and any(isinstance(v, list | dict) for v in value):
        for number, inner in enumerate(value):
            yield from flatten(inner, f"{name}[{number}]", lists)
    else:
        yield name, value
