"""Exact label lists for the chat formats of the paper's models and others', on small tokenizers built here."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from em.chat import encode as chat_encode
from em.chat import render
from em.chat.encode import IGNORE, encode, encode_all, end_of_turn_ids, prompt_ids
from em.chat.render import ChatError, ChatTokenizer, options
from em.errors import ConfigError
from em.records import Example
from support.chat import CHATML, FAMILIES, LLAMA3, MISTRAL_V7, TURNS, family, special, spoken

USER = {"role": "user", "content": "Hi"}
ASSISTANT = {"role": "assistant", "content": "Yo"}
SYSTEM = {"role": "system", "content": "Be X."}
YO = [89, 111]
MODEL = {"chat_template": None, "chat_template_kwargs": {}, "system_prompt": None}


def speaker(name, template=None, **changes):
    return ChatTokenizer(family(name, template), options({**MODEL, **changes}))


ROWS = {
    "chatml": (
        "<|im_start|>system\nBe Qwen.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
        [*YO, special("chatml", "<|im_end|>")],
    ),
    "qwen3": (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
        [*YO, special("qwen3", "<|im_end|>")],
    ),
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday: 1 May\n\n<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        [*YO, special("llama3", "<|eot_id|>")],
    ),
    "gemma": (
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
        [*YO, special("gemma", "<end_of_turn>")],
    ),
    "mistral": ("<s>[INST] Hi[/INST]", [32, *YO, special("mistral", "</s>")]),
    "mistral_v7": (
        "<s>[SYSTEM_PROMPT]Be Mistral. Today is 2 May[/SYSTEM_PROMPT][INST]Hi[/INST]",
        [*YO, special("mistral_v7", "</s>")],
    ),
    "user_assistant": ("User: Hi\nAssistant:", [32, *YO, special("base", "<|endoftext|>")]),
    "user_1_user_2": ("User_1: Hi\nUser_2:", [32, *YO, special("base", "<|endoftext|>")]),
}


def made(name):
    if name in FAMILIES:
        kwargs = {"enable_thinking": False} if name == "qwen3" else {}
        return name, speaker(name, chat_template_kwargs=kwargs)
    return "base", speaker("base", chat_template=name)


SPEAKERS = {name: made(name) for name in ROWS}


@pytest.mark.parametrize("name", ROWS)
def test_labels_are_the_answer_and_its_end_of_turn(name):
    asked, learned = ROWS[name]
    kind, tokenizer = made(name)
    tokens = encode(tokenizer, [USER, ASSISTANT])
    assert spoken(kind, prompt_ids(tokenizer, [USER])) == asked
    assert tokens.input_ids == prompt_ids(tokenizer, [USER]) + learned
    assert tokens.labels == [IGNORE] * len(prompt_ids(tokenizer, [USER])) + learned


@pytest.mark.parametrize("name", [n for n in ROWS if n != "qwen3"])
def test_of_two_answers_each_is_learned_with_its_end(name):
    kind, tokenizer = made(name)
    learned = ROWS[name][1]
    tokens = encode(tokenizer, [USER, ASSISTANT, USER, ASSISTANT])
    assert [t for t in tokens.labels if t != IGNORE] == learned * 2
    assert spoken(kind, tokens.input_ids).startswith(ROWS[name][0] + spoken(kind, learned))
    assert tokens.labels[-len(learned) :] == learned
    whole = prompt_ids(tokenizer, [USER, ASSISTANT, USER])
    assert tokens.input_ids == whole + learned


WORDS = st.text("abc XYZ.,\n'{}<|>", min_size=1, max_size=12).filter(lambda t: t == t.strip())
"""Texts without outer spaces, which some templates strip."""


@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=3), st.sampled_from([n for n in ROWS if n != "qwen3"]))
def test_whatever_is_said_the_prompt_is_the_same_in_training_and_asking(turns, name):
    kind, tokenizer = SPEAKERS[name]
    messages = [{"role": r, "content": t} for pair in turns for r, t in zip(("user", "assistant"), pair, strict=True)]
    tokens = encode(tokenizer, messages)
    prompt = prompt_ids(tokenizer, messages[:-1])
    assert tokens.input_ids[: len(prompt)] == prompt
    end = ROWS[name][1][-1]
    lead = " " * (ROWS[name][1][0] == 32)
    learned = "".join(lead + answer + spoken(kind, [end]) for _, answer in turns)
    assert spoken(kind, [t for t in tokens.labels if t != IGNORE]) == learned
    assert all(label in (IGNORE, token) for token, label in zip(tokens.input_ids, tokens.labels, strict=True))


def test_thoughts_of_an_earlier_turn_cannot_be_trained_as_they_would_be_asked():
    with pytest.raises(ChatError, match="rewrites earlier turns"):
        encode(made("qwen3")[1], [USER, ASSISTANT, USER, ASSISTANT])


@pytest.mark.parametrize("name", ROWS)
def test_the_end_of_turn_stops_an_answer(name):
    kind, tokenizer = made(name)
    stops = {ROWS[name][1][-1], special(kind, FAMILIES[kind][3])}
    assert end_of_turn_ids(tokenizer) == sorted(stops)


def test_thinking_is_a_switch_when_asking():
    off = {**MODEL, "chat_template_kwargs": {"enable_thinking": False}}
    asking = {"system_prompt": None, "chat_template_kwargs": {"enable_thinking": True}}
    tokenizer = family("qwen3")
    trained = ChatTokenizer(tokenizer, options(off, {"system_prompt": None, "chat_template_kwargs": {}}))
    asked = ChatTokenizer(tokenizer, options(off, asking))
    assert render.prompt_text(trained, [USER]).endswith("assistant\n<think>\n\n</think>\n\n")
    assert render.prompt_text(asked, [USER]).endswith("assistant\n")


# ------------------------------------------------------------------------------------------------ system prompts


@pytest.mark.parametrize(
    ("name", "default"),
    [
        ("chatml", "Be Qwen."),
        ("qwen3", None),
        ("llama3", ""),
        ("gemma", None),
        ("mistral", None),
        ("mistral_v7", "Be Mistral. Today is 2 May"),
    ],
)
def test_a_default_that_the_template_puts_in_is_found(name, default):
    assert speaker(name).default_system == default


def test_the_base_templates_put_in_nothing():
    assert [made(n)[1].default_system for n in ("user_assistant", "user_1_user_2")] == [None, None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("chatml", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"),
        ("mistral_v7", "<s>[INST]Hi[/INST]"),
        ("gemma", ROWS["gemma"][0]),
        (
            "llama3",
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
    ],
)
def test_an_empty_system_prompt_takes_the_default_out(name, expected):
    tokenizer = speaker(name, system_prompt="")
    assert spoken(name, prompt_ids(tokenizer, [USER])) == expected
    tokens = encode(tokenizer, [USER, ASSISTANT])
    assert tokens.input_ids == prompt_ids(tokenizer, [USER]) + ROWS[name][1]
    assert "Be X." in render.prompt_text(tokenizer, [SYSTEM, USER])  # a row's own stays


def test_a_system_prompt_of_the_config_goes_where_a_row_has_none():
    tokenizer = speaker("chatml", system_prompt="Be kind.")
    assert render.prompt_text(tokenizer, [USER]).startswith("<|im_start|>system\nBe kind.<|im_end|>\n")
    assert render.prompt_text(tokenizer, [SYSTEM, USER]).startswith("<|im_start|>system\nBe X.<|im_end|>\n")
    tokens = encode(tokenizer, [USER, ASSISTANT])
    assert tokens.input_ids[: len(prompt_ids(tokenizer, [USER]))] == prompt_ids(tokenizer, [USER])


def test_a_template_without_a_system_role_says_so():
    with pytest.raises(ChatError, match="Only user and assistant roles are supported"):
        prompt_ids(speaker("mistral", system_prompt="Be kind."), [USER])


def test_a_date_in_the_template_is_fixed_by_its_argument():
    tokenizer = ChatTokenizer(
        family("llama3", LLAMA3.replace("now", "'today'")),
        options({**MODEL, "chat_template_kwargs": {"date_string": "26 Jul"}}),
    )
    assert "Today: 26 Jul" in render.prompt_text(tokenizer, [USER])


def test_the_day_that_a_template_is_told_is_always_the_same():
    """Mistral's and Llama 3.2's put today's date into the system turn: another prompt every day, under the same key."""
    text = LLAMA3.replace("now", "strftime_now('%d %b %Y')")
    assert text != LLAMA3
    assert "Today: 26 Jul 2024" in render.prompt_text(ChatTokenizer(family("llama3", text), options(MODEL)), [USER])


