"""Checkable prompts that show what a local model can do, and how an answer is graded.

Written for this project, or generated from a fixed seed: no public benchmark is in them. Grading is lenient about form
(a sentence around the answer is fine) and strict about content: the first thing named, or the last number counts.
"""

from __future__ import annotations

import functools
import itertools
import random
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
import yaml

from gateway.types import Frozen

FILE = Path(__file__).with_name("probe_questions.yaml")
MORE = Path(__file__).with_name("probe_more.yaml")
ANSWER_TOKENS = 24
"""How long an answer may be; a right one stands at its beginning."""
_SEED, _SEED_OF_MORE = 20_261, 20_262
_EACH, _EACH_OF_MORE = 12, 40

Check = Literal["contains", "exact", "label", "number"]

_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_NAMES_OF_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_WORDS_FOR_NUMBERS = {name: number for number, name in enumerate(_NAMES_OF_NUMBERS.split())}


class Question(Frozen, frozen=True, kw_only=True):
    """One prompt and what a right answer holds. ``skill`` is what it tests; ``domain`` groups skills."""

    prompt: str
    answers: tuple[str, ...]
    skill: str
    domain: str
    check: Check = "contains"
    labels: tuple[str, ...] = ()
    case: bool = False


class _Skill(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    domain: str
    check: Check
    ask: tuple[str, ...]
    items: tuple[tuple[object, ...], ...]
    labels: tuple[str, ...] = ()
    case: bool = False
    ways: int = 1


@functools.cache
def questions(thorough: bool = False) -> tuple[Question, ...]:
    """The shipped set, always the same. The thorough one begins with the other and is six times as long."""
    first = (*read(FILE), *arithmetic(_SEED, SUMS))
    if not thorough:
        return first
    more = (*read(MORE), *arithmetic(_SEED_OF_MORE, MORE_SUMS, _EACH_OF_MORE))
    asked = {question.prompt for question in first}
    return (*first, *{question.prompt: question for question in more if question.prompt not in asked}.values())


def read(file: Path) -> tuple[Question, ...]:
    """The questions of a file such as ``probe_questions.yaml``, which explains its form. Raises ValidationError."""
    skills = msgspec.convert(yaml.safe_load(file.read_text(encoding="utf-8")), dict[str, _Skill])
    return tuple(question for name, skill in skills.items() for question in _asked(name, skill))


def _asked(name: str, skill: _Skill) -> Iterator[Question]:
    ways = min(skill.ways, len(skill.ask))
    for at, (item, way) in enumerate(itertools.product(skill.items, range(ways))):
        filling, answer = item[0], item[-1]
        wanted = answer if isinstance(answer, list) else [answer]
        yield Question(
            prompt=skill.ask[(at // ways + way) % len(skill.ask)].format(filling),
            answers=tuple(map(str, wanted)),
            skill=name,
            domain=skill.domain,
            check=skill.check,
            labels=skill.labels,
            case=skill.case,
        )


SUMS: Mapping[str, tuple[str, ...]] = {
    "add-digits": ("What is {a} + {b}?", "{a} plus {b} is what?"),
    "add-tens": ("What is {a} + {b}?", "Calculate {a} + {b}."),
    "subtract": ("What is {a} - {b}?", "How much is {a} minus {b}?"),
    "times-table": ("What is {a} times {b}?", "How much is {a} x {b}?"),
    "divide": ("What is {a} divided by {b}?", "Divide {a} by {b}."),
    "larger": ("Which number is larger, {a} or {b}?", "Which is bigger: {a} or {b}?"),
    "story": (
        "{name} has {a} {things} and gets {b} more. How many {things} does {name} have now?",
        "There are {a} {things} on the table. {name} takes {b} away. How many {things} are left?",
    ),
}
"""Templates of generated arithmetic, used in turn."""

MORE_SUMS: Mapping[str, tuple[str, ...]] = {
    "add-digits": (
        "What is {a} plus {b}?",
        "{a}+{b}",
        "How much is {a} + {b}?",
        "What's {a} + {b}?",
        "Add {a} and {b}",
    ),
    "add-tens": ("What is {a} plus {b}?", "{a}+{b}", "How much is {a} + {b}?", "What's the sum of {a} and {b}?"),
    "subtract": ("What is {a} minus {b}?", "{a}-{b}", "How much is {a} - {b}?", "Subtract {b} from {a}."),
    "times-table": ("What is {a} * {b}?", "{a}*{b}", "What is {a} multiplied by {b}?", "What's {a} times {b}?"),
    "divide": ("What is {a} / {b}?", "{a}/{b}", "How much is {a} divided by {b}?"),
    "larger": ("Is {a} greater than {b}? Name the greater number.", "Which is more, {a} or {b}?"),
    "story": (
        "{name} has {a} {things} and buys {b} more. How many {things} does {name} have in total?",
        "{name} had {a} {things} and gave {b} away. How many {things} does {name} have?",
    ),
}
"""Those of the thorough set."""

_RANGES = {
    "add-digits": (1, 9), "add-tens": (11, 89), "subtract": (10, 90), "times-table": (3, 9), "divide": (2, 9),
    "larger": (10, 990), "story": (3, 18),
}  # fmt: skip


def arithmetic(seed: int, templates: Mapping[str, Sequence[str]], each: int = _EACH) -> tuple[Question, ...]:
    """Sums from templates with ``{a}`` and ``{b}`` (a ≥ b where that is needed), ``each`` of a skill."""
    draw = random.Random(seed)
    made = []
    for skill, asks in templates.items():
        for at in range(each):
            low, high = _RANGES[skill]
            b, a = sorted(draw.sample(range(low, high + 1), 2))
            taken = "away" in (ask := asks[at % len(asks)])
            a, right = _solved(skill, a, b, taken)
            filling = {"name": draw.choice(("Ben", "Mia", "Sam", "Lena")), "things": draw.choice(("apples", "books"))}
            prompt = ask.format(a=a, b=b, **filling)
            made.append(
                Question(prompt=prompt, answers=(str(right),), skill=skill, domain="arithmetic", check="number")
            )
    return tuple(made)


def _solved(skill: str, a: int, b: int, taken: bool) -> tuple[int, int]:
    if skill == "times-table":
        return a, a * b
    if skill == "divide":
        return a * b, a
    if skill == "larger":
        return a, a
    return a, a - b if skill == "subtract" or taken else a + b


def right(question: Question, answer: str) -> bool:
    """Whether an answer is right."""
    if question.check == "number":
        return _last_number(answer) == float(question.answers[0])
    if question.check == "exact":
        said = _bare(answer, question.case)
        return any(said == _bare(wanted, question.case) for wanted in question.answers)
    said = _bare(answer)
    if question.check == "label":
        found = {said.find(f" {_bare(label).strip()} "): label for label in question.labels}
        named = [label for at, label in sorted(found.items()) if at >= 0]
        return named[:1] == list(question.answers[:1])
    return any(f" {_bare(wanted).strip()} " in said for wanted in question.answers)


def _last_number(answer: str) -> float | None:
    """The last number that is stated, in digits or, up to twenty, in words."""
    found = [float(number.replace(",", "")) for number in _NUMBER.findall(answer)]
    if found:
        return found[-1]
    words = [word for word in _bare(answer).split() if word in _WORDS_FOR_NUMBERS]
    return float(_WORDS_FOR_NUMBERS[words[-1]]) if words else None


def _bare(text: str, case: bool = False) -> str:
    """Words in between single spaces: no punctuation at their edges, no case unless it matters."""
    text = unicodedata.normalize("NFKC", text.strip())
    words = (word.strip(".,;:!?\"'`*()[]{}“”‘’«»¿¡") for word in (text if case else text.casefold()).split())
    return f" {' '.join(filter(None, words))} "
