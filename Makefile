# Loqua. `make help` lists the targets; every one sets up what it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DASHBOARD_PORT ?= 8080
# Columns that `make compare` leaves out: files, other methods, the rest of the champion's numbers.
UNCOMPARED := Created|Executor|(pipeline|stages|artifacts|data)/|(zero_shot|coop|compact)\.|.*(held_out|spread)|champion\.(base|new)$$
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"

.PHONY: help repro test check lint format bench bench-features schedules ablations pretrain ui dashboard \
	compare test-experiments clean

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

test-experiments: $(READY) ## run DVC experiments for real, queued and in place (minutes)
	$(RUN) pytest -m experiments

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

dashboard: $(READY) ## open the studies in Optuna's dashboard (DASHBOARD_PORT, 8080)
	@test -f artifacts/state/optuna.db || { echo "error: no study yet; make repro makes one" >&2; exit 1; }
	$(RUN) optuna-dashboard --host 127.0.0.1 --port $(DASHBOARD_PORT) sqlite:///artifacts/state/optuna.db

compare: $(READY) ## show DVC's experiments side by side: what was changed, and how the champion does
	$(RUN) dvc exp show --no-pager --only-changed --drop '$(UNCOMPARED)'

clean: ## remove everything that the pipeline made, the environment excepted
	rm -rf $(filter-out artifacts/pretrain,$(wildcard artifacts/*)) .dvc/cache .dvc/tmp
