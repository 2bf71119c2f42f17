"""realign: train the finished adapter further, on careful rows (Wang et al. 2025, 2506.19823).

Its steps are plain finetuning with a new optimiser. The rows are in em/data/second_phase.py; here is where it starts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file

from em.interventions.identity import adapter_files


def put_adapter(model: Any, folder: Path) -> None:
    """Put the weights of a finished adapter in place of a PEFT model's new ones.

    Raises ValueError if one of them is missing there, or has no place here.
    """
    file, _ = adapter_files(folder)
    weights = load_file(file)
    differ = weights.keys() ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys()
    if differ:
        raise ValueError(f"{folder} is not an adapter of this recipe: {min(differ)} is in one of the two only")
    set_peft_model_state_dict(model, weights)
