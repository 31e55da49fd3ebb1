# Loqua. `make help` lists the targets; every one sets up what it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DASHBOARD_PORT ?= 8080
# Columns that `make compare` leaves out: files, other methods, the rest of the champion's numbers.
UNCOMPARED := Created|Executor|(pipeline|stages|artifacts|data)/|(zero_shot|coop|compact|pareto[^.]*)\.|[a-z_]+\.(base$$|new$$|.*(held_out|spread|/))
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
CLUSTER ?= cluster/machines.yaml
STAGES ?= evaluate

.PHONY: help environment repro check test test-browser test-cluster test-experiments test-faults lint format \
  bench bench-features bench-scale bench-serving bench-tracking schedules ablations pretrain ui dashboard compare \
  mlflow-server cluster-up cluster-submit cluster-send cluster-fetch cluster-down clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

environment: $(READY) ## set up .venv and nothing else

repro: $(READY) ## run the whole pipeline (what changed of it)
	$(RUN) dvc repro

test: $(READY) ## run the tests, two files at a time
	$(RUN) pytest -n 2 --dist loadfile

test-browser: $(READY) ## look at the report and the MLflow UI with Chromium (pictures in artifacts/screenshots)
	$(RUN) pytest -m browser tests/browser

test-cluster: $(READY) ## run a sweep on three hosts made on this machine (root; ten minutes)
	$(RUN) pytest -m cluster tests/cluster

test-experiments: $(READY) ## run DVC's experiments for real, queued and in place (minutes)
	$(RUN) pytest -m experiments

test-faults: $(READY) ## kill workers, nodes and drivers, fill disks, interrupt: all for real
	$(RUN) pytest -m faults

lint: $(READY) ## check style and types
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) lint-imports

check: lint test ## everything that CI checks

format: $(READY) ## put the code into shape
	$(RUN) ruff check --fix .
	$(RUN) ruff format .

bench: $(READY) ## measure speed and memory into bench/results.json (15 quiet minutes)
	$(RUN) dvc repro -q features
	$(RUN) python -m bench

bench-features: $(READY) ## measure encoding from files into bench/features.json (half an hour)
	$(RUN) python -m bench.features

bench-scale: $(READY) ## measure the controller as trials grow into bench/scale.json (15 quiet minutes)
	$(RUN) python -m bench.scale

bench-serving: $(READY) ## measure serving into bench/serving.json (ten quiet minutes)
	$(RUN) python -m bench.serving

bench-tracking: $(READY) ## measure what recording a sweep costs into bench/tracking.json (ten minutes)
	$(RUN) python -m bench.tracking

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

mlflow-server: $(READY) ## serve runs and models from PostgreSQL on http://127.0.0.1:5000 (docs/tracking.md)
	$(RUN) python -m stages.server $(OPTIONS)

cluster-up: $(READY) ## start the machines of CLUSTER=cluster/machines.yaml
	$(RUN) python -m stages.cluster up $(CLUSTER)

cluster-submit: $(READY) ## run STAGES=evaluate on them; what they make comes back
	$(RUN) python -m stages.cluster submit $(CLUSTER) $(STAGES)

cluster-send: $(READY) ## send the project alone, for `ray job submit` (docs/cluster.md)
	$(RUN) python -m stages.cluster send $(CLUSTER)

cluster-fetch: $(READY) ## bring back what a run left there that went on without you
	$(RUN) python -m stages.cluster fetch $(CLUSTER)

cluster-down: $(READY) ## stop them
	$(RUN) python -m stages.cluster down $(CLUSTER)

clean: ## remove everything that the pipeline made, the environment excepted
	rm -rf $(filter-out artifacts/pretrain,$(wildcard artifacts/*)) .dvc/cache .dvc/tmp
