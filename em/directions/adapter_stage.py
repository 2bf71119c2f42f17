"""The adapter stage: write scaled and ablated adapters, each with a gate that hooks made. `work` is the door.

The gate does not come from the written adapter: it is the trained one, scaled by PEFT, with the direction projected out
of every write by hooks. So an engine that serves the adapter is compared with another way of the same change.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from em.directions import adapters, artefact
from em.directions.job import ADAPTED, DIRECTION, AdapterJob
from em.directions.stage import Models
from em.gates import record
from em.models import activations
from em.runtime.events import Emitter
from em.store import Store, layout
from em.store.jsonl import Row


def work(store: Store, jobs: list[AdapterJob], emit: Emitter) -> None:
    """Write every adapter of a batch. The jobs of a batch have one base model."""
    models: Models | None = None
    for job in jobs:
        with emit.job(job.key), store.claim(ADAPTED, job.key) as folder:
            if folder is None:
                continue
            if models is None:
                models = Models(job.model)
                emit.count("model_loads")
            facts = make(job, models, store, folder)
            store.finish(ADAPTED, job.key, job.inputs, facts)


def make(job: AdapterJob, models: Models, store: Store, folder: Path) -> Row:
    """Write the adapter and its gate.json into a folder. Return facts for the manifest."""
    trained, basis, norm = job.trained, None, None
    source = layout.weights(store, trained.train_key, trained.method, trained.step) if trained else None
    if job.direction:
        direction = artefact.load(store.path(DIRECTION, job.direction))
        direction.check_fits(*activations.shape(models.base), job.model.path)
        basis, norm = torch.from_numpy(direction.unit(job.block))[None], direction.norms[job.block]
    names = adapters.write(models.base, folder / layout.ADAPTER, source, job.lora_scale, basis)
    reference(job, models, store, basis, folder)
    return {"modules": names, "removed_norm": norm, "lora_scale": job.lora_scale}


def reference(job: AdapterJob, models: Models, store: Store, basis: torch.Tensor | None, folder: Path) -> record.Record:
    """Write what transformers gives for the change without the written adapter (gate.json). Return it."""
    known: list[Any] = []
    if job.trained:
        own = layout.weights(store, job.trained.train_key, job.trained.method, job.trained.step)
        known = record.read(own if job.trained.step is not None else own.parent).probes
    probes = known or record.fixed_probes(models.tokenizer)
    base = record.logprobs(models.base, probes)
    with models.finetuned(store, job.trained) as model, _scaled(model, job.lora_scale), _removed(model, basis):
        adapted = record.logprobs(model, probes)
    modules = adapters.count(folder / layout.ADAPTER)
    dtype = str(next(p for p in models.base.parameters() if p.is_floating_point()).dtype).removeprefix("torch.")
    found = record.Record(
        kind="lora",
        dtype=dtype,
        probes=probes,
        adapted=adapted,
        base=base,
        plain=None,
        modules=modules,
        scale=1.0,
    )
    record.write(found, folder)
    return found


@contextmanager
def _scaled(model: Any, factor: float) -> Iterator[None]:
    layers = record.lora_layers(model)
    if not layers:
        yield
        return
    with record.scaled(layers, factor):
        yield


@contextmanager
def _removed(model: Any, basis: torch.Tensor | None) -> Iterator[None]:
    if basis is None:
        yield
        return
    with activations.removing_from_writes(model, basis):
        yield
