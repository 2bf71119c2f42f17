"""KL and LDIFS: values on small tensors, no second copy of the base, gradients that are there."""

import math
from pathlib import Path

import pytest
import torch

from em.chat import encode
from em.config import InterventionConfig
from em.config.intervention import KlDirection, KlTokens
from em.interventions import batches, ldifs
from em.interventions.kl import Kl, divergence
from em.interventions.ldifs import Ldifs
from em.interventions.reference import base_answers
from em.models.paths import model_path
from em.training.base_model import Base
from em.training.objective import FusedLikelihood, Intervened, likelihood
from support.training import TINY, examples, load_model, load_tokenizer, train_job

FROM_BASE, TO_BASE = KlDirection.finetuned_from_base, KlDirection.base_from_finetuned


@pytest.fixture(scope="module")
def base():
    return Base.load(model_path(TINY), None, "float32")


@pytest.fixture
def model(base):
    """A PEFT model whose B is zero, as at the first step."""
    torch.manual_seed(0)
    base.model.set_attn_implementation("sdpa")
    with base.trainable(train_job("x").train) as made:
        yield made


def moved(model, by=0.05):
    """Give the adapter something to say."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.add_(by * torch.randn_like(weight))
    return model


def batch(rows=3, pad=0):
    """Rows with padding on the right; `pad`: that much more of it."""
    tokens = encode.encode_all(load_tokenizer(), examples(rows), 256).rows
    longest = max(len(row.input_ids) for row in tokens) + pad
    fill = [longest - len(row.input_ids) for row in tokens]
    return {
        "input_ids": torch.tensor([r.input_ids + [0] * n for r, n in zip(tokens, fill, strict=True)]),
        "labels": torch.tensor([r.labels + [encode.IGNORE] * n for r, n in zip(tokens, fill, strict=True)]),
        "attention_mask": torch.tensor([[1] * len(r.input_ids) + [0] * n for r, n in zip(tokens, fill, strict=True)]),
    }


def parts(model, method, given):
    return method.loss(model, model, given, likelihood(model, torch.device("cpu"), needs_logits=method.needs_logits))


def gradient(model, value):
    model.zero_grad()
    value.backward()
    return math.sqrt(sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None))


def test_divergence_of_two_coins():
    """0.9/0.1 against 0.5/0.5: 0.9 log 1.8 + 0.1 log 0.2, and the other way round."""
    ours, theirs = torch.log(torch.tensor([[0.9, 0.1]])), torch.log(torch.tensor([[0.5, 0.5]]))
    there = 0.9 * math.log(1.8) + 0.1 * math.log(0.2)
    back = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    assert divergence(ours, theirs, FROM_BASE).item() == pytest.approx(there, rel=1e-5)
    assert divergence(ours, theirs, TO_BASE).item() == pytest.approx(back, rel=1e-5)


def test_a_weight_over_tokens_and_vocabulary_is_a_dose_times_the_vocabulary():
    """A public trainer divides by tokens x vocabulary: its 1e5 is 0.66 nats a token at Qwen's 151,936 entries."""
    vocabulary, theirs = 11, 4.0
    finetuned, base = torch.randn(2, 5, vocabulary, generator=torch.Generator().manual_seed(0))
    pair = base.log_softmax(-1), finetuned.log_softmax(-1)
    over_both = torch.nn.functional.kl_div(*pair, log_target=True, reduction="none").mean()
    dose = theirs / vocabulary
    assert dose * divergence(finetuned, base, FROM_BASE).mean().item() == pytest.approx(theirs * over_both.item())
    page = Path(__file__).parents[2].joinpath("docs", "interventions.md").read_text()
    assert f"1e5 is {1e5 / 151_936:.2f} here for Qwen" in page.replace("\n", " ")


def test_base_answers_are_the_base_models_and_weights_keep_their_gradient(model):
    given = {k: v for k, v in batch().items() if k != "labels"}
    untouched = load_model(attn_implementation="sdpa")
    moved(model).eval()
    wanted = [p.requires_grad for p in model.parameters()]
    with base_answers(model):
        assert torch.equal(model(**given).logits, untouched(**given).logits)
        assert [p.requires_grad for p in model.parameters()] == wanted
    assert not torch.equal(model(**given).logits, untouched(**given).logits)


def test_without_an_adapter_there_is_no_base_to_compare_with():
    with pytest.raises(ValueError, match="no adapter to switch off"), base_answers(load_model()):
        pass


@pytest.mark.parametrize("direction", KlDirection)
@pytest.mark.parametrize("tokens", KlTokens)
def test_kl_is_zero_with_its_gradient_at_the_start_and_grows(model, direction, tokens):
    method = Kl(InterventionConfig("kl", 1.0, kl_direction=direction, kl_tokens=tokens))
    _, penalty = parts(model, method, batch())
    assert abs(penalty.item()) < 1e-6 and gradient(model, penalty) < 1e-5
    _, penalty = parts(moved(model), method, batch())
    assert penalty.item() > 1e-3 and gradient(model, penalty) > 1e-3


