"""The fixtures as data, and a provider's reply as the bytes it would send."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tests.support.upstream import Plan

FOLDER = Path(__file__).with_name("fixtures")
# The first half of a stream comes at once, the second after this, or never: whoever leaves has seen exactly the first.
NEVER_S = 60.0

EVERY = (
    *("plain", "streamed", "usage in a chunk with choices", "split cache write", "reasoning", "cancelled half way"),
    *("error after the first byte", "fallback after a failed try", "cache hit"),
)
Wire = Callable[[Any], bytes]
encode = msgspec.json.encode


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Tokens as they are booked."""

    prompt: int
    completion: int
    cached: int = 0
    written: int = 0
    reasoning: int = 0


class Case(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One exchange. ``apart``: what is booked beside the row's columns. ``client``: counts the client's usage object
    has otherwise than the row, because upstream said so. ``usd_per_s``: what the row's own busy time costs, where
    nothing else can be known (``cost_usd`` is then 0).
    """

    case: str
    reply: str
    row: Row
    cost_usd: str
    saved_usd: str | None = None
    usd_per_s: str | None = None
    apart: dict[str, Any] = {}
    client: dict[str, int] = {}
    usage: str = ""
    incomplete: bool = False
    leaves: bool = False
    breaks: bool = False
    falls_back: bool = False
    repeats: bool = False

    @property
    def source(self) -> str:
        """Where the counts come from."""
        if self.repeats:
            return "none"
        return self.usage or ("estimated" if self.leaves or self.breaks else "reported")


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one provider replies. ``path``: what its base URL ends with. ``lacks``: cases it cannot have, and why."""

    source: str
    model: dict[str, Any]
    replies: dict[str, Any]
    cases: tuple[Case, ...]
    lacks: dict[str, str] = {}
    wire: str = "openai"
    path: str = "/v1"

    def streamed(self, case: Case) -> bool:
        return isinstance(self.replies[case.reply], list)

    def plan(self, case: Case) -> Plan:
        reply = self.replies[case.reply]
        if not isinstance(reply, list):
            return Plan(raw=encode(reply))
        halves = tuple(b"".join(map(WIRES[self.wire], half)) for half in reply)
        return Plan(raw=halves, cut_after=1 if case.breaks else None, chunk_delay_s=NEVER_S if case.leaves else 0.0)


@cache
def shapes() -> Mapping[str, Shape]:
    return {file.stem: msgspec.convert(_read(file), Shape) for file in sorted(FOLDER.glob("*.yaml"))}


def every() -> Iterator[tuple[str, Case]]:
    return ((name, case) for name, shape in shapes().items() for case in shape.cases)


def _read(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _event(data: Any) -> bytes:
    return b"data: " + (data.encode() if isinstance(data, str) else encode(data)) + b"\n\n"


def _named_event(data: Any) -> bytes:
    kind: str = data["type"]
    return b"event: " + kind.encode() + b"\n" + _event(data)


def _aws_event(event: Any) -> bytes:
    """https://docs.aws.amazon.com/transcribe/latest/dg/streaming-setting-up.html#streaming-event-stream"""
    kind, payload = event
    head = b"".join(
        bytes([len(name)]) + name + b"\x07" + struct.pack(">H", len(value)) + value
        for name, value in (
            (b":event-type", kind.encode()),
            (b":content-type", b"application/json"),
            (b":message-type", b"event"),
        )
    )
    body = encode(payload)
    prelude = struct.pack(">II", 16 + len(head) + len(body), len(head))
    message = prelude + struct.pack(">I", zlib.crc32(prelude)) + head + body
    return message + struct.pack(">I", zlib.crc32(message))


WIRES: Mapping[str, Wire] = {
    "openai": _event,
    "gemini": _event,
    "anthropic": _named_event,
    "bedrock": _aws_event,
}
