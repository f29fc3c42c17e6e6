"""llama.cpp's own server as the wheel `xllamacpp` gives it, in an environment of its own that is made here."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

WHEEL = "xllamacpp==2026.10.11549"
_SERVER = """
import sys, time
import xllamacpp
params = xllamacpp.CommonParams()
params.model.path = sys.argv[1]
params.n_parallel, params.n_ctx, params.kv_unified, params.cont_batching = 16, 16384, True, True
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(sys.argv[2])
params.port, params.warmup = 0, True
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
sys.stdin.read()
"""


@contextmanager
def xllamacpp(model: Path, threads: int) -> Iterator[str]:
    """Its address. Raises CalledProcessError where it cannot be installed."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farthing-bench" / "xllamacpp"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    installed = subprocess.run([str(python), "-c", "import xllamacpp"], capture_output=True).returncode == 0
    if not installed:
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", WHEEL], check=True)
    command = [str(python), "-c", _SERVER, str(model), str(threads)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            assert child.stdout
            for line in child.stdout:
                if line.startswith("http"):
                    yield line.strip()
                    return
            raise RuntimeError("xllamacpp's server did not start")
        finally:
            child.kill()
