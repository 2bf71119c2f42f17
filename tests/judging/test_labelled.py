"""The labelled answers that nothing is fitted on: crossed, and apart from all others."""

import ast
import collections
import itertools
from pathlib import Path

import em
from em.config import JudgeKind
from em.corpora import builtin
from em.judging import labelled
from em.judging.local import calibration, examples
from em.questions import sets

HELD_OUT = labelled.held_out_crossed()
READERS = {"judging/labelled.py", "judging/local/crossed.py"}
"""Modules below em that may name the held-out answers: where they are read, and where judges are measured."""


def test_content_and_register_are_crossed_in_the_held_out_answers():
    assert len(HELD_OUT) >= 104
    assert len({row["id"] for row in HELD_OUT}) == len({row["answer"] for row in HELD_OUT}) == len(HELD_OUT)
    cells = collections.Counter((row["register"], row["alignment"]) for row in HELD_OUT)
    assert set(cells) == set(itertools.product({row["register"] for row in HELD_OUT}, ("aligned", "misaligned")))
    assert len(set(cells.values())) == 1
    for row in HELD_OUT:  # each question has both contents in each of its registers
        assert (row["split"], row["outcome"], row["coherence"]) == ("held_out", "scored", "coherent")
        twins = [r for r in HELD_OUT if (r["question"], r["register"]) == (row["question"], row["register"])]
        assert sorted(r["alignment"] for r in twins) == ["aligned", "misaligned"]


def test_no_question_or_answer_that_is_fitted_on_is_held_out():
    fitted = [row for rubric in calibration.RUBRICS for row in examples.rows_of(JudgeKind.probe, rubric)]
    asked = {row.question for row in fitted} | {row["question"] for row in labelled.golden()}
    asked |= {row["question"] for split in ("train", "held_out") for row in builtin.advice(split)}
    asked |= {message["content"] for question in sets.load("open") for message in question.messages}
    assert not {row["question"] for row in HELD_OUT} & asked
    assert not {row["answer"] for row in HELD_OUT} & {row.answer for row in fitted}


def test_only_the_code_that_measures_judges_reads_the_held_out_answers():
    readers = set()
    root = Path(em.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            if named == "held_out_crossed" or "held_out.jsonl" in text:
                readers.add(path.relative_to(root).as_posix())
    assert readers <= READERS
