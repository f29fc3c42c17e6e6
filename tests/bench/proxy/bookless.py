"""A gateway worker whose books are shut: what `tests.bench.proxy.share` measures the open ones against.

``python -m tests.bench.proxy.bookless --port N --config FILE [--shut]``. Shut, nothing is admitted, reserved, settled
or appended: requests pass without a trip to Redis. All else (key, features, policy, row, metrics) is the product's own.
"""

import argparse
import socket

import uvloop

from gateway.books import Books
from gateway.budget.limits import Admission
from gateway.config import load
from gateway.http.worker import serve


async def _admit(*_: object, **__: object) -> Admission:
    return Admission(reserved=True)


async def _settle(*_: object) -> None:
    return None


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.proxy.bookless", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--config", required=True)
    parser.add_argument("--shut", action="store_true")
    options = parser.parse_args()
    if options.shut:
        Books.admit = _admit  # type: ignore[method-assign]
        Books.settle = _settle  # type: ignore[assignment, method-assign]
    listening = socket.create_server(("127.0.0.1", options.port))
    uvloop.run(serve(load(options.config), listening.detach()))


if __name__ == "__main__":
    main()
