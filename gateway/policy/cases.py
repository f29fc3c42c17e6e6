"""``policies/cases/*.yaml``: requests and the decisions they must get. `gateway check` and every reload run them.

A file states its policy and the models it assumes; each case runs against those, whatever gateway.yaml says, with the
rule-based scorer and nothing called. What ``expect`` does not name may be anything.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from gateway.config import ModelConfig, Strict
from gateway.errors import GatewayError
from gateway.policy.compile import CompiledPolicy, compile_policy
from gateway.policy.dial import Dialled
from gateway.policy.loader import PolicySet
from gateway.policy.scorer import RuleScorer
from gateway.pricing import PriceBook
from gateway.types import ChatRequest, Decision, Principal, RequestOptions
from gateway.yamlfile import Document


class CaseRequest(Strict, frozen=True, kw_only=True):
    """A request: ``prompt`` stands for one user message. ``body`` holds further fields of the request's JSON."""

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    body: dict[str, Any] = msgspec.field(default_factory=dict)
    tags: tuple[str, ...] = ()
    quality: Annotated[int, Meta(ge=0, le=10)] | None = None
    max_tokens: Annotated[int, Meta(ge=1)] | None = None
    stream: bool = False
    pinned: str | None = None


class Expect(Strict, frozen=True, kw_only=True):
    """What the decision must be; ``error`` is the code of the refusal. ``below`` and ``above`` bound the difficulty."""

    rule: str | None = None
    first: str | None = None
    targets: tuple[str, ...] | None = None
    local_only: bool | None = None
    degraded: str | None = None
    below: float | None = None
    above: float | None = None
    error: str | None = None


class Case(Strict, frozen=True, kw_only=True):
    """``unavailable`` gives models that cannot be asked, each with its reason."""

    name: str
    request: CaseRequest
    expect: Expect
    unavailable: dict[str, str] = msgspec.field(default_factory=dict)


class CaseFile(Strict, frozen=True, kw_only=True):
    """One file: a policy by name, the models it is tried with, and the cases."""

    policy: str
    models: tuple[ModelConfig, ...]
    cases: tuple[Case, ...]


@dataclass(frozen=True, slots=True)
class CaseResult:
    """How one case ended; ``reason`` is empty where it passed, ``line`` is 1-based."""

    name: str
    file: Path
    line: int
    reason: str

    @property
    def passed(self) -> bool:
        return not self.reason


def run_cases(folder: Path, policies: PolicySet, others: Container[str] = ()) -> list[CaseResult]:
    """Every case in ``folder/*.yaml``, in order, but those of ``others``, which are policies too and not asked about;
    none where the folder is missing.

    Raises:
        ConfigError: a file of cases is wrong itself.
    """
    return [result for path in sorted(folder.glob("*.yaml")) for result in _run_file(path, policies, others)]


def _run_file(path: Path, policies: PolicySet, others: Container[str]) -> list[CaseResult]:
    document = Document.read(path)
    file = document.convert(CaseFile, document.value or {})
    configured = policies.get(file.policy)
    if configured is None and file.policy in others:
        return []
    if configured is None:
        line = document.line("", "policy")
        return [CaseResult(case.name, path, line, f"no policy named '{file.policy}'") for case in file.cases]
    policy = _assuming(configured, file.models)
    return [
        CaseResult(case.name, path, document.line(f".cases[{index}]"), _run(case, policy))
        for index, case in enumerate(file.cases)
    ]


def _assuming(configured: CompiledPolicy, models: Sequence[ModelConfig]) -> CompiledPolicy:
    prices = PriceBook.load(models)
    return compile_policy(configured.policy, configured.document, models, prices, origins=configured.origins)


def _run(case: Case, policy: CompiledPolicy) -> str:
    """Why the case fails; '' where it passes."""
    if (case.request.prompt is None) == (case.request.messages is None):
        return "a request has either a prompt or messages"
    if case.expect == Expect():
        return "it expects nothing"
    features = policy.features(_request(case.request), _CALLER)
    score = Dialled(RuleScorer()).score(features)
    try:
        decision = policy.decide(
            features,
            score,
            unavailable=case.unavailable.get,
            local_only=policy.gate(features).local_only,
            pinned=case.request.pinned,
        )
    except GatewayError as error:
        return "" if error.code == case.expect.error else f"refused with {error.code}: {error.message}"
    if case.expect.error is not None:
        return f"expected the error {case.expect.error}, got rule '{decision.rule}'"
    return "; ".join(_differences(case.expect, decision))


def _differences(expect: Expect, decision: Decision) -> list[str]:
    got = {
        "rule": decision.rule,
        "first": decision.targets[0],
        "targets": decision.targets,
        "local_only": decision.local_only,
        "degraded": decision.degraded,
    }
    wanted = msgspec.structs.asdict(expect)
    found = [
        f"{name} is {value!r}, not {wanted[name]!r}" for name, value in got.items() if wanted[name] not in (None, value)
    ]
    difficulty = decision.difficulty or 0.0
    if expect.below is not None and difficulty >= expect.below:
        found.append(f"difficulty is {difficulty}, not below {expect.below}")
    if expect.above is not None and difficulty <= expect.above:
        found.append(f"difficulty is {difficulty}, not above {expect.above}")
    return found


_CALLER = Principal(key_id="case")


def _request(case: CaseRequest) -> ChatRequest:
    return ChatRequest(
        id="case",
        model=case.pinned or "auto",
        messages=case.messages or [{"role": "user", "content": case.prompt or ""}],
        fields={name: msgspec.Raw(msgspec.json.encode(value)) for name, value in case.body.items()},
        stream=case.stream,
        max_tokens=case.max_tokens,
        options=RequestOptions(tags=case.tags, quality=case.quality),
    )
