# Four commands: `make ablation`, `make stages`, `make test` and `make test-fast`. All make .venv and install what they need.
# Options: ARGS="trainer.max_steps=100 name=short" for the ablation, ARGS="seed=0,1,2" for the stages,
# PYTEST="-k rope" and WORKERS=1 for the tests, which share two processes unless told otherwise.
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST ?=
WORKERS ?= 2

.PHONY: ablation stages test test-fast install clean
.DEFAULT_GOAL := ablation

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@for python in $(PYTHON) python3.11 python3.12 python3 python; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; \
	  then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "error: Python 3.11 or 3.12 with venv is needed; name it: make PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	$$found -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

ablation: install
	$(BIN)/python -m ovi_lab.train experiment=fusion_ablation $(ARGS)

stages: install
	$(BIN)/python -m ovi_lab.stages $(ARGS)

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(PYTEST)

test-fast: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -m "not slow" $(PYTEST)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache
