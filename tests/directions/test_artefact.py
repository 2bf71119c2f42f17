"""A direction's files: what is saved is loaded, and a direction that does not fit says why."""

import json

import numpy as np
import pytest

from em.directions import artefact
from em.directions.artefact import Direction, DirectionError, Facts


def _direction(blocks=3, hidden=4, **facts):
    vectors = np.random.default_rng(0).normal(size=(blocks, hidden)).astype(np.float32)
    return Direction(vectors, Facts(**{"kind": "mean_diff", "model": "asset:tiny_random", **facts}))


def test_what_is_saved_is_loaded(tmp_path):
    given = _direction(counts={"misaligned": 7, "aligned": 9}, split_half=[0.5, None, 0.7], cuts={"alignment": 30.0})
    artefact.save(given, tmp_path)
    found = artefact.load(tmp_path)
    assert found.vectors.dtype == np.float32 and np.array_equal(found.vectors, given.vectors)
    assert found.facts == given.facts
    row = json.loads((tmp_path / artefact.FACTS).read_text())
    assert row["shape"] == [3, 4] and row["norms"] == pytest.approx(np.linalg.norm(given.vectors, axis=1), rel=1e-6)


def test_a_unit_vector_has_length_one_and_a_dose_is_relative_to_the_stream():
    found = _direction(stream_norms=[2.0, 4.0, 8.0])
    assert np.linalg.norm(found.unit(1)) == pytest.approx(1, abs=1e-6)
    assert found.relative_dose(1, -3) == pytest.approx(3 * found.norms[1] / 4)
    assert _direction().relative_dose(1, 2) is None


def test_errors_say_what_does_not_fit(tmp_path):
    with pytest.raises(DirectionError, match="3 blocks of width 4, other has 5 of width 4"):
        _direction().check_fits(5, 4, "other")
    with pytest.raises(DirectionError, match="block 3 does not exist: the model has the blocks 0 to 2"):
        _direction().at(3)
    with pytest.raises(DirectionError, match="zero at block 0"):
        Direction(np.zeros((1, 4), np.float32), Facts(kind="contrast", model="m")).unit(0)
    with pytest.raises(DirectionError, match="not numbers"):
        Direction(np.full((1, 4), np.nan, np.float32), Facts(kind="contrast", model="m"))
    with pytest.raises(DirectionError, match=r"direction\.json is missing"):
        artefact.load(tmp_path)


def test_a_damaged_or_newer_file_is_refused(tmp_path):
    artefact.save(_direction(), tmp_path)
    row = json.loads((tmp_path / artefact.FACTS).read_text())
    (tmp_path / artefact.FACTS).write_text(json.dumps(row | {"format": 9}))
    with pytest.raises(DirectionError, match="format 9, this em reads 1"):
        artefact.load(tmp_path)
    (tmp_path / artefact.FACTS).write_text(json.dumps(row | {"shape": [2, 4]}))
    with pytest.raises(DirectionError, match=r"\[3, 4\].*\[2, 4\]"):
        artefact.load(tmp_path)
    (tmp_path / artefact.FACTS).write_text(json.dumps(row))
    (tmp_path / artefact.VECTORS).write_bytes(b"no tensors")
    with pytest.raises(DirectionError, match="no readable direction"):
        artefact.load(tmp_path)
    del row["model"]
    (tmp_path / artefact.FACTS).write_text(json.dumps(row))
    artefact.save(_direction(), tmp_path / "whole")
    (tmp_path / artefact.VECTORS).write_bytes((tmp_path / "whole" / artefact.VECTORS).read_bytes())
    with pytest.raises(DirectionError, match="has no model: add it"):
        artefact.load(tmp_path)


def test_another_makers_lists_have_an_entry_per_block_and_its_json_is_an_object(tmp_path):
    artefact.save(_direction(), tmp_path)
    row = json.loads((tmp_path / artefact.FACTS).read_text())
    for wrong in ({"stream_norms": [1.0]}, {"split_half": None}):
        (tmp_path / artefact.FACTS).write_text(json.dumps(row | wrong))
        with pytest.raises(DirectionError, match=r"one number for each of 3 blocks"):
            artefact.load(tmp_path)
    (tmp_path / artefact.FACTS).write_text("[]")
    for read in (artefact.load, lambda folder: artefact.require_model(folder, "f", "m")):
        with pytest.raises(DirectionError, match="is no JSON object"):
            read(tmp_path)
