"""The most tokens a prompt can have, whoever reads it: what a reservation stands on.

No tokenizer in use makes more tokens of a text than it has bytes in UTF-8: byte-level BPE (OpenAI, Llama 3, Qwen,
DeepSeek, Mistral's Tekken) begins with the bytes and only merges, SentencePiece with byte fallback (Llama 2, Gemma)
falls back to one token a byte. A text is no longer than the JSON it travels in, and the JSON around a message
outweighs what a chat template puts around it, so the length of the body is a bound that costs nothing to know.
English has about four bytes a token: where a budget is too short for that bound, OpenAI's own models are counted
(:func:`counted`), in another process.

Media are bounded apart. Images by what a provider makes of the largest it takes
(https://developers.openai.com/api/docs/guides/images-vision, https://platform.claude.com/docs/en/build-with-claude/vision,
elsewhere Qwen-VL's 16,384), audio by 20 characters of base64 a token (Gemini's 32 tokens a second of 5 kbit/s). What
else a provider reads in for the prompt, files or pages of the web, has only the context window for a bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from gateway.tokens import WHOLE, count_tokens
from gateway.types import ChatRequest, Frozen

TEMPLATE = 64  # a chat template's own words: a default system prompt, a date
TOOLS = 768  # Anthropic's on how tools are called has 346, its older ones and computer use up to 735
AUDIO_CHARACTERS_PER_TOKEN = 20
OPEN_ENDED = 2_000_000  # the longest context sold

_IMAGE = 16_384
_IMAGES = (("gpt-4o-mini", 48_169), ("gpt-4o", 1_445), ("claude", 4_784))
_IMAGE_KINDS = frozenset({"image_url", "input_image", "image"})
_FAMILY = ("gpt-4o", "gpt-4.1", "gpt-4.5", "gpt-5", "chatgpt-4o", "o1", "o3", "o4-")
_TOOL_FIELDS = ("tools", "functions")
_NO_PROMPT = frozenset(
    {
        *("frequency_penalty", "logprobs", "max_completion_tokens", "max_tokens", "metadata", "model", "n"),
        *("presence_penalty", "seed", "service_tier", "stop", "store", "stream", "stream_options", "temperature"),
        *("top_logprobs", "top_p", "user"),
    }
)
_SEARCHES = "web_search_options"


class PromptBound(Frozen, frozen=True, kw_only=True):
    """``text``: tokens of everything but media. ``exact``: text as o200k_base counts it, None where nobody has."""

    text: int
    images: int = 0
    audio: int = 0
    open_ended: bool = False
    exact: int | None = None

    def tokens(self, upstream_model: str, context: int | None) -> int:
        """The most tokens for a model, as upstream names it; a prompt beyond its ``context`` is refused unbilled."""
        text = self.exact if self.exact is not None and reads_o200k(upstream_model) else self.text
        most = OPEN_ENDED if self.open_ended else text + self.images * _image(upstream_model) + self.audio
        return most if context is None else min(most, context)


def prompt_bound(request: ChatRequest) -> PromptBound:
    """The bound by bytes. A few microseconds."""
    written = sum([len(bytes(raw)) for name, raw in request.fields.items() if name not in _NO_PROMPT])
    tools = sum([len(bytes(request.fields[name])) for name in _TOOL_FIELDS if name in request.fields])
    # A template may set tools out over many lines: as much again.
    text = TEMPLATE + written + (tools + TOOLS if tools else 0)
    media = _Media(request.messages)
    return PromptBound(
        text=text - media.characters,
        images=media.images,
        audio=media.audio // AUDIO_CHARACTERS_PER_TOKEN,
        open_ended=media.unknown or _SEARCHES in request.fields,
    )


async def counted(bound: PromptBound, request: ChatRequest) -> PromptBound:
    """``bound`` with its text counted off the loop, in its JSON; as it was where it is too long, or not text alone."""
    texts = [bytes(raw).decode(errors="replace") for name, raw in request.fields.items() if name not in _NO_PROMPT]
    if bound.images or bound.audio or bound.open_ended or sum(map(len, texts)) > WHOLE:
        return bound
    around = TEMPLATE + (TOOLS if any(name in request.fields for name in _TOOL_FIELDS) else 0)
    return PromptBound(text=bound.text, exact=around + sum(await count_tokens(texts)))


def reads_o200k(upstream_model: str) -> bool:
    """Whether OpenAI says so of that model: o200k_base is the tokenizer of all since gpt-4o."""
    return upstream_model.rpartition("/")[2].startswith(_FAMILY)


def _image(upstream_model: str) -> int:
    return next((most for name, most in _IMAGES if name in upstream_model), _IMAGE)


class _Media:
    """What is no text in a conversation. ``characters``: its base64, which stands in the body all the same."""

    __slots__ = ("audio", "characters", "images", "unknown")

    def __init__(self, messages: Iterable[Any]) -> None:
        self.images = self.audio = self.characters = 0
        self.unknown = False
        for message in messages:
            content = message.get("content") if isinstance(message, dict) else None
            if isinstance(content, list):
                for part in content:
                    if isinstance(part, dict):
                        self._part(part)

    def _part(self, part: dict[str, Any]) -> None:
        kind = str(part.get("type"))  # whatever a client sends
        if kind in _IMAGE_KINDS:
            self.images += 1
            self.characters += len(_data_url(part))
        elif kind == "input_audio":
            held = part.get("input_audio")
            data = held.get("data") if isinstance(held, dict) else None
            if isinstance(data, str):
                self.audio += len(data)
                self.characters += len(data)
        elif not isinstance(part.get("text"), str) and kind != "refusal":
            self.unknown = True


def _data_url(part: dict[str, Any]) -> str:
    held = part.get("image_url")
    url = held.get("url") if isinstance(held, dict) else held
    return url if isinstance(url, str) and url.startswith("data:") else ""
