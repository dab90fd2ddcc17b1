# The whole of setting up, showing, testing and measuring Headstart. Needs python3, make and git.
BIN := .venv/bin
export UV_LINK_MODE ?= hardlink
# A file's tests stay together: they share what is slow to make.
PYTEST := $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test quick check bench bench-gpu docs lock clean

setup: .venv/.complete

.venv/.complete: requirements.txt requirements-dev.txt pyproject.toml tools/bootstrap.py
	python3 tools/bootstrap.py
	touch $@

demo: setup            ## compare four networks on a sample of CIFAR-10, end with a report and a model
	$(BIN)/headstart compare demo

test: setup            ## every test that this machine can run
	$(PYTEST)

# What needs no weights, no training and no process of its own: docs, recipes, data, statistics, text.
QUICK := captions data_decode data_layout data_splits docs metrics names recipe report_text rundir

quick: setup           ## format, lint, types and the fast tests: within a minute
	$(BIN)/ruff format src tests tools bench
	$(BIN)/ruff check --fix src tests tools bench
	$(BIN)/mypy
	$(BIN)/pytest -q $(QUICK:%=tests/unit/test_%.py)

check: setup           ## format, lint, types, tests
	$(BIN)/ruff format --check src tests tools bench
	$(BIN)/ruff check src tests tools bench
	$(BIN)/mypy
	$(PYTEST)

bench: setup           ## the numbers that README and docs quote
	$(BIN)/python bench/two_phase.py
	$(BIN)/python bench/extraction.py
	$(BIN)/python bench/heads.py
	$(BIN)/python bench/scale.py

bench-gpu: setup       ## what a CUDA device gives
	$(BIN)/python bench/gpu.py

docs: setup            ## the generated pages
	$(BIN)/python tools/build_docs.py

lock: setup            ## pin every dependency, with hashes and without addresses
	$(BIN)/python tools/bootstrap.py --lock

clean:
	rm -rf .venv .tools .cache .mypy_cache .pytest_cache .ruff_cache
