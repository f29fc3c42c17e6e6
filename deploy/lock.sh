#!/bin/sh
# Writes requirements.lock and requirements-dev.lock from pyproject.toml: every release pinned, with the hashes of all
# its files, for every platform (markers). Pins that are there already stay, unless --upgrade is given.
# torch is left out: its CPU and CUDA builds share a version and differ in hash, so the Makefile installs it in a step of
# its own; what it needs itself is in the dependency group `torch`.
set -eu
cd "$(dirname "$0")/.."
tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
python3 -m venv "$tools/venv"
"$tools/venv/bin/pip" install --quiet uv
echo 'torch; python_version < "3"' > "$tools/without-torch.txt"
compile() {
    "$tools/venv/bin/uv" pip compile --quiet --universal --generate-hashes --no-annotate --python-version 3.11 \
        --custom-compile-command 'make lock' --override "$tools/without-torch.txt" "$@"
}
compile pyproject.toml --group torch --output-file requirements.lock "$@"
compile pyproject.toml --group torch --group dev --constraint requirements.lock --output-file requirements-dev.lock "$@"
