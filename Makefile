# `make book` and `make test` set everything up the first time; nothing but Python 3.11 or newer is needed.
.DEFAULT_GOAL := help
.PHONY: help setup book pdf test lint notebooks lock clean
.DELETE_ON_ERROR:
SHELL := /bin/bash

PROFILE ?= demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.serlib-setup

help:
	@echo "make book       set up, make the demo corpus, run every chapter, render the site   (PROFILE=smoke|demo|open|full)"
	@echo "make pdf        print the notebooks of book/ to one PDF, without executing anything (needs Chromium)"
	@echo "make test       set up and run the tests"
	@echo "make lint       ruff and codespell"
	@echo "make notebooks  run the demo tier and write each chapter's .ipynb beside its .py"
	@echo "make lock       resolve pyproject.toml anew and write constraints.txt"
	@echo "make clean      remove the built site and caches; .venv and the results in ~/.cache/serlib stay"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1 || true)." >&2; \
	  echo "Install one and name it: make setup PYTHON=python3.12" >&2; exit 1; }
	@if [ -x $(BIN)/python ] && ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "error: $(VENV) holds an old or broken Python; remove the folder and run make again." >&2; exit 1; fi
	@[ -x $(BIN)/pip ] || $(PYTHON) -m venv $(VENV) || { \
	  echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu install python3-venv." >&2; exit 1; }
	@echo "Installing into $(VENV): about 6 GB, some minutes the first time."
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[book,dev]'
	@touch $@

book: setup
	$(BIN)/serlib demo corpus
	$(BIN)/serlib book --profile $(PROFILE)

pdf: setup
	$(BIN)/serlib site --shipped --pdf

test: setup
	$(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/codespell

# From an empty folder of results, so that the minutes in the notebooks are those of a first run.
notebooks: export SERLIB_HOME = $(CURDIR)/_build/home
notebooks: setup
	rm -rf $(SERLIB_HOME)
	$(BIN)/jupytext --quiet --to py:percent book/[0-9][0-9]_*.py
	$(BIN)/serlib demo corpus
	$(BIN)/serlib book --profile demo --no-site
	$(BIN)/serlib manifest get emodb
	$(BIN)/serlib manifest get ravdess
	$(BIN)/serlib run 09 --shipped
	$(BIN)/serlib pair

# A fresh environment, so that nothing installed by hand gets in.
lock:
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && \
	$(PYTHON) -m venv "$$tmp/venv" && "$$tmp/venv/bin/pip" install --quiet -e '.[book,dev,pretrain]' && \
	{ sed -n '/^#/p' constraints.txt; \
	  "$$tmp/venv/bin/pip" list --format=freeze --exclude-editable --exclude pip | tr 'A-Z_' 'a-z-' | LC_ALL=C sort; \
	} > "$$tmp/lock" && cp "$$tmp/lock" constraints.txt
	@echo "constraints.txt written; add by hand what only other Python versions need (see tests/test_packaging.py)"

clean:
	rm -rf _build build dist .pytest_cache .ruff_cache *.egg-info
	find serlib tests book -name __pycache__ -type d -prune -exec rm -rf {} +
