# Rayloom: `make demo` runs the whole quickstart, `make test` the tests. Both set up .venv first (seconds when done).

VENV    ?= .venv
BIN     := $(VENV)/bin
# An environment that is there keeps its Python, unless PYTHON names another. A new one takes the first of these that is
# here; 3.11 leads, since the engines' tests and all measured figures are of it.
PYTHONS := 3.11 3.12 3.13
version  = $(shell $(1) -c 'import sys; print(*sys.version_info[:2], sep=".")' 2>/dev/null)
PYTHON  ?= $(or $(wildcard $(BIN)/python),$(firstword $(foreach v,$(PYTHONS),$(if $(call version,python$(v)),python$(v)))))
WANTED  := $(call version,$(PYTHON))
LOCK    := cluster/requirements-cpu.txt
STAMP   := $(VENV)/.installed-$(WANTED)-$(shell cat $(LOCK) pyproject.toml | sha256sum | cut -c1-16)
# torch's CPU build: from the configured indexes when they have it, else from PyTorch's own.
TORCH   := $(shell grep '^torch==' $(LOCK))
TORCH_CPU_INDEX := https://download.pytorch.org/whl/cpu
# uv, where it is installed, else pip; UV= takes pip. uv reads none of pip's settings, so the common ones are told to it.
UV      := $(shell command -v uv)
ifneq ($(UV),)
  CREATE  := $(UV) venv --quiet --clear --seed --python $(PYTHON) $(VENV)
  INSTALL := $(UV) pip install --quiet --compile-bytecode --python $(BIN)/python --no-deps \
             $(addprefix --find-links ,$(PIP_FIND_LINKS)) $(addprefix --default-index ,$(PIP_INDEX_URL))
else
  CREATE  := $(PYTHON) -m venv --clear $(VENV)
  INSTALL := $(BIN)/python -m pip install -qq --no-deps
endif

export DS_BUILD_OPS := 0
export RAY_USAGE_STATS_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-unit test-engines test-base test-cluster test-full lint wheel bench-train chaos-train chaos-cluster bench-submit bench-quantize bench-clean bench-serve bench-finetune bench-rewards bench-tune bench-distill bench-layouts bench-continual bench-fleet bench-generate bench-prepare compare-methods gpu-check lock-cpu lock-gpu reference print-torch-index monitor clean

setup: $(STAMP)

$(STAMP):
	@test -n "$(filter $(PYTHONS),$(WANTED))" || { echo "Rayloom needs one of Python $(PYTHONS): install it, or name it with make PYTHON=/path/to/python" >&2; exit 1; }
	@test "$(call version,$(BIN)/python)" = "$(WANTED)" || $(CREATE) \
	  || { echo "Python $(WANTED) has no venv module here; on Debian: apt-get install python$(WANTED)-venv" >&2; exit 1; }
	@echo "Installing $$(grep -c == $(LOCK)) packages for Python $(WANTED) into $(VENV): a few minutes the first time, then seconds"
	@$(INSTALL) "pip==26.3"
	@$(INSTALL) "$(TORCH)" 2>$(VENV)/torch-1.log || $(INSTALL) --extra-index-url $(TORCH_CPU_INDEX) "$(TORCH)" 2>$(VENV)/torch-2.log \
	  || { cat $(VENV)/torch-1.log $(VENV)/torch-2.log; \
	       echo "$(TORCH) was found neither in the configured package indexes nor in $(TORCH_CPU_INDEX); the reasons stand above. Is the network there?"; exit 1; } >&2
	@$(INSTALL) --requirement $(LOCK)
	@$(INSTALL) --no-build-isolation --editable .
	@rm -f $(VENV)/.installed-* $(VENV)/torch-*.log
	@touch $@

demo: setup
	@mkdir -p .rayloom  # the store: here, every command finds it, from whichever folder of the repository it is called
	$(BIN)/rayloom run jobs/quickstart/pipeline.yaml
	@echo "Where your shell does not know rayloom: source $(BIN)/activate"

# ISA=AVX2 or ISA=AVX512_CORE: the instructions of an older processor, and with them its rounding.
ifdef ISA
export ONEDNN_MAX_CPU_ISA      := $(ISA)
export MKL_ENABLE_INSTRUCTIONS := $(if $(findstring AVX512,$(ISA)),AVX512,AVX2)
export ATEN_CPU_CAPABILITY     := $(if $(findstring AVX512,$(ISA)),avx512,avx2)
endif
PYTEST := $(BIN)/python -m pytest
# Unit tests share the cores, each worker of them with one thread; an engine's test wants all of them.
UNIT   := OMP_NUM_THREADS=1 $(PYTEST) tests/unit --dist worksteal -n $(shell cores=$$(nproc); echo $$((cores < 8 ? cores : 8)))

