"""YAML to strict structs, with the file and line of whatever is wrong."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import inspect

from gateway.errors import ConfigError
from gateway.yamlnodes import Fault, line_of, values

T = TypeVar("T")

MAX_BYTES = 1 << 20

_TEXT = "tag:yaml.org,2002:str"
_KEY = re.compile(r" - at `key` in `\$(?P<path>[^`]*)`$")
_PATTERN = "matching regex"
_PATH = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_STEP = re.compile(r"\.(?P<key>[^.\[]+)|\[(?P<index>\d+)\]|\[\.\.\.\]")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]+)`")


class Document:
    """A parsed YAML file that can still say where each value stood."""

    def __init__(self, text: str, file: str) -> None:
        self.file = file
        try:
            self._root = yaml.compose(text, Loader=yaml.SafeLoader)
            self.value = values(self._root)
        except Fault as fault:
            raise ConfigError(str(fault), file=file, line=fault.line) from None
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
            reason = getattr(error, "problem", None) or str(error)
            raise ConfigError(f"not valid YAML: {reason}", file=file, line=mark.line + 1 if mark else 0) from None
        except RecursionError:
            raise ConfigError("not valid YAML: lists or mappings too deep within one another", file=file) from None
        except ValueError as error:
            raise ConfigError(f"not valid YAML: {error}", file=file) from None

    @classmethod
    def read(cls, path: Path) -> Document:
        """Raises ConfigError: it cannot be read, is larger than MAX_BYTES, or is wrong."""
        try:
            return cls(_text(path), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot be read: {error}", file=str(path)) from None

    def line(self, path: str, key: str | None = None) -> int:
        """The 1-based line of ``.rules[2].use`` (a path as msgspec writes it), or of ``key`` inside it."""
        node, line = self._at(path)
        if key is not None and (child := self._child(node, key, None)):
            line = child[1]
        return line

    def _at(self, path: str) -> tuple[Any, int]:
        """The node at a path, or the last one on the way that is there, and its line."""
        node, line = self._root, 1
        for step in _STEP.finditer(path):
            child = self._child(node, step["key"], step["index"])
            if child is None:
                break
            node, line = child
        return node, line

    @staticmethod
    def _child(node: Any, key: str | None, index: str | None) -> tuple[Any, int] | None:
        if key is not None and isinstance(node, yaml.MappingNode):
            for name, value in reversed(node.value):  # what is merged in comes first and gives way
                if name.value == key:
                    return value, line_of(name)
        if index is not None and isinstance(node, yaml.SequenceNode) and int(index) < len(node.value):
            item = node.value[int(index)]
            return item, line_of(item)
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
        if (keys := _KEY.search(message)) is not None:
            return self._odd_key(keys["path"], message[: keys.start()])
        found = _PATH.search(message)
        path = found["path"] if found else ""
        reason = message[: found.start()] if found else message
        unknown = _UNKNOWN.search(reason)
        key = unknown["name"] if unknown else None
        if key:
            reason = f"unknown key '{key}'{did_you_mean(key, _keys_at(type_, path))}"
        elif _PATTERN in reason:
            reason = f"expected: {described}" if (described := _described(type_, path)) else reason
        return self.error(reason, path, key)

    def _odd_key(self, path: str, reason: str) -> ConfigError:
        """A key that is read as a number, say, where text is wanted: msgspec names the mapping only."""
        node, _ = self._at(path)
        text_wanted = reason.startswith("Expected `str`") and isinstance(node, yaml.MappingNode)
        keys = [key for key, _ in node.value] if text_wanted else []
        odd = next((key for key in keys if key.tag != _TEXT), None)
        if odd is None:
            return self.error(reason, path)
        return ConfigError(f"the key '{odd.value}' is no text without quotes", file=self.file, line=line_of(odd))


def _text(path: Path) -> str:
    # A shell's <(…) is a pipe as well, /dev/fd/63, but somebody writes to that one: nobody may to a folder's x.yaml.
    if path.suffix and path.is_fifo():
        raise ConfigError("cannot be read: it is a pipe", file=str(path))
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"is larger than {MAX_BYTES:,} bytes", file=str(path))
    return content.decode()


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _keys_at(type_: type[Any], path: str) -> list[str]:
    """The keys that the struct at ``path`` knows."""
    nodes = _types_at(type_, path)
    return [field.encode_name for node in nodes for struct in _plain(node) for field in _fields(struct)]


def _described(type_: type[Any], path: str) -> str:
    """What the type at ``path`` says of itself, which is more than a pattern says to most."""
    nodes = _types_at(type_, path)
    parts = [part for node in nodes for part in (node.types if isinstance(node, inspect.UnionType) else (node,))]
    said = (part.extra_json_schema or {} for part in parts if isinstance(part, inspect.Metadata))
    return next((str(each["description"]) for each in said if "description" in each), "")


def _types_at(type_: type[Any], path: str) -> list[inspect.Type]:
    nodes: list[inspect.Type] = [inspect.type_info(type_)]
    for step in _STEP.finditer(path):
        nodes = [child for node in nodes for child in _children(node, step["key"])]
    return nodes


def _plain(node: inspect.Type) -> Iterable[inspect.Type]:
    bare = node.type if isinstance(node, inspect.Metadata) else node
    return bare.types if isinstance(bare, inspect.UnionType) else (bare,)


def _fields(node: inspect.Type) -> Iterable[inspect.Field]:
    return node.fields if isinstance(node, inspect.StructType) else ()


def _children(node: inspect.Type, key: str | None) -> Iterator[inspect.Type]:
    for plain in _plain(node):
        yield from (field.type for field in _fields(plain) if field.encode_name == key)
        if isinstance(plain, inspect.VarTupleType | inspect.ListType):
            yield plain.item_type
        if isinstance(plain, inspect.DictType):
            yield plain.value_type
