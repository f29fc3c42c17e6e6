"""Whether two answers say the same: equal but for white space, or of equal numbers and names and near in meaning.

This is what labels come from, and an assumption of the cache's promise (docs/cache.md): free text that says the same in
other words is now and then called different, seldom the other way round.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from gateway.cache.guard import names
from gateway.cache.words import read

CLOSE = 0.85
COMPARED = 2_000


class _Message(msgspec.Struct):
    content: Any = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


def answer_text(body: bytes) -> str:
    """The words of a plain ``chat.completion``; '' where there are none."""
    try:
        choices = msgspec.json.decode(body, type=_Completion).choices
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    content = choices[0].message.content if choices else None
    return " ".join(content.split()) if isinstance(content, str) else ""


def answer_digest(text: str) -> str:
    """Equal for equal answers."""
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def may_agree(a: str, b: str) -> bool:
    """Whether nothing certain tells two answers apart: the same numbers, in any order, and the same names."""
    left, right = read(a[:COMPARED]), read(b[:COMPARED])
    return sorted(set(left.numbers)) == sorted(set(right.numbers)) and names(left) == names(right)
