"""Who is signed in: a cookie signed with the admin key, good on every worker until it or that key ends.

An admin signs in with the admin key, a key owner with an API key (the cookie then holds its hash, and the key is looked
up at every page, so that revoking it ends the session), a viewer by a link that an admin has made.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from typing import Literal

COOKIE = "farthing_session"
LIFETIME_S = 12 * 3600
LINK_DAYS = (1, 7, 30, 90)

Role = Literal["admin", "viewer", "owner"]

_TOKEN = re.compile(
    r"(?P<role>admin|viewer|owner|link)\.(?P<end>\d{1,12})\.(?P<subject>[0-9a-f]{64})?\.(?P<mark>[0-9a-f]{64})"
)


@dataclass(frozen=True)
class Session:
    """``subject``: the hash of an owner's key, '' for the others; ``end`` in epoch seconds."""

    role: Role
    subject: str
    end: int


def issue(admin_key: str, role: Role, subject: str = "", end: int = 0) -> str:
    """A cookie's value for a session that begins now and lasts ``LIFETIME_S``, or until ``end``."""
    latest = int(time.time()) + LIFETIME_S
    return _signed(admin_key, role, min(end, latest) if end else latest, subject)


def read(value: str, admin_key: str | None) -> Session | None:
    """The session in a cookie; None unless it was issued under this admin key and has not ended."""
    found = _read(value, admin_key)
    if found is None or found["role"] == "link":
        return None
    role: Role = "admin" if found["role"] == "admin" else "viewer" if found["role"] == "viewer" else "owner"
    return Session(role, found["subject"] or "", int(found["end"]))


def link(admin_key: str, days: int) -> str:
    """What a read-only link ends with. It stays good until its end or until the admin key is changed."""
    return _signed(admin_key, "link", int(time.time()) + days * 86400, "")


def link_end(token: str, admin_key: str | None) -> int | None:
    """Until when (epoch seconds) the link is good; None if it is not."""
    found = _read(token, admin_key)
    return int(found["end"]) if found is not None and found["role"] == "link" else None


def same(presented: str, admin_key: str | None) -> bool:
    """Whether what was typed in is the admin key; compared in constant time."""
    return bool(admin_key) and hmac.compare_digest(presented.encode(), (admin_key or "").encode())


def _read(value: str, admin_key: str | None) -> re.Match[str] | None:
    found = _TOKEN.fullmatch(value)
    if not admin_key or found is None or int(found["end"]) < time.time():
        return None
    expected = _mark(admin_key, found["role"], found["end"], found["subject"] or "")
    return found if hmac.compare_digest(found["mark"], expected) else None


def _signed(admin_key: str, role: str, end: int, subject: str) -> str:
    return f"{role}.{end}.{subject}.{_mark(admin_key, role, str(end), subject)}"


def _mark(admin_key: str, role: str, end: str, subject: str) -> str:
    text = f"farthing dashboard {role} {end} {subject}"
    return hmac.new(admin_key.encode(), text.encode(), hashlib.sha256).hexdigest()
