"""The verdicts that were paid for, in one SQLite file (`JudgeCache`). `repair` saves the rows of a damaged file.

The key is the sha256 of the judge's identity and the prompt (the filled-in rubric). The file must be on a local disk,
because SQLite's write-ahead log needs shared memory between processes.
"""

from __future__ import annotations

import hashlib
import json
import math
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from itertools import count
from json.encoder import encode_basestring_ascii
from pathlib import Path
from types import TracebackType

from filelock import FileLock

from em.judging import json_codec
from em.judging.identity import Identity
from em.judging.read_score import probabilities
from em.judging.verdict import Verdict
from em.records import Outcome

FORMAT = 1
APPLICATION_ID = 0x656D6A63  # "emjc" distinguishes a judge cache from other SQLite files
BUSY_TIMEOUT_S = 60.0


class JudgeCacheError(RuntimeError):
    """The cache file cannot be used. The message names the file and says what to do."""


class DamagedCacheError(JudgeCacheError):
    """The file does not contain what was written."""


def cache_key(identity: Identity, prompt: str) -> str:
    """Return the sha256 of the judge's identity and the filled-in prompt as canonical JSON, in 64 hex digits."""
    return prompt_key(canonical(identity), prompt)


def canonical(identity: Identity) -> str:
    """Return a judge's identity as canonical JSON, for `prompt_key`. Compute it once for all prompts."""
    return json.dumps(identity, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def prompt_key(identity: str, prompt: str) -> str:
    """Return `cache_key` of an identity as `canonical` writes it."""
    return hashlib.sha256(f"[{identity},{encode_basestring_ascii(prompt)}]".encode()).hexdigest()


class JudgeCache:
    """One connection to a cache file, which is created if absent. Use it in the thread that opened it, and close it.

    Raises JudgeCacheError for a damaged or foreign file, a newer format, a full disk, or a lock held for a minute.
    """

    # Verdicts wait in memory and are written in one short transaction, so that processes never wait long for each
    # other. A kill loses at most the verdicts since the last `flush`.

    def __init__(self, path: Path, flush_rows: int = 256, flush_s: float = 2.0) -> None:
        """`put` writes to the file at `flush_rows` waiting rows, or `flush_s` seconds after the last write."""
        self.path = Path(path)
        self.flush_s = flush_s
        self._flush_rows = flush_rows
        self._waiting: dict[str, str] = {}
        self._written_at = time.monotonic()
        with self._named_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)
            self._db.text_factory = _decode
        try:
            with self._named_errors():
                self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        self._use_wal()
        self._db.execute("PRAGMA synchronous = NORMAL")
        with self._transaction():
            (tables,) = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if tables == 0:
                self._db.execute("CREATE TABLE verdicts (key BLOB PRIMARY KEY, crc INTEGER, json TEXT)")
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {FORMAT}")
                return
            (application,) = self._db.execute("PRAGMA application_id").fetchone()
            (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if application != APPLICATION_ID:
            raise JudgeCacheError(f"{self.path} is not a judge cache of em: move it away or use another out=")
        if version != FORMAT:
            raise JudgeCacheError(
                f"{self.path} has cache format {version}, this version of em knows {FORMAT}: "
                f"use the em that wrote it, or another out="
            )

    def _use_wal(self) -> None:
        """Switch to the write-ahead log. SQLite does not wait for the lock here, so this method does."""
        deadline = time.monotonic() + BUSY_TIMEOUT_S
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if not _is_busy(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def get(self, key: str) -> Verdict | None:
        """Return the verdict under `key`, or None. Raises DamagedCacheError if the row does not match its checksum."""
        text = self._waiting.get(key)
        if text is None:
            with self._named_errors():
                if not self._db.in_transaction:  # one snapshot until the next flush: no lock is taken for each row
                    self._db.execute("BEGIN")
                row = self._db.execute("SELECT crc, json FROM verdicts WHERE key = ?", (bytes.fromhex(key),)).fetchone()
            if row is None:
                return None
            crc, text = row
            if not isinstance(text, str) or crc != _crc(text):
                raise self._damaged("a row does not match its checksum")
        try:
            return _from_json(text)
        except (ValueError, TypeError, KeyError) as error:
            raise self._damaged(f"a row is not a verdict: {error}") from error

    def put(self, key: str, verdict: Verdict) -> None:
        """Store a verdict. A key that exists keeps its first verdict. Raises ValueError for an error."""
        if verdict.outcome == Outcome.error:
            raise ValueError("a failed call is not a verdict: it is asked again, never cached")
        self._waiting.setdefault(key, _to_json(verdict))
        if len(self._waiting) >= self._flush_rows or time.monotonic() - self._written_at >= self.flush_s:
            self.flush()

    def forget(self, key: str) -> None:
        """Delete the verdict under `key`, if there is one."""
        self._waiting.pop(key, None)
        with self._named_errors():
            if self._db.in_transaction:
                self._db.execute("COMMIT")
            self._db.execute("DELETE FROM verdicts WHERE key = ?", (bytes.fromhex(key),))

    def flush(self) -> None:
        """Write the waiting verdicts. From then on, `get` also sees the verdicts that other processes wrote before.

        A kill after this loses nothing. A power cut may (SQLite's synchronous is NORMAL).
        """
        if self._db.in_transaction:
            with self._named_errors():
                self._db.execute("COMMIT")
        if self._waiting:
            rows = [(bytes.fromhex(key), _crc(text), text) for key, text in self._waiting.items()]
            with self._named_errors(), self._transaction():
                self._db.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", rows)
            self._waiting.clear()
        self._written_at = time.monotonic()

    def close(self) -> None:
        """Flush and close the file. It is closed even if the flush fails."""
        try:
            self.flush()
        finally:
            self._db.close()

    def __enter__(self) -> JudgeCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn errors of SQLite and of the system into a JudgeCacheError that names the file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if _is_busy(error):
                raise JudgeCacheError(
                    f"{self.path} stayed locked by another process for {BUSY_TIMEOUT_S:.0f} s: wait for it or stop it"
                ) from error
            raise JudgeCacheError(f"cannot use {self.path} ({error}): check the disk, or use another out=") from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(str(error)) from error
        except OSError as error:
            raise JudgeCacheError(f"cannot use {self.path} ({error.strerror}): use another out=") from error

    def check(self) -> None:
        """Read the whole file. Raises DamagedCacheError if the index, a page or a row is damaged."""
        with self._named_errors():
            (finding,) = self._db.execute("PRAGMA integrity_check(1)").fetchone()
            if finding != "ok":
                raise self._damaged(" ".join(finding.split()))
            for _, crc, text in self._db.execute("SELECT key, crc, json FROM verdicts"):
                if not isinstance(text, str) or crc != _crc(text):
                    raise self._damaged("a row does not match its checksum")

    def _damaged(self, what: str) -> DamagedCacheError:
        return DamagedCacheError(f"{self.path} is damaged ({what}): restore it, or delete it to ask the judge again")


def repair(path: Path, warn: Callable[[str], None]) -> None:
    """Check the file before a run. Move a damaged one aside, and write its undamaged verdicts to a new file.

    `warn`: called with a message that says what was wrong, where the old file is, and how many verdicts were kept.
    """
    with FileLock(f"{path}.lock"):
        if not path.exists():
            return
        try:
            with JudgeCache(path) as cache:
                cache.check()
            return
        except DamagedCacheError as error:
            problem = str(error).partition(": restore it")[0]
        aside = next(p for n in count(1) if not (p := path.with_name(f"{path.name}.damaged-{n}")).exists())
        for tail in ("", "-wal", "-shm"):
            with suppress(FileNotFoundError):
                Path(f"{path}{tail}").rename(f"{aside}{tail}")
        kept = _salvage(aside, path)
    warn(f"{problem}; moved to {aside.name}, {kept} whole verdicts kept, the others are asked again")


def _salvage(damaged: Path, path: Path) -> int:
    """Copy the rows that match their checksum, as far as SQLite can read them. Return how many."""
    whole: list[tuple[bytes, int, str]] = []
    with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(damaged)) as db:  # what it cannot read is lost
        db.text_factory = _decode
        for key, crc, text in db.execute("SELECT key, crc, json FROM verdicts NOT INDEXED"):
            if isinstance(key, bytes) and len(key) == 32 and isinstance(text, str) and crc == _crc(text):
                whole.append((key, crc, text))
    with JudgeCache(path) as cache, cache._transaction():
        cache._db.executemany("INSERT OR IGNORE INTO verdicts VALUES (?, ?, ?)", whole)
    return len(whole)


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _decode(raw: bytes) -> str:
    """Decode damaged text too, with marks in it, so that the checksum finds the damage and not the decoder."""
    return raw.decode(errors="replace")


def _crc(text: str) -> int:
    return zlib.crc32(text.encode())


def _to_json(verdict: Verdict) -> str:
    """Write a verdict as JSON, without a derived distribution: half the size."""
    row = dict(vars(verdict))
    if row.pop("derived"):
        del row["distribution"]
    if any(math.isinf(logprob) for _, logprob in verdict.top_logprobs):
        return json.dumps(row, separators=(",", ":"))
    return json_codec.dumps(row).decode()


def _from_json(text: str) -> Verdict:
    row = json_codec.loads(text)
    row["outcome"] = Outcome(row["outcome"])
    row["top_logprobs"] = [(token, logprob) for token, logprob in row["top_logprobs"]]
    derived = "distribution" not in row
    if derived:
        row["distribution"] = probabilities(row["top_logprobs"])[1]
    return Verdict(**row, derived=derived)
