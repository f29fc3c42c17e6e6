"""What the scripted upstream is told to do."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

UsageMode = Literal["final", "with_choices", "every", "missing"]


class Usage(msgspec.Struct, frozen=True):
    """Tokens as billed. As with OpenAI, `prompt_tokens` includes the cached ones."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How one request is answered. The defaults are a clean 200 that echoes the last user message.

    Text and usage:
        text: the answer; None echoes. Cut at the request's max_tokens unless `completion_tokens` is set.
        chunks: how many chunks of text a stream has.
        prompt_tokens, completion_tokens: None counts the words of the messages and of the text.
        usage: where a stream reports usage. "final" is OpenAI's way: a last chunk with empty choices, only
            when the client asked for it. "with_choices" puts it on the finish chunk and "every" cumulatively
            on each chunk, asked or not. "missing" reports none, in a plain reply neither.
        tool_calls: OpenAI's objects, `{"id", "type", "function": {"name", "arguments"}}`.
        finish_reason: OpenAI's word, translated for Anthropic; None is what fits: stop, length or tool_calls.
        extra: merged deeply into the plain reply, or into each chunk; lists are merged item by item.

        raw: the reply byte for byte, whatever path and format was asked: bytes are a plain body, a tuple is a stream
            of which each item counts as a chunk of text.

    Pace, in seconds: `first_delay_s` before the first byte, `chunk_delay_s` before each later chunk of text.

    Faults:
        status, error: any status but 200 answers with `error`: JSON, raw bytes, or by default the error
            format of the path asked.
        headers: added to the reply, whatever it is.
        cut_after: the connection closes after this many chunks of text (0: after the head); of a plain body,
            in its middle.
        garbage_after: `garbage` is sent after this many chunks of text, and the stream goes on; a plain reply
            has it as its body.
        hang: the request is read and never answered.
        drop_connect: the connection is reset instead of a reply.
    """

    text: str | None = None
    chunks: int = 4
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int = 0
    usage: UsageMode = "final"
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)
    raw: bytes | tuple[bytes, ...] | None = None

    first_delay_s: float = 0.0
    chunk_delay_s: float = 0.0

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    error: Mapping[str, Any] | bytes | None = None
    cut_after: int | None = None
    garbage_after: int | None = None
    garbage: bytes = b"data: {no json\n\n"
    hang: bool = False
    drop_connect: bool = False
