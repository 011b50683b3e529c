# sandfleet's tasks. `make` alone shows them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
# The virtual environment's programs first; Node.js may be among them.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# The stages of the tests, in the order in which they find faults fastest.
STAGES := unit properties simulation integration vm acceptance
# These mostly wait for servers of their own, so they run side by side, each file in one process.
SIDE_BY_SIDE_integration := --numprocesses 4 --dist loadfile --no-loadscope-reorder
# Guests have one CPU each: two files at a time keep a small machine busy.
SIDE_BY_SIDE_vm := --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z][a-z-]*:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

.PHONY: setup
setup: ## Install everything needed (QEMU 10, Python packages, guest image); start nothing
	@tools/setup.sh

.PHONY: demo
demo: ## Set up, start a one-machine fleet and take a narrated tour of it
	@tools/setup.sh
	@$(BIN)/sandfleet demo

.PHONY: test
test: ## Set up and run all tests, stage by stage
	@tools/setup.sh --with-node
	@$(foreach stage,$(STAGES), \
		[ -z "$$(find tests/$(stage) -name 'test_*.py' 2> /dev/null)" ] || { \
		printf '\n== tests/%s\n' "$(stage)"; \
		$(BIN)/python -m pytest -q tests/$(stage) $(SIDE_BY_SIDE_$(stage)); }; )

.PHONY: check
check: ## Check format, style, types, imports and shape of the code
	@[ -x $(BIN)/python ] || tools/setup.sh --check-only
	@failed=; \
	for tool in "ruff format --check --quiet ." "ruff check ." "mypy" "lint-imports" "python -m tools.check_shape"; do \
		printf '\n== %s\n' "$$tool"; \
		$(BIN)/$$tool || failed="$$failed, $$tool"; \
	done; \
	[ -z "$$failed" ] || { printf '\nfailed: %s\n' "$${failed#, }" >&2; exit 1; }

.PHONY: docs
docs: ## Write the pages that are made from the code (states, settings, commands, errors)
	@$(BIN)/python -m tools.draw_states
	@$(BIN)/python -m tools.write_reference

.PHONY: chaos
chaos: ## Run the long tests: ten minutes of random faults, every fault at every step, 200 sandboxes, 100 forks
	@tools/setup.sh --with-node
	@$(BIN)/python -m sandfleet.testing.simulate --start 1000 --count 5000 --jobs "$$(nproc)"
	@$(BIN)/python -m pytest -q -m chaos tests/integration tests/vm tests/acceptance

.PHONY: bench
bench: ## Measure against each figure's floor and write bench/RESULTS.md
	@tools/setup.sh
	@$(BIN)/python -m bench

.PHONY: clean
clean: ## Remove the virtual environment and every cache of this directory (not the guest image)
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
