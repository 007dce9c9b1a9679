# `make demo` and `make test` do all the set-up on a fresh machine.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PLUGINS = plugins/distgnn-fbgemm plugins/distgnn-mmap plugins/template

.PHONY: help demo test faults lint docs wheel bench clean

help:  ## Show this help.
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	# torch comes first and alone: a bare requirement would fetch gigabytes of CUDA where a CPU build will do.
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[demo]"
	@touch $@

$(VENV)/dev: $(VENV)/demo $(PLUGINS:=/pyproject.toml)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation $(PLUGINS:%=-e %)
	@touch $@

demo: $(VENV)/demo  ## Make the environment and train a GIN on MUTAG.
	$(BIN)/distgnn train --dataset MUTAG --epochs 100

test: $(VENV)/dev lint  ## Make the environment, lint, type-check and run the tests.
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: $(VENV)/dev  ## Check style, types and the import rules.
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: $(VENV)/dev  ## Kill, stop, cut off, fill up and damage everything, and read 10,000 bad files of each kind.
	$(BIN)/python -m pytest tests/faults tests/backends/test_two_hosts.py -m "slow_faults or not slow_faults" -o timeout=3600 --hypothesis-profile=faults
	$(BIN)/python benchmarks/soak.py

docs: $(VENV)/dev  ## Build the documentation as a site, in site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

wheel: $(VENV)/dev  ## Build the wheel into dist/, and use it in a clean environment.
	$(BIN)/python -m pip install --quiet nox
	$(BIN)/nox -s wheel

bench: $(VENV)/dev  ## Measure speed beside PyG, DGL, torch and the limits; show what was asked and reached.
	$(BIN)/python benchmarks/gin.py
	$(BIN)/python benchmarks/gine.py --parts sum
	$(BIN)/python benchmarks/rules.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/endtoend.py
	$(BIN)/distgnn bench

clean:  ## Remove the environment and caches.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .nox dist site
