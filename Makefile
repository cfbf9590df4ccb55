# make setup | test | test-soak | lint | docs | demo | clean        Variables: see tools/setup_env.sh, for example
# make test PYTHON=python3.12 VENV=/tmp/env TORCH=2.11.0 TORCHVISION=0.26.0 ARGS='-k losses'

VENV ?= .venv
export VENV PYTHON TORCH TORCHVISION MMCV MMENGINE MMSEG MMPRETRAIN CUDA_OPS MAX_JOBS
# Empty, so that Python caches compiled modules and the hundreds of test processes do not compile them again.
export PYTHONDONTWRITEBYTECODE =
RUN = $(VENV)/bin/python
# Each test process needs 2.5 GB. On two cores, the third one works while others wait for their children.
PARALLEL ?= -n 3 --dist worksteal
MAKEFLAGS += --no-print-directory

.PHONY: setup test test-soak demo lint docs clean
.DEFAULT_GOAL := setup

setup:
	@tools/setup_env.sh

# Lint and the quick tests: everything that a change can break, in 5 minutes on two cores.
test: lint
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) -m pytest -m 'not soak' $(PARALLEL) $(ARGS)

# Long runs, many fuzzed files, exports, large models, and the documentation.
test-soak: setup docs
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(RUN) -m pytest -m soak $(PARALLEL) $(ARGS)

# The site, in docs/_build/html. Warnings are errors.
docs: setup
	$(RUN) -m sphinx -W --keep-going -q docs/en docs/_build/html

lint: setup
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

demo: setup
	PATH="$(abspath $(VENV))/bin:$$PATH" tools/demo.sh $(ARGS)

clean:
	rm -rf build dist docs/_build .mypy_cache .pytest_cache .ruff_cache
