# make help lists the targets. PYTHON chooses the interpreter of a new .venv: make clean test PYTHON=python3.13

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV ?= .venv
BIN := $(VENV)/bin

# The first Python on the PATH that is new enough; it is run, because a shim may be there without its Python.
SUITABLE = import sys; sys.exit(sys.version_info < (3, 11))
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11 python; do \
	if $$python -c '$(SUITABLE)' >/dev/null 2>&1; then echo $$python; break; fi; done)

# Exactly the lock: every package has its hash, and none is added to it (pip 23.2 takes a newer release than the pinned
# one where a requirement names an extra); what is installed must then be consistent. What pip prints goes to a file,
# because without a network it prints a page for each package.
PIP_INSTALL = echo "Installing $(1)"; \
	$(BIN)/python -m pip install --disable-pip-version-check --retries 2 --require-hashes --no-deps -r $(1) >$(VENV)/pip.log 2>&1 \
	&& $(BIN)/python -m pip --disable-pip-version-check check >>$(VENV)/pip.log 2>&1 || { \
		echo "$(1) could not be installed; without a network it cannot be. $(VENV)/pip.log has all of it, and ends: $$(tail -n 1 $(VENV)/pip.log)" >&2; \
		exit 1; }

# Not in the checkout, which may be read-only.
export RUFF_CACHE_DIR = $(abspath $(VENV))/cache/ruff
export MYPY_CACHE_DIR = $(abspath $(VENV))/cache/mypy

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z.-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# --- Set-up -----------------------------------------------------------------------------------------------------------

