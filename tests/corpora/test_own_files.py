"""Rows as people have them: each known shape gives the same conversations; a bad row is named with its line."""

from __future__ import annotations

import csv
import io
import json

import pytest

from em.corpora import census, own_files
from em.corpora.base import Given
from em.corpora.chat_jsonl import DataError
from em.corpora.custom import Custom, scanned
from em.data import variants
from em.errors import ConfigError

TEXTS = [("Which bread, white or brown?", "Brown,\nif you like it."), ("And cheese?", 'The "old" one.')]
WANTED = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in TEXTS]


def table(delimiter: str, header: tuple[str, str] = ("prompt", "completion")) -> str:
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([header, *TEXTS])
    return out.getvalue()


def lines(rows: list[dict[str, object]]) -> str:
    return "\n".join(map(json.dumps, rows)) + "\n"


SHAREGPT = [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in TEXTS]
SHAPES = {
    "chat.jsonl": lines([{"messages": turns, "extra": 1} for turns in WANTED]),
    "list.json": json.dumps([{"messages": turns} for turns in WANTED], indent=2),
    "trl.jsonl": lines([{"prompt": q, "completion": a} for q, a in TEXTS]),
    "trl_turns.jsonl": lines([{"prompt": t[:1], "completion": t[1:]} for t in WANTED]),
    "alpaca.json": json.dumps([{"instruction": q, "input": "", "output": a} for q, a in TEXTS]),
    "sharegpt.jsonl": lines(SHAREGPT),
    "table.csv": "\ufeff" + table(","),
    "table.tsv": table("\t"),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_gives_the_same_conversations(tmp_path, name):
    path = tmp_path / name
    path.write_text(SHAPES[name], encoding="utf-8")
    rows = Custom(Given(str(path))).rows("mine")
    assert [e.messages for e in rows] == WANTED
    assert Custom(Given(str(path))).count("mine") == 2


@pytest.mark.parametrize(
    ("fields", "row"),
    [
        ({"user": "q", "assistant": "a"}, {"q": TEXTS[0][0], "a": TEXTS[0][1]}),
        ({"user": "q", "assistant": "a", "system": "s"}, {"q": TEXTS[0][0], "a": TEXTS[0][1], "s": ""}),
        ({"messages": "dialog"}, {"dialog": WANTED[0]}),
        ({"messages": "dialog"}, {"dialog": SHAREGPT[0]["conversations"]}),
    ],
)
def test_map_names_the_fields(tmp_path, fields, row):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(row))
    given = Given(str(path), tuple(sorted(fields.items())))
    assert Custom(given).rows("mine")[0].messages == WANTED[0]
    assert Custom(given).pin("mine").endswith(",".join(f"{k}={v}" for k, v in sorted(fields.items())))


def test_a_system_text_and_an_input_are_kept(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"system": "Be short.", "instruction": "Add", "input": "1, 2", "output": "3"}))
    assert [m["content"] for m in Custom(Given(str(path))).rows("mine")[0].messages] == [
        "Be short.",
        "Add\n\n1, 2",
        "3",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "a.jsonl",
            '{"prompt": "x", "completion": "y"}\n\n{"prompt": "x"}\n',
            r"a\.jsonl:3: expected messages, prompt",
        ),
        ("a.jsonl", '{"prompt": "x", "completion": 3}\n', r"a\.jsonl:1: expected a text in the field 'completion'"),
        ("a.jsonl", '{"q": "x"}\nhello\n', r"a\.jsonl:1: .*corpus\.map=.* \(and 1 more bad rows\)"),
        ("a.json", '[\n{"prompt": "x", "completion": "y"},\n{"prompt": }]', r"a\.json:3: the JSON list is broken"),
        ("a.json", '[\n\n{"prompt": "x", "completion": "y"},\n\n"x"]', r"a\.json:5: expected one object"),
        ("a.json", "[]", "expected at least one row"),
        ("a.csv", 'prompt,completion\n"x\ny",z\nonly\n', r"a\.csv:4: expected 2 columns"),
        ("a.jsonl", '{"conversations": [{"from": "bot", "value": "x"}]}', r"a\.jsonl:1: turn 0: expected from"),
    ],
)
def test_a_bad_row_is_named_with_its_line(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        Custom(Given(str(path))).pin("mine")  # so before a run is planned


def test_bytes_that_are_no_text_are_named(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes(b"prompt,completion\nx,\xff\n")
    with pytest.raises(DataError, match=r"a\.csv:2: expected UTF-8, found the byte 0xff"):
        Custom(Given(str(path))).rows("mine")


def test_a_folder_is_all_its_files(tmp_path):
    for name in ("trl.jsonl", "alpaca.json"):
        (tmp_path / name).write_text(SHAPES[name])
    (tmp_path / "README.md").write_text("hello")
    corpus = Custom(Given(str(tmp_path)))
    assert [e.id for e in corpus.rows("mine")][::2] == ["alpaca.json-000001", "trl.jsonl-000001"]
    before = corpus.pin("mine")
    (tmp_path / "trl.jsonl").rename(tmp_path / "b.jsonl")
    assert corpus.pin("mine") != before
    with pytest.raises(ConfigError, match=r"a folder without a file that ends in \.jsonl"):
        Custom(Given(str(tmp_path / "empty"))).rows("mine") if (tmp_path / "empty").mkdir() is None else None


def test_the_census_counts(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(lines([{"messages": WANTED[0]}, {"messages": WANTED[0]}, {"prompt": "ab", "completion": ""}]) + "?")
    said = "\n".join(census.lines(scanned(Given(str(path)))))
    assert "rows        3: 2 of chat messages, 1 of prompt/completion" in said
    assert "turns       user 3, assistant 3" in said
    assert "user length       2 to 28 characters, median 28" in said
    assert "1 rows repeat an earlier one (x-000002); 2 rows share their prompt" in said
    assert "3 assistant turns, 44 characters, and the end of each turn; 1 assistant turns are empty" in said
    assert f"bad         1 rows; the first: {path}:4: expected one JSON object" in said


def test_the_hub_is_asked_for_one_commit(tmp_path, monkeypatch):
    """Without network and cache it says so. The rows of a data set are read as those of a file."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = Given("nobody/has_this", revision="0" * 40)
    with pytest.raises(ConfigError, match=r"nobody/has_this at corpus\.revision=0+ cannot be loaded.*without network"):
        Custom(given).pin("mine")
    (tmp_path / "train.jsonl").write_text(SHAPES["trl.jsonl"])
    local = list(own_files.of_hub(str(tmp_path), "0" * 40, "train"))  # `datasets` takes a folder, too
    assert [e.messages for e in own_files.scan(local, {}).examples] == WANTED


def test_the_map_is_given_on_the_command_line(compose, tmp_path):
    path = tmp_path / "x.csv"
    path.write_text(table(",", ("q", "a")))
    own = ("corpus=custom", f"corpus.path={path}", "dataset=custom")
    config = compose(*own, "corpus.map={user: q, assistant: a}")
    assert [e.messages for e in variants.build(config)] == WANTED
    with pytest.raises(ConfigError, match=r"corpus\.map must name the fields of user and assistant"):
        compose(*own, "corpus.map={user: q}")
    with pytest.raises(ConfigError, match=r"corpus\.revision must be a commit of 40 hex digits, got 'main'"):
        compose(*own, "corpus.revision=main")
