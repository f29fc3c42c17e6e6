"""Who a request comes from: a key, the admin key, or nobody in particular on this machine."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from urllib.parse import urlsplit

import msgspec

from gateway.auth.records import PREFIX
from gateway.auth.ring import KeyRing
from gateway.config import AuthConfig, is_loopback
from gateway.errors import Overloaded, RedisAway, Unauthenticated
from gateway.types import Principal

ANONYMOUS = Principal(key_id="anonymous", name="anonymous")
ADMIN = Principal(key_id="admin", name="admin", admin=True)
_HOST = re.compile(r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<name>[0-9A-Za-z.-]+))(?::\d{1,5})?")


class Peer(msgspec.Struct, frozen=True, kw_only=True):
    """How a request reached us: what the anonymous rule looks at. Header names are lower-case."""

    host: str
    bind: str
    method: str
    headers: Mapping[str, str]


def bearer(headers: Mapping[str, str]) -> str:
    """The presented token: ``Authorization: Bearer``, else ``x-api-key`` (Anthropic's clients); '' if none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    return headers.get("x-api-key", "").strip()


def anonymous_allowed(config: AuthConfig, peer: Peer) -> bool:
    """Whether a caller without a key of ours may be the anonymous principal (DESIGN section 7)."""
    if config.anonymous != "loopback" or not is_loopback(peer.bind) or not is_loopback(peer.host):
        return False
    headers = peer.headers
    if any(name == "forwarded" or name.startswith("x-forwarded-") or name == "x-real-ip" for name in headers):
        return False
    if not _local_host(headers.get("host", "")):
        return False
    origin = headers.get("origin")
    if origin is not None and not _own_origin(origin, headers.get("host", "")):
        return False
    if peer.method in {"GET", "HEAD"}:
        return True
    return headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


def _local_host(host: str) -> bool:
    found = _HOST.fullmatch(host)
    return found is not None and is_loopback((found["six"] or found["name"]).lower())


def _own_origin(origin: str, host: str) -> bool:
    """The dashboard's own pages are no foreign origin."""
    try:
        return urlsplit(origin).netloc == host
    except ValueError:
        return False


async def authenticate(config: AuthConfig, ring: KeyRing, peer: Peer) -> Principal:
    """The principal behind a request.

    Raises:
        Unauthenticated: an ``fg-`` token that is no live key, always; or no key where one is needed.
        Overloaded: Redis is away and this worker has not seen the key.
    """
    token = bearer(peer.headers)
    if is_admin(config, token):
        return ADMIN
    if token.startswith(PREFIX):
        try:
            return await ring.principal(token)
        except RedisAway:
            message = "keys cannot be verified at the moment"
            raise Overloaded(message, code="key_store_unavailable", retry_after=1.0) from None
    if anonymous_allowed(config, peer):
        return ANONYMOUS
    if anonymous_allowed(config, msgspec.structs.replace(peer, method="GET")):  # only how it is sent is wrong
        raise Unauthenticated("without an API key the content-type must be application/json")
    raise Unauthenticated("an API key is needed: Authorization: Bearer fg-…")


def is_admin(config: AuthConfig, token: str) -> bool:
    """Whether the token is the admin key, compared in constant time."""
    key = config.admin_key
    return bool(key) and hmac.compare_digest(token.encode(), (key or "").encode())
