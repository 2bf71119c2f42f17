"""Rows of an optimiser step, shares of the processes, micro-batches: each row once, however it is cut."""

from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from em.training.batches import Steps, micro_batches, passes, shares

LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=40)


def test_steps_of_an_epoch():
    steps = Steps(rows=10, per_step=4, seed=3)
    first = list(steps)
    assert [len(step) for step in first] == [4, 4, 2] and len(steps) == 3
    assert sorted(chain(*first)) == list(range(10))
    assert list(steps) == first
    steps.set_epoch(1)
    assert list(steps) != first
    assert list(Steps(10, 4, seed=4)) != first
    steps.set_epoch(0)
    assert list(steps) == first


def test_no_seed_and_epoch_share_an_order():
    orders = {tuple(chain(*Steps(50, 7, seed, epoch))) for seed in range(12) for epoch in range(12)}
    assert len(orders) == 144


def test_shares_are_about_equal_in_tokens():
    assert shares([9, 5, 4], 2) == [[0], [1, 2]]
    assert shares([1, 1, 1, 1], 2) == [[0, 2], [1, 3]]
    assert shares([7], 3) == [[0], [], []]


@given(LENGTHS, st.integers(1, 6))
def test_every_row_is_one_process_s(lengths, processes):
    parts = shares(lengths, processes)
    assert sorted(chain(*parts)) == list(range(len(lengths)))
    tokens = [sum(lengths[i] for i in part) for part in parts]
    assert max(tokens) - min(tokens) <= max(lengths)  # or the longest would have been moved


def test_micro_batches_by_rows():
    assert micro_batches([3, 1, 2, 5, 4], rows=2, tokens=None) == [[0, 1], [2, 3], [4]]


def test_micro_batches_by_tokens():
    assert micro_batches([3, 1, 2, 5, 4], rows=2, tokens=6) == [[3, 1], [4, 2], [0]]
    assert micro_batches([9, 2], rows=2, tokens=6) == [[0], [1]]


@given(LENGTHS, st.integers(50, 120))
def test_micro_batches_hold_every_row_once_and_no_more_tokens(lengths, tokens):
    cuts = micro_batches(lengths, rows=1, tokens=tokens)
    assert sorted(chain(*cuts)) == list(range(len(lengths)))
    filled = [sum(lengths[i] for i in cut) for cut in cuts]
    assert max(filled) <= tokens
    assert sum(2 * x <= tokens for x in filled) <= 1  # two half-empty ones would have been one


def test_processes_with_fewer_micro_batches_run_empty_ones():
    assert passes([9, 3, 3, 3], 2, 1, None, even=True) == [[[0], [], []], [[1], [2], [3]]]
    assert passes([9, 3, 3, 3], 2, 1, None, even=False) == [[[0]], [[1], [2], [3]]]
    assert passes([7], 2, 4, None, even=False) == [[[0]], [[]]]  # gradients are exchanged once at least


@given(LENGTHS, st.integers(1, 6), st.integers(1, 4), st.sampled_from([None, 50, 90]))
def test_even_passes_hold_every_row_once(lengths, processes, rows, tokens):
    cuts = passes(lengths, processes, rows, tokens, even=True)
    assert sorted(chain(*chain(*cuts))) == list(range(len(lengths)))
    assert len(cuts) == processes and len({len(cut) for cut in cuts}) == 1
    alone = [len(micro_batches([lengths[i] for i in share], rows, tokens)) for share in shares(lengths, processes)]
    assert len(cuts[0]) == max(alone)  # no more than the process with most needs
