# Two commands do all the set-up: `make repro` runs the pipeline, `make test` runs the tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: repro extras test test-long lint debian lock clean help

help:            ## list the targets
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/'

repro: $(VENV)/.run            ## set up, then run the pipeline on the embedded dataset
	$(BIN)/dvc repro

extras: $(VENV)/.extras            ## set up, then install what is optional: S3, ONNX, weights, FAISS, Dask

test:            ## set up, then lint, check types and run every test but the long ones
	$(MAKE) --jobs 2 $(VENV)/.dev debian
	$(MAKE) --jobs 2 lint $(VENV)/.compiled
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

test-long: $(VENV)/.dev            ## run the tests that take minutes and are not part of `make test`
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile -m long

lint: $(VENV)/.dev            ## ruff, mypy and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# DVC runs the stages' `python` from PATH: put the environment first, whoever calls make.
export PATH := $(abspath $(BIN)):$(PATH)
# Images for containers often set this. Each process would then compile every library again.
unexport PYTHONDONTWRITEBYTECODE

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Each lock is whole. What pip installs is compiled when it is first imported, if it ever is.
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --require-hashes
ITSELF := $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .

$(VENV)/.run: requirements.lock pyproject.toml | $(BIN)/python
	$(INSTALL) -r requirements.lock
	$(ITSELF)
	@touch $@

$(VENV)/.extras: requirements-extras.lock pyproject.toml | $(BIN)/python
	$(INSTALL) -r requirements-extras.lock
	$(ITSELF)
	@touch $@ $(VENV)/.run

$(VENV)/.dev: requirements-dev.lock pyproject.toml | $(BIN)/python
	$(INSTALL) -r requirements-dev.lock
	$(ITSELF)
	@touch $@ $(VENV)/.run $(VENV)/.extras

# Before the tests, once: else their processes compile the same libraries side by side.
$(VENV)/.compiled: $(VENV)/.dev
	-$(BIN)/python -m compileall -q --workers 0 $(VENV)/lib >/dev/null
	@touch $@

# A browser that renders the pages, and an emulator of another processor.
debian:
	@if command -v chromium >/dev/null && command -v qemu-x86_64 >/dev/null; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium qemu-user >/dev/null; \
	else echo "Tests of pages and of another processor are skipped: they need Debian's chromium and qemu-user."; fi

# The locks hold versions and hashes, and name no package index. Versions stay as they are, except
# where pyproject.toml wants others; `make lock UPGRADE="scipy numpy"` takes the newest of these.
LOCK = uv pip compile --quiet --universal --python-version 3.11 $(UPGRADE:%=--upgrade-package %) \
       --generate-hashes --no-emit-index-url --no-emit-find-links --no-header
# Their versions decide bytes: a stage declares those that it uses.
NUMERIC := numpy|scipy|scikit-learn|pillow|pillow-heif|pyarrow|onnxruntime|faiss-cpu
lock:            ## resolve pyproject.toml again (needs uv), and note what computes bytes
	$(LOCK) pyproject.toml --group build -o requirements.lock
	$(LOCK) pyproject.toml --all-extras --group build -c requirements.lock -o requirements-extras.lock
	$(LOCK) pyproject.toml --all-extras --group dev -c requirements-extras.lock -o requirements-dev.lock
	@echo '# Written by `make lock`: the libraries that compute what the stages write.' > libraries.yaml
	sed -nE 's/^($(NUMERIC))==([^ ]+).*/\1: "\2"/p' requirements-extras.lock >> libraries.yaml

clean:            ## remove the environment (the pipeline's outputs stay)
	rm -rf $(VENV)
