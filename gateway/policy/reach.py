"""Which rules no request can reach: another one takes all of theirs before them, or their condition is never true.

A condition is read as parts joined by ``&&``. A part that compares a number with a constant is an interval, any other
one is only itself. What cannot be told this way (``||``, ``? :``) is taken to be reachable.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gateway.policy.engine import CompiledRule

_COMPARES = re.compile(r"(\w+)\s*(<=?|>=?|==)\s*(-?\d+(?:\.\d+)?)")
_QUOTED = re.compile(r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\"")
_ENDS = {"<": (False, False), "<=": (False, True), ">": (True, False), ">=": (True, True), "==": (True, True)}


class _Interval(NamedTuple):
    """Ends are pairs that sort: a number, and what is beside it (-1 just below, 0 itself, 1 just above)."""

    low: tuple[float, int] = (-math.inf, 0)
    high: tuple[float, int] = (math.inf, 0)

    def within(self, other: _Interval) -> bool:
        return self.low >= other.low and self.high <= other.high

    def both(self, other: _Interval) -> _Interval:
        return _Interval(max(self.low, other.low), min(self.high, other.high))

    @property
    def empty(self) -> bool:
        return self.low > self.high


def _closed(low: float, high: float = math.inf) -> _Interval:
    return _Interval((low, 0), (high, 0))


DOMAINS: Mapping[str, _Interval] = {
    **dict.fromkeys(("difficulty", "budget_left"), _closed(0, 1)),
    **dict.fromkeys(("prompt_tokens", "max_tokens", "turns", "messages", "constraints", "words", "year"), _closed(0)),
    **dict.fromkeys(("system_tokens", "last_user_tokens"), _closed(0)),
    "quality": _closed(0, 10),
    "hour": _closed(0, 23),
}
"""What a variable can be."""


class _Condition(NamedTuple):
    """All of it must hold: ``ranges`` by variable, and ``parts`` that are only themselves."""

    ranges: dict[str, _Interval]
    parts: frozenset[str]

    def implies(self, other: _Condition) -> bool:
        known = {**DOMAINS, **self.ranges}
        ranges = all(known.get(name, _Interval()).within(wide) for name, wide in other.ranges.items())
        return ranges and other.parts <= self.parts

    @property
    def never(self) -> str | None:
        """The variable that would have to be two things at once, or what it cannot be."""
        return next((name for name, range_ in self.ranges.items() if range_.empty), None)


def unreachable(rules: Sequence[CompiledRule]) -> Iterator[tuple[int, str]]:
    """The place of each rule that no request can reach, and why."""
    earlier: list[tuple[str, _Condition]] = []
    for place, rule in enumerate(rules):
        condition = _condition(rule)
        taker = next((name for name, wider in earlier if condition.implies(wider)), None)
        if condition.never:
            yield place, f"its condition is never true ({condition.never})"
        elif taker is not None and not (rule.local_only and rule.when):
            yield place, f"'{taker}' takes every request it could match"
        else:
            earlier.append((rule.name, condition))


def always(rule: CompiledRule) -> bool:
    """No condition, or one that every request fulfils."""
    return _Condition({}, frozenset()).implies(_condition(rule))


def _condition(rule: CompiledRule) -> _Condition:
    if rule.when is None or (not rule.when.variables and rule.when.program.execute({}) is True):
        return _Condition({}, frozenset())
    ranges: dict[str, _Interval] = {}
    parts = set()
    for part in _parts(rule.when.source):
        compared = _COMPARES.fullmatch(part)
        if compared is None:
            parts.add(part)
            continue
        name, sign, value = compared.groups()
        so_far = ranges.get(name, DOMAINS.get(name, _Interval()))
        ranges[name] = so_far.both(_interval(sign, float(value)))
    return _Condition(ranges, frozenset(parts))


def _interval(sign: str, value: float) -> _Interval:
    above, itself = _ENDS[sign]
    if sign == "==":
        return _closed(value, value)
    return _Interval(low=(value, 0 if itself else 1)) if above else _Interval(high=(value, 0 if itself else -1))


def _parts(source: str) -> list[str]:
    """What stands between ``&&``; the whole where something else joins it. Spaces do not count."""
    blind = _QUOTED.sub(lambda found: "_" * len(found[0]), source)
    if "||" in blind or "?" in blind:
        return [_tidy(source)]
    cuts, depth, start = [], 0, 0
    for at, sign in enumerate(blind):
        depth += (sign in "([{") - (sign in ")]}")
        if depth == 0 and blind.startswith("&&", at):
            cuts.append(source[start:at])
            start = at + 2
    return [_tidy(part) for part in (*cuts, source[start:])]


def _tidy(part: str) -> str:
    return " ".join(part.split())
