"""``/v1/files``: what batches read and write, as OpenAI's clients upload and fetch it."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from gateway.auth import authenticate
from gateway.batches import disk
from gateway.batches.files import KEPT_S, LEAST_KEPT_S, StoredFile, room_on_disk
from gateway.errors import GatewayError, InvalidRequest, NotFound, Overloaded, TooLarge
from gateway.http.peer import headers_of, peer_of
from gateway.http.upload import Upload

if TYPE_CHECKING:
    from starlette.types import Scope

    from gateway.batches.runner import Runner
    from gateway.runtime import Runtime
    from gateway.types import Principal

T = TypeVar("T")

FILE_BYTES = 100 * 1024 * 1024
OWNER_BYTES = 10 * 1024 * 1024 * 1024
_SPARE_BYTES = 256 * 1024 * 1024
_FILES_LISTED = 10_000
_SECONDS = re.compile(r"\d{1,9}")


async def caller_of(runtime: Runtime, scope: Scope) -> tuple[Principal, dict[str, str]]:
    """Who is asking, and the request's headers, for requests that carry no JSON: an upload, or no body at all.

    Where no key is needed the content type has to be JSON, which a web page cannot send elsewhere unasked. It cannot
    send an ``Authorization`` header either, and every client of OpenAI's does.

    Raises:
        Unauthenticated
    """
    headers = headers_of(scope)
    peer = peer_of(runtime, scope, headers)
    if headers.get("authorization"):
        peer = msgspec.structs.replace(peer, headers={**headers, "content-type": "application/json"})
    return await authenticate(runtime.view.settings.config.auth, runtime.ring, peer), headers


class Files:
    """The endpoints over what :mod:`gateway.batches.files` keeps."""

    def __init__(self, runtime: Runtime, runner: Runner) -> None:
        self._runtime, self._runner, self._files = runtime, runner, runner.files

    def routes(self) -> list[Route]:
        return [
            Route("/v1/files", self.upload, methods=["POST"]),
            Route("/v1/files", self.all, methods=["GET"]),
            Route("/v1/files/{file_id}", self.get, methods=["GET"]),
            Route("/v1/files/{file_id}", self.delete, methods=["DELETE"]),
            Route("/v1/files/{file_id}/content", self.content, methods=["GET"]),
        ]

    async def upload(self, request: Request) -> Response:
        """Keep a file whose purpose is ``batch``."""
        principal, headers = await caller_of(self._runtime, request.scope)
        owner = disk.owner_of(principal)
        await asyncio.to_thread(self._check_room, owner)
        upload = Upload(await asyncio.to_thread(self._files.unfinished, owner), FILE_BYTES)
        try:
            await upload.read(request.receive, headers)
            file = _file_of(upload, owner, principal)
            await asyncio.to_thread(self._files.keep, upload.path, file)
        finally:
            await asyncio.to_thread(upload.close)
        return JSONResponse(file.shown())

    async def all(self, request: Request) -> Response:
        principal, _ = await caller_of(self._runtime, request.scope)
        purpose, ascending = request.query_params.get("purpose"), order_of(request)
        found = await asyncio.to_thread(self._files.all, disk.seen_by(principal))
        found = [file for file in found if purpose in (None, "", file.purpose)]
        shown = [file.shown() for file in (reversed(found) if ascending else found)]
        return JSONResponse(page(shown, request, default=_FILES_LISTED, most=_FILES_LISTED))

    async def get(self, request: Request) -> Response:
        return JSONResponse((await self._found(request)).shown())

    async def content(self, request: Request) -> Response:
        file = await self._found(request)
        path = self._files.path(file)
        if not await asyncio.to_thread(path.is_file):
            raise _no_file(file.id)
        return FileResponse(path, media_type="application/octet-stream")

    async def delete(self, request: Request) -> Response:
        """Not while a batch still reads it."""
        file = await self._found(request)
        waiting = await asyncio.to_thread(self._runner.store.waiting)
        using = next((asked.id for asked in waiting if asked.input_file_id == file.id), None)
        if using is not None:
            raise conflict(f"the batch {using} is at work on {file.id}: cancel it first", "file_in_use")
        await asyncio.to_thread(self._files.delete, file)
        return JSONResponse({"id": file.id, "object": "file", "deleted": True})

    async def _found(self, request: Request) -> StoredFile:
        principal, _ = await caller_of(self._runtime, request.scope)
        file_id = request.path_params["file_id"]
        file = await asyncio.to_thread(self._files.find, file_id, disk.seen_by(principal))
        if file is None:
            raise _no_file(file_id)
        return file

    def _check_room(self, owner: str) -> None:
        if not room_on_disk(self._files.root, FILE_BYTES + _SPARE_BYTES):
            raise Overloaded("the disk has no room for more files", code="storage_full")
        if sum(file.bytes for file in self._files.all(owner)) > OWNER_BYTES:
            raise TooLarge(f"your files take more than {OWNER_BYTES} bytes: delete some", code="storage_quota_exceeded")


def _file_of(upload: Upload, owner: str, principal: Principal) -> StoredFile:
    purpose = upload.fields.get("purpose", "")
    if purpose != "batch":
        raise InvalidRequest(f"the purpose '{purpose[:100]}' is not served here, only 'batch' is", param="purpose")
    if not upload.has_file:
        raise InvalidRequest("'file' is required", param="file")
    now, kept_s = int(time.time()), _kept_s(upload.fields)
    return StoredFile(
        id=disk.new_id("file-"),
        owner=owner,
        key_id=principal.key_id,
        filename=upload.filename,
        bytes=upload.size,
        created_at=now,
        expires_at=now + kept_s,
    )


def _kept_s(fields: Mapping[str, str]) -> int:
    given = fields.get("expires_after[seconds]")
    if given is None:
        return KEPT_S
    if not _SECONDS.fullmatch(given):
        raise InvalidRequest("'expires_after[seconds]' must be a whole number", param="expires_after")
    return kept_s(int(given))


def kept_s(seconds: int) -> int:
    """How long a file is kept, as its maker wants it. Raises InvalidRequest."""
    if not LEAST_KEPT_S <= seconds <= KEPT_S:
        raise InvalidRequest(f"a file is kept for {LEAST_KEPT_S} to {KEPT_S} seconds", param="expires_after")
    return seconds


def order_of(request: Request) -> bool:
    """Whether the oldest come first. Raises InvalidRequest."""
    order = request.query_params.get("order") or "desc"
    if order not in ("asc", "desc"):
        raise InvalidRequest("'order' must be asc or desc", param="order")
    return order == "asc"


def page(shown: list[dict[str, Any]], request: Request, *, default: int, most: int) -> dict[str, Any]:
    """Those after ``after``, at most ``limit``, as OpenAI lists them."""
    rest = after(shown, request, lambda each: str(each["id"]))
    return listed(rest, limit_of(request, default=default, most=most))


def after(items: list[T], request: Request, id_of: Any) -> list[T]:
    """What follows the one that ``after`` names; nothing where that is not among them."""
    last = request.query_params.get("after")
    if not last:
        return items
    place = next((index for index, item in enumerate(items) if id_of(item) == last), len(items))
    return items[place + 1 :]


def limit_of(request: Request, *, default: int, most: int) -> int:
    """Raises InvalidRequest."""
    given = request.query_params.get("limit") or str(default)
    if not _SECONDS.fullmatch(given) or not 1 <= int(given) <= most:
        raise InvalidRequest(f"'limit' must be a whole number from 1 to {most}", param="limit")
    return int(given)


def listed(rest: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """A page as OpenAI shows it; ``rest`` may go past its end."""
    data = rest[:limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(rest) > limit,
    }


def conflict(message: str, code: str) -> GatewayError:
    """What is asked for does not go with what is under way."""
    error = InvalidRequest(message, code=code)
    error.status = 409
    return error


def _no_file(file_id: str) -> NotFound:
    return NotFound(f"No such File object: {file_id[:100]}", param="id")
