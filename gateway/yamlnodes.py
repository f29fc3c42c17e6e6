"""From YAML's nodes to values, and what must not get that far.

Aliases make a small file large (each of ten lines names the one before it ten times: ten thousand million values) or
endless (an alias of what it stands in). Neither may reach code that copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

MAX_VALUES = 100_000
"""Of a file, with what aliases repeat counted each time."""

_LET_OUT = (ValueError, AttributeError, LookupError, TypeError)
"""PyYAML lets these out of a date such as 2026-99-99, a number of 5,000 digits, ``!!timestamp x``, ``!!bool x``."""


class Fault(ValueError):
    """What is wrong, and the line of it, which counts from 1; 0 where it is not known."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.line = line


def values(root: yaml.Node | None) -> Any:
    """What the nodes of a document mean. Raises Fault."""
    if root is None:
        return None
    nodes: dict[int, yaml.Node] = {}
    _collect(root, nodes, set())
    counts: dict[int, int] = {}
    if _count(root, counts) > MAX_VALUES:
        least = min((count, at) for at, count in counts.items() if count > MAX_VALUES)
        raise Fault(f"with its aliases repeated, more than {MAX_VALUES:,} values", line_of(nodes[least[1]]))
    for node in nodes.values():
        _check(node)
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(root)
    except _LET_OUT as error:
        wrong = (line_of(node) for node in nodes.values() if not _constructs(loader, node))
        reason = str(error) if isinstance(error, ValueError) else "a value is not what its tag says"
        raise Fault(f"not valid YAML: {reason}", next(wrong, 0)) from None


def line_of(node: yaml.Node) -> int:
    """Where a node begins, counted from 1."""
    return int(node.start_mark.line) + 1


def _check(node: yaml.Node) -> None:
    if isinstance(node, yaml.ScalarNode):
        try:
            node.value.encode()
        except UnicodeEncodeError:
            raise Fault("not valid YAML: half a character (a surrogate)", line_of(node)) from None
    for key in _repeated(node):
        raise Fault(f"the key '{key.value}' stands here twice", line_of(key))


def _repeated(node: yaml.Node) -> Iterator[yaml.Node]:
    """Keys that a mapping has twice, of which YAML's loader would silently keep the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                yield key
            seen.add(key.value)


def _collect(node: yaml.Node, nodes: dict[int, yaml.Node], above: set[int]) -> None:
    """Every node once, in the file's order."""
    if id(node) in above:
        raise Fault("an alias names what it stands in", line_of(node))
    if id(node) in nodes:
        return
    nodes[id(node)] = node
    above.add(id(node))
    for child in _children(node):
        _collect(child, nodes, above)
    above.discard(id(node))


def _count(node: yaml.Node, known: dict[int, int]) -> int:
    if id(node) not in known:
        known[id(node)] = 1 + sum([_count(child, known) for child in _children(node)])
    return known[id(node)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [each for pair in node.value for each in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _constructs(loader: yaml.SafeLoader, node: yaml.Node) -> bool:
    try:
        loader.construct_document(node)
    except _LET_OUT:
        return not isinstance(node, yaml.ScalarNode)
    except yaml.YAMLError:
        return True
    return True
