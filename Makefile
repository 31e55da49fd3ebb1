# Loqua. `make help` lists the targets; every one sets up what it needs.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
RUN := PATH="$(CURDIR)/$(VENV)/bin:$$PATH"
CLUSTER ?= cluster/machines.yaml
STAGES ?= evaluate

.PHONY: help environment repro test test-cluster test-faults check lint format bench bench-features schedules \
  ablations pretrain ui cluster-up cluster-submit cluster-send cluster-fetch cluster-down clean

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

test: $(READY) ## run the tests
	$(RUN) pytest

test-cluster: $(READY) ## run a sweep on three hosts made on this machine (root; 10 to 20 minutes)
	$(RUN) pytest -m cluster tests/cluster

test-faults: $(READY) ## kill workers, nodes and drivers, fill disks, interrupt: all for real
	$(RUN) pytest -m faults

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
