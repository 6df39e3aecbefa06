# The commands of this project; `make` alone explains them.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help deploy test lint unit lab-images lab-test variants-test systems-test vm-test vm-test-short docs bench lock clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | awk -F '\t' '{printf "  make %-13s %s\n", $$1, $$2}'

$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv || { echo "python3 cannot make a virtual environment: install python3-venv" >&2; exit 1; }
	$(BIN)/pip install --quiet --require-hashes --requirement requirements.lock
	@touch $@

deploy: $(STAMP) ## Dify on the hosts of inventory.py; on a throw-away host of this machine while it names no other
	@$(BIN)/python -m lab up --unless-named-in inventory.py
	$(BIN)/pyinfra inventory.py deploy.py -y

# Unit tests keep one processor busy; meanwhile another makes the images.
test: lint ## everything that every change must pass: lint, types, unit tests, tests on lab hosts
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=line unit lab-images
	@$(MAKE) --no-print-directory lab-test

lint: $(STAMP) ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

unit: $(STAMP) ## unit tests: two to three minutes, no Docker
	$(BIN)/pytest tests/unit

lab-images: $(STAMP)
	$(BIN)/python -m lab images

ON_HOSTS = $(BIN)/pytest tests/lab --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 30

lab-test: lab-images ## tests on real hosts: containers on this machine that boot systemd and sshd
	$(ON_HOSTS) -m "not variants and not systems and not vm"

variants-test: lab-images ## what differs from the defaults: every vector store and database, middleware mode, other secrets
	$(ON_HOSTS) -m variants

systems-test: lab-images ## the same on Debian 11, 12 and testing, and with Vagrant (its program too, if it is installed)
	$(ON_HOSTS) -m systems

# One machine after the other: emulated processors take all that there are.
ON_MACHINES = $(BIN)/pytest tests/lab --durations 0

vm-test: lab-images ## the same on virtual machines: reboots, power cuts, full disk, kernel limits, firewall
	$(ON_MACHINES) -m vm

vm-test-short: lab-images ## its beginning: one machine, from bare to answering, a second run, a reboot
	$(ON_MACHINES) -m vm_short

docs: $(STAMP) ## write the pages of docs/ that are made from data
	$(BIN)/python -m stack docs

bench: $(STAMP) ## what a converged run costs: SSH commands, seconds, memory
	$(BIN)/python -m tests.bench

lock: ## write requirements.lock anew from pyproject.toml (needs uv)
	uv pip compile --quiet --universal --generate-hashes --python-version 3.10 --no-header --no-emit-index-url \
		--group dev pyproject.toml --output-file requirements.lock

clean: ## remove the lab, the environment and what tools left
	@test ! -e $(STAMP) || $(BIN)/python -m lab down
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache build pyinfra-debug.log
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
