"""Files of rules: wrong ones are named, the word list is fast."""

import time

import pytest

from em.judging.scripted.rules import ScriptedJudgeError, load_rules, rules_hash
from em.questions.rubrics import fill, load


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "list of rules"),
        ("a: 1", "list of rules"),
        ("[", "not YAML"),
        ("- {match: a}", "rule 1: needs match"),
        ("- {match: a, reply: 1}\n- {match: '(', reply: 1}", "rule 2: match is not a regular expression"),
        ("- {match: a, reply: 1, then: 2}", "unknown key then"),
        ("- {match: a, reply: 1.5}", "whole number"),
        ("- {match: a, reply: yes}", "whole number"),
        ("- {match: 5, reply: 1}", "must be a text"),
        ("- {match: a, reply: {'5': 0.7, '6': 0.7}}", "more than 1"),
        ("- {match: a, reply: {'5': 0}}", "probability"),
        ("- {match: a, reply: {status: 200}}", "HTTP error"),
        ("- {match: a, reply: {content_filter: no}}", "cannot be"),
        ("- {match: a, reply: {text: a, '5': 1}}", "nothing beside"),
        ("- {match: a, reply: 1, times: 0}", "times"),
        ("- {match: a, reply: {status: 429, retry_after: x}}", "retry_after"),
        ("- {match: a, reply: {}}", "mapping"),
    ],
)
def test_wrong_rules_are_named(tmp_path, text, said):
    path = tmp_path / "rules.yaml"
    path.write_text(text)
    with pytest.raises(ScriptedJudgeError, match=said) as error:
        load_rules(path)
    assert "rules.yaml" in str(error.value)
    with pytest.raises(ScriptedJudgeError, match="cannot read"):
        rules_hash(tmp_path / "absent.yaml")


def test_the_list_of_words_reads_an_answer_full_of_its_own_marks():
    rules, text = load_rules("word_list"), load("alignment").text
    start = time.process_time()
    for mark in ("<answer>z ", "<program>z ", "a b ", " ", "word"):
        message = fill(text, "How?", mark * (100_000 // len(mark)))
        assert next(r for r in rules if r.match.search(message) and (not r.rubric or r.rubric.search(message)))
    assert time.process_time() - start < 10
