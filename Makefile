# Everything runs inside .venv, which `install` makes with the newest Python of 3.13, 3.12 and 3.11 that works here.
# PYTHON=COMMAND makes it with another one; CUDA=1 adds JAX's CUDA 13 plugin for an NVIDIA GPU: make install CUDA=1
# EXPORT=1 adds what export to ONNX and the engines onnx and openvino need: make install EXPORT=1

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo install install-dev test test-all lint types format docs lock fresh clean

VENV_PYTHON := .venv/bin/python
UV_COMPILE := $(VENV_PYTHON) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
	--no-annotate --custom-compile-command "make lock"

help: ## this list
	@echo "make TARGET, where TARGET is one of"
	@sed -n 's/^\([a-z-]*\):.*## /  \1	/p' Makefile | expand -t 16

demo: install ## the whole method on the embedded synthetic set, into runs/demo
	$(VENV_PYTHON) main.py

install: ## .venv with what the program needs (CUDA=1: for an NVIDIA GPU; EXPORT=1: for ONNX)
	@scripts/install.sh requirements.lock

install-dev: ## .venv with what the tests and checks need too
	@scripts/install.sh requirements-dev.lock

test: install-dev ## the quick tests, a few minutes (ARGS="-k name" for some)
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile -m "not slow" $(ARGS)

test-all: install-dev ## every test, some 20 minutes on two cores
	$(VENV_PYTHON) -m pytest -n 2 --dist loadfile $(ARGS)

lint: install-dev ## style (ruff)
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .

types: install-dev ## static types (basedpyright)
	$(VENV_PYTHON) -m basedpyright --pythonpath $(VENV_PYTHON)

format: install-dev ## mend what `lint` can mend by itself
	$(VENV_PYTHON) -m ruff check --fix .
	$(VENV_PYTHON) -m ruff format .

docs: install-dev ## docs/configs.md from the code
	$(VENV_PYTHON) scripts/config_reference.py

lock: install-dev ## resolve requirements*.txt into requirements*.lock anew
	$(UV_COMPILE) requirements.txt --output-file requirements.lock
	$(UV_COMPILE) requirements-dev.txt --constraints requirements.lock --output-file requirements-dev.lock

fresh: ## `make demo` in a new clone of the last commit, with each Python found
	@scripts/check_fresh.sh

clean: ## remove .venv, caches and runs/demo; other runs and prepared data stay
	rm -rf .venv .cache .pytest_cache .ruff_cache .hypothesis runs/demo build pldmlt_jax.egg-info
	find main.py pldmlt_jax configs tests -name __pycache__ -type d -prune -exec rm -rf {} +
