"""Bytes to a request: what is wrong names its field, what is unknown survives."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cache.keys import cache_context
from gateway.errors import GatewayError, InvalidRequest
from gateway.features import extract
from gateway.http.parse import chat_request, new_id, options
from gateway.types import ChatRequest, Principal, RequestOptions

ASKED: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": "hi"}]}
MODELS: tuple[Any, ...] = (None, 5, "", "x" * 257, ["auto"])
MESSAGES: tuple[Any, ...] = (None, "hi", [], {}, 5)
COUNTS: tuple[Any, ...] = (0, -1, "5", 1.5, 2**31, 2**62, 2**64, 10**30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
PART = st.fixed_dictionaries(
    {}, optional={"type": st.sampled_from(["text", "image_url", "x"]) | JSON, "text": JSON, "image_url": JSON}
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant", "tool", "?"])},
    optional={"content": st.text(max_size=20) | st.none() | st.lists(PART, max_size=3), "tool_calls": JSON, "x": JSON},
)


def parse(body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> ChatRequest:
    return chat_request(body if isinstance(body, bytes) else msgspec.json.encode(body), headers or {}, "r1")


def refused(body: dict[str, Any] | bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        parse(body)
    assert caught.value.status == 400
    return caught.value


def test_what_is_read() -> None:
    body = ASKED | {
        "stream": True,
        "stream_options": {"include_usage": True, "more": 1},
        "max_tokens": 5,
        "max_completion_tokens": 7,
        "n": 2,
        "logprobs": 0,
        "user": "u" * 300,
        "temperature": 1,
        "stop": ["a"],
    }
    request = parse(body)
    assert (request.id, request.model, request.stream, request.include_usage) == ("r1", "auto", True, True)
    assert (request.max_tokens, request.n, request.logprobs, request.user) == (7, 2, False, "u" * 200)
    assert request.body_bytes == len(msgspec.json.encode(body))
    assert parse(ASKED | {"stream_options": {"include_usage": True}}).include_usage is False
    quiet = parse(ASKED | dict.fromkeys(("stream", "n", "user", "max_tokens", "logprobs", "stop", "tools")))
    assert (quiet.stream, quiet.n, quiet.user, quiet.max_tokens) == (False, 1, "", None)


def test_what_is_unknown_keeps_its_bytes() -> None:
    odd = b'{"a":1.10, "b":123456789012345678901234567890,"c":[1e999],"d":"\\u00e9"}'
    request = parse(b'{"model":"auto","messages":[{"role":"user","content":"hi"}],"odd":' + odd + b"}")
    assert bytes(request.fields["odd"]) == odd
    assert bytes(request.fields["messages"]) == b'[{"role":"user","content":"hi"}]'


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("model", value) for value in MODELS),
        *(("messages", value) for value in MESSAGES),
        ("stream", "true"),
        ("stream", 1),
        ("stream_options", 5),
        *(("max_tokens", value) for value in COUNTS),
        ("max_completion_tokens", 0),
        *(("n", value) for value in (*COUNTS, 129)),
        ("logprobs", "yes"),
        ("user", 5),
        ("tools", {}),
        ("tools", "x"),
        ("temperature", "hot"),
        ("top_p", []),
        ("stop", 5),
    ],
)
def test_a_wrong_type_names_its_field(field: str, value: Any) -> None:
    error = refused(ASKED | {field: value})
    assert error.param == field
    assert field in error.message


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (["hi"], "messages[0]"),
        ([{"role": "user"}, 5], "messages[1]"),
        ([{"content": "hi"}], "messages[0].role"),
        ([{"role": "user"}, {"role": 5}], "messages[1].role"),
        ([{"role": ""}], "messages[0].role"),
        ([{"role": "user", "content": 5}], "messages[0].content"),
        ([{"role": "user", "content": {}}], "messages[0].content"),
        ([{"role": "user", "content": ["hi"]}], "messages[0].content"),
        ([{"role": "user", "content": msgspec.Raw(b"1e999")}], "messages[0][...]"),
    ],
)
def test_a_wrong_message_is_pointed_at(value: Any, param: str) -> None:
    assert refused(ASKED | {"messages": value}).param == param


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("tools", [5], "tools[0]"),
        ("stop", ["a", 5], "stop[1]"),
        ("stream_options", {"include_usage": "yes"}, "stream_options.include_usage"),
    ],
)
def test_a_wrong_value_inside_a_field_too(field: str, value: Any, param: str) -> None:
    assert refused(ASKED | {field: value}).param == param


@pytest.mark.parametrize("missing", ["model", "messages"])
def test_a_missing_field_is_named(missing: str) -> None:
    error = refused({name: value for name, value in ASKED.items() if name != missing})
    assert (error.param, error.message) == (missing, f"'{missing}' is required")


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"5", b"null", b"hello", b'{"model"}', b'{"model":"auto",}', b"{'model':'auto'}"),
        *(b'{"model":"\xff"}', b"\xff\xfe{}", b'{"model":"\xed\xa0\x80"}', b'{"model":"auto\x00"}'),
        *(b'{"model":"auto","messages":[],"t":NaN}', b'{"model":"auto","messages":[],"t":Infinity}'),
        b'{"model":"auto","messages":[{"role":"user","content":"\\ud800"}]}',
        b'{"temperature":NaN,"model":"auto","messages":[{"role":"user","content":"hi"}]}',
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert "the body" in refused(body).message


@pytest.mark.parametrize("opened", [b"[", b'{"a":'])
@pytest.mark.parametrize("where", [b'"messages":%b', b'"x":%b', b'"messages":[{"role":"user","content":"hi"}],"x":%b'])
def test_a_depth_bomb_is_refused(opened: bytes, where: bytes) -> None:
    closed = b"]" if opened == b"[" else b"}"
    bomb = opened * 100_000 + b"1" + closed * 100_000
    assert refused(b'{"model":"auto",' + where % bomb + b"}").message == "the body is nested too deeply"


@given(st.lists(MESSAGE, min_size=1, max_size=4), st.dictionaries(st.text("abtools_", max_size=6), JSON, max_size=3))
@settings(max_examples=100, deadline=None)
def test_whatever_is_accepted_can_be_worked_with(messages: list[Any], more: dict[str, Any]) -> None:
    principal = Principal(key_id="k")
    try:
        request = parse(more | {"model": "auto", "messages": messages})
    except GatewayError:
        return
    extract(request, principal, default_max_tokens=5)
    cache_context(request, principal, scope="key", local_only=False, embedder="e")


@given(st.binary(max_size=60))
@settings(deadline=None)
def test_arbitrary_bytes_are_refused_and_nothing_worse(raw: bytes) -> None:
    refused(raw)


def test_ids_are_long_and_new() -> None:
    made = {new_id() for _ in range(1000)}
    assert len(made) == 1000
    assert all(one.startswith("req_") and len(one) == 28 for one in made)


def test_the_options_of_the_headers() -> None:
    told = options(
        {
            "x-gateway-cache": " No-Store ",
            "x-gateway-cache-ttl": "1.5h",
            "x-gateway-tags": " a, b ,,c ",
            "x-gateway-quality": "10",
            "x-gateway-session": "s" * 300,
            "x-gateway-deadline-ms": "1",
            "openai-beta": "b",
            "cookie": "secret",
        }
    )
    assert (told.cache, told.cache_ttl_s, told.tags) == ("no-store", 5400, ("a", "b", "c"))
    assert (told.quality, told.session, told.deadline_ms) == (10, "s" * 200, 1)
    assert told.forward_headers == (("openai-beta", "b"),)
    assert options({"cookie": "x"}) == RequestOptions()
    empty = {f"x-gateway-{name}": "" for name in ("cache", "cache-ttl", "tags", "quality", "session", "deadline-ms")}
    assert options(empty) == RequestOptions()


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("5s", 5), ("2m", 120), ("1h", 3600), ("2d", 172_800), ("999999999d", 31_536_000)]
)
def test_times_to_live(text: str, seconds: float) -> None:
    assert options({"x-gateway-cache-ttl": text}).cache_ttl_s == seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("cache", "yes"),
        *(("cache-ttl", value) for value in ("0", "-1", "1w", "soon", "1e5", "0.0s", "1 h", "9" * 10, "²")),
        *(("quality", value) for value in ("-1", "11", "1.5", "high", "٣", "²", "0000000000009999", "9" * 5000)),
        *(("deadline-ms", value) for value in ("0", "86400001", "1s", "0000000000010000000000")),
        *(("tags", value) for value in (",".join("a" * 51), "x" * 201)),
    ],
)
def test_a_wrong_option_names_its_header(name: str, value: str) -> None:
    header = f"x-gateway-{name}"
    if name == "tags" and "," in value:
        value = ",".join(f"t{n}" for n in range(51))
    with pytest.raises(InvalidRequest) as caught:
        options({header: value})
    assert caught.value.param == header
    assert header in caught.value.message
