# Commands: `make ablation`, `make mouth`, `make stages`, `make three-tasks`, `make sync-filter`, `make solver`, `make guidance`,
# `make sync-metrics`, `make studies`, `make test`, `make test-fast`, `make site`. All make .venv and install what they need.
# Options: ARGS="trainer.max_steps=100 name=short" for a study, ARGS="seed=0,1,2" for the stages,
# ARGS=quick for all studies in small against their record,
# PYTEST="-k rope" and WORKERS=1 for the tests, which share two processes unless told otherwise; PYTHONS="3.12 3.13" for
# `make test-pythons`, the core tests under each Python that is there.
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST ?=
WORKERS ?= 2
PYTHONS ?=

.PHONY: ablation mouth stages three-tasks sync-filter solver guidance sync-metrics studies test types suite test-fast test-pythons site install clean
.DEFAULT_GOAL := ablation

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@for python in $(PYTHON) $(BIN)/python python3.11 python3.12 python3.13 python3 python; do \
	  if $$python -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; \
	  then found=$$python; break; fi; done; \
	if [ -z "$$found" ]; then \
	  echo "error: Python 3.11, 3.12 or 3.13 with venv is needed; name it: make PYTHON=/path/to/python3.11" >&2; exit 2; fi; \
	if ls $(VENV)/lib/python3*/site-packages/torch-*+cpu.dist-info >/dev/null 2>&1; \
	then echo "make install: 2 to 10 minutes, 2.8 GB in $(VENV), with the PyTorch for CPUs that is there"; \
	else echo "make install: 2 to 10 minutes, 6 GB in $(VENV), with PyTorch for CUDA. Without a GPU 2.8 GB are enough:"; \
	  echo "  $$found -m venv $(VENV) && $(BIN)/pip install $$(grep ^torch== constraints.txt) --index-url https://download.pytorch.org/whl/cpu"; \
	  echo "and then make install."; fi; \
	if [ "$$found" != "$(BIN)/python" ]; then $$found -m venv $(VENV); fi
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt --no-deps Resemblyzer rapidocr-onnxruntime # for their weights
	@touch $@

ablation: install
	$(BIN)/python -m ovi_lab.train experiment=fusion_ablation $(ARGS)

mouth: install
	$(BIN)/python -m ovi_lab.train experiment=mouth_ablation $(ARGS)

stages: install
	$(BIN)/python -m ovi_lab.stages $(ARGS)

three-tasks: install
	$(BIN)/python -m ovi_lab.train experiment=one_training_three_tasks $(ARGS)

sync-filter: install
	$(BIN)/python -m ovi_lab.train experiment=sync_filter $(ARGS)

solver: install
	$(BIN)/python -m ovi_lab.train experiment=solver $(ARGS)

guidance: install
	$(BIN)/python -m ovi_lab.train experiment=guidance $(ARGS)

sync-metrics: install
	$(BIN)/python -m ovi_lab.sync_metrics $(ARGS)

studies: install
	$(BIN)/python scripts/studies.py $(ARGS)

test: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(MAKE) --no-print-directory -j 2 types suite

types: install
	$(BIN)/mypy

# the test processes are as many as cores, and libraries' threads beside them would wait for each other
suite test-fast: export OMP_NUM_THREADS = 1

suite: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 $(PYTEST)

test-fast: install
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --max-worker-restart=0 -m "not slow" $(PYTEST)

test-pythons: install
	$(BIN)/python scripts/test_pythons.py --workers $(WORKERS) $(PYTHONS)

site: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs $(or $(ARGS),build)

clean:
	rm -rf $(VENV) .venv-* .pytest_cache .ruff_cache .mypy_cache
