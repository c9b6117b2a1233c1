# make demo: the whole idea on this machine; make test: every check. Both need Python 3.11+ alone.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
OUT := out
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint types unit docs clean

demo: $(VENV)/.demo
	@mkdir -p $(OUT)
	@echo "== The schedule: 1F1B, 4 stages, 8 microbatches"
	$(BIN)/pipetwin schedule show 1f1b --stages 4 --microbatches 8
	@echo "== Simulated: GPT-3 175B on 1,024 A100"
	$(BIN)/pipetwin simulate megatron/175b --report $(OUT)/gpt3-175b.html \
		--trace $(OUT)/gpt3-175b.trace.json.gz --force
	@echo "== Executed: a small GPT on two cores of this machine, checked against a single process"
	$(BIN)/pipetwin run local-2rank --check -o $(OUT)/local-2rank.json --force
	@echo "== Simulated against measured: calibrated on other runs, in turn with the judged ones"
	$(BIN)/pipetwin validate local-2rank local-2rank-gpipe \
		--calibrate-on calibrate-2rank-a calibrate-2rank-b --rounds 3 \
		--report $(OUT)/closed-loop.html --force
	@echo "== Open $(OUT)/gpt3-175b.html and $(OUT)/closed-loop.html in a browser"

test: lint types unit

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

unit: $(VENV)/.test
	$(BIN)/python -m pytest

docs: $(VENV)/.demo
	$(BIN)/python docs/write_reference.py

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pipetwin needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[executor]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) -e '.[executor,data,cluster,test]'
	@touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(OUT) .mypy_cache .ruff_cache .pytest_cache .hypothesis
