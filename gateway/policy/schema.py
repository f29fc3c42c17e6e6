"""The JSON schema of a policy file, for editors: ``python -m gateway.policy.schema > policies/schema.json``."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from gateway.policy.model import Policy


def policy_schema() -> dict[str, Any]:
    """JSON Schema 2020-12 of ``policies/*.yaml``, made from :class:`gateway.policy.model.Policy`."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Farthing routing policy",
        **msgspec.json.schema(Policy),
    }


def schema_text() -> str:
    """The schema as the file holds it."""
    return json.dumps(policy_schema(), indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    print(schema_text(), end="")
