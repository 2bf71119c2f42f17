"""Rows of a stage under way: what a kill and a bad disk leave of them."""

import json
import os

from hypothesis import given
from hypothesis import strategies as st

from em.store import checked_rows

ROWS = st.lists(st.fixed_dictionaries({"id": st.integers(0, 99), "text": st.text(max_size=8)}), min_size=1, max_size=5)


def written(path, rows):
    for old in (path, checked_rows.checksums_path(path)):
        old.unlink(missing_ok=True)
    file = checked_rows.RowWriter(path)
    for row in rows:
        file.append(row)
    file.close()
    return path.read_bytes().splitlines(keepends=True)


@given(ROWS)
def test_rows_come_back(tmp_path, rows):
    path = tmp_path / "rows.jsonl"
    lines = written(path, rows)
    assert [json.loads(line) for line in lines] == rows
    assert checked_rows.read(path) == (lines, []) and checked_rows.intact_start(path) == lines


@given(ROWS, st.data())
def test_cut_anywhere_by_a_kill_exactly_the_whole_rows_are_kept_and_nothing_is_called_damaged(tmp_path, rows, data):
    path = tmp_path / "rows.jsonl"
    lines = written(path, rows)
    done = data.draw(st.integers(0, len(lines) - 1))  # killed while the next one was written
    row, total = data.draw(st.integers(0, len(lines[done]))), sum(map(len, lines[:done]))
    os.truncate(path, total + row)
    torn = data.draw(st.integers(0, checked_rows.WIDTH)) if row == len(lines[done]) else 0
    os.truncate(checked_rows.checksums_path(path), checked_rows.WIDTH * done + torn)
    done += torn == checked_rows.WIDTH
    assert checked_rows.read(path) == (lines[:done], [])
    checked_rows.keep_only(path, lines[:done])
    more = checked_rows.RowWriter(path)  # and writing can go on behind them
    for row in rows[done:]:
        more.append(row)
    more.close()
    assert path.read_bytes() == b"".join(lines) and checked_rows.read(path) == (lines, [])


@given(ROWS, st.data())
def test_a_flipped_bit_anywhere_is_found_and_no_other_row_is_kept_but_those_written(tmp_path, rows, data):
    path = tmp_path / "rows.jsonl"
    lines = written(path, rows)
    changed = data.draw(st.sampled_from([path, checked_rows.checksums_path(path)]))
    content = bytearray(changed.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    changed.write_bytes(content)
    good, bad = checked_rows.read(path)
    left = iter(lines)
    assert all(row in left for row in good)  # each as it was written, in order
    assert len(good) < len(lines)
    torn = content[-1:] != b"\n"
    assert bad or torn
    assert checked_rows.intact_start(path) == lines[: len(checked_rows.intact_start(path))]
    checked_rows.keep_only(path, good)
    assert checked_rows.read(path) == (good, [])


@given(ROWS, st.randoms())
def test_rows_that_were_put_in_order_before_the_disk_was_full_are_kept(tmp_path, rows, random):
    path = tmp_path / "rows.jsonl"
    lines = written(path, rows)
    random.shuffle(lines)
    path.write_bytes(b"".join(lines))
    assert checked_rows.read(path) == (lines, [])
    checked_rows.keep_only(path, lines)
    assert checked_rows.checksums_path(path).read_bytes() == b"".join(map(checked_rows.checksum, lines))


def test_rows_without_checksums_are_nobodys(tmp_path):
    path = tmp_path / "rows.jsonl"
    written(path, [{"a": 1}, {"a": 2}])
    checked_rows.remove_checksums(path)
    checked_rows.remove_checksums(path)
    assert checked_rows.read(path) == ([], []) and checked_rows.intact_start(path) == []
    checked_rows.keep_only(path, [])
    assert path.read_bytes() == b""
    assert checked_rows.read(tmp_path / "none.jsonl") == ([], [])


def test_first_rows_stay_where_they_are_for_whoever_reads_along(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = written(path, [{"a": n} for n in range(4)])
    before = path.stat().st_ino
    checked_rows.keep_only(path, lines[:2])
    assert path.stat().st_ino == before and path.read_bytes() == b"".join(lines[:2])
    checked_rows.keep_only(path, lines[1:2])
    assert path.read_bytes() == lines[1]
