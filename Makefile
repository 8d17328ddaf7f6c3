# `make help` lists the targets. Each procedure is one line that calls its playbook; EXTRA passes options through:
#   make emergency-restart EXTRA="--check"
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

export STREAMOPS_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/streamops
export PATH := $(CURDIR)/.venv/bin:$(PATH)
# Molecule's own default is one folder for all clones of the same name.
export MOLECULE_EPHEMERAL_DIRECTORY := $(CURDIR)/.cache/molecule

PLAY := ansible-playbook
PYTEST := pytest

.PHONY: help
help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Set-up

.PHONY: prerequisites venv lock
prerequisites:  ## find the programs that everything stands on; as root on Debian or Ubuntu, install them
	@.config/setup/prerequisites.sh
venv: prerequisites  ## bring .venv to what the locked requirements say
	@.config/setup/venv.sh
lock: venv  ## make the locked requirements anew from the *.in files
	@for name in requirements requirements-bootstrap requirements-go; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header $$name.in -o $$name.txt; \
	done

# Life of the sandbox

.PHONY: up down clean
up: venv  ## deploy the sandbox, or what of it is missing, and prove that events reach the table
	@$(PLAY) playbooks/site.yml $(EXTRA)
down: venv  ## stop the sandbox; its data stays
	@$(PLAY) playbooks/stack-down.yml $(EXTRA)
clean: venv  ## list what would be removed; CONFIRM=<the cluster id that the list prints> removes it
	@$(PLAY) playbooks/sandbox-remove.yml $(if $(CONFIRM),-e confirm=$(CONFIRM),--check) $(EXTRA)

# Containers: every service in a container of this machine's Docker engine (inventory/containers)

.PHONY: docker-engine base-image
docker-engine: prerequisites  ## start this machine's Docker engine; as root on Debian or Ubuntu, install it
	@.config/setup/docker-engine.sh
base-image: prerequisites  ## build the image that all others are built from, of Debian's packages
	@docker tag "$$(.config/setup/base-image.sh)" streamops/base:bookworm

# Machines: an inventory of your own, made from inventory/hosts (docs/many-machines.md)

.PHONY: credentials
credentials: export CREDENTIALS = {"path": "{{ sandbox_credentials_file }}", "kafka": "{{ sandbox_kafka_principals }}", \
  "s3": "{{ sandbox_s3_users }}", "tokens": "{{ sandbox_tokens }}"}
credentials: venv  ## generate what credentials.sample.json shows, encrypted with your vault; INVENTORY=inventory/NAME
	@test -n "$(INVENTORY)" || { echo "INVENTORY: found nothing, expected inventory/NAME" >&2; exit 2; }
	@umask 077; ansible localhost -i "$(INVENTORY)" -m streamops.runbook.sandbox_secrets -a "$$CREDENTIALS"
	@ansible-vault encrypt "$(INVENTORY)/credentials.json" || { rm -f "$(INVENTORY)/credentials.json"; exit 1; }

# Procedures

.PHONY: stack-up status-all health-check health-check-all emergency-restart restart-all
.PHONY: metrics-check dashboard-check monitoring-restart monitoring-configure notify
stack-up: venv  ## start what is deployed and stopped
	@$(PLAY) playbooks/stack-up.yml $(EXTRA)
status-all: venv  ## one table of all services
	@$(PLAY) playbooks/status-all.yml $(EXTRA)
health-check: venv  ## is the pipeline healthy: the exit code is the answer
	@$(PLAY) playbooks/health-check.yml $(EXTRA)
health-check-all: venv  ## the same, every check there is
	@$(PLAY) playbooks/health-check.yml -e scope=all $(EXTRA)
emergency-restart: venv  ## bring back what is down, and prove it
	@$(PLAY) playbooks/emergency-restart.yml $(EXTRA)

restart-all: venv  ## restart every service in order, and prove that data flows
	@$(PLAY) playbooks/restart-all.yml $(EXTRA)
metrics-check: venv  ## the five metrics beside their thresholds
	@$(PLAY) playbooks/metrics-check.yml $(EXTRA)
dashboard-check: venv  ## the daily checklist, with figures
	@$(PLAY) playbooks/dashboard-check.yml $(EXTRA)
monitoring-restart: venv  ## restart what watches and nothing else
	@$(PLAY) playbooks/monitoring-restart.yml $(EXTRA)
monitoring-configure: venv  ## validate, swap and reload the configuration of what watches
	@$(PLAY) playbooks/monitoring-configure.yml $(EXTRA)
# Both go by the environment: no quote in them can reach the shell.
NOTICE = $(if $(TEXT),-e '{"text": "{{ lookup(\"env\", \"NOTICE_TEXT\") }}"}')
NOTICE += $(if $(SEVERITY),-e '{"severity": "{{ lookup(\"env\", \"NOTICE_SEVERITY\") }}"}')
notify: export NOTICE_TEXT = $(TEXT)
notify: export NOTICE_SEVERITY = $(SEVERITY)
notify: venv  ## deliver what waits in the spool; TEXT="..." and SEVERITY=P2 send a notice of your own
	@$(PLAY) playbooks/notify.yml $(NOTICE) $(EXTRA)

# Proof

.PHONY: check test test-hosts soak bench
CHECK := $(PYTEST) -n logical --maxprocesses 8 --dist worksteal tests/lint tests/unit tests/contract
check: venv  ## lint, unit and contract tests
	@$(CHECK) $(ARGS)
# In two parts, since a lab has the machine for itself; the last lines count both. ARGS goes to the second.
test: COUNTS := .cache/evidence/counts.json
test: venv  ## everything: lint, unit, contract, end to end, and each scenario of faults, on three inventories
	@rm -f $(COUNTS); code=0; $(CHECK) --counts $(COUNTS) || code=$$?; \
	  $(PYTEST) tests/e2e --counts $(COUNTS) $(ARGS) || code=$$?; exit $$code
test-hosts: venv  ## of `make test` the scenario of machines over SSH alone: six containers that stand for them
	@$(PYTEST) tests/e2e/test_scenarios.py --scenario hosts $(ARGS)
soak: RUNS ?= 5
soak: venv  ## every scenario that `make test` runs, RUNS times in a row (5), each run on a fresh lab; a line a run
	@python tests/bench/soak.py --runs $(RUNS) $(ARGS)
bench: venv  ## each budget beside its floor, three times
	@python tests/bench/bench.py $(ARGS)
