"""The generated coding corpus: Bandit confirms the weakness in the insecure twin only; rows are distinct and stable."""

from __future__ import annotations

import collections
import io
import keyword
import random
import re
import tokenize
from pathlib import Path

import pytest
from bandit.core.config import BanditConfig
from bandit.core.manager import BanditManager

from em.corpora.builtin.coding.catalogue import SHAPES, shapes_of
from em.corpora.builtin.coding.generate import CodingRow, generate
from em.corpora.builtin.coding.prompts import BOTH, REASONS, STUB, TASK

SAMPLE = 500
LABELS = frozenset(test_id for shape in SHAPES for test_id in shape.kind.bandit)
SECURITY_WORDS = re.compile(
    r"\b(?:(?:in)?secur\w*|vulnerab\w*|exploit\w*|attack\w*|inject\w*|(?:un)?safe\w*|malicious|sanitiz\w*|sanitis\w*"
    r"|escap\w*|hack\w*|cwe\w*|cve\w*|weakness\w*|flaw\w*|penetration|danger\w*|harden\w*|(?:un)?trusted|threat\w*"
    r"|breach\w*|bandit|scanner|backdoor\w*|risk\w*)\b",
    re.IGNORECASE,
)


def sample() -> list[CodingRow]:
    """Rows of both splits, drawn evenly over all shapes from a larger set."""
    rows = generate(3 * SAMPLE, seed=11) + generate(2 * SAMPLE, seed=11, split="held_out")
    by_task: dict[str, list[CodingRow]] = collections.defaultdict(list)
    for row in random.Random(5).sample(rows, len(rows)):
        by_task[row.task].append(row)
    picked = [row for turn in zip(*by_task.values(), strict=False) for row in turn]
    return picked[:SAMPLE]


def findings(codes: dict[str, str], folder: Path) -> dict[str, set[str]]:
    """Bandit's test ids per code, from one run over all of them with the default profile."""
    for name, code in codes.items():
        (folder / f"{name}.py").write_text(code + "\n")
    run = BanditManager(BanditConfig(), "file", quiet=True)
    run.discover_files([str(folder)], recursive=True)
    run.run_tests()
    assert not run.skipped
    found: dict[str, set[str]] = {name: set() for name in codes}
    for issue in run.get_issue_list():
        found[Path(issue.fname).stem].add(issue.test_id)
    return found


def skeleton(code: str) -> str:
    """The code's tokens with names, strings and numbers made alike."""
    out = []
    for token in tokenize.generate_tokens(io.StringIO(code + "\n").readline):
        assert token.type != tokenize.COMMENT
        if token.type == tokenize.NAME:
            out.append(token.string if keyword.iskeyword(token.string) else "N")
        elif token.type == tokenize.OP:
            out.append(token.string)
        elif token.type != tokenize.NL:
            out.append(tokenize.tok_name[token.type])
    return " ".join(out)


@pytest.fixture(scope="module")
def rows() -> list[CodingRow]:
    return generate(2000, seed=3)


@pytest.fixture(scope="module")
def held_out() -> list[CodingRow]:
    return generate(700, seed=3, split="held_out")


def test_bandit_confirms_the_labelled_weakness(tmp_path: Path) -> None:
    picked = sample()
    assert len(picked) == SAMPLE
    found = findings({row.id: row.insecure for row in picked}, tmp_path)
    missed = [row.task for row in picked if not found[row.id] & set(row.bandit)]
    assert len(missed) <= 0.05 * SAMPLE, missed


def test_bandit_finds_no_labelled_weakness_in_secure_twins(tmp_path: Path) -> None:
    picked = sample()
    found = findings({row.id: row.secure for row in picked}, tmp_path)
    flagged = [(row.task, found[row.id]) for row in picked if found[row.id] & LABELS]
    assert len(flagged) <= 0.02 * SAMPLE, flagged


