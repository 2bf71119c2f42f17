"""The answers of a growing sample stage: each once, whole rows only."""

import pytest

from em.judging.tail import SampleTail
from em.records import Completion
from em.store import Store, dump_line
from support.sampler import Sampler


def row(index, text="answer"):
    return Completion("q", index, "none", [], text, "stop", 3, 1)


def read(tail):
    return [completion.sample_index for completion in tail.new_answers()]


@pytest.fixture
def store(tmp_path):
    return Store.open(tmp_path)


def test_a_stage_that_has_not_begun_has_no_answers(store):
    tail = SampleTail(store, "s")
    assert read(tail) == [] and not tail.ended


def test_each_answer_comes_once(store):
    sampler, tail = Sampler(store), SampleTail(store, "s")
    sampler.draw(row(2), row(0))
    assert (read(tail), read(tail), tail.ended) == ([2, 0], [], False)
    sampler.draw(row(1))
    assert read(tail) == [1]
    sampler.seal(extra=[row(3)])  # never in the growing file
    assert (read(tail), tail.ended) == ([3], True)


def test_a_sealed_stage_is_read_from_its_file(store):
    sampler, tail = Sampler(store), SampleTail(store, "s")
    sampler.draw(row(1), row(0))
    sampler.seal()
    assert (read(tail), tail.ended) == ([0, 1], True)


def test_a_half_row_waits_for_its_end(store):
    sampler, tail = Sampler(store), SampleTail(store, "s")
    sampler.draw(row(0))
    with sampler.path.open("a") as file:
        file.write(dump_line(row(1))[:30])
    assert (read(tail), read(tail)) == ([0], [])


def test_a_row_that_does_not_match_its_checksum_is_skipped(store):
    sampler, tail = Sampler(store), SampleTail(store, "s")
    sampler.draw(row(0), row(1, "before"), row(2))
    sampler.path.write_bytes(sampler.path.read_bytes().replace(b"before", b"harmed"))
    assert read(tail) == [0, 2]
