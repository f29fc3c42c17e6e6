"""Files that clients upload, and those that batches make: bytes and a sidecar, in the folder of their owner."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.batches import disk
from gateway.types import Frozen

KEPT_S = 30 * 86_400
LEAST_KEPT_S = 3_600
_UNFINISHED_S = 86_400

Purpose = Literal["batch", "batch_output"]


class StoredFile(Frozen, frozen=True, kw_only=True):
    """Times are epoch seconds. ``key_id``: of the key that made it; ``batch``: the batch that did."""

    id: str
    owner: str
    key_id: str
    filename: str
    bytes: int
    created_at: int
    expires_at: int
    purpose: Purpose = "batch"
    batch: str = ""

    def shown(self) -> dict[str, Any]:
        """OpenAI's file object."""
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.bytes,
            "created_at": self.created_at,
            "expires_at": self.expires_at,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
            "status_details": None,
        }


class FileStore:
    """Under ``data_dir/files``. Everything here blocks: it is for threads."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "files"

    def unfinished(self, owner: str) -> Path:
        """Where the bytes of a new file may be written."""
        return disk.private_folder(self.root / owner) / f".{disk.new_id('part-')}"

    def keep(self, unfinished: Path, file: StoredFile) -> None:
        """Its bytes, which are on disk by then, become a file; one of the same id is replaced."""
        unfinished.replace(self.path(file))
        disk.write(self._sidecar(file), msgspec.json.encode(file))

    def path(self, file: StoredFile) -> Path:
        return self.root / file.owner / f"{file.id}.jsonl"

    def find(self, file_id: str, owner: str | None) -> StoredFile | None:
        """A file that ``owner`` may see and that has not expired."""
        if not disk.is_id(file_id):
            return None
        for folder in disk.folders(self.root, owner):
            file = disk.read(folder / f"{file_id}.json", StoredFile)
            if file is not None and file.expires_at > time.time():
                return file
        return None

    def all(self, owner: str | None) -> list[StoredFile]:
        """Newest first."""
        found = [file for file in self._read(owner) if file.expires_at > time.time()]
        return sorted(found, key=lambda file: (file.created_at, file.id), reverse=True)

    def delete(self, file: StoredFile) -> None:
        self._sidecar(file).unlink(missing_ok=True)
        self.path(file).unlink(missing_ok=True)

    def expire(self, in_use: set[str]) -> None:
        """Delete what is too old, and what an upload that broke off has left."""
        now = time.time()
        for file in self._read(disk.EVERYBODY):
            if file.expires_at <= now and file.id not in in_use:
                self.delete(file)
        for folder in disk.folders(self.root, disk.EVERYBODY):
            for left in folder.glob(".*"):
                with contextlib.suppress(FileNotFoundError):
                    if left.stat().st_mtime < now - _UNFINISHED_S:
                        left.unlink()

    def _read(self, owner: str | None) -> list[StoredFile]:
        sidecars = (path for folder in disk.folders(self.root, owner) for path in folder.glob("file-*.json"))
        found = (disk.read(path, StoredFile) for path in sidecars)
        return [file for file in found if file is not None]

    def _sidecar(self, file: StoredFile) -> Path:
        return self.root / file.owner / f"{file.id}.json"


def room_on_disk(folder: Path, wanted: int) -> bool:
    """Whether the disk holds ``wanted`` bytes more; a folder that is not there yet lies on its parent's."""
    while not folder.exists():
        folder = folder.parent
    held = os.statvfs(folder)
    return held.f_bavail * held.f_frsize >= wanted
