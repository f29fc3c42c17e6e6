"""Expressions of GBNF, llama.cpp's notation for grammars: literals, choices, whole numbers within bounds.

https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

from collections.abc import Sequence

DIGITS = 15
# A choice within a choice: a long row of texts, each the beginning of the next.
_DEEPEST = 64


def literal(text: str) -> str:
    """The text itself."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{escaped}"'


def any_of(options: Sequence[str]) -> str:
    """One of these expressions."""
    return options[0] if len(options) == 1 else "(" + " | ".join(options) + ")"


def one_of(texts: Sequence[str], depth: int = 0) -> str:
    """One of these texts, which differ, as a tree of what they have in common.

    llama.cpp follows all alternatives that are open with each token: of thousands side by side that takes a second.
    """
    start = _shared(min(texts), max(texts))
    if len(texts) == 1:
        return literal(start)
    branches: dict[str, list[str]] = {}
    for text in texts:
        branches.setdefault(text[len(start) : len(start) + 1], []).append(text[len(start) :])
    deeper = any_of(
        [one_of(each, depth + 1) for each in branches.values()]
        if depth < _DEEPEST
        else [literal(text[len(start) :]) for text in texts]
    )
    return f"{literal(start)} {deeper}" if start else deeper


def integers(low: int | None, high: int | None) -> list[str]:
    """Alternatives for the integers from `low` to `high`, both included, of at most 15 digits."""
    top = 10**DIGITS - 1
    lowest, highest = -top if low is None else low, top if high is None else high
    found = []
    if lowest < 0:
        found += [f'"-" ({each})' for each in naturals(max(1, -highest), -lowest)]
    if highest >= 0:
        found += naturals(max(0, lowest), highest)
    return found


def naturals(low: int, high: int) -> list[str]:
    """Alternatives for the natural numbers from `low` to `high`, both included."""
    found = []
    for size in range(len(str(low)), len(str(high)) + 1):
        first = max(low, 0 if size == 1 else 10 ** (size - 1))
        last = min(high, 10**size - 1)
        if first <= last:
            found.append(_digits(str(first), str(last)))
    return found


def _digits(low: str, high: str) -> str:
    """An expression for the digit strings of one length from `low` to `high`."""
    if not low:
        return '""'
    rest = len(low) - 1
    if set(low) == {"0"} and set(high) == {"9"}:
        return f"[0-9]{{{len(low)}}}"
    if low[0] == high[0]:
        return f'"{low[0]}" {_digits(low[1:], high[1:])}' if rest else f'"{low[0]}"'
    if not rest:
        return f"[{low}-{high}]"
    start, end = int(low[0]), int(high[0])
    parts = []
    if set(low[1:]) != {"0"}:
        parts.append(f'"{start}" ({_digits(low[1:], "9" * rest)})')
        start += 1
    tail = []
    if set(high[1:]) != {"9"}:
        tail.append(f'"{end}" ({_digits("0" * rest, high[1:])})')
        end -= 1
    if start <= end:
        parts.append(f"[{start}-{end}] [0-9]{{{rest}}}")
    return "(" + " | ".join([*parts, *tail]) + ")"


def _shared(low: str, high: str) -> str:
    """What both begin with, and so does every text between them."""
    differing = (at for at, (one, other) in enumerate(zip(low, high, strict=False)) if one != other)
    return low[: next(differing, min(len(low), len(high)))]
