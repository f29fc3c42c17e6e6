"""The peers: LiteLLM's proxy and Portkey's gateway, each in an environment of its own that is made here.

Both run as their documentation says for production with one worker: LiteLLM without a database and with its log at
ERROR, Portkey without its log page. Both authenticate by what they have: LiteLLM by a master key, Portkey not at all.
"""

import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.bench.proxy.load import Contender
from tests.bench.proxy.processes import Server, Skipped, free_port, running

LITELLM = "litellm[proxy]==1.106.2"
PORTKEY = "@portkey-ai/gateway@1.15.2"
_INSTALL_S = 900

_LITELLM_CONFIG = """\
model_list:
  - model_name: bench
    litellm_params: {{model: openai/bench, api_base: "{upstream}", api_key: sk-upstream}}
"""
# Portkey has no setting for the address it binds; an open relay belongs on loopback.
_LOOPBACK = """\
const { Server } = require('net');
const listen = Server.prototype.listen;
Server.prototype.listen = function (port, _host, ...rest) {
  return listen.call(this, port, '127.0.0.1', ...rest);
};
"""


@contextmanager
def litellm(upstream: str, folder: Path) -> Iterator[tuple[Contender, Server]]:
    """LiteLLM's proxy in front of `upstream`. Raises Skipped."""
    venv = _cache() / "litellm-1.106.2"
    pip = [str(venv / "bin" / "pip"), "install", "--quiet", LITELLM]
    _install(venv, [[sys.executable, "-m", "venv", str(venv)], pip])
    config, port, key = folder / "litellm.yaml", free_port(), "sk-" + secrets.token_hex(32)
    config.write_text(_LITELLM_CONFIG.format(upstream=upstream))
    url = f"http://127.0.0.1:{port}"
    options = ["--config", str(config), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    env = {"LITELLM_MASTER_KEY": key, "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    command = [str(venv / "bin" / "litellm"), *options, "--telemetry", "False"]
    with running(command, f"{url}/health/liveliness", folder / "litellm.log", env) as server:
        headers = {"authorization": f"Bearer {key}"}
        yield Contender(name="LiteLLM", url=f"{url}/v1", model="bench", headers=headers), server


@contextmanager
def portkey(upstream: str, folder: Path) -> Iterator[tuple[Contender, Server]]:
    """Portkey's gateway in front of `upstream`. Raises Skipped."""
    home = _cache() / "portkey-1.15.2"
    if not (shutil.which("node") and shutil.which("npm")):
        raise Skipped("needs node and npm")
    quiet = ["--no-audit", "--no-fund", "--ignore-scripts", "--loglevel", "error"]
    _install(home, [["npm", "install", "--prefix", str(home), *quiet, PORTKEY]])
    loopback, port = folder / "loopback.cjs", free_port()
    loopback.write_text(_LOOPBACK)
    url = f"http://127.0.0.1:{port}"
    script = home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    command = ["node", "--require", str(loopback), str(script), f"--port={port}", "--headless"]
    env = {"NODE_ENV": "production", "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}
    with running(command, url, folder / "portkey.log", env) as server:
        headers = {
            "authorization": "Bearer sk-upstream",
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": upstream,
        }
        yield Contender(name="Portkey", url=f"{url}/v1", model="bench", headers=headers), server


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "farthing-bench"


def _install(home: Path, commands: Sequence[Sequence[str]]) -> None:
    done = home / "installed"
    if done.exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    try:
        for command in commands:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_INSTALL_S)
    except subprocess.SubprocessError as failure:
        said = getattr(failure, "stderr", None) or str(failure)
        raise Skipped(f"cannot be installed: {said.strip().splitlines()[-1]}") from failure
    done.touch()
