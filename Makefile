# `make` alone lists the targets. Everything happens in .venv; nothing outside this folder is touched.
PYTHON ?= python3
# The CPU build; for a GPU: make TORCH="torch" test
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-dev

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check docs clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(STAMP) ## create .venv with the library and its tools (about 2 minutes)

$(STAMP): pyproject.toml
	@echo "Setting up $(VENV) (about 2 minutes the first time, torch first) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/pip install --quiet "$(TORCH)"
	@$(BIN)/pip install --quiet -e ".[dev]"
	@touch $@

demo: $(STAMP) ## draw X-rays, write a report, show both in demo/index.html (about 20 seconds)
	@$(BIN)/unix-cxr demo --out demo

test: $(STAMP) ## the tests that are not marked slow (under 5 minutes on two cores)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

test-all: $(STAMP) ## every test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

check: $(STAMP) ## lint, format, types, direction of imports, examples
	@PATH="$(CURDIR)/$(BIN):$$PATH" scripts/check

docs: $(STAMP) ## build the documentation into docs/_build
	@$(BIN)/pip install --quiet -e ".[docs]"
	@$(BIN)/sphinx-build -W -q docs docs/_build

clean: ## remove what the targets made
	rm -rf $(VENV) build dist docs/_build demo
