"""Files nobody else on the machine can read, and that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from gateway.types import Principal

T = TypeVar("T")

EVERYBODY = None
"""Whose an admin may look at: no one owner's."""
_ID = re.compile(r"[a-z]+[-_][0-9a-f]{24}")
_AT_ONCE, _PAUSE_S = 20, 0.001


def owner_of(principal: Principal) -> str:
    """The folder of what a caller makes: its team's, else its key's."""
    kind, name = ("team", principal.team) if principal.team else ("key", principal.key_id)
    return hashlib.sha256("\0".join((principal.organisation, kind, name)).encode()).hexdigest()[:24]


def seen_by(principal: Principal) -> str | None:
    """Whose files and batches a caller may see: its owner's, an admin ``EVERYBODY``'s."""
    return EVERYBODY if principal.admin else owner_of(principal)


def new_id(prefix: str) -> str:
    """``prefix`` ends in the mark between the words; ids sort as they were made."""
    return f"{prefix}{time.time_ns() // 1_000_000:011x}{secrets.randbits(52):013x}"


def is_id(text: str) -> bool:
    """Whether it may name a file here; a client says it."""
    return _ID.fullmatch(text) is not None


def private_folder(path: Path) -> Path:
    """``path`` and what is missing above it, closed to everybody else: ``mkdir`` leaves parents open."""
    if not path.is_dir():
        private_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
    return path


def create(path: Path) -> int:
    """A file descriptor to append to. Raises FileExistsError."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)


def append(descriptor: int, data: bytes) -> None:
    """All of it, on disk when this returns."""
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
    os.fsync(descriptor)


def write(path: Path, data: bytes) -> None:
    """In place of what was there, at once."""
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = create(fresh)
    try:
        append(descriptor, data)
    finally:
        os.close(descriptor)
    fresh.replace(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """What was renamed or made in it outlasts a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path, kind: type[T]) -> T | None:
    """The JSON in a file; None where there is none, or none that can be read."""
    with contextlib.suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def folders(root: Path, owner: str | None) -> list[Path]:
    """One owner's, or everybody's."""
    if owner is not EVERYBODY:
        return [root / owner]
    with contextlib.suppress(FileNotFoundError):
        return sorted(path for path in root.iterdir() if path.is_dir())
    return []


def gently(items: Iterable[T]) -> Iterator[T]:
    """For threads beside an event loop: tens of thousands of small steps hold up no request for long."""
    for count, item in enumerate(items):
        if count % _AT_ONCE == _AT_ONCE - 1:
            time.sleep(_PAUSE_S)
        yield item
