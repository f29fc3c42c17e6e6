"""Asking the Hugging Face hub (or a mirror: HF_ENDPOINT) for the place and the digest of a file.

The hub answers for a file in LFS with `x-linked-etag`, the sha256 of its content, and redirects to a CDN.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import quote

import httpx
import msgspec

from local_models.catalog import HubSource
from local_models.download import FetchError

PUBLIC_ENDPOINT = "https://huggingface.co"


class HubFile(msgspec.Struct, frozen=True):
    """Where a file of the hub is (at one commit), what to send when asking for it, and what it must hash to."""

    url: str
    headers: dict[str, str]
    sha256: str


def locate(http: httpx.Client, source: HubSource, environ: Mapping[str, str] = os.environ) -> HubFile:
    """The file as the hub has it now, pinned to its commit. FetchError if it is gated, gone or without a digest."""
    endpoint = environ.get("HF_ENDPOINT", PUBLIC_ENDPOINT).rstrip("/")
    token = environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    url = _address(endpoint, source, "main")
    try:
        response = http.head(url, headers={**headers, "Accept-Encoding": "identity"}, follow_redirects=False)
    except httpx.TransportError as error:
        raise FetchError(f"{url}: {error}") from error
    if response.status_code >= 400:
        raise FetchError(f"{url}: {_refusal(response.status_code)}")
    digest = response.headers.get("x-linked-etag", "").strip('"')
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise FetchError(f"{url}: the hub reports no sha256 for this file, so it cannot be checked")
    commit = response.headers.get("x-repo-commit", "main")
    return HubFile(_address(endpoint, source, commit), headers, digest)


def _address(endpoint: str, source: HubSource, revision: str) -> str:
    return f"{endpoint}/{source.repo}/resolve/{quote(revision, safe='')}/{quote(source.file)}"


def _refusal(status: int) -> str:
    if status in (401, 403):
        return f"the hub answers {status}: gated or private, accept its licence there and set HF_TOKEN"
    return "no such file on the hub" if status == 404 else f"the hub answers {status}"
