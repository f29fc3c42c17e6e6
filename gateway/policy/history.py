"""What the policies have been: every set of files that was in force, so that one can be put back.

A version is a JSON file in the data folder, named by a hash of its content, so that workers that load the same files
write the same version. The newest 50 are kept.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from gateway.errors import NotFound

KEPT = 50
_ID_DIGITS = 12


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """``files``: text by name. ``used_ms``: when it was last put in force, epoch milliseconds."""

    id: str
    used_ms: int
    policies: tuple[str, ...]
    files: dict[str, str]


class History:
    """The versions in a folder. Every method reads or writes files: off the loop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def record(self, files: Mapping[str, str], policies: tuple[str, ...]) -> Version:
        """Note that these files are in force now. Raises OSError."""
        digest = hashlib.sha256(msgspec.json.encode(dict(files), order="deterministic")).hexdigest()[:_ID_DIGITS]
        version = Version(id=digest, used_ms=int(time.time() * 1000), policies=policies, files=dict(files))
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        written = self._folder / f".{digest}-{os.getpid()}"
        written.write_bytes(msgspec.json.encode(version))
        written.replace(self._folder / f"{digest}.json")
        for old in self.versions()[KEPT:]:
            (self._folder / f"{old.id}.json").unlink(missing_ok=True)
        return version

    def versions(self) -> list[Version]:
        """The newest first."""
        found = []
        for path in self._folder.glob("*.json"):
            try:
                found.append(msgspec.json.decode(path.read_bytes(), type=Version))
            except (OSError, msgspec.MsgspecError):  # removed meanwhile, or cut short by a full disk
                continue
        return sorted(found, key=lambda version: -version.used_ms)

    def get(self, version_id: str) -> Version:
        """Raises NotFound."""
        found = next((version for version in self.versions() if version.id == version_id), None)
        if found is None:
            message = f"no version '{version_id}' of the policies is known"
            raise NotFound(message, code="unknown_version", param="version")
        return found


def read_files(folder: Path) -> dict[str, str]:
    """The policy files of a folder and their cases, by their path in it. Raises OSError, UnicodeDecodeError."""
    return {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in _files(folder)}


def read_bytes(folder: Path) -> dict[str, bytes]:
    """The same as it stands there, text or not, without pipes and links to nowhere. Raises OSError."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in _files(folder) if path.is_file()}


def write_files(folder: Path, files: Mapping[str, str] | Mapping[str, bytes]) -> None:
    """Make the folder hold exactly these policies and cases; each is replaced in one step. Raises OSError."""
    for path in _files(folder):
        if str(path.relative_to(folder)) not in files:
            path.unlink()
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        written = path.with_name(f".{path.name}.new")
        written.write_bytes(content.encode() if isinstance(content, str) else content)
        written.replace(path)


def _files(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("cases/*.yaml")])
