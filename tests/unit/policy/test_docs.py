"""docs/policies.md names every variable, key and default there is, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from gateway.policy.cases import CaseRequest, Expect
from gateway.policy.expressions import FEATURES, SCORED
from gateway.policy.model import CacheConfig, ContentsConfig, Policy, Rule
from tests.unit.policy.support import policy

PAGE = (Path(__file__).parents[3] / "docs" / "policies.md").read_text()


def section(title: str) -> str:
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]


def names(title: str) -> list[str]:
    return re.findall(r"^\| `([a-z_.]+)` \|", section(title), re.MULTILINE)


def test_every_variable_is_documented() -> None:
    assert set(names("Variables")) == {*FEATURES, *SCORED}


def test_the_examples_of_the_variables_are_conditions() -> None:
    examples = re.findall(r"\| `([^`|]+)` \|$", section("Variables").replace("\\|", "|"), re.MULTILINE)
    assert len(examples) == len(names("Variables"))
    for example in examples:
        policy(f'{{name: a, when: "{example}", use: [claude]}}')


def test_every_key_of_a_policy_is_documented_with_its_default() -> None:
    sections: dict[str, type[msgspec.Struct]] = {"cache": CacheConfig, "contents": ContentsConfig}
    fields = [(name, field) for name, kind in sections.items() for field in msgspec.structs.fields(kind)]
    written = {f"{name}.{field.name}" for name, field in fields}
    assert set(names("A policy")) == set(Policy.__struct_fields__) - set(sections) | written
    shown = dict(re.findall(r"^\| `([a-z_.]+)` \| `?([^|`]+?)`? \|", section("A policy"), re.MULTILINE))
    for name, field in fields:
        assert shown[f"{name}.{field.name}"] == msgspec.json.encode(field.default).decode().strip('"')
    for name in ("default_max_tokens", "on_budget_exhausted", "unpriced"):
        (field,) = [found for found in msgspec.structs.fields(Policy) if found.name == name]
        assert shown[name] == str(field.default)


def test_every_key_of_a_rule_and_of_a_case_is_documented() -> None:
    assert set(names("A rule")) == set(Rule.__struct_fields__)
    for name in (*CaseRequest.__struct_fields__, *Expect.__struct_fields__):
        assert f"`{name}`" in section("Cases")
