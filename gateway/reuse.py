"""Whether a stored answer, or one that is under way for another, may be given for a request: what steps 3 to 5 ask."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.cache import exact
from gateway.cache.keys import cache_context
from gateway.cache.staleness import wants_variety

if TYPE_CHECKING:
    from gateway.cache.coalesce import Key
    from gateway.types import CacheEntry
    from gateway.visit import Visit


def enter(visit: Visit, embedder: str) -> None:
    """What the cache may do for a request, by its policy and by what its client says."""
    cache, request = visit.policy.policy.cache, visit.request
    if not (cache.exact or cache.semantic) or _creative(visit):
        return
    visit.context = cache_context(
        *(request, visit.principal),
        scope=cache.scope,
        local_only=visit.local_only,
        embedder=embedder,
        arm=visit.trial.tag if visit.trial else "",
    )
    visit.cache = "miss" if reads(visit) else "bypass"
    visit.store = request.options.cache != "no-store"


def reads(visit: Visit) -> bool:
    """Whether a stored answer may be given."""
    return visit.context is not None and visit.request.options.cache != "no-cache"


def stored(visit: Visit) -> CacheEntry | None:
    """What the exact tier holds; it came with admission."""
    found = visit.admission.stored if visit.admission and reads(visit) else None
    return exact.decode(found) if found is not None and visit.policy.policy.cache.exact else None


def shared_as(visit: Visit) -> Key | None:
    """What requests that may share a call have in common; None where this one asks for itself."""
    request, context = visit.request, visit.context
    if context is None or request.options.cache != "default" or request.logprobs or not visit.policy.policy.cache.exact:
        return None
    return context.exact, request.stream, request.options.deadline_ms


def _creative(visit: Visit) -> bool:
    """Whether who asks again wants another answer: by the temperature, or by the words where it is not 0."""
    temperature = visit.temperature
    if temperature > visit.policy.policy.cache.max_temperature:
        return True
    return temperature > 0 and "seed" not in visit.request.fields and wants_variety(visit.features.last_user_text)
