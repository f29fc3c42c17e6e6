"""Downloading one file: resumed where it broke off, digest checked, never half there under its final name."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

import httpx

CHUNK = 1 << 18
ATTEMPTS = 5
TIMEOUT = httpx.Timeout(30.0, connect=10.0)


class FetchError(RuntimeError):
    """A model could not be fetched; the message says which file, from where and why."""


class DigestMismatch(FetchError):
    """What arrived is not what was promised. The file has been removed."""


class _Broken(Exception):
    """The connection broke; what has arrived so far is kept."""


class Progress(Protocol):
    """Told how far a stage (`download`, `extract`, `quantize`, `wait`) is: bytes done, bytes in all or None."""

    def __call__(self, stage: str, done: int, total: int | None) -> None: ...


def silent(stage: str, done: int, total: int | None) -> None:
    """A Progress that shows nothing."""


def client(verify: ssl.SSLContext | bool = True) -> httpx.Client:
    """An HTTP client that follows redirects and honours the proxy and certificate variables of the environment."""
    return httpx.Client(verify=verify, timeout=TIMEOUT, follow_redirects=True)


def download(
    http: httpx.Client,
    url: str,
    target: Path,
    sha256: str,
    progress: Progress = silent,
    headers: Mapping[str, str] | None = None,
) -> Path:
    """Fetch `url` (http, https, file) to `target`, resuming `<target>.part` where there is one.

    Raises DigestMismatch when the sha256 differs, FetchError when the server refuses or the connection broke
    ATTEMPTS times in a row without a byte of progress.
    """
    part = target.with_name(target.name + ".part")
    if urlsplit(url).scheme == "file":
        copy_checked(Path(unquote(urlsplit(url).path)), part, sha256, progress)
    else:
        _retrying(lambda: _attempt(http, url, part, progress, headers or {}), part, url)
        verify_digest(part, sha256)
    os.replace(part, target)
    return target


def _retrying(attempt: Callable[[], None], part: Path, url: str) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            return attempt()
        except _Broken as error:
            failures = 0 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise FetchError(f"{url}: {error}; what arrived is kept and the next pull resumes it") from error
            time.sleep(min(0.1 * 2**failures, 2.0))


def _attempt(http: httpx.Client, url: str, part: Path, progress: Progress, headers: Mapping[str, str]) -> None:
    done = _size(part)
    asked = {**headers, "Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        with http.stream("GET", url, headers=asked) as response:
            if response.status_code == 416:
                # Nothing is left to send, or the part is longer than the file: the digest tells which.
                return
            if response.status_code >= 500 or response.status_code == 429:
                raise _Broken(f"the server answers {response.status_code}")
            if response.status_code not in (200, 206):
                raise FetchError(f"{url}: the server answers {response.status_code}")
            _receive(response, part, done if response.status_code == 206 else 0, progress)
    except httpx.TransportError as error:
        raise _Broken(f"{type(error).__name__}: {error}") from error


def _receive(response: httpx.Response, part: Path, done: int, progress: Progress) -> None:
    length = response.headers.get("content-length")
    total = done + int(length) if length is not None else None
    with part.open("r+b" if done else "wb") as file:
        file.seek(done)
        progress("download", done, total)
        # Without a size: iter_raw(size) would hold back, and lose, what came since its last full chunk.
        for chunk in response.iter_raw():
            file.write(chunk)
            done += len(chunk)
            progress("download", done, total)
        file.truncate()


def verify_digest(path: Path, sha256: str) -> None:
    """Raise DigestMismatch, and remove the file, unless its sha256 is this one."""
    with path.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != sha256:
        path.unlink()
        raise DigestMismatch(f"{path.name}: sha256 is {actual}, expected {sha256}; removed")


def copy_checked(source: Path, target: Path, sha256: str | None, progress: Progress = silent) -> None:
    """Copy a local file, checking its digest if there is one to check."""
    try:
        shutil.copyfile(source, target)
    except OSError as error:
        raise FetchError(f"{source}: {error.strerror}") from error
    progress("download", size := _size(target), size)
    if sha256:
        verify_digest(target, sha256)


@contextlib.contextmanager
def locked(path: Path, progress: Progress = silent) -> Iterator[None]:
    """Hold the lock file: one process at a time, released by the system when its holder dies."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("wait", 0, None)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
