# Everything from a fresh clone: needs Python 3.11 or 3.12 with headers and venv, a C++17 compiler, and make.
# The first call sets up .venv with pinned versions and the compiled extension; later calls find it up to date.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.PHONY: help build demo test test-gpu sanitize bench soak lint format clean

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet --no-warn-conflicts
ifeq ($(origin CXX),default)
CXX := $(firstword $(foreach c,c++ g++ clang++,$(if $(shell command -v $(c)),$(c))) c++)
endif
SOURCES := $(wildcard csrc/*.cpp csrc/*.cu csrc/*.h csrc/*/*.cpp csrc/*/*.h)

# A name on the PATH is not enough (version managers leave stubs that only print an error): each candidate has to run.
SUITABLE := import ensurepip, os, sys, sysconfig, venv; \
  sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12) and os.path.exists(sysconfig.get_path("include") + "/Python.h")))
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
  if "$$p" -c '$(SUITABLE)' >/dev/null 2>&1; then echo "$$p"; break; fi; done)

help:
	@echo "make demo      set up, animate the bundled portrait: demo.mp4 and demo.png"
	@echo "make test      set up, run the tests"
	@echo "make build     set up only: .venv, pinned packages, compiled extension"
	@echo "make test-gpu  the tests that need a CUDA device"
	@echo "make sanitize  the C++ under AddressSanitizer and UndefinedBehaviorSanitizer (a part of make test)"
	@echo "make bench     measure; writes bench/RESULTS.md"
	@echo "make soak      hours: what must never break, in full; writes docs/reliability.md"
	@echo "make lint      ruff, mypy, clang-format;   make format repairs what can be repaired"
	@echo "make clean     remove .venv and everything built"
	@echo "PYTHON=... names the interpreter to set up with (3.11 or 3.12)"

build: $(VENV)/.extension

demo: build
	$(BIN)/fastreenact demo

# As in the command line, PyTorch's threads spin only briefly: on a busy machine the tests take minutes less.
test: build $(VENV)/.test-packages
	GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test-gpu: build $(VENV)/.test-packages
	$(BIN)/python -m pytest -m gpu

sanitize: build $(VENV)/.test-packages
	CXX="$(CXX)" $(BIN)/python -m pytest tests/test_sanitized.py

bench: build $(VENV)/.test-packages $(VENV)/.bench-packages
	$(BIN)/python bench/report.py

soak: build $(VENV)/.test-packages
	GOMP_SPINCOUNT=1000 $(BIN)/python -m pytest --full -m "row and not gpu"

lint: build $(VENV)/.test-packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(SOURCES)

format: $(VENV)/.test-packages
	$(BIN)/ruff check --fix-only --select I .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(SOURCES)

clean:
	rm -rf $(VENV) build dist *.egg-info fastreenact/_C*.so demo.mp4 demo.png
	find . -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "No suitable Python found: fastreenact is built with Python 3.11 or 3.12, its venv module and its headers" \
	  "(on Debian and Ubuntu: python3-venv and python3-dev). Install one, or name it: make PYTHON=/path/to/python3.12 build" >&2; exit 1; }
	@"$(PYTHON)" -c '$(SUITABLE)' || { echo "$(PYTHON) does not run, is not version 3.11 or 3.12, or lacks its venv module or its headers" \
	  "(on Debian and Ubuntu: python3-venv and python3-dev). Name another one: make PYTHON=... build" >&2; exit 1; }
	@command -v "$(CXX)" >/dev/null || { echo "No C++ compiler found ($(CXX)): install g++ 10, clang 10 or newer, or name one: make CXX=... build" >&2; exit 1; }
	@echo "setting up $(VENV) with $(PYTHON)"
	@"$(PYTHON)" -m venv $(VENV)

$(VENV)/.packages: $(BIN)/python requirements/run.txt requirements/demo.txt requirements/build.txt requirements/track.txt
	@echo "installing packages (PyTorch is the large one)"
	@$(PIP) -r requirements/run.txt -r requirements/demo.txt -r requirements/build.txt
	@$(PIP) --no-deps -r requirements/track.txt
	@touch $@

$(VENV)/.extension: $(VENV)/.packages pyproject.toml setup.py CMakeLists.txt $(wildcard csrc/* csrc/*/*)
	@echo "building the extension"
	@PATH="$(CURDIR)/$(BIN):$$PATH" CXX="$(CXX)" $(PIP) --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.test-packages: $(VENV)/.packages requirements/test.txt requirements/gpu.txt
	@echo "installing test packages"
	@$(PIP) -c requirements/run.txt -r requirements/test.txt -r requirements/gpu.txt
	@touch $@

$(VENV)/.bench-packages: $(VENV)/.packages requirements/bench.txt
	@echo "installing the engines to compare with"
	@$(PIP) -c requirements/run.txt -r requirements/bench.txt || echo "not all could be installed: the tables leave them out" >&2
	@touch $@
