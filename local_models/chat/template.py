"""A model's own chat template, as its GGUF carries it, run in Jinja's sandbox.

The environment is the one Hugging Face templates are written for:
https://huggingface.co/docs/transformers/chat_templating_writing
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, NoReturn

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment


class TemplateRefused(ValueError):
    """The template cannot render these messages; the message is the template's own where it raised one."""


class ChatTemplate:
    """Turns messages into the prompt text that the model was trained on."""

    def __init__(self, source: str, bos: str, eos: str) -> None:
        env = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        env.filters["tojson"] = _tojson
        env.globals.update(raise_exception=_raise, strftime_now=_now, bos_token=bos, eos_token=eos)
        # A template that never mentions them leaves them out of the prompt without a word.
        self.takes_tools = "tools" in source
        try:
            self._template = env.from_string(source)
        except TemplateError as error:
            raise TemplateRefused(f"the model's chat template does not compile: {error}") from error

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
        """The prompt, up to where the assistant's answer begins. Raises TemplateRefused."""
        try:
            return self._template.render(messages=messages, tools=tools, add_generation_prompt=True)
        except (TemplateError, TypeError, ValueError) as error:
            raise TemplateRefused(str(error)) from error


def _raise(message: str) -> NoReturn:
    raise TemplateError(message)


def _now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    # Jinja's own filter escapes for HTML, which a prompt must not be.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)
