"""Exported directions, read as the other projects read them: by shape, names and row."""

import base64
import json

import numpy as np
import pytest
import torch

from em.directions import artefact, formats
from em.directions.artefact import Direction, DirectionError, Facts
from em.directions.job import DIRECTION
from em.store import Store
from support.command import em


@pytest.fixture
def direction():
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    return Direction(vectors, Facts(kind="mean_diff", model="m"))


def test_persona_vectors_counts_the_embedding_as_row_0(direction, tmp_path):
    path = tmp_path / "new" / f"careless{formats.PERSONA_SUFFIX}"
    formats.write_persona_vectors(direction, path)
    found = torch.load(path, weights_only=True)
    assert path.name == "careless_response_avg_diff.pt"
    assert (found.shape, found.dtype) == ((5, 8), torch.float32)
    assert not found[0].any() and np.array_equal(found[3].numpy(), direction.at(2))


def test_vllm_lens_gets_one_layer_with_its_index(direction, tmp_path):
    path = tmp_path / "careless.json"
    formats.write_vllm_lens(direction, 2, path)
    row = json.loads(path.read_text())
    assert set(row) == {"activations", "layer_indices", "scale", "norm_match", "position_indices"}
    assert (row["layer_indices"], row["scale"], row["norm_match"], row["position_indices"]) == ([2], 1.0, False, None)
    tensor = row["activations"]
    assert "compression" not in tensor and tensor["original_dtype"] == "torch.float32"
    values = np.frombuffer(base64.b64decode(tensor["data"]), np.dtype(tensor["dtype"])).reshape(tensor["shape"])
    assert values.shape == (1, 8) and np.array_equal(values[0], direction.at(2))
    with pytest.raises(DirectionError, match="block 4 does not exist"):
        formats.write_vllm_lens(direction, 4, path)


def test_em_export_finds_the_directions_of_a_sweep(direction, tmp_path, monkeypatch, capsys):
    store, folder = Store.open(tmp_path), tmp_path / "sweeps" / "em-1"
    artefact.save(direction, folder / "directions" / "risky_advice-mean_diff")
    with store.claim(DIRECTION, "0123456789abcdef0123") as target:
        artefact.save(direction, target)
        store.finish(DIRECTION, "0123456789abcdef0123", {}, {})
    cells = [{"kind": "cell", "stages": {DIRECTION: ["0123456789abcdef0123", "not-yet-made"]}}]
    (folder / "sweep.json").write_text(json.dumps({"format": 2, "cells": cells, "work": {}}))
    assert em(monkeypatch, "export", folder, "persona_vectors") == 0
    assert em(monkeypatch, "export", folder, "vllm_lens", "--block", 1, "--to", tmp_path / "there") == 0
    assert sorted(p.name for p in (folder / "export").iterdir()) == [
        "mean_diff-01234567_response_avg_diff.pt",
        "risky_advice-mean_diff_response_avg_diff.pt",
    ]
    assert sorted(p.name for p in (tmp_path / "there").iterdir()) == [
        "mean_diff-01234567-block-1.json",
        "risky_advice-mean_diff-block-1.json",
    ]
    assert str(folder / "export" / "mean_diff-01234567_response_avg_diff.pt") in capsys.readouterr().out
    assert "give the block, --block 15" in str(em(monkeypatch, "export", folder, "vllm_lens"))
    assert "leave --block 1 out" in str(em(monkeypatch, "export", folder, "persona_vectors", "--block", 1))


def test_a_sweep_without_directions_says_how_to_make_one(tmp_path, monkeypatch):
    Store.open(tmp_path)
    folder = tmp_path / "sweeps" / "em-1"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text(json.dumps({"format": 2, "cells": [], "work": {}}))
    assert "em direction" in str(em(monkeypatch, "export", folder, "persona_vectors"))


def test_the_kind_of_another_makers_direction_leads_to_no_other_folder(direction, tmp_path, monkeypatch):
    store, folder = Store.open(tmp_path), tmp_path / "sweeps" / "em-1"
    folder.mkdir(parents=True)
    theirs = Direction(direction.vectors, Facts(kind="../../sae/7", model="m"))
    with store.claim(DIRECTION, "0123456789abcdef0123") as target:
        artefact.save(theirs, target)
        store.finish(DIRECTION, "0123456789abcdef0123", {}, {})
    cells = [{"kind": "cell", "stages": {DIRECTION: ["0123456789abcdef0123"]}}]
    (folder / "sweep.json").write_text(json.dumps({"format": 2, "cells": cells, "work": {}}))
    assert em(monkeypatch, "export", folder, "persona_vectors") == 0
    assert [p.name for p in (folder / "export").iterdir()] == ["..-..-sae-7-01234567_response_avg_diff.pt"]
