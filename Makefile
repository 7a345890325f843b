# Everything runs inside .venv, made on the first call: only python3 (3.11 or newer), pip and make are needed.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
TORCH := 2.13.0

.PHONY: help setup demo test tests test-all coverage bench lint types docs constraints clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(STAMP)  ## install ropevit and its tools into .venv

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --compile-bytecode \
		--editable '.[test]'
	@touch $(STAMP)

demo: $(STAMP)  ## run the main job: compare position embeddings on the embedded images (about 5 minutes)
	$(BIN)/ropevit study --out runs/demo --resume

WORKERS := -n 2 --dist loadfile --no-loadscope-reorder

# Bytecode is kept: without it, every process that the tests start would compile the package anew.
test test-all: export PYTHONDONTWRITEBYTECODE :=
test: $(STAMP) lint tests  ## check style, and run the tests that are not marked "full"

tests: $(STAMP)
	$(BIN)/python -m pytest $(WORKERS) -m "not full"

test-all: $(STAMP) lint  ## run everything: style, types, those tests, then the ones marked "full"
	@$(MAKE) --no-print-directory --jobs 2 types tests
	$(BIN)/python -m pytest $(WORKERS) -m full

coverage: $(STAMP)  ## run the tests that are not marked "full", and check how much of the package they execute
	$(BIN)/python -m pytest $(WORKERS) -m "not full" --cov

bench: $(STAMP)  ## check what speed depends on: kernel launches, bytes, registers, MACs, memory (counts, not times)
	$(BIN)/python -m pytest tests/kernels/test_costs.py tests/kernels/test_triton_code.py tests/models/test_cost.py \
		tests/models/test_memory.py tests/models/test_step_memory.py

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)  ## check types
	$(BIN)/basedpyright

docs: $(STAMP)  ## build the guide into site/; a warning is an error
	$(BIN)/python -m sphinx -c docs -E -W --keep-going -q . site
	@echo "the guide is in site/docs/index.html"

constraints: $(STAMP)  ## pin the newest versions that work with torch $(TORCH)
	@echo "torch==$(TORCH)" > .venv/pins.txt
	$(BIN)/uv pip compile --quiet --upgrade --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
		--extra test --constraint .venv/pins.txt --output-file constraints.txt pyproject.toml
	@echo "uv==$$($(BIN)/uv --version | cut -d' ' -f2)" >> constraints.txt

clean:  ## remove what the other targets made
	rm -rf .venv .pytest_cache .ruff_cache dist site
