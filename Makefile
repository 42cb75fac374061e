.DEFAULT_GOAL := help
SHELL := bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := libs/contracts libs/runtime libs/localstack libs/client services/spawner services/agent-runner services/observability services/vault-broker
INSTALLED := $(VENV)/.installed

.PHONY: help demo up down test soak lint bench lock clean

help:  ## Show what can be made.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

$(INSTALLED): requirements/dev.lock pyproject.toml $(PACKAGES:%=%/pyproject.toml)
	@echo "Installing $$(grep -c '==' requirements/dev.lock) Python packages into $(VENV): 1.6 GB, minutes the first time …"
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "$(PYTHON) is $$($(PYTHON) --version 2>&1 || true); Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements/installer.lock
	@$(BIN)/uv pip install --python $(BIN)/python --require-hashes -r requirements/dev.lock
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation $(PACKAGES:%=-e %)
	@touch $@

demo: $(INSTALLED)  ## Bring the stack up, run agents on a real incident, kill a service, break an error budget, tell it all from SQL.
	@$(BIN)/sluice demo

up: $(INSTALLED)  ## Start the local stack in the foreground; Ctrl-C ends it.
	@$(BIN)/sluice up

down: $(INSTALLED)  ## End a stack that runs in the background, or what is left of a killed one.
	@$(BIN)/sluice down

test: $(INSTALLED) lint  ## Everything that must hold, on real Kafka, Vault and ClickHouse.
	@$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(PYTEST)

soak: $(INSTALLED)  ## The long counts: hundreds of kills, thousands of seeds.
	@$(BIN)/python -m tests.soak

lint: $(INSTALLED)  ## Style, types, import rules.
	@$(BIN)/ruff format --check --quiet . || { echo "run: .venv/bin/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary libs/*/src services/*/src
	@$(BIN)/lint-imports --no-cache > $(VENV)/imports.log || { cat $(VENV)/imports.log; exit 1; }

bench: $(INSTALLED)  ## Measure beside peers and floors; writes benchmarks/results.json.
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/bench.lock
	@$(BIN)/python -m benchmarks

lock: $(INSTALLED)  ## Resolve the hash-pinned requirements anew.
	@requirements/lock.sh $(BIN)/uv

clean:  ## Remove what was built here; data (.sluice) and the download cache stay.
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis
