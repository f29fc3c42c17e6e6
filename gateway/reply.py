"""What the client sees of a reply: upstream's bytes, with the costs in ``usage`` and nothing it did not ask for."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import msgspec

from gateway.backends.usage import read_usage
from gateway.cache.replay import usage_object
from gateway.types import NANO

if TYPE_CHECKING:
    from gateway.billing import Bill
    from gateway.types import Usage

_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_TOLD = ("prompt_tokens", "completion_tokens", "cached_tokens")
_NULL_USAGE = (b',"usage":null', b', "usage": null', b',"usage": null')


@functools.lru_cache(maxsize=256)
def usd(nano: int) -> str:
    """Nano-dollars as a decimal number of dollars, exact: ``0.00001425``."""
    sign, nano = ("-", -nano) if nano < 0 else ("", nano)
    whole, part = divmod(nano, NANO)
    return f"{sign}{whole}.{part:09d}".rstrip("0").rstrip(".") if part else f"{sign}{whole}"


def _raw(value: str) -> msgspec.Raw:
    return msgspec.Raw(value.encode())


def with_costs(body: bytes, bill: Bill, usage: Usage) -> bytes:
    """A plain body or a usage event with ``cost_usd`` and ``saved_usd`` in its usage; all other bytes as they came.

    Both are null for a model without a price: what nobody knows is not 0.
    """
    fields = _fields.decode(body)
    held = fields.get("usage")
    if held is None or not bytes(held).startswith(b"{"):
        inner: dict[str, msgspec.Raw] = {
            key: msgspec.Raw(msgspec.json.encode(value)) for key, value in usage_object(usage).items()
        }
        if bill.usage.source == "estimated":
            inner["estimated"] = _raw("true")
    else:
        inner = _fields.decode(held)
    cost, saved = ("null", "null") if bill.unpriced else (usd(bill.cost_nano), usd(bill.saved_nano))
    inner["cost_usd"], inner["saved_usd"] = _raw(cost), _raw(saved)
    fields["usage"] = msgspec.Raw(msgspec.json.encode(inner))
    return msgspec.json.encode(fields)


def without_usage(data: bytes) -> bytes:
    """A stream's event without the usage that only the gateway asked for."""
    if b'"usage"' not in data:
        return data
    for null in _NULL_USAGE:
        if null in data:
            return data.replace(null, b"", 1)
    fields = _fields.decode(data)
    fields.pop("usage", None)
    return msgspec.json.encode(fields)


def usage_event(event: bytes, bill: Bill, usage: Usage) -> bytes:
    """A stream's closing event: head and usage of ``event``, the last that told any, or else the last; with costs."""
    fields = _fields.decode(event) if event else {}
    fields["choices"] = _raw("[]")
    if not _tells(bytes(fields.get("usage", b"")), usage):
        fields.pop("usage", None)
    return with_costs(msgspec.json.encode(fields), bill, usage)


def _tells(held: bytes, usage: Usage) -> bool:
    """Whether upstream's own usage object says what was booked: of a stream's several, the last need not be it."""
    if not held.startswith(b"{"):
        return False
    told = read_usage(msgspec.json.decode(held))
    return told is not None and all(getattr(told, name) == getattr(usage, name) for name in _TOLD)
