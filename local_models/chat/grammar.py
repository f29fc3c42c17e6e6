"""JSON Schema as a llama.cpp grammar (GBNF): whatever the grammar lets through is valid under the schema.

A keyword that a grammar cannot keep is refused by name, never ignored. White space is fixed to what `json.dumps`
writes, so a model cannot fill an answer with it. llama-cpp-python's own converter is not used: its strings let control
characters through, which is no JSON, and it ignores `minimum` and whatever it does not know.

GBNF: https://github.com/ggml-org/llama.cpp/blob/master/grammars/README.md
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypedDict

import msgspec

from local_models.chat.gbnf import DIGITS, any_of, integers, literal, one_of

Schema = dict[str, Any]

_TYPES = ("object", "array", "string", "integer", "number", "boolean", "null")
_NOTES = frozenset(
    {"title", "description", "default", "examples", "example", "$schema", "$id", "$defs", "definitions", "$comment"}
    | {"readOnly", "writeOnly", "deprecated", "nullable", "strict", "name", "contentMediaType", "contentEncoding"}
    | {"discriminator"}
)
_COMMON = frozenset(["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref"])
_KEYWORDS: dict[str, frozenset[str]] = {
    "object": frozenset(["properties", "required", "additionalProperties", "minProperties", "maxProperties"]),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
    "string": frozenset(["minLength", "maxLength", "format"]),
    "integer": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    "number": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    "boolean": frozenset(),
    "null": frozenset(),
}
_KNOWN = _NOTES | _COMMON | frozenset().union(*_KEYWORDS.values())
_Count = Annotated[int, msgspec.Meta(ge=0)]
_Some = Annotated[list[Any], msgspec.Meta(min_length=1)]
_SHAPE = TypedDict(
    "_SHAPE",
    {
        "$ref": str, "format": str, "properties": dict[str, Any] | None, "required": list[str] | None,
        "enum": _Some, "anyOf": _Some, "oneOf": _Some, "allOf": _Some, "prefixItems": _Some,
        "minLength": _Count, "maxLength": _Count, "minItems": _Count, "maxItems": _Count,
        "minProperties": _Count, "maxProperties": _Count,
    },
    total=False,
)  # fmt: skip
# llama.cpp refuses longer repetitions.
_LONGEST_REPEAT = 1000
# What a schema may have of it. llama.cpp lays repetitions out, and follows all choices that are open with each token.
_MOST_REPEATS, _MOST_CHOICES = 100_000, 1024
# A string that may be longer is held to this: an answer here has no room for more.
_LONGEST_STRING = 20 * _LONGEST_REPEAT
_MOST_RULES, _DEEPEST = 4000, 64

_HEX = "[0-9a-fA-F]"
_BASE = {
    "char": rf'[^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" ([0-9abcefABCEF] {_HEX}{{3}} | [dD] [0-7] {_HEX}{{2}}))',
    "string": '"\\"" char* "\\""',
    "whole": '"0" | [1-9] [0-9]{0,14}',
    "integer": '"0" | "-"? [1-9] [0-9]{0,14}',
    "number": '"-"? whole ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "value": "object | array | string | number | boolean | null",
    "pair": 'string ": " value',
    "object": '"{" (pair (", " pair)*)? "}"',
    "array": '"[" (value (", " value)*)? "]"',
}
_DATE = '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])'
_CLOCK = '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9]'
_TIME = f'{_CLOCK} ":" [0-5] [0-9] ("." [0-9]{{1,6}})? ("Z" | [+-] {_CLOCK})'
_NAME = "[a-zA-Z0-9]{1,32} ([._+-] [a-zA-Z0-9]{1,16}){0,3}"
_HOST = '[a-zA-Z0-9]{1,32} ("." [a-zA-Z0-9]{1,16}){0,2} "." [a-zA-Z]{2,10}'
_BYTE = '("25" [0-5] | "2" [0-4] [0-9] | "1" [0-9] [0-9] | [1-9] [0-9] | [0-9])'
_FORMATS = {
    "date": _DATE,
    "time": _TIME,
    "date-time": f'{_DATE} "T" {_TIME}',
    "uuid": f'{_HEX}{{8}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{4}} "-" {_HEX}{{12}}',
    "ipv4": f'{_BYTE} "." {_BYTE} "." {_BYTE} "." {_BYTE}',
    "email": f'{_NAME} "@" {_HOST}',
}


class SchemaUnsupported(ValueError):
    """The schema asks for what a grammar cannot keep; the message names it."""


def json_object() -> str:
    """A grammar for any JSON object."""
    return _written({"root": "object"})


def from_schema(schema: Any) -> str:
    """A grammar for the JSON values valid under a schema. Raises SchemaUnsupported."""
    return _written(_Converter(schema).rules)


def tool_calls(tools: Sequence[tuple[str, Any]], before: str, after: str) -> str:
    """A grammar for one call of one of the tools, each a name and the schema of its arguments, between two texts."""
    calls: list[Any] = [
        {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
        }
        for name, arguments in tools
    ]
    converter = _Converter(calls[0] if len(calls) == 1 else {"anyOf": calls})
    converter.rules["call"] = converter.rules.pop("root")
    return _written({"root": f"{literal(before)} call {literal(after)}", **converter.rules})


def _written(rules: dict[str, str]) -> str:
    return "\n".join(f"{name} ::= {rule}" for name, rule in {**_BASE, **rules}.items())


class _Converter:
    """Walks a schema; each place that is not a plain type becomes a rule."""

    def __init__(self, schema: Any) -> None:
        self._whole = schema
        self._refs: dict[str, str] = {}
        self._named: dict[str, str] = {}
        self._repeats = self._choices = 0
        self.rules: dict[str, str] = {}
        self.rules["root"] = self._visit(schema, "the schema", 0)

    def _rule(self, body: str) -> str:
        """The name of a rule with this body, which is one for all who have the same."""
        if body in self._named:
            return self._named[body]
        name = self._new_rule(body)
        self._named[body] = name
        return name

    def _new_rule(self, body: str) -> str:
        if len(self.rules) >= _MOST_RULES:
            raise SchemaUnsupported("the schema is too large")
        name = f"r{len(self.rules)}"
        self.rules[name] = body
        return name

    def _choose(self, options: int, at: str) -> None:
        self._choices += options
        if self._choices > _MOST_CHOICES:
            raise SchemaUnsupported(f"{at}: the schema has more than {_MOST_CHOICES} options and optional properties")

    def _repeat(self, body: str, times: int) -> str:
        """A rule that llama.cpp lays out so many times."""
        if body not in self._named:
            self._repeats += times
        if self._repeats > _MOST_REPEATS:
            raise SchemaUnsupported("the schema has too many long strings or lists of different lengths")
        return self._rule(body)

    def _visit(self, schema: Any, at: str, depth: int) -> str:
        """A GBNF expression for a schema; `at` says where it stands."""
        if depth > _DEEPEST:
            raise SchemaUnsupported(f"{at} is nested too deeply")
        if schema is True or schema == {}:
            return "value"
        schema = _checked(schema, at)
        if unknown := sorted(key for key in schema if key not in _KNOWN):
            raise SchemaUnsupported(f"{at} has {unknown[0]!r}, which cannot be enforced")
        if schema.get("nullable") is True:
            rest = {key: value for key, value in schema.items() if key != "nullable"}
            return f"({self._visit(rest, at, depth + 1)} | null)"
        return self._combined(schema, at, depth)

    def _combined(self, schema: Schema, at: str, depth: int) -> str:
        if "$ref" in schema:
            return self._ref(schema, at, depth)
        if "allOf" in schema:
            return self._visit(_merged(schema, schema["allOf"], at), at, depth + 1)
        for key in ("anyOf", "oneOf"):
            if key in schema:
                return self._either(schema, key, at, depth)
        if "const" in schema or "enum" in schema:
            return self._listed(schema, at)
        kinds = schema.get("type", _implied(schema))
        kinds = [kinds] if isinstance(kinds, str) else kinds
        if not isinstance(kinds, list) or not kinds or any(kind not in _TYPES for kind in kinds):
            raise SchemaUnsupported(f"{at} has the type {json.dumps(schema.get('type'))}")
        return any_of([self._typed(kind, schema, at, depth) for kind in kinds])

    def _ref(self, schema: Schema, at: str, depth: int) -> str:
        target = schema["$ref"]
        if any(key not in _NOTES and key != "$ref" for key in schema):
            raise SchemaUnsupported(f"{at} has keywords beside '$ref'")
        if target not in self._refs:
            self._refs[target] = name = self._new_rule("")
            self.rules[name] = self._visit(_resolve(self._whole, target, at), str(target), depth + 1)
        return self._refs[target]

    def _either(self, schema: Schema, key: str, at: str, depth: int) -> str:
        options = schema[key]
        for place, option in enumerate(options):
            if option is not True:
                _checked(option, f"{at}.{key}[{place}]")
        self._choose(len(options), at)
        if key == "oneOf" and not _exclusive(options):
            raise SchemaUnsupported(f"{at} has a 'oneOf' whose options may overlap; use 'anyOf'")
        rest = {name: value for name, value in schema.items() if name != key}
        merged = [_merged(rest, [option], at) if rest.keys() - _NOTES else option for option in options]
        return any_of([self._visit(option, f"{at}.{key}[{place}]", depth + 1) for place, option in enumerate(merged)])

    def _listed(self, schema: Schema, at: str) -> str:
        extra = schema.keys() - _NOTES - {"const", "enum", "type"}
        if extra:
            raise SchemaUnsupported(f"{at} has {sorted(extra)[0]!r} beside its values")
        values = [schema["const"]] if "const" in schema else schema["enum"]
        kinds = schema.get("type")
        kinds = [kinds] if isinstance(kinds, str) else kinds
        fitting = [value for value in values if kinds is None or any(_is(value, kind) for kind in kinds)]
        if not fitting or ("const" in schema and "enum" in schema and schema["const"] not in schema["enum"]):
            raise SchemaUnsupported(f"{at} leaves no value that fits")
        return one_of(list(dict.fromkeys(json.dumps(value, ensure_ascii=False) for value in fitting)))

    def _typed(self, kind: str, schema: Schema, at: str, depth: int) -> str:
        given = schema.keys() & _KEYWORDS[kind]
        if not given:
            return kind
        builders: dict[str, Callable[[Schema, str, int], str]] = {
            "object": self._object, "array": self._array, "string": self._string,
            "integer": self._integer, "number": self._number,
        }  # fmt: skip
        return self._rule(builders[kind](schema, at, depth))

    def _object(self, schema: Schema, at: str, depth: int) -> str:
        properties, required = schema.get("properties") or {}, list(schema.get("required") or [])
        least, most = schema.get("minProperties", 0), schema.get("maxProperties")
        extra = schema.get("additionalProperties", True)
        if properties or required:
            properties = {**properties, **{name: extra for name in required if name not in properties}}
            if least > len(required) or (most is not None and most < len(properties)):
                raise SchemaUnsupported(f"{at} bounds its number of properties")
            return self._members(properties, frozenset(required), at, depth)
        if extra is False or most == 0:
            return '"{}"'
        if least:
            raise SchemaUnsupported(f"{at} has 'minProperties', which cannot be enforced")
        pair = self._rule(f'string ": " {self._visit(extra, f"{at}.additionalProperties", depth + 1)}')
        return f'"{{" {self._repeat(_list_of(pair, 0, most, at), most or 0)} "}}"'

    def _members(self, properties: Schema, required: frozenset[str], at: str, depth: int) -> str:
        first, later = '""', '""'
        self._choose(len(properties) - len(required), at)
        for name, schema in reversed(properties.items()):
            value = self._visit(schema, f"{at}.{name}", depth + 1)
            pair = self._rule(f"{literal(json.dumps(name, ensure_ascii=False) + ': ')} {value}")
            begin = f"{pair} {later}"
            first = self._rule(begin if name in required else f"{begin} | {first}")
            later = self._rule(f'", " {begin}' if name in required else f'", " {begin} | {later}')
        return f'"{{" {first} "}}"'

    def _array(self, schema: Schema, at: str, depth: int) -> str:
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        if schema.get("uniqueItems") and most not in (0, 1):
            raise SchemaUnsupported(f"{at} has 'uniqueItems', which cannot be enforced")
        if "prefixItems" in schema:
            fixed = [self._visit(item, f"{at}[{place}]", depth + 1) for place, item in enumerate(schema["prefixItems"])]
            if least > len(fixed) or (most is not None and most < len(fixed)):
                raise SchemaUnsupported(f"{at} bounds an array of given items")
            return '"[" ' + ' ", " '.join(fixed) + ' "]"'
        item = self._rule(self._visit(schema.get("items", True), f"{at}[]", depth + 1))
        return f'"[" {self._repeat(_list_of(item, least, most, at), most or least)} "]"'

    def _string(self, schema: Schema, at: str, depth: int) -> str:
        least, most = schema.get("minLength", 0), schema.get("maxLength")
        if "format" in schema:
            if schema["format"] not in _FORMATS or least or most is not None:
                raise SchemaUnsupported(f"{at} has the format {schema['format']!r}, or bounds beside it")
            return f'"\\"" {_FORMATS[schema["format"]]} "\\""'
        if most is not None and least > most:
            raise SchemaUnsupported(f"{at} has minLength above maxLength")
        if least > _LONGEST_STRING:
            raise SchemaUnsupported(f"{at} must be longer than an answer can be")
        most = None if most is None else min(most, _LONGEST_STRING)
        return f'"\\"" {self._repeated("char", least, most)} "\\""'

    def _repeated(self, what: str, least: int, most: int | None) -> str:
        """`what`, at least and at most so often, in pieces that llama.cpp takes."""
        if least > _LONGEST_REPEAT:
            block = self._repeat(f"{what}{{{_LONGEST_REPEAT}}}", _LONGEST_REPEAT)
            rest = None if most is None else most - _LONGEST_REPEAT
            return f"{block} {self._repeated(what, least - _LONGEST_REPEAT, rest)}"
        if most is None:
            return self._repeat(f"{what}{{{least},}}", least)
        if most <= _LONGEST_REPEAT:
            return self._repeat(f"{what}{{{least},{most}}}", most)
        block = self._repeat(f"{what}{{{_LONGEST_REPEAT}}}", _LONGEST_REPEAT)
        longer = self._rule(f"{block} {self._repeated(what, 0, most - _LONGEST_REPEAT)}")
        return f"({longer} | {self._repeat(f'{what}{{{least},{_LONGEST_REPEAT - 1}}}', _LONGEST_REPEAT)})"

    def _integer(self, schema: Schema, at: str, depth: int) -> str:
        if schema.get("multipleOf", 1) != 1:
            raise SchemaUnsupported(f"{at} has 'multipleOf', which cannot be enforced")
        low, high = _bounds(schema)
        lowest = low if low is None else math.floor(low) + 1 if _excludes(schema, "Minimum", low) else math.ceil(low)
        highest = (
            high if high is None else math.ceil(high) - 1 if _excludes(schema, "Maximum", high) else math.floor(high)
        )
        found = integers(lowest, highest)
        if not found:
            raise SchemaUnsupported(f"{at} leaves no integer between its bounds")
        return any_of(found)

    def _number(self, schema: Schema, at: str, depth: int) -> str:
        """Whole numbers inside the bounds, and fractions after those whose whole unit lies inside."""
        if "multipleOf" in schema:
            raise SchemaUnsupported(f"{at} has 'multipleOf', which cannot be enforced")
        low, high = _bounds(schema)
        whole = self._integer(schema, at, depth)
        fraction = ' "." [0-9]{1,15}'
        above = integers(max(0, math.ceil(low or 0)), None if high is None else math.floor(high) - 1)
        below = integers(
            max(0, math.ceil(-high)) if high is not None else 0, None if low is None else math.floor(-low) - 1
        )
        excluded = {schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")}
        tail = fraction if not excluded - {None} else ' "." [0-9]{0,14} [1-9]'
        parts = [f"({any_of(above)}){tail}"] if above else []
        parts += [f'"-" ({any_of(below)}){tail}'] if below else []
        return any_of([whole, *parts])


def _checked(schema: Any, at: str) -> Schema:
    """A schema whose keywords have the types they must have. Raises SchemaUnsupported."""
    if not isinstance(schema, dict):
        raise SchemaUnsupported(f"{at} is {json.dumps(schema)}, which no value fits")
    try:
        msgspec.convert(schema, _SHAPE)
    except msgspec.ValidationError as error:
        raise SchemaUnsupported(f"{at} is no JSON schema: {error}") from error
    return schema


def _excludes(schema: Schema, which: str, bound: float) -> bool:
    return schema.get(f"exclusive{which}") == bound


def _bounds(schema: Schema) -> tuple[float | None, float | None]:
    lows = [schema[key] for key in ("minimum", "exclusiveMinimum") if key in schema]
    highs = [schema[key] for key in ("maximum", "exclusiveMaximum") if key in schema]
    for bound in (*lows, *highs):
        if isinstance(bound, bool) or not isinstance(bound, int | float) or abs(bound) >= 10**DIGITS:
            raise SchemaUnsupported(f"a bound is {json.dumps(bound)}")
    return max(lows, default=None), min(highs, default=None)


def _list_of(item: str, least: int, most: int | None, at: str) -> str:
    if most is not None and least > most:
        raise SchemaUnsupported(f"{at} has a minimum above its maximum")
    if most == 0:
        return '""'
    if max(least, most or 0) > _LONGEST_REPEAT:
        raise SchemaUnsupported(f"{at} may have more than {_LONGEST_REPEAT} items")
    more = f"{{{max(least - 1, 0)},{'' if most is None else most - 1}}}"
    some = f'{item} (", " {item}){more}'
    return some if least else f"({some})?"


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    tests: dict[str, Any] = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "null": type(None),
    }  # fmt: skip
    return kind in tests and isinstance(value, tests[kind])


def _implied(schema: Schema) -> list[str]:
    """The types a schema without `type` speaks of: keywords only bind values of their own type."""
    bound = [kind for kind in _TYPES if schema.keys() & _KEYWORDS[kind]]
    # Other types would be valid too; a grammar may well be stricter than the schema.
    return ["number"] if set(bound) == {"integer", "number"} else bound or list(_TYPES)


def _resolve(whole: Any, target: Any, at: str) -> Any:
    if not isinstance(target, str) or not target.startswith("#"):
        raise SchemaUnsupported(f"{at} refers to {target!r}, which is not in the schema")
    found = whole
    for part in filter(None, target[1:].split("/")):
        key = part.replace("~1", "/").replace("~0", "~")
        if not isinstance(found, dict) or key not in found:
            raise SchemaUnsupported(f"{at} refers to {target!r}, which is not in the schema")
        found = found[key]
    return found


def _merged(schema: Schema, others: Any, at: str) -> Schema:
    """One schema for several that hold together; objects' properties add up, anything else must not clash."""
    result = {key: value for key, value in schema.items() if key != "allOf"}
    for other in others:
        if "$ref" in _checked(other, at):
            raise SchemaUnsupported(f"{at} combines schemas that cannot be merged")
        for key, value in other.items():
            if key == "properties":
                known, more = result.get(key) or {}, value or {}
                both = known.keys() & more.keys()
                if any(known[name] != more[name] for name in both):
                    raise SchemaUnsupported(f"{at} has two schemas for {sorted(both)[0]!r}")
                result[key] = {**known, **more}
            elif key == "required":
                result[key] = list(dict.fromkeys([*(result.get(key) or []), *(value or [])]))
            elif key not in _NOTES and result.get(key, value) != value:
                raise SchemaUnsupported(f"{at} combines two values of {key!r}")
            else:
                result[key] = value
    return result


def _exclusive(options: Sequence[Any]) -> bool:
    """Whether no value can fit two of them: their types differ, or a property or a value tells them apart."""
    kinds = [option.get("type") if isinstance(option, dict) else None for option in options]
    if all(isinstance(kind, str) for kind in kinds) and len(set(kinds)) == len(kinds):
        return not {"integer", "number"} <= set(kinds)
    values = [_values(option) for option in options]
    if all(values) and sum(map(len, values)) == len(set().union(*values)):
        return True
    named = [
        {
            name: _values(inner)
            for name, inner in (option.get("properties") or {}).items()
            if name in (option.get("required") or []) and _values(inner)
        }
        for option in options
        if isinstance(option, dict)
    ]
    shared = set.intersection(*(set(each) for each in named)) if len(named) == len(options) else set()
    return any(
        sum(len(each[name]) for each in named) == len(set().union(*(each[name] for each in named))) for name in shared
    )


def _values(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    listed = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return {json.dumps(value, sort_keys=True) for value in listed}
