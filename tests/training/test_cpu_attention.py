"""Attention over padding-free rows gives what each sequence gives by itself."""

import pytest
import torch

from em.training import cpu_attention
from support.training import load_model, sharpen

LENGTHS = [5, 1, 9, 3]


@pytest.fixture(scope="module")
def models():
    """(ours, PyTorch's), the same weights, with attention that is far from even."""
    cpu_attention.register()
    ours = load_model(attn_implementation=cpu_attention.NAME)
    return tuple(sharpen(m, "q_proj", "k_proj") for m in (ours, load_model(attn_implementation="sdpa")))


def sequences(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, 500, (1, length), generator=generator) for length in LENGTHS]


def packed(model, rows):
    positions = torch.cat([torch.arange(row.shape[1]) for row in rows])[None]
    lengths = cpu_attention.sequence_lengths(positions)
    return model(torch.cat(rows, dim=1), position_ids=positions, lengths=lengths, use_cache=False).logits[0]


def test_equal_to_each_sequence_by_itself(models):
    ours, sdpa = models
    with torch.no_grad():
        found = packed(ours, sequences()).split(LENGTHS)
        expected = [sdpa(row).logits[0] for row in sequences()]
    for got, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-6)
    assert min(wanted.std() for wanted in expected) > 0.1  # not everything equal to everything


def test_other_sequences_are_not_seen(models):
    ours, _ = models
    rows = sequences()
    changed = [sequences(1)[0], *rows[1:]]
    changed[2] = rows[2].clone()
    changed[2][0, -1] = (rows[2][0, -1] + 1) % 500
    with torch.no_grad():
        before, after = packed(ours, rows).split(LENGTHS), packed(ours, changed).split(LENGTHS)
    assert not torch.equal(before[0], after[0])
    for untouched in (1, 3):
        assert torch.equal(before[untouched], after[untouched])
    assert torch.equal(before[2][:-1], after[2][:-1])  # nor what comes later
    assert not torch.equal(before[2][-1], after[2][-1])


def test_without_lengths_it_is_one_sequence(models):
    ours, sdpa = models
    whole = torch.cat(sequences(), dim=1)
    with torch.no_grad():
        torch.testing.assert_close(ours(whole).logits, sdpa(whole).logits, rtol=0, atol=1e-6)
        apart = packed(ours, sequences())
    assert (ours(whole).logits[0, LENGTHS[0] :] - apart[LENGTHS[0] :]).abs().max() > 1e-2


def test_gradients_equal(models):
    ours, sdpa = models
    rows = sequences(1)
    weights = torch.randn(sum(LENGTHS), 512, generator=torch.Generator().manual_seed(2))
    (packed(ours, rows) * weights).sum().backward()
    for row, weight in zip(rows, weights.split(LENGTHS), strict=True):
        (sdpa(row).logits[0] * weight).sum().backward()
    wanted = dict(sdpa.named_parameters())
    for name, weight in ours.named_parameters():
        largest = float(wanted[name].grad.abs().max())
        assert largest > 0, name
        torch.testing.assert_close(weight.grad, wanted[name].grad, rtol=0, atol=1e-5 * largest, msg=name)
        weight.grad = wanted[name].grad = None


def test_half_precision_stays_half():
    module = torch.nn.Module().eval()
    query, key = torch.randn(1, 4, 6, 8).bfloat16(), torch.randn(1, 2, 6, 8).bfloat16()
    out, weights = cpu_attention.attend(module, query, key, key, None, 8**-0.5, lengths=[2, 4])
    assert weights is None
    assert out.shape == (1, 6, 4, 8)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out[0, 0, 0], key[0, 0, 0])  # the first token of a sequence sees itself only
    torch.testing.assert_close(out[0, 2, 3], key[0, 1, 2])


@pytest.mark.parametrize(
    ("positions", "lengths"),
    [([0], [1]), ([0, 1, 2], [3]), ([0, 1, 2, 0, 0, 1], [3, 1, 2]), ([0, 0, 0], [1, 1, 1])],
)
def test_sequence_lengths(positions, lengths):
    assert cpu_attention.sequence_lengths(torch.tensor([positions])) == lengths