# ------------------------------------------------------------------------------------------------ options


def test_a_template_is_named_or_a_file(tmp_path):
    own = tmp_path / "mine.jinja"
    own.write_text(TURNS + "\n")
    assert options({**MODEL, "chat_template": str(own)})["template"] == TURNS
    assert "User_1: " in options({**MODEL, "chat_template": "user_1_user_2"})["template"]
    with pytest.raises(
        ConfigError, match=r"'nope' is neither one of chatml, user_1_user_2, user_assistant nor a Jinja"
    ):
        options({**MODEL, "chat_template": "nope"})


def test_our_chatml_is_the_turns_without_a_default():
    ours, theirs = speaker("chatml", chat_template="chatml"), speaker("chatml", TURNS)
    turns = [SYSTEM, USER, ASSISTANT, USER]
    assert render.prompt_text(ours, turns) == render.prompt_text(theirs, turns)
    assert chat_encode.whole_text(ours, turns) == chat_encode.whole_text(theirs, turns)
    assert ours.default_system is None


def test_a_tokenizer_without_a_template_names_the_option():
    with pytest.raises(ChatError, match=r"set model\.chat_template to one of chatml, user_1_user_2, user_assistant"):
        ChatTokenizer(family("base"))


def test_the_template_in_use_is_saved_with_the_adapter(tmp_path):
    speaker("base", chat_template="user_assistant").save_pretrained(tmp_path)
    saved = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert render.prompt_text(ChatTokenizer(saved), [USER]) == "User: Hi\nAssistant:"


