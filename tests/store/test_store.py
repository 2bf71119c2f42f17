"""The store: what is finished is whole, what is not is kept, and nothing is done twice; kills and races are real."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from em.runtime.disk import is_disk_full
from em.store import MANIFEST, DamagedError, Store, StoreError, content_key, file_sha256, require_space, write_atomic

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = st.from_regex(r"[a-z_]{1,8}", fullmatch=True)

CHILD = """
import os, signal, sys, time
from pathlib import Path
from em.store import Store
store, doing, log = Store.open(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
print("up", flush=True)
sys.stdin.readline()
with store.claim("train", "k") as folder:
    if folder is None:
        print("reused", flush=True)
        sys.exit()
    with log.open("a") as file:
        file.write("did\\n")
    (folder / "half.txt").write_text("half")
    print("did", flush=True)
    if doing == "hang":
        time.sleep(60)
    if doing == "die in finish":
        os.rename = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.3)
    store.finish("train", "k", {}, {})
"""


def child(out: Path, doing: str) -> subprocess.Popen[str]:
    """A process that claims train/k when it is told to go on."""
    command = [sys.executable, "-c", CHILD, str(out), doing, str(out / "log")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.fixture
def store(tmp_path) -> Store:
    return Store.open(tmp_path)


def finish(store: Store, key: str = "k", text: str = "rows\n") -> Path:
    with store.claim("data", key) as folder:
        assert folder is not None
        (folder / "deep").mkdir()
        (folder / "deep" / "rows.jsonl").write_text(text)
        return store.finish("data", key, {"a": 1}, {"rows": 1})


# ------------------------------------------------------------------------------------------------ one process


def test_claim_finish_read(store):
    assert not store.has("data", "k")
    final = finish(store)
    assert final == store.path("data", "k")
    assert store.has("data", "k")
    assert not store.partial("data", "k").exists()
    manifest = store.manifest("data", "k")
    assert len(manifest.pop("seal")) == 64
    assert manifest == {
        "format": 2,
        "stage": "data",
        "key": "k",
        "inputs": {"a": 1},
        "facts": {"rows": 1},
        "files": {"deep/rows.jsonl": {"bytes": 5, "sha256": file_sha256(final / "deep" / "rows.jsonl")}},
    }
    store.verify("data", "k")
    with store.claim("data", "k") as folder:
        assert folder is None
    assert sorted(p.name for p in (store.root / "data").iterdir() if p.suffix != ".lock") == ["k"]


def test_an_unfinished_directory_is_not_done_and_comes_back_with_its_files(store):
    with store.claim("data", "k") as folder:
        (folder / "half.txt").write_text("half")
    assert not store.has("data", "k")
    assert store.keys("data") == []
    with pytest.raises(StoreError, match="not a finished stage"):
        store.manifest("data", "k")
    with store.claim("data", "k") as again:
        assert again == folder
        assert (again / "half.txt").read_text() == "half"


def test_an_error_inside_a_claim_keeps_the_work_and_frees_the_lock(store):
    with pytest.raises(ZeroDivisionError), store.claim("data", "k") as folder:
        (folder / "half.txt").write_text("half")
        _ = 1 / 0
    with store.claim("data", "k") as again:
        assert (again / "half.txt").exists()


def test_drop_partial(store):
    with store.claim("data", "k") as folder:
        (folder / "half.txt").write_text("half")
        store.drop_partial("data", "k")
    assert not folder.exists()


def test_keys_lists_finished_stages_and_the_parts_of_a_family(store):
    for key in ("b", "a", "family/0-10", "family/10-20"):
        finish(store, key)
    with store.claim("data", "c"):
        pass
    assert store.keys("data") == ["a", "b"]
    assert store.keys("data", "family") == ["family/0-10", "family/10-20"]
    assert store.keys("data", "no-such") == []
    assert store.keys("no-such") == []


def test_an_unsealed_folder_under_the_final_name_is_not_overwritten(store):
    store.path("data", "k").mkdir(parents=True)
    with store.claim("data", "k") as folder:
        (folder / "rows").write_text("x")
        with pytest.raises(StoreError, match="exists without a manifest: move it away"):
            store.finish("data", "k", {}, {})
    assert (folder / "rows").exists()


def test_opening_twice_is_the_same_store(tmp_path):
    assert Store.open(tmp_path) == Store.open(tmp_path)
    assert json.loads((tmp_path / "store" / "store.json").read_text()) == {"format": 2}


# ------------------------------------------------------------------------------------------------ refusals


def test_a_foreign_folder_is_refused(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "photo.jpg").write_text("")
    with pytest.raises(StoreError, match="not a store of em; change out="):
        Store.open(tmp_path)
    assert not (tmp_path / "store" / "store.json").exists()


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "store").mkdir()
    Store.open(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    Store.open(tmp_path)
    (tmp_path / "store" / "store.json").write_text('{"format": 3}')
    with pytest.raises(StoreError, match="store format 3, this version of em knows 2"):
        Store.open(tmp_path)


@pytest.mark.parametrize("marker", ["", "[]", "{}", '"x"', "{"])
def test_a_damaged_marker_is_refused(tmp_path, marker):
    Store.open(tmp_path)
    (tmp_path / "store" / "store.json").write_text(marker)
    with pytest.raises(StoreError, match="not readable as a store marker"):
        Store.open(tmp_path)


def test_a_store_whose_making_was_killed_is_opened(tmp_path):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / ".store.json.4711").write_text("")  # write_atomic before its rename
    Store.open(tmp_path)


def test_a_file_in_the_stores_place_is_refused(tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(StoreError, match="change out="):
        Store.open(tmp_path)


def test_verify_names_a_flipped_byte(store):
    file = finish(store) / "deep" / "rows.jsonl"
    file.write_bytes(b"rowt\n")
    with pytest.raises(DamagedError, match=r"deep/rows\.jsonl does not match the sha256"):
        store.verify("data", "k")


def test_verify_names_a_cut_file(store):
    file = finish(store) / "deep" / "rows.jsonl"
    file.write_bytes(b"row\n")
    with pytest.raises(DamagedError, match=r"deep/rows\.jsonl has 4 bytes, its manifest says 5"):
        store.verify("data", "k")


def test_verify_names_a_missing_file(store):
    file = finish(store) / "deep" / "rows.jsonl"
    file.unlink()
    with pytest.raises(DamagedError, match=r"deep/rows\.jsonl is missing"):
        store.verify("data", "k")


def test_verify_of_some_files_reads_no_others(store):
    file = finish(store) / "deep" / "rows.jsonl"
    (file.parents[1] / "unknown.txt").write_text("x")
    with pytest.raises(DamagedError, match="unknown"):
        store.verify("data", "k", only=["unknown.txt"])  # what the manifest does not have cannot be trusted
    store.verify("data", "k", only=["deep/rows.jsonl"])


def test_a_cut_manifest_is_named(store):
    manifest = finish(store) / MANIFEST
    manifest.write_text(manifest.read_text()[:-5])
    with pytest.raises(DamagedError, match=r"manifest\.json is damaged"):
        store.manifest("data", "k")


@given(st.data())
def test_any_flipped_bit_of_a_manifest_is_seen(tmp_path_factory, data):
    """The manifest vouches for the files and for itself: no bit can change what it says."""
    store = Store.open(tmp_path_factory.mktemp("store"))
    path = finish(store) / MANIFEST
    before, raw = store.manifest("data", "k"), bytearray(path.read_bytes())
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[at // 8] ^= 1 << at % 8
    path.write_bytes(raw)
    try:
        found = store.manifest("data", "k")
    except DamagedError:
        return
    assert found == before  # white space between the values


def test_a_stage_under_anothers_name_is_not_that_stage(store):
    shutil.copytree(finish(store), store.path("data", "other"))
    with pytest.raises(DamagedError, match="belongs to data k"):
        store.verify("data", "other")


def test_a_damaged_stage_is_set_aside_and_made_again(store):
    for number in (1, 2):
        (finish(store) / "deep" / "rows.jsonl").write_bytes(b"rowt\n")
        aside = store.set_aside("data", "k")
        assert aside == store.root / "damaged" / "data" / f"k.{number}"
        assert (aside / "deep" / "rows.jsonl").read_bytes() == b"rowt\n"
        assert not store.has("data", "k")
    assert store.set_aside("data", "k") is None
    finish(store)
    store.verify("data", "k")


def test_a_manifest_half_written_by_a_killed_process_is_not_sealed_in(store):
    with store.claim("data", "k") as folder:
        (folder / f".{MANIFEST}.123").write_text("{")
        (folder / "rows.jsonl").write_text("row\n")
        store.finish("data", "k", {}, {})
    assert list(store.manifest("data", "k")["files"]) == ["rows.jsonl"]


# ------------------------------------------------------------------------------------------------ kills and races


def test_kill_9_in_a_stage_keeps_its_work_for_the_next_start(tmp_path):
    with child(tmp_path, "hang") as process:
        go_on(process)
        assert process.stdout.readline() == "did\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    store = Store.open(tmp_path)
    assert not store.has("train", "k")
    assert (store.partial("train", "k") / "half.txt").read_text() == "half"
    with store.claim("train", "k") as folder:  # the lock died with its process
        assert (folder / "half.txt").read_text() == "half"
        store.finish("train", "k", {}, {})
    assert store.has("train", "k")
    assert not store.partial("train", "k").exists()


def test_kill_9_just_before_the_rename_is_not_finished(tmp_path):
    with child(tmp_path, "die in finish") as process:
        go_on(process)
        assert process.wait(10) == -signal.SIGKILL
    store = Store.open(tmp_path)
    assert (store.partial("train", "k") / MANIFEST).exists()  # the kill came at the moment meant
    assert not store.has("train", "k")
    with store.claim("train", "k") as folder:
        (folder / "more.txt").write_text("more")
        store.finish("train", "k", {}, {})
    assert sorted(store.manifest("train", "k")["files"]) == ["half.txt", "more.txt"]
    store.verify("train", "k")


def test_kill_9_just_before_the_rename_leaves_no_key(tmp_path):
    with child(tmp_path, "die in finish") as process:
        go_on(process)
        process.wait(10)
    assert Store.open(tmp_path).keys("train") == []


def test_a_directory_that_is_there_is_whole(store):
    """Somebody who looks all the time never sees a final folder without its manifest and files."""
    script = (
        "import sys; from pathlib import Path; from em.store.store import Store\n"
        "store = Store.open(Path(sys.argv[1]))\n"
        "for i in range(150):\n"
        "    with store.claim('data', str(i)) as folder:\n"
        "        (folder / 'x').write_text('x' * 1000)\n"
        "        store.finish('data', str(i), {}, {})\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script, str(store.root.parent)])
    seen = 0
    while seen < 150 and process.poll() in (None, 0):
        path = store.path("data", str(seen))
        if path.exists():
            assert sorted(os.listdir(path)) == [MANIFEST, "x"]
            assert json.loads((path / MANIFEST).read_text())["files"]["x"]["bytes"] == 1000
            seen += 1
    assert process.wait(20) == 0
    assert seen == 150


def test_processes_that_want_the_same_stage_do_it_once(tmp_path):
    Store.open(tmp_path)
    processes = [child(tmp_path, "work") for _ in range(3)]
    for process in processes:
        go_on(process)
    said = sorted(process.communicate(timeout=30)[0] for process in processes)
    assert said == ["did\n", "reused\n", "reused\n"]
    assert (tmp_path / "log").read_text() == "did\n"
    store = Store.open(tmp_path)
    store.verify("train", "k")


def test_a_waiting_process_takes_over_from_a_killed_one(tmp_path):
    first, second = child(tmp_path, "hang"), child(tmp_path, "work")
    go_on(first)
    assert first.stdout.readline() == "did\n"
    go_on(second)
    time.sleep(0.2)
    assert second.poll() is None
    first.kill()
    assert second.communicate(timeout=30)[0] == "did\n"
    first.communicate()
    assert Store.open(tmp_path).has("train", "k")


def test_write_atomic_replaces_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "file"
    write_atomic(path, "one")
    write_atomic(path, "twö")
    assert path.read_text(encoding="utf-8") == "twö"
    assert os.listdir(tmp_path) == ["file"]


# ------------------------------------------------------------------------------------------------ keys and disk


def test_content_key_is_what_it_has_always_been():
    """A change here makes every finished stage of every user's store unfindable."""
    assert content_key() == "44136fa355b3678a1146"
    assert content_key(b=["ü", None, 1.5], a={"y": True, "x": 1e-5}) == "683233d7409792fcc23a"


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=4), st.randoms())
def test_content_key_does_not_depend_on_order(inputs, random):
    items = list(inputs.items())
    random.shuffle(items)
    assert content_key(**dict(items)) == content_key(**inputs)
    assert content_key(nested=dict(items)) == content_key(nested=inputs)


