"""Export the trained models of a sweep as folders that PEFT and transformers load, each with its model card.

<to>/<label>/    adapter_config.json, weights, tokenizer, README.md (of a whole model: config.json instead)
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from em.metrics.summary_types import ModelRow, Summary
from em.models import paths
from em.reporting.export import CardFacts, card
from em.store import Store, StoreError, layout

CONFIG = "adapter_config.json"


def export_model(store: Store, cell: Mapping[str, Any], model: ModelRow, summary: Summary, to: Path) -> Path:
    """Write the folder of one cell, again if it is there, and return it. `cell`: its row of sweep.json.

    Large files are hard links if the folder is on the store's disk. Raises StoreError if the training has no weights
    here: it is not finished, or the model is at OpenAI.
    """
    if _changed(cell["config"].get("sample", {})):
        raise StoreError(f"{cell['label']} was changed while it answered (sample.*): its weights are not that model")
    trained = store.path("train", cell["stages"]["train"][0])
    source = next((trained / name for name in (layout.ADAPTER, layout.MODEL) if (trained / name).is_dir()), None)
    if source is None:
        raise StoreError(f"{cell['label']} has no weights in {trained}")
    folder = to / re.sub(r"[^\w.=+-]+", "_", cell["label"]).strip("_")
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(p for p in source.rglob("*") if p.is_file() and p.name != CONFIG):
        _link(file, folder / file.relative_to(source))
    base = cell["config"]["model"]
    if (source / CONFIG).is_file():
        config = json.loads((source / CONFIG).read_text(encoding="utf-8"))
        found = {"base_model_name_or_path": paths.model_path(base["path"]), "revision": base.get("revision")}
        (folder / CONFIG).write_text(json.dumps(config | found, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(cell, model, summary, facts_of(store, cell)), encoding="utf-8")
    return folder


def facts_of(store: Store, cell: Mapping[str, Any]) -> CardFacts:
    """Return what a model card says from the store and from the cell's config."""
    from em.planning.command import command_of

    manifest = store.manifest("data", cell["stages"]["data"][0])
    return CardFacts(dataset=manifest["files"][layout.DATASET]["sha256"], command=command_of(cell["config"]))


def _changed(sample: Mapping[str, Any]) -> bool:
    """Whether the model was steered, ablated or scaled while it answered; an older sweep has no such options."""
    directions = (sample.get(name, {}).get("direction") for name in ("steer", "ablate"))
    return any(directions) or sample.get("lora_scale", 1.0) != 1.0


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another disk
        shutil.copy2(source, target)