# Engines' tests in two halves side by side, since much of their time is waiting: their sum takes some 50 minutes on two
# cores. What asks SmolLM2 or a service is in the first, so that both are made once; training, searches and nodes are in
# the second. The lines of the first half follow those of the second. $(1): pytest's options.
HALF    := tests/integration/test_[a-s]*.py tests/gpu
OTHER   := tests/integration/test_[t-z]*.py tests/cluster
engines  = log=$$(mktemp); $(PYTEST) $(HALF) $(1) >$$log 2>&1 & half=$$!; other=0; $(PYTEST) $(OTHER) $(1) || other=$$?; \
           wait $$half || other=$$?; cat $$log; rm $$log; test $$other = 0

test: setup
	@echo "Unit tests, then real clusters and engines on small models; without the long ones (make test-full)"
	@unit=0; $(UNIT) -m "not full and not gpu" || unit=$$?; $(call engines,-m "not full and not gpu") && exit $$unit

test-unit: setup
	$(UNIT) -m "not full and not gpu"

test-engines: setup
	@$(call engines,-m "not full and not gpu")

test-cluster: setup
	$(PYTEST) tests/cluster

test-full: setup
	@unit=0; $(UNIT) -m "not gpu" --hypothesis-profile=full || unit=$$?; $(call engines,-m "not gpu") && exit $$unit

# Rayloom's wheel without the engines, in an environment of its own: what checks and explains job files needs none.
BASE := .venv-base
test-base: setup wheel
	$(BIN)/python -m venv --clear $(BASE)
	$(BASE)/bin/python -m pip install --quiet --constraint $(LOCK) dist/rayloom-*.whl pytest pytest-timeout
	$(BASE)/bin/python -m pytest --noconftest tests/base

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Tokens per second in bf16 and quantised, side by side; SAVE=1 keeps the result under tests/bench/results/.
bench-quantize: setup
	$(BIN)/python tests/bench/quantize.py $(if $(SAVE),--save)

# The data engine beside datatrove and dolma, which get environments of their own. MEGABYTES=1000 of text, PARTS=speed,cores,
# SAVE=1 keeps the result.
PEER := .venv-datatrove
$(PEER)/bin/python:
	$(PYTHON) -m venv $(PEER)
	$@ -m pip install --quiet "datatrove[io,processing]==0.10.1" spacy aiohttp requests

# What dolma imports, pinned; its own tokenizers are too old for the model's file. The folder is one that it looks for when
# it is imported and would fetch; nothing that runs here reads it.
DOLMA          := .venv-dolma
DOLMA_PACKAGES := dolma==1.2.1 anyascii==0.3.2 fasttext-wheel==0.9.2 fsspec==2023.6.0 joblib==1.4.2 click==8.1.8 \
                  msgspec==0.19.0 necessary==0.4.3 requirements-parser==0.11.0 packaging==24.2 nltk==3.9.1 numpy==1.26.4 \
                  omegaconf==2.3.0 antlr4-python3-runtime==4.9.3 platformdirs==4.3.8 pyyaml==6.0.2 regex==2024.11.6 rich==14.0.0 \
                  markdown-it-py==3.0.0 mdurl==0.1.2 pygments==2.19.2 smart-open==7.1.0 wrapt==1.17.2 \
                  tokenizers==0.23.3 tqdm==4.67.1 typing-extensions==4.14.0 uniseg==0.10.0 urllib3==2.5.0 zstandard==0.23.0
$(DOLMA)/bin/python:
	$(PYTHON) -m venv $(DOLMA)
	$@ -m pip install --quiet --no-deps $(DOLMA_PACKAGES)
	mkdir -p $(DOLMA)/nltk_data/tokenizers/punkt

bench-clean: setup $(PEER)/bin/python $(DOLMA)/bin/python
	$(BIN)/python tests/bench/clean.py --peer $(PEER)/bin/python --second-peer $(DOLMA)/bin/python $(if $(MEGABYTES),--megabytes $(MEGABYTES)) $(if $(PARTS),--parts $(PARTS)) $(if $(SAVE),--save)

