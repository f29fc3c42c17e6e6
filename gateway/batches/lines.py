"""The lines of an input file: what each asks for, and what is wrong with them, in OpenAI's words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from gateway.batches.disk import gently
from gateway.batches.records import Problem

LINES_MAX = 50_000
PROBLEMS_MAX = 100
_BOM = b"\xef\xbb\xbf"


class Raw(NamedTuple):
    """A line that is not empty; ``number`` is 1-based. ``data`` is None where it is over the limit."""

    number: int
    data: bytes | None


class Line(msgspec.Struct, frozen=True):
    """What is read of a line."""

    custom_id: Annotated[str, msgspec.Meta(min_length=1, max_length=512)]
    method: str
    url: str
    body: msgspec.Raw


class _Model(msgspec.Struct):
    model: str


_line, _model = msgspec.json.Decoder(Line), msgspec.json.Decoder(_Model)
_anything = msgspec.json.Decoder()
_FIELDS = ("custom_id", "method", "url", "body")


def read(path: Path, limit: int) -> Iterator[Raw]:
    """The lines of a file, one in memory at a time. ``limit``: bytes of the longest that is read."""
    with path.open("rb") as file:
        number = 0
        while data := file.readline(limit + 1):
            number += 1
            whole = len(data) <= limit or data.endswith(b"\n")
            while not whole:
                rest = file.readline(limit)
                whole = not rest or rest.endswith(b"\n")
                data = b""
            stripped = data.removeprefix(_BOM).strip() if number == 1 else data.strip()
            if stripped or not data:
                yield Raw(number, stripped or None)


def decode(data: bytes) -> Line:
    """Raises msgspec.MsgspecError, UnicodeDecodeError, RecursionError."""
    if not data.isascii():
        data.decode()
    return _line.decode(data)


def check(path: Path, endpoint: str, limit: int, known: Callable[[str], bool]) -> tuple[int, list[Problem]]:
    """How many lines there are, and what is wrong with the file; no more than ``PROBLEMS_MAX`` are told."""
    total, problems, seen = 0, list[Problem](), set[bytes]()
    for raw in gently(read(path, limit)):
        total += 1
        if total > LINES_MAX:
            message = f"The file has more than {LINES_MAX} requests: split it into several batches."
            return total, [Problem(code="too_many_tasks", message=message)]
        problem = _problem(raw, endpoint, limit, known, seen)
        if problem is not None and len(problems) < PROBLEMS_MAX:
            problems.append(problem)
    if not total:
        problems.append(Problem(code="empty_file", message="The input file is empty."))
    return total, problems


def _problem(raw: Raw, endpoint: str, limit: int, known: Callable[[str], bool], seen: set[bytes]) -> Problem | None:
    if raw.data is None:
        return Problem(code="line_too_long", line=raw.number, message=f"This line is longer than {limit} bytes.")
    try:
        line = decode(raw.data)
    except (msgspec.ValidationError, RecursionError, UnicodeDecodeError, msgspec.DecodeError) as error:
        return _unreadable(raw, error)
    if line.method != "POST":
        message = f"The method of this request is '{line.method}'; a batch takes only POST."
        return Problem(code="invalid_method", line=raw.number, message=message, param="method")
    if line.url != endpoint:
        message = f"The URL of this request is '{line.url}', the endpoint of the batch is '{endpoint}'."
        return Problem(code="invalid_url", line=raw.number, message=message, param="url")
    digest = blake2b(line.custom_id.encode(), digest_size=16).digest()
    if digest in seen:
        message = f"The custom_id '{line.custom_id}' stands in more than one request; each needs its own."
        return Problem(code="duplicate_custom_id", line=raw.number, message=message, param="custom_id")
    seen.add(digest)
    return _model_problem(raw.number, line.body, known)


def _model_problem(number: int, body: msgspec.Raw, known: Callable[[str], bool]) -> Problem | None:
    try:
        model = _model.decode(body).model
    except (msgspec.MsgspecError, RecursionError):
        message = "Missing required parameter: 'body.model'."
        return Problem(code="missing_required_parameter", line=number, message=message, param="body.model")
    if not known(model):
        message = f"The model '{model[:256]}' does not exist."
        return Problem(code="model_not_found", line=number, message=message, param="body.model")
    return None


def _unreadable(raw: Raw, error: Exception) -> Problem:
    """Not JSON, or JSON that lacks something."""
    value = None
    try:
        value = _anything.decode(raw.data or b"")
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        error = ValueError()
    if not isinstance(value, dict) or not isinstance(error, msgspec.ValidationError):
        message = "This line is not parseable as valid JSON."
        return Problem(code="invalid_json_line", line=raw.number, message=message)
    for field in _FIELDS:
        if field not in value:
            message = f"Missing required parameter: '{field}'."
            return Problem(code="missing_required_parameter", line=raw.number, message=message, param=field)
    return Problem(code="invalid_request", line=raw.number, message=f"This line cannot be read: {error}")
