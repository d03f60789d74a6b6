# make demo    from the Python installation's own documentation to a small GPT-2 that writes, in a few minutes
# make test    the tests
# make setup   only the virtual environment .venv, which every target makes by itself
# make lint    style and types
# make bench   every benchmark, one JSON line each
#
# Needs Python 3.11 or newer; another interpreter than python3: make setup PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet

.PHONY: setup demo test lint bench clean
.DEFAULT_GOAL := setup

# --- the virtual environment: made once, brought up to date when a requirements file changes ---

setup: $(VENV)/.core

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11; name another one: make PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: requirements.txt requirements-plot.txt constraints.txt | $(PY)
	$(PIP) -r requirements.txt -r requirements-plot.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-data.txt requirements-gcs.txt requirements-s3.txt requirements-export.txt $(VENV)/.core
	$(PIP) -r requirements-dev.txt
	@touch $@

# --- the demonstration: every command is printed before it runs; `rm -r runs/demo` starts it afresh ---

DEMO := runs/demo
VOCABULARY := 2048
DEMO_RUN := $(PY) main.py --model configs/demo.json --set input=packed \
  --set data_path=$(DEMO)/shards --set encoder_path=$(DEMO)/encoder --set model_path=$(DEMO)/model
PROMPT := The following example shows how to

demo: $(VENV)/.core
	$(PY) datasets/python_docs.py --out $(DEMO)/text
	$(PY) datasets/train_tokenizer.py $(DEMO)/text --vocab_size $(VOCABULARY) --out $(DEMO)/encoder --overwrite
	$(PY) datasets/encode.py $(DEMO)/text --encoder $(DEMO)/encoder --out $(DEMO)/shards --name python_docs --overwrite
	$(DEMO_RUN)
	$(DEMO_RUN) --evaluate
	$(PY) visualize.py --run $(DEMO)/model --figure $(DEMO)/curves.png
	$(DEMO_RUN) --predict_text "$(PROMPT)"

# --- checks ---

# Arguments for pytest: make test TESTS="tests/test_metrics.py -x". Two processes take a third less time than one, on
# two cores too; all in one, for a debugger: TESTS="-n 0".
TESTS ?=

test: $(VENV)/.dev
	$(PY) -m pytest -n 2 --dist loadfile $(TESTS)

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyrefly check

# A benchmark whose peers are not installed says so and measures ours; one that fails is named, the others still run.
BENCHMARKS = $(filter-out _%,$(basename $(notdir $(wildcard benchmarks/*.py))))

bench: $(VENV)/.core
	@failed=; for name in $(BENCHMARKS); do \
	  echo "$(PY) -m benchmarks.$$name" >&2; $(PY) -m benchmarks.$$name || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
