# Two commands do all the set-up: `make repro` runs the pipeline, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: repro extras test test-long lint lock clean help

help:            ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

repro: $(VENV)/.run            ## set up, then run the pipeline on the embedded dataset
	$(BIN)/dvc repro

extras: $(VENV)/.extras            ## set up, then install what is optional: S3, ONNX, FAISS, Dask, sweeps

test: $(VENV)/.dev            ## set up, then lint, check types and run every test
	$(MAKE) lint
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

test-long: $(VENV)/.dev            ## run the tests that take minutes and are not part of `make test`
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m long

lint: $(VENV)/.dev            ## ruff, mypy and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# DVC runs the stages' `python` from PATH: put the environment first, whoever calls make.
export PATH := $(abspath $(BIN)):$(PATH)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# The last line installs its packages and no others: sweeps asks for a numpy that it does not need.
$(VENV)/.extras: requirements-extras.lock requirements-sweep.lock $(VENV)/.run
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-extras.lock
	$(BIN)/python -m pip install --quiet --require-hashes --no-deps -r requirements-sweep.lock
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.extras
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements-dev.lock
	@touch $@

# The locks hold versions and hashes, and name no package index. Versions stay as they are, except
# where pyproject.toml wants others; `make lock UPGRADE="scipy numpy"` takes the newest of these.
LOCK = uv pip compile --quiet --universal --python-version 3.11 $(UPGRADE:%=--upgrade-package %) \
       --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
# Their versions decide bytes: a stage declares those that it uses.
NUMERIC := numpy|scipy|scikit-learn|pillow|pyarrow|onnxruntime|faiss-cpu
lock:            ## resolve pyproject.toml again (needs uv), and note what computes bytes
	$(LOCK) pyproject.toml --group build -o requirements.lock
	$(LOCK) pyproject.toml --extra s3 --extra onnx --extra faiss --extra dask -c requirements.lock -o requirements-extras.lock
	$(LOCK) --group dev -c requirements-extras.lock -o requirements-dev.lock
	$(LOCK) --group sweep -c requirements-extras.lock -o requirements-sweep.lock
	@echo '# Written by `make lock`: the libraries that compute what the stages write.' > libraries.yaml
	sed -nE 's/^($(NUMERIC))==([^ ]+).*/\1: "\2"/p' requirements-extras.lock >> libraries.yaml

clean:            ## remove the environment (the pipeline's outputs stay)
	rm -rf $(VENV)
