"""A new view from the files on disk: parse → build → dry-run the cases → swap in one assignment → drain the old.

What is wrong changes nothing: the old view stays, and the error is logged and shown until a reload succeeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from gateway import log
from gateway.backends.fleet import Fleet
from gateway.backends.operations import Operations
from gateway.cache import recalibrated
from gateway.config import Settings, load
from gateway.errors import ConfigError
from gateway.policy.cases import run_cases
from gateway.policy.competence import PROBED_WITH, Competence
from gateway.policy.history import History, read_bytes, read_files, write_files
from gateway.policy.loader import PolicySet, compile_documents, load_policies
from gateway.policy.profile import SUFFIX
from gateway.policy.profiled import ProfiledScorer
from gateway.policy.scorer import RuleScorer
from gateway.policy.taught import serving
from gateway.pricing import PriceBook
from gateway.pricing.helpers import embedder_model, hosted_helpers
from gateway.sealing import seal_of
from gateway.view import View
from gateway.yamlfile import Document

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

    from gateway.cache.verifier import Verifier
    from gateway.metrics import Metrics
    from gateway.policy.compile import CompiledPolicy
    from gateway.protocols import Scorer
    from gateway.runtime import Runtime

_POLL_S = 1.0
_DRAIN_S = 600.0
_log = log.get(__name__)


def build_view(settings: Settings, metrics: Metrics, previous: View | None = None) -> View:
    """Everything a request needs of a configuration; connects to nothing.

    Raises:
        ConfigError: with file, line, path and reason; also where a policy case fails.
    """
    models = [*settings.config.models, *filter(None, [embedder_model(settings.config)])]
    prices = PriceBook.load(models, helpers=hosted_helpers(settings.config))
    policies = load_policies(
        settings, settings.config.models, prices=prices, on_error=lambda rule, _: metrics.cel_error(rule)
    )
    _pass_cases(settings, policies)
    rules = {rule.name for name in policies.names if (policy := policies.get(name)) for rule in policy.rules}
    metrics.configured([model.name for model in models], rules)
    embedder, competences = settings.config.embedder, _competences(settings)
    return View(
        settings=settings,
        policies=policies,
        prices=prices,
        fleet=Fleet.build(settings, previous.fleet if previous else None),
        operations=Operations.build(settings, prices, previous.operations if previous else None),
        scorer=serving(_scorer(settings, competences), settings.router_artefact),
        competences=competences,
        embedder_id=f"{embedder.url or 'local'} {embedder.model}",
        embedder_local=embedder.url is None,
        verifier=build_verifier(settings),
        seal=seal_of(settings),
        loaded_ms=int(time.time() * 1000),
    )


def build_verifier(settings: Settings) -> Verifier | None:
    """The one that gateway.yaml names; None: the shipped one. Raises ConfigError."""
    if settings.verifier is None:
        return None
    try:
        return recalibrated.read(settings.verifier)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cache.verifier: {settings.verifier}: {error}", file=settings.file) from None


def _pass_cases(settings: Settings, policies: PolicySet) -> None:
    for result in run_cases(settings.policies_dir / "cases", policies):
        if not result.passed:
            raise ConfigError(f"case '{result.name}' fails: {result.reason}", file=str(result.file), line=result.line)


def _competences(settings: Settings) -> dict[str, Competence]:
    """Of the local models served here that have a profile; of none where another embedder's vectors come along."""
    embedder = settings.config.embedder
    if embedder.enabled and embedder.model != PROBED_WITH:
        return {}
    served = {model.name: model.local for model in settings.config.models if model.local and not model.url}
    found = {name: Competence.of_model(settings.models_dir, local) for name, local in served.items()}
    return {name: competence for name, competence in found.items() if competence is not None}


def _scorer(settings: Settings, competences: Mapping[str, Competence]) -> Scorer:
    """By the profile of the first local model served here; by rules where it has none, or nothing compares with it."""
    served = (model.name for model in settings.config.models if model.local and not model.url)
    competence = competences.get(next(served, ""))
    return ProfiledScorer(competence) if competence and settings.config.embedder.enabled else RuleScorer()


