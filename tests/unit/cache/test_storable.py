"""What may be stored at all: whole answers, which are an answer."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.cache.storable import refuses, storable


def answered(content: Any, finish: str = "stop", *, index: int = 0, **message: Any) -> dict[str, Any]:
    return {
        "index": index,
        "message": {"role": "assistant", "content": content, **message},
        "finish_reason": finish,
    }


def plain(*choices: Any) -> bytes:
    return msgspec.json.encode({"id": "chatcmpl-1", "object": "chat.completion", "choices": choices})


def test_a_clean_answer_may_be_stored() -> None:
    assert storable(plain(answered("a")))
    assert storable(plain(answered("a", refusal=None, tool_calls=[]), answered("b", index=1)))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"choices": 5}',
        b'{"choices": [5]}',
        plain(),
        plain(answered("")),
        plain(answered(None)),
        plain(answered([{"type": "text"}])),
        plain(answered("a", "length")),
        plain(answered("a", "content_filter")),
        plain(answered("a", "tool_calls")),
        plain({"index": 0, "message": "text", "finish_reason": "stop"}),
        plain({"index": 0, "finish_reason": "stop"}),
        plain(answered("a", tool_calls=[{"id": "1"}])),
        plain(answered("a", function_call={"name": "f"})),
        plain(answered("a", refusal="I cannot")),
        plain(answered("a", audio={"id": "x"})),
        plain({**answered("a"), "logprobs": {"content": [1]}}),
        plain(answered("a"), answered("cut", "length", index=1)),
        plain({**answered("a"), "content_filter_results": {"violence": {"filtered": True, "severity": "high"}}}),
        plain(answered(" \n")),
        plain(answered("I'm sorry, but I can't assist with that.")),
        b'{"error": {"message": "no"}}',
        plain(answered("letters")).replace(b"letters", b"\xff\xfe"),
    ],
)
def test_anything_else_may_not(body: bytes) -> None:
    assert not storable(body)


def test_filters_that_let_an_answer_pass_are_no_obstacle() -> None:
    passed = {"violence": {"filtered": False, "severity": "safe"}, "jailbreak": {"filtered": False}}
    assert storable(plain({**answered("Paris"), "content_filter_results": passed}))


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't assist with that.",
        "I’m sorry, I can’t help with that request.",
        "I cannot help with that request.",
        "I'm unable to provide medical advice.",
        "Sorry, I can't do that.",
        "As an AI language model, I cannot provide opinions.",
        "I'm sorry, but as an AI assistant, I can't browse.",
        "I am not able to browse the internet.",
        "Unfortunately, I cannot provide that information.",
        "I must decline.",
        "I must respectfully decline to answer.",
        "I don't have access to real-time data.",
        "I apologize, but I cannot do that.",
        "We are unable to fulfill this request.",
        "I won't help with that.",
        "Es tut mir leid, aber ich kann dabei nicht helfen.",
        "Je suis désolé, mais je ne peux pas répondre à cette question.",
        "Lo siento, pero no puedo ayudar con eso.",
        "Mi dispiace, ma non posso aiutarti.",
        "Desculpe, mas não posso ajudar com isso.",
        "抱歉,我无法回答这个问题。",
        "申し訳ありませんが、お答えできません。",
    ],
)
def test_what_says_only_that_there_is_no_answer_is_none(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "Paris.",
        "I can help with that. First, open the settings.",
        "You can't divide by zero.",
        "Sorry to hear that! Try restarting it.",
        "I'm sorry for the delay; your order ships on Monday.",
        "I cannot be seen by light: that is what a black hole would say.",
        "Cannot find module means that it is not installed.",
        "The phrase \"I'm sorry, but I can't assist with that\" is a refusal.",
        "I can't wait to is an idiom that tells eagerness.",
        "I'm sorry, I can't help with that. " + "But here is a long and useful answer all the same. " * 20,
    ],
)
def test_what_only_sounds_like_it_is_one(text: str) -> None:
    assert not refuses(text)
