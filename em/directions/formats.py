"""Directions in the file formats of other projects: a tensor for persona_vectors, a JSON for vllm-lens.

Both count a block's row in their own way, and neither file says what the direction is made of: direction.json does.
"""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import numpy as np

from em.directions.artefact import Direction
from em.store import write_atomic

PERSONA_SUFFIX = "_response_avg_diff.pt"
"""End of the names that persona_vectors looks for: differences of means over an answer's tokens."""


def write_persona_vectors(direction: Direction, path: Path) -> None:
    """Write the vectors as persona_vectors keeps them (2507.21509): a float32 tensor [blocks + 1, hidden].

    Its row k is transformers' hidden_states[k], so row b + 1 is block b, and row 0, the embedding's, is zero here. Its
    last row is read behind the final norm; ours is the stream before it.
    """
    import torch

    rows = np.concatenate([np.zeros((1, direction.hidden), np.float32), direction.vectors.astype(np.float32)])
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    torch.save(torch.from_numpy(rows), temporary)
    os.replace(temporary, path)


def write_vllm_lens(direction: Direction, block: int, path: Path) -> None:
    """Write one block's vector as the JSON of a vllm-lens SteeringVector: activations [1, hidden], layer_indices.

    Its layer i is our block i. Its scale is a factor of the vector as it is, like sample.steer.scale. Raises
    DirectionError for a block that does not exist.
    """
    vector = np.ascontiguousarray(direction.at(block)[None], dtype="<f4")
    row = {
        "activations": {
            "data": base64.b64encode(vector.tobytes()).decode(),
            "dtype": "float32",
            "original_dtype": "torch.float32",
            "shape": list(vector.shape),
        },
        "layer_indices": [block],
        "scale": 1.0,
        "norm_match": False,
        "position_indices": None,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(row) + "\n")
