"""Server-sent events from bytes, as they come (https://html.spec.whatwg.org/multipage/server-sent-events.html)."""

from __future__ import annotations

MAX_EVENT_BYTES = 1 << 20


class EventTooLarge(ValueError):
    """An event is over the limit; the stream cannot be read on."""


class SSEParser:
    """Finds the ``data`` of each event, however the bytes are split; comments and other fields are dropped.

    Lines end in LF, CRLF or CR. ``data`` lines of one event are joined with LF.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        """The events that ``data`` completes. Raises EventTooLarge."""
        if self._after_cr or b"\r" in data:
            data = self._with_lf(data)
        if self._buffer:
            # The buffer holds no blank line, so one can begin at its last byte at the earliest.
            searched = len(self._buffer) - 1
            self._buffer += data
            end = self._buffer.rfind(b"\n\n", searched)
            complete = bytes(self._buffer[: max(end, 0)])
            del self._buffer[: end + 2 if end >= 0 else 0]
        else:
            end = data.rfind(b"\n\n")
            complete = data[: max(end, 0)]
            self._buffer += data[end + 2 if end >= 0 else 0 :]
        if len(self._buffer) > self._limit:
            raise EventTooLarge(f"an event is over {self._limit} bytes")
        return self._events(complete) if complete else []

    def end(self) -> list[bytes]:
        """The event that the end of the stream cuts off before its blank line, if there is one."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return self._events(rest) if rest else []

    def _with_lf(self, data: bytes) -> bytes:
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _events(self, complete: bytes) -> list[bytes]:
        found = []
        for block in complete.split(b"\n\n"):
            if len(block) > self._limit:
                raise EventTooLarge(f"an event is over {self._limit} bytes")
            if (data := _data(block)) is not None:
                found.append(data)
        return found


def _data(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(lines) if lines else None
