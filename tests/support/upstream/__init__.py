"""The scripted upstream: stands in for paid providers in tests and benchmarks.

It speaks OpenAI's chat completions, embeddings and models and Anthropic's messages, does what a `Plan` says,
and keeps a `Received` of every request. Three ways to run it: `async with Upstream() as up` on the caller's
loop, `with Upstream.in_thread() as up` beside it, `python -m tests.support.upstream --port P` as a process.
"""

from tests.support.upstream.plan import Plan, Usage
from tests.support.upstream.record import Received, State
from tests.support.upstream.server import Upstream

__all__ = ["Plan", "Received", "State", "Upstream", "Usage"]
