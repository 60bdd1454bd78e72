# `make help` lists the targets. Every target sets up .venv first, once.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV ?= .venv
BIN := $(VENV)/bin
# Which FAISS wheel: cpu or gpu.
FAISS ?= cpu
EXTRA_cpu := all
EXTRA_gpu := all-gpu
STAMP := $(VENV)/.installed-$(FAISS)
NEEDED_KB := 6000000
SUITABLE := import sys, venv, ensurepip; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c '$(SUITABLE)' >/dev/null 2>&1 && echo $$p && break; done)

.PHONY: help setup demo test lint bench bench-reader bench-shards bench-train bench-counts bench-eval bench-knn bench-workers check-extras bench-listing bench-sizes bench-gpu wheelhouse performance scale evidence shards verify preview knn clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

setup: $(STAMP) ## Create .venv with all packages (no root needed)

$(STAMP): pyproject.toml constraints.txt Makefile
	@[ -n "$(PYTHON)" ] && $(PYTHON) -c '$(SUITABLE)' || { \
	  echo "error: $(or $(PYTHON),python3) is no Python 3.10 to 3.13 with the venv module: install one (Debian: python3-venv) or set PYTHON=/path/to/python" >&2; exit 2; }
	@[ -d $(VENV) ] || [ "$$(df -Pk . | awk 'NR == 2 {print $$4}')" -ge $(NEEDED_KB) ] || { \
	  echo "error: the packages need about $$(($(NEEDED_KB) / 1000000)) GB of disk space here; $$(df -Ph . | awk 'NR == 2 {print $$4}') are free" >&2; exit 2; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version) (one to ten minutes and 3 GB; with CUDA builds of PyTorch more)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e ".[$(EXTRA_$(FAISS)),dev]" \
	  || { echo "error: the packages could not be installed; pip says why above" >&2; exit 2; }
	@# Programs start twice as fast compiled; this uses all cores, pip only one. Templates of Python 2 do not compile.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib >/dev/null 2>&1 || true
	@touch $(STAMP)

demo: $(STAMP) ## Run the whole flow on synthetic data in demo/ and print a table (about 5 minutes on 2 cores)
	@$(BIN)/python -m benchmarks.demo --out demo

test: $(STAMP) ## Run all tests (5 to 10 minutes on 2 cores): make test [ARGS="tests/training -k resume"]
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(STAMP) ## Check style, types and the direction of imports
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

bench: $(STAMP) ## Measure the reader on the demo's shards
	@$(BIN)/python -m benchmarks.reader --shards demo/shards/kinetics

bench-reader: $(STAMP) ## Compare the reader with a DataLoader with Pillow and with decoding alone (about 3 minutes on 2 cores): make bench-reader [ARGS="--rounds 1"]
	@$(BIN)/python -m benchmarks.reader --compare true $(ARGS)

bench-shards: $(STAMP) ## Compare the shard job with bare ffmpeg and plain tar: make bench-shards [ARGS="--clips dir --images dir"]
	@$(BIN)/python -m benchmarks.shards $(ARGS)

bench-train: $(STAMP) ## Compare the training step with the reference step (about 10 minutes on 2 cores): make bench-train [ARGS="--rounds 1"]
	@$(BIN)/python -m benchmarks.train --compare true $(ARGS)

bench-counts: $(STAMP) ## Count launches and bytes of training steps of real sizes (about 1 minute, no GPU)
	@$(BIN)/python -m benchmarks.counts $(ARGS)

bench-eval: $(STAMP) ## Compare the evaluation with straightforward versions: make bench-eval [ARGS="--data dir --weights file"]
	@$(BIN)/python -m benchmarks.evaluation $(ARGS)

bench-knn: $(STAMP) ## Compare the neighbour search with FAISS's flat index (about 2 minutes on 2 cores): make bench-knn [ARGS="--rows 50000"]
	@$(BIN)/python -m benchmarks.knn $(ARGS)

bench-workers: $(STAMP) ## Measure the memory of DataLoader workers over 1.3 M samples (about 3 minutes): make bench-workers [ARGS="--frames 20"]
	@$(BIN)/python -m benchmarks.workers $(ARGS)

check-extras: $(STAMP) ## Install the base alone into an empty environment and read frames there (about 1 minute)
	@$(BIN)/python -m benchmarks.base_install

