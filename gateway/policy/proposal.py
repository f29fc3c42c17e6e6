"""A change of a policy to be looked at: a unified diff of its file, which ``patch`` and ``git apply`` take."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from gateway.policy.dial import NEUTRAL
from gateway.policy.engine import CompiledPolicy
from gateway.policy.thresholds import THRESHOLD, Fitted
from gateway.yamlfile import Document


def diff(policy: CompiledPolicy, fitted: Iterable[Fitted]) -> str:
    """The thresholds as they were fitted; and the dial at its neutral position, which they were fitted for.

    Empty where nothing changes. Raises OSError.
    """
    texts: dict[str, list[str]] = {}

    def lines(file: str) -> list[str]:
        return texts.setdefault(file, Path(file).read_text(encoding="utf-8").splitlines(keepends=True))

    for one in fitted:
        if one.now != one.was:
            document, path = policy.origins[one.place]
            _move(lines(document.file), document.line(path, "when") - 1, one)
    if policy.policy.cost_quality != NEUTRAL:
        _to_neutral(lines(policy.document.file), policy.document)
    return "".join(_told(file, after) for file, after in texts.items())


def _move(lines: list[str], start: int, one: Fitted) -> None:
    """The first threshold of that value from a rule's condition on."""
    for at in range(start, len(lines)):
        for found in THRESHOLD.finditer(lines[at]):
            if float(found["value"]) == one.was:
                lines[at] = f"{lines[at][: found.start('value')]}{one.now:g}{lines[at][found.end('value') :]}"
                return
    raise AssertionError(f"the condition of rule '{one.rule}' is not where it was read from")


def _to_neutral(lines: list[str], document: Document) -> None:
    if "cost_quality" in document.value:
        at = document.line("", "cost_quality") - 1
        lines[at] = lines[at].replace(str(document.value["cost_quality"]), str(NEUTRAL), 1)
    else:  # inherited
        lines.insert(document.line("", "name"), f"cost_quality: {NEUTRAL}\n")


def _told(file: str, after: list[str]) -> str:
    before = Path(file).read_text(encoding="utf-8").splitlines(keepends=True)
    here = Path(file).resolve()
    inside = here.is_relative_to(Path.cwd())
    was, now = (f"{side}/{here.relative_to(Path.cwd())}" if inside else str(here) for side in ("a", "b"))
    found = difflib.unified_diff(before, after, was, now)
    return "".join(line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in found)
