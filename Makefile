# Two commands do all the set-up: `make repro` runs the pipeline, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: repro test lint lock clean help

help:            ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

repro: $(VENV)/.run            ## set up, then run the pipeline on the embedded dataset
	$(BIN)/dvc repro

test: $(VENV)/.dev            ## set up, then lint, check types and run every test
	$(MAKE) lint
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

lint: $(VENV)/.dev            ## ruff, mypy and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# DVC runs the stages' `python` from PATH: put the environment first, whoever calls make.
export PATH := $(CURDIR)/$(BIN):$(PATH)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run $(VENV)/.sweep
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

# Its packages and no others: sweeps asks for a numpy that it does not need.
$(VENV)/.sweep: requirements-sweep.lock $(VENV)/.run
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements-sweep.lock
	@touch $@

# The locks hold versions and hashes, and name no package index.
LOCK := uv pip compile --quiet --universal --python-version 3.11 \
        --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
lock:            ## resolve pyproject.toml anew (needs uv)
	$(LOCK) pyproject.toml --group build -o requirements.lock
	$(LOCK) pyproject.toml --group dev --extra s3 --extra onnx --extra faiss --extra dask -c requirements.lock -o requirements-dev.lock
	$(LOCK) --group sweep -c requirements.lock -o requirements-sweep.lock

clean:            ## remove the environment (the pipeline's outputs stay)
	rm -rf $(VENV)
