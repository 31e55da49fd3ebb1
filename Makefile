# `make help` lists the targets. Each one sets up the environment first, if needed.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DASHBOARD_PORT ?= 8080
# Columns that `make compare` hides: files, other methods, the rest of the champion's numbers.
UNCOMPARED := Created|Executor|(pipeline|stages|artifacts|data)/|(zero_shot|coop|compact|pareto[^.]*)\.|[a-z_]+\.(base$$|new$$|.*(held_out|spread|/))
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
CLUSTER ?= cluster/machines.yaml
STAGES ?= evaluate

.PHONY: help environment repro check test test-browser test-cluster test-experiments test-faults lint format \
  bench bench-features bench-scale bench-serving bench-tracking schedules ablations pretrain ui serve dashboard compare \
  mlflow-server cluster-up cluster-submit cluster-send cluster-fetch cluster-down clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-17s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

environment: $(READY) ## set up .venv, and nothing else

repro: $(READY) ## run the pipeline: every stage whose inputs changed
	$(RUN) dvc repro

test: $(READY) ## run the tests, two files at a time
	$(RUN) pytest -n 2 --dist loadfile

test-browser: $(READY) ## test the report and the MLflow UI in Chromium; screenshots in artifacts/screenshots
	$(RUN) pytest -m browser tests/browser

test-cluster: $(READY) ## test a sweep on three hosts made on this machine (needs root; ten minutes)
	$(RUN) pytest -m cluster tests/hosts

test-experiments: $(READY) ## test DVC's experiments, queued and in place (minutes)
	$(RUN) pytest -m experiments

test-faults: $(READY) ## test real faults: killed workers, nodes and drivers, full disks
	$(RUN) pytest -m faults

lint: $(READY) ## check style, types and imports
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

check: lint test ## run lint and test, as CI does

format: $(READY) ## format the code
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: $(READY) ## measure speed and memory; writes bench/results.json (15 quiet minutes)
	$(RUN) dvc repro -q features
	$(RUN) python -m bench

bench-features: $(READY) ## measure encoding; writes bench/features.json (half an hour)
	$(RUN) python -m bench.features

bench-scale: $(READY) ## measure the controller; writes bench/scale.json (15 quiet minutes)
	$(RUN) python -m bench.scale

bench-serving: $(READY) ## measure serving; writes bench/serving.json (ten quiet minutes)
	$(RUN) python -m bench.serving

bench-tracking: $(READY) ## measure recording; writes bench/tracking.json (ten minutes)
	$(RUN) python -m bench.tracking

schedules: $(READY) ## compare the schedules; writes docs/schedules.md (hours; resumes)
	$(RUN) dvc repro -q features
	$(RUN) python -m bench.schedules

ablations: $(READY) ## repeat the papers' ablations; writes docs/ablations.md (an hour; resumes)
	$(RUN) dvc repro -q features
	$(RUN) python -m bench.ablations

pretrain: $(READY) ## train the embedded backbone again, from its last checkpoint if it was interrupted
	$(RUN) dvc unfreeze pretrain
	$(RUN) dvc repro --single-item --force pretrain; status=$$?; $(RUN) dvc freeze pretrain; exit $$status

ui: $(READY) ## open the MLflow UI on http://127.0.0.1:5000
	$(RUN) loqua ui

serve: $(READY) ## serve a model over HTTP (MODEL=models:/NAME@ALIAS; default: the champion)
	$(RUN) loqua serve $(MODEL)

dashboard: $(READY) ## open the studies in Optuna's dashboard (DASHBOARD_PORT=8080)
	@test -f artifacts/state/optuna.db || { echo "error: no study yet; run make repro first" >&2; exit 1; }
	$(RUN) optuna-dashboard --host 127.0.0.1 --port $(DASHBOARD_PORT) sqlite:///artifacts/state/optuna.db

compare: $(READY) ## compare DVC's experiments: what changed, and the champion's numbers
	$(RUN) dvc exp show --no-pager --only-changed --drop '$(UNCOMPARED)'

mlflow-server: $(READY) ## serve runs and models from PostgreSQL on http://127.0.0.1:5000
	$(RUN) loqua server $(OPTIONS)

cluster-up: $(READY) ## start the machines of CLUSTER=cluster/machines.yaml
	$(RUN) loqua cluster up --cluster $(CLUSTER)

cluster-submit: $(READY) ## run STAGES=evaluate there, and fetch the results
	$(RUN) loqua cluster submit --cluster $(CLUSTER) $(STAGES)

cluster-send: $(READY) ## send the project there, and run nothing
	$(RUN) loqua cluster send --cluster $(CLUSTER)

cluster-fetch: $(READY) ## fetch the results of runs there
	$(RUN) loqua cluster fetch --cluster $(CLUSTER)

cluster-down: $(READY) ## stop the machines
	$(RUN) loqua cluster down --cluster $(CLUSTER)

clean: ## remove everything that the pipeline made, except the environment
	rm -rf $(filter-out artifacts/pretrain,$(wildcard artifacts/*)) .dvc/cache .dvc/tmp
