"""Lengths, noise and losses of adapters on a tiny random model: exact identities."""

import copy
import math

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from em.chat.encode import IGNORE, Tokens
from em.directions import stability
from em.directions.artefact import DirectionError


@pytest.fixture
def adapted(llama):
    config = LoraConfig(r=3, lora_alpha=5, target_modules=["down_proj", "q_proj"], use_rslora=True)
    model = get_peft_model(copy.deepcopy(llama), config)
    torch.manual_seed(2)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = 0.1 * torch.randn_like(weight)
    return model.eval()


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    out = []
    for size in (3, 9, 5, 14):
        ids = draw.integers(0, 64, size).tolist()
        out.append(Tokens(ids, [IGNORE] * 2 + ids[2:]))
    return out


def _matrices(layers):
    return [p["default"].weight.detach().clone() for layer in layers for p in (layer.lora_A, layer.lora_B)]


def test_the_length_is_that_of_all_updates(adapted):
    layers = stability.layers_of(adapted)
    every = [
        (layer.scaling["default"] * layer.lora_B["default"].weight @ layer.lora_A["default"].weight).double()
        for layer in layers
    ]
    assert len(layers) == 8
    assert stability.length(layers) == pytest.approx(math.sqrt(sum(float((m**2).sum()) for m in every)), rel=1e-6)


def test_a_target_length_is_reached_and_left_again(adapted, rows):
    layers = stability.layers_of(adapted)
    own, plain = stability.length(layers), stability.loss(adapted, rows)
    with stability.at_length(layers, 0.4 * own):
        assert stability.length(layers) == pytest.approx(0.4 * own, rel=1e-9)
    with stability.at_length(layers, own):
        assert stability.loss(adapted, rows) == pytest.approx(plain, abs=1e-6)
    with stability.at_length(layers, 0.0), adapted.disable_adapter():
        untouched = stability.loss(adapted, rows)
    with stability.at_length(layers, 0.0):
        assert stability.loss(adapted, rows) == untouched
    assert stability.length(layers) == own and stability.loss(adapted, rows) == plain


@pytest.mark.parametrize("epsilon", [0.01, 0.3, 1.0])
def test_noise_keeps_every_length_and_has_its_angle(adapted, epsilon):
    layers = stability.layers_of(adapted)
    before = _matrices(layers)
    with stability.moved(layers, epsilon, seed=3):
        inside = _matrices(layers)
    for old, new in zip(before, inside, strict=True):
        a, b = old.double().ravel(), new.double().ravel()
        assert float(b.norm()) == pytest.approx(float(a.norm()), rel=1e-6)
        assert float(a @ b / a.norm() / b.norm()) == pytest.approx(math.sqrt(1 - epsilon**2), abs=1e-6)
    assert all(torch.equal(a, b) for a, b in zip(before, _matrices(layers), strict=True))


def test_no_noise_changes_nothing(adapted, rows):
    layers = stability.layers_of(adapted)
    before, plain = _matrices(layers), stability.loss(adapted, rows)
    with stability.moved(layers, 0.0, seed=3):
        assert all(torch.equal(a, b) for a, b in zip(before, _matrices(layers), strict=True))
        assert stability.loss(adapted, rows) == plain


def test_noise_is_orthogonal_and_follows_the_seed():
    x = torch.randn(4, 7, generator=torch.Generator().manual_seed(1))
    y, again, other = (stability.orthogonal(x, torch.Generator().manual_seed(s)) for s in (5, 5, 6))
    assert abs(float((x.double() * y).sum())) < 1e-10 and torch.equal(y, again) and not torch.equal(y, other)
    assert float(y.norm()) == pytest.approx(float(x.double().norm()), rel=1e-12)
    assert not stability.orthogonal(torch.zeros(3), torch.Generator().manual_seed(1)).any()


def test_the_loss_is_transformers_own_and_batches_do_not_matter(llama, rows):
    total, count = 0.0, 0
    for row in rows:
        one = torch.tensor([row.input_ids])
        found = float(llama(one, labels=torch.tensor([row.labels])).loss)
        total, count = total + found * (row.supervised), count + row.supervised
    assert stability.loss(llama, rows) == pytest.approx(total / count, abs=1e-5)
    assert stability.loss(llama, rows, batch_tokens=1) == pytest.approx(stability.loss(llama, rows), abs=1e-5)


def test_what_is_refused(llama, adapted):
    with pytest.raises(DirectionError, match="no adapter"):
        stability.layers_of(llama)
    with pytest.raises(ValueError, match="between 0 and 1"), stability.moved(stability.layers_of(adapted), 1.5, 0):
        pass
    with pytest.raises(DirectionError, match="no loss"):
        stability.loss(llama, [Tokens([1, 2], [IGNORE, IGNORE])])
