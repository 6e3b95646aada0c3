# make demo   install into .venv and print Table 11 for this machine (CPU or GPU)
# make test   the tests that need no GPU          make lint      ruff and mypy --strict
# make bench  the CPU speed figures of README     make test-gpu  the tests that need one
# make records-gpu   measure every suite on this GPU into reports/NAME-OF-GPU, with tables
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
RESULTS ?= csbench-results
# Exit code 5: measured, but this machine was busy. The tables say so; it is no reason to stop.
NOISY_IS_FINE = || test $$? -eq 5

.PHONY: install demo test lint test-gpu sanitize-gpu records-gpu bench wheel clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/csbench infer --model resnet50 --pattern block -o $(RESULTS)/records.jsonl $(NOISY_IS_FINE)
	$(BIN)/csbench report $(RESULTS)/records.jsonl --table table11 --format markdown

test: install
	$(BIN)/python -m pytest -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check csbench tests
	$(BIN)/ruff format --check csbench tests
	$(BIN)/mypy

# On a machine with a GPU torch is usually there already: use it with PYTHON=python3 and no venv.
GPU_PYTHON = $(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON))

# Side by side where pytest-xdist is installed: most of the time goes into compiling kernels.
test-gpu:
	$(GPU_PYTHON) -m pytest -m gpu tests/gpu $$($(GPU_PYTHON) -c 'import xdist' 2>&- && echo -n 8 --dist worksteal)

# compute-sanitizer over a few tests of every family of kernels, minutes.
sanitize-gpu:
	$(GPU_PYTHON) tests/gpu/sanitize.py

# Each suite at most LIMIT seconds, what matters most first; typed again it goes on where it ended.
# DEVICES=0,1 shares the cases of a suite among GPUs.
# What failed or was noisy (3, 5), ran out of time (124) or was interrupted (130) is in the records.
SUITES ?= table11 resnet50_latency resnet50_throughput patterns training_hours layers aa
LIMIT ?= 600
GPU = $(shell nvidia-smi --query-gpu=name --format=csv,noheader -i 0 2>&- | tr A-Z a-z)
REPORTS ?= reports/$(or $(shell echo $(GPU:nvidia%=%) | tr ' ' -),$(error no GPU; give REPORTS=FOLDER))
CSBENCH = $(GPU_PYTHON) -m csbench

.NOTPARALLEL:
records-gpu: $(SUITES:%=records/%)

records/%:
	timeout -s INT $(LIMIT) $(CSBENCH) run $* --resume -v $(if $(filter training%,$*),,$(DEVICES:%=--devices %)) -o $(REPORTS)/$*.jsonl >/dev/null; \
	  case $$? in 0|3|5|124|130) ;; *) exit 1 ;; esac
	test ! -s $(REPORTS)/$*.jsonl || { \
	  $(CSBENCH) report $(REPORTS)/$*.jsonl --format markdown -o $(REPORTS)/$*.md && \
	  $(CSBENCH) report $(REPORTS)/$*.jsonl --format latex -o $(REPORTS)/$*.tex \
	    $(if $(filter patterns,$*),--figure $(REPORTS)/$*.svg --figure $(REPORTS)/$*.png); }

bench: install
	$(BIN)/csbench run resnet50 --resume -o $(RESULTS)/resnet50.jsonl $(NOISY_IS_FINE)
	$(BIN)/csbench report $(RESULTS)/resnet50.jsonl --format text

wheel: install
	$(BIN)/python -m build --wheel

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
