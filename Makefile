# hedgecast: `make demo` and `make test` are the contract; the rest is for those who change the code.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Waiting threads that spin make two busy processes on two cores fifty times as slow.
export OMP_WAIT_POLICY ?= passive

.DEFAULT_GOAL := help
.PHONY: help install demo test check format proto bench bench-solver bench-surrogate bench-estimators \
  bench-reduction bench-bulk bench-decisions test-images test-no-ray test-lowest dist-check docs sbom \
  bench-sampler bench-serve bench-scenarios fuzz soak clean

help:  ## what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

install: $(INSTALLED)  ## everything into .venv

# torch first and alone: resolved together with the rest, pip may pick a far larger build of it.
$(INSTALLED): pyproject.toml deploy/constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hedgecast needs Python 3.11 or newer; $(PYTHON) is older: make PYTHON=python3.12 ..."; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c deploy/constraints.txt torch
	$(BIN)/python -m pip install --quiet -c deploy/constraints.txt -e '.[library,cluster,cpu,dev]'
	# The solver's loops, compiled once here, not in somebody's first solve.
	$(BIN)/python -m hedgecast.decisions.warm_up
	touch $@

demo: install  ## the main job on real data, end to end: runs/demo/report.html
	$(BIN)/hedgecast demo --output runs/demo

test: install  ## the whole test suite
	$(BIN)/python -m pytest

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

# skfolio asks for cvxpy-base, which is cvxpy under another name in the same folder: without its dependencies.
bench-decisions: install  ## methods on the benchmark tasks, hours; goes on where it stopped; docs/decisions.md
	$(BIN)/python -m pip install --quiet --no-deps 'skfolio>=1.12,<2' 'plotly>=6'
	$(BIN)/python benchmarks/bench_decisions.py

# Takes minutes and gigabytes: torch, Ray and the compiled loops, in a folder of its own.
test-images: install  ## the install steps of the client's and the CPU image, without Docker
	rm -rf build/images
	$(BIN)/python deploy/image_steps.py deploy/Dockerfile.client build/images/client
	$(BIN)/python deploy/image_steps.py deploy/Dockerfile.ray-cpu build/images/ray-cpu
	build/images/ray-cpu/opt/hedgecast/bin/ray --version

test-no-ray: install  ## unit tests where no process can import Ray
	PYTHONPATH=deploy/no_ray $(BIN)/python -m pytest tests/unit

test-lowest:  ## unit tests with the oldest versions that pyproject.toml promises, in build/lowest
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest
	build/lowest/bin/python -m pip install --quiet -c deploy/constraints-lowest.txt torch
	build/lowest/bin/python -m pip install --quiet -c deploy/constraints-lowest.txt \
	  -e '.[library,cluster,cpu,files,sppy,tracing]' pytest pytest-timeout hypothesis beartype cryptography PyYAML
	# Old packages use what newer ones of others deprecate, which is not ours to mend.
	build/lowest/bin/python -m pytest -W default::DeprecationWarning tests/unit

dist-check: install  ## wheel and sdist into dist/, installed and used as a stranger would
	$(BIN)/python deploy/dist_check.py dist

docs: install  ## the documentation as a site, in site/; warnings are errors
	$(BIN)/python deploy/grpc_reference.py
	$(BIN)/python deploy/benchmark_tables.py
	$(BIN)/mkdocs build --strict

sbom: install  ## sbom.json: every package of .venv with version and license, as CycloneDX
	$(BIN)/cyclonedx-py environment --pyproject pyproject.toml --mc-type library --output-reproducible \
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
