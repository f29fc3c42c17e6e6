"""The local models that the parts serve: fetched and quantised where they are missing, without holding up the loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.supervisor.children import Say, Unavailable

PULL_SAID_SECONDS = 0.2

Settle = Callable[[Path | None, str], None]


def sampling(name: str) -> str:
    """The catalogue's sampling defaults of a model, as JSON."""
    import msgspec

    from local_models import catalog

    return msgspec.json.encode(catalog.entry(name).sampling).decode()


def draft(name: str, models_dir: Path) -> tuple[str, ...]:
    """Options for the model that drafts for this one, where the catalogue names one and it has been pulled."""
    from local_models import catalog, fetch

    small = catalog.entry(name).draft
    path = fetch.ready_path(small, models_dir) if small else None
    return ("--draft", str(path)) if path and path.exists() else ()


async def ensured(name: str, models_dir: Path, say: Say) -> Path:
    """The model's file, fetched and quantised first where it is missing.

    Raises:
        Unavailable: it is not here and cannot be had now.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Path] = loop.create_future()
    progress = _Progress(loop, say)
    work = partial(_ensure, name, models_dir, progress, _settle(loop, done))
    # A daemon thread, not an executor: a stalled download must not hold up Ctrl-C.
    threading.Thread(target=work, name=f"fetch-{name}", daemon=True).start()
    try:
        return await done
    finally:
        progress.cancelled = True


def _settle(loop: asyncio.AbstractEventLoop, done: asyncio.Future[Path]) -> Settle:
    def on_loop(path: Path | None, reason: str) -> None:
        if done.done():
            return
        if path is not None:
            done.set_result(path)
        else:
            done.set_exception(Unavailable(reason))

    def settle(path: Path | None, reason: str) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(on_loop, path, reason)

    return settle


def _ensure(name: str, models_dir: Path, progress: _Progress, settle: Settle) -> None:
    from local_models import catalog, fetch

    try:
        path = fetch.ready_path(name, models_dir)
        if not path.exists() and catalog.entry(name).source.startswith("hf:"):
            settle(None, f"not on this machine yet: gateway models pull {name}")
            return
        settle(fetch.ensure(name, models_dir, progress), "")
    except _Cancelled:
        return
    except Exception as error:  # the thread's edge: whatever a download can raise becomes a reason on the screen
        settle(None, str(error) or type(error).__name__)


class _Cancelled(Exception):
    """The gateway is stopping; a download broken off here is resumed next time."""


class _Progress:
    """local_models' progress, passed on to the loop a few times a second."""

    def __init__(self, loop: asyncio.AbstractEventLoop, say: Say) -> None:
        self._loop, self._say, self._said = loop, say, 0.0
        self.cancelled = False

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        if self.cancelled:
            raise _Cancelled
        if time.monotonic() - self._said < PULL_SAID_SECONDS:
            return
        self._said = time.monotonic()
        share = f" {100 * done // total} %" if total else ""
        self._loop.call_soon_threadsafe(self._say, "fetching", f"{stage}{share}")
