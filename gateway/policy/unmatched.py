"""Why a rule did not match: the first part of its condition that was false, and the values it saw.

Nothing of this is on the way of a request: it is found again from what the row holds, when somebody asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import cel

from gateway.policy.engine import EVALUATION_ERRORS
from gateway.types import Frozen

_OPEN, _CLOSE, _QUOTES = "([{", ")]}", "'\""
_SHOWN_MAX = 80


class Unmatched(Frozen, frozen=True, kw_only=True):
    """A rule, its condition, the part of it that failed and the variables this part reads. ``reason`` is for people."""

    rule: str
    when: str
    clause: str
    values: dict[str, Any]
    reason: str


def why_not(rule: str, when: str, values: Mapping[str, Any]) -> Unmatched:
    """Evaluate a condition again, part by part. ``values``: of every variable that was known then."""
    clause, verdict = _first_false(when, values)
    seen = {name: values[name] for name in _variables(clause) if name in values}
    told = ", ".join(f"{name} = {_shown(value)}" for name, value in seen.items())
    return Unmatched(
        rule=rule, when=when, clause=clause, values=seen, reason=f"{clause} {verdict}" + (f": {told}" if told else "")
    )


def conjuncts(source: str) -> list[str]:
    """The parts of ``a && b && …``, with the parentheses around them taken off; one part where it is something else."""
    inner = _bare(source.strip())
    cuts = list(_top_level(inner))
    if any(operator != "&&" for _, operator in cuts):
        return [inner]
    if not cuts:
        return [inner]
    ends = [place for place, _ in cuts]
    parts = [inner[start:end] for start, end in zip([0, *(end + 2 for end in ends)], [*ends, len(inner)], strict=True)]
    return [clause for part in parts for clause in conjuncts(part)]


def _first_false(when: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """The clause, and what is to be said of it. An error decides only where nothing is false, as in CEL itself."""
    failed = ""
    for clause in conjuncts(when):
        try:
            if cel.compile(clause).execute(_given(clause, values)) is not True:
                return clause, "is false"
        except EVALUATION_ERRORS:
            failed = failed or clause
    return (failed, "could not be evaluated") if failed else (when, "is not known to be false any more")


def _given(clause: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: values[name] for name in _variables(clause) if name in values}


def _variables(clause: str) -> list[str]:
    try:
        return sorted(set(cel.compile(clause).variables()))
    except ValueError:
        return []


def _bare(source: str) -> str:
    """Without parentheses around the whole of it."""
    while source.startswith("(") and _closing(source) == len(source) - 1:
        source = source[1:-1].strip()
    return source


def _closing(source: str) -> int:
    """Where the bracket that opens the text is closed."""
    for place, depth in _depths(source):
        if depth == 0:
            return place
    return -1


def _top_level(source: str) -> Iterator[tuple[int, str]]:
    """The places of ``&&``, ``||`` and ``?`` that stand in no brackets."""
    for place, depth in _depths(source):
        if depth == 0 and source[place : place + 2] in ("&&", "||"):
            yield place, source[place : place + 2]
        elif depth == 0 and source[place] == "?":
            yield place, "?"


def _depths(source: str) -> Iterator[tuple[int, int]]:
    """Each place outside of text in quotes, with the brackets that are open behind it."""
    depth, quote, escaped = 0, "", False
    for place, char in enumerate(source):
        if quote:
            escaped, ends = char == "\\" and not escaped, char == quote and not escaped
            quote = "" if ends else quote
            continue
        if char in _QUOTES:
            quote = char
            continue
        depth += (char in _OPEN) - (char in _CLOSE)
        yield place, depth


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4f}".rstrip("0").rstrip(".") or "0"
    text = "[" + ", ".join(map(_shown, value)) + "]" if isinstance(value, list | tuple) else repr(value)
    return text if len(text) <= _SHOWN_MAX else text[: _SHOWN_MAX - 1] + "…"
