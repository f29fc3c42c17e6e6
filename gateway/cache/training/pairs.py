"""Pairs of questions of which it is known whether one answer serves both: generated from ``phrases.yaml``.

Two ways to ask one thing are a pair of label 1; label 0 changes what is asked, of whom, or under which condition. Real
questions are given typos and pleasantries (1), or a word that turns them around (0).
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import yaml


class Pair(msgspec.Struct, frozen=True):
    """``label`` 1: the answer to ``a`` also answers ``b``."""

    a: str
    b: str
    label: int
    kind: str


@cache
def _phrases() -> Any:
    return yaml.safe_load(Path(__file__).with_name("phrases.yaml").read_text(encoding="utf-8"))


def generate(count: int, seed: int, real: Sequence[str] = ()) -> list[Pair]:
    """``count`` different pairs; ``real`` are questions people asked. The same for the same arguments."""
    chance = random.Random(seed)
    makers = (_attribute, _goal, _comparison, _permission, lambda r: _real(r, real))
    weights = (0.28, 0.34, 0.06, 0.07, 0.25 if real else 0.0)
    found: dict[tuple[str, str], Pair] = {}
    while len(found) < count:
        pair = chance.choices(makers, weights)[0](chance)
        b = _noisy(chance, pair.b) if chance.random() < (0.25 if pair.label else 0.15) else pair.b
        a, b = (pair.a, b) if chance.random() < 0.5 else (b, pair.a)
        if a.strip().lower() != b.strip().lower():
            found.setdefault((a, b), Pair(a, b, pair.label, pair.kind))
    return list(found.values())


def _attribute(r: random.Random) -> Pair:
    kind = r.choice(list(_phrases()["attributes"]))
    asked, things = _phrases()["attributes"][kind], _phrases()["things"][kind]
    attribute, thing = r.choice(list(asked)), r.choice(things)
    way = r.choice(asked[attribute])
    a, turn = way.format(x=thing), r.random()
    if turn < 0.5:
        other = r.choice([form for form in asked[attribute] if form != way])
        return Pair(a, other.format(x=thing), 1, "attribute")
    if turn < 0.75:
        another = r.choice([name for name in things if name != thing])
        return Pair(a, r.choice(asked[attribute]).format(x=another), 0, "other thing")
    elsewhere = r.choice([name for name in asked if name != attribute])
    return Pair(a, r.choice(asked[elsewhere]).format(x=thing), 0, "other attribute")


def _goal(r: random.Random) -> Pair:
    phrases = _phrases()
    place = r.randrange(len(phrases["tasks"]))
    ways = phrases["tasks"][place]
    task, turn = r.choice(ways), r.random()
    a = r.choice(phrases["how"]).format(t=task)
    if turn < 0.28:
        return Pair(a, r.choice(phrases["how"]).format(t=task), 1, "frame")
    if turn < 0.5:
        return Pair(a, r.choice(phrases["how"]).format(t=r.choice([way for way in ways if way != task])), 1, "goal")
    if turn < 0.65:
        near = [n for n in range(max(0, place - 3), min(len(phrases["tasks"]), place + 4)) if n != place]
        other = r.choice(phrases["tasks"][r.choice(near)])
        return Pair(a, r.choice(phrases["how"]).format(t=other), 0, "other goal")
    if turn < 0.8:
        return Pair(a, r.choice(phrases["about"]).format(t=task), 0, "other question")
    if turn < 0.86:
        first, second = r.sample(phrases["about"], 2)
        return Pair(first.format(t=task), second.format(t=task), 0, "other question")
    return _narrowed(r, a, task)


def _narrowed(r: random.Random, plain: str, task: str) -> Pair:
    modifiers, how = _phrases()["modifiers"], _phrases()["how"]
    modifier, turn = r.choice(modifiers), r.random()
    a = r.choice(how).format(t=f"{task} {modifier}")
    if turn < 0.4:
        return Pair(a, plain, 0, "narrowed")
    if turn < 0.7:
        other = r.choice([name for name in modifiers if name != modifier])
        return Pair(a, r.choice(how).format(t=f"{task} {other}"), 0, "narrowed otherwise")
    return Pair(a, r.choice(how).format(t=f"{task} {modifier}"), 1, "narrowed alike")


def _comparison(r: random.Random) -> Pair:
    compare, pairs = _phrases()["compare"], _phrases()["comparisons"]
    (one, two), name = r.choice(pairs), r.choice(list(compare))
    a, turn = r.choice(compare[name]).format(a=one, b=two), r.random()
    if turn < 0.5:
        return Pair(a, r.choice(compare[name]).format(a=one, b=two), 1, "comparison")
    if turn < 0.75:
        other = r.choice([key for key in compare if key != name])
        return Pair(a, r.choice(compare[other]).format(a=one, b=two), 0, "other comparison")
    third = r.choice(r.choice([pair for pair in pairs if pair != [one, two]]))
    return Pair(a, r.choice(compare[name]).format(a=one, b=third), 0, "comparison of others")


def _permission(r: random.Random) -> Pair:
    phrases = _phrases()
    forms = phrases[r.choice(["permitted", "allowed"])]
    act, condition, turn = r.choice(phrases["acts"]), r.choice(phrases["conditions"]), r.random()
    a = r.choice(forms).format(t=act, c=condition)
    if turn < 0.5:
        return Pair(a, r.choice(forms).format(t=act, c=condition), 1, "permission")
    if turn < 0.8:
        other = r.choice([name for name in phrases["conditions"] if name != condition])
        return Pair(a, r.choice(forms).format(t=act, c=other), 0, "other condition")
    other = r.choice([name for name in phrases["acts"] if name != act])
    return Pair(a, r.choice(forms).format(t=other, c=condition), 0, "other act")


def _real(r: random.Random, questions: Sequence[str]) -> Pair:
    asked, turn = r.choice(questions), r.random()
    if turn < 0.3:
        return Pair(asked, _noisy(r, asked), 1, "noise")
    if turn < 0.5:
        return Pair(asked, _reworded(r, asked), 1, "function words")
    change = r.choice([_turned, _narrower, _replaced])
    changed = change(r, asked, questions)
    return Pair(asked, changed, 0, change.__name__.strip("_"))


def _noisy(r: random.Random, text: str) -> str:
    phrases = _phrases()
    changes: tuple[Callable[[], str], ...] = (
        lambda: text.lower(),
        lambda: text.rstrip("?"),
        lambda: r.choice(phrases["openers"]) + text,
        lambda: text + r.choice(phrases["closers"]),
        lambda: _misspelt(r, text),
        lambda: text.rstrip("?") + " ?",
        lambda: _reworded(r, text),
    )
    return r.choice(changes)()


def _misspelt(r: random.Random, text: str) -> str:
    words = text.split()
    places = [place for place, word in enumerate(words) if len(word) >= 5 and word.isalpha() and word.islower()]
    if not places:
        return text
    place = r.choice(places)
    word = words[place]
    at = r.randrange(1, len(word) - 2)
    slips = (
        word[:at] + word[at + 1] + word[at] + word[at + 2 :],
        word[:at] + word[at + 1 :],
        word[:at] + word[at] + word[at:],
        word[:at] + r.choice("aeiourtn") + word[at + 1 :],
    )
    words[place] = r.choice(slips)
    return " ".join(words)


def _reworded(r: random.Random, text: str) -> str:
    """The same with another article, preposition or contraction; unchanged where there is none."""
    swaps = [(old, new) for pair in _phrases()["rewordings"] for old, new in (pair, pair[::-1])]
    fitting = [(old, new) for old, new in swaps if re.search(rf"(?<!\w){re.escape(old)}(?!\w)", text)]
    if not fitting:
        return text
    old, new = r.choice(fitting)
    return re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", new, text, count=1)


def _turned(r: random.Random, text: str, questions: Sequence[str]) -> str:
    """One word turned around, or a number changed; another question where there is neither."""
    words = text.split()
    numbers = [place for place, word in enumerate(words) if word.strip("?,.").isdecimal()]
    turns = [(place, other) for place, word in enumerate(words) for other in _opposite(word.strip("?,.").lower())]
    if numbers and r.random() < 0.5:
        place = r.choice(numbers)
        words[place] = re.sub(r"\d+", lambda found: str(int(found[0]) + r.choice([1, 2, 5, 10, 100])), words[place])
    elif turns:
        place, other = r.choice(turns)
        words[place] = re.sub(r"\w+", other, words[place], count=1)
    else:
        return _replaced(r, text, questions)
    return " ".join(words)


def _opposite(word: str) -> Iterator[str]:
    for pair in _phrases()["turns"]:
        if word in pair:
            yield pair[1 - pair.index(word)]


def _narrower(r: random.Random, text: str, questions: Sequence[str]) -> str:
    return f"{text.rstrip('?. ')} {r.choice(_phrases()['modifiers'])}?"


def _replaced(r: random.Random, text: str, questions: Sequence[str]) -> str:
    """One word of meaning replaced by one of another question."""
    words, donor = text.split(), [word for word in r.choice(questions).split() if len(word) > 4 and word.isalpha()]
    places = [place for place, word in enumerate(words) if len(word) > 4 and word.isalpha()]
    if places and donor:
        words[r.choice(places)] = r.choice(donor)
        return " ".join(words)
    return r.choice(questions)
