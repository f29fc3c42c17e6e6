"""Bodies of embeddings and moderations: read right, or refused naming the field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.errors import InvalidRequest
from gateway.features import extract
from gateway.http.embeddings import embeddings_request
from gateway.http.moderations import moderations_request
from gateway.types import Principal
from gateway.unary import Asked

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("model", "input", "encoding_format", "dimensions", "user", "stream", "metadata")


def read(**body: Any) -> Asked:
    return embeddings_request(msgspec.json.encode({"model": "m", **body}), {}, "r")


@pytest.mark.parametrize(
    ("given_", "inputs", "tokens", "texts"),
    [
        ("one", 1, None, ["one"]),
        (["one", "two"], 2, None, ["one", "two"]),
        ([7, 8, 9], 1, 3, []),
        ([[7, 8], [9]], 2, 3, []),
    ],
)
def test_inputs(given_: Any, inputs: int, tokens: int | None, texts: list[str]) -> None:
    asked = read(input=given_, user="u" * 300)

    assert (asked.inputs, asked.tokens) == (inputs, tokens)
    assert [part["text"] for part in asked.request.messages[0]["content"]] == texts
    assert len(asked.request.user) == 200
    assert msgspec.json.decode(asked.request.fields["input"]) == given_


def test_what_is_not_known_is_kept_as_it_was_written() -> None:
    asked = embeddings_request(b'{"model":"m","input":"a","x_vendor":{"keep": [1, 2.50]}}', {}, "r")
    assert bytes(asked.request.fields["x_vendor"]) == b'{"keep": [1, 2.50]}'


def test_a_moderation_may_name_no_model() -> None:
    asked = moderations_request(b'{"input": ["a", ""]}', {}, "r")
    assert (asked.request.model, asked.inputs, asked.operation) == ("auto", 2, "moderations")


@given(st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=5), st.sampled_from(["embeddings", "moderations"]))
@example({"model": "m", "input": [[]]}, "embeddings")
@example({"model": "m", "input": [True]}, "embeddings")
@example({"input": [{"type": "text", "text": 5}]}, "moderations")
@example({"input": [{"type": "image_url", "image_url": [None]}]}, "moderations")
def test_rubbish_is_read_or_refused(body: dict[str, Any], operation: str) -> None:
    read_it = embeddings_request if operation == "embeddings" else moderations_request
    try:
        asked = read_it(msgspec.json.encode(body), {}, "r")
    except InvalidRequest:
        return
    assert asked.inputs >= 1
    assert extract(asked.request, Principal(key_id="k"), default_max_tokens=1).prompt_tokens > 0


@given(st.binary(max_size=60))
def test_bytes_that_are_no_json(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        embeddings_request(body, {}, "r")