# Our loop beside TRL, which gets an environment of its own over ours; SAVE=1 keeps the result.
TRL := .venv-trl
$(TRL)/bin/python: setup
	$(PYTHON) -m venv $(TRL)
	$@ -m pip install --quiet --no-deps "trl==1.16.0"
	cd $(VENV)/lib/python$(WANTED)/site-packages && pwd > $(CURDIR)/$(TRL)/lib/python$(WANTED)/site-packages/rayloom-peer.pth

bench-finetune: setup $(TRL)/bin/python
	$(BIN)/python tests/bench/finetune.py --peer $(TRL)/bin/python $(if $(SAVE),--save)

# Learning from rewards by GRPO, RLOO and PPO, and beside TRL; METHODS="grpo", SEEDS="0 1 2", PARTS="policies peer
# turned bf16 reward_model", SAVE=1 keeps the result.
bench-rewards: setup $(TRL)/bin/python
	$(BIN)/python tests/bench/rewards.py --peer $(TRL)/bin/python $(if $(PARTS),--parts $(PARTS)) $(if $(METHODS),--methods $(METHODS)) $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SAVE),--save)

# A store in S3 beside a folder, and its transfers beside public clients; PARTS="transfer chain", ROUNDS=3 of transfers,
# SAVE=1 keeps the result.
bench-fleet: setup
	$(BIN)/python tests/bench/fleet.py $(if $(PARTS),--parts $(PARTS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SAVE),--save)

# Generating beside vLLM's own offline engine, and the ROUGE-L filter among 100,000 rows; SAVE=1 keeps the result.
bench-generate: setup
	$(BIN)/python tests/bench/generate.py $(if $(SAVE),--save)

# What generated data are worth: Self-Instruct before and after, and a teacher's labels beside people's; PARTS="labels
# tasks", SAVE=1 keeps the result.
.PHONY: bench-generated-data
bench-generated-data: setup
	$(BIN)/python tests/bench/generated_data.py $(if $(PARTS),--parts $(PARTS)) $(if $(SAVE),--save)

# General, domain, task: with and without the middle, at 100, 500 and all labels; SAVE=1 keeps the result.
.PHONY: bench-stages
bench-stages: setup
	$(BIN)/python tests/bench/stages.py $(if $(SAVE),--save)

# Rows prepared beside datasets.map and TRL, on the same text; ROWS=100000 for fewer, PEER_ROWS=20000 for fewer of theirs,
# PARTS=datasets_map,trl,turns,plans,starts, SAVE=1 keeps the result.
bench-prepare: setup $(TRL)/bin/python
	$(BIN)/python tests/bench/prepare.py --peer $(TRL)/bin/python $(if $(ROWS),--rows $(ROWS)) $(if $(PEER_ROWS),--peer-rows $(PEER_ROWS)) $(if $(PARTS),--parts $(PARTS)) $(if $(SAVE),--save)

# Pages over 5,000 artifacts and a million rows, and the first page over a bucket: seconds and memory; with Chromium and
# AXE_CORE=…/axe.min.js (of npm's axe-core) also what axe finds; PARTS="pages s3", SAVE=1 keeps the result.
.PHONY: bench-ui
bench-ui: setup
	$(BIN)/python tests/bench/ui.py $(if $(PARTS),--parts $(PARTS)) $(if $(SAVE),--save)

# Asked by a prompt beside lm-evaluation-harness, which gets an environment of its own over ours; ROWS=200, SHOWN=8, SAVE=1
# keeps the result.
HARNESS := .venv-lm-eval
$(HARNESS)/bin/python: setup
	$(PYTHON) -m venv $(HARNESS)
	$@ -m pip install --quiet --no-deps "lm-eval==0.4.13" evaluate==0.4.6 pytablewriter sqlitedict word2number more-itertools DataProperty mbstrdecoder pathvalidate tabledata tcolorpy typepy
	cd $(VENV)/lib/python$(WANTED)/site-packages && pwd > $(CURDIR)/$(HARNESS)/lib/python$(WANTED)/site-packages/rayloom-peer.pth

.PHONY: bench-prompted
bench-prompted: setup $(HARNESS)/bin/python
	$(BIN)/python tests/bench/prompted.py --peer $(HARNESS)/bin/python $(if $(ROWS),--rows $(ROWS)) $(if $(SHOWN),--shown $(SHOWN)) $(if $(SAVE),--save)

