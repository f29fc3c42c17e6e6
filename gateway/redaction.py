"""Personal data and secrets in a text, replaced by what they were: ``[EMAIL]`` ``[PHONE]`` ``[CARD]`` ``[ID]``
``[SECRET]``. The classes are those of :mod:`gateway.privacy`, which has the last word.
"""

from __future__ import annotations

import re

from gateway.privacy import (
    ASSIGNED,
    DOMAIN,
    IBAN_LENGTHS,
    NINO,
    NUMBER,
    PEM,
    SECRET,
    classify,
    is_lettered_id,
    lettered,
    number_class,
)

_SECRET_MARK = "[SECRET]"
_KEY_BLOCK = re.compile(PEM.pattern + r".*?(?:-----END [A-Z ]{0,20}KEY-----|\Z)", re.DOTALL)
_TOKEN = re.compile(r"[A-Za-z0-9_-]{20,}(?:\.[A-Za-z0-9_-]+)*")
_ANY_CASE = tuple(re.compile(pattern.pattern, re.IGNORECASE) for _, pattern in ASSIGNED)
_SIGNED = re.compile(r"[+(]?" + NUMBER.pattern.decode())


class Unclear(ValueError):
    """Something that was to be replaced may still be there."""


def redact(text: str) -> str:
    """The text with a mark in the place of each address, number or secret that is found. Linear in its length.

    Raises:
        Unclear: what is left still looks like one, or is too much to be looked through.
    """
    if not classify(text):
        return text
    for replaced in (_secrets, _ids, _numbers, _emails):
        text = replaced(text)
    if found := classify(text):
        raise Unclear(found)
    return text


def _secrets(text: str) -> str:
    text = _TOKEN.sub(_token, _KEY_BLOCK.sub(_SECRET_MARK, text))
    for pattern in _ANY_CASE:
        text = pattern.sub(_SECRET_MARK, text)
    return text


def _token(found: re.Match[str]) -> str:
    """All of the token that holds one: its beginning alone tells which kind it is."""
    token = found[0]
    web = token.startswith("eyJ") and ".eyJ" in token
    return _SECRET_MARK if web or SECRET.search(token.encode()) else token


def _ids(text: str) -> str:
    parts, end = [], 0
    for start, written in lettered(text):
        if start >= end and is_lettered_id(written):
            parts += [text[end:start], "[ID]"]
            end = start + _length(written)
    return "".join([*parts, text[end:]])


def _length(written: str) -> int:
    """How much of it is the number: what follows may be another word."""
    if nino := NINO.match(written):
        return nino.end()
    letters = [at for at, char in enumerate(written) if char != " "]
    return letters[: IBAN_LENGTHS[written[:2]]][-1] + 1


def _numbers(text: str) -> str:
    return _SIGNED.sub(lambda found: f"[{kind.upper()}]" if (kind := number_class(found[0])) else found[0], text)


def _emails(text: str) -> str:
    parts, end = [], 0
    for found in DOMAIN.finditer(text):
        start = found.start()
        while start > end and (text[start - 1].isalnum() or text[start - 1] in "_.%+-"):
            start -= 1
        if start < found.start():
            parts += [text[end:start], "[EMAIL]"]
            end = found.end()
    return "".join([*parts, text[end:]])
