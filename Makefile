# One command each, the same on a laptop and in CI. `make help` lists them.
#
#   PYTHON     interpreter to build .venv with (3.11 or newer)
#   PIP_FLAGS  handed to pip, e.g. an extra index with CPU-only torch or prebuilt llama-cpp-python
#   ARGS       handed to `gateway serve`, e.g. ARGS="--config gateway.yaml"

PYTHON ?= python3
PIP_FLAGS ?=
ARGS ?=
TORCH := torch==2.13.0

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMPS := $(VENV)/.stamps
SAY := @printf '\033[1m==> %s\033[0m\n'

.DEFAULT_GOAL := help
.PHONY: help install dev models serve test check bench soak lock clean
.DELETE_ON_ERROR:

help: ## this list
	@grep -hE '^[a-z]+:.*## ' Makefile | sed -E 's/:.*## /\t/' | awk -F'\t' '{printf "  make %-9s %s\n", $$1, $$2}'

serve: install ## run the gateway: http://127.0.0.1:8080, Ctrl-C stops it
	@$(BIN)/gateway serve $(ARGS)

test: dev models ## every test but the soak, with branch coverage (about 25 minutes on 2 cores)
	$(SAY) "tests (about 25 minutes on 2 cores)"
	@rm -f .coverage .coverage.*
	@$(BIN)/python -m pytest -n 2 --dist loadfile --max-worker-restart 0 -m "not soak and not browser" --cov --cov-report= -q
	$(SAY) "tests in Chromium, untraced, since coverage cannot follow Playwright's greenlets (about a minute)"
	@$(BIN)/python -m pytest -m "browser and not soak" -q
	@$(BIN)/coverage report --skip-covered | tail -n 25

check: dev ## lint, format, types, policies and their cases
	$(SAY) "ruff, mypy --strict, gateway check"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/gateway check
	@$(BIN)/gateway check policies/examples/*.yaml

bench: dev models ## gateway, engine and embedder beside their peers (about 10 minutes; installs them apart, once)
	$(SAY) "benchmarks: proxy, engine, embed (about 10 minutes; the peers are installed in environments of their own)"
	@status=0; for part in proxy engine embed; do printf '\033[1m==> %s\033[0m\n' "$$part"; \
	  $(BIN)/python -m tests.bench.$$part || status=1; done; exit $$status

soak: dev models ## the tests that take minutes
	$(SAY) "soak tests"
	@$(BIN)/python -m pytest -m soak --timeout 1800

models: install ## fetch and quantise the local models that gateway.yaml names (once)
	@$(BIN)/gateway models pull

lock: ## pin what pyproject.toml asks for, with the hashes of every file (needs the network; UPGRADE=1 for newer releases)
	@sh deploy/lock.sh $(if $(UPGRADE),--upgrade)

clean: ## remove .venv and caches; data and models stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build *.egg-info .coverage .coverage.*

install: $(STAMPS)/project

dev: $(STAMPS)/dev

$(STAMPS)/venv:
	$(SAY) "making .venv with $(PYTHON)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; try: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/runtime: requirements.lock | $(STAMPS)/venv
	$(SAY) "installing what requirements.lock pins (llama.cpp is compiled once: about 5 minutes on 2 cores)"
	@$(PIP) install $(PIP_FLAGS) --no-deps --require-hashes -r requirements.lock
	@touch $@

$(STAMPS)/torch: $(STAMPS)/runtime
	$(SAY) "installing $(TORCH)"
	@$(PIP) install $(PIP_FLAGS) $(TORCH)
	@touch $@

$(STAMPS)/project: pyproject.toml $(STAMPS)/torch
	$(SAY) "installing this checkout"
	@$(PIP) install --quiet --no-deps --no-build-isolation --no-index -e .
	@$(PIP) check
	@touch $@

$(STAMPS)/dev: requirements-dev.lock $(STAMPS)/project
	$(SAY) "installing the tools for tests and checks"
	@$(PIP) install $(PIP_FLAGS) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@
