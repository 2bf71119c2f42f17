"""Log-probabilities of steered prompts as transformers gives them, in probe.json beside a direction.

An engine that steers in another way (a bias of the block's last layer) is compared with them before it answers. Where a
norm stands between that layer and the stream, as in Gemma 2 and 3, the comparison fails and the engine is refused.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from em.chat.probe import Probe
from em.directions.artefact import Direction, DirectionError
from em.gates import record
from em.gates.record import Record
from em.models import activations
from em.store import write_atomic

FILE = "probe.json"
DOSE = 0.5
"""Length of what the probe adds, over the stream's mean norm."""
QUESTIONS = 2
"""Fixed questions of the gates that are scored."""


@dataclass(frozen=True)
class SteeredProbe:
    """What transformers gives for the untouched model, plain and steered at each block."""

    dtype: str
    probes: list[Probe]
    base: list[list[float]]
    scales: list[float]
    """Factor of the direction's vector per block; 0 where the vector is zero."""
    steered: list[list[list[float]]]
    """Per block: one list per probe."""

    def record(self, block: int) -> Record:
        """Return the record of the model steered at a block, for gates.checks.check_logprobs."""
        return Record(
            kind="lora",
            dtype=self.dtype,
            probes=self.probes,
            adapted=self.steered[block],
            base=self.base,
            plain=None,
            modules=0,
            scale=0.0,
        )


@torch.inference_mode()
def measure(model: Any, tokenizer: Any, direction: Direction) -> SteeredProbe:
    """Return the probe of a direction on the untouched model. It takes a forward pass per block and question."""
    probes = record.fixed_probes(tokenizer)[:QUESTIONS]
    base, scales, steered = record.logprobs(model, probes), [], []
    for block in range(direction.blocks):
        length = direction.norms[block]
        scale = DOSE * direction.facts.stream_norms[block] / length if length else 0.0
        vector = torch.from_numpy(direction.at(block)) * scale
        with activations.changing(model, {block: activations.add(vector)}):
            steered.append(record.logprobs(model, probes))
        scales.append(scale)
    dtype = str(next(p for p in model.parameters() if p.is_floating_point()).dtype).removeprefix("torch.")
    return SteeredProbe(dtype, probes, base, scales, steered)


def write(found: SteeredProbe, folder: Path) -> None:
    """Write probe.json."""
    row = {**vars(found), "probes": [vars(p) for p in found.probes]}
    write_atomic(folder / FILE, json.dumps(row) + "\n")


def read(folder: Path) -> SteeredProbe:
    """Read probe.json. Raises DirectionError if it is missing."""
    try:
        row = json.loads((folder / FILE).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DirectionError(f"{folder} has no {FILE}: how an engine steers cannot be checked") from error
    return SteeredProbe(**{**row, "probes": [Probe(**p) for p in row["probes"]]})
