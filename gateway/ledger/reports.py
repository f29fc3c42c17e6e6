"""Periods and money as people write them, for whoever shows what the books say."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

import msgspec

from gateway.types import DAY_MS, HOUR_MS, NANO

_PERIOD = re.compile(r"(?P<count>[1-9][0-9]{0,3})(?P<unit>[hd])")


def period(text: str, now_ms: int) -> tuple[int, int]:
    """``today`` (the day in UTC), ``24h`` or ``7d`` as ``(since_ms, until_ms)``. Raises ValueError."""
    if text == "today":
        midnight = now_ms - now_ms % DAY_MS
        return midnight, midnight + DAY_MS
    found = _PERIOD.fullmatch(text)
    if not found:
        raise ValueError(f"'{text}' is not a period: write today, 24h or 7d")
    width = HOUR_MS if found["unit"] == "h" else DAY_MS
    return now_ms - int(found["count"]) * width, now_ms


def usd(nano: int) -> str:
    """Nano-dollars as exact decimal dollars: ``1500000`` is ``0.0015``."""
    text = f"{Decimal(nano) / NANO:.9f}".rstrip("0")
    return text + "0" * max(0, 2 - len(text.partition(".")[2]))


def dollars(value: Any) -> Any:
    """The same value with every ``…_nano`` as ``…_usd``: exact decimals in US dollars."""
    if isinstance(value, dict):
        return dict(_named(name, item) for name, item in value.items())
    return [dollars(item) for item in value] if isinstance(value, list | tuple) else value


def _named(name: str, value: Any) -> tuple[str, Any]:
    if name.endswith("_nano"):
        return name.removesuffix("_nano") + "_usd", Decimal(value) / NANO
    return name, dollars(value)


def encode(value: Any) -> bytes:
    """JSON; decimals are written as the numbers they are, digit for digit."""
    return msgspec.json.Encoder(decimal_format="number").encode(value)
