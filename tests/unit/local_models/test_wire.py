from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from gateway.cache import replay
from local_models.catalog import Sampling
from local_models.chat.answer import Answer
from local_models.chat.confidence import OPENING, Confidence, Tally
from local_models.chat.stream import Delta, Generation, Timings, TokenLogprob
from local_models.chat.tools import Choice, Reader, choice
from local_models.chat.wire import ChatBody, Message, check_supported, generations, grammar_of, texts
from local_models.errors import InvalidRequest, Unsupported

TOOL = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
}

CUT_CALL = {"function": {"name": "f", "arguments": "{"}}
DEEP_CALL = {"function": {"name": "f", "arguments": "[" * 100_000}}


def body(**fields: Any) -> ChatBody:
    return msgspec.convert({"messages": [{"role": "user", "content": "hi"}], **fields}, ChatBody)


def generation(made: ChatBody, prompt: list[int], defaults: Sampling) -> Generation:
    (only,) = generations(made, prompt, defaults)
    return only


@pytest.mark.parametrize(("field", "value"), [("functions", [{}]), ("audio", {"voice": "x"}), ("prediction", {"a": 1})])
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
        (Message("function", "42"), "messages[0]", "unsupported"),
        (Message("assistant", None, [{"id": "1"}]), "messages[0].tool_calls[0]", "invalid_request"),
        (Message("assistant", None, [CUT_CALL]), "messages[0].tool_calls[0]", "invalid_request"),
        (Message("assistant", None, [DEEP_CALL]), "messages[0].tool_calls[0]", "invalid_request"),
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
    reply = Answer("m").whole([[Delta("a"), Delta("b", "stop", timings)]])
    assert reply["choices"][0]["message"]["content"] == "ab"
    assert reply["choices"][0]["finish_reason"] == "stop"
    usage = {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14}
    assert reply["usage"] == {**usage, "prompt_tokens_details": {"cached_tokens": 7}}
    assert reply["timings"] is timings


def test_a_plain_reply_can_be_gathered_from_the_stream_of_the_same_answer() -> None:
    """The gateway does so where it may give an answer up, and a client that wants a plain reply notices nothing."""
    sure = [Confidence(mean_logprob=-0.5, min_logprob=-2.0, uncertain_share=0.25, tokens=tokens) for tokens in (1, 2)]
    deltas = [Delta("a", confidence=sure[0]), Delta("b", "length", TIMES, sure[1])]
    answer, extra = Answer("m"), {"usage": None}
    chunks = [answer.first(0, **extra), *(chunk for delta in deltas for chunk in answer.chunks(0, delta, **extra))]
    gathered = replay.whole([msgspec.json.encode(chunk) for chunk in (*chunks, answer.usage_chunk([TIMES]))])
    assert json.loads(gathered or b"") == json.loads(msgspec.json.encode(answer.whole([deltas])))


def test_each_choice_has_a_seed_of_its_own_and_the_same_ones_again() -> None:
    seeds = [each.sampler.seed for each in generations(body(n=3, seed=7), [1], Sampling())]
    assert seeds == [7, 8, 9]
    several = Answer("m", 2).whole([[Delta("a", "stop", TIMES)], [Delta("b", "length", TIMES)]])
    assert [each["message"]["content"] for each in several["choices"]] == ["a", "b"]
    assert (several["usage"]["prompt_tokens"], several["usage"]["completion_tokens"]) == (12, 4)
    assert several["timings"]["busy_seconds"] == 1.0


TIMES = Timings(prompt_n=5, cache_n=7, prompt_ms=1.0, predicted_n=2, predicted_ms=2.0, busy_seconds=0.5)


def test_the_lane_is_batch_only_where_it_says_so() -> None:
    assert [body(priority=priority).lane for priority in ("batch", "interactive", "high", 3, None)] == [
        "batch", "interactive", "interactive", "interactive", "interactive",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pieces", "tokens"), [([b" a"] * 40, OPENING), ([b" a", b" b.", b" c"], 2), ([b"\n", b"a"], 1)]
)
def test_the_opening_of_an_answer_is_told_apart(pieces: list[bytes], tokens: int) -> None:
    tally = Tally()
    for piece in pieces[:tokens]:
        tally.add(-0.1, piece)
    first = tally.so_far()
    assert first is not None
    assert first.opening is None, "so far it is all there is"
    for piece in pieces[tokens:]:
        tally.add(-7.0, piece)
    whole = tally.so_far()
    assert whole is not None
    assert whole.opening == first
    assert (whole.tokens, whole.min_logprob) == (len(pieces), -7.0)
    (chunk,) = Answer("m").chunks(0, Delta("a", confidence=whole))
    assert json.loads(msgspec.json.encode(chunk["confidence_details"]))["opening"]["tokens"] == tokens


def test_confidence_travels_as_a_number_with_its_details() -> None:
    sure = Confidence(mean_logprob=-0.5, min_logprob=-2.0, uncertain_share=0.25, tokens=4)
    (chunk,) = Answer("m").chunks(0, Delta("a", confidence=sure))
    assert 0.6 < chunk["confidence"] < 0.61
    assert json.loads(msgspec.json.encode(chunk["confidence_details"])) == {
        "mean_logprob": -0.5, "min_logprob": -2.0, "uncertain_share": 0.25, "tokens": 4,
    }  # fmt: skip


def test_half_a_character_has_its_bytes_in_the_logprobs() -> None:
    (chunk,) = Answer("m").chunks(0, Delta("", logprobs=(TokenLogprob(b"\xe2\x82", -0.1, ((b"a", -3.0),)),)))
    (token,) = chunk["choices"][0]["logprobs"]["content"]
    assert token["bytes"] == [0xE2, 0x82]
    assert token["top_logprobs"][0]["token"] == "a"


def test_a_tool_is_offered_forced_or_left_out_as_asked() -> None:
    tools = body(tools=[TOOL]).tools
    assert choice(tools, "none") == Choice()
    assert choice(tools, None).forced == ()
    for wanted in ("required", {"type": "function", "function": {"name": "look"}}):
        forced = choice(tools, wanted)
        assert [tool.function.name for tool in forced.forced] == ["look"]
        assert "look" in grammar_of(body(), forced)
    for unknown in ({"type": "function", "function": {"name": "other"}}, {"function": "look"}, ["look"], 5):
        with pytest.raises(InvalidRequest):
            choice(tools, unknown)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_calls_are_read_from_any_split_of_the_text(size: int) -> None:
    call = '<tool_call>\n{"name": "look", "arguments": {"at": "é"}}\n</tool_call>'
    text = f"Well < now. {call}{call}"
    reader = Reader()
    out = [reader.feed(text[at : at + size]) for at in range(0, len(text), size)]
    out.append(reader.feed("", last=True))
    calls = [each for _, calls in out for each in calls]
    assert "".join(content for content, _ in out) == "Well < now. "
    assert [(each["index"], json.loads(each["function"]["arguments"])) for each in calls] == [
        (0, {"at": "é"}),
        (1, {"at": "é"}),
    ]


@pytest.mark.parametrize("text", ["<tool_call>no json</tool_call> then", "a <tool_call> that never ends", "1 <tool"])
def test_what_only_looks_like_a_call_is_content(text: str) -> None:
    reader = Reader()
    parts = [*(reader.feed(letter) for letter in text), reader.feed("", last=True)]
    assert "".join(content for content, _ in parts) == text
    assert reader.calls == 0
