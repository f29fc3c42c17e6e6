"""All targets of a configuration, and the way from one to the next when one cannot answer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import suppress
from time import perf_counter
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import msgspec

from gateway.backends import translate
from gateway.backends.litellm_hosted import LiteLLMBackend
from gateway.backends.openai_http import OpenAIBackend
from gateway.backends.pulse import Pulse
from gateway.backends.replicas import Replicas
from gateway.backends.resilient import Resilient, Watch, may_be_billed
from gateway.config import ModelConfig, Settings, socket_path
from gateway.errors import NotFound, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable
from gateway.types import Attempt, ChatRequest, Chunk, Live

OPENAI_URL = "https://api.openai.com/v1"
# Mistral reports usage unasked, and answers 422 where it is asked (extra_forbidden). OpenAI answers 400 to an argument
# it does not know; Anthropic's clients send this one.
REFUSED_FIELDS = {"mistral.ai": ("stream_options",), "openai.com": ("top_k",)}
# Codes of a local model's refusal that a larger model need not share.
TOO_SMALL = frozenset({"context_length_exceeded", "unsupported"})
_DRAIN_POLL_S = 0.05
_BOUNDS = ("max_tokens", "max_completion_tokens")
_NULL = b"null"
_TRUE = msgspec.Raw(b"true")
_UNKNOWN = Live()

L = TypeVar("L", bound=LiteLLMBackend)


class Answer(NamedTuple):
    """The target that answered, its first chunk, and the rest, which is to be closed (``aclose``) when left early."""

    model: str
    first: Chunk
    rest: AsyncGenerator[Chunk, None]


class Target(NamedTuple):
    """One configured model. ``missing`` says what it lacks to be asked at all; ``host`` is where it is, if known."""

    config: ModelConfig
    backend: Resilient
    missing: str | None
    socket: str | None
    host: str | None = None


class Fleet:
    """The targets of one configuration. A reload builds a new one and then drains and closes the old."""

    def __init__(self, targets: Iterable[Target]) -> None:
        self._targets = {target.config.name: target for target in targets}

    @classmethod
    def build(cls, settings: Settings, previous: Fleet | None = None) -> Fleet:
        """Connects to nothing. What ``previous`` knows about the health of unchanged models is taken over."""
        known = previous._targets if previous else {}
        return cls(_target(model, settings, known.get(model.name)) for model in settings.config.models)

    def resume(self) -> None:
        """Go on probing what was unreachable under the fleet before; to be called on the loop."""
        for target in self._targets.values():
            target.backend.resume()

    def unavailable(self, name: str) -> str | None:
        """Why a target cannot be asked now, None if it can. Instant."""
        target = self._targets.get(name)
        return _lacking(target) or (target.backend.available() if target else None)

    def live(self, name: str, *, stream: bool) -> Live:
        """How a target has been doing of late. Instant."""
        target = self._targets.get(name)
        return target.backend.pulse.live(stream=stream) if target else _UNKNOWN

    def answered_whole(self, name: str, took_s: float) -> None:
        """A plain reply that was read as a stream came to its end ``took_s`` seconds after it was asked for."""
        if (target := self._targets.get(name)) is not None:
            target.backend.pulse.whole(took_s * 1000)

    async def call(
        self,
        targets: Sequence[str],
        request: ChatRequest,
        *,
        deadline_s: float | None = None,
        on_attempt: Callable[[Attempt], None] = lambda _: None,
        before_retry: Callable[[str], Awaitable[None]] | None = None,
        as_streams: Collection[str] = (),
        default_max_tokens: int | None = None,
    ) -> Answer:
        """The first answer of ``targets``, in order; the next is tried only before the first chunk.

        A refusal is final, but for a local model's of what only it cannot do. ``deadline_s`` bounds the whole call, the
        reply included. ``on_attempt`` hears of each upstream call once it has answered or ended; ``before_retry`` is
        awaited, with the target's name, before a call that follows one that may be billed, and may raise. Those of
        ``as_streams`` are asked for a stream even where the request is a plain one. A local model answers at most
        ``default_max_tokens`` where the request sets no bound.

        Raises:
            UpstreamError: the most telling of all that happened; with ``retry_after`` if all targets are rate limited.
            NotFound: no targets were given.
        """
        ends = None if deadline_s is None else perf_counter() + deadline_s
        watch = Watch(attempt=on_attempt, before_retry=before_retry)
        failures: list[UpstreamError] = []
        for name in targets:
            left = None if ends is None else ends - perf_counter()
            if left is not None and left <= 0:
                failures.append(UpstreamTimeout("the deadline passed", code=translate.DEADLINE))
                break
            if before_retry and failures and may_be_billed(failures[-1]):
                await before_retry(name)
            try:
                asked = self._bounded(name, request, default_max_tokens)
                return await self._ask(name, _streamed(asked) if name in as_streams else asked, left, watch)
            except UpstreamError as error:
                failures.append(error)
                if error.code == translate.UNREACHABLE:
                    self._shun_host(name, error)
                if not self._next_may_answer(name, error):
                    break
        raise most_telling(failures)

    async def close(self, drain_s: float = 0.0) -> None:
        """Let calls under way, replies being read included, end for ``drain_s`` seconds; release every connection."""
        backends = [target.backend for target in self._targets.values()]
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(*(backend.idle.wait() for backend in backends)), drain_s)
        await asyncio.gather(*(backend.close() for backend in backends))

    async def _ask(self, name: str, request: ChatRequest, left: float | None, watch: Watch) -> Answer:
        target = self._targets.get(name)
        lacking = _lacking(target)
        if target is None or lacking:
            raise UpstreamUnavailable(f"{name}: {lacking}", connect=True)
        rest = target.backend.chat(request, timeout_s=left, watch=watch)
        first = await anext(rest)
        if first.final:  # that is all of it: the call is to come to its end now, and the target to be known as well
            async for _ in rest:
                pass
        return Answer(name, first, rest)

    def _bounded(self, name: str, request: ChatRequest, default: int | None) -> ChatRequest:
        """With the bound on its answer in the body, where the client has set none, spelled as the provider wants it."""
        model = self._targets[name].config if name in self._targets else None
        bound = request.max_tokens or (default if model and model.is_local else None)
        if model is None or bound is None or any(bytes(request.fields.get(each, _NULL)) != _NULL for each in _BOUNDS):
            return request
        spelled = "max_completion_tokens" if model.kind == "openai" else "max_tokens"
        return msgspec.structs.replace(request, fields={**request.fields, spelled: msgspec.Raw(b"%d" % bound)})

    def _shun_host(self, name: str, error: UpstreamError) -> None:
        """The connect bound is waited for once, not once for each target behind the same host."""
        host = self._targets[name].host
        for other, target in self._targets.items():
            if host is not None and target.host == host and other != name:
                target.backend.shun(error)

    def _next_may_answer(self, name: str, error: UpstreamError) -> bool:
        if not isinstance(error, UpstreamRefused):
            return True
        return self._targets[name].config.is_local and error.code in TOO_SMALL


def _streamed(request: ChatRequest) -> ChatRequest:
    return msgspec.structs.replace(request, stream=True, fields={**request.fields, "stream": _TRUE})


def _lacking(target: Target | None) -> str | None:
    if target is None:
        return "not configured"
    if target.missing:
        return target.missing
    if target.socket and not os.path.exists(target.socket):
        return "the local model is not running"
    return None


def most_telling(failures: Sequence[UpstreamError]) -> UpstreamError | NotFound:
    """What to tell a client whose targets all failed: the last word that came from upstream itself, if there was one.

    Where all are rate limited it carries the shortest time after which one of them may be asked again.
    """
    if not failures:
        return NotFound("no target was given", code="model_not_found")
    if all(failure.upstream_status == 429 for failure in failures):
        return min(failures, key=lambda failure: failure.retry_after or float("inf"))
    return max(reversed(failures), key=_weight)


def _weight(failure: UpstreamError) -> int:
    if isinstance(failure, UpstreamRefused):
        return 1
    if failure.upstream_status is not None:
        return 4
    if isinstance(failure, UpstreamUnavailable):
        return 0 if failure.connect else 2
    return 3


def _target(model: ModelConfig, settings: Settings, before: Target | None) -> Target:
    socket = str(socket_path(settings.data_dir, f"chat-{model.local}")) if model.is_local and not model.url else None
    backend = _backend(model, socket)
    known = before.backend if before and before.config == model else None
    load = backend.load if model.is_local and isinstance(backend, OpenAIBackend) else None
    resilient = Resilient(
        model.name,
        backend,
        max_retries=model.max_retries,
        probe=backend.reachable if backend.probed else None,
        breaker=known.breaker if known else None,
        pulse=known.pulse.handed_on(load) if known else Pulse(load),
    )
    return Target(model, resilient, missing(model, settings), socket, _host(model))


def _backend(model: ModelConfig, socket: str | None) -> OpenAIBackend | LiteLLMBackend | Replicas:
    if model.kind == "litellm":
        return through_litellm(LiteLLMBackend, model)
    local = (model.url or "http://local/v1") if model.is_local else None
    urls = (local,) if local else model.base_urls or (OPENAI_URL,)
    backends = [server(model, url, socket) for url in urls]
    return backends[0] if len(backends) == 1 else Replicas(backends)


def through_litellm(made: Callable[..., L], model: ModelConfig) -> L:
    """A backend of litellm's for this model."""
    return made(
        model.name,
        model.upstream_name,
        model.base_urls[0] if model.base_urls else None,
        model.api_key,
        connect_timeout=model.connect_timeout,
        first_byte_timeout=model.first_byte_timeout,
        timeout=model.timeout,
    )


