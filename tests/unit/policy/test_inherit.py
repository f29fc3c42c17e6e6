"""`extends`: what a policy takes over, and where the errors of inherited rules are said to be."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import DEFAULT_MODELS
from gateway.errors import ConfigError
from gateway.policy.compile import CompiledPolicy
from gateway.policy.loader import compile_documents
from gateway.pricing import PriceBook
from gateway.yamlfile import Document
from tests.unit.policy.support import decide

BASE = """
name: base
baseline: claude
cache: {ttl: 7d, scope: team}
rules:
  - {name: easy, when: "difficulty < 0.4", use: [local-small]}
  - {name: rest, use: [claude]}
contents: {keep: redacted, retention: 2d}
"""


def compiled(folder: Path, beside: str = "", **policies: str) -> dict[str, CompiledPolicy]:
    for name, text in policies.items():
        (folder / f"{name}.yaml").write_text(text)
    files = [folder / f"{name}.yaml" for name in policies]
    others = []
    if beside:
        (folder / "beside.yaml").write_text(beside)
        others = [folder / "beside.yaml"]
    return compile_documents(map(Document.read, files), DEFAULT_MODELS, PriceBook.load(DEFAULT_MODELS), beside=others)


def test_a_policy_says_only_what_is_different(tmp_path: Path) -> None:
    child = "name: child\nextends: base\ncache: {scope: shared}\ncontents: {export: true}\n"
    policy = compiled(tmp_path, base=BASE, child=child)["child"]
    assert (policy.policy.baseline, policy.policy.cache.ttl, policy.policy.cache.scope) == ("claude", "7d", "shared")
    contents = policy.policy.contents
    assert (contents.keep, contents.retention_s, contents.export) == ("redacted", 2 * 86_400, True)
    assert [decide(policy, difficulty).rule for difficulty in (0.1, 0.9)] == ["easy", "rest"]
    assert policy.name == "child"


def test_its_rules_come_first_and_replace_those_of_the_same_name(tmp_path: Path) -> None:
    child = """
name: child
extends: base
rules:
  - {name: tiny, when: "difficulty < 0.1", use: [local-small]}
  - {name: easy, when: "difficulty < 0.2", use: [gpt-4o-mini]}
"""
    policy = compiled(tmp_path, base=BASE, child=child)["child"]
    assert [rule.name for rule in policy.rules] == ["tiny", "easy", "rest"]
    assert decide(policy, 0.3).rule == "rest"


def test_the_hash_is_of_what_is_meant(tmp_path: Path) -> None:
    child = "name: child\nextends: base\n"
    before = compiled(tmp_path, base=BASE, child=child)["child"].hash
    after = compiled(tmp_path, base=BASE.replace("0.4", "0.5"), child=child)["child"].hash
    assert before != after


def test_over_several_steps(tmp_path: Path) -> None:
    found = compiled(
        tmp_path, base=BASE, b="name: b\nextends: base\nbaseline: gpt-4o-mini\n", c="name: c\nextends: b\n"
    )
    assert found["c"].policy.baseline == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("child", "told"),
    [
        ("name: child\nextends: bsae\n", "child.yaml:2: extends: no policy is called 'bsae' (did you mean 'base'?)"),
        ("name: child\nextends: child\n", "child.yaml:2: extends: extends itself: child → child"),
    ],
)
def test_what_is_not_there_or_goes_round(tmp_path: Path, child: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        compiled(tmp_path, base=BASE, child=child)
    assert told in str(error.value)


def test_a_warning_about_an_inherited_rule_names_the_file_it_stands_in(tmp_path: Path) -> None:
    base = BASE.replace("use: [claude]}", "use: [nobody]}")
    policy = compiled(tmp_path, base=base, child="name: child\nextends: base\n")["child"]
    assert any("base.yaml:7: rule 'rest' names 'nobody'" in warning for warning in policy.warnings)


def test_a_file_checked_by_itself_finds_what_it_extends_beside_it(tmp_path: Path) -> None:
    found = compiled(tmp_path, beside=BASE, child="name: child\nextends: base\n")
    assert list(found) == ["child"]
