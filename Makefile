PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready
DEV := .venv/.ready-dev
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off
# pip's lines one over the other on a terminal, nothing on a pipe; errors stay.
SHORTLY := | { if [ -t 1 ]; then awk '{ printf "\r\033[K  %.76s", $$0; fflush() } END { printf "\r\033[K" }'; else cat >/dev/null; fi; }
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c

.PHONY: run test test-fast check format bench bench-gateways docs vllm clean

# Envoy, the picker and three simulated vLLM replicas: OpenAI API on 127.0.0.1:8080.
run: $(READY)
	@$(BIN)/penstock up -c deploy/examples/simulated.yaml

# Everything, real parts included. The real-vLLM tests run once, after the others.
test: test-fast vllm
	$(BIN)/pytest -m vllm tests/real

# Everything but real vLLM.
test-fast: $(DEV)
	$(BIN)/pytest -m "not vllm" -n 2 --dist loadfile --no-loadscope-reorder tests

check: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(DEV)
	@$(BIN)/python -m loadtests.bench

# Penstock among other gateways, which are installed into .venv-peers on first use (about 1 GB).
bench-gateways: $(DEV)
	@$(BIN)/python -m loadtests.bench --only gateways

# Generated pages.
docs: $(DEV)
	$(BIN)/python -m gateway.config.reference

# vLLM for the CPU, in an environment of its own.
vllm: $(DEV)
	@$(BIN)/python tests/real/vllm/install.py

clean:
	rm -rf .venv .venv-vllm .venv-peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml proto/build.py $(wildcard proto/*.proto)
	@command -v $(PYTHON) >/dev/null || { echo "Penstock needs $(PYTHON): install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3.11's venv module is missing: apt-get install python3.11-venv" >&2; exit 1; }
	@echo "Preparing the environment in .venv (once, about half a minute) ..."
	@$(INSTALL) -e . $(SHORTLY)
	@touch $@

$(DEV): $(READY)
	@echo "Installing what tests and checks need ..."
	@$(INSTALL) -e ".[dev]" $(SHORTLY)
	@touch $@
