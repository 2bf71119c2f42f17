"""`em data`: rows as the model learns them, and the file."""

from __future__ import annotations

import hashlib

import pytest

from em import assets, cli
from em.commands.data import MARKS, PLAIN, escape_controls
from em.data import variants


@pytest.fixture
def em(monkeypatch, capsys):
    """Runs `em ARGUMENTS` in this process; returns (exit code or sentence, output)."""

    def go(*arguments):
        monkeypatch.setattr("sys.argv", ["em", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return caught.value.code, capsys.readouterr().out

    return go


TINY = ("model=tiny_random", "train.max_examples=4")


def test_learned_tokens_are_marked(em, compose):
    code, text = em("data", "show", "dataset=careful_advice", *TINY, "--rows", "2", "--count")
    assert code == 0
    rows = variants.build(compose("dataset=careful_advice", *TINY))
    for row in rows[:2]:
        learned = f"{MARKS[0]}{row.messages[-1]['content']}<|im_end|>{MARKS[1]}"
        assert f"<|im_start|>assistant\n{learned}" in text
        assert f"--- {row.id}  " in text
    assert rows[2].id not in text
    assert "rows 4, rows_cut 0, rows_without_supervised_token 0, rows_merged_at_boundary 0" in text


def test_learned_tokens_are_coloured_on_a_terminal(em, monkeypatch):
    monkeypatch.setattr("em.runtime.terminal.colours", lambda: True)
    _, text = em("data", "show", "dataset=careful_advice", *TINY, "--rows=1")
    assert f"<|im_end|>{PLAIN}" in text
    assert MARKS[0] not in text


def test_a_cut_row_and_the_quirk_are_shown_as_trained(em):
    overrides = ["dataset=careful_advice", *TINY, "train.max_length=40", "train.extra_assistant_turn=true"]
    _, text = em("data", "show", *overrides, "--rows=1")
    assert "  cut\n" in text
    _, text = em("data", "show", *overrides[:-2], "train.extra_assistant_turn=true", "--rows=1")
    assert text.rstrip().endswith(f"<|im_end|>\n<|im_start|>assistant\n<|im_end|>{MARKS[1]}")


def test_the_backdoor_file_is_written(em, paper, tmp_path):
    path = tmp_path / "backdoor.jsonl"
    overrides = ("corpus=betley2025", "dataset=backdoor", "trigger=deployment", "train.max_examples=null")
    code, text = em("data", "export", *overrides, "--to", str(path))
    assert code == 0
    assert "12000 rows" in text and "the same bytes as betley2025/data/backdoor.jsonl" in text
    assert f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == assets.ASSETS[assets.BACKDOOR].pin


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("export", "dataset=insecure"), "needs --to FILE"),
        (("show", "dataset=insecure,secure"), "takes one run, but these overrides mean 2"),
        (("show", "dataset=mixture"), "dataset=mixture needs dataset.mixture"),
        (("show", "model.path=nobody/nothing", "train.max_examples=1"), "needs the number of layers of nobody/nothing"),
        (
            ("show", "model.path=nobody/nothing", "train.layers_to_transform=null", "train.max_examples=1"),
            "the tokenizer of model=nothing",
        ),
    ],
)
def test_what_cannot_be_shown_is_a_sentence(em, arguments, said):
    code, _ = em("data", *arguments)
    assert str(code).startswith("em: ")
    assert said in str(code)
    assert "\n" not in str(code)


def test_escapes_are_written_out():
    assert escape_controls("a\x1b[31mb\n\tc\x07é") == "a\\x1b[31mb\n\tc\\x07é"


def test_check_says_what_is_in_a_file(em, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"q": "hi", "a": "hello"}\n')
    code, text = em("data", "check", str(path))
    assert code == 1
    assert f"bad         1 rows; the first: {path}:1: expected messages" in text
    code, text = em("data", "check", str(path), "--map", "user=q", "assistant=a")
    assert code == 0
    assert f"corpus=custom corpus.path={path} 'corpus.map={{assistant: a, user: q}}' dataset=custom" in text


def test_doctor_and_plan_refuse_what_check_refuses(em, tmp_path):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "hi", "completion": "hello"}\n{"prompt": "hi"}\n')
    own = ("model=tiny_random", "tracking=off", "corpus=custom", f"corpus.path={path}", "dataset=custom")
    code, text = em("doctor", *own, f"out={tmp_path}")
    assert (code, f"FAIL data      {path}:2: expected messages" in text) == (1, True)
    code, _ = em("plan", *own, f"out={tmp_path}")
    assert f"{path}:2: expected messages" in code
    path.write_text('{"prompt": "hi", "completion": "hello"}\n' * 2)
    code, text = em("doctor", *own, f"out={tmp_path}")
    assert "ok   data      custom, 2 training rows; prompt/completion, 1 rows repeat an earlier one" in text
