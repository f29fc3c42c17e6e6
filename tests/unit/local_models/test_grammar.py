"""JSON Schema as a grammar: what it makes of each keyword, and what it refuses to pretend."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_models.chat.grammar import SchemaUnsupported, _integers, from_schema, json_object


def matches(expressions: list[str], text: str) -> bool:
    """Whether a digit expression takes the text: its GBNF is a regular expression but for quotes and blanks."""
    return any(re.fullmatch(each.replace('"', "").replace(" ", ""), text) for each in expressions)


@given(st.integers(-3000, 3000), st.integers(0, 3000), st.integers(-7000, 7000))
def test_integer_bounds_are_kept_exactly(low: int, size: int, value: int) -> None:
    expressions = _integers(low, low + size)
    assert matches(expressions, str(value)) == (low <= value <= low + size)
    assert matches(expressions, str(low))
    assert matches(expressions, str(low + size))
    assert not matches(expressions, f"0{abs(value)}")


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string", "pattern": "a+"}, "pattern"),
        ({"type": "number", "multipleOf": 0.01}, "multipleOf"),
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "object", "patternProperties": {}}, "patternProperties"),
        ({"type": "string", "format": "hostname"}, "hostname"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "no integer"),
        ({"$ref": "https://example.org/schema"}, "example.org"),
        ({"$ref": "#/$defs/none"}, "none"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "type"),
        ({"enum": [1, 2], "type": "string"}, "no value"),
        (False, "no value"),
        ({"type": "wish"}, "wish"),
        ({"properties": 5}, "properties"),
        ({"required": [1]}, "required"),
        ({"required": "ab"}, "required"),
        ({"enum": []}, "enum"),
        ({"allOf": [{"required": 5}]}, "required"),
        ({"oneOf": [{"enum": 5}, {"enum": [6]}]}, "enum"),
        ({"$ref": {}}, "ref"),
        ({"type": "string", "minLength": -1}, "minLength"),
        ({"type": "string", "maxLength": 2.5}, "maxLength"),
        ({"type": "string", "format": []}, "format"),
        ({"type": "string", "minLength": 10**9}, "longer than an answer"),
        ({"type": "array", "maxItems": "3"}, "maxItems"),
        ({"required": ["a"], "additionalProperties": False}, "no value"),
    ],
)
def test_what_a_grammar_cannot_keep_is_refused_by_name(schema: Any, named: str) -> None:
    with pytest.raises(SchemaUnsupported, match=named):
        from_schema(schema)


def test_a_string_may_be_said_to_be_endless() -> None:
    assert from_schema({"type": "string", "maxLength": 10**9}) == from_schema({"type": "string", "maxLength": 20_000})


def test_a_required_name_without_a_schema_has_that_of_additional_properties() -> None:
    digits = {"type": "integer", "minimum": 1, "maximum": 9}
    given = {"type": "object", "properties": {"a": digits}, "required": ["a"]}
    assert from_schema({"required": ["a"], "additionalProperties": digits}) == from_schema(given)


def test_a_schema_that_refers_to_itself_is_one_rule() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#"}, "at": {"type": "integer"}}, "required": ["at"]}
    assert len(from_schema(node).splitlines()) < 30


def test_too_deep_and_too_large_are_refused_not_hung_on() -> None:
    deep: Any = {"type": "string"}
    for _ in range(200):
        deep = {"type": "array", "items": deep, "maxItems": 2}
    with pytest.raises(SchemaUnsupported, match="deep"):
        from_schema(deep)
    wide = {"type": "object", "properties": {f"p{at}": {"type": "string", "maxLength": 3} for at in range(5000)}}
    with pytest.raises(SchemaUnsupported, match="large"):
        from_schema(wide)


def test_names_and_values_with_quotes_and_breaks_stay_json() -> None:
    name = 'a"b\\c\n'
    grammar = from_schema({"type": "object", "properties": {name: {"const": name}}, "required": [name]})
    assert json.dumps(name).replace("\\", "\\\\").replace('"', '\\"') in grammar
    assert "object" in json_object()
