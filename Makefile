# make run, make test, make check: each first makes .venv if it is not there or pyproject.toml or the car's C++ has changed.
PYTHON ?= python3
# What pip is asked for. Where plain pip would fetch a CUDA build, take the CPU one from PyTorch's own index:
#   make TORCH='torch --index-url https://download.pytorch.org/whl/cpu'
TORCH ?= torch==2.13.0
ARGS ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help run test check bench clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml car/pyproject.toml car/setup.py $(wildcard car/src/drivefoundry_car/*/*.cpp car/src/drivefoundry_car/*/*.h)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	$(BIN)/pip install --quiet --editable car --editable '.[dev]'
	touch $@

run: $(READY)  ## the whole loop on the embedded fleet, into out/ (ARGS='--recipe tiny' for a short one)
	$(BIN)/drivefoundry run $(ARGS)

test: $(READY)  ## all tests
	$(BIN)/pytest $(ARGS)

check: $(READY)  ## lint, format, import order, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright

bench: $(READY)  ## the tiny loop, killed twice: one JSON line of seconds, bytes and scores
	$(BIN)/python -m benchmarks.e2e $(ARGS)

clean:  ## remove runs, builds and caches; .venv stays
	rm -rf out build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src car tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
