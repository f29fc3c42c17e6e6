"""Cases: the shipped ones pass, and a wrong expectation is told with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import DEFAULT_MODELS
from gateway.errors import ConfigError
from gateway.policy.cases import run_cases
from gateway.policy.loader import PolicySet
from gateway.policy.model import read_policy
from gateway.policy.schema import policy_schema, schema_text
from gateway.yamlfile import Document
from tests.unit.policy.support import policy

POLICIES = Path(__file__).parents[3] / "policies"
HEAD = """policy: test
models:
  - {name: local-small, local: smollm2-135m-instruct}
  - {name: hosted, provider: openai_compatible, base_url: "http://h/v1"}
cases:
"""


@pytest.fixture(scope="module")
def policies() -> PolicySet:
    compiled = policy("""
        {name: easy, when: "difficulty < 0.35", use: [local-small]}
        {name: stays, when: "'confidential' in tags", use: [local-small], local_only: true}
        {name: rest, use: [hosted]}
    """)
    return PolicySet({"test": compiled}, "test")


def outcome(tmp_path: Path, policies: PolicySet, case: str) -> tuple[str, int]:
    (tmp_path / "cases.yaml").write_text(HEAD + f"  - {{name: it, {case}}}\n")
    (result,) = run_cases(tmp_path, policies)
    assert (result.name, result.file.name, result.passed) == ("it", "cases.yaml", not result.reason)
    return result.reason, result.line


@pytest.mark.parametrize(
    "case",
    [
        "request: {prompt: Hello}, expect: {rule: easy, first: local-small, below: 0.35, local_only: false}",
        "request: {prompt: Prove it., tags: [confidential]}, expect: {local_only: true, targets: [local-small]}",
        "request: {prompt: Hello, pinned: hosted}, expect: {rule: pinned}",
        "request: {prompt: Hello, pinned: hosted, tags: [confidential]}, expect: {error: local_only}",
        "request: {prompt: Prove it.}, unavailable: {hosted: no api_key is set}, expect: {degraded: no-hosted-key}",
        "request: {messages: [{role: user, content: Prove it.}], quality: 10}, expect: {above: 0.9}",
    ],
)
def test_right_expectations_pass(tmp_path: Path, policies: PolicySet, case: str) -> None:
    assert outcome(tmp_path, policies, case) == ("", 6)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("request: {prompt: Hello}, expect: {rule: rest}", "rule is 'easy', not 'rest'"),
        ("request: {prompt: Hello}, expect: {first: hosted}", "first is 'local-small', not 'hosted'"),
        ("request: {prompt: Hello}, expect: {above: 0.5}", "not above 0.5"),
        ("request: {prompt: Prove it.}, expect: {below: 0.5}", "not below 0.5"),
        ("request: {prompt: Hello}, expect: {error: local_only}", "expected the error local_only, got rule 'easy'"),
        ("request: {prompt: Hello, pinned: nobody}, expect: {rule: pinned}", "refused with model_not_found"),
        ("request: {prompt: Hello}, expect: {below: 0.2, above: 0.2}", "not above 0.2"),
        ("request: {prompt: Hello}, expect: {}", "it expects nothing"),
        ("request: {}, expect: {rule: easy}", "either a prompt or messages"),
        ("request: {prompt: Hi, messages: []}, expect: {rule: easy}", "either a prompt or messages"),
    ],
)
def test_wrong_expectations_are_told(tmp_path: Path, policies: PolicySet, case: str, reason: str) -> None:
    assert reason in outcome(tmp_path, policies, case)[0]


def test_a_policy_that_is_not_there(tmp_path: Path, policies: PolicySet) -> None:
    (tmp_path / "a.yaml").write_text(
        HEAD.replace("policy: test", "policy: tset") + "  - {name: it, request: {}, expect: {}}\n"
    )
    (result,) = run_cases(tmp_path, policies)
    assert (result.reason, result.line) == ("no policy named 'tset'", 1)


def test_two_cases_that_contradict_each_other_are_told_apart_by_their_lines(
    tmp_path: Path, policies: PolicySet
) -> None:
    cases = [f"  - {{name: same, request: {{prompt: Hello}}, expect: {{rule: {rule}}}}}\n" for rule in ("easy", "rest")]
    (tmp_path / "cases.yaml").write_text(HEAD + "".join(cases))
    found = [(result.line, result.reason) for result in run_cases(tmp_path, policies)]
    assert found == [(6, ""), (7, "rule is 'easy', not 'rest'")]


def test_a_file_that_is_wrong_itself(tmp_path: Path, policies: PolicySet) -> None:
    with pytest.raises(
        ConfigError, match=r"cases\.yaml:6: cases\[0\]\.expect\.rul: unknown key 'rul' \(did you mean 'rule"
    ):
        outcome(tmp_path, policies, "request: {prompt: Hello}, expect: {rul: easy}")


def test_no_folder_no_cases(tmp_path: Path, policies: PolicySet) -> None:
    assert run_cases(tmp_path / "none", policies) == []


def test_the_shipped_cases_pass() -> None:
    document = Document.read(POLICIES / "default.yaml")
    from gateway.policy.compile import compile_policy
    from gateway.pricing import PriceBook

    parsed = read_policy(document)
    compiled = compile_policy(parsed, document, DEFAULT_MODELS, PriceBook.load(DEFAULT_MODELS))
    results = run_cases(POLICIES / "cases", PolicySet({compiled.name: compiled}, "default"))
    assert [f"{result.line}: {result.reason}" for result in results if not result.passed] == []
    assert len(results) >= 10


class TestSchema:
    def test_the_file_is_up_to_date(self) -> None:
        made = "run `python -m gateway.policy.schema > policies/schema.json`"
        assert (POLICIES / "schema.json").read_text() == schema_text(), made

    def test_unknown_keys_are_errors_in_editors_too(self) -> None:
        definitions = policy_schema()["$defs"]
        assert {name for name in definitions if definitions[name].get("additionalProperties") is not False} == set()

    @pytest.mark.parametrize(
        "path", [*POLICIES.glob("*.yaml"), *POLICIES.glob("examples/*.yaml")], ids=lambda p: p.stem
    )
    def test_every_policy_names_the_schema(self, path: Path) -> None:
        first = path.read_text().splitlines()[0]
        assert first.startswith("# yaml-language-server: $schema=")
        assert (path.parent / first.split("=", 1)[1]).resolve() == POLICIES / "schema.json"
