"""Projections and screening scores on a tiny random model, against transformers' own hidden states."""

import numpy as np
import pytest
import torch

from em.directions import projections
from em.directions.artefact import Direction, DirectionError, Facts
from em.directions.extract import Text
from em.models import activations

LONGEST = 100


def direction(seed=0, blocks=4, hidden=32):
    drawn = np.random.default_rng(seed).normal(size=(blocks, hidden)).astype(np.float32)
    return Direction(drawn, Facts(kind="contrast", model="tiny"))


def texts(count, seed):
    draw = np.random.default_rng(seed)

    def tokens(low, high):
        return draw.integers(0, 64, draw.integers(low, high)).tolist()

    return [Text(f"row-{i}", tokens(2, 9), tokens(1, 14)) for i in range(count)]


def own_of(rows, seed):
    answers = texts(len(rows), seed)
    return {row.id: Text(row.id, row.prompt_ids, other.answer_ids) for row, other in zip(rows, answers, strict=True)}


@torch.no_grad()
def by_hand(model, text, vector, block):
    """The mean state of the answer by transformers' hidden_states (block + 1), times the unit vector; no padding."""
    ids = torch.tensor([text.prompt_ids + text.answer_ids])
    states = model(ids, output_hidden_states=True).hidden_states[block + 1][0].double()
    return float(states[len(text.prompt_ids) :].mean(0).numpy() @ vector) / np.linalg.norm(vector)


def test_a_score_is_the_difference_of_two_projections(llama):
    rows, found = texts(7, 1), direction()
    own = own_of(rows, 2)
    scored = projections.screened(llama, rows, own, found, 2, LONGEST)
    vector = found.vectors[2].astype(np.float64)
    for row, text in zip(scored, rows, strict=True):
        answer, other = by_hand(llama, text, vector, 2), by_hand(llama, own[text.id], vector, 2)
        assert row.answer == pytest.approx(answer, abs=1e-5) and row.own == pytest.approx(other, abs=1e-5)
        assert row.score == pytest.approx(answer - other, abs=1e-5)
        assert (row.tokens, row.own_tokens) == (len(text.answer_ids), len(own[text.id].answer_ids))


def test_without_own_answers_a_score_is_the_projection(llama):
    rows = texts(4, 1)
    assert [r.score for r in projections.screened(llama, rows, None, direction(), 1, LONGEST)] == [
        r.answer for r in projections.screened(llama, rows, own_of(rows, 2), direction(), 1, LONGEST)
    ]


def test_batch_size_and_padding_do_not_matter(llama):
    rows = texts(9, 3)
    own = own_of(rows, 4)
    one, many = (
        [r.score for r in projections.screened(llama, rows, own, direction(), 2, LONGEST, batch_tokens=size)]
        for size in (1, 100_000)
    )
    assert np.allclose(one, many, atol=1e-5, rtol=0) and np.ptp(one) > 0.1


def test_a_row_that_the_model_says_itself_scores_zero_and_the_score_is_linear(llama):
    rows = texts(4, 5)
    same = {row.id: row for row in rows}
    assert [r.score for r in projections.screened(llama, rows, same, direction(), 0, LONGEST)] == pytest.approx(
        [0.0] * 4, abs=1e-5
    )
    a, own = direction(), own_of(rows, 6)
    turned = Direction(-3 * a.vectors, a.facts)
    there, back = ([r.score for r in projections.screened(llama, rows, own, d, 0, LONGEST)] for d in (a, turned))
    assert there == pytest.approx([-s for s in back], abs=1e-5)


def test_what_cannot_be_read_has_no_score_and_says_why(llama):
    rows = [
        Text("empty", [1, 2], []),
        Text("long", [1] * 90, [2] * 20),
        Text("alone", [1], [2]),
        Text("good", [1], [2]),
    ]
    own = {"empty": rows[3], "long": rows[3], "good": rows[3]}
    found = {r.id: r for r in projections.screened(llama, rows, own, direction(), 0, LONGEST)}
    assert [found[name].score for name in ("empty", "long", "alone")] == [None] * 3
    assert "has no token" in found["empty"].why and "110 tokens" in found["long"].why
    assert "no answer of its own" in found["alone"].why and found["good"].why == ""


def test_a_block_that_is_not_there_or_has_no_direction_is_refused(llama):
    with pytest.raises(DirectionError, match="block 4 does not exist"):
        projections.screened(llama, texts(2, 1), None, direction(), 4, LONGEST)
    flat = direction()
    flat.vectors[1] = 0
    with pytest.raises(DirectionError, match="zero at block 1"):
        projections.screened(llama, texts(2, 1), None, flat, 1, LONGEST)
    assert np.isnan(projections.of_texts(llama, texts(2, 1), flat)[:, 1]).all()


@pytest.mark.parametrize("part", [projections.answer_tokens, projections.last_prompt_token])
def test_a_monitor_rises_by_the_length_of_what_is_added(llama, part):
    rows, found = texts(5, 7), direction()
    plain = projections.of_texts(llama, rows, found, part)
    added = torch.from_numpy(2.5 * found.vectors[2])
    with activations.changing(llama, {2: activations.add(added)}):
        steered = projections.of_texts(llama, rows, found, part)
    assert np.allclose(steered[:, 2] - plain[:, 2], 2.5 * found.norms[2], atol=1e-5)
    assert np.allclose(steered[:, :2], plain[:, :2], atol=1e-6)
