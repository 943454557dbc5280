# hedgecast: `make demo` and `make test` are the contract; the rest is for those who change the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RELEASE := $(VENV)/release
INSTALLED := $(VENV)/.installed
COMPILED := $(VENV)/.compiled

# Waiting threads that spin make two busy processes on two cores fifty times as slow.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help install demo test check format proto bench bench-solver bench-surrogate bench-estimators \
  bench-reduction bench-bulk bench-decisions test-images test-no-ray test-lowest dist-check docs sbom \
  bench-sampler bench-serve bench-scenarios fuzz soak clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: $(COMPILED)  ## everything into .venv

# torch first and alone: resolved together with the rest, pip may pick a far larger build of it.
$(INSTALLED): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hedgecast needs Python 3.11 or newer; $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c deploy/constraints.txt torch
	$(BIN)/python -m pip install --quiet -c deploy/constraints.txt -e '.[library,cluster,cpu,dev]'
	# In an environment of its own: it brings jsonschema's rfc3987-syntax, with which every process that imports
	# Ray starts 1.4 s of processor time later, and Ray's tests start some hundreds.
	test -x $(RELEASE)/bin/python || $(PYTHON) -m venv $(RELEASE)
	$(RELEASE)/bin/python -m pip install --quiet -c deploy/constraints.txt cyclonedx-bom
	$(BIN)/python -m pip uninstall -qq --yes rfc3987-syntax
	touch $@

