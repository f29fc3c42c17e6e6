"""What the form of a prompt says about how hard it is: the numbers a learned scorer reads beside the embedding.

They are chosen to carry over between sets of prompts: how many quantities and steps, what form the question has, what
form the answer, how formal the language. Names of topics are left to the embedding.
"""

from __future__ import annotations

import math
import re

import numpy as np
from numpy.typing import NDArray

from gateway.policy.everyday import is_everyday

WINDOW = 1_800
"""Characters that are looked at: the first two thirds and the last third of them where a prompt is longer."""

_STEM_BEGIN, _STEM_END = 700, 500

NAMES = (
    "log_words", "log_characters", "options", "option_length", "numeric_options", "log_numbers", "distinct_numbers",
    "largest_number", "decimals", "money_percent", "counting_words", "rates", "multiples", "remainders", "how_many",
    "what", "who", "where", "when", "why", "how", "which", "code_words", "code_marks", "maths_words", "formulas",
    "creative", "open_ended", "negations", "units", "rare_words", "rare_share", "word_length", "long_words",
    "sentences", "sentence_length", "commas", "lines", "questions", "capitals", "blank", "statements", "conditions",
    "foreign_characters",
)  # fmt: skip


def _set_of(words: str) -> frozenset[str]:
    return frozenset(words.split())


_LETTERS = "".join(char if char.isalpha() else " " for char in map(chr, range(128)))
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_OPTION = re.compile(r"^[ \t]*\(?([A-J])[.):][ \t]*(.*)$", re.MULTILINE)
_ANSWERS = re.compile(r"^[ \t]*\(?[A-J][.):][ \t].*$|^[ \t]*Answer:[ \t]*$", re.MULTILINE)
_NUMERIC = re.compile(r"^[-$(]?[\d.]")
_CAPITAL = re.compile(r"[A-Z]")
_WORD = re.compile(r"[^\W\d_]+")
_SENTENCE = re.compile(r"[.!?](?:\s|$)")
_NEGATIONS = frozenset(("not", "except", "least", "false", "incorrect"))
_UNITS = _set_of(
    "kg cm mm km nm mol ml kj kw hz pa kpa atm ft lb psi ev degrees joule joules volt volts ohm ohms watt watts radius "
    "velocity temperature pressure"
)
_MARKS = ("```", "()", "=>", "==", "{", "}", "</", "def ", "assert ", "#include")
_COUNTING = _set_of(
    "one two three four five six seven eight nine ten eleven twelve dozen hundred thousand half twice double triple "
    "third quarter thrice each every per total altogether remaining left more less than fewer times percent "
    "rest"
)
_RATES = frozenset(("each", "every", "per"))
_MULTIPLES = frozenset(("twice", "half", "double", "triple", "third", "quarter", "times"))
_REMAINDERS = frozenset(("remaining", "left", "rest", "remain"))
_CODE = _set_of(
    "python javascript java c sql function code program script class method implement algorithm html css api array "
    "string list regex bash def return"
)
_MATHS = _set_of(
    "prove proof theorem integral derivative equation matrix polynomial probability solve calculate compute find "
    "determine evaluate simplify expression value vector triangle sum integer integers"
)
_CREATIVE = _set_of(
    "write compose story poem essay blog email letter imagine pretend role character speech draft article headline post"
)
_OPEN = _set_of(
    "explain discuss compare describe summarize advantages disadvantages recommend suggest tips ideas opinion history "
    "impact"
)
_CONDITIONS = frozenset(("if", "unless", "when", "after", "before", "then"))
_QUESTIONS = ("what", "who", "where", "when", "why", "how", "which")


