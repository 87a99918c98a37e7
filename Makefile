# Everything a clean clone needs: `make quickstart` sees a real sweep, `make test` runs the tests. Python 3.10 to 3.13.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
STAMP  := $(VENV)/.installed

.PHONY: quickstart test test-portable test-all lint bench references mutants help
help:
	@echo "make quickstart   train, prune and compare 6 mixers on real text (6 minutes on 2 cores, 2 of them to install), then a report; goes on where it stopped"
	@echo "make test         the tests (8 minutes on 2 cores)            make test-all   with the slow ones"
	@echo "make lint         ruff, mypy, import-linter, codespell        make bench      start-up, loop and engine overheads"
	@echo "make mutants      whether the tests notice small faults in the modules of tests/mutants.yaml (an hour or more)"
	@echo "make references   mixers.md, tasks.md, sweep_file.md and command_line.md in docs/, from the code"

$(STAMP): setup.py constraints.txt
	@echo "setting up $(VENV): pinned packages from constraints.txt (once, a few minutes)"
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt "torch==2.13.0"
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $(STAMP)

quickstart: $(STAMP)
	$(PY) launch.py sweeps/quickstart.yaml --resume

test: $(STAMP)
	$(PY) -m pytest -n 2

# What is compared within rounding, once more as a processor without AVX-512 computes it: PyTorch, oneDNN, MKL, OpenBLAS.
test-portable: $(STAMP)
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=Haswell \
	$(PY) -m pytest -n 2 tests/kernels/cpu

test-all: $(STAMP)
	$(PY) -m pytest -n 2 -m "not gpu"

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(VENV)/bin/lint-imports --no-logo
	$(VENV)/bin/codespell attnlab analysis tests bench docs sweeps *.md *.py Makefile

bench: $(STAMP)
	$(PY) -m bench.startup
	$(PY) -m bench.loop
	$(PY) -m bench.turnaround

# `make mutants WHICH=ranking` runs one batch, `AGAIN=--again` only what lived the last time, SAMPLE as many of a module,
# drawn by SEED.
SAMPLE ?= 150
SEED ?= 0
mutants: $(STAMP)
	nice $(PY) -m tests.tools.mutants $(WHICH) --sample $(SAMPLE) --seed $(SEED) $(AGAIN)

references: $(STAMP)
	$(PY) docs/make_references.py
