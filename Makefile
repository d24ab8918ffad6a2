# Everything a developer does, one target each. `make` lists them.
# ARGS is handed on: make test ARGS="-k subjects", make run ARGS="--help".

PYTHON ?= python3
ARGS ?=
PAIRS ?= 1000000
BIN := .venv/bin
RUNTIME := .venv/.setup
DEV := .venv/.setup-dev
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet
SOURCES := $(wildcard shared services tests bench)
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --group build

COMPOSE ?= $(shell docker compose version >/dev/null 2>&1 && echo docker compose || echo docker-compose)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev run test cover test-all check lint type format proto lock bench profile fuzz chaos up down smoke k8s-test clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  \033[36m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(RUNTIME) ## Install the gateway into .venv (again only when the lock or pyproject.toml changed)

setup-dev: $(DEV) ## Install the tools and tests as well

run: $(RUNTIME) ## Run everything in one process: tas dev
	$(BIN)/tas dev $(ARGS)

test: $(DEV) ## Run the tests that need nothing but this checkout
	$(BIN)/python -m pytest -m "not chaos and not real" $(ARGS)

cover: $(DEV) ## Hold the routing package at 100 % branch coverage (under a minute; what measures time is left out)
	$(BIN)/python -m pytest -q tests/shared/routing -k "not worst" --cov=tas_mcp.routing --cov-branch --cov-fail-under=100 \
		--cov-report=term-missing $(ARGS)

test-all: $(DEV) ## Run these and those that need a real part; without its TAS_TEST_* variable they are skipped, saying so
	$(BIN)/python -m pytest -m "not chaos" $(ARGS)

check: lint type ## Check format, lint, types, the generated code and the architecture (under a minute)
	$(BIN)/python -m pytest -q tests/test_proto.py tests/test_architecture.py

lint: $(DEV) ## Check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: $(DEV) ## Check the types
	$(BIN)/mypy $(SOURCES)

format: $(DEV) ## Format, and mend what lint can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: $(DEV) ## Generate shared/tas_mcp/v1 from proto/
	$(BIN)/python -m grpc_tools.protoc -Iproto --python_out=shared --pyi_out=shared --grpc_python_out=shared \
		proto/tas_mcp/v1/*.proto

lock: $(DEV) ## Resolve pyproject.toml into the lock files; ARGS=--upgrade for newer versions
	$(COMPILE) pyproject.toml --extra dev -o requirements.lock $(ARGS)
	$(COMPILE) pyproject.toml -c requirements.lock -o requirements-services.lock $(ARGS)
	$(COMPILE) pyproject.toml --all-extras -c requirements.lock -o requirements-dev.lock $(ARGS)

bench: $(DEV) ## Measure the speed
	$(BIN)/python -m bench $(ARGS)

profile: $(DEV) ## Leave a flame graph of a tier under load: make profile TIER=ingest
	$(BIN)/python -m bench.profile $(TIER)

fuzz: $(DEV) ## Route random events by random documents: make fuzz PAIRS=1000000
	$(BIN)/python -m tests.shared.routing.fuzz $(PAIRS)

chaos: $(DEV) ## Kill real processes under load and account for every event (minutes)
	$(BIN)/python -m pytest tests/chaos -m chaos -s $(ARGS)

up: ## Build the images and start everything in containers (docker compose)
	deploy/secrets.sh
	$(COMPOSE) up -d --build $(ARGS)

down: ## Stop the containers; ARGS=--volumes also throws away what they stored
	$(COMPOSE) down $(ARGS)

smoke: ## Send an event through the running containers; look for it at the receiver, in Jaeger and in Prometheus
	$(PYTHON) deploy/smoke.py

k8s-test: ## Apply k8s/overlays/local to the cluster of KUBECONFIG and see each tier scaled by its own metric: TAS_TEST_METRIC
	$(PYTHON) k8s/autoscale.py

clean: ## Remove what tools and builds left behind (not .venv)
	rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# The locks are complete and hash-checked, hence --no-deps. They hold the build backend too (dependency group `build`), so
# that the project itself is installed without build isolation, which would fetch an unchecked one.
$(RUNTIME): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes -r requirements.lock
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

$(DEV): requirements-dev.lock $(RUNTIME)
	$(PIP) --no-deps --require-hashes -r requirements-dev.lock
	@touch $@