def server(model: ModelConfig, url: str, socket: str | None, **wire: Any) -> OpenAIBackend:
    """One of a model's servers; ``wire``: `OpenAIBackend`'s ``path`` and ``read`` of what is no chat."""
    return OpenAIBackend(
        model.name,
        model.upstream_name,
        url,
        model.api_key,
        uds=socket,
        connect_timeout=model.connect_timeout,
        first_byte_timeout=model.first_byte_timeout,
        timeout=model.timeout,
        strip=_unwanted(url),
        **wire,
    )


def _unwanted(url: str) -> tuple[str, ...]:
    """Body fields this provider answers with an error."""
    host = urlsplit(url).hostname or ""
    return next((fields for owner, fields in REFUSED_FIELDS.items() if host == owner or host.endswith(f".{owner}")), ())


def missing(model: ModelConfig, settings: Settings) -> str | None:
    """What a model's configuration lacks for it to be asked at all."""
    needs_key = model.kind in ("openai", "litellm") and not model.base_url
    return "no api_key is set" if model.name in settings.keyless or (needs_key and not model.api_key) else None


def _host(model: ModelConfig) -> str | None:
    """Host and port of a hosted target; None for a local one, for several, and where only litellm knows."""
    urls = model.base_urls or ((OPENAI_URL,) if model.kind == "openai" else ())
    return urlsplit(urls[0]).netloc if not model.is_local and len(urls) == 1 else None
