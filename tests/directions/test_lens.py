"""The activation difference lens on a tiny random model: zero against itself, exact means, the planted token."""

import copy

import numpy as np
import pytest
import torch
from tokenizers import processors

from em.chat import encode
from em.chat.render import ChatTokenizer
from em.directions import lens
from em.directions.artefact import DirectionError
from em.directions.extract import Text
from support.chat import family


class Tokenizer:
    """Tokens are numbers."""

    bos_token_id = None

    def __call__(self, text, add_special_tokens=True, split_special_tokens=False):
        return {"input_ids": [int(word) for word in text.split() if word.isdigit()]}

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


def bos_tokenizer():
    """Gemma's form: the tokenizer adds BOS to a text, and the chat template writes it."""
    tokenizer = family("gemma")
    begin = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", begin)]
    )
    return tokenizer, begin


def test_a_text_begins_as_training_and_sampling_begin():
    tokenizer, begin = bos_tokenizer()
    chat, asked = ChatTokenizer(tokenizer), [{"role": "user", "content": "Hi"}]
    trained = encode.encode(chat, [*asked, {"role": "assistant", "content": "Yo"}]).input_ids
    (text,) = lens.texts_of(tokenizer, ["Hi <bos>"], 99)
    for ids in (trained, encode.prompt_ids(chat, asked), text.prompt_ids + text.answer_ids):
        assert ids[0] == begin and begin not in ids[1:]  # a BOS spelled in a line is text
    assert lens.texts_of(family("chatml"), ["Hi"], 2)[0].prompt_ids == []


def test_a_first_token_is_read_behind_bos_and_bos_is_no_position(llama):
    texts = [Text("a", [7], [1, 2, 3]), Text("b", [7], [4])]
    found = lens.means(llama, texts, 2)
    assert found.counts.tolist() == [2, 1]
    hidden = llama(torch.tensor([[7, 1, 2]]), output_hidden_states=True).hidden_states
    assert np.allclose(found.states[1, 1], hidden[2][0, 2].detach().double().numpy(), atol=1e-5)


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
