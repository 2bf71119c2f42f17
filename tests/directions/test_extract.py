"""Extraction: exact identities on a tiny random model."""

import numpy as np
import pytest
import torch

from em.config.direction import Weighting
from em.directions import extract, vectors
from em.directions.extract import Reader, Text
from em.directions.vectors import cosines


def _texts(count, seed):
    draw = np.random.default_rng(seed)

    def tokens(low, high):
        return draw.integers(0, 64, draw.integers(low, high)).tolist()

    return [Text(f"{seed}-{i}", tokens(2, 9), tokens(1, 14)) for i in range(count)]


def _read(model, texts, weighting=Weighting.token, batch_tokens=extract.BATCH_TOKENS):
    return Reader(model, weighting, batch_tokens).means(texts, extract.halves(len(texts), 0))


@torch.no_grad()
def _by_hand(model, texts, weighting):
    """Block outputs by transformers' own hidden states, without padding; the last block is read before the norm."""
    means, weights, norms, tokens = [], [], 0.0, 0
    for text in texts:
        ids = torch.tensor([text.prompt_ids + text.answer_ids])
        last = []
        hook = model.model.norm.register_forward_pre_hook(lambda _, given, last=last: last.append(given[0]))
        hidden = model(ids, output_hidden_states=True).hidden_states
        hook.remove()
        states = torch.stack([*(h[0] for h in hidden[1:-1]), last[0][0]]).double()
        answer = states[:, len(text.prompt_ids) :]
        means.append(answer.mean(1).numpy())
        weights.append(answer.shape[1] if weighting == Weighting.token else 1)
        norms += states[:, 1:].norm(dim=2).sum(1).numpy()
        tokens += states.shape[1] - 1
    return np.average(means, axis=0, weights=weights), norms / tokens


@pytest.mark.parametrize("weighting", list(Weighting))
def test_means_are_those_of_each_text_alone(llama, weighting):
    texts = _texts(9, 1)
    wanted, norms = _by_hand(llama, texts, weighting)
    read = _read(llama, texts, weighting)
    assert np.allclose(read.mean, wanted, atol=1e-5)
    assert np.allclose(extract.stream_norms([read]), norms, atol=1e-4)
    assert read.tokens == sum(len(t.answer_ids) for t in texts)


def test_batch_size_and_padding_do_not_matter(llama):
    texts = _texts(12, 2)
    one, many = _read(llama, texts, batch_tokens=1), _read(llama, texts, batch_tokens=100_000)
    assert np.allclose(one.mean, many.mean, atol=1e-5)
    assert np.allclose(one.halves[0].value, many.halves[0].value, atol=1e-5)


def test_swapped_sides_flip_the_sign_and_equal_sides_give_zero(llama):
    plus, minus = _read(llama, _texts(8, 3)), _read(llama, _texts(8, 4))
    there, agreement = extract.difference(plus, minus)
    back, same = extract.difference(minus, plus)
    assert np.array_equal(there, -back) and agreement == same
    assert not extract.difference(plus, plus)[0].any()
    assert np.abs(there).max() > 0.01


def test_the_two_weightings_differ_only_with_length(llama):
    equal = [Text(str(i), [1, 2], [3 + i, 4, 5]) for i in range(4)]
    token, answer = (_read(llama, equal, w).mean for w in Weighting)
    assert np.allclose(token, answer, atol=1e-6)
    unequal = [*equal, Text("long", [1, 2], list(range(40)))]
    assert (
        np.abs(_read(llama, unequal, Weighting.token).mean - _read(llama, unequal, Weighting.answer).mean).max() > 0.01
    )


def test_halves_are_equal_and_follow_the_seed():
    assert sorted(extract.halves(10, 3)) == [0] * 5 + [1] * 5
    assert extract.halves(10, 3) == extract.halves(10, 3) != extract.halves(10, 4)


def test_a_random_direction_has_the_lengths_of_the_one_it_replaces():
    given = (np.random.default_rng(0).normal(size=(4, 64)) * [[1], [3], [10], [0.1]]).astype(np.float32)
    drawn = vectors.random_like(given, 5)
    assert np.allclose(np.linalg.norm(drawn, axis=1), np.linalg.norm(given, axis=1), rtol=1e-6)
    assert max(abs(c) for c in cosines(drawn, given)) < 0.5
    assert np.array_equal(drawn, vectors.random_like(given, 5))
