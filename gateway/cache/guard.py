"""Cheap and certain reasons why two similar questions have different answers. Where it speaks, there is no hit.

An embedding hardly sees what this looks at: numbers, negation, and who stands where ("Paris to Rome"). An encoder that
knows no case and no spacing sees nothing of "MW" against "mW", or of the spaces inside quotes.
"""

from __future__ import annotations

import re

from gateway.cache.keys import normalise

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_SYMBOL = re.compile(r"[+*/=<>^%&|~#@$€£¥\\°×÷±√²³]|(?<!\w)-|-(?!\w)")
_PUNCTUATION = re.compile(r"[^\w\s]|_")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
_NEGATION = frozenset(
    {"no", "not", "never", "none", "without", "cannot", "nobody", "nothing", "neither", "nor", "except", "unless"}
)
_FILLER = frozenset(
    {
        *("a", "an", "the", "is", "are", "was", "were", "be", "do", "does", "did", "to", "of", "in", "on", "at", "for"),
        *("from", "and", "or", "i", "you", "me", "my", "your", "please", "can", "could", "would", "what", "whats"),
        *("what's", "which", "who", "whos", "who's", "where", "how", "tell", "know", "it", "its", "it's", "there", "s"),
    }
)


def differ(asked: str, stored: str) -> str | None:
    """Why the answer to ``stored`` cannot answer ``asked``; None where nothing certain speaks against it."""
    if asked == stored:
        return None
    if _NUMBER.findall(asked) != _NUMBER.findall(stored):
        return "numbers"
    if _SYMBOL.findall(asked) != _SYMBOL.findall(stored):
        return "symbols"
    left, right = _words(asked), _words(stored)
    if _negations(left) != _negations(right):
        return "negation"
    if _names(asked) != _names(stored):
        return "names"
    if left == right and _spelling(asked) != _spelling(stored):
        return "spelling"
    if sorted(_content(left)) == sorted(_content(right)) and _content(left) != _content(right):
        return "order"
    return None


def _words(text: str) -> list[str]:
    return [word.casefold().replace("’", "'") for word in _WORD.findall(text)]


def _negations(words: list[str]) -> int:
    return sum(word in _NEGATION or word.endswith("n't") for word in words)


def _names(text: str) -> list[str]:
    """Capitalised words after the first one, and what has capitals inside: names and units, in their order."""
    words = _WORD.findall(text)
    capitals = [place > 0 and word[0].isupper() and word.casefold() not in _FILLER for place, word in enumerate(words)]
    inner = [any(map(str.isupper, word[1:])) for word in words]
    return [word for word, named, within in zip(words, capitals, inner, strict=True) if named or within]


def _spelling(text: str) -> str:
    """The text itself where case and spacing may mean something in it, else what is left without them."""
    normal = normalise(text)
    return text if normal is None else " ".join(_PUNCTUATION.sub(" ", normal).split())


def _content(words: list[str]) -> list[str]:
    return [word for word in words if word not in _FILLER]
