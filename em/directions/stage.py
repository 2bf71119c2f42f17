"""The direction stage: make directions of stored texts, with one model in memory for a batch. `work` is the door."""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from em.config import ModelConfig
from em.config.direction import DirectionKind
from em.directions import artefact, extract, probe, texts, vectors
from em.directions.artefact import Direction, Facts
from em.directions.extract import Read, Reader, Text
from em.directions.job import DIRECTION, DirectionJob, Weights
from em.gates import record
from em.models import activations, bfloat16, paths
from em.runtime.cuda import uses_gpu
from em.runtime.events import Emitter
from em.store import Store, layout
from em.store.jsonl import Row


def work(store: Store, jobs: list[DirectionJob], emit: Emitter) -> None:
    """Make every direction of a batch. The jobs of a batch have one base model."""
    models: Models | None = None
    for job in jobs:
        with emit.job(job.key), store.claim(DIRECTION, job.key) as folder:
            if folder is None:
                continue
            if models is None:
                models = Models(job.model)
                emit.count("model_loads")
            direction = make(job, models, store)
            artefact.save(direction, folder)
            probe.write(probe.measure(models.base, models.tokenizer, direction), folder)
            emit_low_agreement(job, direction, emit)
            store.finish(DIRECTION, job.key, job.inputs, _manifest_facts(direction))


def emit_low_agreement(job: DirectionJob, direction: Direction, emit: Emitter) -> None:
    """Warn if half of the texts gives another direction at most blocks."""
    known = [c for c in direction.facts.split_half if c is not None]
    if known and float(np.median(known)) < artefact.LOW_AGREEMENT:
        emit.warn(
            f"the {job.what} is unreliable: the directions of two halves of its texts have a median cosine of "
            f"{float(np.median(known)):.2f} over the blocks. Raise direction.n"
        )


def _manifest_facts(direction: Direction) -> Row:
    facts = direction.facts
    return {
        "kind": facts.kind,
        "counts": facts.counts,
        "norms": direction.norms,
        "stream_norms": facts.stream_norms,
        "split_half": facts.split_half,
    }


class Models:
    """The untouched model in memory; finetuned ones are lent out."""

    def __init__(self, model: ModelConfig) -> None:
        self.config, self.path = model, paths.model_path(model.path)
        bfloat16.prepare_cpu()
        self.tokenizer = paths.tokenizer(self.path, model.revision)
        self.base = self.load(self.path, model.revision)

    def load(self, path: str, revision: str | None) -> Any:
        """Return the model of a folder or hub id, ready to read."""
        device = "cuda" if uses_gpu() else None
        dtype = getattr(torch, self.config.dtype)
        return AutoModelForCausalLM.from_pretrained(path, revision=revision, dtype=dtype, device_map=device).eval()

    @contextmanager
    def finetuned(self, store: Store, weights: Weights | None) -> Iterator[Any]:
        """Yield the model with these weights; None: the untouched one."""
        if weights is None:
            yield self.base
            return
        folder = layout.weights(store, weights.train_key, weights.method, weights.step)
        if not weights.rank:
            yield self.load(str(folder), None)
            gc.collect()
            return
        model = PeftModel.from_pretrained(self.base, str(folder)).eval()
        try:
            yield model
        finally:
            self.base = model.unload()


def make(job: DirectionJob, models: Models, store: Store) -> Direction:
    """Return the direction of a job. Raises DirectionError, e.g. for too few texts or a direction of another model."""
    kind = job.config.kind
    found = _stored(job, models) if kind == DirectionKind.stored else _extracted(job, models, store)
    if job.config.random:
        drawn = vectors.random_like(found.vectors, job.config.seed)
        note = f"random vectors with the lengths of {found.facts.kind}"
        facts = dataclasses.replace(found.facts, kind="random", split_half=[], note=note, seed=job.config.seed)
        return Direction(drawn, facts)
    return found


def _extracted(job: DirectionJob, models: Models, store: Store) -> Direction:
    sides = [texts.texts_of(side, job, models.tokenizer, store) for side in job.sides]
    with models.finetuned(store, job.read_from) as model:
        reads = [_read(job, model, side) for side in sides]
    if job.config.kind == DirectionKind.model_difference:
        reads.append(_read(job, models.base, sides[0]))
    found, agreement = extract.difference(reads[0], reads[1])
    names = [side.name for side in job.sides]
    facts = Facts(
        kind=job.config.kind.value,
        model=job.model.path,
        fingerprint=job.fingerprint,
        read_from=job.read_from.train_key if job.read_from else "",
        counts=dict(zip(names, map(len, sides), strict=True)),
        tokens={name: read.tokens for name, read in zip(names, reads, strict=False)},
        weighting=job.config.weighting.value,
        split_half=agreement,
        stream_norms=extract.stream_norms(reads[: len(sides)]),
        answers=artefact.digest(texts.ids(sides)),
        cuts=job.cuts if any(side.judgements for side in job.sides) else {},
        judge=job.judge if any(side.judgements for side in job.sides) else "",
        seed=job.config.seed,
    )
    return Direction(found, facts)


def _read(job: DirectionJob, model: Any, side: list[Text]) -> Read:
    return Reader(model, job.config.weighting).means(side, extract.halves(len(side), job.config.seed))


def _stored(job: DirectionJob, models: Models) -> Direction:
    """Return a direction that was made before, if it fits the model. Its stream norms are measured if it has none."""
    found = artefact.load(Path(str(job.config.path)).expanduser())
    found.check_fits(*activations.shape(models.base), job.model.path)
    if found.facts.stream_norms:
        return found
    probes = record.fixed_probes(models.tokenizer)
    read = _read(job, models.base, [Text(str(i), p.prompt_ids, p.target_ids) for i, p in enumerate(probes)])
    return Direction(found.vectors, dataclasses.replace(found.facts, stream_norms=extract.stream_norms([read])))
