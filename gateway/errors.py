"""One error tree, mapped to HTTP in one place (:mod:`gateway.http.errors`).

GatewayError                 anything this gateway refuses or fails on purpose; has an HTTP status and a stable ``code``
├─ InvalidRequest            400  the body or a header is wrong; ``param`` names the field
├─ Unauthenticated           401  no key, or one that is unknown, expired or revoked
├─ Forbidden                 403  the key may not do this; a local-only request pinned to a hosted model
├─ NotFound                  404  no such path, model or request
├─ TooLarge                  413  the body is over the limit
├─ BudgetExhausted           402  the budget has not enough left; ``budget`` says which
├─ Unpriced                  402  the target has no known price and the policy does not allow that
├─ RateLimited               429  RPM, TPM or concurrency; ``retry_after`` in seconds
├─ CacheMiss                 504  ``only-if-cached`` and nothing stored
├─ Overloaded                503  a bounded queue is full, or no target can be reached
└─ UpstreamError             …    a target failed
   ├─ UpstreamRefused        4xx  the target's own 4xx, passed on faithfully: status, body, and code
   ├─ UpstreamUnavailable    502  connect error, 5xx, rate limit: the next target may be tried
   ├─ UpstreamTimeout        504  no answer in time
   └─ UpstreamBroken         502  the reply ended or turned to garbage after it began
ConfigError                  a configuration file is wrong: file, line, path, reason
RedisAway                    Redis did not answer in time; every caller has a way on without it
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gateway.types import Usage


class GatewayError(Exception):
    """Base of everything answered in OpenAI's error format: ``{"error": {message, type, param, code}}``."""

    status = 500
    type = "api_error"
    code = "internal_error"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or type(self).code
        self.param = param
        self.retry_after = retry_after
        self.headers: list[tuple[str, str]] = []
        self.admitted = False

    def body(self) -> dict[str, Any]:
        """The error as OpenAI's JSON."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class InvalidRequest(GatewayError):
    status, type, code = 400, "invalid_request_error", "invalid_request"


class Unauthenticated(GatewayError):
    status, type, code = 401, "authentication_error", "invalid_api_key"


class Forbidden(GatewayError):
    status, type, code = 403, "permission_error", "forbidden"


class NotFound(GatewayError):
    status, type, code = 404, "invalid_request_error", "not_found"


class TooLarge(GatewayError):
    status, type, code = 413, "invalid_request_error", "request_too_large"


class BudgetExhausted(GatewayError):
    status, type, code = 402, "insufficient_quota", "budget_exhausted"


class Unpriced(GatewayError):
    status, type, code = 402, "invalid_request_error", "model_unpriced"


class RateLimited(GatewayError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class CacheMiss(GatewayError):
    status, type, code = 504, "cache_miss", "cache_miss"


class Overloaded(GatewayError):
    status, type, code = 503, "overloaded_error", "overloaded"


class UpstreamError(GatewayError):
    """A target failed before the first byte. ``upstream_status`` is None where there was no HTTP answer.

    ``used`` is what upstream may bill for it all the same, None where it had not begun to answer.
    """

    status, type, code = 502, "upstream_error", "upstream_error"

    def __init__(
        self,
        message: str,
        *,
        upstream_status: int | None = None,
        raw_body: bytes | None = None,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code=code, param=param, retry_after=retry_after)
        self.upstream_status = upstream_status
        self.raw_body = raw_body
        self.used: Usage | None = None


class UpstreamRefused(UpstreamError):
    """The target answered 4xx (not 408, 409, 429): the client's fault. Status and body are passed on as they came."""

    code = "upstream_refused"

    def __init__(self, message: str, *, upstream_status: int, **kwargs: Any) -> None:
        super().__init__(message, upstream_status=upstream_status, **kwargs)
        self.status = upstream_status
        self.type = "invalid_request_error"


class UpstreamUnavailable(UpstreamError):
    """Connect error, 408, 409, 429, 5xx or a refused credential: another try or another target may answer.

    ``connect`` is True where no connection came about (nothing can have been billed).
    """

    code = "upstream_unavailable"

    def __init__(self, message: str, *, connect: bool = False, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        self.connect = connect
        if self.upstream_status == 429:
            self.status, self.type = 429, "rate_limit_error"
            self.code = kwargs.get("code") or "rate_limit_exceeded"
        elif self.upstream_status is not None and 500 <= self.upstream_status <= 599:
            self.status = self.upstream_status


class UpstreamTimeout(UpstreamError):
    status, code = 504, "upstream_timeout"


class UpstreamBroken(UpstreamError):
    code = "upstream_broken"


class ConfigError(Exception):
    """A configuration file is wrong. ``str()`` reads ``file:line: path: reason``; line is 1-based, 0 unknown."""

    def __init__(self, reason: str, *, file: str = "", line: int = 0, path: str = "") -> None:
        self.reason, self.file, self.line, self.path = reason, file, line, path
        where = f"{file}:{line}" if line else file
        super().__init__(": ".join(part for part in (where, path, reason) if part))


class RedisAway(Exception):
    """Redis did not answer in time or refused the connection."""
