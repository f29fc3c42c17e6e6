"""A new view from the files on disk: parse → build → dry-run the cases → swap in one assignment → drain the old.

What is wrong changes nothing: the old view stays, and the error is logged and shown until a reload succeeds.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import log
from gateway.backends.fleet import Fleet
from gateway.config import Settings, load
from gateway.errors import ConfigError
from gateway.pipeline import View
from gateway.policy.cases import run_cases
from gateway.policy.loader import load_policies
from gateway.policy.scorer import RuleScorer
from gateway.pricing import PriceBook

if TYPE_CHECKING:
    from gateway.metrics import Metrics
    from gateway.runtime import Runtime

_POLL_S = 1.0
_DRAIN_S = 600.0
_log = log.get(__name__)


def build_view(settings: Settings, metrics: Metrics, previous: View | None = None) -> View:
    """Everything a request needs of a configuration; connects to nothing.

    Raises:
        ConfigError: with file, line, path and reason; also where a policy case fails.
    """
    prices = PriceBook.load(settings.config.models)
    policies = load_policies(
        settings, settings.config.models, prices=prices, on_error=lambda rule, _: metrics.cel_error(rule)
    )
    for result in run_cases(settings.policies_dir / "cases", policies):
        if not result.passed:
            raise ConfigError(f"case '{result.name}' fails: {result.reason}", file=str(result.file), line=result.line)
    rules = {rule.name for name in policies.names if (policy := policies.get(name)) for rule in policy.rules}
    metrics.configured([model.name for model in settings.config.models], rules)
    embedder = settings.config.embedder
    return View(
        settings=settings,
        policies=policies,
        prices=prices,
        fleet=Fleet.build(settings, previous.fleet if previous else None),
        scorer=RuleScorer(),
        embedder_id=f"{embedder.url or 'local'} {embedder.model}",
        embedder_local=embedder.url is None,
        loaded_ms=int(time.time() * 1000),
    )


class Reloader:
    """Reloads a worker: when told to, and when a file has changed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.error: ConfigError | None = None
        self._seen = self._stamp()
        self._lock = asyncio.Lock()
        self._drains: set[asyncio.Task[None]] = set()

    async def reload(self) -> None:
        """Swap in what the files say now.

        Raises:
            ConfigError: they are wrong; nothing has changed.
        """
        async with self._lock:
            old = self._runtime.view
            self._seen = self._stamp()
            try:
                view = await asyncio.to_thread(self._build, old)
            except ConfigError as error:
                self.error = error
                self._runtime.metrics.config_rejected()
                _log.error("reload refused, the old configuration stays", reason=str(error))
                raise
            self.error = None
            self._runtime.view = view
            view.fleet.resume()
            _log.info("reloaded", policies=[policy.label for policy in view.policies.policies.values()])
            drain = asyncio.create_task(old.fleet.close(_DRAIN_S))
            self._drains.add(drain)
            drain.add_done_callback(self._drains.discard)

    async def everywhere(self) -> None:
        """Reload here, then tell the other workers to.

        Raises:
            ConfigError: the files are wrong; nothing has changed.
            redis.RedisError, OSError: the others could not be told.
        """
        await self.reload()
        await self._runtime.redis.xadd(self._runtime.keys.events, {"reload": self._runtime.worker})

    def _build(self, old: View) -> View:
        settings = load(old.settings.file or None)
        new, now = settings.config, old.settings.config
        fixed = settings.data_dir == old.settings.data_dir and new.redis == now.redis and new.embedder == now.embedder
        if not fixed:
            reason = "data_dir, redis.url and embedder take effect at a restart, not at a reload"
            raise ConfigError(reason, file=settings.file)
        return build_view(settings, self._runtime.metrics, old)

    async def watch(self) -> None:
        """Reload when gateway.yaml or a policy file changes. Runs until cancelled."""
        while True:
            await asyncio.sleep(_POLL_S)
            if await asyncio.to_thread(self._stamp) != self._seen:
                await self.try_reload()

    async def try_reload(self) -> None:
        """Reload; what is wrong is already logged and kept in ``error``."""
        try:
            await self.reload()
        except ConfigError:
            return

    def _stamp(self) -> frozenset[tuple[str, int, int]]:
        settings = self._runtime.view.settings
        files = [*settings.policies_dir.glob("*.yaml"), *settings.policies_dir.glob("cases/*.yaml")]
        if settings.file:
            files.append(Path(settings.file))
        return frozenset(_file_stamp(path) for path in files)


def _file_stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return str(path), 0, 0
    return str(path), found.st_mtime_ns, found.st_size
