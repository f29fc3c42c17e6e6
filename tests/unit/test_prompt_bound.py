"""No tokenizer makes more tokens of a prompt than its bound says, and a request may say nothing that hides them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import tokenizer
from gateway.features import extract
from gateway.prompt_bound import OPEN_ENDED, TEMPLATE, counted, prompt_bound, reads_o200k
from gateway.tokens import WHOLE
from gateway.types import ChatRequest, Principal

AROUND = 4  # tokens OpenAI puts around a message
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 900_000}}


@pytest.fixture(scope="module")
def o200k() -> tiktoken.Encoding:
    encoding: tiktoken.Encoding = tokenizer.o200k()
    return encoding


def asked(*contents: Any, **fields: Any) -> ChatRequest:
    messages = [{"role": "user", "content": content} for content in contents]
    body = {"model": "auto", "messages": messages, **fields}
    raw = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in body.items()}
    return ChatRequest(id="r", model="auto", messages=messages, fields=raw)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text(max_size=300), min_size=1, max_size=5))
def test_no_text_has_more_tokens(o200k: tiktoken.Encoding, contents: list[str]) -> None:
    truth = sum(len(o200k.encode_ordinary(text)) + AROUND for text in contents)
    assert truth <= prompt_bound(asked(*contents)).tokens("anything", None)


@pytest.mark.parametrize("text", ["\u0dc1\u0dca\u200d\u0dbb\u0dd3" * 50, "🏴󠁧󠁢󠁥󠁮󠁧󠁿" * 40, "\x00\x01" * 200, "qzxvkj" * 60])
def test_nor_has_one_the_estimate_is_far_below(o200k: tiktoken.Encoding, text: str) -> None:
    request = asked(text)
    assert len(o200k.encode_ordinary(text)) <= prompt_bound(request).tokens("anything", None)


def test_an_estimate_may_be_more_than_a_quarter_short(o200k: tiktoken.Encoding) -> None:
    """Which is why nothing is reserved by it."""
    text = "qzxvkjwpq" * 200
    guessed = extract(asked(text), Principal(key_id="k"), default_max_tokens=1).prompt_tokens
    assert len(o200k.encode_ordinary(text)) > 1.25 * guessed


async def test_counting_is_tighter_and_still_a_bound(o200k: tiktoken.Encoding) -> None:
    text = "The quick brown fox jumps over the lazy dog. " * 100
    request = asked(text)
    bound = await counted(prompt_bound(request), request)
    truth = len(o200k.encode_ordinary(text)) + AROUND
    assert truth <= bound.tokens("gpt-4o-mini", None) <= truth + TEMPLATE + 60
    assert bound.tokens("claude-sonnet-4-5", None) >= len(text)
    assert bound.tokens("gpt-4o", 500) == 500


@pytest.mark.parametrize("request_", [asked("a" * (WHOLE + 1)), asked([PICTURE]), asked("hi", web_search_options={})])
async def test_what_cannot_be_counted_stays_as_it_was(request_: ChatRequest) -> None:
    bound = prompt_bound(request_)
    assert await counted(bound, request_) == bound


def test_an_image_counts_as_the_largest_its_provider_takes_not_by_its_bytes() -> None:
    bound = prompt_bound(asked([{"type": "text", "text": "What is it?"}, PICTURE]))
    assert 1_445 < bound.tokens("gpt-4o", None) < 1_445 + 400
    assert bound.tokens("openai/gpt-4o-mini", None) > 48_169
    assert 4_784 < bound.tokens("anthropic/claude-opus-4-7", None) < 16_384 < bound.tokens("qwen-vl", None)
    linked = prompt_bound(asked([{"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]))
    assert linked.images == 1


def test_audio_counts_by_its_length() -> None:
    bound = prompt_bound(asked([{"type": "input_audio", "input_audio": {"data": "A" * 20_000, "format": "wav"}}]))
    assert 1_000 < bound.tokens("m", None) < 1_400


@pytest.mark.parametrize(
    "request_",
    [
        asked([{"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}}]),
        asked([{"type": "video_url", "video_url": {"url": "https://example.com/v"}}]),
        asked("news?", web_search_options={}),
    ],
)
def test_what_a_provider_reads_in_is_bounded_by_the_context_alone(request_: ChatRequest) -> None:
    assert prompt_bound(request_).tokens("m", 128_000) == 128_000
    assert prompt_bound(request_).tokens("m", None) == OPEN_ENDED


def test_tools_are_set_out_by_templates_and_explained() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "enum": list(range(100))}}}
    without, with_tools = prompt_bound(asked("hi")), prompt_bound(asked("hi", tools=[tool]))
    laid_out = len(msgspec.json.format(msgspec.json.encode([tool]), indent=4))
    assert with_tools.tokens("m", None) - without.tokens("m", None) > 768 + laid_out // 4


@pytest.mark.parametrize(
    ("model", "theirs"),
    [("gpt-4o", True), ("openai/gpt-5-mini", True), ("o3-mini", True), ("gpt-4", False), ("gpt-oss-20b", False)],
)
def test_whose_tokenizer_is_known(model: str, theirs: bool) -> None:
    assert reads_o200k(model) is theirs


@pytest.mark.parametrize(
    "content", [None, 7, [None, "text", {"type": "input_audio"}, {"type": "refusal"}], [7], [{"type": ["text"]}]]
)
def test_whatever_clients_send_is_bounded(content: Any) -> None:
    assert prompt_bound(asked(content)).text > 0
