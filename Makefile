# `make demo` and `make test` do everything on a fresh machine with Python 3.11 or newer; `make check` is the rest of CI.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help demo serve web quick test instructions check bench soak clients lock clean

help:
	@echo "make demo   install, make a small library, index it, search it (no torch)"
	@echo "make serve  serve the library of the demo on http://127.0.0.1:8000"
	@echo "make web    build the web page; needs Node 20.19 or newer"
	@echo "make quick  install everything and run the tests that start no process"
	@echo "make test   install everything and run the whole suite"
	@echo "make instructions  the tests of engines and precisions, as if the processor had AVX2 only, and AVX-512 without VNNI"
	@echo "make check  formatting, lint, types, docstrings, imports"
	@echo "make bench  speed and memory as ratios to named baselines"
	@echo "make clients  make the types of the Python and the TypeScript client of the OpenAPI description"
	@echo "make soak   longer durability runs; those of Qdrant servers need FOLEY_TEST_QDRANT=/path/to/qdrant"

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Foley needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.base: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable .
	touch $@

$(VENV)/.all: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) --editable '.[train,pe-av,graph,openvino,dev]'
	touch $(VENV)/.base $@

demo: $(VENV)/.base
	$(BIN)/foley-train synthesize .demo/media --scenes 60 --seed 7 --split demo --separate 0.25 --workers 2
	$(BIN)/foley demo .demo/media
	@rm -rf .demo/adapted
	@if $(BIN)/python -c 'import torch' 2>/dev/null; \
	then FOLEY_DATA=$(CURDIR)/.demo/data $(BIN)/foley-train adapt --library --output .demo/adapted > /dev/null || true; \
	else echo "foley-train adapt would fit the encoders to these clips in seconds, but needs torch: $(BIN)/pip install -e '.[train]'"; fi

serve: $(VENV)/.base
	FOLEY_DATA=.demo/data $(BIN)/foley serve

# What it builds is committed: only who changes service/http/web/source needs node.
web:
	cd service/http/web && npm ci --ignore-scripts && npm run build

quick: $(VENV)/.all
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not process"

test: $(VENV)/.all
	$(BIN)/python -m pytest -n 3 --dist worksteal --durations=30

# Needs a C compiler and a processor with CPUID faulting (`cpuid_fault` in /proc/cpuinfo); see the C file.
ENGINE_TESTS := tests/service/encode tests/models/bundle tests/training/commands/test_convert.py
instructions: $(VENV)/.all
	mkdir -p build && cc -shared -fPIC -O1 -o $(CURDIR)/build/instructions.so tests/support/instructions.c
	for only in avx2 avx512; do \
	  FOLEY_ONLY=$$only LD_PRELOAD=$(CURDIR)/build/instructions.so $(BIN)/python -m pytest -p no:faulthandler $(ENGINE_TESTS) || exit 1; \
	done
	rm $(CURDIR)/build/instructions.so

check: $(VENV)/.all
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pydoclint --quiet service training models
	$(BIN)/lint-imports

bench: $(VENV)/.all
	$(BIN)/python -m benchmarks

# These tests take long on purpose: no time limit.
soak: $(VENV)/.all
	FOLEY_KILLS=100 $(BIN)/python -m pytest --timeout 0 tests/promises/test_killed_store.py tests/service/index/embedded/test_aside.py -k killed -s
	FOLEY_KILLS=100 $(BIN)/python -m pytest --timeout 0 tests/promises/test_kills.py -s
	FOLEY_SOAK=1 $(BIN)/python -m pytest --timeout 0 tests/promises/test_pressure.py tests/promises/test_cut_off.py \
	  tests/promises/test_crowds.py tests/promises/test_lost_disk.py -s
	FOLEY_SWAP_CLIENTS=50 $(BIN)/python -m pytest --timeout 0 tests/promises/test_swap.py -s
	FOLEY_KILLS=200 $(BIN)/python -m pytest --timeout 0 tests/promises/test_switch_kills.py -s
	FOLEY_BAD_BUNDLES=all $(BIN)/python -m pytest --timeout 0 tests/promises/test_bad_bundles.py -s
	FOLEY_KILLS=100 $(BIN)/python -m pytest --timeout 0 tests/promises/test_qdrant_server.py tests/promises/test_qdrant_library.py \
	  tests/promises/test_qdrant_cluster.py -s -rs
	$(PIP) --editable '.[cluster]'
	FOLEY_KILLS=30 $(BIN)/python -m pytest --timeout 0 tests/promises/test_cluster.py -s -rs
	FOLEY_MUTANTS=5000 $(BIN)/python -m pytest --timeout 0 tests/promises/test_hostile_decoding.py -k mutants -s

# What the clients know of the API; needs node and npm for TypeScript.
clients: $(VENV)/.all
	cd clients/typescript && npm ci --no-audit --no-fund
	$(BIN)/python -m tests.support.clients

# Pin every package, those of the benchmarks too, to what is installed now; run it in a venv made by `make test`.
lock:
	$(BIN)/python -m pip install --quiet --editable '.[bench,light,cluster]'
	$(BIN)/python -m pip freeze --all --exclude-editable --exclude foley-av --exclude pip > constraints.txt

clean:
	rm -rf $(VENV) .demo build *.egg-info
