# make run, make test, make check: each first makes .venv if it is not there, or if dependencies or the car's C++ changed.
PYTHON ?= python3
# What pip is asked for. Where plain pip would fetch a CUDA build, name PyTorch's own index of CPU builds:
#   make TORCH='torch --index-url URL'
TORCH ?= torch==2.13.0
# Dependencies are pinned and hashed in constraints/ for the platforms that have a file there; `make LOCK=` installs from
# the ranges of pyproject.toml instead.
ARGS ?=
GROUPS ?=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help run test check bench interop lock clean
.DEFAULT_GOAL := help

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml car/pyproject.toml car/setup.py $(wildcard constraints/*.txt) $(wildcard $(addprefix car/src/drivefoundry_car/,*/*.cpp */*.h */*/*.cpp */*/*.h))
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH)
	lock="$${LOCK-$$($(BIN)/python tools/lock.py find)}"; \
	if [ -n "$$lock" ]; then \
		$(BIN)/pip install --quiet --require-hashes --no-deps --requirement "$$lock" && \
		$(BIN)/pip install --quiet --no-deps --editable car --editable .; \
	else \
		$(BIN)/pip install --quiet --editable car --editable '.[dev]'; \
	fi
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

interop: $(READY)  ## the tests that need an extra, each group of extras in an environment of its own (GROUPS='ray sumo')
	$(BIN)/python tools/interop.py --torch '$(TORCH)' $(GROUPS)

lock: $(READY)  ## pin and hash all dependencies for this platform and Python, in constraints/
	$(BIN)/python tools/lock.py write $(TORCH) --editable car --editable '.[dev]'

clean:  ## remove runs, builds and caches; .venv stays
	rm -rf out build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src car tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
