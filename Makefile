# Needs only python3 (3.10 to 3.13) and make. `make demo PYTHON=python3.12` chooses another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pip says nothing for minutes.
INSTALL = @echo 'Installing into $(VENV), torch with CUDA and all else: up to 5.6 GB, a minute or more by the network' && \
	$(BIN)/pip install --quiet --editable

.PHONY: demo test lint docs dist gpu reliability clean

demo: $(VENV)/installed
	$(BIN)/ssl-toolkit demo --overwrite

test: $(VENV)/installed-test
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

docs: $(VENV)/installed-docs
	$(BIN)/python docs/pages.py --site
	cd build && ../$(BIN)/zensical build --strict --clean

dist: $(VENV)/installed-docs
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*

gpu: $(VENV)/installed-test
	$(BIN)/python benchmarks/gpu.py --out gpu.md

reliability: $(VENV)/installed-test
	$(BIN)/python benchmarks/reliability.py

clean:
	rm -rf $(VENV) build dist *.egg-info

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: $(BIN)/python pyproject.toml
	$(INSTALL) .
	@touch $@

$(VENV)/installed-test: $(BIN)/python pyproject.toml
	$(INSTALL) '.[test]'
	@touch $@ $(VENV)/installed

$(VENV)/installed-dev: $(BIN)/python pyproject.toml
	$(INSTALL) '.[dev]'
	@touch $@ $(VENV)/installed $(VENV)/installed-test

$(VENV)/installed-docs: $(BIN)/python pyproject.toml
	$(INSTALL) '.[docs]'
	@touch $@ $(VENV)/installed