def signals(prompt: str) -> NDArray[np.float32]:
    """float32 of shape (len(NAMES),); pure, tens of microseconds for a short prompt."""
    text = prompt if len(prompt) <= WINDOW else prompt[: WINDOW * 2 // 3] + "\n" + prompt[-WINDOW // 3 :]
    options = [option for _, option in _OPTION.findall(text)]
    stem = _OPTION.sub("", text) if len(options) >= 2 else text
    lowered = stem.lower()
    words = split_words(lowered)
    return np.array(
        [
            math.log1p(len(words)),
            math.log1p(len(prompt)),
            *_answers(options),
            *_numbers(stem, words),
            float("how many" in lowered or "how much" in lowered),
            *_wording(set(words), stem),
            *_formality(words),
            *_layout(stem, words, text),
        ],
        np.float32,
    )


def stem(prompt: str) -> str:
    """What is asked, without the options to choose from, its beginning and end where it is long: what to embed."""
    text = (_ANSWERS.sub("", prompt) if len(_ANSWERS.findall(prompt)) >= 2 else prompt).strip()
    if len(text) <= _STEM_BEGIN + _STEM_END:
        return text
    return text[:_STEM_BEGIN] + " … " + text[-_STEM_END:]


def split_words(lowered: str) -> list[str]:
    """Runs of letters of a lower-case text."""
    return lowered.translate(_LETTERS).split() if lowered.isascii() else _WORD.findall(lowered)


def _answers(options: list[str]) -> tuple[float, float, float]:
    if len(options) < 2:
        return 0.0, 0.0, 0.0
    numeric = sum(1 for option in options if _NUMERIC.match(option)) / len(options)
    return float(len(options)), math.log1p(sum(map(len, options)) / len(options)), numeric


def _numbers(stem: str, words: list[str]) -> tuple[float, ...]:
    found = _NUMBER.findall(stem)
    values = {float(number.replace(",", "")[:15]) for number in found}
    return (
        math.log1p(len(found)),
        float(min(len(values), 12)),
        math.log10(1 + max(values, default=0.0)),
        float(min(6, sum(1 for number in found if "." in number))),
        float(min(8, stem.count("%") + stem.count("$"))),
        float(min(12, _count(words, _COUNTING))),
        float(min(5, _count(words, _RATES))),
        float(min(5, _count(words, _MULTIPLES))),
        float(min(4, _count(words, _REMAINDERS))),
    )


def _count(words: list[str], wanted: frozenset[str]) -> int:
    return len(list(filter(wanted.__contains__, words)))


def _wording(known: set[str], stem: str) -> tuple[float, ...]:
    return (
        *(float(word in known) for word in _QUESTIONS),
        float(min(4, len(known & _CODE))),
        float(sum(1 for mark in _MARKS if mark in stem)),
        float(min(4, len(known & _MATHS))),
        float(min(6, stem.count("\\") + stem.count("^") + 2 * stem.count("$$"))),
        float(min(3, len(known & _CREATIVE))),
        float(min(3, len(known & _OPEN))),
    )


def _formality(words: list[str]) -> tuple[float, ...]:
    known = set(words)
    rare = sum(1 for word in known if len(word) > 3 and not is_everyday(word))
    count = max(1, len(words))
    return (
        float(min(3, _count(words, _NEGATIONS))),
        float(min(5, _count(words, _UNITS))),
        float(min(rare, 20)),
        rare / max(1, len(known)),
        sum(map(len, words)) / count,
        len([word for word in words if len(word) >= 10]) / count,
    )


def _layout(stem: str, words: list[str], text: str) -> tuple[float, ...]:
    sentences = max(1, len(_SENTENCE.findall(stem)))
    letters = max(1, len(text))
    return (
        float(min(sentences, 15)),
        float(min(60.0, len(words) / sentences)),
        float(min(20, stem.count(","))),
        math.log1p(stem.count("\n")),
        float(min(4, stem.count("?"))),
        len(_CAPITAL.findall(stem)) / letters,
        float("__" in stem),
        float("tatement 1" in stem or "tatement I" in stem),
        float(min(5, _count(words, _CONDITIONS))),
        0.0 if text.isascii() else sum(1 for char in text if char > "\x7f") / letters,
    )