# The solver's loops, compiled here, again where they changed: not in somebody's first solve, nor in a test, whose
# time runs out on a busy machine (12 minutes of waiting were seen), so that all that share its model fail.
$(COMPILED): $(INSTALLED) $(wildcard platform/hedgecast/decisions/*.py)
	$(BIN)/python -m hedgecast.decisions.warm_up
	touch $@

demo: install  ## the main job on real data, end to end: runs/demo/report.html
	$(BIN)/hedgecast demo --output runs/demo

# Two processes where no test starts Ray, whose own processes would starve the second's tests: those are alone.
# Both parts run, whatever the first says.
ON_RAY := tests/e2e tests/integration/test_serve.py
# Named at the end: where the suite's time goes.
SLOWEST := --durations=15 --durations-min=20

test: install  ## the whole test suite
	$(BIN)/python -m pytest -n 2 --dist loadfile $(SLOWEST) $(addprefix --ignore=,$(ON_RAY)); \
	  first=$$?; $(BIN)/python -m pytest $(SLOWEST) $(ON_RAY) && exit $$first

check: install  ## format, lint, types, import rules, protos: what a reviewer expects
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	cd protos && ../$(BIN)/buf lint && ../$(BIN)/buf format --diff --exit-code
	$(BIN)/python deploy/generate_protos.py --check
	$(BIN)/python deploy/proto_baseline.py --check

format: install  ## rewrite in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

proto: install  ## platform/hedgecast/rpc/v1 and docs/grpc.md from protos/; refused where old clients would break
	$(BIN)/python deploy/proto_baseline.py
	$(BIN)/python deploy/generate_protos.py
	$(BIN)/python deploy/grpc_reference.py

bench: bench-solver bench-surrogate bench-estimators bench-reduction bench-sampler bench-bulk bench-serve bench-scenarios bench-decisions  ## all benchmarks

bench-solver: install  ## the structured solve against its peers; results in benchmarks/results/
	$(BIN)/python -m pip install --quiet -c deploy/constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench_solver.py

bench-surrogate: install  ## the surrogate's gate on real history, held-out sets; results in benchmarks/results/
	$(BIN)/python benchmarks/bench_surrogate.py

bench-estimators: install  ## bias and variance of the estimators where the gradient is known; benchmarks/results/
	$(BIN)/python benchmarks/bench_estimators.py

bench-reduction: install  ## what reduced scenario sets cost, in units of cost; benchmarks/results/
	$(BIN)/python benchmarks/bench_reduction.py

bench-bulk: install  ## hedgecast generate against the bare loop, and its memory; benchmarks/results/bulk.json
	$(BIN)/python benchmarks/bench_bulk.py

bench-gpu: install  ## drawing and training on a GPU, where there is one; benchmarks/results/gpu_*.json
	$(BIN)/python benchmarks/bench_gpu.py

# skfolio asks for cvxpy-base, which is cvxpy under another name in the same folder: without its dependencies.
bench-decisions: install  ## methods on the benchmark tasks, hours; goes on where it stopped; docs/decisions.md
	$(BIN)/python -m pip install --quiet --no-deps 'skfolio>=1.12,<2' 'plotly>=6'
	$(BIN)/python benchmarks/bench_decisions.py

# Takes minutes and gigabytes: torch, Ray, CUDA's libraries and the compiled loops, in a folder of its own.
test-images: install  ## the install steps of the three images, without Docker, and what they start
	rm -rf build/images
	$(BIN)/python deploy/image_steps.py deploy/Dockerfile.client build/images/client
	$(BIN)/python deploy/image_steps.py deploy/Dockerfile.ray-cpu build/images/ray-cpu
	$(BIN)/python deploy/image_steps.py deploy/Dockerfile.ray-gpu build/images/ray-gpu

# All unit tests, before a release; with PART=1 those of CI, which meet what the two are about: commands, clients and
# the service in process; packages that have a lower bound, as far as no compiled loops (which take minutes) or server
# must run for them. Of Ray and torch the oldest are those that all tests run with.
NO_RAY_PART := tests/unit/cli/test_cli.py::test_help_names_every_command tests/unit/client tests/unit/core \
  tests/unit/rpc tests/unit/learning/test_trainers.py tests/unit/service/test_server.py
LOWEST_PART := tests/unit/core tests/unit/rpc tests/unit/data tests/unit/diffusion tests/unit/scenarios \
  tests/unit/outcomes tests/unit/decisions/test_reference.py tests/unit/decisions/test_layers.py \
  tests/unit/programs/test_risk.py tests/unit/programs/test_measures.py tests/unit/programs/test_mpi_sppy_export.py \
  tests/unit/registry/test_bundle.py tests/unit/registry/test_half.py tests/unit/registry/test_session.py \
  tests/unit/registry/test_store.py tests/unit/service/test_settings.py

test-no-ray: install  ## unit tests where no process can import Ray (PART=1: those of CI)
	PYTHONPATH=$(CURDIR)/deploy/no_ray$${PYTHONPATH:+:$$PYTHONPATH} \
	  $(BIN)/python -m pytest $(if $(PART),$(NO_RAY_PART),tests/unit)

# What the tests themselves need is promised to nobody.
LOWEST_LOOPS = NUMBA_CACHE_DIR=$(CURDIR)/build/lowest/numba
LOWEST_TOOLS = pytest pytest-timeout hypothesis beartype PyYAML

test-lowest:  ## unit tests with the oldest versions that pyproject.toml promises, in build/lowest (PART=1: those of CI)
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet -c deploy/constraints-lowest.txt torch
	build/lowest/bin/python -m pip install --quiet -c deploy/constraints-lowest.txt \
	  -e '.[library,cluster,cpu,files,sppy,tracing]' cryptography \
	  $(foreach tool,$(LOWEST_TOOLS),$(shell grep '^$(tool)=' deploy/constraints.txt))
	# The compiled loops of old versions lie apart: those of .venv would be compiled anew after them. They are
	# compiled here, where nothing is timed: on a busy machine it takes longer than a test may. CI's part has none.
	$(if $(PART),,$(LOWEST_LOOPS) build/lowest/bin/python -m hedgecast.decisions.warm_up)
	# Old packages use what newer ones of others deprecate, which is not ours to mend.
	$(LOWEST_LOOPS) build/lowest/bin/python -m pytest -W default::DeprecationWarning \
	  $(if $(PART),$(LOWEST_PART),tests/unit)

dist-check: install  ## wheel and sdist into dist/, installed and used as a stranger would
	$(BIN)/python deploy/dist_check.py dist

docs: install  ## the documentation as a site, in site/; warnings are errors
	$(BIN)/python deploy/grpc_reference.py
	$(BIN)/python deploy/benchmark_tables.py
	$(BIN)/mkdocs build --strict

sbom: install  ## sbom.json: every package of .venv with version and license, as CycloneDX
	$(RELEASE)/bin/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
	  --output-file sbom.json $(BIN)/python

bench-sampler: install  ## students and solvers of few network calls, an hour; goes on where it stopped; docs/sampler.md
	$(BIN)/python benchmarks/bench_sampler.py

bench-serve: install  ## Decide served against called directly, in process and on Ray Serve; docs/serving.md
	$(BIN)/python benchmarks/bench_serve.py

bench-scenarios: install  ## scenarios against diffusers, NeuralForecast, Flight and more; docs/scenarios-benchmark.md
	$(BIN)/python -m pip install --quiet -c deploy/constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/bench_scenarios.py

fuzz: install  ## over 20,000 hostile inputs against a real server; benchmarks/results/fuzz_service.json
	$(BIN)/python benchmarks/fuzz_service.py --output benchmarks/results/fuzz_service.json

# Takes its time and some gigabytes of memory: two solvers, two denoisers, and what replaces them.
soak: install  ## 20 minutes of mixed load while replicas die and the champion changes; docs/soak.md
	$(BIN)/python benchmarks/soak_service.py

clean:  ## remove the environment and what runs wrote
	rm -rf $(VENV) runs build dist
	find platform workers -name __pycache__ -prune -exec rm -rf {} +
