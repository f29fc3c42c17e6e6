"""Graphs on disk, so that a worker that starts need not build them again: for a million vectors that takes minutes.

A snapshot is never believed about what is stored: :meth:`Partitions.refill` compares it with Redis. It is written by
one worker of a machine at a time, as files that a manifest names, with their length and checksum; a rename of the
manifest puts them in force. Vectors of what was removed are not in it. Not memory-mapped: a mapped graph cannot grow.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import secrets
import shutil
import time
import zlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import numpy as np

from gateway.cache.segment import Segment

EVERY_S = 60.0
_FORMAT = 1
_MANIFEST = "cache-index.json"
_CHUNK = 1 << 20


class _File(msgspec.Struct, frozen=True):
    name: str
    size: int
    crc32: int


class _Part(msgspec.Struct, frozen=True):
    partition: str
    graph: _File
    ids: _File


class _Manifest(msgspec.Struct, frozen=True):
    format: int
    parts: list[_Part]


@contextmanager
def held(data_dir: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock on a data folder's snapshots: nobody writes one meanwhile. Yields whether it is held."""
    lock = os.open(data_dir / "snapshots.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(lock)


def remove_all(data_dir: Path) -> None:
    """Delete a data folder's snapshots; one that is being written goes as well."""
    if data_dir.is_dir():
        with held(data_dir):
            shutil.rmtree(data_dir / "snapshots", ignore_errors=True)


class Snapshots:
    """The snapshots in one data folder."""

    def __init__(self, data_dir: Path, every_s: float = EVERY_S) -> None:
        self._data_dir, self._folder, self._every_s = data_dir, data_dir / "snapshots", every_s

    async def load(self) -> dict[str, Segment]:
        """Graphs by partition; none where there is no snapshot, or it is not whole."""
        return await asyncio.to_thread(self._load)

    async def save(self, graphs: Mapping[str, Segment], caught_up: Callable[[], Awaitable[bool]]) -> bool:
        """Write all graphs, unless another worker is at it or was a short while ago. Nothing adds to them meanwhile.

        ``caught_up`` says, once nobody can begin to erase snapshots, whether all removals so far have been applied.
        """
        if not self.due():
            return False
        await asyncio.to_thread(self._folder.mkdir, 0o700, True, True)
        with held(self._data_dir, wait=False) as mine:
            if not mine or not self.due() or not await caught_up():
                return False
            for each in graphs.values():
                each.overwrite_dead()
            await asyncio.to_thread(self._save, graphs)
            return True

    def due(self) -> bool:
        """Whether the last one, by whomever, is old enough."""
        try:
            return time.time() - (self._folder / _MANIFEST).stat().st_mtime >= self._every_s
        except FileNotFoundError:
            return True

    async def remove(self) -> None:
        """Nothing is worth keeping, or may be kept."""
        if (self._folder / _MANIFEST).exists():
            await asyncio.to_thread(remove_all, self._data_dir)

    def _save(self, graphs: Mapping[str, Segment]) -> None:
        token = secrets.token_hex(4)
        parts = []
        for number, (partition, graph) in enumerate(graphs.items()):
            name = f"cache-index-{token}-{number}"
            alive = graph.alive
            names = "\n".join(entry if alive[place] else "" for place, entry in enumerate(graph.ids))
            (self._folder / f"{name}.ids").write_text(names)
            graph.write(self._folder / f"{name}.graph")
            parts.append(_Part(partition, self._described(f"{name}.graph"), self._described(f"{name}.ids")))
        staged = self._folder / f".{_MANIFEST}.{token}"
        staged.write_bytes(msgspec.json.encode(_Manifest(_FORMAT, parts)))
        os.replace(staged, self._folder / _MANIFEST)
        for path in self._folder.glob("cache-index-*"):
            if not path.name.startswith(f"cache-index-{token}-"):
                path.unlink(missing_ok=True)

    def _described(self, name: str) -> _File:
        path = self._folder / name
        path.chmod(0o600)
        return _File(name, path.stat().st_size, _checksum(path))

    def _load(self) -> dict[str, Segment]:
        try:
            manifest = msgspec.json.decode((self._folder / _MANIFEST).read_bytes(), type=_Manifest)
            if manifest.format != _FORMAT:
                return {}
            return {part.partition: self._graph(part) for part in manifest.parts}
        except (
            OSError,
            ValueError,
            msgspec.MsgspecError,
            RuntimeError,
        ):  # the last is FAISS's
            return {}

    def _graph(self, part: _Part) -> Segment:
        for file in (part.graph, part.ids):
            path = self._folder / file.name
            if path.stat().st_size != file.size or _checksum(path) != file.crc32:
                raise ValueError(f"{path} is not as it was written")
        ids = (self._folder / part.ids.name).read_text().split("\n")
        return Segment.read(
            self._folder / part.graph.name, ids, np.array([bool(entry) for entry in ids], dtype=np.bool_)
        )


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value
