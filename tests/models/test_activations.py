"""Hooks on the residual stream of a tiny random model: exact effects, and an error for a hook that never runs."""

import copy

import pytest
import torch

from em.models import activations
from support.directions import random_llama


@pytest.fixture(scope="module")
def llama():
    return random_llama()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 64, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vector():
    return torch.randn(32, generator=torch.Generator().manual_seed(2))


@torch.no_grad()
def _states(model, ids):
    seen = {}
    with activations.reading(model, lambda b, x: seen.update({b: x.clone()})):
        logits = model(ids).logits
    return seen, logits


def test_reading_gives_the_stream_after_each_block(llama, ids):
    seen, _ = _states(llama, ids)
    with torch.no_grad():
        hidden = llama(ids, output_hidden_states=True).hidden_states
    assert activations.shape(llama) == (4, 32) == (len(seen), seen[0].shape[-1])
    for block in range(3):
        assert torch.equal(seen[block], hidden[block + 1])
    assert torch.allclose(llama.model.norm(seen[3]), hidden[4], atol=1e-6)  # transformers' last state is normed


def test_adding_a_vector_is_a_bias_of_down_proj_in_every_row(llama, ids, vector):
    biased = copy.deepcopy(llama)
    biased.model.layers[2].mlp.down_proj.bias = torch.nn.Parameter(1.7 * vector)
    with torch.no_grad():
        plain, wanted = llama(ids).logits, biased(ids).logits
        with activations.changing(llama, {2: activations.add(1.7 * vector)}):
            found = llama(ids).logits
        assert torch.equal(llama(ids).logits, plain)  # the hooks are gone
    assert torch.allclose(found, wanted, atol=1e-5)
    assert (found - plain).abs().amax((1, 2)).min() > 0.1  # both rows move


def test_a_projection_rises_by_exactly_the_added_length(llama, ids, vector):
    seen = {}
    before, _ = _states(llama, ids)
    with (
        torch.no_grad(),
        activations.changing(llama, {1: activations.add(2.5 * vector)}),
        activations.reading(llama, lambda b, x: seen.update({b: x})),
    ):
        llama(ids)
    unit = vector / vector.norm()
    assert torch.allclose(seen[1] @ unit, before[1] @ unit + 2.5 * vector.norm(), atol=1e-4)
    assert torch.equal(seen[0], before[0])


def test_removing_from_every_write_leaves_no_part_along_the_direction(llama, ids, vector):
    basis = (vector / vector.norm())[None]
    seen, plain = {}, _states(llama, ids)[1]
    with (
        torch.no_grad(),
        activations.removing_from_writes(llama, basis),
        activations.reading(llama, lambda b, x: seen.update({b: x})),
    ):
        found = llama(ids).logits
    assert max(float((x @ basis.T).abs().max()) for x in seen.values()) < 1e-5
    assert (found - plain).abs().max() > 0.1


def test_a_block_that_does_not_exist_and_a_hook_that_never_runs_are_errors(llama, vector):
    with (
        pytest.raises(ValueError, match="block 4 does not exist: the model has the blocks 0 to 3"),
        activations.changing(llama, {4: activations.add(vector)}),
    ):
        pass
    with (
        pytest.raises(RuntimeError, match="did not run"),
        activations.changing(llama, {1: activations.add(vector)}),
    ):
        pass
