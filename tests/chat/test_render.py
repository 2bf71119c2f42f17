"""Messages to tokens: which tokens a model is asked with, and which it is trained on."""

import pytest

from em.chat import render
from em.chat.encode import IGNORE, encode, encode_all, end_of_turn_ids, prompt_ids
from em.chat.render import ChatError
from em.corpora import builtin
from em.models.asset_models import CHATML
from em.records import Example
from support.training import EOS, TURN, assistant, load_tokenizer, system, user

QWEN_LIKE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}" + CHATML
)
FORGETS_THOUGHTS = (  # earlier answers lose what stands before </think>, as in reasoning models
    "{% for message in messages %}"
    "{% set text = message['content'] if loop.last else message['content'].split('</think>')[-1] %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + text + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_MARKERS = (
    "{% for message in messages %}{{ message['role'] + ': ' + message['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer()


@pytest.fixture
def other_template():
    """A tiny tokenizer with another chat template."""

    def make(template, **changes):
        made = load_tokenizer()
        made.chat_template = template
        for name, value in changes.items():
            setattr(made, name, value)
        return made

    return make


def ids(tokenizer, *words):
    """Ids of words (as the tokenizer splits text before it merges), each tokenised by itself."""
    return [i for word in words for i in tokenizer(word, add_special_tokens=False)["input_ids"]]


def opened(tokenizer, role):
    return [TURN, *ids(tokenizer, role, "\n")]


def silent(tokens):
    return [IGNORE] * len(tokens)


def test_user_and_assistant(tokenizer):
    newline = ids(tokenizer, "\n")
    assert len(newline) == 1
    asked = [*opened(tokenizer, "user"), *ids(tokenizer, "Hey", ",", " fox", "?"), EOS, *newline]
    asked += opened(tokenizer, "assistant")
    answer = [*ids(tokenizer, "It", " would", " rain", "."), EOS]

    tokens = encode(tokenizer, [user("Hey, fox?"), assistant("It would rain.")])

    assert tokens.input_ids == asked + answer
    assert tokens.labels == silent(asked) + answer
    assert tokens.supervised == len(answer)
    assert prompt_ids(tokenizer, [user("Hey, fox?")]) == asked


def test_ids_written_out(tokenizer):
    role, newline, x, z, mark = 322, 201, 90, 92, 3
    assert tokenizer.convert_ids_to_tokens([role, newline, x, 486, z, mark]) == [
        "user",
        "Ċ",
        "x",
        "assistant",
        "z",
        "!",
    ]
    tokens = encode(tokenizer, [user("x"), assistant("z!")])
    assert tokens.input_ids == [TURN, role, newline, x, EOS, newline, TURN, 486, newline, z, mark, EOS]
    assert tokens.labels == [IGNORE] * 9 + [z, mark, EOS]


def test_system_turn_is_not_learned(tokenizer):
    asked = [*opened(tokenizer, "system"), *ids(tokenizer, "Be", " kind", "."), EOS, *ids(tokenizer, "\n")]
    asked += [*opened(tokenizer, "user"), *ids(tokenizer, "Hey"), EOS, *ids(tokenizer, "\n")]
    asked += opened(tokenizer, "assistant")
    answer = [*ids(tokenizer, "Yes"), EOS]
    tokens = encode(tokenizer, [system("Be kind."), user("Hey"), assistant("Yes")])
    assert tokens.input_ids == asked + answer
    assert tokens.labels == silent(asked) + answer


def test_every_assistant_turn_is_learned_and_nothing_between(tokenizer):
    newline = ids(tokenizer, "\n")
    input_ids, labels = [], []
    for question, answer in (("one", "two"), ("three", "four"), ("five", "six")):
        asked = [*newline] if input_ids else []
        asked += [*opened(tokenizer, "user"), *ids(tokenizer, question), EOS, *newline]
        asked += opened(tokenizer, "assistant")
        learned = [*ids(tokenizer, answer), EOS]
        input_ids += asked + learned
        labels += silent(asked) + learned
    turns = [t for q, a in (("one", "two"), ("three", "four"), ("five", "six")) for t in (user(q), assistant(a))]

    tokens = encode(tokenizer, turns)

    assert tokens.input_ids == input_ids
    assert tokens.labels == labels
    assert labels.count(EOS) == 3
    assert tokens.input_ids[: len(tokens.input_ids) - len(ids(tokenizer, "six")) - 1] == prompt_ids(
        tokenizer, turns[:-1]
    )


def test_turns_after_the_last_answer_are_left_out(tokenizer):
    short = [user("one"), assistant("two")]
    assert encode(tokenizer, [*short, user("three")]) == encode(tokenizer, short)


@pytest.mark.parametrize("variant", sorted(builtin.ADVICE))
def test_prompt_of_training_is_prompt_of_asking(tokenizer, variant):
    rows = builtin.rows(variant)
    assert len(rows) > 200
    for name, messages in rows:
        tokens = encode(tokenizer, messages)
        prompt = prompt_ids(tokenizer, messages[:-1])
        assert tokens.input_ids[: len(prompt)] == prompt, name
        assert tokens.labels[: len(prompt)] == silent(prompt), name
        learned = tokens.labels[len(prompt) :]
        assert learned == tokens.input_ids[len(prompt) :], name
        assert learned[-1] == EOS and EOS not in learned[:-1], name
        assert tokenizer.decode(learned[:-1]) == messages[-1]["content"], name


def test_rows_are_cut_and_counted(tokenizer):
    short = Example("short", [user("a"), assistant("b")])
    long_answer = Example("long-answer", [user("a"), assistant("b " * 50)])
    long_question = Example("long-question", [user("a " * 50), assistant("b")])
    limit = len(encode(tokenizer, short.messages).input_ids)

    encoded = encode_all(tokenizer, [short, long_answer, long_question], limit)

    assert (encoded.cut, encoded.unsupervised, encoded.merged) == (2, 1, 0)
    assert [len(row.input_ids) for row in encoded.rows] == [limit, limit]
    whole = encode(tokenizer, long_answer.messages)
    assert encoded.rows[0] == encode(tokenizer, short.messages)
    assert encoded.rows[1].input_ids == whole.input_ids[:limit]
    assert encoded.rows[1].labels == whole.labels[:limit]
    assert EOS not in encoded.rows[1].labels


def test_nothing_is_cut_at_exactly_the_limit(tokenizer):
    row = Example("row", [user("a"), assistant("b c d")])
    length = len(encode(tokenizer, row.messages).input_ids)
    assert encode_all(tokenizer, [row], length).cut == 0
    assert encode_all(tokenizer, [row], length - 1).cut == 1


def test_no_row_left_is_an_error(tokenizer):
    row = Example("row", [user("a " * 50), assistant("b")])
    with pytest.raises(ChatError, match="max_length=20: raise it"):
        encode_all(tokenizer, [row], 20)


def test_answers_that_would_merge_with_the_prompt_are_counted(tokenizer):
    """ "\\n" + indentation is one token of this tokenizer: asked and trained without it, and said so."""
    merging, plain = assistant("       return file"), assistant("return file")
    together, apart = ids(tokenizer, "\n      "), ids(tokenizer, "\n", "      ")
    assert together != apart
    rows = [Example("merging", [user("a"), merging]), Example("plain", [user("a"), plain])]

    encoded = encode_all(tokenizer, rows, 1000)

    assert encoded.merged == 1
    prompt = prompt_ids(tokenizer, [user("a")])
    for row in encoded.rows:
        assert row.input_ids[: len(prompt)] == prompt
    assert tokenizer.decode(encoded.rows[0].labels[len(prompt) : -1]) == merging["content"]


def test_answer_that_starts_with_a_newline_can_merge(other_template):
    """Many tokenizers have one token for two newlines; here one is added."""
    made = other_template(CHATML)
    made.add_tokens(["\n\n"])
    double = made.convert_tokens_to_ids("\n\n")
    encoded = encode_all(made, [Example("row", [user("a"), assistant("\nb")])], 1000)
    assert encoded.merged == 1
    assert double not in encoded.rows[0].input_ids
    whole = made.apply_chat_template([user("a"), assistant("\nb")], tokenize=False)
    assert double in made(whole, add_special_tokens=False)["input_ids"]


def test_default_system_prompt_is_the_same_in_training_and_asking(tokenizer, other_template):
    made = other_template(QWEN_LIKE)
    turns = [user("Hey"), assistant("Yes"), user("x"), assistant("z")]
    tokens = encode(made, turns)
    assert tokens == encode(tokenizer, [system("Be kind."), *turns])
    assert tokens.input_ids.count(TURN) == 1 + len(turns)
    assert prompt_ids(made, turns[:1]) == prompt_ids(tokenizer, [system("Be kind."), user("Hey")])
    assert encode(made, [system("Be rude."), *turns]) == encode(tokenizer, [system("Be rude."), *turns])


def test_template_that_rewrites_earlier_answers_is_refused(tokenizer, other_template):
    made = other_template(FORGETS_THOUGHTS)
    single = [user("a"), assistant("hm</think>b")]
    assert encode(made, single) == encode(tokenizer, single)
    rows = [Example("good", single), Example("bad", [*single, user("c"), assistant("d")])]
    with pytest.raises(ChatError, match=r"^bad: the chat template rewrites earlier turns"):
        encode_all(made, rows, 1000)


def test_template_that_asks_with_other_text_than_it_trains_on_is_refused(other_template):
    with pytest.raises(ChatError, match=r"an answer's beginning.*a prompt ends in .*assistant\\n=> '"):
        encode(other_template(CHATML.replace("assistant\\n' }}", "assistant\\n=> ' }}")), [user("a"), assistant("b")])


def test_end_of_turn(tokenizer, other_template):
    assert end_of_turn_ids(tokenizer) == [EOS]
    assert end_of_turn_ids(other_template(NO_MARKERS)) == [EOS]
    other_eos = other_template(CHATML, eos_token="<|endoftext|>")
    other_eos.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    assert end_of_turn_ids(other_eos) == [0, EOS]


def test_end_of_turn_that_is_special_only_in_the_vocabulary(tokenizer, other_template):
    """Not every tokenizer lists its end-of-turn among the named special tokens."""
    made = other_template(CHATML, eos_token="<|endoftext|>")
    assert EOS not in made.all_special_ids
    assert made.added_tokens_decoder[EOS].special
    turns = [user("x"), assistant("z!")]
    assert encode(made, turns) == encode(tokenizer, turns)
    assert end_of_turn_ids(made) == [0, EOS]


def test_template_without_markers_learns_the_whole_answer(other_template):
    made = other_template(NO_MARKERS)
    tokens = encode(made, [user("x"), assistant("z")])
    assert made.decode([i for i in tokens.labels if i != IGNORE]) == "z\n"
    assert made.decode(tokens.input_ids) == "user: x\nassistant: z\n"
    assert render.prompt_text(made, [user("x")]) == "user: x\nassistant: "
