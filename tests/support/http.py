"""A loopback HTTP server in a thread of its own: subclasses give its routes and keep its state."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

from aiohttp import web


class LoopbackServer:
    """`with Server() as server:` serves on a free port of 127.0.0.1; `server.address` is http://127.0.0.1:PORT."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def routes(self) -> Iterable[web.AbstractRouteDef]:
        raise AssertionError("a subclass gives the routes")

    def __enter__(self):
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(client_max_size=1 << 30)
        app.add_routes(list(self.routes()))
        runner = web.AppRunner(app)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        self.address = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
