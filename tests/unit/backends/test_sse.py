"""Server-sent events, however they are cut, ended and interleaved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backends.sse import EventTooLarge, SSEParser


def parse(data: bytes, size: int | None = None) -> list[bytes]:
    parser, found = SSEParser(), []
    for start in range(0, len(data), size or max(1, len(data))):
        found += parser.feed(data[start : start + (size or len(data))])
    return found + parser.end()


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data:a\n\n", [b"a"]),
        (b"data:  a\n\n", [b" a"]),
        (b": keep-alive\n\ndata: a\n\n: bye\n\n", [b"a"]),
        (b"event: message\nid: 7\ndata: a\nretry: 10\n\n", [b"a"]),
        (b"data: a\ndata: b\ndata\n\n", [b"a\nb\n"]),
        (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\n\ndata: cut", [b"a", b"cut"]),
        (b"data: a\n\ndata: [DONE]\n", [b"a", b"[DONE]"]),
        ("data: grüße 🙂\n\n".encode(), ["grüße 🙂".encode()]),
        (b"", []),
    ],
)
def test_finds_the_events_split_anywhere(data: bytes, events: list[bytes]) -> None:
    assert parse(data) == events
    for size in range(1, len(data) + 1):
        assert parse(data, size) == events


LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
TEXT = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), min_size=1)


@given(
    events=st.lists(st.lists(TEXT, min_size=1, max_size=3), max_size=5),
    end=LINE_ENDS,
    cuts=st.lists(st.integers(0, 400), max_size=8),
)
def test_any_events_survive_any_split(events: list[list[str]], end: bytes, cuts: list[int]) -> None:
    data = b"".join(b"".join(b"data: " + line.encode() + end for line in lines) + end for lines in events)
    parser, found, at = SSEParser(), [], 0
    for cut in sorted({min(cut, len(data)) for cut in cuts} | {len(data)}):
        found += parser.feed(data[at:cut])
        at = cut
    assert found + parser.end() == ["\n".join(lines).encode() for lines in events]


def test_an_event_is_given_out_as_soon_as_it_is_whole() -> None:
    parser = SSEParser()
    assert parser.feed(b"data: a\r\n\r") == [b"a"]
    assert parser.feed(b"\ndata: b\r\n\r\n") == [b"b"]


def test_refuses_an_event_over_the_limit_whole_or_in_pieces() -> None:
    with pytest.raises(EventTooLarge):
        SSEParser(100).feed(b"data: " + b"x" * 200 + b"\n\n")
    parser = SSEParser(100)
    parser.feed(b"data: " + b"x" * 60)
    with pytest.raises(EventTooLarge):
        parser.feed(b"x" * 60)
    assert len(SSEParser().feed(b"data: " + b"x" * ((1 << 20) - 6) + b"\n\n")) == 1
