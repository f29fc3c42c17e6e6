"""Batches on disk: what was asked never changes, and each who works on one writes files of its own.

``data_dir/batches/<owner>/<id>/`` holds ``asked.json``, ``cancel`` once that is wanted, and for each holder in turn
``<number>.json`` (its :class:`Progress`) and ``<number>.results`` (:mod:`gateway.batches.journal`). The highest number
counts: a holder that was taken for dead and goes on writing changes nothing that anybody reads as the state.
``data_dir/batches/pending/<id>`` names the owner of each that is not over.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from pathlib import Path

import msgspec

from gateway.batches import disk
from gateway.batches.files import KEPT_S
from gateway.batches.records import Asked, Batch, Progress

_PENDING = "pending"
_STARTED_S = 3_600


class Hold(msgspec.Struct, frozen=True):
    """One holder's place: the ``number``th, with a journal that is open for appending."""

    folder: Path
    number: int
    descriptor: int

    def save(self, progress: Progress) -> None:
        disk.write(self.folder / f"{self.number:06}.json", msgspec.json.encode(progress))


class BatchStore:
    """Everything here blocks: it is for threads."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "batches"
        self._pending = self.root / _PENDING

    def folder(self, asked: Asked) -> Path:
        return self.root / asked.owner / asked.id

    def create(self, asked: Asked) -> None:
        marker = disk.private_folder(self._pending) / asked.id
        disk.write(marker, asked.owner.encode())  # before it is there: nothing that is there is ever overlooked
        folder = disk.private_folder(self.folder(asked))
        disk.write(folder / "asked.json", msgspec.json.encode(asked))

    def find(self, batch_id: str, owner: str | None) -> Batch | None:
        """A batch that ``owner`` may see."""
        if not disk.is_id(batch_id):
            return None
        found = (self._read(folder / batch_id) for folder in self._owners(owner))
        return next((batch for batch in found if batch is not None), None)

    def all(self, owner: str | None) -> list[Path]:
        """The folders of all batches, newest first; ``load`` reads one."""
        there = (path for folder in self._owners(owner) for path in folder.glob("batch_*"))
        return sorted(there, key=lambda path: path.name, reverse=True)

    def load(self, folder: Path) -> Batch | None:
        return self._read(folder)

    def cancel(self, asked: Asked) -> None:
        with contextlib.suppress(FileExistsError):
            os.close(disk.create(self.folder(asked) / "cancel"))

    def exists(self, asked: Asked) -> bool:
        """Not once it was erased."""
        return (self.folder(asked) / "asked.json").exists()

    def cancelling_at(self, asked: Asked) -> int | None:
        return _when(self.folder(asked) / "cancel")

    def waiting(self) -> list[Asked]:
        """Those that are not over, oldest first."""
        found: list[Asked] = []
        for marker in sorted(self._pending.glob("batch_*")) if self._pending.exists() else ():
            with contextlib.suppress(OSError):
                asked = disk.read(self.root / marker.read_text() / marker.name / "asked.json", Asked)
                if asked is not None:
                    found.append(asked)
                elif marker.stat().st_mtime < time.time() - _STARTED_S:
                    marker.unlink()
        return found

    def progress(self, asked: Asked) -> Progress:
        """As its last holder left it."""
        return _progress(self.folder(asked))

    def hold(self, asked: Asked) -> Hold:
        """A place behind all who held it before."""
        folder = self.folder(asked)
        while True:
            number = max((int(path.stem) for path in folder.glob("[0-9]*.*")), default=0) + 1
            with contextlib.suppress(FileExistsError):
                return Hold(folder, number, disk.create(folder / f"{number:06}.results"))

    def parts(self, asked: Asked) -> list[Path]:
        """The journals of all holders, oldest first."""
        return sorted(self.folder(asked).glob("*.results"))

    def over(self, asked: Asked) -> None:
        """Nobody is to work on it any more, and its output holds what its journals did."""
        (self._pending / asked.id).unlink(missing_ok=True)
        for part in self.parts(asked):
            part.unlink(missing_ok=True)

    def remove(self, batch: Batch) -> None:
        (self._pending / batch.asked.id).unlink(missing_ok=True)
        shutil.rmtree(self.folder(batch.asked), ignore_errors=True)

    def expire(self) -> None:
        """Remove those that ended as long ago as a file is kept."""
        for folder in self.all(disk.EVERYBODY):
            batch = self._read(folder)
            if batch is not None and (batch.progress.ended_at or time.time()) < time.time() - KEPT_S:
                self.remove(batch)

    def _owners(self, owner: str | None) -> list[Path]:
        return [folder for folder in disk.folders(self.root, owner) if folder.name != _PENDING]

    def _read(self, folder: Path) -> Batch | None:
        asked = disk.read(folder / "asked.json", Asked)
        if asked is None:
            return None
        return Batch(asked=asked, progress=_progress(folder), cancelling_at=_when(folder / "cancel"))


def _progress(folder: Path) -> Progress:
    for path in sorted(folder.glob("[0-9]*.json"), reverse=True):
        if (progress := disk.read(path, Progress)) is not None:
            return progress
    return Progress()


def _when(path: Path) -> int | None:
    try:
        return int(path.stat().st_mtime)
    except OSError:
        return None
