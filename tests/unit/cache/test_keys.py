"""What separates stored answers, and what does not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.cache.keys import CacheContext, cache_context
from gateway.http.parse import chat_request
from gateway.types import ChatRequest, Principal, Scope

ME = Principal(key_id="k1", team="red", organisation="acme")
BODY: dict[str, Any] = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "What is the capital of France?"},
    ],
    "temperature": 0.5,
}
NOT_THE_ANSWER = ("stream", "stream_options", "user", "metadata", "store")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
OTHER_FIELDS = st.text("abcdefghij_", min_size=1, max_size=8).filter(
    lambda name: name not in BODY and name not in NOT_THE_ANSWER and name not in {"n", "stop", "tools", "top_p"}
)


def request(body: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> ChatRequest:
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return chat_request(raw, headers or {}, "r1")


def context(
    body: dict[str, Any] | bytes | None = None,
    who: Principal = ME,
    *,
    scope: Scope = "key",
    local_only: bool = False,
    embedder: str = "minilm",
    headers: dict[str, str] | None = None,
) -> CacheContext:
    asked = request(BODY if body is None else body, headers)
    return cache_context(asked, who, scope=scope, local_only=local_only, embedder=embedder)


def apart(one: CacheContext, other: CacheContext) -> bool:
    """Neither tier can answer one with the other's."""
    found = {one.exact, one.normal, one.partition} & {other.exact, other.normal, other.partition} - {None}
    return not found


def said(text: Any, **fields: Any) -> dict[str, Any]:
    return BODY | {"messages": [*BODY["messages"][:-1], {"role": "user", "content": text, **fields}]}


@given(OTHER_FIELDS, JSON, JSON)
def test_any_field_nobody_has_heard_of_separates(name: str, one: Any, other: Any) -> None:
    with_one = context(BODY | {name: one})
    assert apart(with_one, context())
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert apart(with_one, context(BODY | {name: other}))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "auto:cheap"},
        {"model": "gpt-4o"},
        {"temperature": 0.50001},
        {"temperature": None},
        {"seed": 1},
        {"seed": 2**70},
        {"seed": 2**70 + 1},
        {"top_p": 1},
        {"max_tokens": 5},
        {"max_completion_tokens": 5},
        {"stop": "x"},
        {"n": 2},
        {"logprobs": True},
        {"response_format": {"type": "json_object"}},
        {"tools": []},
        {"reasoning_effort": "low"},
        {"messages": BODY["messages"][1:]},
        {"messages": [{"role": "system", "content": "Be brief!"}, *BODY["messages"][1:]]},
        {"messages": [{"role": "developer", "content": "Be brief."}, *BODY["messages"][1:]]},
        {"messages": [BODY["messages"][0], BODY["messages"][3]]},
        {"messages": [*BODY["messages"][:1], *BODY["messages"][2:]]},
        {"messages": [*BODY["messages"][:-1], {**BODY["messages"][-1], "name": "bob"}]},
        {"messages": [*BODY["messages"], {"role": "assistant", "content": "It is"}]},
    ],
)
def test_whatever_may_change_the_answer_separates(changed: dict[str, Any]) -> None:
    assert apart(context(BODY | changed), context())


def test_numbers_too_large_for_us_separate_all_the_same() -> None:
    bodies = [msgspec.json.encode(BODY)[:-1] + b',"x":%b}' % value for value in (b"1e999", b"1e998", b'"1e999"', b"1")]
    contexts = [context(body) for body in bodies]
    assert all(apart(one, other) for index, one in enumerate(contexts) for other in contexts[:index])


def test_who_asks_and_how_separates() -> None:
    variants = [
        context(),
        context(who=Principal(key_id="k2", team="red", organisation="acme")),
        context(who=Principal(key_id="k1", team="red", organisation="other")),
        context(scope="team"),
        context(scope="team", who=Principal(key_id="k1", team="blue", organisation="acme")),
        context(scope="team", who=Principal(key_id="k1", organisation="acme")),
        context(scope="shared"),
        context(scope="shared", who=Principal(key_id="k1", organisation="other")),
        context(local_only=True),
        context(headers={"x-gateway-quality": "0"}),
        context(headers={"x-gateway-quality": "10"}),
        context(headers={"openai-beta": "x"}),
    ]
    assert all(apart(one, other) for index, one in enumerate(variants) for other in variants[:index])


