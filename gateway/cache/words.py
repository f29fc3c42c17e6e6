"""A question as words: what the guard and the verifier look at, read once per text.

The lexicon holds opposites and synonyms (from WordNet 3.1, see ``lexicon.json``) and how rare a word is in questions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import msgspec


def listed(words: str) -> tuple[str, ...]:
    """Words of a list that is written as a sentence."""
    return tuple(words.split())


# Scripts that put no space between words: each letter is one.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_TOKEN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+(?:['’][^\W\d_{_UNSPACED}]+)*")
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
# Beside digits, so that "ten ways" and "10 ways" are one; "one" is rather a pronoun than a number.
_COUNTED = listed(
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen "
    "nineteen twenty"
)
_NUMERALS = {word: str(number) for number, word in enumerate(_COUNTED, 2)} | {
    word: str(number)
    for number, word in enumerate(listed("first second third fourth fifth sixth seventh eighth ninth tenth"), 1)
}
_NUMERALS |= {"hundred": "100", "thousand": "1000", "million": "1000000", "billion": "1000000000"}
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?:\D|$))")
FUNCTION_WORDS = frozenset(
    listed(
        "a an the is are was were be been being am do does did to of in on at for from and or i you me my mine your "
        "yours we us our they them their he she his her him it its it's this that these those there here please can "
        "could would should will shall may might must have has had what what's whats which who who's whos whom whose "
        "where when why how tell know say give let s t re ll ve d m with by as about into than then so just also very "
        "really any some if but not no get got one ones way ways best good thing things someone anyone people person"
    )
)
_SUFFIXES = (
    *(
        ("iest", "y", 6),
        ("est", "", 6),
        ("ies", "y", 5),
        ("ness", "", 7),
        ("ingly", "", 8),
        ("ously", "ous", 7),
        ("ally", "al", 7),
    ),
    *(("ily", "y", 6), ("ly", "", 5), ("ing", "", 6), ("edly", "", 7), ("ied", "y", 5), ("ed", "", 5)),
    *(("sses", "ss", 6), ("xes", "x", 5), ("ches", "ch", 6), ("shes", "sh", 6), ("es", "e", 5), ("s", "", 4)),
    ("er", "", 6),
)
_UNKNOWN_RARITY = 9.0


class Text(msgspec.Struct, frozen=True):
    """One question. ``words``: as written; ``lower``: without case; ``content``: stems of those that carry meaning;
    ``stems``: of all of them.
    """

    raw: str
    words: tuple[str, ...]
    lower: tuple[str, ...]
    content: tuple[str, ...]
    stems: frozenset[str]
    numbers: tuple[str, ...]


def read(text: str) -> Text:
    """Take a text apart. Pure."""
    raw = unicodedata.normalize("NFC", text).replace("’", "'")
    words = tuple(_TOKEN.findall(raw))
    lower = tuple(word.lower() for word in words)
    content = tuple(stem(word) for word in lower if word not in FUNCTION_WORDS)
    return Text(raw, words, lower, content, frozenset(map(stem, lower)), tuple(_numbers(raw, lower)))


def _numbers(raw: str, lower: Iterable[str]) -> list[str]:
    found = _NUMBER.findall(_THOUSANDS.sub("", raw))
    return found or [_NUMERALS[word] for word in lower if word in _NUMERALS]


@cache
def stem(word: str) -> str:
    """A lower-case word without its inflection; crude, and the same for every form that matters here."""
    word = word.removesuffix("'s")
    for suffix, instead, least in _SUFFIXES:
        if word.endswith(suffix) and len(word) >= least and not word.endswith("ss"):
            word = word.removesuffix(suffix) + instead
            break
    if len(word) > 4 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word[:-1] if len(word) > 4 and word.endswith("e") else word


def foreign(text: Text) -> bool:
    """Whether most of its words are none the lexicon knows: nothing here was measured on such texts."""
    known = sum(word in FUNCTION_WORDS or stem(word) in lexicon().rarity for word in text.lower)
    return 2 * known < len(text.lower)


class Lexicon(msgspec.Struct, frozen=True):
    """By stem: opposites, synonyms, and rarity (log of inverse document frequency, natural)."""

    opposites: dict[str, frozenset[str]]
    synonyms: dict[str, frozenset[str]]
    rarity: dict[str, float]

    def rare(self, word: str) -> float:
        """How much a stem says; a word nobody has heard of says most."""
        return self.rarity.get(word, _UNKNOWN_RARITY)


class _Stored(msgspec.Struct):
    source: str
    opposites: list[tuple[str, str]]
    synonyms: list[tuple[str, str]]
    rarity: dict[str, float]


@cache
def lexicon() -> Lexicon:
    """The lexicon this package ships; read on first use."""
    stored = msgspec.json.decode(Path(__file__).with_name("lexicon.json").read_bytes(), type=_Stored)
    return Lexicon(_both_ways(stored.opposites), _both_ways(stored.synonyms), stored.rarity)


def _both_ways(pairs: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for left, right in pairs:
        found.setdefault(left, set()).add(right)
        found.setdefault(right, set()).add(left)
    return {word: frozenset(others) for word, others in found.items()}
