"""Which arm of an experiment a request is in: settled once, before anything else looks at its policy.

Only a request that every arm may answer takes part: one that must stay local under the policy it asked for, that names
a model, or whose key may not use one of the arms' policies stays where it is, and is not counted. So does every request
while it is not known which arms were stopped: with Redis away nobody is experimented upon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from gateway.policy.experiments import Declared, State, Trial, states_in
from gateway.policy.situation import identities

if TYPE_CHECKING:
    from gateway.metrics import Metrics
    from gateway.policy.engine import CompiledPolicy
    from gateway.policy.loader import PolicySet
    from gateway.redis_io import RedisLink
    from gateway.types import ChatRequest, Features, Principal


class Trials:
    """A worker's copy of what has become of experiments, and the assignment of its requests."""

    def __init__(self, link: RedisLink, metrics: Metrics) -> None:
        self._link, self._metrics = link, metrics
        self._states: Mapping[str, State] = {}
        self._true = False

    @property
    def known(self) -> bool:
        """Whether it is known which arms were stopped."""
        return self._true and self._link.connected

    def load(self, fields: Mapping[bytes, bytes], policies: PolicySet) -> None:
        """Take over what has become of experiments, as the hash ``Keys.definitions`` holds it."""
        if fields or not self._states:  # empty, Redis has lost them: they will be put back
            self._states = states_in(fields)
        self._true = True
        self.show(policies)

    def forget(self, policies: PolicySet) -> None:
        """It is not known any more: events may go unread."""
        self._true = False
        self.show(policies)

    def show(self, policies: PolicySet) -> None:
        """Tell the metrics what each arm gets now."""
        shares: dict[tuple[str, str], float] = {}
        for one in policies.experiments.values():
            known = one.shares_now(one.state(self._states)) if self._true else {one.control: 1.0}
            shares |= {(one.name, arm): known.get(arm, 0.0) for arm in one.policies}
        self._metrics.experiments(shares)

    def enrol(
        self, policies: PolicySet, policy: CompiledPolicy, request: ChatRequest, who: Principal, features: Features
    ) -> tuple[CompiledPolicy, Features, Trial | None]:
        """The policy that decides the request, and its features under that; ``policy`` is what it asked for."""
        experiment = policies.experiments.get(policy.name)
        if experiment is None or not self._takes_part(experiment, policy, request, who, features):
            return policy, features, None
        state = experiment.state(self._states)
        draw = experiment.draw(identities(request.id, request.options.session, request.user, who.key_id))
        arm = experiment.arm(draw)
        chosen = policies.get(arm)
        if chosen is None or arm in state.stopped or experiment.over(state):
            return policy, features, None
        trial = Trial(
            experiment=experiment.name,
            arm=arm,
            run=experiment.run(state),
            by=experiment.by,
            draw=round(draw, 6),
            share=round(experiment.shares[arm], 9),
        )
        self._metrics.enrolled(experiment.name, arm)
        features = features if chosen is policy else chosen.features(request, who)
        return chosen, msgspec.structs.replace(features, tags=tuple(sorted((*features.tags, trial.tag)))), trial

    def _takes_part(
        self, experiment: Declared, policy: CompiledPolicy, request: ChatRequest, who: Principal, features: Features
    ) -> bool:
        if not self.known:
            return False
        if request.model != "auto" and not request.model.startswith("auto:"):
            return False
        if not all(who.may_use("policies", name) for name in experiment.policies):
            return False
        return not policy.gate(features).local_only
