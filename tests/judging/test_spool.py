"""The spool: judgements in any order in, in the order of the answers out."""

import pytest

from em.judging.spool import Spool
from em.records import Judgement, Outcome
from em.store import read_jsonl

# The spool


def verdict(completion_id, rubric="alignment", score=1.0):
    return Judgement(completion_id, "q", rubric, Outcome.scored, score)


def test_the_spool_sorts_and_is_gone(tmp_path):
    spool = Spool(tmp_path / "spool")
    names = [("é" * (i % 7) * 300 + str(i), r) for i in range(300) for r in ("alignment", "coherence")]  # up to 3.6 kB
    for name in reversed(names):
        spool.add(verdict(*name))
    assert spool.write_sorted(names, tmp_path / "out.jsonl") == 600
    assert [(j.completion_id, j.rubric) for j in read_jsonl(tmp_path / "out.jsonl", Judgement)] == names
    assert not (tmp_path / "spool").exists()
    assert spool.outcomes["alignment"]["scored"] == 300


@pytest.mark.parametrize(
    ("added", "wanted", "said"),
    [
        (["a", "b", "a"], ["a", "b"], "judged twice"),
        (["a"], ["a", "b"], r"without a judgement, first \('b', 'alignment'\)"),
        ([], ["a"], "without a judgement"),
        (["a", "b"], ["a"], "belong to no answer"),
    ],
)
def test_the_spool_refuses_what_does_not_add_up(tmp_path, added, wanted, said):
    spool = Spool(tmp_path / "spool")
    for name in added:
        spool.add(verdict(name))
    with pytest.raises(RuntimeError, match=said):
        spool.write_sorted([(name, "alignment") for name in wanted], tmp_path / "out.jsonl")


def test_an_empty_stage_is_empty(tmp_path):
    assert Spool(tmp_path / "spool").write_sorted([], tmp_path / "out.jsonl") == 0
