"""What may be stored: whole, finished answers in words, which are an answer."""

from __future__ import annotations

import re
from typing import Any

import msgspec

_REFUSAL_MAX = 600
_SPEAKER = r"(?:i|we)(?:['’]m| am|['’]re| are)?"
_UNABLE = (
    r"(?:can(?:['’]?t|not| not)|could(?:n['’]t| not)|won['’]t|will not|not able to|unable to|must (?:decline|refuse)"
    r"|have to (?:decline|refuse)|do(?:n['’]t| not) (?:feel comfortable|have (?:access|the ability)))"
)
_DEED = (
    r"(?:assist|help|answer|provide|fulfill?|comply|create|generate|write|engage|discuss(?:ing)?|support|continue|share"
    r"|do that|access|browse|offer|give|respond|participate|process|complete|proceed|decline|refuse|the ability)"
)
_AS_A_MODEL = r"as an? (?:ai|language|large language|assistant)[\w\s-]{0,40},?\s+"
# At the beginning of an answer: a quotation further on is not meant. Apologies in seven languages.
_REFUSAL = re.compile(
    r"\s*(?:"
    r"(?:i['’]?m |i am |we['’]re |we are )?(?:so |very |really )?sorry[,.!;:\s]+(?:but )?"
    rf"(?:{_AS_A_MODEL})?{_SPEAKER}\s*{_UNABLE}"
    rf"|(?:unfortunately,? )?(?:{_AS_A_MODEL})?{_SPEAKER}\s*{_UNABLE}[\w\s]{{0,30}}?\b{_DEED}\b"
    r"|i (?:must|have to|need to) (?:respectfully )?(?:decline|refuse)\b"
    rf"|{_SPEAKER}\s*do(?:n['’]t| not) have access\b"
    r"|i apologi[sz]e,? but\b"
    r"|(?:es )?tut mir leid,? (?:aber )?(?:ich kann|dabei|das kann|ich darf)"
    r"|(?:je suis désolée?|désolée?),? (?:mais )?je ne (?:peux|puis)"
    r"|lo siento,? (?:pero )?no (?:puedo|me es posible)"
    r"|mi dispiace,? (?:ma )?non posso"
    r"|(?:desculpe|sinto muito|lamento),? (?:mas )?(?:eu )?não posso"
    r"|(?:抱歉|对不起|很抱歉)[,,]?.{0,6}(?:无法|不能)|申し訳(?:ありません|ございません)"
    r")",
    re.IGNORECASE,
)


class _Message(msgspec.Struct):
    content: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None
    audio: Any = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    finish_reason: Any = None
    logprobs: Any = None
    content_filter_results: Any = None


class _Plain(msgspec.Struct):
    choices: list[_Choice] = []


_decode = msgspec.json.Decoder(_Plain).decode


def storable(body: bytes) -> bool:
    """Whether a plain ``chat.completion`` may be given again: every choice finished by itself (``stop``), in text; no
    tool calls, log-probabilities, audio or refusals, and nothing filtered or cut off.
    """
    try:
        choices = _decode(body).choices
    except (msgspec.DecodeError, UnicodeDecodeError):
        return False
    return bool(choices) and all(_clean(choice) for choice in choices)


def _clean(choice: _Choice) -> bool:
    message = choice.message
    if choice.finish_reason != "stop" or choice.logprobs or message is None:
        return False
    if message.tool_calls or message.function_call or message.refusal or message.audio:
        return False
    if _filtered(choice.content_filter_results):
        return False
    text = message.content
    return isinstance(text, str) and bool(text.strip()) and not refuses(text)


def _filtered(results: Any) -> bool:
    """Azure's account of its filters: ``{"violence": {"filtered": false, …}, …}``."""
    kinds = results.values() if isinstance(results, dict) else ()
    return any(isinstance(kind, dict) and kind.get("filtered") is True for kind in kinds)


def refuses(text: str) -> bool:
    """Whether an answer says no more than that there will be none. Another try, or another model, may answer."""
    return len(text) <= _REFUSAL_MAX and _REFUSAL.match(text) is not None
