"""Kept prompts and answers under keys of the operator's: AES-256-GCM (NIST SP 800-38D), a random nonce for each.

``Content.form`` says under which key, ``encrypted:<key id>``: the beginning of that key's SHA-256, which tells nobody
the key. A request's id and which of the two it is are authenticated with them, so that nothing stored under one
request can be passed off as another's. ``cryptography`` is imported where there is a key, not before.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from gateway.errors import ConfigError
from gateway.types import Content

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    from gateway.config import Settings

SETTING = "ledger.encryption_keys"
SEALED = "encrypted:"
_KEY_BYTES, _NONCE_BYTES = 32, 12
_ID_LENGTH = 8


class Sealed(ValueError):
    """It cannot be opened: no key, another key, or other bytes than were sealed. ``str()`` says which."""


class Seal:
    """``keys``: 32 bytes each, the newest first. New contents go under that one, old ones open with any."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._keys: dict[str, AESGCM] = {key_id(key): AESGCM(key) for key in keys}
        self._newest = key_id(keys[0])

    def close(self, content: Content) -> Content:
        """The same under the newest key."""
        prompt, answer = map(self._closed, (content.prompt, content.answer), _about(content))
        return msgspec.structs.replace(content, prompt=prompt, answer=answer, form=SEALED + self._newest)

    def open(self, content: Content) -> Content:
        """As it was before it was sealed. Raises Sealed."""
        from cryptography.exceptions import InvalidTag

        named = content.form.removeprefix(SEALED)
        key = self._keys.get(named)
        if key is None:
            raise Sealed(f"encrypted under key {named}, which {SETTING} does not have")
        try:
            prompt, answer = (
                key.decrypt(part[:_NONCE_BYTES], part[_NONCE_BYTES:], about)
                for part, about in zip((content.prompt, content.answer), _about(content), strict=True)
            )
        except (InvalidTag, ValueError):
            raise Sealed(f"encrypted under key {named}, and not what was stored any more") from None
        return msgspec.structs.replace(content, prompt=prompt, answer=answer, form="plain")

    def _closed(self, part: bytes, about: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._keys[self._newest].encrypt(nonce, part, about)


def readable(content: Content, seal: Seal | None) -> Content:
    """A content that can be read, opened where it is encrypted. Raises Sealed."""
    if not content.form.startswith(SEALED):
        return content
    if seal is None:
        raise Sealed(f"encrypted under key {content.form.removeprefix(SEALED)}, and {SETTING} names no key")
    return seal.open(content)


def seal_of(settings: Settings) -> Seal | None:
    """With the configured keys that are set; None where there is none.

    Raises:
        ConfigError: one is not 32 bytes in base64.
    """
    written = [(at, key) for at, key in enumerate(settings.config.ledger.encryption_keys) if key]
    return Seal([_read(key, at, settings.file) for at, key in written]) if written else None


def key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:_ID_LENGTH]


def _read(written: str, at: int, file: str) -> bytes:
    """What ``openssl rand -base64 32`` prints, in either alphabet of base64."""
    try:
        key = base64.b64decode(written.strip().replace("-", "+").replace("_", "/"), validate=True)
    except binascii.Error:
        key = b""
    if len(key) != _KEY_BYTES:
        raise ConfigError("not 32 bytes in base64 (openssl rand -base64 32)", file=file, path=f"{SETTING}[{at}]")
    return key


def _about(content: Content) -> tuple[bytes, bytes]:
    named = content.request_id.encode()
    return b"prompt:" + named, b"answer:" + named
