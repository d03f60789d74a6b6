# make demo    train a small GPT-2 on the Python installation's own documentation, in a few minutes
# make test    run the tests
# make coverage   list the lines of the core path that no test runs; under 95 % it fails
# make setup   create the virtual environment .venv; every other target does so too
# make lint    check style and types
# make audit   look for known vulnerabilities of the pinned packages, and for installed files that were changed
# make bench   run every benchmark; each prints one line of JSON
# make clean   remove .venv and what was built; runs stay
#
# Needs Python 3.11 or newer and uses the newest one installed, since newer ones get a newer JAX; to choose another:
# make setup PYTHON=python3.11. Installs JAX for the machine's NVIDIA GPU or TPU; to choose another device:
# make setup DEVICE=cpu, cuda12, cuda13 or tpu.

PYTHON ?= $(shell for python in python3.14 python3.13 python3.12 python3; do \
  $$python -c 'import ensurepip, venv' 2> /dev/null && { echo $$python; exit; }; done; echo python3)
DEVICE ?= $(shell sh estimator/system/accelerator.sh)
WHICH := import sys; print(sys.base_prefix, sys.version_info[:2])
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check install --quiet

.PHONY: setup demo test coverage lint audit bench clean
.DEFAULT_GOAL := setup

# --- the virtual environment: created once, updated when a requirements file changes ---

setup: $(VENV)/.core
ifneq ($(origin PYTHON),file)
	@test "$$($(PYTHON) -c '$(WHICH)')" = "$$($(PY) -c '$(WHICH)')" || { \
	  echo "error: $(VENV) was not made with $(PYTHON); to make it again: make clean setup PYTHON=$(PYTHON)" >&2; exit 1; }
endif

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: $(PYTHON) is missing or older than Python 3.11; name another one: make PYTHON=python3.13" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

ACCELERATOR := $(wildcard requirements-$(DEVICE).txt)

$(VENV)/.core: requirements.txt requirements-plot.txt constraints.txt $(ACCELERATOR) $(VENV)/.device-$(DEVICE)
	$(PIP) -r requirements.txt -r requirements-plot.txt $(addprefix -r ,$(ACCELERATOR))
	@touch $@

# One marker file per device, so that another choice installs another JAX.
$(VENV)/.device-$(DEVICE): | $(PY)
	@case "$(DEVICE)" in cpu|cuda12|cuda13|tpu) ;; \
	  *) echo "error: DEVICE=$(DEVICE): write cpu, cuda12, cuda13 or tpu" >&2; exit 1;; esac
	@rm -f $(VENV)/.device-*
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements-data.txt requirements-gcs.txt requirements-s3.txt requirements-export.txt requirements-serve.txt requirements-sweep.txt $(VENV)/.core
	$(PIP) -r requirements-dev.txt
	@touch $@

# --- the demo: make prints every command before it runs; `rm -r runs/demo` starts over ---

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
	$(PY) visualize.py $(DEMO)/model --figure $(DEMO)/curves.png
	$(DEMO_RUN) --predict_text "$(PROMPT)"

# --- checks ---

# Arguments for pytest: make test TESTS="tests/estimator/training/test_metrics_log.py -x". Two processes take a third
# less time than one, even on two cores; for a debugger, run one: TESTS="-n 0".
TESTS ?=

test: $(VENV)/.dev
	$(PY) -m pytest -n 2 --dist loadfile --max-worker-restart 1 $(TESTS)

# pyproject.toml lists the files of the core path.
CORE_TESTS := $(addprefix tests/,estimator/data estimator/parallel estimator/training estimator/test_*.py test_main.py \
  test_inputs.py test_optimizers.py models/gpt2/test_*.py models/gpt2/attention models/gpt2/decode)

coverage: $(VENV)/.dev
	@rm -rf build/coverage && mkdir -p build/coverage
	$(PY) -m coverage run -m pytest -n 2 --dist loadfile -m "not slow" $(CORE_TESTS)
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyrefly check

audit: $(VENV)/.core
	@test -x $(VENV)/audit/bin/pip-audit || { $(PY) -m venv $(VENV)/audit && \
	  $(VENV)/audit/bin/python -m pip --disable-pip-version-check install --quiet pip-audit==2.10.1; }
	$(PY) .ci/audit.py $(VENV)/audit/bin/pip-audit

# A benchmark without its peers measures only this project and reports that; after a failure the others still run.
BENCHMARKS = $(filter-out _%,$(basename $(notdir $(wildcard benchmarks/*.py))))

bench: $(VENV)/.core
	@failed=; for name in $(BENCHMARKS); do \
	  echo "$(PY) -m benchmarks.$$name" >&2; $(PY) -m benchmarks.$$name || failed="$$failed $$name"; \
	done; test -z "$$failed" || { echo "failed:$$failed" >&2; exit 1; }

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
