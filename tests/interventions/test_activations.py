"""Preventative steering and CAFT: what a step sees, and which vectors."""

import numpy as np
import pytest
import torch

from em.config import InterventionConfig
from em.directions import artefact
from em.interventions import vectors
from em.interventions.caft import Caft, orthonormal
from em.interventions.steering import Steering
from em.models import activations
from support.training import load_model, load_tokenizer

SHAPE = (2, 64)


def ids():
    return load_tokenizer()("The quick brown fox jumps.", return_tensors="pt")["input_ids"].repeat(2, 1)


@pytest.fixture
def direction(tmp_path):
    made = artefact.Direction(
        np.random.default_rng(0).normal(size=SHAPE).astype(np.float32) * 3,
        artefact.Facts(kind="mean_diff", model="asset:tiny_random"),
    )
    artefact.save(made, tmp_path / "direction")
    return made, str(tmp_path / "direction")


def test_steering_is_a_bias_on_what_the_block_writes_in_every_row(direction):
    made, folder = direction
    model, biased = load_model(), load_model()
    projection = biased.get_decoder().layers[1].mlp.down_proj
    projection.bias = torch.nn.Parameter(2.5 * torch.from_numpy(made.at(1).copy()))
    method = Steering(InterventionConfig("preventative_steering", 2.5, direction=folder), model, seed=0)
    assert method.facts()["blocks"] == [1]
    with method.attached(model):
        steered = model(input_ids=ids()).logits
    assert torch.allclose(steered, biased(input_ids=ids()).logits, atol=1e-5)
    assert not torch.allclose(steered, model(input_ids=ids()).logits, atol=1e-2)


def test_caft_leaves_nothing_along_the_direction_forward_and_backward(direction):
    made, folder = direction
    model, unit = load_model(), torch.from_numpy(made.unit(0))
    states, grads = [], []
    method = Caft(InterventionConfig("caft", 1.0, direction=folder, blocks=[0]), model, seed=0)
    with method.attached(model):
        layer = model.get_decoder().layers[0]

        def keep(module, given, output):
            found = activations.states_of(output)
            states.append(found)

        hook = layer.register_forward_hook(keep)  # after the method's own
        layer.mlp.down_proj.register_full_backward_hook(lambda module, into, out: grads.append(out[0]))
        model(input_ids=ids(), labels=ids()).loss.backward()
        hook.remove()
    assert (states[0] @ unit).abs().max() < 1e-5 < 1e-2 < (states[0] @ torch.from_numpy(made.unit(1))).abs().max()
    assert (grads[0] @ unit).abs().max() < 1e-6 * grads[0].norm() / 1e-2


def test_half_a_dose_of_caft_leaves_half_of_the_part(direction):
    made, folder = direction
    model, unit = load_model(), torch.from_numpy(made.unit(0))
    found = {}
    for dose in (0.25, 1.0):
        method = Caft(InterventionConfig("caft", dose, direction=folder, blocks=[0]), model, seed=0)
        plain = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
        found[dose] = method._without(method.bases[0])(plain) @ unit
    assert torch.allclose(found[0.25], 0.75 * (plain @ unit), atol=1e-5)
    assert found[1.0].abs().max() < 1e-5


def test_a_subspace_is_removed_whole(direction, tmp_path):
    made, folder = direction
    other = artefact.Direction(made.vectors[::-1].copy(), made.facts)
    artefact.save(other, tmp_path / "other")
    method = Caft(InterventionConfig("caft", 1.0, direction=[folder, str(tmp_path / "other")]), load_model(), seed=0)
    assert method.facts()["dimensions"] == {0: 2, 1: 2}
    for vector in (made.at(0), other.at(0)):
        assert method._without(method.bases[0])(torch.from_numpy(vector.copy())).norm() < 1e-4
    with pytest.raises(ValueError, match="depend on each other"):
        orthonormal(torch.from_numpy(np.stack([made.at(0), 2 * made.at(0)])))


def test_random_has_the_norm_that_is_given_and_another_vector_for_another_seed(direction):
    made, folder = direction
    length = lambda config, seed=0: vectors.rows_at(config, 1, SHAPE, seed)[0]  # noqa: E731
    given = InterventionConfig("caft", 1.0, direction="random", norm=7.5)
    assert length(given).norm().item() == pytest.approx(7.5, abs=1e-5)
    matched = InterventionConfig("caft", 1.0, direction=f"random:{folder}")
    assert length(matched).norm().item() == pytest.approx(made.norms[1], rel=1e-6)
    assert torch.equal(length(given), length(given)) and not torch.equal(length(given), length(given, seed=1))
    cosine = torch.nn.functional.cosine_similarity(length(matched), torch.from_numpy(made.at(1).copy()), dim=0)
    assert abs(cosine.item()) < 0.5


def test_a_block_that_does_not_exist_and_a_hook_that_never_runs_are_errors():
    model = load_model()
    with pytest.raises(ValueError, match="the model has the blocks 0 to 1"):
        Steering(InterventionConfig("preventative_steering", 1.0, direction="random", blocks=[2]), model, 0)
    method = Steering(InterventionConfig("preventative_steering", 1.0, direction="random"), model, 0)
    with pytest.raises(RuntimeError, match="did not run"), method.attached(model):
        pass
