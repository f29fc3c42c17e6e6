"""The dashboard's sign-in: a cookie signed with the admin key, good on every worker until it or the key ends."""

from __future__ import annotations

import hashlib
import hmac
import time

COOKIE = "farthing_session"
LIFETIME_S = 12 * 3600


def issue(admin_key: str) -> str:
    """A session that begins now."""
    end = str(int(time.time()) + LIFETIME_S)
    return f"{end}.{_signature(admin_key, end)}"


def valid(session: str, admin_key: str | None) -> bool:
    """Whether the cookie's value was issued under this admin key and has not ended; compared in constant time."""
    end, _, signature = session.partition(".")
    if not admin_key or not end.isascii() or not end.isdigit() or int(end[:12]) < time.time():
        return False
    return hmac.compare_digest(signature.encode(), _signature(admin_key, end).encode())


def same(presented: str, admin_key: str | None) -> bool:
    """Whether what was typed in is the admin key; compared in constant time."""
    return bool(admin_key) and hmac.compare_digest(presented.encode(), (admin_key or "").encode())


def _signature(admin_key: str, end: str) -> str:
    return hmac.new(admin_key.encode(), f"farthing dashboard session {end}".encode(), hashlib.sha256).hexdigest()
