"""JSON Schema as a grammar: what it makes of each keyword, and what it refuses to pretend."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from local_models.chat.gbnf import integers, one_of
from local_models.chat.grammar import SchemaUnsupported, from_schema, json_object


def matches(expressions: list[str], text: str) -> bool:
    """Whether a digit expression takes the text: its GBNF is a regular expression but for quotes and blanks."""
    return any(re.fullmatch(each.replace('"', "").replace(" ", ""), text) for each in expressions)


@given(st.integers(-3000, 3000), st.integers(0, 3000), st.integers(-7000, 7000))
def test_integer_bounds_are_kept_exactly(low: int, size: int, value: int) -> None:
    expressions = integers(low, low + size)
    assert matches(expressions, str(value)) == (low <= value <= low + size)
    assert matches(expressions, str(low))
    assert matches(expressions, str(low + size))
    assert not matches(expressions, f"0{abs(value)}")


NAMES = st.text(alphabet="abc", max_size=6)


@given(st.sets(NAMES, min_size=1, max_size=30), NAMES)
def test_a_choice_of_texts_takes_these_and_no_others(texts: set[str], other: str) -> None:
    expression = one_of(sorted(texts))
    assert all(matches([expression], text) for text in texts)
    assert matches([expression], other) == (other in texts)


def test_a_long_row_of_texts_each_the_beginning_of_the_next_is_no_deep_tree() -> None:
    texts = ["a" * size for size in range(1, 1000)]
    assert one_of(texts).count("(") < 100


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
    many = {"type": "object", "properties": {f"p{at}": {"type": "string", "maxLength": 500 + at} for at in range(400)}}
    with pytest.raises(SchemaUnsupported, match="long strings"):
        from_schema(many)
    open_choices = {"anyOf": [{"type": "array", "maxItems": at} for at in range(1100)]}
    with pytest.raises(SchemaUnsupported, match="options"):
        from_schema(open_choices)
    each = {f"p{at}": {"type": "string", "maxLength": 3} for at in range(5000)}
    wide = {"type": "object", "properties": each, "required": list(each)}
    with pytest.raises(SchemaUnsupported, match="large"):
        from_schema(wide)


def test_names_and_values_with_quotes_and_breaks_stay_json() -> None:
    name = 'a"b\\c\n'
    grammar = from_schema({"type": "object", "properties": {name: {"const": name}}, "required": [name]})
    assert json.dumps(name).replace("\\", "\\\\").replace('"', '\\"') in grammar
    assert "object" in json_object()
