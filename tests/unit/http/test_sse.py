"""Framing of server-sent events."""

from __future__ import annotations

import json

import pytest

from gateway.http import sse


def received(stream: bytes) -> list[str]:
    """What a client by the standard's letter understands."""
    events, data = list[str](), list[str]()
    for line in stream.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n"):
        if line == "" and data:
            events.append("\n".join(data))
            data = []
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
    return events


@pytest.mark.parametrize(
    "data",
    [b'{"a":1}', b'{\n  "a": 1\n}', b'{"a":\r\n1}', '{"a":"é\u2028 \u0085"}'.encode(), b'{"a":"\\n\\n"}'],
)
def test_an_event_arrives_as_the_json_it_was(data: bytes) -> None:
    stream = sse.event(data) + sse.event(b"{}") + sse.DONE
    told = received(stream)
    assert [json.loads(one) for one in told[:2]] == [json.loads(data), {}]
    assert told[2:] == ["[DONE]"]


def test_a_stream_is_not_to_be_buffered_or_kept() -> None:
    headers = dict(sse.HEADERS)
    assert headers[b"content-type"].startswith(b"text/event-stream")
    assert headers[b"cache-control"] == b"no-cache"
    assert headers[b"x-accel-buffering"] == b"no"
