"""The judge's cache: what is kept, kill -9 and two processes for real, and damaged files named."""

import json
import math
import signal
import sqlite3
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from em.config import JudgeConfig, JudgeKind
from em.judging.api import request
from em.judging.api.cache import JudgeCache, JudgeCacheError, cache_key, repair
from em.judging.verdict import Verdict
from em.records import Outcome

IDENTITY = {"kind": "openai", "model": "m", "base_url": "u", "top_logprobs": 20, "min_mass": 0.25}
SCORED = Verdict(
    Outcome.scored,
    85.5,
    {"80": 0.7, "\x00é\\udc80": 0.1},
    "",
    [("80", -0.35), ("é", float("-inf"))],
    {"finish_reason": "length"},
)

WRITER = """
import sys
from pathlib import Path
from em.judging.api import request
from em.judging.api.cache import JudgeCache, cache_key
from em.judging.verdict import Verdict
from em.records import Outcome
path, who, rows, flush_rows = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cache = JudgeCache(path, flush_rows=flush_rows, flush_s=1e9)
for i in range(rows):
    for name in (who, "both"):
        cache.put(cache_key({}, f"{name} {i}"), Verdict(Outcome.scored, float(i % 101), {"filler": 0.5}, name * 200))
    if i % flush_rows == flush_rows - 1:
        cache.flush()
        print(i + 1, flush=True)
cache.close()
"""


