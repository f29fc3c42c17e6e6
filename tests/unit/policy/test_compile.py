"""What is refused or warned about when a policy is loaded, and with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import DEFAULT_MODELS
from gateway.errors import ConfigError
from gateway.policy.compile import compile_policy, policy_hash
from gateway.policy.model import Policy, read_policy, seconds
from gateway.pricing import PriceBook
from gateway.yamlfile import Document
from tests.unit.policy.support import policy

EXAMPLES = Path(__file__).parents[3] / "policies" / "examples"

TWICE = "tags.exists(a, needs.exists(b, a == b)) && tags.filter(t, t == 'a(.map(').size() < 2"
ONE = "name: x\nrules:\n  - {name: a, use: [b]}\n"


def with_(more: str) -> str:
    return ONE.replace("use: [b]", more if more.startswith("use") else f"use: [b], {more}")


def refused(rules: str, **kwargs: str) -> str:
    with pytest.raises(ConfigError) as error:
        policy(rules, **kwargs)  # type: ignore[arg-type]
    return str(error.value)


@pytest.mark.parametrize(
    ("when", "told"),
    [
        ("difficlty < 1", "unknown variable 'difficlty' (did you mean 'difficulty'?)"),
        ("difficulty <", "not a CEL expression"),
        ("last_user_text == ''", "unknown variable 'last_user_text'"),
        ("foo(1)", "unknown function 'foo'"),
        ("language.startswith('d')", "unknown function 'startswith' (did you mean 'startsWith'?)"),
        ("tags", "must be true or false, but gives []"),
        ("prompt_tokens", "must be true or false, but gives 13"),
        ("difficulty && code", "No such overload"),
        ("1 / 0 > 1", "division by zero"),
        ("prompt_tokens / turns > 3", "fails for a conversation without a user turn: division by zero"),
        ("confidence < 0.5", "in 'escalate'"),
        ("stream && code && words > 99 && language.matches('(')", "not a regular expression: '(': unclosed group"),
        ("language.matches('(a{1000}){1000}')", "Compiled regex exceeds size limit of"),
        ("tags.all(a, tags.all(b, tags.all(c, true)))", "loops within loops"),
        ("[language].map(x, x + x).map(x, x + x).size() > 0", "at most 1 'map'"),
        ("tags.map(a, tags.filter(b, b != a)).size() > 0", "ms of CPU time for a request with 64 tags"),
        ("true" + ".a" * 20_000, "of length <= 8000"),
        ("(" * 3000 + "true" + ")" * 3000, "not a CEL expression"),
    ],
)
def test_a_wrong_condition_is_refused_with_its_line(when: str, told: str) -> None:
    message = refused(f'{{name: first, use: [claude], when: "stream"}}\n{{name: a, when: "{when}", use: [claude]}}')
    assert message.startswith("test.yaml:4: rules[1].when: ")
    assert told in message


@pytest.mark.parametrize(
    "when",
    ["tags.exists(t, t.startsWith('a'))", "'de' in [language]", "type(words) == int", "needs.all(n, n != 'x')", TWICE],
)
def test_macros_and_types_are_no_unknown_variables(when: str) -> None:
    assert policy(f'{{name: a, when: "{when}", use: [claude]}}').rules[0].name == "a"


@pytest.mark.parametrize("name", ["difficulty", "confidence"])
def test_a_local_only_rule_must_not_read_a_score(name: str) -> None:
    message = refused(f'{{name: a, when: "{name} < 0.5", use: [local-small], local_only: true}}')
    assert message.endswith(f"a local_only rule may read features and tags only, not '{name}'")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("name: x\nrules:\n  - {name: a, use: []}", "test.yaml:3: rules[0].use: Expected `array` of length >= 1"),
        ("name: x\nrules: []", "test.yaml:2: rules: a policy needs at least one rule"),
        ("name: x\nrules:\n  - {name: a}", "missing required field `use`"),
        ("name: x\nrules:\n  - {name: a, use: [b], whne: c}", "unknown key 'whne' (did you mean 'when'?)"),
        ("name: x\nrules:\n  - {name: pinned, use: [b]}", "'pinned' is the rule of requests that name a model"),
        (
            "name: x\nrules:\n  - {name: a, use: [b]}\n  - {name: a, use: [b]}",
            "test.yaml:4: rules[1].name: rule 'a' is",
        ),
        ("name: a b\nrules:\n  - {name: a, use: [b]}", "test.yaml:1: name: "),
        ("name: x\ncache: {ttl: 5 hours}\nrules:\n  - {name: a, use: [b]}", "test.yaml:2: cache.ttl: "),
        ("name: x\ncache: {semantc: true}\nrules: []", "unknown key 'semantc' (did you mean 'semantic'?)"),
        ("name: x\ncache: {max_wrong_rate: 2}\nrules: []", "cache.max_wrong_rate: "),
        ("name: x\non_budget_exhausted: maybe\nrules:\n  - {name: a, use: [b]}", "on_budget_exhausted: Invalid enum"),
        ("", "missing required field `name`"),
        (f"{ONE}cache: null", "test.yaml:4: cache: Expected `object`, got `null`"),
        (f'{ONE}cache: {{ttl: "5m\\n"}}', "test.yaml:4: cache.ttl: expected: A number and s, m, h or d"),
        (f"{ONE}cache: {{max_wrong_rate: .nan}}", "test.yaml:4: cache.max_wrong_rate: Expected `float` >= 0.0"),
        (f"{ONE}default_max_tokens: {'9' * 40}", "test.yaml:4: default_max_tokens: Expected `int` <= 10000000"),
        (f"{ONE}time_zone: Mars/Olympus", "test.yaml:4: time_zone: no time zone is called 'Mars/Olympus'"),
        (f"{ONE}time_zone: ../../etc/passwd", "test.yaml:4: time_zone: no time zone"),
        ("name: größe\nrules: []", "test.yaml:1: name: expected: Letters, digits"),
        (with_("use: [{model: b, weight: 0}]"), "test.yaml:3: rules[0].use[0].weight: Expected `float` > 0.0"),
        (
            with_("use: [{model: b, weight: .inf}]"),
            "test.yaml:3: rules[0].use[0].weight: Expected `float` <= 1000000.0",
        ),
        (with_("canary: {use: [c], share: 1.5}"), "test.yaml:3: rules[0].canary.share: Expected `float` <= 1.0"),
        (with_("canary: {use: [c], share: .nan}"), "test.yaml:3: rules[0].canary.share: Expected `float` >= 0.0"),
        (with_("max_cost: .inf"), "test.yaml:3: rules[0].max_cost: Expected `float` <= 1000000000.0"),
        (with_("params: {stop: .nan}"), "test.yaml:3: rules[0].params.stop: not to be sent as JSON"),
        (with_("params: {stop: !!set {a}}"), "test.yaml:3: rules[0].params.stop: not to be sent as JSON"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        read_policy(Document(text, "test.yaml"))
    assert told in str(error.value)


class TestWarnings:
    def test_none_for_a_sound_policy(self) -> None:
        assert policy("{name: all, use: [claude]}").warnings == ()

    def test_a_model_that_is_not_configured(self) -> None:
        compiled = policy("{name: all, use: [gpt-5, local-smal, claude]}")
        assert compiled.warnings == (
            "test.yaml:3: rule 'all' names 'gpt-5', which gateway.yaml lacks",
            "test.yaml:3: rule 'all' names 'local-smal', which gateway.yaml lacks (did you mean 'local-small'?)",
        )

    def test_a_model_that_is_named_twice(self) -> None:
        (warning,) = policy("{name: all, use: [claude, gpt-4o-mini, claude]}").warnings
        assert warning == "test.yaml:3: rule 'all' names 'claude' twice: it is asked again where it failed"

    def test_requests_may_match_nothing(self) -> None:
        (warning,) = policy('{name: a, when: "stream", use: [claude]}').warnings
        assert warning == "test.yaml:3: rule 'a' is the last and has a condition: requests may match no rule"

    @pytest.mark.parametrize("first", ["", 'when: "true", '])
    def test_a_rule_behind_one_that_takes_everything(self, first: str) -> None:
        (warning,) = policy(f"{{name: all, {first}use: [claude]}}\n{{name: b, use: [claude]}}").warnings
        assert warning == "test.yaml:4: rule 'b' is never reached: 'all' takes every request it could match"

    @pytest.mark.parametrize(
        ("earlier", "later"),
        [
            ("difficulty < 0.6", "difficulty < 0.35"),
            ("difficulty < 0.6", "stream && difficulty<0.6"),
            ("words > 5 && code", "code && words >= 10"),
            ("quality >= 0", "quality == 3"),
            ("tags.exists(t, t == 'a && b')", "tags.exists(t, t == 'a && b') && hour < 6"),
        ],
    )
    def test_a_rule_that_an_earlier_one_includes(self, earlier: str, later: str) -> None:
        rules = f"""
            {{name: a, when: "{earlier}", use: [claude]}}
            {{name: b, when: "{later}", use: [claude]}}
            {{name: c, use: [claude]}}
        """
        told = [warning.split(": ", 1)[1] for warning in policy(rules).warnings]
        assert "rule 'b' is never reached: 'a' takes every request it could match" in told

    @pytest.mark.parametrize(
        ("earlier", "later"),
        [
            ("difficulty < 0.35", "difficulty < 0.6"),
            ("difficulty < 0.35", "difficulty <= 0.35"),
            ("difficulty < 0.35 || code", "difficulty < 0.3"),
            ("difficulty < 0.35 && code", "difficulty < 0.3"),
            ("(difficulty < 0.35 || stream) && code", "difficulty < 0.3 && code"),
            ("'a' in tags", "'b' in tags"),
        ],
    )
    def test_a_rule_that_something_is_left_for(self, earlier: str, later: str) -> None:
        rules = f"""
            {{name: a, when: "{earlier}", use: [claude]}}
            {{name: b, when: "{later}", use: [claude]}}
            {{name: c, use: [claude]}}
        """
        assert policy(rules).warnings == ()

    @pytest.mark.parametrize(
        ("when", "what"), [("difficulty > 0.6 && difficulty < 0.4", "difficulty"), ("quality > 10", "quality")]
    )
    def test_a_condition_that_is_never_true(self, when: str, what: str) -> None:
        (warning,) = policy(f'{{name: a, when: "{when}", use: [claude]}}\n{{name: b, use: [claude]}}').warnings
        assert warning == f"test.yaml:3: rule 'a' is never reached: its condition is never true ({what})"

    def test_the_same_condition_twice(self) -> None:
        compiled = policy("""
            {name: a, when: "stream", use: [claude]}
            {name: b, when: "stream", use: [claude]}
            {name: c, use: [claude]}
        """)
        assert [warning.split(": ", 1)[1] for warning in compiled.warnings] == [
            "rule 'b' is never reached: 'a' takes every request it could match"
        ]

    def test_a_local_only_rule_is_never_out_of_reach(self) -> None:
        compiled = policy("""
            {name: all, use: [claude]}
            {name: stays, when: "privacy != ''", use: [local-small], local_only: true}
        """)
        assert compiled.warnings == ()

    def test_a_hosted_model_in_a_local_only_rule(self) -> None:
        (warning,) = policy("{name: a, use: [local-small, claude], local_only: true}").warnings
        assert "will never use 'claude', which is hosted" in warning

    @pytest.mark.parametrize("use", ["[local-small]", "[claude, local-small]", "[claude, gpt-4o-mini]"])
    def test_escalation_wants_a_local_model_and_one_behind_it(self, use: str) -> None:
        (warning,) = policy(f"{{name: a, use: {use}, escalate: {{when: confidence < 0.5}}}}").warnings
        assert "needs a local model" in warning
        assert policy("{name: a, use: [local-small, claude], escalate: {when: confidence < 0.5}}").warnings == ()
        message = refused("{name: a, use: [local-small], escalate: {when: confidnce < 0.5}}")
        assert "rules[0].escalate.when: unknown variable 'confidnce' (did you mean 'confidence'?)" in message

    def test_a_baseline_that_is_not_configured(self) -> None:
        (warning,) = policy("{name: a, use: [claude]}", top="name: x\nbaseline: gpt-4").warnings
        assert warning == "test.yaml:2: baseline 'gpt-4' is not a model of gateway.yaml"


def test_the_hash_covers_the_meaning_not_the_writing() -> None:
    written = policy("{name: a, use: [claude], when: stream}\n{name: b, use: [claude]}")
    spaced = policy("{name: a,   when: stream, use: [claude]}  # comment\n{name: b, use: ['claude']}")
    other = policy("{name: a, use: [claude], when: code}\n{name: b, use: [claude]}")
    assert written.hash == spaced.hash != other.hash
    assert len(written.hash) == 12
    assert written.label == f"test@{written.hash}"
    assert policy_hash(written.policy) == written.hash


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800)])
def test_durations(text: str, expected: int) -> None:
    assert seconds(text) == expected


def test_defaults_are_the_documented_ones() -> None:
    plain = read_policy(Document("name: x\nrules:\n  - {name: a, use: [b]}", "x.yaml"))
    assert plain.cache.ttl_s == 86_400
    assert (plain.cache.exact, plain.cache.semantic, plain.cache.scope) == (True, True, "key")
    assert (plain.default_max_tokens, plain.on_budget_exhausted, plain.unpriced) == (1024, "local", "reject")
    assert plain.on_redis_down is None


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_load_without_a_warning(path: Path) -> None:
    document = Document.read(path)
    parsed: Policy = read_policy(document)
    compiled = compile_policy(parsed, document, DEFAULT_MODELS, PriceBook.load(DEFAULT_MODELS))
    assert compiled.warnings == ()
    assert compiled.name == path.stem
