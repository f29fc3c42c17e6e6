"""Measure this gateway beside LiteLLM's proxy and Portkey's. Exits 1 where an answer or the books were wrong."""

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from tests.bench.proxy.bench import Bench
from tests.bench.proxy.report import as_json, show


def main() -> int:
    """Parse the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.proxy", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two short rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result, every sample included")
    options = parser.parse_args()
    console = Console()
    if not shutil.which("wrk"):
        console.print("This benchmark needs wrk on the PATH (Debian: apt-get install wrk).")
        return 2
    rounds, seconds = (2, 1) if options.quick else (5, 3)
    with tempfile.TemporaryDirectory(prefix="farthing-bench-") as folder:
        result = Bench(Path(folder), console).run(rounds, seconds)
    show(result, console)
    if options.json:
        options.json.write_bytes(as_json(result))
    return 0 if all(check.holds for check in result.checks) else 1


if __name__ == "__main__":
    sys.exit(main())
