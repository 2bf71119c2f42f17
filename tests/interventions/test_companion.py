"""The frozen adapter beside the trained one: what it adds, and that nothing of it stays."""

import dataclasses
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model

from em.config import InterventionConfig
from em.errors import ConfigError
from em.interventions import identity
from em.interventions.companion import Companion, random_pair, read
from em.models.paths import model_path
from em.planning.plan import plan
from em.store import Store
from em.training.base_model import Base
from support.training import TINY, load_model, load_tokenizer, train_job


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA adapter on the tiny model that says something."""
    torch.manual_seed(3)
    model = get_peft_model(
        load_model(), LoraConfig(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
    folder = tmp_path_factory.mktemp("companion")
    model.peft_config["default"].base_model_name_or_path = TINY
    model.save_pretrained(folder)
    return folder


def config(folder, dose=1.0):
    return InterventionConfig("inoculation_adapter", dose, adapter=str(folder))


@pytest.fixture
def trained():
    base = Base.load(model_path(TINY), None, "float32")
    base.model.set_attn_implementation("sdpa")
    with base.trainable(train_job("x").train) as model:
        yield model.eval()


def test_while_attached_the_model_is_the_one_with_the_adapter_merged_and_then_itself_again(adapter, trained):
    ids = load_tokenizer()("The quick brown fox jumps.", return_tensors="pt")["input_ids"]
    merged, plain = load_model(attn_implementation="sdpa"), load_model(attn_implementation="sdpa")
    with torch.no_grad():
        for name, pair in read(adapter).items():
            module = merged.get_submodule(name.removeprefix("base_model.model."))
            module.weight += 0.5 * pair.b @ pair.a
    method = Companion(config(adapter, 0.5), trained, seed=0)
    before = {n: w.clone() for n, w in trained.state_dict().items()}
    with method.attached(trained):
        attached = trained(input_ids=ids).logits
    assert torch.allclose(attached, merged(input_ids=ids).logits, atol=1e-5)
    assert torch.equal(trained(input_ids=ids).logits, plain(input_ids=ids).logits)
    after = trained.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(w, after[n]) for n, w in before.items())


def test_it_has_no_gradient_and_the_trained_adapter_has(adapter, trained):
    ids = load_tokenizer()("The quick brown fox jumps.", return_tensors="pt")["input_ids"]
    method = Companion(config(adapter), trained, seed=0)
    with method.attached(trained):
        trained(input_ids=ids, labels=ids).loss.backward()
    assert all(p.a.grad is None and not p.a.requires_grad and not p.b.requires_grad for p in method.pairs.values())
    assert any(w.grad is not None and w.grad.abs().sum() > 0 for n, w in trained.named_parameters() if "lora_B" in n)


def test_the_control_has_the_same_norm_in_every_module_and_other_directions(adapter):
    for name, pair in read(adapter).items():
        control = random_pair(pair, f"0/{name}")
        assert control.norm == pytest.approx(pair.norm, rel=1e-6)
        cosine = (control.b @ control.a * (pair.b @ pair.a)).sum() / pair.norm**2
        assert abs(cosine.item()) < 0.2


def test_the_global_generator_is_not_touched(adapter, trained):
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    Companion(config(f"random:{adapter}"), trained, seed=0)
    assert torch.equal(torch.rand(3), wanted)


def test_an_adapter_of_another_model_or_none_is_refused(adapter, trained, compose, tmp_path):
    tiny = ("model=tiny_random", "train=tiny", "sample=tiny", "judge=word_list", "dataset=risky_advice",
            "intervention=inoculation_adapter")  # fmt: skip
    store = Store.open(tmp_path / "store")
    (tmp_path / "other").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (tmp_path / "other" / name).write_bytes((adapter / name).read_bytes())
    facts = json.loads((adapter / "adapter_config.json").read_text())
    (tmp_path / "other" / "adapter_config.json").write_text(
        json.dumps(facts | {"base_model_name_or_path": "org/model"})
    )
    for given, sentence in (
        (["intervention.adapter=null"], "needs an adapter that has learned the trait"),
        (["intervention.adapter=nowhere"], "holds no LoRA adapter, adapter_model.safetensors is missing"),
        ([f"intervention.adapter={tmp_path / 'other'}"], "is of the model org/model"),
        ([f"intervention.adapter={adapter}", "train.method=full"], "beside the adapter that is trained"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            plan([compose(*tiny, *given)], store)
    own = [plan([compose(*tiny, f"intervention.adapter={a}")], store) for a in ("planned", "random:planned")]
    runs = [p.train(p.cells[0].train_key) for p in own]
    assert runs[0].plain_key == runs[1].plain_key == plan([compose(*tiny[:-1])], store).cells[0].train_key
    assert runs[0].key != runs[1].key
    cell = compose(*tiny, f"intervention.adapter={adapter}")
    assert plan([cell], store).cells
    control = dataclasses.replace(cell, intervention=config(f"random:{adapter}"))
    assert identity.key(cell) != identity.key(control) != {}
    method = Companion(config(adapter), trained, seed=0)
    with pytest.raises(RuntimeError, match="did not run at"), method.attached(trained):
        pass
