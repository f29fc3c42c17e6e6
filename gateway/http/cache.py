"""``/admin/cache``: what is stored and how to take it out. ``/v1/feedback``: what a caller thought of an answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from gateway.cache.purge import Which, WrongHit, purge, reject
from gateway.cache.stats import checked, stats
from gateway.errors import InvalidRequest, NotFound
from gateway.http.admin import keeping, read_json
from gateway.http.peer import principal_of, require_role
from gateway.ledger.answers import Period
from gateway.ledger.errors import LedgerAway
from gateway.ledger.where import ledger_url
from gateway.types import LedgerEntry

if TYPE_CHECKING:
    from gateway.runtime import Runtime

_LATELY_MS, _HITS_MAX, _TAIL = 7 * 86_400_000, 20, 2_000
_SELECTORS = ("key", "tag", "entry")
_AGE_MAX_S = 3_153_600_000


class _Feedback(msgspec.Struct, forbid_unknown_fields=True):
    request_id: str
    score: Annotated[float, msgspec.Meta(ge=-1, le=1)] | None = None
    wrong_cache_hit: bool = False


class CacheDesk:
    """Every endpoint asks first who is asking."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def routes(self) -> list[Route]:
        return [
            Route("/admin/cache", self.shown, methods=["GET"]),
            Route("/admin/cache/purge", self.purge, methods=["POST"]),
            Route("/admin/cache/{entry}/reject", self.reject, methods=["POST"]),
            Route("/v1/feedback", self.feedback, methods=["POST"]),
        ]

    async def shown(self, request: Request) -> Response:
        """What the cache holds; ``index``: the vectors that the worker which was asked compares with."""
        await require_role(self._runtime, request.scope)
        redis, keys = self._runtime.redis, self._runtime.keys
        found = await keeping(stats(redis, int(time.time() * 1000), keys))
        audited = msgspec.to_builtins(await keeping(checked(redis, keys)))
        more = {"drifts": found.drifts, "audit": audited, "index": self._runtime.semantic.size}
        return JSONResponse(msgspec.to_builtins(found) | more)

    async def purge(self, request: Request) -> Response:
        """Those that are all of ``key``, ``tag``, ``entry``, ``older_than_s``; or ``all``. ``dry_run`` only counts."""
        await require_role(self._runtime, request.scope)
        body = await read_json(request)
        dry_run = body.pop("dry_run", False)
        if not isinstance(dry_run, bool):
            raise InvalidRequest("'dry_run' must be true or false", param="dry_run")
        work = purge(self._runtime.redis, _which(body), dry_run=dry_run, keys=self._runtime.keys)
        return JSONResponse(msgspec.to_builtins(await keeping(work)))

    async def reject(self, request: Request) -> Response:
        """Evict an entry that is wrong, on every worker, and learn from the hits it was lately given as."""
        await require_role(self._runtime, request.scope)
        entry = request.path_params["entry"]
        hits = await self._given(entry)
        work = reject(self._runtime.redis, entry, hits, source="rejected", keys=self._runtime.keys)
        if not await keeping(work):
            raise NotFound(f"no cache entry '{entry}'")
        return JSONResponse({"object": "gateway.cache.entry", "id": entry, "rejected": True})

    async def feedback(self, request: Request) -> Response:
        """A score, or that it was a wrong hit, which evicts what was given. Own requests only; the last one counts.

        Raises:
            NotFound: no such request, or somebody else's.
        """
        principal, _ = await principal_of(self._runtime, request.scope)
        given = _feedback(await read_json(request))
        entry = await self._runtime.find(given.request_id)
        if entry is None or not (principal.admin or entry.key_id == principal.key_id):
            raise NotFound(f"no request '{given.request_id}'")
        evicted = False
        if given.wrong_cache_hit:
            if not entry.cache_entry:
                raise InvalidRequest("that request was not answered from the cache", param="wrong_cache_hit")
            evicted = await keeping(self._reject(entry))
        score = -1.0 if given.score is None else given.score
        message: dict[Any, Any] = {"f": msgspec.json.encode({"request_id": entry.request_id, "score": score})}
        await keeping(self._runtime.redis.xadd(self._runtime.keys.ledger, message))
        shown = {"object": "gateway.feedback", "request_id": entry.request_id, "score": score, "evicted": evicted}
        return JSONResponse(shown)

    async def _reject(self, row: LedgerEntry) -> bool:
        """Evict what a request was answered with; the row holds what that was decided on."""
        return await reject(self._runtime.redis, row.cache_entry, [_wrong(row)], keys=self._runtime.keys)

    async def _given(self, entry: str) -> list[WrongHit]:
        """Semantic hits that an entry was lately given as: the newest in the ledger, and those on their way there."""
        found = await self._in_ledger(entry)
        messages: Any = await keeping(self._runtime.redis.xrevrange(self._runtime.keys.ledger, count=_TAIL))
        for _, fields in messages:
            if entry.encode() in (value := fields.get(b"e", b"")):
                found.append(msgspec.json.decode(value, type=LedgerEntry))
        different = {row.request_id: row for row in found if row.cache == "semantic" and row.cache_entry == entry}
        return [_wrong(row) for row in different.values()][-_HITS_MAX:]

    async def _in_ledger(self, entry: str) -> list[LedgerEntry]:
        """Of the last days; none where the ledger cannot be read."""
        from gateway.ledger.store import SqlStore  # brings SQLAlchemy, which the way of a request does without

        now_ms = int(time.time() * 1000)
        store = SqlStore.reader(ledger_url(self._runtime.view.settings))
        found: list[LedgerEntry] = []
        try:
            async for rows in store.scan(Period(now_ms - _LATELY_MS, now_ms + 1), {"cache": ("semantic",)}):
                found += [row for row in rows if row.cache_entry == entry]
                del found[:-_HITS_MAX]
        except LedgerAway:
            return []
        finally:
            await store.close()
        return found


def _wrong(row: LedgerEntry) -> WrongHit:
    return WrongHit(
        request_id=row.request_id,
        key_id=row.key_id,
        ts_ms=row.ts_ms,
        model=row.model,
        evidence=tuple(row.detail.get("evidence") or ()),
        measures=tuple(row.detail.get("measures") or ()),
    )


def _feedback(body: dict[str, Any]) -> _Feedback:
    try:
        given = msgspec.convert(body, _Feedback)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"the body: {error}") from None
    if given.score is None and not given.wrong_cache_hit:
        raise InvalidRequest("give 'score', from -1 to 1, or 'wrong_cache_hit': true", param="score")
    return given


def _which(body: dict[str, Any]) -> Which:
    """Raises InvalidRequest: nothing, or nonsense, is selected."""
    everything, age = body.pop("all", None), body.pop("older_than_s", None)
    if everything is True and not body and age is None:
        return Which()
    unknown = body.keys() - set(_SELECTORS)
    if unknown or everything is not None or not (body or age is not None):
        raise InvalidRequest("give one or more of 'key', 'tag', 'entry' and 'older_than_s', or else 'all': true")
    for name, value in body.items():
        if not isinstance(value, str) or not value:
            raise InvalidRequest(f"'{name}' must be a string", param=name)
    if age is not None and (not isinstance(age, int | float) or isinstance(age, bool) or not 0 <= age <= _AGE_MAX_S):
        raise InvalidRequest("'older_than_s' must be seconds, at most a century", param="older_than_s")
    before = None if age is None else int((time.time() - age) * 1000)
    return Which(**body, before_ms=before)