class Reloader:
    """Reloads a worker: when told to, and when a file has changed."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.error: ConfigError | None = None
        self.history = History(runtime.view.settings.data_dir / "policies-history")
        # A model may have come while the view was built without it: then the first look finds something new.
        self._seen = self._stamp(runtime.view.competences)
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
            self._runtime.semantic.judges.verifier = view.verifier
            self._runtime.books.seal = view.seal
            self._runtime.pipeline.trials.show(view.policies)
            await asyncio.to_thread(self.record)
            view.fleet.resume()
            view.operations.resume()
            _log.info("reloaded", policies=[policy.label for policy in view.policies.policies.values()])
            self._retire(old)

    def _retire(self, old: View) -> None:
        """Close the fleet of a view once nobody has it any more: a request that is being admitted calls nobody yet."""
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        watch = weakref.ref(old, lambda _: loop.call_soon_threadsafe(gone.set))
        drain = asyncio.create_task(_drained((old.fleet, old.operations), gone, watch))
        self._drains.add(drain)
        drain.add_done_callback(self._drains.discard)

    def record(self) -> None:
        """Put what is in force into the history; a data folder that cannot be written costs only that."""
        view = self._runtime.view
        labels = tuple(policy.label for policy in view.policies.policies.values())
        try:
            self.history.record(read_files(view.settings.policies_dir), labels)
        except (OSError, UnicodeDecodeError) as error:
            _log.warning("the history of policies was not written", reason=str(error))

    async def roll_back(self, version_id: str) -> None:
        """Put the files of an earlier version back and reload everywhere. Where that fails, the files stay.

        Raises:
            NotFound: there is no such version.
            ConfigError: it no longer fits gateway.yaml, or the folder cannot be written.
            redis.RedisError, OSError: the other workers could not be told.
        """
        folder = self._runtime.view.settings.policies_dir
        version = await asyncio.to_thread(self.history.get, version_id)
        try:
            now = await asyncio.to_thread(read_bytes, folder)
            await asyncio.to_thread(write_files, folder, version.files)
        except OSError as error:
            raise ConfigError(f"the policies cannot be replaced: {error}", file=str(folder)) from None
        try:
            await self.everywhere()
        except ConfigError:
            await asyncio.to_thread(write_files, folder, now)
            raise

    async def everywhere(self) -> None:
        """Reload here, then tell the other workers to.

        Raises:
            ConfigError: the files are wrong; nothing has changed.
            redis.RedisError, OSError: the others could not be told.
        """
        await self.reload()
        await self._runtime.redis.xadd(self._runtime.keys.events, {"reload": self._runtime.worker})

    def try_out(self, text: str) -> CompiledPolicy:
        """The policy in ``text``, compiled against what is configured and tried on the cases of its name.

        Raises:
            ConfigError
        """
        view = self._runtime.view
        beside = sorted(view.settings.policies_dir.glob("*.yaml"))
        document = Document(text, "policy.yaml")
        found = compile_documents([document], view.settings.config.models, view.prices, beside=beside)
        (policy,) = found.values()
        policies = PolicySet({**view.policies.policies, policy.name: policy}, view.policies.default)
        _pass_cases(view.settings, policies)
        return policy

    def _build(self, old: View) -> View:
        settings = load(old.settings.file or None)
        new, now = settings.config, old.settings.config
        fixed = settings.data_dir == old.settings.data_dir and new.redis == now.redis and new.embedder == now.embedder
        if not fixed or new.ledger.url != now.ledger.url or new.cache.cross_encoder != now.cache.cross_encoder:
            names = "data_dir, redis.url, ledger.url, embedder and cache.cross_encoder"
            raise ConfigError(f"{names} take effect at a restart, not at a reload", file=settings.file)
        # Where we listen decides who may be anonymous, and stays what it is.
        bound = msgspec.structs.replace(new.server, host=now.server.host, port=now.server.port)
        config = msgspec.structs.replace(new, server=bound)
        return build_view(msgspec.structs.replace(settings, config=config), self._runtime.metrics, old)

    async def watch(self) -> None:
        """Reload when gateway.yaml, a policy file, or a local model's file or profile changes. Runs until cancelled."""
        await asyncio.to_thread(self.record)
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                if await asyncio.to_thread(self._stamp) != self._seen:
                    await self.try_reload()
            except Exception:  # the watch's edge: were it to end here, no later change would be seen
                _log.exception("the files were not read again")

    async def try_reload(self) -> None:
        """Reload; what is wrong is already logged and kept in ``error``."""
        try:
            await self.reload()
        except ConfigError:
            return

    def _stamp(self, models: Container[str] | None = None) -> frozenset[tuple[str, int, int]]:
        """``models``: whose files are looked at as well; None: all local ones that are served here."""
        settings = self._runtime.view.settings
        files = [*settings.policies_dir.glob("*.yaml"), *settings.policies_dir.glob("cases/*.yaml")]
        if settings.file:
            files.append(Path(settings.file))
        if settings.verifier:
            files.append(settings.verifier)
        for model in settings.config.models:
            if model.local and not model.url and (models is None or model.name in models):
                for pattern in (f"{model.local}{SUFFIX}", f"{model.local}-*.gguf"):
                    files += settings.models_dir.glob(pattern)
        return frozenset(_file_stamp(path) for path in files)


async def _drained(targets: tuple[Fleet | Operations, ...], gone: asyncio.Event, watch: weakref.ref[View]) -> None:
    """``watch`` is kept alive here: a reference that is gone itself tells nobody."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(gone.wait(), _DRAIN_S)
    assert watch is not None
    await asyncio.gather(*(each.close(_DRAIN_S) for each in targets))


def _file_stamp(path: Path) -> tuple[str, int, int]:
    try:
        found = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), found.st_mtime_ns, found.st_size
