"""Small tokenizers of the real families: their template formats and special tokens, and ASCII as vocabulary.

A character's id is its ASCII code, special tokens follow from 128 on: expected labels can be read off the text. The
templates are written for these tests after the families' formats.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

FIRST_SPECIAL = 128
QWEN_SYSTEM = "Be Qwen."
TURNS = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
CHATML = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe Qwen.<|im_end|>\n{% endif %}" + TURNS
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}"
    "{% if m.role == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{% endif %}"
)
LLAMA3 = (  # 3.1 and later: a system block with a date, whether or not there is a system turn; contents are trimmed
    "{{ '<|begin_of_text|>' }}{% if messages[0].role == 'system' %}{% set s = messages[0].content|trim %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "{{ '<|start_header_id|>system<|end_header_id|>\\n\\n' }}{{ 'Today: ' + (date_string or now) + '\\n\\n' }}"
    "{{ s + '<|eot_id|>' }}"
    "{% for m in messages %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\\n\\n' }}"
    "{{ m.content|trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
GEMMA = (  # no system role: the system text opens the first user turn
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content + '\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set s = '' %}{% endif %}"
    "{% for m in messages %}{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\\n' }}"
    "{{ (s if loop.first else '') + m.content|trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
MISTRAL = (  # 2409: no system role of its own here, the answer follows the closing mark after a space
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ '[INST] ' + m.content + '[/INST]' }}"
    "{% elif m.role == 'assistant' %}{{ ' ' + m.content + eos_token }}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
MISTRAL_V7 = (  # 2501: a default system prompt with today's date
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set s = messages[0].content %}"
    "{% set messages = messages[1:] %}"
    "{% else %}{% set s = 'Be Mistral. Today is ' + now %}{% endif %}{{ '[SYSTEM_PROMPT]' + s + '[/SYSTEM_PROMPT]' }}"
    "{% for m in messages %}{% if m.role == 'user' %}{{ '[INST]' + m.content + '[/INST]' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
FAMILIES = {
    "chatml": (CHATML, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_end|>"),
    "qwen3": (QWEN3, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, "<|im_end|>"),
    "llama3": (
        LLAMA3.replace("now", "'1 May'"),
        ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin_of_text|>",
        "<|eot_id|>",
    ),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>"),
    "mistral": (MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>"),
    "mistral_v7": (
        MISTRAL_V7.replace("now", "'2 May'"),
        ["<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"],
        "<s>",
        "</s>",
    ),
    "base": (None, ["<|endoftext|>"], None, "<|endoftext|>"),
}
"""name → template, special tokens, bos, eos."""


def family(name: str, template: str | None = None) -> PreTrainedTokenizerFast:
    """A small tokenizer of one family, with its own template or another."""
    own, specials, bos, eos = FAMILIES[name]
    vocabulary = {chr(i): i for i in range(FIRST_SPECIAL)}
    inner = Tokenizer(models.WordLevel(vocabulary))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    inner.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = template or own
    return tokenizer


def special(name: str, token: str) -> int:
    return FIRST_SPECIAL + FAMILIES[name][1].index(token)


def spoken(name: str, ids: list[int]) -> str:
    """Ids as text, special tokens by name."""
    specials = FAMILIES[name][1]
    return "".join(chr(i) if i < FIRST_SPECIAL else specials[i - FIRST_SPECIAL] for i in ids)
