"""The normalised form of a question: how it is written left out, as far as that surely means nothing."""

from __future__ import annotations

import re
import unicodedata

# Quotes, lines, and what only code, addresses and formulas hold: there, case and spacing mean something.
# What is rare comes first, and the alternatives look back from there: the search then skips from one to the next.
_PROTECTED = re.compile(
    r"[`\"“”„«»‘‚\n\t\\{}\[\]<>=|;_~^$#@*+':(./](?:(?<!['(.:/])|(?<=')(?<![^\s(,:].)|(?<=:)//|(?<=\w[(./])\w)"
)
_ASCII_DIGITS = frozenset("0123456789")
_NORMAL_MAX = 4_000
_SHOUTED = 5
# Other forms of one character: full width, ligatures, typographic apostrophes and hyphens; and what cannot be seen.
# Not all of NFKC, which makes 10² and 102 one.
_FORMS: dict[int, str | None] = {
    **{code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)},
    **{code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)},
    0x2019: "'",
    0x2010: "-",
    0x2011: "-",
    0x2026: "...",
    **dict.fromkeys((0x00AD, 0x200B, 0xFEFF), None),
}
# Capitals that are the meaning: German's polite forms, and words that are somebody's or something's name.
_NAMED = """
Sie Ihnen Ihr Ihre Ihrem Ihren Ihrer Ihres Turkey China Chad Jordan Polish May March August Mercury Apple Java Python
Amazon Target Shell Swift Rust Go Oracle Windows Word Excel Bill Mark Rose Jack Nice Reading Mobile Cork Bath
"""
_ASKING = """
what what's whats which who who's whose whom when where where's why how how's is are was were do does did can could
should would will may has have wer wie wo wann warum welche welcher welches que quel quelle comment où quand pourquoi
qué cuál cómo dónde cuándo quién che come dove quando chi
"""
_NAMES, _ASKS = frozenset(_NAMED.split()), frozenset(_ASKING.split())
# Lower case is not what it is elsewhere: İ and I are two letters.
_TURKIC = re.compile("[ıİğĞşŞəƏ]")


def normalise(text: str) -> str | None:
    """Text without differences of case, spacing, full stop and Unicode form; None where those may carry meaning.

    Quotes, code, addresses and line breaks keep their text out; beside digits case stays, and so does that of words
    with inner capitals ("US" and "us", "mW" and "MW"), unless all of the text, or of a word of five letters, has them,
    of names that are words as well ("Turkey"), and in Turkish. A question is one without its question mark, too, where
    its first word says so.
    """
    text = text.strip()
    if len(text) > _NORMAL_MAX:
        return None
    if not text.isascii():
        text = text.translate(_FORMS).strip()
    if _PROTECTED.search(text):
        return None
    words = unicodedata.normalize("NFC", text).split()
    return _cased(words, " ".join(words)) if words else ""


def _cased(words: list[str], text: str) -> str:
    if _has_digit(text) or _TURKIC.search(text):
        return _unended(words[0], text)
    if len(words) > 1 and text.isupper():
        return _unended(words[0], text.lower())
    # Not casefold(): it makes "Maße" (measures) and "Masse" (mass) one.
    first, *rest = words
    kept = [
        word if word.islower() or _meant(word) or word.rstrip(",?.!;:") in _NAMES else word.lower() for word in rest
    ]
    return _unended(first, " ".join([first if _meant(first) else first.lower(), *kept]))


def _unended(first: str, text: str) -> str:
    """Without the marks that end a sentence and say nothing; never an exclamation mark, which may be a factorial."""
    marks = " .?" if first.lower() in _ASKS else " ."
    return text.rstrip(marks) or text


def _has_digit(text: str) -> bool:
    return not _ASCII_DIGITS.isdisjoint(text) if text.isascii() else any(map(str.isdigit, text))


def _meant(word: str) -> bool:
    """Whether a word's capitals are its spelling (iPhone, mW, NATO), not emphasis (CAPITAL)."""
    return any(map(str.isupper, word[1:])) and not (word.isupper() and sum(map(str.isalpha, word)) >= _SHOUTED)
