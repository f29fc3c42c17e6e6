"""Runs the Dockerfile's own steps where no container engine is at hand, then asks the gateway they made for an answer.

Each stage gets a copy-on-write view of this machine's root (an overlay in a mount namespace): what the steps write is
thrown away. The final command runs as the image's user on a read-only root, as `docker run --read-only` would. What
differs from a container: the base is this machine instead of the FROM image, and the network is the host's.

Linux, root, Debian's apt. Usage: python3 deploy/smoke.py [--build-arg NAME=VALUE]…
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PORT = 8080
URL = f"http://127.0.0.1:{PORT}"
START_SECONDS = 180.0
STOP_SECONDS = 60.0
INSIDE = "SMOKE_FOLDER"
# Stands in for the base image: its Python comes with venv and headers.
BASE_IMAGE = (
    "python3 -m ensurepip --version >/dev/null 2>&1 || { apt-get update -qq; apt-get install -y -qq python3-venv; }"
)
BASE_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Step(NamedTuple):
    """One instruction of a Dockerfile and what follows it."""

    name: str
    rest: str


def parse(text: str) -> list[list[Step]]:
    """The steps of each stage. Comments go, continued lines are joined."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    stages: list[list[Step]] = []
    for line in re.sub(r"\s*\\\n\s*", " ", lines).splitlines():
        name, _, rest = line.strip().partition(" ")
        if name == "FROM":
            stages.append([])
        if name:
            stages[-1].append(Step(name, rest.strip()))
    return stages


class Stage:
    """A stage being run: its root, and what its steps have set so far."""

    def __init__(self, folder: Path, build_args: dict[str, str]) -> None:
        self.upper, self._work, self.root = folder / "upper", folder / "work", folder / "root"
        for path in (self.upper, self._work, self.root):
            path.mkdir(parents=True)
        options = f"lowerdir=/,upperdir={self.upper},workdir={self._work}"
        _run("mount", "-t", "overlay", "overlay", "-o", options, str(self.root))
        for place in ("proc", "sys", "dev"):
            _run("mount", "--rbind", f"/{place}", str(self.root / place))
        _run("mount", "-t", "tmpfs", "tmpfs", str(self.root / "tmp"))
        self._build_args = build_args
        self.env = {"PATH": BASE_PATH, "HOME": "/root", "LANG": "C.UTF-8"}
        self.folder, self.user, self.command = "/", "root", [""]
        self.sh(BASE_IMAGE)

    def run(self, step: Step, stages: dict[str, Stage]) -> None:
        """Carry out one step; instructions that only describe the image change nothing."""
        match step.name:
            case "ARG":
                name, _, value = step.rest.partition("=")
                self.env[name] = self._build_args.get(name, value.strip('"'))
            case "ENV":
                self.env |= dict(word.partition("=")[::2] for word in shlex.split(step.rest))
            case "WORKDIR":
                self.folder = step.rest
                self.inside(step.rest).mkdir(parents=True, exist_ok=True)
            case "USER":
                self.user = step.rest
            case "COPY":
                self._copy(shlex.split(step.rest), stages)
            case "RUN":
                self.sh(step.rest)
            case "CMD":
                self.command = json.loads(step.rest)

    def inside(self, path: str) -> Path:
        """A path of the image as seen from here."""
        return self.root / (Path(self.folder) / path).relative_to("/")

    def sh(self, script: str) -> None:
        print(f"\033[1m==> {script}\033[0m", flush=True)
        _run("/usr/sbin/chroot", str(self.root), "sh", "-c", f"cd {self.folder} && {script}", env=self.env)

    def _copy(self, words: list[str], stages: dict[str, Stage]) -> None:
        print(f"\033[1m==> COPY {' '.join(words)}\033[0m", flush=True)
        origin = ROOT
        if words[0].startswith("--from="):
            origin = stages[words.pop(0).removeprefix("--from=")].root
        *sources, target = words
        for source in sources:
            place = self.inside(target)
            if origin == ROOT and source == ".":
                _copy_context(place)
            elif (found := origin / source.lstrip("/")).is_dir():
                shutil.copytree(found, place, symlinks=True, dirs_exist_ok=True)
            else:
                place = place / found.name if target.endswith("/") else place
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(found, place)

    def serve(self, env: dict[str, str]) -> subprocess.Popen[bytes]:
        """The image's command, as its user, on a read-only root with its volume and /tmp writable."""
        volume = str(self.upper.parent / "volume")
        os.mkdir(volume, 0o700)
        shutil.chown(volume, 10001, 10001)
        _run("mount", "--bind", volume, str(self.root / "data"))
        _run("mount", "-o", "remount,ro", str(self.root))
        command = ["/usr/sbin/chroot", f"--userspec={self.user}", str(self.root), *self.command]
        return subprocess.Popen(command, env=self.env | env)


def _copy_context(target: Path) -> None:
    listed = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _run(*command: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(command, check=True, env=env)


def build(folder: Path, build_args: dict[str, str]) -> Stage:
    """Every stage in order; returns the last."""
    stages: dict[str, Stage] = {}
    for number, steps in enumerate(parse((ROOT / "deploy" / "Dockerfile").read_text())):
        stage = Stage(folder / str(number), build_args)
        stages[steps[0].rest.partition(" AS ")[2] or str(number)] = stage
        for step in steps:
            stage.run(step, stages)
    return stage


def ask(process: subprocess.Popen[bytes]) -> str:
    """What the gateway answers, once it is ready, to a key made for the occasion."""
    deadline = time.monotonic() + START_SECONDS
    while not _ready():
        if time.monotonic() > deadline or process.poll() is not None:
            raise SystemExit("smoke: the gateway did not become ready")
        time.sleep(0.5)
    key = _post("/admin/keys", "smoke-admin-key", {"name": "smoke"})["key"]
    body = {"model": "auto", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
    return str(_post("/v1/chat/completions", key, body)["choices"][0]["message"]["content"])


def _ready() -> bool:
    try:
        urllib.request.urlopen(f"{URL}/readyz", timeout=5).close()
    except OSError:
        return False
    return True


def _post(path: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    request = urllib.request.Request(URL + path, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as reply:
        return dict(json.load(reply))


def inside(folder: Path, build_args: dict[str, str]) -> int:
    """Build, serve, ask, stop. Mounts are this namespace's own, and end with it."""
    process = build(folder, build_args).serve({"GATEWAY_ADMIN_KEY": "smoke-admin-key"})
    try:
        print(f"smoke: the gateway answered: {ask(process)}", flush=True)
    finally:
        process.terminate()
        try:
            status = process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise SystemExit(f"smoke: the gateway did not stop within {STOP_SECONDS:.0f} s") from None
    print(f"smoke: stopped with status {status}")
    return status


def main() -> int:
    """0 when the gateway of the image answered and stopped with status 0."""
    parser = argparse.ArgumentParser(description="Runs the Dockerfile's own steps without a container engine.")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    given = dict(word.partition("=")[::2] for word in parser.parse_args().build_arg)
    if folder := os.environ.get(INSIDE):
        return inside(Path(folder), given)
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            raise SystemExit(f"smoke: something else listens on port {PORT}, which is the image's")
    folder = tempfile.mkdtemp(prefix="smoke-")
    try:
        command = ("unshare", "--mount", sys.executable, *sys.argv)
        return subprocess.run(command, check=False, env=os.environ | {INSIDE: folder}).returncode
    finally:
        shutil.rmtree(folder)  # seen from here nothing is mounted in it


if __name__ == "__main__":
    sys.exit(main())
