"""Chromium that cannot hold a test up: it is killed after ``PATIENCE`` seconds, and another one does the next page."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import psutil
from playwright.sync_api import Browser, BrowserContext, expect, sync_playwright

EXECUTABLE = "/usr/bin/chromium"
FLAGS = ("--no-sandbox", "--headless=new", "--disable-gpu", "--disable-quic", "--disable-sync")
PATIENCE = 90.0
CALL_MS = 30_000


class Chromium:
    """`with Chromium() as chromium, chromium.bounded(): chromium.context()`.

    Some of Playwright's calls wait for ever for a browser that no longer answers (``evaluate``, every ``close``).
    They raise ``TargetClosedError`` as soon as its processes are gone.
    """

    def __enter__(self) -> Self:
        expect.set_options(timeout=CALL_MS)
        self._manager = sync_playwright()
        self._playwright = self._manager.__enter__()
        self._browser: Browser | None = None
        return self

    def __exit__(self, *failure: object) -> None:
        with self.bounded():
            if self._browser is not None:
                self._browser.close()
            self._manager.__exit__(*failure)

    def context(self, **options: Any) -> BrowserContext:
        """A fresh profile, whose calls wait at most ``CALL_MS``; in another browser when the last one is gone."""
        if self._browser is None or not self._browser.is_connected():
            self._browser = self._playwright.chromium.launch(executable_path=EXECUTABLE, args=FLAGS, timeout=CALL_MS)
        context = self._browser.new_context(**options)
        context.set_default_timeout(CALL_MS)
        return context

    @contextmanager
    def bounded(self, seconds: float = PATIENCE) -> Iterator[None]:
        """Kill the browser when the block takes longer."""
        timer = threading.Timer(seconds, _kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _kill() -> None:
    """Every Chromium among this process's descendants."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if EXECUTABLE.rsplit("/", 1)[1] in process.name() or "--type=" in " ".join(process.cmdline()):
                process.kill()