def test_a_scope_is_as_wide_as_it_says() -> None:
    colleague = Principal(key_id="k2", team="red", organisation="acme")
    assert context(scope="team") == context(scope="team", who=colleague)
    assert context(scope="shared") == context(scope="shared", who=Principal(key_id="x", organisation="acme"))
    loners = [context(scope="team", who=Principal(key_id=key, organisation="acme")) for key in ("a", "b")]
    assert apart(*loners)


def test_nothing_is_compared_while_the_embedder_is_not_known() -> None:
    assert context(embedder="").question == ""
    assert context(embedder="").exact == context().exact
    assert context().question


def test_another_embedder_has_partitions_of_its_own_and_shares_exact_answers() -> None:
    one, other = context(), context(embedder="bge")
    assert one.partition != other.partition
    assert (one.exact, one.normal) == (other.exact, other.normal)


@given(st.permutations(sorted(BODY)), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_order_and_spacing_of_the_json_do_not_separate(order: list[str], indent: Any, ascii_only: bool) -> None:
    body = {name: BODY[name] for name in order}
    body["messages"] = [dict(reversed(message.items())) for message in body["messages"]]
    assert context(json.dumps(body, indent=indent, ensure_ascii=ascii_only).encode()) == context()


@pytest.mark.parametrize("name", NOT_THE_ANSWER)
def test_what_only_concerns_the_delivery_does_not_separate(name: str) -> None:
    value: Any = {"stream": True, "stream_options": {"include_usage": True}, "user": "u", "metadata": {"a": "b"}}.get(
        name, True
    )
    assert context(BODY | {name: value}) == context()


def test_a_single_text_part_is_its_text() -> None:
    text = BODY["messages"][-1]["content"]
    assert context(said([{"type": "text", "text": text}])) == context()
    cached = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    image = [{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": "data:,x"}}]
    for parts in (cached, image, [{"type": "text", "text": text}] * 2, [{"type": "text", "text": 5}], [], None):
        other = context(said(parts))
        assert other.exact != context().exact
        assert (other.question, other.normal) == ("", None)


def test_other_questions_share_a_partition_and_nothing_else() -> None:
    one, other = context(), context(said("What is the capital of Finland?"))
    assert one.partition == other.partition
    assert one.exact != other.exact
    assert one.normal != other.normal
    assert other.question == "What is the capital of Finland?"


def test_case_and_spacing_share_the_normalised_digest_only() -> None:
    one, other = context(), context(said("what  is the CAPITAL of france?"))
    assert one.exact != other.exact
    assert one.normal != context(said("what is the capital of france!")).normal
    assert one.normal == context(said(" what is  the capital of france?")).normal
    assert other.normal is not None


@pytest.mark.parametrize(
    "body",
    [
        said("x" * 801),
        said("  "),
        BODY | {"n": 2},
        BODY | {"logprobs": True},
        BODY | {"tools": []},
        BODY | {"functions": []},
        BODY | {"modalities": ["text"]},
        BODY | {"audio": {}},
        BODY | {"messages": [*BODY["messages"], {"role": "tool", "content": "5"}]},
    ],
)
def test_where_a_similar_question_is_no_reason_only_an_identical_one_is_answered(body: dict[str, Any]) -> None:
    assert context(body).question == ""
    assert context(body) == context(body)


def test_the_last_turn_and_its_absence_are_not_confused() -> None:
    messages = BODY["messages"][:-1]
    without = context(BODY | {"messages": [*messages, {"role": "user"}]})
    null = context(BODY | {"messages": [*messages, {"role": "user", "content": None}]})
    assistant = context(BODY | {"messages": [*messages, {"role": "assistant"}]})
    assert without.exact == null.exact
    assert apart(without, assistant)
    assert null.exact != context(said("null")).exact
