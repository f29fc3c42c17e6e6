"""Finding a wheel on the package index: the simple API (PEP 503 in HTML, PEP 691 in JSON), set up as pip is."""

from __future__ import annotations

import ast
import json
import os
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

import httpx
import msgspec
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from local_models.download import FetchError

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
PUBLIC_INDEX = "https://pypi.org/simple"


class IndexConfig(msgspec.Struct, frozen=True):
    """Where pip would look: index addresses in order, and the file of certificate authorities, if one is set."""

    indexes: tuple[str, ...]
    cert: str | None = None

    def ssl_context(self) -> ssl.SSLContext | bool:
        """Verification against pip's own `cert`, else the HTTP client's default."""
        return ssl.create_default_context(cafile=self.cert) if self.cert else True


def read_config(environ: Mapping[str, str] = os.environ) -> IndexConfig:
    """pip's configuration: PIP_* variables first, then its files, as pip itself reports them."""
    settings = _pip_settings()

    def setting(name: str) -> str:
        return environ.get("PIP_" + name.upper().replace("-", "_"), settings.get(name, ""))

    indexes = [setting("index-url") or PUBLIC_INDEX, *setting("extra-index-url").split()]
    return IndexConfig(tuple(index.rstrip("/") for index in indexes), setting("cert") or None)


def _pip_settings() -> dict[str, str]:
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    settings: dict[str, str] = {}
    for line in listing.stdout.splitlines():
        key, _, value = line.partition("=")
        if key.startswith(("global.", "download.")):
            settings[key.partition(".")[2]] = str(ast.literal_eval(value))
    return settings


def find_wheel(http: httpx.Client, config: IndexConfig, project: str, version: str, sha256: str) -> str:
    """Address of the wheel with this digest. FetchError when no index has it, naming those that were asked.

    An index that states no digest is believed as far as the file's name; the digest is checked after download.
    """
    told: list[str] = []
    for index in config.indexes:
        try:
            for filename, url, digest in _files(http, index, project):
                if _is_wheel(filename, project, version) and digest in (sha256, None):
                    return url
            told.append(f"{_shown(index)}: no such wheel")
        except (FetchError, httpx.HTTPError, OSError) as error:
            told.append(f"{_shown(index)}: {error}")
    raise FetchError(f"wheel {project}=={version} not found; {'; '.join(told)}")


def _files(http: httpx.Client, index: str, project: str) -> Iterator[tuple[str, str, str | None]]:
    page = f"{index}/{canonicalize_name(project)}/"
    if urlsplit(page).scheme == "file":
        text = (Path(unquote(urlsplit(page).path)) / "index.html").read_text(encoding="utf-8")
        return _from_html(text, page)
    response = http.get(page, headers={"Accept": ACCEPT})
    if response.status_code != 200:
        raise FetchError(f"the index answers {response.status_code}")
    if "json" in response.headers.get("content-type", ""):
        return _from_json(json.loads(response.text), page)
    return _from_html(response.text, page)


def _from_json(body: Any, page: str) -> Iterator[tuple[str, str, str | None]]:
    for file in body["files"]:
        yield file["filename"], _absolute(page, file["url"]), file["hashes"].get("sha256")


def _from_html(text: str, page: str) -> Iterator[tuple[str, str, str | None]]:
    parser = _Anchors()
    parser.feed(text)
    for href in parser.hrefs:
        url, fragment = urldefrag(_absolute(page, href))
        algorithm, _, digest = fragment.partition("=")
        yield unquote(url.rpartition("/")[2]), url, digest if algorithm == "sha256" else None


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.hrefs: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.hrefs += [value for name, value in attrs if tag == "a" and name == "href" and value]


def _absolute(page: str, href: str) -> str:
    url, base = urlsplit(urljoin(page, href)), urlsplit(page)
    if base.username and not url.username and url.hostname == base.hostname:
        # A private index wants its credentials for the files too; another host must not see them.
        url = url._replace(netloc=f"{base.netloc.rpartition('@')[0]}@{url.netloc}")
    return url.geturl()


def _is_wheel(filename: str, project: str, version: str) -> bool:
    try:
        name, found, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename:
        return False
    return name == canonicalize_name(project) and found == Version(version)


def _shown(index: str) -> str:
    url = urlsplit(index)
    return url._replace(netloc=url.netloc.rpartition("@")[2]).geturl()
