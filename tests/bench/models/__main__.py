"""`python -m tests.bench.models [--model NAME|FILE] [--types Q4_0,Q8_0] [--prune 24-25] [--json]`: a minute a type.

Every type is made anew in a temporary folder, then measured as `gateway models quantize` does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import msgspec

from gateway.cli import tuning
from local_models import choose, fetch, prune
from local_models.measure import measure
from tests.support.models import CHAT, models_dir


def main() -> int:
    """Print a row for the source and one for each type."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.models", description=__doc__)
    parser.add_argument("--model", default=CHAT, help="a name of the catalogue or a GGUF file (default: %(default)s)")
    parser.add_argument("--types", default=",".join(choose.CANDIDATES), help="default: %(default)s")
    parser.add_argument("--prune", default="", metavar="N-M", help="leave these layers out as well")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args()
    source = Path(args.model) if args.model.endswith(".gguf") else fetch.pull(args.model, models_dir())
    dropped = prune.layers(args.prune) if args.prune else frozenset[int]()
    with tempfile.TemporaryDirectory(prefix="bench-models-") as folder:
        made = {
            kind: choose.variant(source, Path(folder) / f"{kind}.gguf", kind, dropped).measured
            for kind in args.types.split(",")
        }
    before = measure(source)
    if args.json:
        print(json.dumps(msgspec.to_builtins({"source": before, **made}), indent=2))
    else:
        tuning.show(before, made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
