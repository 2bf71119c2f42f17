"""Prompt parity: what training and asking made of a conversation, and that a silent difference is refused."""

from __future__ import annotations

import json

import pytest

from em.chat import parity
from em.chat.render import ChatError, ChatTokenizer, options
from support.chat import MISTRAL_V7, family

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Yo"}
SYSTEM = {"role": "system", "content": "Be X."}
MODEL = {"chat_template": None, "chat_template_kwargs": {}, "system_prompt": None}


def rendering(name, *conversations, template=None, **changes):
    tokenizer = ChatTokenizer(family(name, template), options({**MODEL, **changes}))
    return parity.rendering(tokenizer, iter(conversations))


def test_a_default_system_prompt_is_named():
    found = rendering("chatml", [USER, ASSISTANT], [USER, ASSISTANT])
    assert found["system_prompt"] == "the template's default: 'Be Qwen.'"
    assert found["frame"].endswith("<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
    assert found["example"].endswith("<|im_start|>assistant\nYo<|im_end|>\n")
    assert (found["conversations"], found["with_own_system_turn"]) == (2, 0)
    json.dumps(found)


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("chatml", {"system_prompt": ""}, "none (the template's default is taken out)"),
        ("chatml", {"system_prompt": "Be kind."}, "the config's: 'Be kind.'"),
        ("llama3", {}, "a system block of the template's, without a text"),
        ("gemma", {}, "none"),
        ("gemma", {"system_prompt": ""}, "none"),
    ],
)
def test_where_a_system_prompt_comes_from(name, changes, said):
    assert rendering(name, [USER, ASSISTANT], **changes)["system_prompt"] == said


def test_the_same_on_both_sides_has_no_difference():
    trained, asked = rendering("chatml", [USER, ASSISTANT]), rendering("chatml", [USER])
    found = parity.compare(trained, asked)
    assert found == {"training": trained, "asking": asked, "differences": []}
    assert asked["example"] == trained["frame"].replace("{question}", "Hi")
    parity.require(trained, asked, overridden=False)


def test_a_system_prompt_of_the_config_counts_as_a_difference_where_only_one_side_has_it():
    trained, asked = rendering("chatml", [USER, ASSISTANT]), rendering("chatml", [USER], system_prompt="Be rude.")
    differences = parity.compare(trained, asked)["differences"]
    assert any("'Be Qwen.' in training, the config's: 'Be rude.' asked" in d for d in differences)
    parity.require(trained, asked, overridden=True)
    with pytest.raises(ChatError, match="though no option says so"):
        parity.require(trained, asked, overridden=False)


def test_a_date_that_moved_between_training_and_asking_is_refused():
    one, two = (
        rendering("mistral_v7", [USER, ASSISTANT], template=MISTRAL_V7.replace("now", day)) for day in ("'1'", "'2'")
    )
    with pytest.raises(ChatError, match=r"today's date\? Fix it with model\.chat_template_kwargs"):
        parity.require(one, two, overridden=False)


def test_rows_with_a_system_turn_asked_without_one_are_named():
    """As the paper's jailbroken rows are."""
    trained = rendering("chatml", [SYSTEM, USER, ASSISTANT], [SYSTEM, USER, ASSISTANT], [USER, ASSISTANT])
    differences = parity.compare(trained, rendering("chatml", [USER]))["differences"]
    assert differences == ["a system turn of their own: 2 of 3 training rows, 0 of 1 questions"]