bench-listing: $(STAMP) ## Measure listing and planning of up to a million inputs (about 1 minute): make bench-listing [ARGS="--inputs 1000,10000"]
	@$(BIN)/python -m benchmarks.listing $(ARGS)

bench-sizes: $(STAMP) ## Measure the disk space of shards: make bench-sizes ARGS="--clips dir --images dir"
	@$(BIN)/python -m benchmarks.sizes $(ARGS)

bench-gpu: $(STAMP) ## Run all measurements that need a GPU (under 8 minutes): make bench-gpu [FAISS=gpu]; without a network: docs/gpu.md
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

wheelhouse: $(STAMP) ## Fill wheelhouse/ with all that bench-gpu needs on a machine without a network (0.4 GB): make wheelhouse [ARGS="--python 3.12 --faiss true"]
	@$(BIN)/python -m benchmarks.wheelhouse $(ARGS)

performance: $(STAMP) ## Write docs/performance.md from benchmarks/results/
	@$(BIN)/python -m benchmarks.performance $(ARGS)

scale: $(STAMP) ## Compute the limits at full size, into docs/scale.md: make scale [ARGS="--gpus 16 --out mine.md"]
	@$(BIN)/python -m benchmarks.scale $(ARGS)

evidence: $(STAMP) ## Train and score variants of the method on small data (about 40 minutes on 2 cores): make evidence [ARGS="--real_clips dir --real_davis dir"]
	@$(BIN)/python -m benchmarks.evidence $(ARGS)

# Folders are passed through the environment, so that their names may contain $ and quotes.
shards verify preview knn: export GIVEN_DATA = $(value DATA)
shards verify preview knn: export GIVEN_OUT = $(value OUT)
shards verify preview knn: export GIVEN_SHARDS = $(value SHARDS)
shards verify preview knn: export GIVEN_WEIGHTS = $(value WEIGHTS)
shards verify preview knn: export GIVEN_FEATURES = $(value FEATURES)

shards: $(STAMP) ## Decode clips or images to shards: make shards DATA=dir OUT=dir [CONFIG=file.yaml] [RAY_ADDRESS=host:port] [ARGS="--option value"]
	@$(if $(and $(DATA),$(OUT)),,echo "error: make shards needs DATA=folder of class folders and OUT=folder for the shards" >&2; exit 2)
	@$(if $(RAY_ADDRESS),RAY_ADDRESS="$(RAY_ADDRESS)") $(BIN)/python -m pipeline.shards \
	  --data "$$GIVEN_DATA" --out "$$GIVEN_OUT" $(if $(CONFIG),--config "$(CONFIG)") $(ARGS)

verify: $(STAMP) ## Check every file and image of a dataset: make verify SHARDS=dir
	@$(if $(SHARDS),,echo "error: make verify needs SHARDS=folder of a dataset" >&2; exit 2)
	@$(BIN)/python -m pipeline.verify "$$GIVEN_SHARDS" $(ARGS)

preview: $(STAMP) ## Show a dataset as a page and a contact sheet: make preview SHARDS=dir [OUT=dir] [ARGS="--samples 24"]
	@$(if $(SHARDS),,echo "error: make preview needs SHARDS=folder of a dataset" >&2; exit 2)
	@$(BIN)/python -m pipeline.preview --shards "$$GIVEN_SHARDS" $(if $(OUT),--out "$$GIVEN_OUT") $(ARGS)

knn: $(STAMP) ## Find the nearest neighbours of images: make knn SHARDS=dir WEIGHTS=file.safetensors OUT=dir [FEATURES=file instead of WEIGHTS] [RAY_ADDRESS=host:port] [ARGS="-k 5"]
	@$(if $(and $(SHARDS),$(or $(WEIGHTS),$(FEATURES)),$(OUT)),,echo "error: make knn needs SHARDS=folder WEIGHTS=file.safetensors (or FEATURES=file) OUT=folder" >&2; exit 2)
	@$(if $(RAY_ADDRESS),RAY_ADDRESS="$(RAY_ADDRESS)") $(BIN)/python -m indexing.knn --shards "$$GIVEN_SHARDS" --out "$$GIVEN_OUT" \
	  $(if $(FEATURES),--features "$$GIVEN_FEATURES",--weights "$$GIVEN_WEIGHTS") $(ARGS)

clean: ## Remove .venv and demo/
	rm -rf $(VENV) demo
