"""Kept conversations on disk: what was computed for a prompt survives a restart of the process.

A file holds the tokens and their keys and values as llama.cpp writes them, under a fingerprint of the model and a
checksum, since llama.cpp trusts what it reads. A file that is stale, cut or changed is deleted and counts as a miss.
The files are prompts and answers at rest: for the owner only, gone a day after their last use, safe to delete any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import struct
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np

from local_models.chat.context import State, Tokens
from local_models.chat.prefix import Kept, common

logger = logging.getLogger(__name__)

_MAGIC, _DIGEST = b"FKV1", 16
_HEAD = struct.Struct(f"<4s{_DIGEST}sI")
# A short prompt is computed sooner than it is read back.
LEAST = 64
_AGE_SECONDS = 86_400.0
# Bytes that may wait to be written; what comes while the disk is slower than that is not kept.
_WAITING_BYTES = 256 << 20
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 16


class Stored(msgspec.Struct, frozen=True, eq=False):
    """A file, the tokens it begins with, and its size."""

    path: Path
    tokens: Tokens
    size: int


def fingerprint(model: Path, kind: str) -> bytes:
    """What a file must agree with: the model's content (its size and samples of it), llama.cpp, the `kind` of cache."""
    version, size = importlib.metadata.version("llama-cpp-python"), model.stat().st_size
    digest = hashlib.blake2b(f"{version} {kind} {size} ".encode(), digest_size=_DIGEST)
    with model.open("rb") as file:
        for at in range(_SAMPLES):
            file.seek(size * at // _SAMPLES)
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.digest()


class Store:
    """A folder of conversations, least recently used first to go. All but the writing is for the engine's thread."""

    def __init__(self, folder: Path, budget: int, fingerprint: bytes) -> None:
        """`budget` in bytes. Raises OSError where the folder cannot be used."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder, self._budget, self._fingerprint = folder, budget, fingerprint
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="kv-store")
        self._waiting, self._lock = 0, threading.Lock()
        self._stored = list(self._found())

    def __len__(self) -> int:
        return len(self._stored)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(each.size for each in self._stored)

    def match(self, prompt: Tokens) -> tuple[Stored, int] | None:
        """The file with the longest common prefix, at least LEAST tokens; the last one is always computed again."""
        best = max(
            ((min(common(each.tokens, prompt), prompt.size - 1), each) for each in self._stored),
            key=lambda pair: pair[0],
            default=None,
        )
        return (best[1], best[0]) if best and best[0] >= LEAST else None

    def read(self, stored: Stored) -> State | None:
        """What it keeps; None, and the file is gone, where it is not what was written."""
        self._stored.remove(stored)
        try:
            data = stored.path.read_bytes()
            os.utime(stored.path)
        except OSError:
            return None
        if not self._sound(data) or data[-_DIGEST:] != _checksum(data[:-_DIGEST]):
            _remove(stored.path)
            return None
        self._stored.append(stored)
        return np.frombuffer(data, np.uint8)[_HEAD.size + 4 * stored.tokens.size : -_DIGEST]

    def keep(self, kept: Kept) -> None:
        """Write it in the background, in place of the files that only repeat its beginning."""
        size = _HEAD.size + kept.tokens.nbytes + kept.state.nbytes + _DIGEST
        if kept.tokens.size < LEAST or size > self._budget or self._waiting + size > _WAITING_BYTES:
            return
        name = hashlib.blake2b(self._fingerprint + kept.tokens.tobytes(), digest_size=_DIGEST).hexdigest()
        stored = Stored(self._folder / f"{name}.kv", kept.tokens, size)
        repeated = [each for each in self._stored if common(each.tokens, kept.tokens) == each.tokens.size]
        self._stored = [each for each in self._stored if each not in repeated]
        gone = [each for each in repeated if each.path != stored.path]
        self._stored.append(stored)
        while self.size > self._budget:
            gone.append(self._stored.pop(0))
        self._wait(size)
        self._writer.submit(self._write, stored, kept.state, gone)

    def _wait(self, size: int) -> None:
        with self._lock:
            self._waiting += size

    def _write(self, stored: Stored, state: State, gone: list[Stored]) -> None:
        head = _HEAD.pack(_MAGIC, self._fingerprint, stored.tokens.size)
        data = b"".join((head, stored.tokens.tobytes(), state.tobytes()))
        draft = stored.path.with_suffix(".new")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(data)
                file.write(_checksum(data))
            draft.replace(stored.path)
        except OSError as error:
            logger.warning("cannot keep a conversation: %s", error)
        finally:
            self._wait(-stored.size)
        for each in gone:
            _remove(each.path)

    def close(self) -> None:
        """Wait until what was kept is written."""
        self._writer.shutdown()

    def _found(self) -> Iterator[Stored]:
        """What an earlier process left, oldest first; what cannot be used is deleted."""
        ages = {}
        for path in self._folder.glob("*.*"):
            with contextlib.suppress(OSError):
                ages[path] = path.stat().st_mtime
        for path in sorted(ages, key=lambda each: ages[each]):
            stored = self._look(path) if path.suffix == ".kv" and time.time() - ages[path] < _AGE_SECONDS else None
            if stored:
                yield stored
            elif path.suffix in (".kv", ".new"):
                _remove(path)

    def _look(self, path: Path) -> Stored | None:
        try:
            with path.open("rb") as file:
                head = file.read(_HEAD.size)
                size = os.fstat(file.fileno()).st_size
                count = _HEAD.unpack(head)[2] if len(head) == _HEAD.size else 0
                if not self._sound(head) or size < _HEAD.size + 4 * count + _DIGEST:
                    return None
                return Stored(path, np.frombuffer(file.read(4 * count), np.int32), size)
        except OSError:
            return None

    def _sound(self, data: bytes) -> bool:
        return len(data) >= _HEAD.size and _HEAD.unpack_from(data)[:2] == (_MAGIC, self._fingerprint)


def _checksum(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_DIGEST).digest()


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
