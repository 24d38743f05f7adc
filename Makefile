# make demo   simulate, train, delens, compare with classical delensing: figures, tables and a report under data/
# make assets what this tree keeps of the demonstrations: README's commands, then weights, cards and pictures in assets/
# make test   the test suite        make test-slow   the full-size science checks       make lint   ruff and mypy
# make docs   the documentation, in build/docs
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLEANED := perfect_ilc,noise_wiener,hilc,cnilc,patch_unet
INSTALLED := $(VENV)/.installed

.PHONY: demo assets test test-slow lint docs install clean

demo: $(INSTALLED)
	$(BIN)/python main_delens.py -m method=wiener,quadratic,linear_map field=B splits.valid=0 splits.test=4
	$(BIN)/python main_analysis_compare.py field=B splits.test=4 compare.methods=[none,wiener,quadratic,linear_map]
	$(BIN)/python main_delens.py -m method=wiener,quadratic,linear_map field=B
	$(BIN)/python main_delens.py field=B scale=5
	$(BIN)/python main_analysis_compare.py field=B

assets: demo
	$(BIN)/python main_clean.py -m experiment=cleaning_demo method=$(CLEANED)
	$(BIN)/python main_analysis_compare.py job=clean experiment=cleaning_demo compare.methods=[$(CLEANED)]
	$(BIN)/python main_delens.py experiment=bands_to_r
	$(BIN)/python demonstrations/store.py

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder --durations=10 tests

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

install: $(INSTALLED)

$(INSTALLED): constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "python 3.11 or newer is needed; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
