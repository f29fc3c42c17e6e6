"""What a conversation has warm: at which targets its beginning is cached, so that moving it can be priced.

A provider keeps the beginning of a prompt for five to ten minutes after it was last used and charges less for it when
it comes again (https://platform.openai.com/docs/guides/prompt-caching,
https://docs.anthropic.com/en/docs/build-with-claude/prompt-caching); a local model keeps its KV cache and need not read
it again. Whoever answered a conversation last is therefore cheaper for it than its price says.

A conversation is known by its session (and system prompt), else by its history: what one request sends is what the
next one repeats before the last answer. Each worker holds what it has seen, bounded; the others know of it through
Redis, which is asked and told in the writes of trips 1 and 3.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import OrderedDict
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from gateway.errors import RedisAway
from gateway.types import HOUR_MS

if TYPE_CHECKING:
    from gateway.books import Books
    from gateway.budget.limits import Admission
    from gateway.pricing import PriceBook
    from gateway.types import LedgerEntry, Price
    from gateway.visit import Visit

LIFE_MS = 300_000
"""How long a prompt is taken to stay cached: the shorter of what providers promise; an hour where that was paid for."""


LEAST_TOKENS = 1024
"""Shorter prompts are not cached by most providers, and not worth a thought."""

_HELD_MAX = 20_000
_ROUGHLY = 3 / 4  # of what a prompt is estimated to have, some have LEAST_TOKENS


class Conversation(NamedTuple):
    """Under which digest it was left by the request before (None: there was none), and is left by this one."""

    before: str | None
    now: str


class Warm(msgspec.Struct, frozen=True, array_like=True):
    """The tokens of a conversation that a target is taken to have cached, since when (epoch ms) and for how long."""

    at_ms: int
    tokens: int
    life_ms: int = LIFE_MS


Targets = Mapping[str, Warm]
_NOTHING: Targets = {}
_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(Warm).decode


class Warmth:
    """Of one worker."""

    def __init__(self, books: Books) -> None:
        self._books = books
        self._held: OrderedDict[str, Targets] = OrderedDict()

    def recall(self, visit: Visit) -> None:
        """What this worker knows of the conversation, where a rule orders by cost and the prompt is long enough."""
        if not visit.policy.weighs_cost or visit.features.prompt_tokens < LEAST_TOKENS * _ROUGHLY:
            return
        visit.conversation = _conversation(visit)
        if visit.conversation.before is not None:
            visit.knows_warm = _alive(self._held.get(visit.conversation.before, _NOTHING), visit.ts_ms)

    async def beside(self, visit: Visit, admitting: Awaitable[Admission]) -> Admission:
        """Trip 1, which takes along the question what other workers know of the conversation."""
        if visit.conversation is None or visit.conversation.before is None:
            return await admitting
        asking = asyncio.create_task(self._ask(visit.conversation.before))
        try:
            admission = await admitting
            visit.knows_warm = {**visit.knows_warm, **_alive(await asking, visit.ts_ms)}
        finally:
            asking.cancel()
        return admission

    async def _ask(self, before: str) -> Targets:
        try:
            found = await self._books.link.call("HGETALL", self._books.keys.warm(before))
            return {name.decode(): _decode(value) for name, value in zip(found[::2], found[1::2], strict=True)}
        except (RedisAway, msgspec.DecodeError):  # another version wrote it
            return _NOTHING

    def note(self, visit: Visit, entry: LedgerEntry, prices: PriceBook) -> None:
        """What the conversation has warm from now on; told to the others with the write that settles."""
        if visit.conversation is None:
            return
        targets = dict(visit.knows_warm)
        if not visit.given and entry.usage_source == "reported" and visit.first_byte is not None:
            price, before = prices.price(entry.model, entry.ts_ms), targets.get(entry.model)
            paid = visit.usage is not None and visit.usage.cache_write_1h_tokens > 0
            life_ms = HOUR_MS if paid else before.life_ms if before else LIFE_MS
            targets[entry.model] = Warm(int(time.time() * 1000), cached_next(entry, price, before), life_ms)
        if targets:
            self._hold(visit.conversation.now, targets)
            self._books.spawn(self._tell(visit.conversation.now, targets))

    def _hold(self, conversation: str, targets: Targets) -> None:
        self._held[conversation] = targets
        self._held.move_to_end(conversation)
        if len(self._held) > _HELD_MAX:
            self._held.popitem(last=False)

    async def _tell(self, conversation: str, targets: Targets) -> None:
        link, key = self._books.link, self._books.keys.warm(conversation)
        life_ms = max(warm.life_ms for warm in targets.values())
        pairs = [part for name, warm in targets.items() for part in (name, _encode(warm))]
        with suppress(RedisAway):
            await asyncio.gather(
                link.call("HSET", key, *pairs, patient=True),
                link.call("PEXPIRE", key, str(life_ms), patient=True),
            )


def cached_next(entry: LedgerEntry, price: Price | None, before: Warm | None) -> int:
    """The tokens that will be cached there when the conversation goes on, by what upstream said of this request.

    Where writing to the cache is charged for, only what was written or read is in it. Elsewhere the whole prompt is,
    unless the target was expected to have some of it cached and did not.
    """
    if price is not None and Decimal(price.cache_write) > Decimal(price.input):
        return entry.cached_tokens + entry.cache_write_tokens
    missed = before is not None and before.tokens > 0 and entry.cached_tokens == 0
    return entry.prompt_tokens if entry.prompt_tokens >= LEAST_TOKENS and not missed else entry.cached_tokens


def tokens(targets: Targets, prompt_tokens: int) -> dict[str, int]:
    """How many of so many tokens are warm, by target; those that have none are left out."""
    found = {name: min(warm.tokens, prompt_tokens) for name, warm in targets.items()}
    return {name: count for name, count in found.items() if count > 0}


def _alive(targets: Targets, now_ms: int) -> Targets:
    return {name: warm for name, warm in targets.items() if now_ms - warm.at_ms < warm.life_ms}


def _conversation(visit: Visit) -> Conversation:
    request = visit.request
    whose = hashlib.blake2b(_encode([visit.principal.organisation, visit.principal.key_id]), digest_size=16)
    if request.options.session:
        system = [message for message in request.messages if message["role"] in ("system", "developer")]
        whose.update(_encode([request.options.session, system]))
        return Conversation(whose.hexdigest(), whose.hexdigest())
    return _by_history(whose, request.messages)


def _by_history(digest: Any, messages: Sequence[Mapping[str, Any]]) -> Conversation:
    """All messages, and those before the last answer: they are what the request before has sent."""
    answers = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
    last = answers[-1] if answers else 0
    for message in messages[:last]:
        digest.update(_encode(message))
    before = digest.hexdigest() if last else None
    for message in messages[last:]:
        digest.update(_encode(message))
    return Conversation(before, digest.hexdigest())
