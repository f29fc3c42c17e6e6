"""``multipart/form-data`` as it streams in: one file straight to disk, a few short fields beside it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect
from starlette.types import Receive

from gateway.batches import disk
from gateway.errors import InvalidRequest, TooLarge

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartParser

_FIELD_BYTES, _PARTS = 4_096, 16
_OVERHEAD_BYTES = 64 * 1024
_WRITE_BYTES = 1 << 20


class Upload:
    """A form's ``fields``; the bytes of its part ``file`` are in ``path``, ``size`` of them."""

    def __init__(self, path: Path, limit: int) -> None:
        self.path, self.fields, self.filename, self.size = path, dict[str, str](), "", 0
        self.has_file = False
        self._limit = limit
        self._descriptor = disk.create(path)
        self._waiting: list[bytes] = []
        self._header, self._value, self._headers = b"", b"", dict[bytes, bytes]()
        self._field, self._in_file, self._parts, self._ended = "", False, 0, False
        self._held = b""

    async def read(self, receive: Receive, headers: Mapping[str, str]) -> None:
        """All of it.

        Raises:
            InvalidRequest: it is no form, or not a whole one.
            TooLarge: the file, or all the rest of it, is.
            ClientDisconnect, OSError
        """
        from python_multipart.exceptions import FormParserError

        announced, parser = headers.get("content-length", ""), self._parser(headers.get("content-type", ""))
        if announced.isdigit() and int(announced) > self._limit + _OVERHEAD_BYTES:
            raise self._too_large()
        received, more = 0, True
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                data, more = message.get("body", b""), message.get("more_body", False)
                received += len(data)
                if received > self._limit + _OVERHEAD_BYTES:
                    raise self._too_large()
                parser.write(data)
                await self._write(_WRITE_BYTES)
            parser.finalize()
        except FormParserError as error:
            raise InvalidRequest(f"the form cannot be read: {error}") from None
        if not self._ended:
            raise InvalidRequest("the form has no end")
        await self._write(0)
        await asyncio.to_thread(os.fsync, self._descriptor)

    def close(self) -> None:
        """Take away what nobody has kept."""
        os.close(self._descriptor)
        self.path.unlink(missing_ok=True)

    def _parser(self, content_type: str) -> MultipartParser:
        from python_multipart.multipart import MultipartParser, parse_options_header

        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            raise InvalidRequest("a file is uploaded as multipart/form-data", param="file")
        return MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_end,
                "on_headers_finished": self._name,
                "on_part_data": self._data,
                "on_part_end": self._end,
                "on_end": self._whole,
            },
        )

    def _begin(self) -> None:
        self._parts += 1
        self._headers, self._held = {}, b""
        if self._parts > _PARTS:
            raise InvalidRequest(f"the form has more than {_PARTS} parts")

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _name(self) -> None:
        from python_multipart.multipart import parse_options_header

        _, options = parse_options_header(self._headers.get(b"content-disposition"))
        self._field = options.get(b"name", b"").decode("utf-8", "replace")
        self._in_file = self._field == "file" and b"filename" in options
        if self._in_file:
            if self.has_file:
                raise InvalidRequest("the form has more than one file", param="file")
            self.has_file = True
            self.filename = options[b"filename"].decode("utf-8", "replace")[:255]

    def _data(self, data: bytes, start: int, end: int) -> None:
        if not self._in_file:
            self._held += data[start:end]
            if len(self._held) > _FIELD_BYTES:
                raise InvalidRequest(f"'{self._field[:100]}' is longer than {_FIELD_BYTES} bytes")
            return
        self.size += end - start
        if self.size > self._limit:
            raise self._too_large()
        self._waiting.append(bytes(data[start:end]))

    def _end(self) -> None:
        if not self._in_file:
            self.fields[self._field] = self._held.decode("utf-8", "replace")

    def _whole(self) -> None:
        self._ended = True

    async def _write(self, least: int) -> None:
        """What has come of the file, once it is ``least`` bytes."""
        if self._waiting and sum(map(len, self._waiting)) >= least:
            data, self._waiting = b"".join(self._waiting), []
            await asyncio.to_thread(_write_all, self._descriptor, data)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"the file is larger than {self._limit} bytes")


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]
