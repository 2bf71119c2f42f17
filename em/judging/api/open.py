"""judging.api.open."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from em.config import JudgeConfig, JudgeKind
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient

POLL_S = 0.1
CACHE = "judge_cache.sqlite"


@contextlib.contextmanager
def judge_client(config: JudgeConfig, cache: Path, say: Callable[[str], None] = lambda _: None) -> Iterator[Any]:
    """The configured judge with its cache; a scripted one with its server. `say`: told what a batch waits for."""
    from em.judging.scripted.server import ScriptedJudge

    server = ScriptedJudge.from_file(Path(config.script or "")) if config.kind == JudgeKind.scripted else None
    with server or contextlib.nullcontext(), contextlib.closing(JudgeCache(cache)) as opened:
        if server:
            config = server.served(config)
        if not config.batch:
            yield JudgeClient(config, opened)
            return
        from em.judging.api.batch import POLL_S as BATCH_POLL_S
        from em.judging.api.batch import BatchClient

        if not server:
            yield BatchClient(config, opened, cache.with_name("judge_batches"), BATCH_POLL_S, say)
            return
        with tempfile.TemporaryDirectory() as folder:  # its batches are gone with the server
            yield BatchClient(config, opened, Path(folder), POLL_S, say)