@given(st.dictionaries(NAMES, JSON_VALUES, max_size=4), st.dictionaries(NAMES, JSON_VALUES, max_size=4))
def test_content_key_differs_when_the_json_differs(one, other):
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (content_key(**one) == content_key(**other)) == same
    assert len(content_key(**one)) == 20


def test_require_space_says_where_and_what_for(tmp_path):
    below = tmp_path / "not" / "yet" / "there"
    require_space(below, 1, "a row")
    with pytest.raises(StoreError) as caught:
        require_space(below, shutil.disk_usage(tmp_path).total + 10**9, "3 training runs")
    for words in (str(tmp_path), "3 training runs", "GB free", "change out="):
        assert words in str(caught.value)
    assert not below.exists()


def test_is_disk_full():
    assert is_disk_full(OSError(errno.ENOSPC, "full"))
    assert is_disk_full(OSError(errno.EDQUOT, "quota"))
    assert not is_disk_full(OSError(errno.EACCES, "no"))


def test_a_file_that_is_no_part_of_a_stage_is_there_until_it_is_sealed(tmp_path, monkeypatch):
    """Without it nobody could say which of the rows are whole, if the manifest finds no room."""
    store = Store.open(tmp_path)
    with store.claim("sample", "k") as work:
        (work / "rows").write_text("x")
        (work / "sums").write_text("y")
        with monkeypatch.context() as patch:
            patch.setattr("em.store.store.write_atomic", _full)
            with pytest.raises(OSError, match="No space"):
                store.finish("sample", "k", {}, {}, until_sealed=work / "sums")
        assert (work / "sums").exists()
        folder = store.finish("sample", "k", {}, {}, until_sealed=work / "sums")
    assert list(store.manifest("sample", "k")["files"]) == ["rows"] and not (folder / "sums").exists()


def _full(path, text):
    raise OSError(28, "No space left on device")
