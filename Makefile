# One command each. The first one that runs sets up .venv, once; PYTHON names the interpreter to build it from.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PYTEST := $(BIN)/python -m pytest

.PHONY: train test check board proofs clean

train: $(READY)   ## the quickstart recipe, to its end
	@$(BIN)/selfplay train quickstart

test: $(READY)    ## every test but the long proofs; what takes time is compiling, so XLA does without its slow passes and emitters
	@JAX_DISABLE_MOST_OPTIMIZATIONS=1 XLA_FLAGS=--xla_cpu_use_fusion_emitters=false $(PYTEST) -n auto --maxprocesses 4 --dist loadfile

check: $(READY)   ## lint, types, and the direction of imports
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(PYTEST) tests/test_imports.py

board: $(READY)   ## the curves of all runs, in a browser
	@$(BIN)/tensorboard --logdir runs

proofs: $(READY)  ## the long forms of the slow proofs
	@$(PYTEST) -m proof

clean:            ## everything that was made, but the runs
	@rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) must be Python 3.11 or newer" >&2; exit 1; }
	@echo "setting up $(VENV), once"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
