# Loqua. `make help` lists the targets; every one sets up what it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: help repro test test-browser check lint format bench bench-features schedules ablations pretrain ui clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

repro: $(READY) ## run the whole pipeline (what changed of it)
	$(RUN) dvc repro

test: $(READY) ## run the tests
	$(RUN) pytest

test-browser: $(READY) ## look at the report and the MLflow UI with Chromium (pictures in artifacts/screenshots)
	$(RUN) pytest -m browser tests/browser

lint: $(READY) ## check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy

check: lint test ## everything that CI checks

format: $(READY) ## put the code into shape
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: $(READY) ## measure speed and memory into bench/results.json (15 quiet minutes)
	$(RUN) dvc repro -q features
	$(RUN) python -m bench

bench-features: $(READY) ## measure encoding from files into bench/features.json (half an hour)
	$(RUN) python -m bench.features

schedules: $(READY) ## measure fast against CoOp's schedule into docs/schedules.md (hours; resumes)
	$(RUN) dvc repro -q features
	$(RUN) python -m bench.schedules

ablations: $(READY) ## ask the papers' questions again into docs/ablations.md (an hour; resumes)
	$(RUN) dvc repro -q features
	$(RUN) python -m bench.ablations

pretrain: $(READY) ## rebuild the embedded backbone from its drawings (about 40 minutes)
	$(RUN) dvc unfreeze pretrain
	$(RUN) dvc repro --single-item --force pretrain; status=$$?; $(RUN) dvc freeze pretrain; exit $$status

ui: $(READY) ## open the MLflow UI on http://127.0.0.1:5000
	$(RUN) python -m stages.ui

clean: ## remove everything that the pipeline made, the environment excepted
	rm -rf $(filter-out artifacts/pretrain,$(wildcard artifacts/*)) .dvc/cache .dvc/tmp