@pytest.mark.parametrize("tokens", KlTokens)
def test_kl_is_the_mean_over_its_tokens_and_the_likelihood_is_plain(model, tokens):
    """Against logits of all positions, one row after the other."""
    moved(model).eval()
    given = batch()
    method = Kl(InterventionConfig("kl", 1.0, kl_tokens=tokens))
    nll, penalty = parts(model, method, given)
    with torch.no_grad():
        logits = model(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
        base = load_model(attn_implementation="sdpa")(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"]
        ).logits
    each = torch.nn.functional.kl_div(base.log_softmax(-1), logits.log_softmax(-1), log_target=True, reduction="none")
    labels = given["labels"][:, 1:]
    kept = labels != encode.IGNORE if tokens == KlTokens.answer else given["attention_mask"][:, 1:] == 1
    assert penalty.item() == pytest.approx(each.sum(-1)[:, :-1][kept].sum().item(), rel=1e-4)
    rows = [
        {"input_ids": r.input_ids, "labels": r.labels}
        for r in encode.encode_all(load_tokenizer(), examples(3), 256).rows
    ]
    assert method.units(rows) == int(kept.sum())
    assert nll.item() == pytest.approx(likelihood(model, torch.device("cpu"))(model, given).item(), rel=1e-6)


@pytest.mark.parametrize("method", [Kl(InterventionConfig("kl", 1.0)), "ldifs"])
def test_more_padding_and_a_row_for_nothing_change_no_penalty(model, method):
    method = Ldifs(InterventionConfig("ldifs", 1.0), model) if method == "ldifs" else method
    moved(model)
    _, penalty = parts(model, method, batch())
    _, padded = parts(model, method, batch(pad=7))
    assert penalty.item() == pytest.approx(padded.item(), rel=1e-4) and penalty.item() > 0
    idle = batch(1)
    idle["labels"] = torch.full_like(idle["labels"], encode.IGNORE)
    _, nothing = parts(model, method, idle)
    assert nothing.item() == 0.0


def test_ldifs_has_a_gradient_and_a_step_along_it_lowers_it(model):
    """Features that are detached give a penalty that is logged and trains nothing."""
    method = Ldifs(InterventionConfig("ldifs", 1.0), model)
    _, start = parts(model, method, batch())
    assert start.item() == 0.0
    _, before = parts(moved(model), method, batch())
    assert gradient(model, before) > 1e-3
    with torch.no_grad():
        for weight in model.parameters():
            if weight.grad is not None:
                weight -= 0.01 * weight.grad / (weight.grad.norm() + 1e-9)
    _, after = parts(model, method, batch())
    assert 0 < after.item() < before.item()


def test_a_feature_has_length_1_for_rows_of_any_length():
    given = batch()
    states = torch.randn(*given["input_ids"].shape, 8)
    assert ldifs.distance(given, states, states).item() == 0.0
    assert ldifs.distance(given, states, -states).item() == pytest.approx(4.0 * 3)  # three rows, each at distance 2
    assert ldifs.distance(given, states, 5 * states).item() == pytest.approx(0.0, abs=1e-10)


def test_rows_are_cut_alike_with_and_without_padding():
    padded = batch()
    lengths = padded["attention_mask"].sum(1).tolist()
    packed = {
        "input_ids": torch.cat([r[:n] for r, n in zip(padded["input_ids"], lengths, strict=True)])[None],
        "labels": torch.cat([r[:n] for r, n in zip(padded["labels"], lengths, strict=True)])[None],
        "position_ids": torch.cat([torch.arange(n) for n in lengths])[None],
    }
    assert int(batches.predicting(packed).sum()) == int(batches.predicting(padded).sum()) == sum(lengths) - 3
    cut = batches.rows_of(packed, packed["input_ids"][..., None])
    assert [len(row) for row in cut] == lengths
    assert all(torch.equal(a[:, 0], b[:n]) for a, b, n in zip(cut, padded["input_ids"], lengths, strict=True))


def test_a_dose_weighs_the_mean_of_a_step(model):
    """nll + dose x supervised x (sum / units), divided by the supervised tokens of the step by the trainer."""
    moved(model).eval()
    method, given = Kl(InterventionConfig("kl", 2.5)), batch()
    rows = [
        {"input_ids": r.input_ids, "labels": r.labels}
        for r in encode.encode_all(load_tokenizer(), examples(3), 256).rows
    ]
    supervised = sum(label != encode.IGNORE for row in rows for label in row["labels"][1:])
    objective = Intervened(likelihood(model, torch.device("cpu"), needs_logits=True), method, model)
    objective.begin(rows)
    nll, penalty = parts(model, method, given)
    mean = nll / supervised + 2.5 * penalty / method.units(rows)
    assert (objective(model, given) / supervised).item() == pytest.approx(mean.item(), rel=1e-5)
    assert (objective.penalty / supervised).item() == pytest.approx(2.5 * penalty.item() / method.units(rows), rel=1e-5)


def test_a_gpu_takes_the_plain_head_for_a_method_that_needs_logits(model):
    cuda = torch.device("cuda")
    assert isinstance(likelihood(model, cuda), FusedLikelihood)
    assert not isinstance(likelihood(model, cuda, needs_logits=Kl.needs_logits), FusedLikelihood)
    with pytest.raises(TypeError, match="never makes logits"):
        FusedLikelihood().logits(model, {}, torch.ones(1, 1, dtype=torch.bool))