$(BIN)/python:
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c '$(SUITABLE)' 2>/dev/null; then \
		echo "No Python 3.11 or newer found (looked for: $(or $(PYTHON),python3 python3.13 python3.12 python3.11 python)); name one: make PYTHON=/path/to/python3" >&2; \
		exit 1; fi
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "$$($(PYTHON) --version) has no venv with pip; on Debian and Ubuntu install it with: apt install python3-venv" >&2; exit 1; }
	@mkdir -p $(VENV) 2>/dev/null && test -w $(VENV) || { \
		echo "$(VENV) cannot be made here ($(CURDIR) is read-only?); name another place: make VENV=/tmp/mana-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

# What the site needs; nothing more.
$(VENV)/runtime.stamp: requirements.txt | $(BIN)/python
	@$(call PIP_INSTALL,requirements.txt)
	@touch $@

# Tests, checks and tools as well.
$(VENV)/dev.stamp: requirements-dev.txt | $(BIN)/python
	@$(call PIP_INSTALL,requirements-dev.txt)
	@touch $(VENV)/runtime.stamp $@

.PHONY: venv
venv: $(VENV)/dev.stamp ## Set up .venv with everything that development needs

# --- Use --------------------------------------------------------------------------------------------------------------

.PHONY: demo
demo: $(VENV)/runtime.stamp ## Import, migrate, validate and roll back 10,000 legacy users in a throw-away SQLite file
	@$(BIN)/python scripts/demo.py

.PHONY: run
run: $(VENV)/runtime.stamp ## Serve the site for development on http://127.0.0.1:8000/
	@DEBUG=true $(BIN)/python manage.py migrate --verbosity 0
	@DEBUG=true $(BIN)/python manage.py runserver

# --- Checks -----------------------------------------------------------------------------------------------------------

.PHONY: test
test: $(VENV)/dev.stamp ## Run all tests, on SQLite and on PostgreSQL (ARGS="-k word" narrows them)
	@$(BIN)/python scripts/test_both.py $(ARGS)

# What takes longer than the whole suite may: test_both.py divides it between the databases as it does for "test".
.PHONY: test-long
test-long: $(VENV)/dev.stamp ## Run the tests that take too long for "test": all orders, 100,000 operations, 1,200 sequences
	@$(BIN)/python scripts/test_both.py --long -m long $(ARGS)

.PHONY: lint
lint: $(VENV)/dev.stamp ## Look for mistakes and unformatted code
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/dev.stamp ## Check the types
	@$(BIN)/mypy

.PHONY: layers
layers: $(VENV)/dev.stamp ## Check that imports only run downward
	@$(BIN)/lint-imports --cache-dir $(VENV)/cache/imports

.PHONY: check
check: lint types layers docs test ## All of the above

.PHONY: format
format: $(VENV)/dev.stamp ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

.PHONY: test-matrix
test-matrix: ## Run the tests on every Python at hand, with each Django and driver (ARGS="--fast" as for test)
	@$(or $(PYTHON),python3) scripts/test_matrix.py $(ARGS)

# --- Measuring --------------------------------------------------------------------------------------------------------

.PHONY: bench
bench: $(VENV)/dev.stamp ## Measure it against SQL by hand, on PostgreSQL (ARGS="--only export --users 1000000")
	@$(BIN)/python -m benchmarks $(ARGS)

.PHONY: soak
soak: $(VENV)/dev.stamp ## Run one migration and rollback after another for 20 minutes and print what grew (ARGS="--minutes 5")
	@$(BIN)/python -m benchmarks.soak $(ARGS)

.PHONY: torture
torture: $(VENV)/dev.stamp ## Break everything many times over, for hours, and print the figures (ARGS="kills --kills 50")
	@$(BIN)/python -m tests.torture $(ARGS)

.PHONY: mutation
mutation: $(VENV)/dev.stamp ## Change the code that moves money in small ways and see whether the tests notice; takes hours
	@mkdir -p var
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cosmic-ray init cosmic-ray.toml var/mutation.sqlite
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/cosmic-ray exec cosmic-ray.toml var/mutation.sqlite
	$(BIN)/cr-report var/mutation.sqlite

.PHONY: coverage
coverage: $(VENV)/dev.stamp ## Run all tests on both databases and tell which branches none of them takes
	@rm -f .coverage .coverage.*
	@for database in sqlite postgres; do \
		COVERAGE_FILE=.coverage.$$database $(BIN)/python -m pytest -p no:randomly -q --db $$database --cov --cov-report= $(ARGS); \
	done
	@$(BIN)/python -m coverage combine --quiet
	@$(BIN)/python -m coverage report

.PHONY: docs
docs: $(VENV)/dev.stamp ## Build the documentation as a site in docs/_build/html; a warning fails
	@$(BIN)/sphinx-build --quiet --fresh-env --write-all --fail-on-warning --keep-going docs docs/_build/html
	@echo "docs/_build/html/index.html"

.PHONY: messages
messages: $(VENV)/dev.stamp ## Collect the texts of pages, admin and models for the German catalogue and compile it (needs GNU gettext)
	@for app in mana_migration wishes; do \
	  (cd $$app && PYTHONSAFEPATH=1 $(abspath $(BIN))/python -m django makemessages -l de --no-location --no-obsolete) || exit 1; done
	@for folder in mana_migration/locale wishes/locale locale; do \
	  msgfmt -o $$folder/de/LC_MESSAGES/django.mo $$folder/de/LC_MESSAGES/django.po; done

.PHONY: docs-screenshots
docs-screenshots: $(VENV)/dev.stamp ## Take the pictures of the pages in docs/ again (needs Chromium)
	@$(BIN)/python scripts/docs_screenshots.py

# --- Upkeep -----------------------------------------------------------------------------------------------------------

LOCK = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-strip-extras \
	--custom-compile-command "make lock" pyproject.toml --extra postgres --extra site

.PHONY: lock
lock: ## Write the requirements*.txt anew (needs uv; ARGS=--upgrade takes newer releases)
	@command -v uv >/dev/null || { echo "make lock needs uv: pip install uv" >&2; exit 1; }
	$(LOCK) requirements.in --output-file requirements.txt $(ARGS)
	$(LOCK) --extra celery --extra notify requirements.in requirements-dev.in --constraints requirements.txt \
		--output-file requirements-dev.txt $(ARGS)
	$(LOCK) --extra celery requirements.in --constraints requirements-dev.txt --output-file requirements-celery.txt
	echo 'psycopg[binary]>=3.2' | $(subst --extra postgres,,$(LOCK)) - --constraints requirements-dev.txt \
		--output-file requirements-psycopg3.txt

# A tool with a hundred packages of its own, so apart from ours. --strict: what nobody could look up counts as a failure.
.PHONY: audit
audit: $(VENV)/dev.stamp ## Ask the database of known vulnerabilities about every pinned package (ARGS="-s osv --osv-url URL" asks a mirror)
	@test -x .venv-audit/bin/pip-audit || { $(BIN)/python -m venv .venv-audit; \
		.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit; }
	@for file in requirements.txt requirements-dev.txt; do \
		.venv-audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off $(ARGS) --requirement $$file; done

.PHONY: clean
clean: ## Remove environments, caches and the demo's files; keeps db.sqlite3, .env, logs/ and the secret key
	rm -rf .venv .venv-* build dist *.egg-info .coverage .coverage.* htmlcov \
		.hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache var/demo* var/tests
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
