"""The policies of a folder, compiled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from gateway.config import ModelConfig, Settings
from gateway.errors import ConfigError
from gateway.policy.compile import CompiledPolicy, compile_policy, unmetered
from gateway.policy.engine import OnError
from gateway.policy.experiments import Declared, check_experiments, declared
from gateway.policy.inherit import inherited
from gateway.pricing import PriceBook
from gateway.sealing import SETTING
from gateway.yamlfile import Document


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Every policy by name; ``default`` is what ``auto`` means. ``experiments``: by the policy they split."""

    policies: Mapping[str, CompiledPolicy]
    default: str
    experiments: Mapping[str, Declared] = field(default_factory=dict)

    def get(self, name: str) -> CompiledPolicy | None:
        return self.policies.get(name)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.policies)

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(warning for policy in self.policies.values() for warning in policy.warnings)


def load_policies(
    settings: Settings,
    models: Sequence[ModelConfig] | None = None,
    *,
    prices: PriceBook | None = None,
    on_error: OnError = unmetered,
) -> PolicySet:
    """Read and compile the ``*.yaml`` directly in the policies folder, against ``models`` (else the configured ones).

    ``on_error`` is told the rule and the error when an expression fails while serving.

    Raises:
        ConfigError: one of them is wrong, two have one name, or the default policy is missing.
    """
    known = settings.config.models if models is None else models
    files = sorted(settings.policies_dir.glob("*.yaml"))
    found = compile_documents(map(Document.read, files), known, prices or PriceBook.load(known), on_error)
    policies = {
        name: replace(each, warnings=(*each.warnings, *keyless([each], settings))) for name, each in found.items()
    }
    default = settings.config.policies.default
    if default not in policies:
        names = ", ".join(policies) or "none"
        raise ConfigError(f"no policy named '{default}' (found: {names})", file=str(settings.policies_dir))
    return PolicySet(policies, default, declared(compiled.policy for compiled in policies.values()))


def keyless(policies: Iterable[CompiledPolicy], settings: Settings) -> list[str]:
    """What is wrong with policies that ask for encryption where there is no key: they keep nothing."""
    if any(settings.config.ledger.encryption_keys):
        return []
    return [
        f"{each.document.file}: policy '{each.name}' keeps contents encrypted, and {SETTING} has no key that is set: "
        "nothing is kept"
        for each in policies
        if each.policy.contents.keep == "encrypted"
    ]


def compile_documents(
    documents: Iterable[Document],
    models: Sequence[ModelConfig],
    prices: PriceBook,
    on_error: OnError = unmetered,
    beside: Sequence[Path] = (),
) -> dict[str, CompiledPolicy]:
    """The policies in these files by name, each with what it inherits from the others, or from those ``beside``.

    Raises:
        ConfigError: one of them is wrong, or two have one name.
    """
    written = inherited(documents, beside)
    check_experiments(written, beside)
    return {
        name: compile_policy(found.policy, found.document, models, prices, on_error, found.origins)
        for name, found in written.items()
    }
