# `make` alone lists what can be made.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3.11
MODEL ?= docs-gpt
KIND ?= errors
BIN := .venv/bin
RUNTIME := .venv/.runtime-installed
DEV := .venv/.dev-installed
# One after the other: make test WORKERS=
WORKERS ?= --numprocesses=2 --dist=loadscope --no-loadscope-reorder
export PYTHONPATH := $(CURDIR):$(CURDIR)/plugins
export GX_ANALYTICS_ENABLED := false
export BENTOML_DO_NOT_TRACK := True

run: up  ## start the stack, release the demo model, then a second version by canary under traffic (MODEL=docs-gpt)
	@$(BIN)/python -m tests.load.demo $(MODEL)

run-bad: up  ## release a worse candidate under traffic and see it rolled back (KIND=errors, slow or wrong-answers)
	@$(BIN)/python -m tests.load.bad $(MODEL) --kind $(KIND)

test: $(DEV)  ## run every test but the slow ones
	$(BIN)/python -m pytest -m "not slow" $(WORKERS) $(PYTEST_FLAGS)

check: $(DEV)  ## check format, lint, types, import contracts, schema and locks
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy pipelines plugins bentos
	$(BIN)/lint-imports
	$(BIN)/python -m pipelines spec schema --check
	$(BIN)/python .ci/lock.py check

up: $(RUNTIME)  ## start the local stack: Postgres, Envoy, controller, Airflow
	@$(BIN)/python -m pipelines up

down: $(RUNTIME)  ## stop the local stack; no process and no port is left
	@$(BIN)/python -m pipelines down

bench: $(DEV)  ## measure speed and size, as ratios with intervals
	$(BIN)/python -m tests.benchmarks

bench-train: $(DEV)  ## the training engine: its tax, loader, checkpoints, recovery from kills, a slow link (peers are installed beside it)
	$(BIN)/python -m tests.benchmarks training checkpoints kills diloco

bench-release: $(DEV)  ## the release rule against two usual ones: simulated false alarms, delays and misses
	$(BIN)/python -m tests.benchmarks.bench_release

soak: $(RUNTIME)  ## 12 good and 8 bad releases on a stack of its own, while users send 20 requests/s
	@$(BIN)/python -m tests.load.soak

lock: $(DEV)  ## compile requirements.txt and requirements-dev.txt from pyproject.toml
	$(BIN)/python .ci/lock.py write $(BIN)/uv

faults: $(DEV)  ## kill, stop and starve every part of a release on the real stack: the whole set, about 40 minutes
	$(BIN)/python -m pytest tests/faults tests/e2e/test_faults.py tests/e2e/test_release_faults.py $(PYTEST_FLAGS)

test-all: $(DEV)  ## run every test, the slow ones too
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

images: $(RUNTIME)  ## build the images (IMAGES, REGISTRY, IMAGE_PREFIX, TAG, BASE_IMAGE, VARIANT=cuda, BENTO, PUSH=1, SAVE)
	@PYTHONPATH=$(PYTHONPATH):$(CURDIR)/docker $(BIN)/python -m images

test-images: $(DEV)  ## build the trainer and run steps in it as a restricted pod would (BASE_IMAGE)
	$(BIN)/python -m pytest tests/images $(PYTEST_FLAGS)

e2e-k8s: $(DEV)  ## release the demo on the cluster of KUBECONFIG and check it (STORE=s3://..., REGISTRY, TAG, OVERLAY, PROMETHEUS)
	@PYTHONPATH=$(PYTHONPATH):$(CURDIR)/docker $(BIN)/python -m tests.e2e_k8s

schema: $(RUNTIME)  ## write the JSON Schema of model specs for editors
	$(BIN)/python -m pipelines spec schema --write

help:
	@awk -F '##' '/^[a-z0-9-]+:.*##/ { split($$1, target, ":"); printf "make %-14s%s\n", target[1], $$2 }' $(MAKEFILE_LIST)

# torch comes first and by pip, which finds a CPU build where one is offered; uv then keeps it and is quick with the rest.
$(RUNTIME): requirements.txt
	@command -v $(PYTHON) > /dev/null || { echo "error: $(PYTHON) is not on the PATH; install Python 3.11" >&2; exit 20; }
	@$(PYTHON) -c "import ensurepip, venv" 2> /dev/null || { echo "error: $(PYTHON) cannot make virtual environments; apt-get install python3-venv" >&2; exit 20; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet "$$(grep '^torch==' $<)" uv
	$(call install,requirements.txt)
	@touch $@

$(DEV): requirements-dev.txt $(RUNTIME)
	$(call install,requirements-dev.txt)
	@touch $@

# pip is slower, but knows indexes that only its own configuration names.
define install
$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode -r $(1) || $(BIN)/python -m pip install --quiet -r $(1)
endef

.PHONY: run run-bad test check up down bench bench-train bench-release soak lock faults test-all images test-images e2e-k8s schema help
