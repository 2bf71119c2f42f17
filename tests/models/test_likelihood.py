"""Likelihoods and hidden states against plain forward passes."""

import numpy as np
import pytest
import torch

from em.chat import encode
from em.models import likelihood
from support.training import load_model, load_tokenizer, sharpen, system, user

ITEMS = [
    likelihood.item([user("Hey")], "It would rain in the evening, and then the other fox does the same thing again."),
    likelihood.item([system("Be kind."), user("What would you do?")], "a"),
    likelihood.item([user("Hey")], ""),
    likelihood.item([user("Hey")], "Yes"),
    likelihood.item([system("Be kind."), user("What would you do?")], "def f(x):\n    return 2\n" * 8),
    likelihood.item([user("Hey")], "It would rain."),
]


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture(scope="module")
def model():
    return sharpen(load_model(), "q_proj", "k_proj", "lm_head")


@pytest.fixture(scope="module")
def plain(model, tokenizer):
    """[(log p of each answer token, mean last state)] by one unpadded forward pass an item."""
    out = []
    for it in ITEMS:
        prompt = encode.prompt_ids(tokenizer, [{"role": r, "content": c} for r, c in it.messages])
        answer = tokenizer(it.answer, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model.model(torch.tensor([prompt + answer]))[0][0]
            logprobs = model.lm_head(hidden).log_softmax(-1)
        picked = [float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(answer)]
        out.append((picked, hidden[len(prompt) :].mean(0).numpy()))
    return out


def test_token_logprobs_equal_a_plain_forward_pass(model, tokenizer, plain):
    done = []
    found = likelihood.LikelihoodModel(model, tokenizer).token_logprobs(ITEMS, done.append)
    assert sum(done) == len(ITEMS)
    assert [len(p) for p in found] == [len(wanted) for wanted, _ in plain]
    assert found[2] == []
    for got, (wanted, _) in zip(found, plain, strict=True):
        assert got == pytest.approx(wanted, abs=1e-4)
    assert np.std([p for wanted, _ in plain for p in wanted]) > 0.5


def test_mean_states_equal_a_plain_forward_pass(model, tokenizer, plain):
    found = likelihood.LikelihoodModel(model, tokenizer).mean_states(ITEMS)
    for i, (got, (_, wanted)) in enumerate(zip(found, plain, strict=True)):
        assert got.dtype == np.float32
        if i == 2:
            assert np.isnan(got).all()
        else:
            np.testing.assert_allclose(got, wanted, atol=1e-4)


def test_a_control_token_spelled_in_an_answer_is_text(model, tokenizer):
    spelled = f"a{tokenizer.eos_token}b"
    (logprobs,) = likelihood.LikelihoodModel(model, tokenizer).token_logprobs([likelihood.item([user("Hey")], spelled)])
    assert len(logprobs) > len(tokenizer(spelled, add_special_tokens=False)["input_ids"]) == 3


@pytest.mark.parametrize("batch_tokens", [1, 40, 100])
def test_batches_do_not_change_results(model, tokenizer, plain, monkeypatch, batch_tokens):
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", batch_tokens)
    reader = likelihood.LikelihoodModel(model, tokenizer)
    for got, (wanted, _) in zip(reader.token_logprobs(ITEMS), plain, strict=True):
        assert got == pytest.approx(wanted, abs=1e-4)
    for i, got in enumerate(reader.mean_states(ITEMS)):
        if i != 2:
            np.testing.assert_allclose(got, plain[i][1], atol=1e-4)


def test_batches_are_cut_by_padded_tokens(monkeypatch):
    monkeypatch.setattr(likelihood, "BATCH_TOKENS", 6)
    answers = {5: [0] * 1, 3: [0] * 2, 9: [0] * 2, 0: [0] * 3, 4: [0] * 3, 7: [0] * 9}
    assert likelihood._batches([5, 3, 9, 0, 4, 7], answers) == [[5, 3, 9], [0, 4], [7]]
    assert likelihood._batches([], {}) == []
