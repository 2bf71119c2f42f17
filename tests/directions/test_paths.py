"""The path of an adapter: planted corners, a straight line, a plane."""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from em.directions import paths


def _path(points):
    return {5 * i: np.asarray(p, dtype=np.float64) for i, p in enumerate(points)}


def test_a_straight_path_has_cosine_minus_one():
    found = paths.local_cosines(_path([[i, 2 * i, -i] for i in range(6)]), 5)
    assert list(found) == [5, 10, 15, 20] and all(c == pytest.approx(-1) for c in found.values())


@pytest.mark.parametrize("angle", [30, 90, 150])
def test_a_planted_corner_returns_its_angle(angle):
    turn = np.deg2rad(angle)
    after = np.array([np.cos(turn), np.sin(turn)])
    points = [np.array([3.0 - i, 0.0]) for i in range(4)] + [i * after for i in (1, 2, 3)]
    found = paths.local_cosines(_path(points), 5)
    assert np.rad2deg(np.arccos(found[15])) == pytest.approx(angle)
    assert max(found, key=found.get) == 15


def test_a_path_that_stands_still_has_no_angle():
    assert paths.local_cosines(_path([[1, 0]] * 3), 5) == {5: None}
    assert paths.local_cosines(_path([[0, 0], [1, 0], [2, 0]]), 10) == {}


def test_a_path_in_a_plane_is_explained_by_it():
    draw = np.random.default_rng(0)
    basis = np.linalg.qr(draw.normal(size=(40, 2)))[0]
    flat = draw.normal(size=(9, 2))
    found = paths.plane([row @ basis.T + 3 for row in flat])
    assert found.explained == pytest.approx(1)
    wanted = np.linalg.norm(flat[:, None] - flat[None], axis=2)
    assert np.linalg.norm(found.places[:, None] - found.places[None], axis=2) == pytest.approx(wanted)
    with pytest.raises(ValueError, match="three points"):
        paths.plane([flat[0]])


def test_b_matrices_are_read_in_the_order_of_their_names(tmp_path):
    tensors = {
        "z.lora_B.weight": torch.full((2, 1), 2.0),
        "a.lora_B.weight": torch.ones(3, 1),
        "a.lora_A.weight": torch.ones(1),
    }
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    assert paths.b_matrices(tmp_path).tolist() == [1, 1, 1, 2, 2]
