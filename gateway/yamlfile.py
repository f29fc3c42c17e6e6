"""YAML to strict structs, with the file and line of whatever is wrong."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from gateway.errors import ConfigError

T = TypeVar("T")

_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]+)`")


class Document:
    """A parsed YAML file that can still say where each value stood."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            reason = getattr(error, "problem", None) or str(error)
            raise ConfigError(f"not valid YAML: {reason}", file=file, line=mark.line + 1 if mark else 0) from None
        except (ValueError, RecursionError) as error:
            raise ConfigError(f"not valid YAML: {error}", file=file) from None

    @classmethod
    def read(cls, path: Path) -> Document:
        try:
            return cls(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read: {error}", file=str(path)) from None

    def line(self, path: str, key: str | None = None) -> int:
        """The 1-based line of ``.rules[2].use`` (a path as msgspec writes it), or of ``key`` inside it."""
        node, line = self._root, 1
        for step in _STEP.finditer(path):
            child = self._child(node, step["key"], step["index"])
            if child is None:
                break
            node, line = child
        if key is not None and (child := self._child(node, key, None)):
            line = child[1]
        return line

    @staticmethod
    def _child(node: Any, key: str | None, index: str | None) -> tuple[Any, int] | None:
        if key is not None and isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if name.value == key:
                    return value, name.start_mark.line + 1
        if index is not None and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            item = node.value[int(index)]
            return item, item.start_mark.line + 1
        return None

    def error(self, reason: str, path: str = "", key: str | None = None) -> ConfigError:
        shown = path.lstrip(".") + (f".{key}" if key and path else key or "")
        return ConfigError(reason, file=self.file, line=self.line(path, key), path=shown)

    def convert(self, type_: type[T], value: Any = None) -> T:
        """The document as ``type_``; unknown keys and wrong types raise ConfigError with their line."""
        try:
            return msgspec.convert(self.value if value is None else value, type_, strict=True)
        except msgspec.ValidationError as error:
            raise self._located(str(error), type_) from None

    def _located(self, message: str, type_: type[Any]) -> ConfigError:
        found = _PATH.search(message)
        path = found["path"] if found else ""
        reason = message[: found.start()] if found else message
        unknown = _UNKNOWN.search(reason)
        key = unknown["name"] if unknown else None
        return self.error(f"unknown key '{key}'" if key else reason, path, key)
