PYTHON ?= python3.11
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run test test-fast check format bench docs vllm clean

# Envoy, the picker and three simulated vLLM replicas: OpenAI API on 127.0.0.1:8080.
run: $(READY)
	@$(BIN)/penstock up -c deploy/examples/simulated.yaml

# Everything, real parts included. The real-vLLM tests run once, after the others.
test: test-fast vllm
	$(BIN)/pytest -m vllm tests/real

# Everything but real vLLM.
test-fast: $(READY)
	$(BIN)/pytest -m "not vllm" -n 2 --dist loadfile tests

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	@$(BIN)/python -m loadtests.bench

# Generated pages.
docs: $(READY)
	$(BIN)/python -m gateway.config.reference

# vLLM for the CPU, in an environment of its own.
vllm: $(READY)
	@$(BIN)/python tests/real/vllm/install.py

clean:
	rm -rf .venv .venv-vllm build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(READY): pyproject.toml proto/build.py $(wildcard proto/*.proto)
	@command -v $(PYTHON) >/dev/null || { echo "Penstock needs $(PYTHON): install it, or run make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Preparing the environment in .venv (about half a minute the first time) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { echo "python3.11's venv module is missing: apt-get install python3.11-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@
