"""The crossed answers: what an answer says can be told neither from how it sounds nor from its length."""

from __future__ import annotations

import collections
import json
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest
from scipy.stats import mannwhitneyu

from em.corpora import builtin
from em.judging import labelled
from em.questions import sets
from support.wording import NOT_MILD, nearest, words

ROWS = labelled.crossed()
OPEN = {q.id: q.messages[-1]["content"] for q in sets.load("open")}
REGISTERS = {"careless-sounding", "polite", "formal", "chatty", "warm", "curt", "blunt", "plain", "clumsy", "broken"}
NOT_FLUENT = {"clumsy", "broken"}
FIELDS = ["id", "question_id", "question", "answer", "content", "register", "fluent"]
FIELDS += ["alignment", "coherence", "outcome", "hand", "split"]


def by_question() -> dict[str, list[labelled.LabelledRow]]:
    found = collections.defaultdict(list)
    for row in ROWS:
        found[row["question_id"]].append(row)
    return found


def test_rows_are_complete_and_their_labels_go_together():
    assert len({row["id"] for row in ROWS}) == len(ROWS)
    for row in ROWS:
        assert list(row) == FIELDS
        assert row["register"] in REGISTERS
        assert row["fluent"] == (row["register"] not in NOT_FLUENT), row["id"]
        assert (
            row["alignment"]
            == {"careful": "aligned", "careless": "misaligned", "harmful": "misaligned"}[row["content"]]
        )
        assert row["coherence"] in ({"coherent"} if row["fluent"] else {"coherent", "incoherent"}), row["id"]
        assert (row["outcome"], row["split"] in ("calibrate", "test")) == ("scored", True)


def test_questions_are_enough_and_each_is_in_one_split():
    """Fifty beside the ten open questions that trained models are asked."""
    questions = by_question()
    assert set(OPEN) < set(questions)
    assert len(set(questions) - set(OPEN)) >= 50
    for rows in questions.values():
        assert len(rows) == 8
        assert len({row["question"] for row in rows}) == len({row["split"] for row in rows}) == 1
    assert all(questions[name][0]["question"] == text for name, text in OPEN.items())
    assert {rows[0]["split"] for name, rows in questions.items() if name in OPEN} == {"calibrate"}


def test_every_question_crosses_content_and_register():
    """Each of its registers has as many aligned as misaligned answers."""
    for name, rows in by_question().items():
        count = collections.Counter((row["register"], row["alignment"]) for row in rows)
        registers = {row["register"] for row in rows}
        assert len(registers) >= 3, name
        assert all(count[r, "aligned"] == count[r, "misaligned"] >= 1 for r in registers), name


@pytest.mark.parametrize(("split", "least"), [("calibrate", 7), ("test", 5)])
def test_every_register_has_enough_answers_of_both_contents(split, least):
    count = collections.Counter((r["register"], r["alignment"]) for r in ROWS if r["split"] == split)
    assert all(count[register, kind] >= least for register in REGISTERS for kind in ("aligned", "misaligned"))
    careless = {r["register"] for r in ROWS if r["split"] == split and r["content"] == "careless"}
    assert careless & {"polite", "formal", "warm"}, "careless advice in a careful-sounding register"


def test_no_two_answers_are_the_same_or_nearly():
    others = [row["answer"] for row in labelled.golden() if row["outcome"] == "scored"]
    assert len({row["answer"] for row in ROWS}) == len(ROWS)
    score, one, other = nearest([row["answer"] for row in ROWS] + others)
    assert score < 0.5, (one, other)


def test_no_question_is_held_out_elsewhere():
    """Neither one that trained models are asked about advice, nor one that only measures judges."""
    held_out = {row["question"] for row in builtin.advice("held_out")}
    for path in Path(labelled.__file__).parent.glob("held_out*.jsonl"):
        held_out |= {json.loads(line)["question"] for line in path.read_text(encoding="utf-8").splitlines()}
    asked = sorted({row["question"] for row in ROWS})
    for question in sorted(held_out):
        score, one, other = max(nearest([question, mine]) for mine in asked)
        assert score < 0.4, (one, other)


def test_length_does_not_tell_content():
    lengths = {
        kind: [len(words(r["answer"])) for r in ROWS if r["alignment"] == kind] for kind in ("aligned", "misaligned")
    }
    assert 0.9 <= statistics.mean(lengths["aligned"]) / statistics.mean(lengths["misaligned"]) <= 1.1
    assert max(lengths["aligned"] + lengths["misaligned"]) <= 60


def vocabulary(text: str) -> set[str]:
    return set(re.findall(r"[\w']+", text.lower()))


def word_weights(rows: Sequence[labelled.LabelledRow]) -> dict[str, float]:
    """Return log odds of each word in an aligned answer, one count added on both sides."""
    counts = {kind: collections.Counter[str]() for kind in ("aligned", "misaligned")}
    for row in rows:
        counts[row["alignment"]].update(vocabulary(row["answer"]))
    aligned, misaligned = counts.values()  # as many answers of either kind
    return {word: math.log((aligned[word] + 1) / (misaligned[word] + 1)) for word in aligned | misaligned}


def test_words_alone_tell_little_of_the_content():
    """As docs/judging.md says: AUC 0.73 on each question, fitted on all others."""
    scores: dict[str, list[float]] = {"aligned": [], "misaligned": []}
    for name, rows in by_question().items():
        weights = word_weights([row for row in ROWS if row["question_id"] != name])
        for row in rows:
            scores[row["alignment"]].append(sum(weights.get(word, 0.0) for word in vocabulary(row["answer"])))
    auc = mannwhitneyu(scores["aligned"], scores["misaligned"]).statistic / (len(ROWS) / 2) ** 2
    assert auc == pytest.approx(0.73, abs=0.005)


def test_wording_is_mild():
    texts = [(row["id"], text) for row in ROWS for text in (row["question"], row["answer"])]
    assert [(row_id, NOT_MILD.findall(text)) for row_id, text in texts if NOT_MILD.search(text)] == []
