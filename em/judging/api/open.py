"""Open the judge in the config with its cache (`judge_client`)."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from em.config import JudgeConfig, JudgeKind
from em.config.panel import members
from em.judging.api.cache import JudgeCache
from em.judging.api.client import JudgeClient
from em.judging.api.panel import Member, PanelClient

if TYPE_CHECKING:
    from em.judging.api.batch import BatchClient

POLL_S = 0.1
"""Seconds between two looks at files that grow, and between two questions to a scripted judge about a batch."""
CACHE = "judge_cache.sqlite"


@contextlib.contextmanager
def judge_client(
    config: JudgeConfig, cache: Path, on_wait: Callable[[str], None] = lambda _: None
) -> Iterator[JudgeClient | BatchClient | PanelClient]:
    """Yield the client of the judge in the config. A scripted judge's server runs meanwhile.

    `cache`: path of the cache file. `on_wait`: called with a message whenever a batch begins to wait for something
    else. Raises ApiError, JudgeCacheError or ScriptedJudgeError if the judge cannot be used.
    """
    from em.judging.scripted.server import ScriptedJudge

    if config.kind == JudgeKind.panel:
        with contextlib.ExitStack() as stack:
            asked: dict[str, Member] = {
                name: stack.enter_context(judge_client(one, cache, on_wait)) for name, one in members(config).items()
            }
            yield PanelClient(asked)
        return
    server = ScriptedJudge.from_file(Path(config.script or "")) if config.kind == JudgeKind.scripted else None
    with server or contextlib.nullcontext(), contextlib.closing(JudgeCache(cache)) as opened:
        if server:
            config = server.served(config)
        if config.kind == JudgeKind.inspect:
            from em.judging.api.inspect_judge import InspectClient

            yield InspectClient(config, opened)
            return
        if not config.batch:
            yield JudgeClient(config, opened)
            return
        from em.judging.api.batch import POLL_S as BATCH_POLL_S
        from em.judging.api.batch import BatchClient

        if not server:
            yield BatchClient(config, opened, cache.with_name("judge_batches"), BATCH_POLL_S, on_wait)
            return
        with tempfile.TemporaryDirectory() as folder:  # its batches are gone with the server
            yield BatchClient(config, opened, Path(folder), POLL_S, on_wait)
