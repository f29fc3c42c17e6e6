"""How many tokens a text has: estimated from its characters, or counted by a tokenizer in another process.

The estimate needs no tokenizer, so that the event loop is never held up. Its weights are a non-negative least-squares
fit to OpenAI's cl100k_base over English prose, source code, JSON and Markdown and sentences in fifteen other languages:
sums over a corpus are within 15 % (single texts mostly within 20 %).
o200k_base needs about as many tokens for English and code and fewer for other scripts (Russian 0.55 ×), so the
estimate errs towards more there. What a request really used is known at settlement; where upstream does not say,
OpenAI's o200k_base counts it, whatever the model: a stand-in, which rows made by it say.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import string
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from gateway.tokenizer import Tokenizer

WHOLE = 256 * 1024
_SLICES, _SLICE = 32, 4096

_LETTERS = string.ascii_letters.encode()
_DIGITS = string.digits.encode()
_ASCII_AND_CONTINUATION = bytes(range(0xC0))


def _lead(first: int, last: int) -> bytes:
    """All UTF-8 lead bytes but those of a range: what ``bytes.translate`` deletes to leave the range's characters."""
    return bytes(byte for byte in range(0xC0, 0x100) if not first <= byte <= last)


_LETTER, _DIGIT, _SPACE, _MARK = 0.237, 1.2, 0.128, 0.468
_SCRIPTS = tuple(
    (_lead(first, last), weight)
    for first, last, weight in (
        (0xC2, 0xCD, 1.45),  # accented Latin
        (0xCE, 0xCF, 1.03),  # Greek
        (0xD0, 0xD3, 0.54),  # Cyrillic
        (0xD4, 0xD7, 1.18),  # Hebrew
        (0xD8, 0xDF, 0.86),  # Arabic
        (0xE0, 0xE1, 1.1),  # Indic, Thai, Vietnamese vowels
        (0xE2, 0xE2, 0.9),  # punctuation, mathematics
        (0xE3, 0xE3, 1.0),  # kana
        (0xE4, 0xE9, 1.23),  # Chinese characters
        (0xEA, 0xED, 1.29),  # Hangul
        (0xEE, 0xEF, 0.7),  # full-width forms
        (0xF0, 0xF7, 2.3),  # emoji
    )
)


def estimate_tokens(text: str) -> int:
    """The tokens of ``text``, at least 1 for any text that is not empty.

    Up to 256 Ki characters are counted; of a longer text, 32 slices of 4,096 spread over it stand for the rest.
    """
    length = len(text)
    if not length:
        return 0
    if length <= WHOLE:
        return max(1, round(_weigh(text)))
    sample = _sample(text)
    return max(1, round(_weigh(sample) * length / len(sample)))


async def count_tokens(texts: Sequence[str]) -> list[int]:
    """The tokens of each text by o200k_base; as `estimate_tokens` has them where it cannot be had."""
    return await asyncio.get_running_loop().run_in_executor(_thread(), _counted, list(texts))


def _counted(texts: Sequence[str]) -> list[int]:
    samples = [text if len(text) <= WHOLE else _sample(text) for text in texts]
    counts = _tokenizer().count(samples)
    if counts is None:
        return [estimate_tokens(text) for text in texts]
    return [
        count if sample is text else round(count * len(text) / len(sample))
        for count, sample, text in zip(counts, samples, texts, strict=True)
    ]


@functools.cache
def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer()
    atexit.register(tokenizer.close)
    return tokenizer


@functools.cache
def _thread() -> ThreadPoolExecutor:
    """One, so that a burst of broken-off streams cannot take the machine."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="tokens")


def _sample(text: str) -> str:
    step = (len(text) - _SLICE) // (_SLICES - 1)
    return "".join([text[start : start + _SLICE] for start in range(0, step * _SLICES, step)])


def _weigh(text: str) -> float:
    data = text.encode("utf-8", "surrogatepass")
    rest = data.translate(None, _LETTERS)
    letters = len(data) - len(rest)
    digits = len(rest) - len(rest.translate(None, _DIGITS))
    spaces = rest.count(b" ")
    marks = len(rest) - digits - spaces - rest.count(b"\n")
    total = letters * _LETTER + digits * _DIGIT + spaces * _SPACE
    if len(data) == len(text):
        return total + marks * _MARK
    leads = rest.translate(None, _ASCII_AND_CONTINUATION)
    beyond_ascii = len(data) - len(text) + len(leads)
    total += (marks - beyond_ascii) * _MARK
    return total + sum([len(leads.translate(None, others)) * weight for others, weight in _SCRIPTS])
