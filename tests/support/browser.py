"""A page in headless Chromium, driven over the DevTools protocol; tests skip where Chromium is not installed."""

import asyncio
import atexit
import base64
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import aiohttp
import pytest

from em.runtime.process import die_with_parent

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
    "--remote-allow-origins=*",
)


class Page:
    """One tab. `problems`: console errors and uncaught exceptions; `requests`: every URL asked for."""

    def __init__(self, socket):
        self.socket, self.number = socket, 0
        self.problems, self.requests, self.waiting = [], [], {}
        self.traced, self.trace_ended = [], asyncio.Event()
        self.reader = asyncio.create_task(self._read())

    async def _read(self):
        async for message in self.socket:
            data = message.json()
            if "id" in data:
                self.waiting.pop(data["id"]).set_result(data)
            elif data["method"] == "Runtime.exceptionThrown":
                self.problems.append(data["params"]["exceptionDetails"])
            elif data["method"] == "Runtime.consoleAPICalled" and data["params"]["type"] in ("error", "assert"):
                self.problems.append(data["params"]["args"])
            elif data["method"] == "Log.entryAdded" and data["params"]["entry"]["level"] == "error":
                self.problems.append(data["params"]["entry"])
            elif data["method"] == "Network.requestWillBeSent":
                self.requests.append(data["params"]["request"]["url"])
            elif data["method"] == "Tracing.dataCollected":
                self.traced += data["params"]["value"]
            elif data["method"] == "Tracing.tracingComplete":
                self.trace_ended.set()

    async def call(self, method, **params):
        self.number += 1
        done = self.waiting[self.number] = asyncio.get_running_loop().create_future()
        await self.socket.send_json({"id": self.number, "method": method, "params": params})
        answer = await asyncio.wait_for(done, 120)
        assert "error" not in answer, (method, answer)
        return answer["result"]

    async def js(self, expression):
        """The value of an expression; promises are awaited."""
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, expression, seconds=60):
        for _ in range(int(seconds * 20)):
            if await self.js(expression):
                return
            await asyncio.sleep(0.05)
        raise AssertionError(f"never true: {expression}; problems: {self.problems}")

    async def open(self, path, width=1280, height=1000):
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        await self.call("Page.navigate", url=Path(path).resolve().as_uri())
        await self.until("document.documentElement?.dataset.ready === 'yes'")

    async def key(self, key):
        for kind in ("keyDown", "keyUp"):
            await self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key)

    async def tasks(self, work):
        """Await `work` and return the page's tasks meanwhile: (wall ms, processor ms), the longest first."""
        await self.call("Tracing.start", transferMode="ReportEvents", categories="toplevel,__metadata")
        await work
        await self.call("Tracing.end")
        await asyncio.wait_for(self.trace_ended.wait(), 60)
        names = [e for e in self.traced if e.get("name") == "thread_name" and e["args"]["name"] == "CrRendererMain"]
        main = {(e["pid"], e["tid"]) for e in names}
        tasks = [e for e in self.traced if e["cat"] == "toplevel" and (e["pid"], e["tid"]) in main and "tdur" in e]
        return sorted(((e["dur"] / 1000, e["tdur"] / 1000) for e in tasks), reverse=True)

    async def screenshot(self, out, whole=True):
        found = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(out).write_bytes(base64.b64decode(found["data"]))


@contextlib.asynccontextmanager
async def browser():
    """A fresh browser and its first tab, as a Page."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = _start(profile)
        try:
            port = await _port(Path(profile) / "DevToolsActivePort", process)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{port}/json/list") as response:
                    targets = await response.json()
                url = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
                async with _page(session, url) as page:
                    yield page
        finally:
            _end(process)


@contextlib.asynccontextmanager
async def tab():
    """A new tab, as a Page, of the browser that all tests of this process share; it ends with the process."""
    async with aiohttp.ClientSession() as session:
        address = f"http://127.0.0.1:{await _port(*_shared())}/json"
        async with session.put(f"{address}/new?about:blank") as response:
            target = await response.json()
        try:
            async with _page(session, target["webSocketDebuggerUrl"]) as page:
                await page.call("Page.bringToFront")
                yield page
        finally:
            await session.get(f"{address}/close/{target['id']}")


@cache
def _shared():
    """Start a browser; returns the file that will hold its port, and its process."""
    profile = tempfile.mkdtemp()
    process = _start(profile)
    atexit.register(shutil.rmtree, profile, ignore_errors=True)
    atexit.register(_end, process)
    return Path(profile) / "DevToolsActivePort", process


@contextlib.asynccontextmanager
async def _page(session, url):
    async with session.ws_connect(url, max_msg_size=0) as socket:
        page = Page(socket)
        yield page
        page.reader.cancel()


def _start(profile):
    binary = shutil.which("chromium")
    if binary is None:
        pytest.skip("chromium is not installed (apt-get install chromium): the page was not rendered")
    return subprocess.Popen(
        [binary, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=die_with_parent,
    )


def _end(process):
    os.killpg(process.pid, signal.SIGKILL)  # its children too: they write into the profile
    process.wait(20)


async def _port(path, process):
    for _ in range(600):
        if path.exists() and (lines := path.read_text().split()):
            return int(lines[0])
        assert process.poll() is None, "chromium ended"
        await asyncio.sleep(0.05)
    raise AssertionError("chromium did not open its debugging port in 30 s")


def visit(path, what, **size):
    """Open a file and run `await what(page)`; returns what it returns. No problem and no request may be left."""

    async def run():
        async with tab() as page:
            await page.open(path, **size)
            found = await what(page)
            others = [u for u in page.requests if not u.startswith(Path(path).resolve().as_uri())]
            assert not page.problems, str(page.problems)[:800]
            assert not others, others
            return found

    return asyncio.run(run())
