"""One configuration, built whole: what a request is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from gateway.backends.fleet import Fleet
    from gateway.backends.operations import Operations
    from gateway.cache.verifier import Verifier
    from gateway.config import Settings
    from gateway.policy.competence import Competence
    from gateway.policy.loader import PolicySet
    from gateway.pricing import PriceBook
    from gateway.protocols import Scorer
    from gateway.sealing import Seal


class View(msgspec.Struct, frozen=True, kw_only=True, weakref=True):
    """Swapped in one assignment; a request keeps the one it began with.

    ``competences``: of the local models that have a profile, by name.
    """

    settings: Settings
    policies: PolicySet
    prices: PriceBook
    fleet: Fleet
    operations: Operations
    scorer: Scorer
    competences: Mapping[str, Competence]
    embedder_id: str
    embedder_local: bool
    verifier: Verifier | None = None
    seal: Seal | None = None
    loaded_ms: int = 0

    def is_local(self, name: str) -> bool:
        """Whether a configured model runs on this machine."""
        model = self.settings.model(name)
        return model is not None and model.is_local
