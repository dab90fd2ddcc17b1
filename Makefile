# The whole of setting up, showing, testing and measuring Headstart. Needs python3, make and git.
BIN := .venv/bin
CODE := src predictor/src tests tools bench
export UV_LINK_MODE ?= hardlink
# A file's tests stay together: they share what is slow to make.
PYTEST := $(BIN)/pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo test quick check bench bench-gpu docs wheels lock clean

setup: .venv/.complete

.venv/.complete: requirements.txt requirements-dev.txt pyproject.toml predictor/pyproject.toml tools/bootstrap.py
	python3 tools/bootstrap.py
	touch $@

demo: setup            ## compare four networks on a sample of CIFAR-10, end with a report and a model
	$(BIN)/headstart compare demo

test: setup            ## every test that this machine can run
	$(PYTEST)

# What needs no weights, no training and no process of its own: docs, recipes, data, statistics, text.
QUICK := captions data_decode data_layout data_splits docs metrics names recipe report_text rundir

quick: setup           ## format, lint, types and the fast tests: within a minute
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/mypy
	$(BIN)/pytest -q $(QUICK:%=tests/unit/test_%.py)

check: setup           ## format, lint, types, tests
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(PYTEST)

bench: setup           ## the numbers that README and docs quote
	$(BIN)/python bench/two_phase.py
	$(BIN)/python bench/extraction.py
	$(BIN)/python bench/heads.py
	$(BIN)/python bench/scale.py
	$(BIN)/python bench/checks.py
	$(BIN)/python bench/serving.py

bench-gpu: setup       ## what a CUDA device gives
	$(BIN)/python bench/gpu.py

docs: setup            ## the generated pages
	$(BIN)/python tools/build_docs.py

wheels: setup          ## what others install: headstart, and headstart-predict, which it needs
	python3 tools/bootstrap.py --wheels

lock: setup            ## pin every dependency, with hashes and without addresses
	$(BIN)/python tools/bootstrap.py --lock

clean:
	rm -rf .venv .tools .cache .mypy_cache .pytest_cache .ruff_cache
