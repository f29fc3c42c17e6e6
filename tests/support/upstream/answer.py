"""A plan applied to a request: the text, the finish reason and the tokens, before any wire format."""

from typing import Any

import msgspec

from tests.support.upstream.plan import Plan, Usage


class Answer(msgspec.Struct, frozen=True):
    """What is to be said. `text` is None only beside tool calls; `choices` is OpenAI's `n`."""

    id: str
    model: str
    plan: Plan
    text: str | None
    finish_reason: str
    usage: Usage
    choices: int
    include_usage: bool

    def pieces(self) -> list[str]:
        """The text in `plan.chunks` parts of nearly equal length, some empty where the text is shorter."""
        if self.text is None:
            return []
        size, count = len(self.text), max(1, self.plan.chunks)
        return [self.text[size * i // count : size * (i + 1) // count] for i in range(count)]


def answer(request_id: str, body: dict[str, Any], plan: Plan) -> Answer:
    """Apply `plan` to a chat request of either format."""
    turns = [turn for turn in body.get("messages") or () if isinstance(turn, dict)]
    said = [_flat(turn.get("content")) for turn in turns]
    text, cut = _text(body, plan, turns, said)
    prompt_tokens = plan.prompt_tokens
    if prompt_tokens is None:
        prompt_tokens = max(1, sum(map(_words, said)) + _words(_flat(body.get("system"))))
    completion_tokens = plan.completion_tokens
    if completion_tokens is None:
        completion_tokens = max(1, _words(text or "") + _called(plan))
    finish_reason = "tool_calls" if plan.tool_calls else "length" if cut else "stop"
    choices = body["n"] if isinstance(body.get("n"), int) else 1
    options = body.get("stream_options")
    return Answer(
        id=request_id,
        model=str(body.get("model")),
        plan=plan,
        text=text,
        finish_reason=plan.finish_reason or finish_reason,
        usage=Usage(prompt_tokens, completion_tokens * choices, plan.cached_tokens),
        choices=choices,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
    )


def _text(body: dict[str, Any], plan: Plan, turns: list[dict[str, Any]], said: list[str]) -> tuple[str | None, bool]:
    text = plan.text
    if text is None:
        if plan.tool_calls:
            return None, False
        by_user = [words for turn, words in zip(turns, said, strict=True) if turn.get("role") == "user"]
        text = "You said: " + (by_user[-1] if by_user else "")
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if plan.completion_tokens is not None or not isinstance(limit, int) or _words(text) <= limit:
        return text, False
    return " ".join(text.split()[:limit]), True


def _flat(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = [part.get("text") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    return " ".join(part for part in parts if isinstance(part, str))


def _words(text: str) -> int:
    return len(text.split())


def _called(plan: Plan) -> int:
    return sum(1 + _words(call["function"]["arguments"]) for call in plan.tool_calls)
