"""Experiments: shares of the requests for one policy that other policies decide, to compare them.

A *run* is what may be compared: one definition of shares and identities over policies that did not change meanwhile.
Whichever of them is edited, a new run begins, and what was measured before is not mixed into it. Rows say their run
and arm in a :func:`tag`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from gateway.errors import ConfigError
from gateway.features import EXPERIMENT_TAG
from gateway.policy.compile import policy_hash
from gateway.policy.inherit import Found, inherited
from gateway.policy.model import By, Policy, Stop, read_policy
from gateway.policy.situation import Situation
from gateway.types import Frozen
from gateway.yamlfile import Document, did_you_mean

FIELD = EXPERIMENT_TAG
"""Where ``Keys.definitions`` holds what has become of an experiment: this, and its name."""


class Stopped(Frozen, frozen=True, kw_only=True):
    """Why and when (epoch milliseconds) an arm was stopped: the metric it lost by, and how, in words."""

    at_ms: int
    metric: str
    reason: str


class State(Frozen, frozen=True, kw_only=True):
    """What has become of a run. ``round`` counts how often it was resumed: what led to a stop is then left behind."""

    run: str = ""
    round: int = 0
    stopped: dict[str, Stopped] = msgspec.field(default_factory=dict)


class Trial(Frozen, frozen=True, kw_only=True):
    """The arm that one request is in, and why: ``draw`` (0 to 1), of who ``by`` says, fell into the arm's ``share``."""

    experiment: str
    arm: str
    run: str
    by: By
    draw: float
    share: float

    @property
    def tag(self) -> str:
        return tag(self.experiment, self.run, self.arm)


class Declared(Frozen, frozen=True, kw_only=True):
    """An experiment as it stands in a policy file. ``labels``: ``name@hash`` of the control, then of the arms."""

    name: str
    control: str
    arms: tuple[tuple[str, float], ...]
    by: By
    stop: Stop
    labels: tuple[tuple[str, str], ...]
    definition: str

    @property
    def policies(self) -> tuple[str, ...]:
        """The control, then the arms."""
        return tuple(name for name, _ in self.labels)

    @property
    def shares(self) -> dict[str, float]:
        """The control's first."""
        return {self.control: 1 - sum(share for _, share in self.arms), **dict(self.arms)}

    def shares_now(self, state: State) -> dict[str, float]:
        """The same once the requests of stopped arms go to the control."""
        arms = {name: 0.0 if name in state.stopped else share for name, share in self.arms}
        return {self.control: 1 - sum(arms.values()), **arms}

    def over(self, state: State) -> bool:
        """Whether every arm was stopped."""
        return all(name in state.stopped for name, _ in self.arms)

    def draw(self, identities: Mapping[str, str]) -> float:
        """In [0, 1), always the same for the same identity."""
        return Situation(identities=identities).draw(self.by, f"experiment:{self.name}")

    def arm(self, draw: float) -> str:
        """The policy that a draw falls to. Arms lie in order from 0 up: the first keeps whom it has as it grows."""
        for name, share in self.arms:
            if draw < share:
                return name
            draw -= share
        return self.control

    def run(self, state: State) -> str:
        """The definition, and how often it was resumed."""
        return f"{self.definition}.{state.round}" if state.round else self.definition

    def state(self, states: Mapping[str, State]) -> State:
        """What has become of the experiment as it is declared now; that of an earlier definition does not count."""
        known = states.get(self.name)
        return known if known is not None and known.run == self.definition else State(run=self.definition)


def tag(experiment: str, run: str, arm: str) -> str:
    """What a row of this arm is tagged with; without an arm, how all tags of the run begin."""
    return f"{EXPERIMENT_TAG}{experiment}@{run}/{arm}"


def declared(policies: Iterable[Policy]) -> dict[str, Declared]:
    """The experiments of these policies, each by the policy whose requests it splits. All its arms are among them."""
    by_name = {policy.name: policy for policy in policies}
    return {name: _declared(policy, by_name) for name, policy in by_name.items() if policy.experiment is not None}


def _declared(control: Policy, policies: Mapping[str, Policy]) -> Declared:
    experiment = control.experiment
    assert experiment is not None
    names = (control.name, *experiment.arms)
    labels = tuple((name, f"{name}@{policy_hash(policies[name])}") for name in names)
    arms = tuple(experiment.arms.items())
    definition = msgspec.json.encode([experiment, arms, labels], order="deterministic")  # the arms' order counts too
    return Declared(
        name=experiment.name,
        control=control.name,
        arms=arms,
        by=experiment.by,
        stop=experiment.stop,
        labels=labels,
        definition=hashlib.sha256(definition).hexdigest()[:8],
    )


def check_experiments(found: Mapping[str, Found], beside: Sequence[Path] = ()) -> None:
    """Every arm is a policy of these files or of those ``beside``, and no two experiments have one name.

    Raises:
        ConfigError: with file, line and path.
    """
    named: dict[str, str] = {}
    for each in found.values():
        experiment = each.policy.experiment
        if experiment is None:
            continue
        if experiment.name in named:
            reason = f"experiment '{experiment.name}' is already defined in {named[experiment.name]}"
            raise each.document.error(reason, ".experiment", "name")
        named[experiment.name] = each.document.file
        known = set(found)
        if not known.issuperset(experiment.arms):
            known |= {read_policy(Document.read(path)).name for path in beside}
        for arm in experiment.arms:
            if arm not in known:
                reason = f"no policy is called '{arm}'{did_you_mean(arm, known)}"
                raise each.document.error(reason, ".experiment.arms", arm)


class Reader:
    """The experiments in a folder of policies, for who does not serve them; files are read when they have changed."""

    def __init__(self) -> None:
        self._seen: frozenset[tuple[str, int, int]] | None = None
        self._known: dict[str, Declared] = {}

    def read(self, folder: Path) -> dict[str, Declared]:
        """By the policy they split; as they were before where a file is wrong, which the workers complain about."""
        files = sorted(folder.glob("*.yaml"))
        try:
            stamps = [path.stat() for path in files]
            seen = frozenset((str(path), at.st_mtime_ns, at.st_size) for path, at in zip(files, stamps, strict=True))
            if seen != self._seen:
                self._known, self._seen = read_folder(folder), seen
        except (ConfigError, OSError):
            self._seen = None
        return self._known


def read_folder(folder: Path) -> dict[str, Declared]:
    """The experiments in a folder of policies, by the policy they split. Raises ConfigError."""
    found = inherited(map(Document.read, sorted(folder.glob("*.yaml"))))
    check_experiments(found)
    return declared(each.policy for each in found.values())


def states_in(fields: Mapping[bytes, bytes]) -> dict[str, State]:
    """What has become of each experiment by name, from the hash ``Keys.definitions``."""
    prefix = FIELD.encode()
    return {
        name.removeprefix(prefix).decode(): msgspec.json.decode(value, type=State)
        for name, value in fields.items()
        if value and name.startswith(prefix)
    }
