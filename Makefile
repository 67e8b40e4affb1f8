# make reproduce [PRESET=synthetic] [ARGS="-p 03.epochs=4"]     set up if need be, then run the notebooks
# make test [ARGS="-k heatmaps"]                                set up if need be, then run the tests, on up to four cores;
#                                                               "-n 0" in ARGS: in one process, which -s and --pdb need
# make bench [ARGS=--json]                                      set up if need be, then measure speed
PYTHON ?= python3
PRESET ?= synthetic
ARGS ?=
BIN = .venv/bin
READY = .venv/.ready

.PHONY: reproduce test bench lab lint tables clean

reproduce: $(READY)
	$(BIN)/hpe reproduce --preset $(PRESET) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadgroup --no-loadscope-reorder $(ARGS)

# the claims of docs/speed.md, measured here: minutes
bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

lab: $(READY)
	cd notebooks && ../$(BIN)/jupyter lab 01_explore_data.ipynb $(ARGS)

# README's and docs' tables, from results/
tables: $(READY)
	$(BIN)/python -m benchmarks.pages

lint: $(READY)
	$(BIN)/ruff check $(ARGS) .
	$(BIN)/ruff format --check .

# runs/ holds trained weights: it is left alone
clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache
	find hpe_lib tests notebooks \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +

# Touched last, so that an installation that broke off is made again.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "make: found Python %s, expected 3.11 or later (make PYTHON=python3.12 ...)" % v)'
	$(PYTHON) -m venv .venv
	@echo 'installing into .venv: a few minutes, torch is large'
	$(BIN)/python -m pip install -qq --disable-pip-version-check -e '.[dev]'
	@touch $(READY)
