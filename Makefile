# `make` alone lists the targets. `demo` and `test` need nothing but python3 (3.11 or newer, with venv) and make;
# a C++20 compiler makes everything faster.
SHELL := /bin/bash
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
# Tests start hundreds of processes; where images forbid it, each would compile every module it imports.
unexport PYTHONDONTWRITEBYTECODE

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Three workers on two cores, because tests of real processes wait most of their time; a file stays with one worker. Files
# come in the order of conftest.py, not sorted by their number of tests: a long one would be left for the end.
WORKERS ?= -n 3 --dist loadfile --no-loadscope-reorder
# More arguments for pytest: make test PYTEST_ARGS="-k refresh"
PYTEST_ARGS ?=
# Whose results depend on which kernels run: what is shared, combined, masked, checked and repaired. Those of tests/kernels
# take every path in turn by themselves; formats, names, policies and the order of steps are the same on all.
KERNEL_TESTS = $(patsubst %,tests/vault/test_%.py,amd audit deal_commitments key_shares losses_and_liars pads repair \
	roundtrip seals)

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

.PHONY: setup
setup: ## everything a developer needs, in .venv
	@scripts/setup.sh dev

.PHONY: demo
demo: ## five sites on this machine: store a file, lose two sites, catch a liar, get the file back
	@scripts/setup.sh run
	@$(BIN)/shosoin demo

# First the layers that call kernels, on the reference kernels; then everything, on the best kernels this machine has.
.PHONY: test
test: setup ## the whole suite, twice for what the kernels carry
	SHOSOIN_KERNELS=reference $(PYTEST) -q $(WORKERS) -m "not processes and not slow and not any_kernels" $(KERNEL_TESTS)
	$(PYTEST) $(WORKERS) $(PYTEST_ARGS)

SEEDS ?= 200
# More for the simulation: make soak SOAK_ARGS="--repairs --start 1000"
SOAK_ARGS ?=
.PHONY: soak
soak: setup ## SEEDS=N simulated clouds with faults and liars; SEED=s replays one and tells its story
	$(BIN)/python -m shosoin.testing.simulation --jobs 2 --class-changes $(SOAK_ARGS) --seeds $(SEEDS) \
		$(if $(SEED),--seed $(SEED) --shrink)

.PHONY: soak-keys
soak-keys: setup ## SEEDS=N simulated pairs of KMEs with faults; SEED=s replays one and tells its story
	$(BIN)/python -m shosoin.testing.key_simulation --jobs 2 $(SOAK_ARGS) --seeds $(SEEDS) \
		$(if $(SEED),--seed $(SEED) --story --shrink)

.PHONY: mutants
mutants: setup ## deliberate mistakes in the vault, and the seed, plan or attack that catches each
	@$(BIN)/python -m tests.mutants

.PHONY: check
check: setup ## formatting, lint, types, layers, docs
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	cd bench && ../$(BIN)/mypy --config-file ../pyproject.toml *.py
	for folder in examples/*/; do (cd $$folder && ../../$(BIN)/mypy --config-file ../../pyproject.toml *.py) || exit 1; done
	$(BIN)/lint-imports --no-logo
	$(BIN)/python scripts/check_docs.py

.PHONY: format
format: setup ## format the code, and mend what lint can mend
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.PHONY: bench
bench: setup ## all of bench/, or ONLY=name: JSON lines on stdout, a table on stderr
	@$(BIN)/python -c 'import ldpc' 2>/dev/null || $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --no-deps --require-hashes --requirement requirements/peers.txt >&2
	@$(BIN)/python bench/run.py $(ONLY)

.PHONY: secrecy
secrecy: setup ## every coalition against every protocol, on symbols (SECRECY_ARGS="--answers 16 --json")
	@$(BIN)/python scripts/secrecy.py $(SECRECY_ARGS)

.PHONY: fuzz
fuzz: setup ## atheris on every parser of outside bytes for SECONDS=60 each, or on ONLY=name
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --no-deps --require-hashes --requirement requirements/fuzz.txt
	@$(BIN)/python -m fuzz.run $(or $(SECONDS),60) $(ONLY)

.PHONY: fuzz-014
fuzz-014: setup ## requests made from our OpenAPI file for ETSI GS QKD 014, for SECONDS=60, against two real KMEs
	@$(BIN)/python -m fuzz.etsi014_requests $(or $(SECONDS),60) $(SEED)

.PHONY: rounds
rounds: setup ## ROUNDS=300 of kills, full disks and lies under load on real processes, SEED=number to repeat one
	@$(BIN)/python -m tests.e2e.rounds $(or $(ROUNDS),300) $(SEED)

.PHONY: rounds-keys
rounds-keys: setup ## ROUNDS=500 of kill -9 of either KME under load, SEED=number to repeat one
	@$(BIN)/python -m tests.e2e.key_rounds $(or $(ROUNDS),500) $(SEED)

.PHONY: sanitize
sanitize: setup ## the kernel tests on a build with address and undefined-behaviour sanitizers
	scripts/sanitize.sh tests/kernels

.PHONY: aarch64
aarch64: ## the portable kernels built for aarch64, their self-test under QEMU (g++-aarch64-linux-gnu, qemu-user)
	@mkdir -p build
	aarch64-linux-gnu-g++ -std=c++20 -O2 -Wall -Wextra -static -Inative \
		native/dispatch.cpp native/portable.cpp native/sifting_portable.cpp native/toeplitz_portable.cpp \
		native/key_ids.cpp native/selftest.cpp -o build/selftest-aarch64
	qemu-aarch64 build/selftest-aarch64

.PHONY: lock
lock: ## new versions into requirements/, with hashes
	scripts/lock.sh

.PHONY: clean
clean: ## remove what was built, .venv included
	rm -rf .venv .venv.lock __pycache__ build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests bench scripts fuzz examples -name __pycache__ -prune -exec rm -rf {} +
