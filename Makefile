# Two commands: `make demo` shows what Likeness does, `make test` tests it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --disable-pip-version-check -q --retries 10 -c constraints.txt

.PHONY: demo test check bench bench-adult clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(INSTALL) -e ".[dev]"
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
	# Two processes of one thread each: idle OpenMP threads that spin would slow both. Each takes half of
	# the tests in their order, so what a module has made is made once; who is done first takes over.
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE $(BIN)/python -m pytest -q -n 2 --dist worksteal

# Whatever needs no data of yours, about 40 minutes on two idle cores: minutes stand beside each.
bench: $(VENV)/.dev
	$(BIN)/python benchmarks/tabular.py               # 2: randhie
	$(BIN)/python benchmarks/images.py --minutes 3    # 4: digits
	$(BIN)/python benchmarks/validation.py speed      # 3
	$(BIN)/python benchmarks/validation.py detection  # 6
	$(BIN)/python benchmarks/growth.py                # 6: up to a million rows, 4 GB
	$(BIN)/python benchmarks/streaming.py             # 5: 0.5 GB on disk
	$(BIN)/python -m benchmarks.faults                # 12

# The figures of Adult: make bench-adult ADULT=folder, with its train.csv and test.csv. 30 minutes.
bench-adult: $(VENV)/.dev
	$(BIN)/python benchmarks/tabular.py --train $(ADULT)/train.csv --test $(ADULT)/test.csv --target income --name adult
	$(BIN)/python benchmarks/privacy.py --train $(ADULT)/train.csv --test $(ADULT)/test.csv --target income
	$(BIN)/python benchmarks/conditional.py --train $(ADULT)/train.csv --test $(ADULT)/test.csv --target income --where "age >= 76" --where "capital_gain > 5000"
	$(BIN)/python benchmarks/validation.py speed --train $(ADULT)/train.csv

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
