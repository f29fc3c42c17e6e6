"""What an API key is: said once for whoever asks for one, for Redis and for SQL."""

from __future__ import annotations

import msgspec

from gateway.types import Role


class KeyTerms(msgspec.Struct, frozen=True, kw_only=True):
    """Whose a key is and what it may do. No model, policy or tag named: any of them; no limit named: none."""

    organisation: str = "default"
    team: str = ""
    tags: tuple[str, ...] = ()
    project: str = ""
    role: Role = "user"
    models: tuple[str, ...] = ()
    policies: tuple[str, ...] = ()
    allowed_tags: tuple[str, ...] = ()
    rpm: int | None = None
    tpm: int | None = None
    concurrency: int | None = None


class KeyDefinition(KeyTerms, frozen=True, kw_only=True):
    """What is kept of a key, by ``hash``: SHA-256 of the key in hex; the key itself is kept nowhere.

    Keys are random, so no slow hash is needed. A rotated key has two definitions of one ``id``.
    """

    id: str
    hash: str
    created_ms: int
    prefix: str = ""
    name: str = ""
    budget_nano: int | None = None
    expires_ms: int | None = None
    revoked_ms: int | None = None
