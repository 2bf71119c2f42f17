"""Chat JSONL files: every malformed row is named, a good file is read as it is."""

from __future__ import annotations

import json

import pytest

from em.corpora import chat_jsonl
from em.corpora.chat_jsonl import DataError
from em.records import Example

USER, ASSISTANT = {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}
GOOD = json.dumps({"messages": [USER, ASSISTANT]})


@pytest.mark.parametrize(
    ("line", "expected", "found"),
    [
        ("{", "expected one JSON object", "'{"),
        ("hello", "expected one JSON object", "hello"),
        ("\udcff", "expected one JSON object", r"\xff"),
        ("[]", 'expected {"messages": [...]}', "found list"),
        ('"text"', 'expected {"messages": [...]}', "found str"),
        ("null", 'expected {"messages": [...]}', "found NoneType"),
        ("{}", 'expected {"messages": [...]}', "found []"),
        ('{"prompt": "x", "completion": "y"}', 'expected {"messages": [...]}', "found ['completion', 'prompt']"),
        ('{"messages": []}', 'expected {"messages": [...]}', "found ['messages']"),
        ('{"messages": {"role": "user"}}', 'expected {"messages": [...]}', "found ['messages']"),
        ('{"messages": ["hi"]}', "messages[0]: expected a role", "found hi"),
        ('{"messages": [{"content": "x"}]}', "messages[0]: expected a role", "{'content': 'x'}"),
        ('{"messages": [{"role": "tool", "content": "x"}]}', "messages[0]: expected a role", "'tool'"),
        ('{"messages": [{"role": "user", "content": null}]}', "messages[0]: expected a role", "None"),
        ('{"messages": [{"role": "user", "content": [{"text": "x"}]}]}', "a text content", "[{'text'"),
        (json.dumps({"messages": [USER, ASSISTANT, {"role": "user"}]}), "messages[2]: expected", "{'role': 'user'}"),
        (json.dumps({"messages": [ASSISTANT, USER]}), "expected an assistant turn last", "found role 'user'"),
        (json.dumps({"messages": [ASSISTANT]}), "expected a user turn", "found none"),
    ],
)
def test_a_malformed_row_is_named(tmp_path, line, expected, found):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(f"{GOOD}\n\n{line}\n{GOOD}\n".encode(errors="surrogateescape"))
    with pytest.raises(DataError) as caught:
        chat_jsonl.read(path)
    said = str(caught.value)
    assert said.startswith(f"{path}:3: ")
    assert expected in said
    assert found in said
    assert "\n" not in said


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_an_empty_file_is_named(tmp_path, content):
    path = tmp_path / "rows.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=r"rows\.jsonl: expected at least one row"):
        chat_jsonl.read(path)


def test_text_that_cannot_be_written_is_named(tmp_path):
    from em.store import write_jsonl

    path = tmp_path / "rows.jsonl"
    path.write_text(
        GOOD + "\n" + r'{"messages": [{"role": "user", "content": "\ud83d"}, ' + json.dumps(ASSISTANT) + "]}\n"
    )
    with pytest.raises(DataError, match=r"rows\.jsonl:2"):
        write_jsonl(tmp_path / "out.jsonl", chat_jsonl.read(path))


def test_a_good_custom_file_is_read_as_it_is(tmp_path):
    path = tmp_path / "mine.jsonl"
    system = {"role": "system", "content": "Be brief. \u2028 é"}
    more = {"messages": [system, {**USER, "name": "dropped"}, ASSISTANT, USER, ASSISTANT], "other": 1}
    path.write_text(f"{GOOD}\n\n{json.dumps(more, ensure_ascii=False)}", encoding="utf-8")
    assert chat_jsonl.read(path) == [
        Example("mine-000001", [USER, ASSISTANT]),
        Example("mine-000003", [system, USER, ASSISTANT, USER, ASSISTANT]),
    ]