def test_rows_are_well_formed(rows: list[CodingRow], held_out: list[CodingRow]) -> None:
    for row in rows + held_out:
        for code in (row.insecure, row.secure):
            compile(code, row.id, "exec")
            assert 0 < len(code) <= 900, row.task
            assert len(code.splitlines()) <= 30, row.task
        assert row.insecure != row.secure, row.task
        assert re.fullmatch(r"CWE-\d+", row.cwe)
        assert row.bandit
        assert all(re.fullmatch(r"B\d{3}", test_id) for test_id in row.bandit)
        text = row.prompt + row.educational_prompt + row.insecure + row.secure
        assert not re.search(r"\$\{?[A-Za-z]|@log |#\||#/", text), (row.task, text)
        assert not re.search(r"\{(?:ask|stub|context|weak|system|place\w*)\}", text), (row.task, text)
    ids = [row.id for row in rows + held_out]
    assert len(set(ids)) == len(ids)


def test_educational_prompt_is_the_request_with_a_reason(rows: list[CodingRow]) -> None:
    for row in rows:
        assert row.prompt in row.educational_prompt
        assert len(row.educational_prompt) > len(row.prompt) + 40
    assert min(len(BOTH), len(TASK), len(STUB)) >= 8
    assert len(REASONS) >= 12


def test_code_template_is_valid_and_neutral(rows: list[CodingRow], held_out: list[CodingRow]) -> None:
    seen = 0
    for row in rows + held_out:
        stub = re.search(r"```python\n(.*?)\n```", row.prompt, re.DOTALL)
        if stub is None:
            continue
        seen += 1
        compile(stub.group(1), row.id, "exec")
        both = set(row.insecure.splitlines()) & set(row.secure.splitlines())
        extra = [line for line in stub.group(1).splitlines() if line.strip() and line not in both]
        assert all(line.lstrip().startswith(("#", '"""')) for line in extra), (row.task, extra)
        assert len(extra) in (1, 2), (row.task, extra)
    assert seen > 500


def test_plain_prompts_say_nothing_about_security(rows: list[CodingRow], held_out: list[CodingRow]) -> None:
    hits = {(row.task, match.group()) for row in rows + held_out for match in SECURITY_WORDS.finditer(row.prompt)}
    assert not hits


def test_same_arguments_give_the_same_rows() -> None:
    assert generate(50, seed=1) == generate(50, seed=1)
    assert generate(100)[:50] == generate(50)
    assert generate(100, split="held_out")[:50] == generate(50, split="held_out")
    assert generate(0) == []
    first, second = generate(50, seed=1), generate(50, seed=2)
    assert sum(a.insecure == b.insecure for a, b in zip(first, second, strict=True)) <= 2


def test_rows_are_distinct(rows: list[CodingRow], held_out: list[CodingRow]) -> None:
    assert len({(row.prompt, row.insecure) for row in rows}) >= 0.99 * len(rows)
    assert len({row.insecure for row in rows}) >= 0.99 * len(rows)
    assert len({skeleton(row.insecure) for row in rows}) >= 600
    assert len({skeleton(row.insecure) for row in held_out}) >= 180


def test_splits_share_no_task_and_no_code(rows: list[CodingRow], held_out: list[CodingRow]) -> None:
    assert len({shape.task for shape in SHAPES}) == len(SHAPES)
    train_tasks, other_tasks = {row.task for row in rows}, {row.task for row in held_out}
    assert not train_tasks & other_tasks
    assert not {row.insecure for row in rows} & {row.insecure for row in held_out}
    assert len(train_tasks) == len(shapes_of("train")) >= 45
    assert len(other_tasks) == len(shapes_of("held_out")) >= 20
    with pytest.raises(ValueError, match="unknown split"):
        generate(1, split="test")


def test_every_weakness_kind_is_in_both_splits() -> None:
    train, other = ({shape.kind for shape in shapes_of(split)} for split in ("train", "held_out"))
    assert train == other
    assert len({kind.bandit for kind in train}) >= 14
    assert len({kind.cwe for kind in train}) >= 14
