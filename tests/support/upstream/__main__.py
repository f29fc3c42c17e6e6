"""`python -m tests.support.upstream [--port P] [--log FILE.jsonl]`: the upstream as a process."""

import argparse
import asyncio
import signal
from pathlib import Path

import uvloop

from tests.support.upstream import Upstream


def main() -> None:
    """Serve until SIGINT or SIGTERM; prints the URL once it accepts."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.upstream", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    parser.add_argument("--log", type=Path, help="append a JSON line for each reply that has ended")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_serve(Upstream(port=options.port, record=False, log=options.log)))


async def _serve(upstream: Upstream) -> None:
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    async with upstream:
        print(upstream.base_url, flush=True)
        await stopped.wait()


if __name__ == "__main__":
    main()
