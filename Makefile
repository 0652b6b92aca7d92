# Rayloom: `make demo` runs the whole quickstart, `make test` the tests. Both set up .venv first (seconds when done).

PYTHON  ?= python3.11
VENV    := .venv
BIN     := $(VENV)/bin
PIP     := $(BIN)/python -m pip
LOCK    := cluster/requirements-cpu.txt
STAMP   := $(VENV)/.installed-$(shell cat $(LOCK) pyproject.toml | sha256sum | cut -c1-16)
# torch's CPU build: from the configured indexes when they have it, else from PyTorch's own.
TORCH   := $(shell grep '^torch==' $(LOCK))
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu

export DS_BUILD_OPS := 0
export RAY_USAGE_STATS_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-unit test-cluster test-full lint bench-train chaos-train chaos-cluster bench-submit bench-quantize bench-clean bench-serve bench-finetune bench-tune compare-methods lock-cpu lock-gpu print-torch-index monitor clean

setup: $(STAMP)

$(STAMP):
	@command -v $(PYTHON) >/dev/null || { echo "Rayloom needs Python 3.11: install it, or name it with make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Python has no venv module here; on Debian: apt-get install python3.11-venv" >&2; exit 1; }
	@echo "Installing $$(grep -c == $(LOCK)) packages into $(VENV): a few minutes the first time, then seconds"
	@$(PIP) install -qq "pip==26.3"
	@$(PIP) install -qq --no-deps "$(TORCH)" 2>$(VENV)/torch-1.log \
	  || $(PIP) install -qq --no-deps --index-url $(TORCH_CPU_INDEX) "$(TORCH)" 2>$(VENV)/torch-2.log \
	  || { cat $(VENV)/torch-1.log $(VENV)/torch-2.log; \
	       echo "$(TORCH) was found neither in the configured package indexes nor in $(TORCH_CPU_INDEX); the reasons stand above. Is the network there?"; exit 1; } >&2
	@$(PIP) install -qq --no-deps --requirement $(LOCK)
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-* $(VENV)/torch-*.log
	@touch $@

demo: setup
	@mkdir -p .rayloom  # the store: here, every command finds it, from whichever folder of the repository it is called
	$(BIN)/rayloom run jobs/quickstart/pipeline.yaml
	@echo "Where your shell does not know rayloom: source $(BIN)/activate"

test: setup
	@echo "Unit tests, then real clusters and engines on small models; without the long ones (make test-full)"
	$(BIN)/python -m pytest -m "not full and not gpu"

test-unit: setup
	$(BIN)/python -m pytest tests/unit

test-cluster: setup
	$(BIN)/python -m pytest tests/cluster

test-full: setup
	$(BIN)/python -m pytest -m "not gpu"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tokens per second in bf16 and quantised, side by side; SAVE=1 keeps the result under tests/bench/results/.
bench-quantize: setup
	$(BIN)/python tests/bench/quantize.py $(if $(SAVE),--save)

# The data engine beside datatrove, which gets an environment of its own; SAVE=1 keeps the result.
PEER := .venv-datatrove
$(PEER)/bin/python:
	$(PYTHON) -m venv $(PEER)
	$@ -m pip install --quiet "datatrove[io,processing]==0.10.1" spacy aiohttp requests

bench-clean: setup $(PEER)/bin/python
	$(BIN)/python tests/bench/clean.py --peer $(PEER)/bin/python $(if $(SAVE),--save)

# Our loop beside TRL, which gets an environment of its own over ours; SAVE=1 keeps the result.
TRL := .venv-trl
$(TRL)/bin/python: setup
	$(PYTHON) -m venv $(TRL)
	$@ -m pip install --quiet --no-deps "trl==1.16.0"
	cd $(VENV)/lib/python3.11/site-packages && pwd > $(CURDIR)/$(TRL)/lib/python3.11/site-packages/rayloom-peer.pth

bench-finetune: setup $(TRL)/bin/python
	$(BIN)/python tests/bench/finetune.py --peer $(TRL)/bin/python $(if $(SAVE),--save)

# What a search costs and what ASHA saves; SAVE=1 keeps the result.
bench-tune: setup
	$(BIN)/python tests/bench/tune.py $(if $(SAVE),--save)

# Nine fine-tuning methods on one data set; needs `minilm` and `movie-reviews` in the store (jobs/recipes/imports).
compare-methods: setup
	$(BIN)/python tests/bench/compare_methods.py --page compare-methods.html $(if $(SAVE),--save)

# Training against a bare PyTorch loop and Hugging Face's Trainer, in one process; SAVE=1 keeps the result.
bench-train: setup
	$(BIN)/python tests/bench/train.py $(if $(SAVE),--save)

# Training killed at random steps, a worker or the whole command; every loss must be as if nothing had happened.
chaos-train: setup
	$(BIN)/python tests/chaos/train.py --seeds $(or $(SEEDS),10)

# Nodes, networks, workers and the head of a cluster lost while it works, and what became of the work; as root, nodes have
# networks of their own to cut. FAULTS="node_killed network_cut" tries only these.
chaos-cluster: setup
	$(BIN)/python tests/chaos/cluster.py $(if $(FAULTS),--only $(FAULTS))

# Seconds from `rayloom submit` to the job's first line, and of `jobs list` with a hundred jobs; SAVE=1 keeps the result.
bench-submit: setup
	$(BIN)/python tests/bench/submit.py $(if $(SAVE),--save)

# The endpoint beside bare vLLM's own server; PARTS=gateway,tuned,caches,scale, ROUNDS=5, SAVE=1 keeps the result.
bench-serve: setup
	$(BIN)/python tests/bench/serve.py $(if $(PARTS),--parts $(PARTS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SAVE),--save)

# Writes the locks anew with pip's resolver; nothing is installed.
lock-cpu lock-gpu: lock-%: setup
	$(BIN)/python cluster/lock.py $*

# Prometheus on loopback for the cluster whose dashboard is on this machine's port 8265; figures for Grafana (cluster/README.md).
TOKEN_FILE ?= $(HOME)/.ray/auth_token
MONITOR    := .rayloom/monitoring
monitor:
	@mkdir -p $(MONITOR)/debian && $(PYTHON) cluster/debian.py $(MONITOR)/debian prometheus > $(MONITOR)/program
	@test -r "$(TOKEN_FILE)" || { echo "No token in $(TOKEN_FILE): name the cluster's with TOKEN_FILE=PATH" >&2; exit 1; }
	@mkdir -p $(MONITOR) && cp cluster/monitoring/prometheus.yaml $(MONITOR)/ && ln -sfn "$(abspath $(TOKEN_FILE))" $(MONITOR)/token
	$$(cat $(MONITOR)/program) --config.file=$(MONITOR)/prometheus.yaml --storage.tsdb.path=$(MONITOR)/data --web.listen-address=127.0.0.1:9090

print-torch-index:
	@echo $(TORCH_CPU_INDEX)

clean:
	rm -rf $(VENV) $(PEER) $(TRL) .rayloom build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