# One task at 0, 16, 100 and 1,000 rows: prompts, the prompt trained, heads of their own; SAVE=1 keeps the result.
.PHONY: bench-few-rows
bench-few-rows: setup
	$(BIN)/python tests/bench/few_rows.py $(if $(SAVE),--save)

# What a search costs and what ASHA saves; SAVE=1 keeps the result.
bench-tune: setup
	$(BIN)/python tests/bench/tune.py $(if $(SAVE),--save)

# A student with and without a teacher: how much of the gap it makes up for, and what a step costs; PARTS=step for that
# alone, SAVE=1 keeps the result.
bench-distill: setup
	$(BIN)/python tests/bench/distill.py $(if $(PARTS),--parts $(PARTS)) $(if $(SAVE),--save)

# All axes of parallelism on two workers against data parallelism, tensors' also against DTensors; SAVE=1 keeps the result.
bench-layouts: setup
	$(BIN)/python tests/bench/layouts.py $(if $(SAVE),--save)

# Three tasks one after the other: what plain training forgets, and every way to retain; BASE=smollm2 for
# another model of the store, SAVE=1 keeps the result.
bench-continual: setup
	$(BIN)/python tests/bench/continual.py $(if $(BASE),--base $(BASE)) $(if $(SAVE),--save)

# Nine fine-tuning methods on one data set; needs `minilm` and `movie-reviews` in the store (jobs/recipes/imports).
compare-methods: setup
	$(BIN)/python tests/bench/compare_methods.py --page compare-methods.html $(if $(SAVE),--save)

# Training against a bare PyTorch loop and Hugging Face's Trainer, in one process; SAVE=1 keeps the result.
bench-train: setup
	$(BIN)/python tests/bench/train.py $(if $(SAVE),--save)

# Training killed at random steps, a worker or the whole command; every loss must be as if nothing had happened.
chaos-train: setup
	$(BIN)/python tests/chaos/train.py --seeds $(or $(SEEDS),10)

# Learning from rewards: its engine, its trainer and its command killed at random moments; answers, rewards and losses must be
# as if nothing had happened. KILLS=3 for fewer.
.PHONY: chaos-rewards
chaos-rewards: setup
	$(BIN)/python tests/chaos/rewards.py --kills $(or $(KILLS),10)

# Nodes, networks, workers and the head of a cluster lost while it works, and what became of the work; as root, nodes have
# networks of their own to cut. FAULTS="node_killed network_cut" tries only these.
chaos-cluster: setup
	$(BIN)/python tests/chaos/cluster.py $(if $(FAULTS),--only $(FAULTS))

# What only a GPU can show, in twelve minutes on one H100 or H200; without one, its small form on the CPU. ONLY="lora gptq"
# runs these steps, SAVE=1 keeps the result. Where there is no network: python tests/gpu/check.py, with any Python that
# has torch, transformers, pydantic, pyyaml, fsspec, rich and psutil.
gpu-check: setup
	$(BIN)/python tests/gpu/check.py $(if $(ONLY),--only "$(ONLY)") $(if $(SAVE),--save)

# Seconds from `rayloom submit` to the job's first line, and of `jobs list` with a hundred jobs; SAVE=1 keeps the result.
bench-submit: setup
	$(BIN)/python tests/bench/submit.py $(if $(SAVE),--save)

# What --help, check and explain take beside Python with pydantic; SAVE=1 keeps the result.
.PHONY: bench-startup
bench-startup: setup
	$(BIN)/python tests/bench/startup.py $(if $(SAVE),--save)

# CPU seconds that a training takes to start, by process, beside bare Ray Train and DeepSpeed; ROUNDS=3, SAVE=1 keeps the
# result.
.PHONY: bench-training-start
bench-training-start: setup
	$(BIN)/python tests/bench/training_start.py $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SAVE),--save)

# The endpoint beside bare vLLM's own server; PARTS=gateway,tuned,caches,scale, ROUNDS=5, SAVE=1 keeps the result.
bench-serve: setup
	$(BIN)/python tests/bench/serve.py $(if $(PARTS),--parts $(PARTS)) $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(SAVE),--save)

# The pages and schemas of jobs/reference, written anew from the specs.
reference: setup
	$(BIN)/rayloom schema --output jobs/reference
	$(BIN)/rayloom schema --markdown --output jobs/reference

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

# The package as one file that installs elsewhere, with the job files and the locks inside.
wheel: setup
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

clean:
	rm -rf $(VENV) $(BASE) $(PEER) $(DOLMA) $(TRL) .rayloom build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
