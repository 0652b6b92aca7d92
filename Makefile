# Rayloom: `make demo` runs the whole quickstart, `make test` the tests. Both set up .venv first (seconds when done).

PYTHON  ?= python3.11
VENV    := .venv
BIN     := $(VENV)/bin
LOCK    := cluster/requirements-cpu.txt
STAMP   := $(VENV)/.installed-$(shell cat $(LOCK) pyproject.toml | sha256sum | cut -c1-16)
# torch's CPU build: from the configured indexes when they have it, else from PyTorch's own.
TORCH   := $(shell grep '^torch==' $(LOCK))
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

export DS_BUILD_OPS := 0
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: setup demo test test-full lint clean

setup: $(STAMP)

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "Rayloom needs Python 3.11: install it, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "pip==26.3"
	$(BIN)/python -m pip install --quiet --no-deps "$(TORCH)" 2>/dev/null \
	  || $(BIN)/python -m pip install --quiet --no-deps --index-url $(TORCH_CPU_INDEX) "$(TORCH)"
	$(BIN)/python -m pip install --quiet --no-deps --requirement $(LOCK)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: setup
	$(BIN)/rayloom run jobs/quickstart/pipeline.yaml

test: setup
	$(BIN)/python -m pytest -m "not full and not gpu"

test-full: setup
	$(BIN)/python -m pytest -m "not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) .rayloom build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
