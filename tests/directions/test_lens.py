"""The activation difference lens on a tiny random model: zero against itself, exact means, the planted token."""

import copy

import numpy as np
import pytest
import torch

from em.directions import lens
from em.directions.artefact import DirectionError
from em.directions.extract import Text


class Tokenizer:
    """Tokens are numbers."""

    def __call__(self, text, add_special_tokens):
        return {"input_ids": [int(word) for word in text.split()]}

    def decode(self, ids):
        return f"<{ids[0]}>"


LINES = ["1 2 3 4 5 6 7 8", "9 10", "11 12 13", "", "14"]


@pytest.fixture
def texts():
    return lens.texts_of(Tokenizer(), LINES, 4)


def moved(llama):
    other = copy.deepcopy(llama)
    torch.manual_seed(1)
    for weight in other.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return other


def test_base_against_base_is_exactly_zero(llama, texts):
    one, two = lens.means(llama, texts, 4), lens.means(llama, texts, 4)
    assert np.array_equal(one.states, two.states)
    found = lens.readouts(llama, Tokenizer(), one, two, block=2, top=3)
    assert [(r.length, r.share, r.tokens) for r in found] == [(0.0, 0.0, [])] * 4


def test_means_are_those_of_each_text_alone(llama, texts):
    found = lens.means(llama, texts, 4, batch_tokens=100_000)
    assert found.counts.tolist() == [4, 3, 2, 1]
    for position, count in enumerate(found.counts):
        states = []
        for text in texts:
            if len(text) > position:
                hidden = llama(torch.tensor([text.answer_ids]), output_hidden_states=True).hidden_states
                states.append(hidden[2][0, position].detach().double().numpy())
        assert len(states) == count
        assert np.allclose(found.states[1, position], np.mean(states, axis=0), atol=1e-5)
        assert found.norms[1, position] == pytest.approx(np.mean([np.linalg.norm(s) for s in states]), abs=1e-4)


def test_batches_do_not_matter(llama, texts):
    assert np.allclose(
        lens.means(llama, texts, 3, batch_tokens=1).states, lens.means(llama, texts, 3).states, atol=1e-5
    )


def test_a_difference_made_of_one_tokens_row_reads_as_that_token(llama, texts):
    base = lens.means(llama, texts, 2)
    head = llama.get_output_embeddings().weight.detach().double()
    planted = (head[37] / llama.model.norm.weight.double()).detach().numpy()
    shifted = lens.Means(base.states + 1e-3 * planted, base.norms, base.counts)
    (first, _) = lens.readouts(llama, Tokenizer(), base, shifted, block=1, top=5)
    by_hand = (head @ (llama.model.norm.weight.double() * torch.from_numpy(planted))).detach()
    order = [f"<{int(i)}>" for i in by_hand.topk(5).indices]
    assert [token for token, _ in first.tokens] == order and order[0] == "<37>"
    assert first.length == pytest.approx(1e-3 * np.linalg.norm(planted), rel=1e-6)


def test_another_model_differs(llama, texts):
    one, two = lens.means(llama, texts, 4), lens.means(moved(llama), texts, 4)
    found = lens.readouts(llama, Tokenizer(), one, two, block=3, top=4)
    assert all(r.length > 0.01 and len(r.tokens) == 4 for r in found)


def test_what_is_refused(llama, texts):
    one = lens.means(llama, texts, 2)
    with pytest.raises(DirectionError, match="blocks 0 to 3"):
        lens.readouts(llama, Tokenizer(), one, one, block=4, top=3)
    with pytest.raises(DirectionError, match="no text to read"):
        lens.texts_of(Tokenizer(), ["", ""], 4)


def test_an_empty_prompt_is_a_text_of_its_answer():
    assert len(Text("a", [], [1, 2])) == 2
