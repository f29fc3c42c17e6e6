"""A view from files, and requests on their way through it without a server around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from gateway.config import Settings, load
from gateway.features import extract
from gateway.http.parse import chat_request
from gateway.metrics import Metrics
from gateway.reload import build_view
from gateway.types import Principal
from gateway.view import View
from gateway.visit import Visit
from tests.support.gateway import EVERYTHING_BIG, hosted, write_policies

BIG = hosted("big", "http://127.0.0.1:9/v1")


def settings(
    folder: Path,
    models: Sequence[Mapping[str, Any]] = (BIG,),
    policies: Sequence[Mapping[str, Any]] = (EVERYTHING_BIG,),
    **sections: Any,
) -> Settings:
    """Written to ``folder`` and read back."""
    base = {"data_dir": str(folder / "data"), "embedder": {"enabled": False}, "models": [dict(one) for one in models]}
    (folder / "gateway.yaml").write_text(yaml.safe_dump(base | sections))
    write_policies(folder, policies)
    return load(folder / "gateway.yaml", {"BIG_KEY": "secret"})


def view(folder: Path, *args: Any, **sections: Any) -> View:
    """Connects to nothing."""
    return build_view(settings(folder, *args, **sections), Metrics())


def visit(shown: View, who: Principal | None = None, headers: dict[str, str] | None = None, **body: Any) -> Visit:
    """A request that has just come in."""
    asked = {"model": "auto", "messages": [{"role": "user", "content": "What is it?"}], **body}
    request = chat_request(msgspec.json.encode(asked), headers or {}, "req_1")
    policy = shown.policies.get("default")
    assert policy is not None
    principal = who or Principal(key_id="k1", name="test")
    return Visit(request, principal, policy, extract(request, principal, default_max_tokens=16))
