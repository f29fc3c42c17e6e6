"""litellm's exceptions in this gateway's error tree, by class name: knowing them does not take importing litellm."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Literal

from gateway.backends import translate
from gateway.backends.wire import error_message
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable

Kind = Literal["refused", "unavailable", "account", "timeout", "broken", "misconfigured"]

# The first class of an exception's method resolution order that is listed decides.
KINDS: dict[str, Kind] = {
    "Timeout": "timeout",
    "APITimeoutError": "timeout",
    "TimeoutError": "timeout",
    "AuthenticationError": "account",
    "PermissionDeniedError": "account",
    "PaymentRequiredError": "account",
    "LiteLLMUnknownProvider": "misconfigured",
    "ModelNotMappedError": "misconfigured",
    "BadRequestError": "refused",
    "NotFoundError": "refused",
    "UnprocessableEntityError": "refused",
    "APIResponseValidationError": "broken",
}
_CODES = {
    "ContextWindowExceededError": "context_length_exceeded",
    "ContentPolicyViolationError": "content_policy_violation",
}
_PREFIX = re.compile(r"^(litellm\.\w+: )+(\w+ - )?")
_LONGEST_MESSAGE = 500
# Names, in aiohttp and httpx, of what says that no connection came about.
_CONNECT_TIMEOUT = frozenset({"ConnectTimeout", "ConnectionTimeoutError"})
_NO_CONNECTION = frozenset({"ConnectError", "ClientConnectorError"})


def translated(error: Exception) -> UpstreamError:
    """Any exception of a litellm call; what is not known counts as a target that is not available."""
    names = [cls.__name__ for cls in type(error).__mro__]
    kind = next((KINDS[name] for name in names if name in KINDS), "unavailable")
    status = getattr(error, "status_code", None)
    status = status if isinstance(status, int) and status >= 400 else None
    if kind in ("unavailable", "timeout") and (away := _away(error)):
        return away
    if kind == "timeout":
        return UpstreamTimeout("upstream did not answer in time")
    if kind == "broken":
        return UpstreamBroken(f"upstream's reply cannot be read: {said(error)}")
    if kind == "refused":
        code = next((_CODES[name] for name in names if name in _CODES), None)
        return UpstreamRefused(said(error), upstream_status=status or 400, code=code)
    if kind == "account":
        # litellm's own 400 for a missing balance is no more the client's fault than a 401.
        return translate.from_status(status if status in (401, 403) else 402, {}, b"")
    if kind == "misconfigured":
        return UpstreamUnavailable(f"this target is not configured right: {said(error)}", connect=True)
    return UpstreamUnavailable(said(error), upstream_status=_answered(error, status), retry_after=_retry_after(error))


def _away(error: Exception) -> UpstreamUnavailable | None:
    chain = list(_chain(error))
    causes = {cls.__name__ for cause in chain for cls in type(cause).__mro__}
    swallowed = bool(causes & _CONNECT_TIMEOUT) or any(translate.swallowed(cause) for cause in chain)
    connect = bool(causes & (_CONNECT_TIMEOUT | _NO_CONNECTION))
    if not swallowed and not connect:
        return None
    code = translate.UNREACHABLE if swallowed else None
    return UpstreamUnavailable("upstream cannot be reached", connect=connect, code=code)


def said(error: Exception) -> str:
    """Upstream's own words, which litellm quotes as JSON behind its class names; else litellm's first line."""
    text = str(error)
    with suppress(ValueError):
        value, _ = json.JSONDecoder().raw_decode(text, text.index("{"))
        if isinstance(inner := value.get("error"), dict):
            return error_message(inner)
    words = _PREFIX.sub("", text.partition("\n")[0], count=1)
    return words[:_LONGEST_MESSAGE] or type(error).__name__


def _answered(error: Exception, status: int | None) -> int | None:
    """The status, unless litellm made it up for a connection that broke."""
    return status if getattr(error, "litellm_response_headers", None) is not None else None


def _retry_after(error: Exception) -> float | None:
    headers = getattr(error, "litellm_response_headers", None) or {}
    return translate.retry_after({str(name).lower(): str(value) for name, value in dict(headers).items()})


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The exception and what led to it, at most as far as anybody nests them."""
    current: BaseException | None = error
    for _ in range(16):
        if current is None:
            return
        yield current
        current = current.__cause__ or current.__context__
