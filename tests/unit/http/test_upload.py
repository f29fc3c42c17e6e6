"""Forms as they stream in: however they are cut, whatever is in them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect

from gateway.errors import InvalidRequest, TooLarge
from gateway.http.upload import Upload

TYPE = {"content-type": "multipart/form-data; boundary=edge"}


def part(name: str, content: bytes, filename: str | None = None) -> bytes:
    named = f'; filename="{filename}"' if filename is not None else ""
    return b'--edge\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n' % (
        *(name.encode(), named.encode(), content),
    )


def receiving(pieces: list[bytes], *, left: bool = False) -> Callable[[], Awaitable[Any]]:
    messages: list[dict[str, Any]] = [{"type": "http.request", "body": each, "more_body": True} for each in pieces]
    messages.append({"type": "http.disconnect"} if left else {"type": "http.request", "body": b""})
    turns = iter(messages)

    async def receive() -> Any:
        return next(turns)

    return receive


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = [0, *sorted(each % (len(data) + 1) for each in at), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(places)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), at=st.lists(st.integers(0, 10_000), max_size=8))
async def test_the_bytes_arrive_however_they_are_cut(tmp_path: Path, content: bytes, at: list[int]) -> None:
    form = part("purpose", b"batch") + part("file", content, "in.jsonl") + b"--edge--\r\n"
    if b"\r\n--edge" in content:
        return
    upload = Upload(tmp_path / "x", 1_000)
    try:
        await upload.read(receiving(cut(form, at)), TYPE)
        assert (upload.fields, upload.filename, upload.size) == ({"purpose": "batch"}, "in.jsonl", len(content))
        assert upload.path.read_bytes() == content
    finally:
        upload.close()
    assert not upload.path.exists()


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(form=st.binary(max_size=200), good=st.booleans())
async def test_rubbish_is_refused(tmp_path: Path, form: bytes, good: bool) -> None:
    upload = Upload(tmp_path / "x", 1_000)
    with contextlib.suppress(InvalidRequest, TooLarge):
        await upload.read(receiving([b"--edge\r\n" * good + form]), TYPE)
    upload.close()


@pytest.mark.parametrize(
    ("form", "error"),
    [
        (part("file", b"a" * 2_000, "x"), TooLarge),
        (part("purpose", b"a" * 5_000), InvalidRequest),
        (part("file", b"", "x") + part("file", b"", "y"), InvalidRequest),
        (part("a", b"") * 20, InvalidRequest),
        (part("file", b"no end", "x"), InvalidRequest),
        (b"--edge\r\n" + b"X-Long: " + b"a" * 50_000, InvalidRequest),
    ],
)
async def test_nothing_in_a_form_is_without_a_bound(tmp_path: Path, form: bytes, error: type[Exception]) -> None:
    upload = Upload(tmp_path / "x", 1_000)
    with pytest.raises(error):
        await upload.read(receiving([form]), TYPE)
    upload.close()


async def test_a_client_that_leaves_leaves_nothing_behind(tmp_path: Path) -> None:
    upload = Upload(tmp_path / "x", 1_000)
    with pytest.raises(ClientDisconnect):
        await upload.read(receiving([part("file", b"half", "x")], left=True), TYPE)
    upload.close()
    assert os.listdir(tmp_path) == []