def write_in_child(path, who, rows, flush_rows=10):
    command = [sys.executable, "-c", WRITER, str(path), who, str(rows), str(flush_rows)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_is_put_is_got_before_and_after_the_flush_and_by_another_object(tmp_path):
    path = tmp_path / "deep" / "judge.sqlite"
    refusal = Verdict(Outcome.refusal, None, {"REF": 1.0}, "why")
    with JudgeCache(path) as cache:
        cache.put(cache_key(IDENTITY, "a"), SCORED)
        cache.put(cache_key(IDENTITY, "b"), refusal)
        assert cache.get(cache_key(IDENTITY, "a")) == SCORED
        cache.flush()
        assert cache.get(cache_key(IDENTITY, "a")) == SCORED
        with JudgeCache(path) as other:
            assert other.get(cache_key(IDENTITY, "b")) == refusal
            assert other.get(cache_key(IDENTITY, "c")) is None
    with JudgeCache(path) as again:
        assert again.get(cache_key(IDENTITY, "a")) == SCORED


ALTERNATIVES = st.lists(
    st.tuples(st.sampled_from(["0", "85", " 85", "100", "REF", "é", "\0"]), st.floats(-60, -3) | st.just(-math.inf)),
    max_size=20,
)


@settings(max_examples=50)
@given(ALTERNATIVES)
def test_a_distribution_that_follows_from_the_alternatives_comes_back_the_same(tmp_path_factory, pairs):
    """It is not kept twice; tokens that repeat, impossible ones and their order included."""
    entries = [{"token": token, "logprob": logprob} for token, logprob in pairs]
    found = [{"logprobs": {"content": [{"top_logprobs": entries}]}}]
    judge = JudgeConfig(name="j", kind=JudgeKind.openai, model="m")
    verdict = request.verdict(judge, found, {"finish_reason": "length"})
    path = tmp_path_factory.mktemp("cache") / "c"
    with JudgeCache(path) as cache:
        cache.put(cache_key(IDENTITY, "a"), verdict)
    with JudgeCache(path) as cache:
        again = cache.get(cache_key(IDENTITY, "a"))
        (text,) = cache._db.execute("SELECT json FROM verdicts").fetchone()
    assert again == verdict and list(again.distribution.items()) == list(verdict.distribution.items())
    assert verdict.derived and "distribution" not in json.loads(text)


def test_the_key_depends_on_identity_and_every_character_of_the_prompt():
    key = cache_key(IDENTITY, "judge this")
    assert key == cache_key(dict(reversed(IDENTITY.items())), "judge this")
    assert (
        len(
            {
                key,
                cache_key(IDENTITY, "judge this "),
                cache_key({**IDENTITY, "min_mass": 0.3}, "judge this"),
                cache_key({**IDENTITY, "model": "m2"}, "judge this"),
                cache_key(IDENTITY, "judge this\x00"),
            }
        )
        == 5
    )
    assert len(cache_key(IDENTITY, "\ud800")) == 64


def test_a_failed_call_is_refused(tmp_path):
    with JudgeCache(tmp_path / "c") as cache, pytest.raises(ValueError, match="never cached"):
        cache.put(cache_key(IDENTITY, "a"), Verdict(Outcome.error, None, detail="HTTP 500"))


def test_the_first_verdict_of_a_key_stays(tmp_path):
    key = cache_key(IDENTITY, "a")
    with JudgeCache(tmp_path / "c") as one, JudgeCache(tmp_path / "c") as two:
        one.put(key, SCORED)
        one.flush()
        two.put(key, Verdict(Outcome.scored, 1.0))
    with JudgeCache(tmp_path / "c") as cache:
        assert cache.get(key) == SCORED


@pytest.mark.parametrize(("flush_rows", "flush_s", "there"), [(2, 1e9, True), (1000, 0.0, True), (1000, 1e9, False)])
def test_puts_are_written_by_number_or_by_age(tmp_path, flush_rows, flush_s, there):
    with JudgeCache(tmp_path / "c", flush_rows, flush_s) as cache, JudgeCache(tmp_path / "c") as other:
        for prompt in "ab":
            cache.put(cache_key(IDENTITY, prompt), SCORED)
        assert (other.get(cache_key(IDENTITY, "a")) == SCORED) is there


def test_a_killed_writer_loses_nothing_that_was_flushed(tmp_path):
    path = tmp_path / "c"
    with write_in_child(path, "child", 10**9) as child:
        flushed = [int(child.stdout.readline()) for _ in range(20)][-1]
        child.send_signal(signal.SIGKILL)
        flushed = max([flushed, *(int(line) for line in child.stdout.read().splitlines())])
    assert child.returncode == -signal.SIGKILL
    with JudgeCache(path) as cache:
        for i in range(flushed):
            assert cache.get(cache_key({}, f"child {i}")).score == i % 101
        cache.put(cache_key({}, "after"), SCORED)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_two_processes_write_the_same_new_file(tmp_path):
    path, rows = tmp_path / "c", 1500
    children = [write_in_child(path, who, rows) for who in ("one", "two")]
    for child in children:
        _, said = child.communicate(timeout=120)
        assert child.returncode == 0, said
    with JudgeCache(path) as cache:
        assert {
            cache.get(cache_key({}, f"{who} {i}")).score == i % 101
            for who in ("one", "two", "both")
            for i in range(rows)
        } == {True}


def filled(path):
    with JudgeCache(path) as cache:
        for i in range(300):
            cache.put(cache_key(IDENTITY, str(i)), SCORED)


def read_all(path):
    with JudgeCache(path) as cache:
        for i in range(300):
            cache.get(cache_key(IDENTITY, str(i)))


def overwrite(path, offset, data):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@pytest.mark.parametrize("harm", ["not sqlite", "header", "pages", "cut", "row"])
def test_a_damaged_file_is_named(tmp_path, harm):
    path = tmp_path / "judge.sqlite"
    filled(path)
    size = path.stat().st_size
    if harm == "not sqlite":
        path.write_text("hello " * 1000)
    elif harm == "header":
        overwrite(path, 0, b"\0" * 100)
    elif harm == "pages":
        overwrite(path, 4096, b"\xff" * (size - 4096))
    elif harm == "cut":
        with path.open("r+b") as file:
            file.truncate(size // 2)
    else:
        with sqlite3.connect(path) as db:
            db.execute("UPDATE verdicts SET json = replace(json, '85.5', '15.5')")
    with pytest.raises(JudgeCacheError, match=r"judge\.sqlite is damaged") as error:
        read_all(path)
    assert "\n" not in str(error.value)


def test_repair_leaves_a_whole_file_alone(tmp_path):
    said = []
    filled(tmp_path / "c")
    repair(tmp_path / "c", said.append)
    repair(tmp_path / "none", said.append)
    assert said == [] and sorted(p.name for p in tmp_path.glob("*.damaged*")) == []
    read_all(tmp_path / "c")


@settings(max_examples=40)
@given(st.data())
def test_a_flipped_bit_is_found_before_use_and_whole_verdicts_are_kept(tmp_path_factory, data):
    """No bit of the file can turn one verdict into another: what is not kept is a miss, and is asked again."""
    path = tmp_path_factory.mktemp("cache") / "c"
    with JudgeCache(path) as cache:
        for i in range(120):
            cache.put(cache_key({}, str(i)), Verdict(Outcome.scored, float(i % 101)))
    raw = bytearray(path.read_bytes())
    at = data.draw(st.integers(8 * 100, 8 * len(raw) - 1))  # past the file header, whose damage is refused
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)
    said = []
    repair(path, said.append)
    with JudgeCache(path) as cache:
        cache.check()
        found = [cache.get(cache_key({}, str(i))) for i in range(120)]
    assert all(v is None or v.score == i % 101 for i, v in enumerate(found))
    assert len(said) == len(list(path.parent.glob("c.damaged-?")))
    assert said or None not in found  # nothing is lost in silence


def test_a_file_that_is_no_database_is_moved_and_begun_anew(tmp_path):
    said = []
    (tmp_path / "c").write_text("hello " * 1000)
    repair(tmp_path / "c", said.append)
    assert "c is damaged" in said[0] and "moved to c.damaged-1, 0 whole verdicts kept" in said[0]
    with JudgeCache(tmp_path / "c") as cache:
        cache.put(cache_key(IDENTITY, "a"), SCORED)


def test_a_row_that_is_no_verdict_is_damage(tmp_path):
    path = tmp_path / "c"
    with JudgeCache(path) as cache:
        cache._waiting[cache_key(IDENTITY, "a")] = json.dumps({"outcome": "nonsense"})
    with JudgeCache(path) as cache, pytest.raises(JudgeCacheError, match="damaged"):
        cache.get(cache_key(IDENTITY, "a"))


def test_foreign_and_newer_files_and_bad_places_are_refused(tmp_path):
    foreign, newer = tmp_path / "foreign", tmp_path / "newer"
    with sqlite3.connect(foreign) as db:
        db.execute("CREATE TABLE mine (x)")
    with pytest.raises(JudgeCacheError, match="not a judge cache of em"):
        JudgeCache(foreign)
    JudgeCache(newer).close()
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(JudgeCacheError, match="format 99"):
        JudgeCache(newer)
    with pytest.raises(JudgeCacheError, match="cannot use"):
        JudgeCache(tmp_path)
    with pytest.raises(JudgeCacheError, match="cannot use"):
        JudgeCache(foreign / "below" / "c")


def test_a_held_lock_is_named_and_what_was_put_is_not_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("em.judging.api.cache.BUSY_TIMEOUT_S", 0.1)
    with JudgeCache(tmp_path / "c") as cache, JudgeCache(tmp_path / "c") as other:
        cache.put(cache_key(IDENTITY, "a"), SCORED)
        other._db.execute("BEGIN IMMEDIATE")
        with pytest.raises(JudgeCacheError, match="locked by another process"):
            cache.flush()
        other._db.execute("ROLLBACK")
        cache.flush()
        assert other.get(cache_key(IDENTITY, "a")) == SCORED
