# Two commands: `make demo` shows what Likeness does, `make test` tests it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(BIN)/pip install --disable-pip-version-check -q -c constraints.txt -e ".[dev]"
	# dg brings PyPI's `validators` for one command of Dagster's cloud; it would hide our package.
	$(BIN)/pip uninstall --disable-pip-version-check -q -y validators
	touch $@

demo: $(VENV)/.installed
	$(BIN)/likeness run randhie
	$(BIN)/likeness run digits
	$(BIN)/likeness catalogue

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	# Two processes of one thread each: idle OpenMP threads that spin would slow both.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n 2

bench: $(VENV)/.dev
	$(BIN)/python benchmarks/tabular.py
	$(BIN)/python benchmarks/images.py

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
