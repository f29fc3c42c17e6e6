"""A rule's CEL expressions (https://cel.dev): compiled, checked and tried at load, so that serving cannot trip over
them.

Each is evaluated on sample requests, as Envoy and Caddy do; what fails there would fail in service. What takes long
there would hold a worker up with every request, since nothing interrupts CEL. Its macros loop over lists: three within
one another take the cube of what a client may send, and `map` can double what it is given, again and again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Any

import cel

from gateway.policy.engine import EVALUATION_ERRORS, Expression, Program
from gateway.policy.samples import SAMPLES
from gateway.policy.situation import VARIABLES as SITUATION
from gateway.types import Features
from gateway.yamlfile import Document, did_you_mean

FEATURES = tuple(field for field in Features.__struct_fields__ if field != "last_user_text")
SCORED = ("difficulty", "scorer", *SITUATION)
ANSWERED = ("confidence",)

MAX_NESTED, MAX_MAPS = 2, 1
MAX_SECONDS = 0.02
"""Of CPU time for one evaluation; an ordinary condition takes a millionth of a second."""

_TRIES = 2
_FUNCTIONS = {
    "size", "contains", "startsWith", "endsWith", "matches", "has", "all", "exists", "exists_one", "map", "filter",
    "int", "uint", "double", "string", "bytes", "type", "dyn", "duration", "timestamp", "max", "min",
}  # fmt: skip
_TYPES = {"bool", "bytes", "double", "int", "list", "map", "null_type", "string", "type", "uint"}
_BOUND = re.compile(r"\.\s*(?:all|exists|exists_one|map|filter)\s*\(\s*([A-Za-z_]\w*)\s*,")
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
_MATCHES = re.compile(r"\.\s*matches\s*\(\s*(" + _QUOTED.pattern + r")\s*\)")
_OPENS = re.compile(r"\.\s*(?P<macro>all|exists|exists_one|map|filter)\s*\(|(?P<open>\()|(?P<close>\))")


def compiled(source: str, known: Sequence[str], document: Document, path: str, local_only: bool = False) -> Expression:
    """The expression under ``when`` at ``path``, which may read ``known``.

    Raises:
        ConfigError: with file, line and path: a syntax error, an unknown variable or function, an expression that is
            not a condition, fails on a sample request or takes too long.
    """
    _check_macros(source, document, path)
    try:
        program: Program = cel.compile(source)
    except ValueError as error:
        raise document.error(f"not a CEL expression: {_short(error)}", path, "when") from None
    bound = set(_BOUND.findall(source))
    variables = set(program.variables()) - bound - _TYPES
    for name in sorted(variables - set(known)):
        if local_only and name in (*SCORED, *ANSWERED):
            raise document.error(f"a local_only rule may read features and tags only, not '{name}'", path, "when")
        if name in ANSWERED:
            raise document.error(f"'{name}' is known of an answer only: in 'escalate'", path, "when")
        raise document.error(f"unknown variable '{name}'{did_you_mean(name, known)}", path, "when")
    for name in program.functions():
        if name.isidentifier() and name not in _FUNCTIONS:
            raise document.error(f"unknown function '{name}'{did_you_mean(name, _FUNCTIONS)}", path, "when")
    for pattern in _MATCHES.findall(source):
        _check_pattern(pattern, document, path)
    expression = Expression(source, program, frozenset(variables))
    _dry_run(expression, document, path)
    return expression


def _check_macros(source: str, document: Document, path: str) -> None:
    blind = _QUOTED.sub("''", source)
    macros: list[bool] = []
    deepest = 0
    for found in _OPENS.finditer(blind):
        if found["close"]:
            macros = macros[:-1]
        else:
            macros.append(found["macro"] is not None)
            deepest = max(deepest, sum(macros))
    if deepest > MAX_NESTED:
        raise document.error(f"loops within loops: at most {MAX_NESTED} may be one within another", path, "when")
    if sum(found["macro"] == "map" for found in _OPENS.finditer(blind)) > MAX_MAPS:
        raise document.error(f"at most {MAX_MAPS} 'map' may be in a condition", path, "when")


def _check_pattern(pattern: str, document: Document, path: str) -> None:
    """By itself: no sample request may get as far as where it stands."""
    try:
        cel.compile(f"''.matches({pattern})").execute(cel.Context())
    except EVALUATION_ERRORS as error:
        why = str(error).splitlines()[-1].removeprefix("error: ").split(".")[0]
        raise document.error(f"not a regular expression: {pattern}: {why}", path, "when") from None


def _dry_run(expression: Expression, document: Document, path: str) -> None:
    for title, values in SAMPLES.items():
        context = {name: values[name] for name in expression.variables}
        try:
            result, took = _timed(expression.program, context)
        except EVALUATION_ERRORS as error:
            raise document.error(f"fails for {title}: {_short(error)}", path, "when") from None
        if not isinstance(result, bool):
            raise document.error(f"must be true or false, but gives {result!r} for {title}", path, "when")
        if took > MAX_SECONDS:
            raise document.error(f"takes {took * 1000:.0f} ms of CPU time for {title}", path, "when")


def _timed(program: Program, context: dict[str, Any]) -> tuple[Any, float]:
    """What it gives, and the CPU seconds of one evaluation; once more if they are many, since a collection of garbage
    may fall into one.
    """
    took: list[float] = []
    while not took or (took[-1] > MAX_SECONDS and len(took) < _TRIES):
        begun = time.thread_time()
        result = program.execute(context)
        took.append(time.thread_time() - begun)
    return result, min(took)


def _short(error: Exception) -> str:
    """The first sentence of a CEL error."""
    return str(error).splitlines()[0].split(". ")[0].removesuffix(".")
