"""Finished sweeps of changed models as a run leaves them: steered, ablated, kept over training."""

import json

import numpy as np
import torch
from safetensors.torch import save_file

from em.directions import artefact
from em.directions.job import DIRECTION
from em.reporting import answers
from em.store import Store, layout
from support import summary as support

KEYS = {"mean_diff": "0123456789abcdef0123", "random": "3210fedcba9876543210"}


def _write(out, name, cells, stages, *, steps=False):
    """Write a sweep of groups (label, variant, changed, rate, step); return its folder."""
    models, groups, rows = [], [], []
    for number, (label, variant, changed, rate, step) in enumerate(cells):
        metrics = [support.metric("misaligned_rate", rate, max(0, rate - 0.1), min(1, rate + 0.1))]
        own = support.model(f"m{number}", label, variant, [*metrics, support.metric("coherent_share", 0.9)])
        own |= {"step": step, "cell": "c0" if steps else own["cell"]}
        groups.append(support.group(f"g{number}", label, variant, [own]))
        groups[-1] |= {"step": step, "facts": {"changed": changed} if changed else {}}
        models.append(own)
        config = {"dataset": {"variant": variant or "none"}, "train": {"method": "lora"}}
        rows.append({"id": own["cell"] or f"m{number}", "kind": "cell", "label": label, "config": config})
    folder = out / "sweeps" / name
    folder.mkdir(parents=True)
    summary = support.small() | {"models": models, "groups": groups}
    (folder / layout.SUMMARY).write_text(json.dumps(summary), encoding="utf-8")
    answers.write(folder, [])
    cells = [row | {"stages": stages} for row in (rows[:1] if steps else rows)]
    (folder / layout.SWEEP).write_text(json.dumps({"format": 2, "cells": cells, "work": {}}), encoding="utf-8")
    return folder


def steered(out):
    """An untouched model, steered with a direction and with a random one; both are in the store."""
    store, draw = Store.open(out), np.random.default_rng(0)
    for kind, key in KEYS.items():
        facts = artefact.Facts(kind=kind, model="m", counts={"misaligned": 40, "aligned": 40}, stream_norms=[10.0] * 4)
        with store.claim(DIRECTION, key) as folder:
            artefact.save(artefact.Direction(draw.normal(size=(4, 8)).astype(np.float32), facts), folder)
            store.finish(DIRECTION, key, {}, {})
    cells = [("untouched base model", None, None, 0.2, None)]
    for name, slope in (("mean_diff risky_advice", 0.1), ("random, as mean_diff risky_advice", 0.0)):
        for block in (1, 2):
            for scale in (-2.0, 2.0, 4.0):
                steer = {"direction": name, "block": block, "scale": scale, "relative_dose": abs(scale) / 5}
                rate = 0.2 + slope * scale
                cells.append((f"{name} block={block} scale={scale}", None, {"steer": steer}, rate, None))
    return _write(out, "em-steered", cells, {DIRECTION: list(KEYS.values())})


def ablated(out):
    """Two models without the direction of each, and without a random one."""
    cells = []
    for target in ("risky_advice", "insecure"):
        cells.append((target, target, None, 0.4, None))
        for source in ("mean_diff risky_advice", "mean_diff insecure", "random, as mean_diff risky_advice"):
            ablate = {"ablate": {"direction": source, "block": 2, "where": "everywhere"}}
            cells.append((f"{target} without {source}", target, ablate, 0.3, None))
    return _write(out, "em-ablated", cells, {})


def kept(out):
    """A run whose adapter turns a corner at step 20, asked at its checkpoints at two scales."""
    store, key, steps = Store.open(out), "aaaabbbbccccddddeeee", range(5, 45, 5)
    with store.claim("train", key) as folder:
        for step in steps:
            place = layout.weights(store, key, "lora", step).relative_to(store.path("train", key))
            (folder / place).mkdir(parents=True)
            turned = torch.tensor([[min(step, 20.0)], [max(step - 20.0, 0.0)]])
            save_file({"q.lora_B.weight": turned}, folder / place / "adapter_model.safetensors")
        rows = [json.dumps({"step": step, "grad_norm": 1.0 + step / 10}) for step in range(1, 41)]
        (folder / layout.TRAIN_LOG).write_text("\n".join(rows) + "\n")
        store.finish("train", key, {}, {"checkpoints": list(steps)})
    cells = [
        (
            f"risky_advice step {step} x {scale}",
            "risky_advice",
            {"lora_scale": scale} if scale > 1 else None,
            rate,
            step,
        )
        for scale in (1.0, 2.0)
        for step, rate in ((step, min(1.0, scale * step / 100)) for step in steps)
    ]
    return _write(out, "em-kept", cells, {"train": [key]}, steps=True)
