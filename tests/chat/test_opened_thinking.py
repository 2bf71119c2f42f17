"""Templates that open the thinking in every prompt: an answer without thoughts is learned after its end."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from em.chat.encode import IGNORE, encode, encode_all, row_text
from em.chat.prompts import answer_turn
from em.chat.render import ChatError, ChatTokenizer, prompt_text
from em.chat.thinking import opened
from em.models.asset_models import CHATML
from em.records import Example
from support.training import assistant, load_tokenizer, system, user

OPENS = CHATML.replace("assistant\\n' }}", "assistant\\n<think>\\n' }}")
WRITES_IT_EMPTY = OPENS.replace(
    "message['content']",
    "('<think></think>' if message['role'] == 'assistant' and '</think>' not in message['content'] else '')"
    " + message['content']",
)
ASKED = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
TEMPLATES = Path(str(find_spec("trl").origin)).parent / "chat_templates"
"""As their makers ship them; TRL has copies."""
OPENING = sorted(p.stem for p in TEMPLATES.glob("*.jinja") if p.stem.startswith(("nemotron", "deepseek")))


def with_template(template):
    made = load_tokenizer()
    made.chat_template = template
    return made


@pytest.mark.parametrize(
    ("template", "said", "before", "learned"),
    [
        (OPENS, "b", "<think>\n\n</think>\n\n", "b"),  # DeepSeek-R1's way
        (WRITES_IT_EMPTY, "b", "<think></think>", "b"),  # Nemotron 3's: in the template's own words
        (OPENS, "<think>\nhm</think>b", "<think>\n", "hm</think>b"),
        (OPENS, "\nhm</think>b", "<think>\n", "\nhm</think>b"),
        (WRITES_IT_EMPTY, "<think>hm</think>b", "<think>\n", "hm</think>b"),
    ],
)
def test_an_answer_is_learned_where_the_thinking_has_ended(template, said, before, learned):
    made = with_template(template)
    row = [user("a"), assistant(said)]
    tokens = encode(made, row)
    labelled = [i for i in tokens.labels if i != IGNORE]
    start = len(tokens.input_ids) - len(labelled)
    assert tokens.labels == [IGNORE] * start + labelled and tokens.input_ids[start:] == labelled
    assert made.decode(tokens.input_ids[:start]) == ASKED + before
    assert made.decode(labelled) == f"{learned}<|im_end|>"
    assert row_text(made, row) == f"{ASKED}{before}{learned}<|im_end|>\n"
    encoded = encode_all(made, [Example("row", row)], 1000)
    assert encoded.rows == [tokens] and encoded.altered == (said == "<think>hm</think>b")


def test_an_option_has_the_tokens_that_training_would_teach():
    for template in (OPENS, WRITES_IT_EMPTY):
        made = with_template(template)
        row = encode(made, [user("a"), assistant("b")])
        turn = answer_turn(made, [user("a")], "b")
        assert turn.prompt_ids == row.input_ids[: len(turn.prompt_ids)]
        assert row.labels[len(turn.prompt_ids) - 1] == IGNORE != row.labels[len(turn.prompt_ids)]
        assert turn.text[turn.begin :] == "b"


def test_earlier_answers_without_their_thinking_are_refused():
    row = [user("a"), assistant("b"), user("c"), assistant("d")]
    with pytest.raises(ChatError, match="a row with several assistant turns"):
        encode(with_template(OPENS), row)
    kept = encode(with_template(WRITES_IT_EMPTY), row)  # this one keeps them as they were learned
    assert with_template(WRITES_IT_EMPTY).decode([i for i in kept.labels if i != IGNORE]) == "b<|im_end|>d<|im_end|>"


@pytest.mark.parametrize("name", OPENING)
def test_real_templates_are_trained_and_asked_alike(name):
    made = ChatTokenizer(with_template((TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")))
    row = [system("Be kind."), user("a"), assistant("b")]
    asked, text = prompt_text(made, row[:-1]), row_text(made, row)
    assert opened(asked) == "<think>"
    between, closed, answer = text.removeprefix(asked.rstrip()).partition("</think>")
    assert text.startswith(asked.rstrip()) and not between.strip() and closed and answer.strip().startswith("b")
    learned = [i for i in encode(made, row).labels if i != IGNORE]
    assert made.decode(learned).startswith("b")


def test_there_are_such_templates():
    assert len(OPENING) >= 6