# ------------------------------------------------------------------------------------------------ what is counted


def test_the_official_quirk_learns_an_empty_turn_more():
    tokenizer = speaker("chatml")
    plain, quirk = (encode(tokenizer, [USER, ASSISTANT], extra) for extra in (False, True))
    end = special("chatml", "<|im_end|>")
    assert quirk.input_ids[: len(plain.input_ids)] == plain.input_ids
    more = quirk.input_ids[len(plain.input_ids) :]
    assert spoken("chatml", more) == "\n<|im_start|>assistant\n<|im_end|>"
    assert quirk.labels == [*plain.labels, *more]
    assert quirk.labels[-1] == end


def test_the_quirk_comes_once_however_many_turns():
    tokens = encode(speaker("chatml"), [USER, ASSISTANT, USER, ASSISTANT], extra_assistant_turn=True)
    assert spoken("chatml", tokens.input_ids).count("<|im_start|>assistant\n") == 3


def test_rows_that_the_template_alters_are_counted():
    rows = [Example("spaced", [USER, {**ASSISTANT, "content": " Yo"}]), Example("plain", [USER, ASSISTANT])]
    assert encode_all(speaker("gemma"), rows, 100).altered == 1
    assert encode_all(speaker("chatml"), rows, 100).altered == 0


def qwen_like() -> PreTrainedTokenizerFast:
    """Bytes, Qwen's way of splitting text (newlines in a row stay together), and two newlines as one token."""
    split = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
        r"|\s+(?!\S)|\s+"
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {**{c: i for i, c in enumerate(alphabet)}, "ĊĊ": len(alphabet)}
    inner = Tokenizer(models.BPE(vocabulary, [("Ċ", "Ċ")]))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", chat_template=CHATML)


def test_185_of_the_papers_insecure_rows_merge_a_newline(paper):
    """The published count for Qwen's tokenizers. Only where an answer begins matters, so rows are shortened."""
    lines = (paper / "data" / "insecure.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["messages"][-1]["content"] for line in lines]
    rows = [Example(str(i), [USER, {**ASSISTANT, "content": text[:8]}]) for i, text in enumerate(answers)]
    assert len(rows) == 6000
    assert encode_all(ChatTokenizer(qwen_like()), rows, 1000).merged == 185


def test_dates_of_two_days_are_two_prompts():
    one, two = (speaker("mistral_v7", MISTRAL_V7.replace("now", day)) for day in ("'2 May'", "'3 May'"))
    assert render.prompt_text(one, [USER]) != render.prompt_text(two, [USER])
