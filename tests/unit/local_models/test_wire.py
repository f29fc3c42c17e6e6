from __future__ import annotations

from typing import Any

import msgspec
import pytest

from local_models.catalog import Sampling
from local_models.chat.engine import Delta, Timings
from local_models.chat.wire import Answer, ChatBody, Message, check_supported, generation, texts
from local_models.errors import InvalidRequest, Unsupported


def body(**fields: Any) -> ChatBody:
    return msgspec.convert({"messages": [{"role": "user", "content": "hi"}], **fields}, ChatBody)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tools", [{"type": "function"}]),
        ("functions", [{}]),
        ("n", 2),
        ("response_format", {"type": "json_object"}),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("logit_bias", {"1": 1}),
        ("audio", {"voice": "x"}),
    ],
)
def test_what_is_not_done_here_is_named(field: str, value: Any) -> None:
    with pytest.raises(Unsupported) as caught:
        check_supported(body(**{field: value}))
    assert (caught.value.param, caught.value.code, caught.value.status) == (field, "unsupported", 400)


def test_fields_that_ask_for_nothing_are_fine() -> None:
    check_supported(body(tools=[], n=1, response_format={"type": "text"}, logprobs=False, user="u", metadata={}))


def test_text_parts_are_joined_and_developer_is_system() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert texts([Message("developer", "be kind"), Message("user", parts), Message("assistant", None)]) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "ab"},
        {"role": "assistant", "content": ""},
    ]


@pytest.mark.parametrize(
    ("message", "param", "code"),
    [
        (Message("user", [{"type": "text", "text": "a"}, {"type": "file"}]), "messages[0].content[1]", "unsupported"),
        (Message("user", [{"type": "text"}]), "messages[0].content[0].text", "invalid_request"),
        (Message("user", None), "messages[0].content", "invalid_request"),
        (Message("tool", "42"), "messages[0]", "unsupported"),
        (Message("assistant", None, [{"id": "1"}]), "messages[0]", "unsupported"),
    ],
)  # fmt: skip
def test_messages_that_cannot_be_rendered_are_refused_by_place(message: Message, param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        texts([message])
    assert (caught.value.param, caught.value.code) == (param, code)


def test_the_request_wins_over_the_models_defaults() -> None:
    defaults = Sampling(temperature=0.2, top_p=0.9, top_k=20)
    got = generation(body(temperature=1.5, seed=7, max_tokens=3, max_completion_tokens=4, stop="x"), [1], defaults)
    assert (got.sampler.temperature, got.sampler.top_p, got.sampler.top_k, got.sampler.seed) == (1.5, 0.9, 20, 7)
    assert (got.max_tokens, got.stop, got.reproducible) == (4, ("x",), True)


def test_without_a_seed_two_requests_differ_and_greedy_is_reproducible() -> None:
    first, second = (generation(body(), [1], Sampling()) for _ in range(2))
    assert first.sampler.seed != second.sampler.seed
    assert not first.reproducible
    assert generation(body(temperature=0), [1], Sampling()).reproducible


def test_empty_stop_strings_are_no_stop_and_too_many_are_refused() -> None:
    assert generation(body(stop=["", "a"]), [1], Sampling()).stop == ("a",)
    with pytest.raises(InvalidRequest) as caught:
        generation(body(stop=["a"] * 17), [1], Sampling())
    assert caught.value.param == "stop"


def test_a_plain_reply_is_the_fold_of_the_deltas() -> None:
    timings = Timings(prompt_n=5, cache_n=7, prompt_ms=1.0, predicted_n=2, predicted_ms=2.0)
    reply = Answer("m").whole([Delta("a"), Delta("b", "stop", timings)])
    assert reply["choices"][0]["message"]["content"] == "ab"
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
    assert reply["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 7}}
    assert reply["timings"] is timings
