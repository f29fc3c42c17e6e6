"""Which class of personal or secret data a text holds. Patterns are linear: bounded repeats, no nested quantifiers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice

LOOK = 1024 * 1024
MOST_NUMBERS = 1_000

_TOKEN_CHARACTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
_NUMBER_CHARACTERS = b"0123456789 ()./-"
_IS_TOKEN = bytes(120 if byte in _TOKEN_CHARACTERS else 32 for byte in range(256))
_IS_NUMBER = bytes(120 if byte in _NUMBER_CHARACTERS else 32 for byte in range(256))
_SHORTEST_SECRET, _SHORTEST_NUMBER = b"x" * 20, b"x" * 6

SECRET = re.compile(
    rb"(?<![A-Za-z0-9])(?:sk-[A-Za-z0-9_-]{20}|[sr]k_live_[A-Za-z0-9]{16}|A[KS]IA[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{30}"
    rb"|github_pat_[A-Za-z0-9_]{22}|glpat-[A-Za-z0-9_-]{20}|xox[abp]-[A-Za-z0-9-]{20}|AIza[A-Za-z0-9_-]{30}"
    rb"|hf_[A-Za-z0-9]{30}|npm_[A-Za-z0-9]{30}|pypi-[A-Za-z0-9_-]{30}|fg-[A-Za-z0-9_-]{20})"
)
PEM = re.compile(r"-----BEGIN (?:[A-Z]{2,10} )?PRIVATE KEY")
_VALUE = r"[\"']?\s{0,3}(?:[:=]|is)\s{0,3}[\"'`][^\s\"'`]{8,200}[\"'`]"
ASSIGNED = (
    ("passw", re.compile("passw(?:or)?d" + _VALUE)),
    ("secret", re.compile("secret" + _VALUE)),
    ("api", re.compile("api[_-]?key" + _VALUE)),
)
NUMBER = re.compile(rb"[0-9][0-9 ()./-]{4,100}[0-9]")
_SEPARATORS = str.maketrans("", "", "+() ./-")
_SSN = re.compile(r"(?<![0-9-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![0-9-])")
_CPF = re.compile(r"(?<![0-9.])[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}(?![0-9])")
_DOUBLED = str.maketrans("0123456789", "0246813579")
_GROUP = re.compile(r"(?<![0-9])[2-6]")
_CARD_LENGTHS = {"2": (16,), "3": (15, 14), "4": (16, 19, 13), "5": (16,), "6": (16, 19)}
_LETTERED = re.compile(r"[A-Z](?=[A-Z] ?[0-9]{2}([0-9A-Z ]{5,34}))")  # one may begin within another
NINO = re.compile(r"[A-CEGHJ-PR-TW-Z]{2} ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D](?![A-Z0-9])")
DOMAIN = re.compile(r"@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?!\w)")
_PHONE = re.compile(
    r"\+[0-9][0-9 ()./-]{6,20}[0-9]"
    r"|(?<![0-9./-])(?<![0-9] )(?:\(?[0-9]{3}\)?[ .-][0-9]{3}[ .-][0-9]{4}"
    r"|\(?0[1-9][0-9]{0,3}\)?[ /-][0-9][0-9 /-]{4,13}[0-9])(?![0-9])"
)
IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18,
    "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26,
    "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25, "RO": 24,
    "SA": 24, "SE": 24, "SI": 19, "SK": 24, "TR": 26, "UA": 29,
}  # fmt: skip


def classify(text: str) -> str:
    """``secret``, ``card``, ``id``, ``email`` or ``phone``, the first of these that is found; '' where none is.

    The first MiB of characters and its first 1,000 long numbers are looked at. Where that was not all and nothing was
    found, the class is ``unknown``, so that ``privacy != ''`` in a policy fails closed.
    """
    seen = text if len(text) <= LOOK else text[:LOOK]
    data = seen.encode("utf-8", "surrogatepass")
    if _has_secret(seen, data):
        return "secret"
    number = _numbers(data)
    if number in ("card", "id"):
        return number
    if "@" in seen and _has_email(seen):
        return "email"
    return number or ("unknown" if len(text) > LOOK else "")


def _has_secret(text: str, data: bytes) -> bool:
    shape = data.translate(_IS_TOKEN)
    if _SHORTEST_SECRET in shape and any(SECRET.search(token) for token in _long_tokens(data, shape)):
        return True
    if "PRIVATE KEY" in text and PEM.search(text):
        return True
    if '"' not in text and "'" not in text and "`" not in text:
        return False
    lower = text.lower()
    return any(word in lower and pattern.search(lower) is not None for word, pattern in ASSIGNED)


def _long_tokens(data: bytes, shape: bytes) -> Iterator[bytes]:
    """The beginnings of runs of 20 and more token characters; a JSON web token as its own marker."""
    for start, end in _runs(shape, _SHORTEST_SECRET):
        yield data[start : min(end, start + 256)]
        if data.startswith(b"eyJ", start) and data.startswith(b".eyJ", end):
            yield b"sk-" + data[start : start + 20]


def _runs(shape: bytes, shortest: bytes) -> Iterator[tuple[int, int]]:
    """Where ``x`` is repeated at least as often as in ``shortest``: found at the speed of a substring search."""
    start = shape.find(shortest)
    while start >= 0:
        end = shape.find(b" ", start)
        end = len(shape) if end < 0 else end
        yield start, end
        start = shape.find(shortest, end)


def _has_email(text: str) -> bool:
    before = (text[found.start() - 1 : found.start()] for found in DOMAIN.finditer(text))
    return any(char.isalnum() or char in "_.%+-" for char in before if char)


def _numbers(data: bytes) -> str:
    """``card``, ``id`` or ``phone`` among the long numbers of a text; ``unknown`` where they are too many."""
    shape = data.translate(_IS_NUMBER)
    if _SHORTEST_NUMBER not in shape:
        return ""
    found = list(islice(_long_numbers(data, shape), MOST_NUMBERS))
    if not found:
        return ""
    classes = {number_class(written) for written in {written for written, _ in found}}
    if "card" in classes:
        return "card"
    if "id" in classes or any(is_lettered_id(id_) for _, around in found for _, id_ in lettered(around)):
        return "id"
    if "phone" in classes:
        return "phone"
    return "unknown" if len(found) == MOST_NUMBERS else ""


def _long_numbers(data: bytes, shape: bytes) -> Iterator[tuple[str, str]]:
    """Numbers with their separators and the plus or bracket they begin with, each with what stands around it."""
    for start, end in _runs(shape, _SHORTEST_NUMBER):
        for number in NUMBER.finditer(data, start, end):
            first = number.start()
            signed = first - 1 if data[max(0, first - 1) : first] in (b"+", b"(") else first
            around = data[max(0, first - 12) : first + 40]
            yield data[signed : number.end()].decode("ascii"), around.decode("ascii", "replace")


def number_class(written: str) -> str:
    digits = written.translate(_SEPARATORS)
    if len(digits) < 8:
        return ""
    if len(digits) >= 13 and _has_card(written):
        return "card"
    cpf = _CPF.search(written)
    if _SSN.search(written) or (cpf and _is_cpf(cpf[0].translate(_SEPARATORS))):
        return "id"
    phone = _PHONE.search(written)
    return "phone" if phone and 8 <= len(phone[0].translate(_SEPARATORS)) <= 15 else ""


def _has_card(written: str) -> bool:
    """Whether a card number begins at one of the groups of digits: other numbers may stand before and after."""
    starts = [found.start() for found in _GROUP.finditer(written)]
    return any(_is_card(written[start : start + 40].translate(_SEPARATORS)) for start in starts)


def _is_card(digits: str) -> bool:
    """Luhn's check digit over a card network's length; more digits (an expiry date) may follow."""
    return any(len(digits) >= length and _luhn(digits[:length]) for length in _CARD_LENGTHS[digits[0]])


def _luhn(digits: str) -> bool:
    if len(set(digits)) == 1:
        return False
    weighed = digits[-1::-2] + digits[-2::-2].translate(_DOUBLED)
    return (sum(weighed.encode()) - 48 * len(weighed)) % 10 == 0


def _is_cpf(digits: str) -> bool:
    """Brazil's two check digits, each a weighted sum modulo 11."""
    for length in (9, 10):
        total = sum(int(digit) * (length + 1 - place) for place, digit in enumerate(digits[:length]))
        if total * 10 % 11 % 10 != int(digits[length]):
            return False
    return True


def lettered(text: str) -> Iterator[tuple[int, str]]:
    """Where a number may begin that begins with letters, and all that may belong to it."""
    return ((found.start(), text[found.start() : found.end(1)]) for found in _LETTERED.finditer(text))


def is_lettered_id(written: str) -> bool:
    """A British national insurance number, or an IBAN (ISO 13616, modulo 97)."""
    if NINO.match(written):
        return True
    number = written.replace(" ", "")[: IBAN_LENGTHS.get(written[:2], 0)]
    if len(number) < 15 or not number[2:4].isdigit():
        return False
    return int("".join([str(int(char, 36)) for char in number[4:] + number[:4]])) % 97 == 1
