"""Taking somebody out of files and batches: a key with all it made, an end user with the lines that name them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import msgspec

from gateway.batches import disk
from gateway.batches.files import FileStore, StoredFile
from gateway.batches.records import Asked
from gateway.batches.store import BatchStore

_BLANK = b" "


class _Body(msgspec.Struct):
    user: Any = None
    metadata: Any = None


class _Line(msgspec.Struct):
    custom_id: Any = None
    body: _Body | None = None


class _Said(msgspec.Struct):
    custom_id: Any = None


class _Entry(msgspec.Struct):
    said: _Said


def erase(data_dir: Path, who: Literal["user", "key"], name: str) -> int:
    """How many files and batches, or lines of files, are gone. Blocks; a batch at work goes on without them."""
    files, batches = FileStore(data_dir), BatchStore(data_dir)
    return _erase_key(files, batches, name) if who == "key" else _erase_user(files, batches, name)


def _erase_key(files: FileStore, batches: BatchStore, key_id: str) -> int:
    gone = 0
    for batch in map(batches.load, batches.all(disk.EVERYBODY)):
        if batch is not None and batch.asked.key_id == key_id:
            batches.remove(batch)
            gone += 1
    for file in files.all(disk.EVERYBODY):
        if file.key_id == key_id:
            files.delete(file)
            gone += 1
    return gone


def _erase_user(files: FileStore, batches: BatchStore, user: str) -> int:
    """Blank the lines that they are the ``user`` of, wherever those stand, and what was answered to them.

    In place and of the same length: who reads or writes the file meanwhile keeps its place.
    """
    gone, made = 0, files.all(disk.EVERYBODY)
    asked = [batch.asked for batch in map(batches.load, batches.all(disk.EVERYBODY)) if batch is not None]
    for file in made:
        if file.purpose != "batch":
            continue
        lines, names = _blank_requests(files.path(file), user)
        gone += lines
        if names:
            for batch in asked:
                if batch.input_file_id == file.id:
                    gone += _blank_answers(batch, made, files, batches, names)
    return gone


def _blank_answers(asked: Asked, made: list[StoredFile], files: FileStore, batches: BatchStore, names: set[str]) -> int:
    outputs = [files.path(file) for file in made if file.batch == asked.id]
    answered = sum(_blank(path, lambda data: _named(data, _Said, names)) for path in outputs)
    return answered + sum(_blank(path, lambda data: _named(data, _Entry, names)) for path in batches.parts(asked))


def _named(data: bytes, kind: type[_Said] | type[_Entry], names: set[str]) -> bool:
    try:
        found = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return False
    said = found.said if isinstance(found, _Entry) else found
    return said.custom_id in names


def _blank_requests(path: Path, user: str) -> tuple[int, set[str]]:
    names = set[str]()

    def theirs(data: bytes) -> bool:
        try:
            line = msgspec.json.decode(data, type=_Line)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            return False
        metadata = line.body.metadata if line.body else None
        named = metadata.get("user_id") if isinstance(metadata, dict) else None
        if line.body is None or user not in (line.body.user, named):
            return False
        names.add(str(line.custom_id))
        return True

    return _blank(path, theirs), names


def _blank(path: Path, theirs: Any) -> int:
    """Spaces in place of each line that is theirs; how many there were."""
    found = 0
    try:
        with path.open("r+b") as file:
            while data := file.readline():
                stripped = data.rstrip(b"\r\n")
                if stripped and theirs(stripped):
                    after = file.tell()
                    file.seek(after - len(data))
                    file.write(_BLANK * len(stripped))
                    file.seek(after)
                    found += 1
    except FileNotFoundError:
        return found
    return found
