"""The one seam where failures of HTTP and upstream's statuses become this gateway's error tree."""

from __future__ import annotations

import errno
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

import msgspec

from gateway.backends.http1 import (
    CannotConnect,
    ConnectTimeout,
    DeadlinePassed,
    Disconnected,
    HttpFailure,
    ReadTimeout,
)
from gateway.backends.wire import error_message
from gateway.errors import UpstreamBroken, UpstreamError, UpstreamRefused, UpstreamTimeout, UpstreamUnavailable

# Codes that decide what happens next (see `resilient`); clients may see them too.
AUTH = "upstream_auth"  # our credential or account was rejected
DEADLINE = "deadline_exceeded"  # the caller's own deadline, no sign of a sick target
STALE = "upstream_connection_stale"  # a kept-alive connection had been closed by upstream
UNREACHABLE = "upstream_unreachable"  # packets are swallowed: trying again only waits again

_ACCOUNT = frozenset({401, 402, 403})
_TRY_AGAIN = frozenset({408, 409, 429})


def before_reply(error: HttpFailure, *, deadline: bool = False) -> UpstreamError:
    """A failure before the first byte of a reply. ``deadline``: the bound of the whole call was the caller's own."""
    connecting = isinstance(error, CannotConnect | ConnectTimeout)
    if isinstance(error, ConnectTimeout) or swallowed(error.__cause__):
        return UpstreamUnavailable("upstream cannot be reached in time", code=UNREACHABLE, connect=connecting)
    if connecting:
        return UpstreamUnavailable(f"upstream cannot be reached: {error}", connect=True)
    if isinstance(error, ReadTimeout | DeadlinePassed):
        return UpstreamTimeout("upstream did not answer in time", code=_deadline(error, deadline))
    if isinstance(error, Disconnected) and error.stale:
        return UpstreamUnavailable("upstream had closed the connection", code=STALE, connect=True)
    return UpstreamUnavailable(f"upstream broke the connection: {error}")


def in_reply(error: HttpFailure, *, begun: bool, deadline: bool = False) -> UpstreamError:
    """A failure after the head of a reply. ``begun``: a chunk has been given out."""
    if not isinstance(error, ReadTimeout | DeadlinePassed):
        return UpstreamBroken(f"upstream broke off its reply: {error}")
    code = _deadline(error, deadline)
    if begun:
        return UpstreamBroken("upstream's reply did not end in time", code=code)
    return UpstreamTimeout("upstream did not answer in time", code=code)


def _deadline(error: HttpFailure, deadline: bool) -> str | None:
    return DEADLINE if deadline and isinstance(error, DeadlinePassed) else None


def swallowed(error: BaseException | None) -> bool:
    """Whether the kernel gave up on a peer that acknowledges nothing (TCP_USER_TIMEOUT, keep-alive probes)."""
    return isinstance(error, OSError) and error.errno in (errno.ETIMEDOUT, errno.EHOSTUNREACH)


def from_status(status: int, headers: Mapping[str, str], body: bytes) -> UpstreamError:
    """An answer that is no success. ``body`` is empty where it was too large to read."""
    said, code = _words(body)
    if status in _ACCOUNT:
        # A client that saw this status would take its own key for the bad one.
        return UpstreamUnavailable(
            f"upstream rejected this gateway's credential ({status})", upstream_status=status, code=AUTH
        )
    if status in _TRY_AGAIN or status >= 500:
        return UpstreamUnavailable(
            said or f"upstream answered {status}", upstream_status=status, retry_after=retry_after(headers)
        )
    if status >= 400:
        return UpstreamRefused(
            said or f"upstream answered {status}", upstream_status=status, raw_body=body or None, code=code
        )
    return UpstreamUnavailable(f"upstream answered {status}, which is no answer", upstream_status=status)


def _words(body: bytes) -> tuple[str, str | None]:
    """Message and code of an error body, as far as it has them."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return "", None
    error = value.get("error") if isinstance(value, dict) else None
    code = error.get("code") if isinstance(error, dict) else None
    return error_message(error) if error else "", code if isinstance(code, str) else None


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds from ``retry-after-ms`` (OpenAI) or ``Retry-After`` (RFC 9110: seconds or a date), else None."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None or not value:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text else None
    except ValueError:
        return None
    return number if number is not None and 0 <= number < float("inf") else None
