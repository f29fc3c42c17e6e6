"""What a try has used that failed after upstream had taken it on: it may be billed, and nobody gets its answer.

Upstream's own count where something of it came, else an estimate: the prompt (which the pipeline knows; 0 here) and as
much of an answer as had arrived.
"""

from __future__ import annotations

import re

from gateway.errors import UpstreamError
from gateway.tokens import estimate_tokens
from gateway.types import Usage

_SAID = re.compile(rb'"(?:content|reasoning_content|arguments)"\s*:\s*"((?:[^"\\]|\\.)*)')
_LOOKED_AT = 1 << 20  # bytes


def begun(error: UpstreamError, body: bytes = b"") -> UpstreamError:
    """``error`` with what its try has used: a status of success had come, and ``body`` of a plain reply."""
    if error.used is None:
        said = b"".join(_SAID.findall(body[:_LOOKED_AT])).decode(errors="replace")
        error.used = Usage(completion_tokens=estimate_tokens(said), source="estimated")
    return error
