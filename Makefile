# Needs make and Python 3.11 or newer with its venv module. Everything else is installed into .venv from the package
# index, once; it is installed again when pyproject.toml changes.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/sh

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help check-python venv demo test test-slow kills sanitize fuzz lint format bench bench-tables bench-step docs-tour clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed-demo ## train on a real table (breast cancer), and say where the report is
	@$(BIN)/python examples/write_breast_cancer.py demo/breast_cancer.csv
	$(BIN)/chainrule train demo/breast_cancer.csv --target diagnosis --out demo/run --force
	@echo
	@echo "The report: $(CURDIR)/demo/run/report.html"

test: $(VENV)/.installed-test ## run the tests, without those marked slow, in as many processes as there are cores
	$(BIN)/python -m pytest -n auto --dist worksteal

test-slow: $(VENV)/.installed-test ## run the tests marked slow
	$(BIN)/python -m pytest -m slow

kills: $(VENV)/.installed-test ## kill a training 100 times at random moments, resume it, and compare the weights
	$(BIN)/python -m pytest -m slow tests/train/test_kills.py

sanitize: $(VENV)/.installed-test ## run generated C and the worker threads under gcc's or clang's sanitizers
	$(BIN)/python -m pytest -m "slow or not slow" tests/engines/cpu -k "sanitize"

fuzz: $(VENV)/.installed-test ## compare random programs and networks on the cpu engine with the reference engine, each for FUZZ_SECONDS (60)
	$(BIN)/python -m pytest -s -m slow tests/engines/cpu/test_fuzz.py tests/engines/cpu/test_random_networks.py

lint: $(VENV)/.installed-lint ## check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-lint ## format the sources and fix what can be fixed without thinking
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-bench ## time training steps against PyTorch, JAX, TensorFlow and scikit-learn
	$(BIN)/python -m bench

bench-tables: $(VENV)/.installed-test ## compare default training with scikit-learn on its bundled tables
	$(BIN)/python -m bench.tables

bench-step: $(VENV)/.installed-test ## time a training step against NumPy written by hand
	$(BIN)/python -m bench.numpy_step

docs-tour: $(VENV)/.installed-demo ## run the tour, from a scalar product to a trained network
	$(BIN)/python docs/tour.py

venv: $(VENV)/.installed-dev ## set up .venv with everything that development needs

clean: ## remove what was generated, but not .venv
	rm -rf demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# --- the virtual environment: one stamp per set of optional dependencies ---

EXTRAS_demo := tables,demo
EXTRAS_test := test
EXTRAS_lint := tables,lint
EXTRAS_bench := bench
EXTRAS_dev := dev

$(VENV)/.installed-%: pyproject.toml | $(BIN)/python
	@echo "Installing chainrule[$(EXTRAS_$*)] into $(VENV) (a minute or more, the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[$(EXTRAS_$*)]'
	@touch $@

$(BIN)/python:
	@$(MAKE) --no-print-directory check-python
	@$(PYTHON) -m venv $(VENV)

check-python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Chainrule needs Python 3.11 or newer, and '$(PYTHON)' is not; say which to use: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "'$(PYTHON)' lacks the venv module; on Debian and Ubuntu it is installed with: sudo apt install python3-venv" >&2; \
	  exit 1; }
