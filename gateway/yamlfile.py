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
        for key in _repeated(self._root):
            raise ConfigError(f"the key '{key.value}' stands here twice", file=file, line=key.start_mark.line + 1)

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
        if key:
            reason = f"unknown key '{key}'{did_you_mean(key, _keys_at(type_, path))}"
        return self.error(reason, path, key)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{near[0]}'?)" if near else ""


def _repeated(root: yaml.Node | None) -> Iterator[yaml.Node]:
    """Keys that a mapping has twice, of which YAML's loader would silently keep the last."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += node.value
        if isinstance(node, yaml.MappingNode):
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            yield from (key for index, (key, _) in enumerate(node.value) if key.value in names[:index])
            waiting += [value for _, value in node.value]


def _keys_at(type_: type[Any], path: str) -> list[str]:
    """The keys that the struct at ``path`` knows."""
    nodes: list[inspect.Type] = [inspect.type_info(type_)]
    for step in _STEP.finditer(path):
        nodes = [child for node in nodes for child in _children(node, step["key"])]
    return [field.encode_name for node in nodes for struct in _plain(node) for field in _fields(struct)]


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
