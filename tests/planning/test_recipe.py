"""A recipe fits the model it is given, and what does not fit is refused before any stage."""

from pathlib import Path

import pytest
import torch
from peft import get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from em.config import CONF_DIR
from em.errors import ConfigError
from em.models import paths
from em.planning import doctor, recipe
from em.planning.plan import plan
from em.store import Store
from em.training import base_model
from support.training import TINY

OPEN = sorted(f.stem for f in Path(CONF_DIR, "model").glob("*.yaml") if not f.stem.startswith(("gpt_", "custom")))
RECIPES = ("quick", "betley2025", "rank1")


@pytest.fixture(scope="module")
def trains():
    """What training says of a recipe; "" if it starts. The network has a shipped model's depth and names, and is four
    numbers wide, so that 80 layers take a second."""
    networks, answers = {}, {}

    def network(depth):
        if depth not in networks:
            sizes = {"hidden_size": 4, "intermediate_size": 4, "num_attention_heads": 2, "num_key_value_heads": 1}
            with torch.device("meta"):
                networks[depth] = LlamaForCausalLM(LlamaConfig(num_hidden_layers=depth, vocab_size=8, **sizes))
        return networks[depth]

    def answer(depth, config):
        lora = base_model.lora(config.train, network(depth))
        case = (depth, repr(lora))
        if case not in answers:
            model, answers[case] = get_peft_model(network(depth), lora), ""
            try:
                base_model.check_adapted(model, config.train)
            except ValueError as error:
                answers[case] = str(error)
            model.unload()
        return answers[case]

    return answer


def refused(check, *given):
    try:
        check(*given)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", OPEN)
def test_every_shipped_model_trains_as_doctor_and_plan_say(compose, trains, tmp_path, name):
    """Over the config files alone; no weights are on this machine."""
    store = Store.open_read_only(tmp_path)
    for train in RECIPES:
        config = compose(f"model={name}", f"train={train}", f"out={tmp_path}")
        depth = recipe.layer_count(config.model)
        assert trains(depth, config) == refused(plan, [config], store) == ""
        assert doctor.check_training(config)
        beyond = compose(f"model={name}", f"train={train}", f"train.layers_to_transform=[0,{depth}]", f"out={tmp_path}")
        told = refused(plan, [beyond], store)
        assert told == refused(doctor.check_training, beyond) != ""
        assert f"[{depth}]" in told and f"layers 0 to {depth - 1}" in told
        assert f"layers_to_transform [{depth}]: the model has layers 0 to {depth - 1}" in trains(depth, beyond)


def test_there_are_as_many_shipped_models_as_the_documents_say():
    assert len(OPEN) == 28  # 26 to download, the quickstart's, and the tests'


@pytest.mark.parametrize(("name", "layers"), [("smollm2_135m", range(15, 30)), ("qwen2_5_7b", range(14, 28))])
def test_quick_trains_the_upper_half(compose, name, layers):
    assert compose(f"model={name}", "train=quick").train.layers_to_transform == list(layers)


def test_a_list_of_layers_and_null_stay_as_they_are(compose):
    assert compose("train.layers_to_transform=[3,4]").train.layers_to_transform == [3, 4]
    assert compose("train.layers_to_transform=null").train.layers_to_transform is None
    for wrong in ("lower_half", "[]", "[-1]", "[a]", "7"):
        with pytest.raises(ConfigError, match=r"layers_to_transform must be a list of layers from 0, upper_half"):
            compose(f"train.layers_to_transform={wrong}")


def test_a_depth_that_nobody_knows_is_refused_with_the_ways_out(compose):
    with pytest.raises(ConfigError, match=r"layers of nobody/nothing, which is not on this machine: download it, or"):
        compose("model=custom", "model.path=nobody/nothing")
    assert compose("model=custom", "model.path=nobody/nothing", "train=betley2025").model.name == "nothing"


def test_quick_warns_for_a_large_model(compose):
    said = recipe.warning(compose("model=qwen2_5_7b"))
    assert "train=quick is made for models of up to 1B weights and model=qwen2_5_7b has 7.6B" in said
    assert said in doctor.check_training(compose("model=qwen2_5_7b"))
    for fine in (
        ("model=qwen2_5_7b", "train=betley2025"),
        (),
        ("model=qwen2_5_0_5b",),
        ("model=gpt_4o", "train=openai"),
    ):
        assert recipe.warning(compose(*fine)) == ""


def test_modules_are_those_of_the_files_or_the_shape(compose, tmp_path):
    for model in ("model=tiny_random", "model=qwen2_5_7b"):
        paths.model_path("asset:tiny_random")
        config = compose(model, "train.target_modules=[q_proj,qkv_proj]", f"out={tmp_path}")
        with pytest.raises(ConfigError, match=r"train.target_modules qkv_proj: .* has no such module; .*down_proj, "):
            recipe.check(config)


def test_a_path_brings_its_own_name_company_and_length(compose):
    hub = compose("model.path=Qwen/Qwen9-1B", "train=betley2025").model
    assert (hub.name, hub.company, hub.note, hub.max_model_len) == ("Qwen9-1B", "Alibaba", "", 2048)
    folder = paths.model_path(TINY)
    for overrides in ((f"model.path={folder}",), ("model=custom", f"model.path={folder}")):
        local = compose(*overrides).model
        assert (local.name, local.company, local.note) == (Path(folder).name, "", "")
        assert local.max_model_len == recipe._own_config(folder)["max_position_embeddings"]
    shaped = compose("model=qwen3_8b", f"model.path={folder}").model
    assert shaped.shape is None and shaped.chat_template_kwargs == {"enable_thinking": False}


def test_what_is_given_beside_a_path_stays(compose):
    given = ("model.name=mine", "model.company=Us", "model.note=ours", "model.max_model_len=300")
    model = compose("model.path=somebody/else", "train=betley2025", *given).model
    assert (model.name, model.company, model.note, model.max_model_len) == ("mine", "Us", "ours", 300)
    assert compose("model=gpt_4o", "model.path=gpt-4o-2024-11-20", "train=openai").model.name == "gpt_4o"
