"""Contenders, and wrk runs against them."""

import subprocess
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

CONNECTIONS = (1, 8)
OURS, SEMANTIC, EXACT = "gateway", "gateway, semantic on", "gateway, exact hit"
_SCRIPT = Path(__file__).with_name("request.lua")


class Sample(msgspec.Struct, frozen=True):
    """What one run of wrk saw. `sent` also counts the requests that were still open when the run ended."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: int
    sent: int

    @property
    def per_second(self) -> float:
        """Requests answered per second."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something that answers chat requests at `url` + /chat/completions.

    `same_prompt` sends one prompt again and again, else each is unique. `after` is told of the requests and returns
    when the work they left behind is done, so that it does not burden whoever comes next.
    """

    name: str
    url: str
    model: str
    headers: Mapping[str, str]
    same_prompt: bool = False
    after: Callable[[Sample], None] = lambda sample: None


def drive(contender: Contender, connections: int, seconds: int) -> Sample:
    """Run wrk once, as fast as its connections go.

    Raises:
        subprocess.CalledProcessError: wrk itself failed.
    """
    target = [f"-c{connections}", f"-d{seconds}s", "--timeout", "20s", f"{contender.url}/chat/completions"]
    prompts = "same" if contender.same_prompt else "unique"
    headers = [f"{name}: {value}" for name, value in contender.headers.items()]
    script = ["-s", str(_SCRIPT), "--", contender.model, prompts, uuid.uuid4().hex[:8], *headers]
    ran = subprocess.run(["wrk", "-t1", *target, *script], capture_output=True, text=True, check=True)
    sample = msgspec.json.decode(ran.stdout.strip().splitlines()[-1], type=Sample)
    contender.after(sample)
    return sample
