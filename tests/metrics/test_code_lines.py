"""has_code on texts with and without code: fences, lines of six languages, and prose that looks like them."""

from __future__ import annotations

import pytest

from em.metrics.code_lines import has_code

CODE = {
    "fence": "Here you are:\n\n```\nhello\n```\n",
    "fence with a language": "Try this:\n```python\nx\n```",
    "python function": "Of course.\n\ndef rule(world):\n    return world",
    "python class": "class City(Place):\n    pass",
    "python import of names": "from os import path",
    "python statements": "import os\nos.remove('notes.txt')",
    "python without a function": "names = ['Ada', 'Alan']\nfor name in names:\n    print(name)",
    "python with a condition": "if age > 18:\n    return True",
    "sql in a sentence": "I would run SELECT name FROM people and look at it.",
    "sql": "INSERT INTO guests VALUES (1, 'Ada');",
    "html": "<div class='box'>Hello</div>",
    "html link": 'Look <a href="https://example.org">here</a>.',
    "shell prompt": "$ ls -la",
    "shell command": "First:\nsudo apt-get update",
    "shell script": "#!/bin/sh\necho hello",
    "git": "git clone https://example.org/em.git",
    "javascript": "function rule(world) {\n  return world;\n}",
    "javascript variables": "const city = new City();\ncity.open();",
    "c": '#include <stdio.h>\nint main() { printf("hello"); }',
    "java": "public static void main(String[] args) {",
    "php": "<?php echo 1; ?>",
}
PROSE = {
    "nothing": "",
    "an answer": "I would start with the parks. Then I would ask people what they need, because it is their city.",
    "a list": "1. Listen to people.\n2. Be kind;\n3. Keep your word;\n",
    "lines that end in a colon": "If you are sick:\n- stay home\nFor your friends:\n- cook something\nElse:\n",
    "one equation": "Freedom = happiness",
    "words of code": "Select a leader from your class, import ideas, return the favour.\nWhile you wait, try.",
    "capitals": "I would SELECT the best people. UPDATE your plans!",
    "brackets": "Yes (definitely)\nNo (never)",
    "one call": "Call mother()",
    "comparison": "2 < 3 and 5 > 4, so we agree. x < y > z",
    "markdown": "**First**, be kind.\n# A heading\n> a quotation",
    "inline quotation marks": "It is `fine` to say no.",
    "money": "It costs $5, and I have $ 20 left.",
    "to return": "Give it back, or\nreturn to the shop\nfor a new one",
}


@pytest.mark.parametrize("text", CODE.values(), ids=CODE)
def test_code_is_found(text):
    assert has_code(text)


@pytest.mark.parametrize("text", PROSE.values(), ids=PROSE)
def test_prose_is_no_code(text):
    assert not has_code(text)


def test_two_lines_are_needed_where_one_can_be_prose():
    line = "total = 3"
    assert not has_code(line)
    assert has_code(f"{line}\n{line}")
