"""Equal servers of one model: the one that knows the conversation, unless it is busier than the others.

A server that has just read a conversation keeps its KV cache, so what follows goes to the same one (rendezvous hashing:
a server that comes or goes moves only its own share). Where that one has many more requests under way than the idlest,
the idlest takes it (bounded loads, Mirrokni et al., https://arxiv.org/abs/1608.01350).
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from gateway.backends.breaker import Breaker
from gateway.backends.openai_http import OpenAIBackend
from gateway.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable
from gateway.types import ChatRequest, Chunk

# How many more requests than the idlest one the preferred server may have under way.
SLACK = 2


class Replica:
    """One of the servers."""

    def __init__(self, backend: OpenAIBackend) -> None:
        self.backend = backend
        self.breaker = Breaker(probed=False)
        self.outstanding = 0


class Replicas:
    """A `protocols.Backend` of several; before the first chunk another one is tried."""

    def __init__(self, backends: Sequence[OpenAIBackend]) -> None:
        self.name = backends[0].name
        self._replicas = [Replica(backend) for backend in backends]

    @property
    def probed(self) -> bool:
        return True

    async def chat(self, request: ChatRequest, *, timeout_s: float | None = None) -> AsyncGenerator[Chunk, None]:
        """See `protocols.Backend.chat`."""
        failure: UpstreamError | None = None
        for replica in self._in_order(request):
            begun = False
            try:
                async with aclosing(self._ask(replica, request, timeout_s)) as chunks:
                    async for chunk in chunks:
                        begun = True
                        yield chunk
                return
            except UpstreamError as error:
                if begun or isinstance(error, UpstreamRefused) or not isinstance(error, UpstreamUnavailable):
                    raise
                failure = error
        assert failure is not None
        raise failure

    async def reachable(self) -> bool:
        """Whether one of them answers."""
        return any(await asyncio.gather(*(replica.backend.reachable() for replica in self._replicas)))

    async def close(self) -> None:
        await asyncio.gather(*(replica.backend.close() for replica in self._replicas))

    def _in_order(self, request: ChatRequest) -> list[Replica]:
        """The preferred one first, unless it is too busy; then by how much each has to do. Resting ones are last."""
        prefix = _prefix(request)
        preferred = max(self._replicas, key=lambda replica: _weight(prefix, replica.backend.url))
        idlest = min(replica.outstanding for replica in self._replicas)
        stays = preferred.outstanding - idlest <= SLACK

        def rank(replica: Replica) -> tuple[bool, bool, int]:
            resting = replica.breaker.reason() is not None
            return resting, not (stays and replica is preferred), replica.outstanding

        return sorted(self._replicas, key=rank)

    async def _ask(self, replica: Replica, request: ChatRequest, left: float | None) -> AsyncGenerator[Chunk, None]:
        trial = replica.breaker.enter()
        replica.outstanding += 1
        try:
            async with aclosing(replica.backend.chat(request, timeout_s=left)) as chunks:
                async for chunk in chunks:
                    replica.breaker.answered(trial)
                    yield chunk
            replica.breaker.succeeded()
        except UpstreamError as error:
            replica.breaker.failed(error, trial)
            raise
        finally:
            replica.breaker.left(trial)
            replica.outstanding -= 1


def _prefix(request: ChatRequest) -> bytes:
    """What the requests of a conversation have in common: its session, else all up to the first user turn."""
    if request.options.session:
        return request.options.session.encode()
    opening: list[Any] = []
    for message in request.messages:
        opening.append(message)
        if message.get("role") == "user":
            break
    return msgspec.json.encode(opening)


def _weight(prefix: bytes, url: str) -> bytes:
    return hashlib.blake2b(prefix + b"\0" + url.encode(), digest_size=8).digest()
