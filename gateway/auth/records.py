"""The definition of an API key: how it is kept, how it is asked for, how it may be shown."""

from __future__ import annotations

import hashlib
from decimal import Decimal
from typing import Any

import msgspec

from gateway.errors import InvalidRequest
from gateway.key_definition import KeyDefinition, KeyTerms
from gateway.types import NANO, Allowed, Principal

PREFIX = "fg-"
_EVERYTHING = Allowed()


class KeyRecord(KeyDefinition, frozen=True, kw_only=True):
    """A key as the workers know it."""

    def principal(self, *above: Allowed) -> Principal:
        """``above``: what the organisation and the team allow."""
        own = Allowed(models=self.models, policies=self.policies, tags=self.allowed_tags)
        return Principal(
            key_id=self.id,
            organisation=self.organisation,
            team=self.team,
            name=self.name,
            tags=self.tags,
            rpm=self.rpm,
            tpm=self.tpm,
            concurrency=self.concurrency,
            budget_nano=self.budget_nano,
            project=self.project,
            allowed=tuple(one for one in (*above, own) if one != _EVERYTHING),
            role=self.role,
        )

    def usable(self, now_ms: int) -> bool:
        return self.revoked_ms is None and (self.expires_ms is None or now_ms < self.expires_ms)


def hash_key(key: str) -> str:
    """Hex SHA-256 of a presented key."""
    return hashlib.sha256(key.encode()).hexdigest()


class NewKey(KeyTerms, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What may be said when a key is created. ``budget_usd`` is in dollars, ``expires_in_s`` in seconds."""

    name: str
    budget_usd: float | None = None
    expires_in_s: float | None = None

    def check(self) -> None:
        """Raises InvalidRequest naming the field."""
        if not self.name.strip() or len(self.name) > 200:
            raise InvalidRequest("name must have 1 to 200 characters", param="name")
        for field in ("rpm", "tpm", "concurrency"):
            value = getattr(self, field)
            if value is not None and not 1 <= value <= 1_000_000_000:
                raise InvalidRequest(f"{field} must be between 1 and 1000000000", param=field)
        if self.budget_usd is not None and not 0 <= self.budget_usd <= 9_000_000_000:
            raise InvalidRequest("budget_usd must be between 0 and 9000000000", param="budget_usd")
        if self.expires_in_s is not None and not 0 < self.expires_in_s <= 3_153_600_000:
            raise InvalidRequest("expires_in_s must be above 0 and at most 100 years", param="expires_in_s")
        for field in ("tags", "models", "policies", "allowed_tags"):
            words = getattr(self, field)
            if len(words) > 50 or any(not word or len(word) > 100 for word in words):
                raise InvalidRequest(f"at most 50 {field} of 1 to 100 characters", param=field)
        for field in ("organisation", "team", "project"):
            if len(getattr(self, field)) > 100:
                raise InvalidRequest(f"{field} must have at most 100 characters", param=field)
        if not self.organisation:
            raise InvalidRequest("organisation must have 1 to 100 characters", param="organisation")

    def fields(self) -> dict[str, Any]:
        """As a KeyRecord has them, but for its end."""
        fields = msgspec.structs.asdict(self)
        usd = fields.pop("budget_usd")
        del fields["expires_in_s"]
        return fields | {"budget_nano": None if usd is None else _nano(usd)}


Shown = list[dict[str, Any]]
Exported = list[dict[str, Any]]
Records = list[KeyRecord]


def read(given: dict[str, Any]) -> NewKey:
    """What is asked for. Raises InvalidRequest."""
    try:
        wanted = msgspec.convert(given, NewKey)
    except msgspec.ValidationError as error:
        raise InvalidRequest(str(error)) from None
    wanted.check()
    return wanted


def _nano(usd: float) -> int:
    """Dollars as they were written to nano-dollars: a product of floats is off by some above $9 million."""
    return int((Decimal(str(usd)) * NANO).to_integral_value())


def public(record: KeyRecord) -> dict[str, Any]:
    """A definition as it may be shown: no hash, money in dollars."""
    shown = msgspec.to_builtins(record)
    del shown["hash"]
    nano = shown.pop("budget_nano")
    shown["budget_usd"] = None if nano is None else nano / NANO
    return dict(shown)
