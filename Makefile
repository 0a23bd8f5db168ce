# JaxParty. `make help` lists the targets. Each sets up or updates .venv first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv pip install --quiet --compile-bytecode --python $(PY)
UV_VERSION := 0.13.9
EXTRA ?=

# Variables on make's command line, except OWN, are passed to the launcher, which refuses unknown ones.
OWN := PYTHON EXTRA ARGS VENV
GIVEN = $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
quoted = '$(subst ','\'',$($(1)))'
arguments = $(foreach name,$(filter-out $(OWN) $(1),$(GIVEN)),$(name)=$(call quoted,$(name)))
# $(call only,A B): refuse any other variable on make's command line.
only = $(foreach name,$(filter-out PYTHON EXTRA VENV $(1),$(GIVEN)),$(error $(name): `make $@` does not read it; it reads $(or $(1),none)))

# Commands that read results find the S3 server through this variable.
ifdef STORAGE_ENDPOINT
export AWS_ENDPOINT_URL := $(STORAGE_ENDPOINT)
endif

.PHONY: help setup setup-dev sweep resume extend promote claim verdict rerun run collect diff index power ls report sensitivity fetch vaults episode dashboard watch test test-slow bench bench-learning bench-engines lint format lock clean

help: ## List the targets and their variables
	@echo 'usage: make TARGET [VARIABLE=value ...]'; echo
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@sed -nE 's/^#> ?//p' $(MAKEFILE_LIST)

# options: begin (python -m launcher.ask.tables writes what follows)
#> variables of `make sweep` (defaults are in sweeps/*.yaml):
#>   ALG               algorithm or alias (mappo, ff_mappo, …), or several separated by commas; required
#>   ENGINE            what runs the trials: native (this project's systems) or mava (those of an installed Mava;
#>                     docs/mava.md); default: native
#>   SAMPLES           configurations to draw for every algorithm and scenario; default: the sweep file's
#>   SCENARIO          scenarios separated by commas: p-base,p-no-rank; each gets the same configurations; default: the
#>                     sweep file's
#>   TIMESTEPS         environment steps per seed of a trial, such as 1e6; default: the sweep file's
#>   EVALUATIONS       evaluations per trial, evenly spaced; default: the sweep file's
#>   SEED              seed of the search, and system.seed of every trial; default: 0
#>   SEEDS             seeds per trial, trained side by side: SEED, SEED + 1, …; default: the sweep file's (3 for IPPO and
#>                     MAPPO), else 1
#>   AGGREGATE         how the seeds' scores are combined: mean, iqm, median, min; default: the sweep file's objective,
#>                     else mean
#>   BATCH             how the seeds of a trial are trained: map (one after another), vmap (one batched program), auto (the
#>                     faster one); default: auto
#>   SCENARIO_MODE     how several scenarios are combined: grid (every configuration in each), axis (one drawn per
#>                     configuration), mean (every configuration in each, scores averaged); default: grid
#>   SEARCH            how configurations are chosen: random, grid, optuna, hyperopt, bohb; default: random
#>   SAMPLER           Optuna's sampler: tpe, gp, cmaes, nsga2; default: tpe, for several objectives nsga2
#>   DUPLICATES        what to do with a configuration that is drawn again: seeds (train new seeds), reuse (copy its
#>                     results), refuse; default: seeds
#>   SCHEDULER         fifo (run every trial to its end), asha, median, hyperband (stop weak trials early), pbt, pb2 (weak
#>                     trials continue from better ones); default: fifo (with bohb: hyperband)
#>   FROM              earlier sweeps' folders, separated by commas; the searcher starts from their results
#>   WORKERS           worker processes; default: one per core or accelerator
#>   PACK              trials per worker; those with the same program are trained in one batch; default: 1
#>   DEVICES_PER_TRIAL devices per trial: GPUs, or CPU cores (arch.num_devices); default: 1
#>   GPUS_PER_TRIAL    GPUs per worker: 0.25 puts four workers on one; default: one per device
#>   BUDGET            the most that the sweep may spend in total: time=2h,steps=1e8,device_hours=4,trials=64; default: no
#>                     limit
#>   PERIOD_TIMEOUT    time limit per evaluation period, after which the attempt is ended and retried: 90s, 30m, 2h, none;
#>                     default: auto: 20 times the longest so far, at least 10 minutes
#>   NAME              suffix of the sweep's name and folder
#>   SPACE             a sweep file of your own, such as a changed copy of sweeps/ppo.yaml; default: the file in sweeps/
#>                     that names the algorithm
#>   METRIC            the metric to optimise, or several separated by commas; default: the sweep file's objective
#>   MODE              max or min, or one per metric, separated by commas; default: the sweep file's objective
#>   AT                which networks a trial is judged by: final (those at the end), best (those of the best evaluation,
#>                     played again), or its evaluations: last, last-5-avg, last-10-avg, avg (docs/statistics.md); default:
#>                     the sweep file's objective, else the environment's env.eval_at
#>   CONSTRAINTS       bounds for a trial's metrics: min_cooperation_rate=0.2,max_episode_length=50; default: the sweep
#>                     file's objective
#>   OUT               folder for sweeps on this machine; default: experiment_results
#>   STORAGE           shared folder for sweeps, instead of OUT: a path that all machines share, or s3://bucket/prefix
#>                     (docs/cluster.md)
#>   STORAGE_ENDPOINT  the S3 server: http://10.0.0.5:9000; default: AWS_ENDPOINT_URL, or AWS
#>   ADDRESS           a Ray cluster to join: auto, host:port, ray://host:port (docs/cluster.md); default: none: start Ray
#>                     on this machine
#>   TRACK             wandb or mlflow: also send every trial's hyperparameters and metrics there (docs/dashboards.md);
#>                     default: nowhere
#>   DASHBOARD         1 starts Ray's dashboard and metrics on 127.0.0.1 while the sweep runs (docs/dashboards.md);
#>                     default: 0
#>   OVERRIDES         Hydra overrides for every trial: OVERRIDES="arch.num_envs=64 env=lbf", +preset=mava
#>                     (docs/systems.md)
#>   DRY_RUN           1 prints the plan without starting anything; default: 0
#>
#> variables of the launcher's other verbs (sweep folders may be s3://…):
#>   resume            SWEEP=<sweep folder>; WORKERS; PACK; GPUS_PER_TRIAL; BUDGET; PERIOD_TIMEOUT; RETRY_FAILED;
#>                     STORAGE_ENDPOINT; ADDRESS; TRACK; DASHBOARD
#>   extend            SWEEP=<sweep folder>; SAMPLES; WORKERS; PACK; GPUS_PER_TRIAL; BUDGET; PERIOD_TIMEOUT;
#>                     STORAGE_ENDPOINT; ADDRESS; TRACK; DASHBOARD
#>   promote           SWEEP=<sweep folder>; WORKERS; PACK; GPUS_PER_TRIAL; PERIOD_TIMEOUT; TOP; SEEDS; RACE;
#>                     STORAGE_ENDPOINT; ADDRESS; TRACK; DASHBOARD
#>   claim             SWEEP_ARGS='ALG=mappo,ippo …'; CLAIM
#>   verdict           SWEEP=<sweep folder>; WORKERS; PACK; GPUS_PER_TRIAL; PERIOD_TIMEOUT; STORAGE_ENDPOINT; ADDRESS;
#>                     TRACK; DASHBOARD
#>   rerun             TRIAL=<trial id, or its folder>; OUT; STORAGE_ENDPOINT
# options: end
#>
#> variables of the others (folders may be s3://…, with STORAGE_ENDPOINT):
#>   power        SWEEP=<sweep folder>
#>   collect      SWEEP=<sweep folder>
#>   diff         A=<sweep folder, trial folder or trial id> B=<the other>; OUT=experiment_results, where ids are found
#>   ls           OUT=experiment_results
#>   fetch        TRIAL=s3://…/<trial id>; TO=<new folder>
#>   report       SWEEP=<sweep folder>
#>   sensitivity  SWEEP=<sweep folder>
#>   index        SWEEP=<sweep folder>; TOP=10; METRIC=equality MODE=max; PROMOTED=1 also ranks the tests on fresh seeds
#>   vaults       SWEEP=<folder of a sweep, a trial or a vault>; QUERY='algorithm == "ff_mappo" and cooperation_rate > 0.5'; KIND=train or test;
#>                DO=find (default), card, verify, merge, thin, export; TO=<the output>; ARGS='--best 20' (docs/trajectories.md)
#>   episode      TRIAL=<trial id, or its folder>; OUT=<file>.gif or .mp4; STEPS=100 SEED=0; LEARNER=<its seed, of several>
#>   dashboard    SWEEP=<sweep folder>, or none for all; PORT=8080 (and the next one; default: free ones)
#>   watch        SWEEP=<sweep folder>
#>   run          ALG; ARGS='env/scenario=p-short system.actor_lr=3e-4'; with Mava's systems ARGS='engine=mava …'
#>   test         ARGS='tests/core -k vault', as for pytest; test-slow too
#>   bench        ARGS='throughput compile --repeats 5'; bench-engines: ARGS='--seeds 3'
#>   bench-learning  ARGS='--cases p-base --systems ff_mappo --seeds 2' (docs/learning.md)
#>
#> with any target:
#>   PYTHON       the Python that .venv is made with (3.11 or 3.12)
#>   VENV         where the environment is (.venv)
#>   EXTRA        cuda12 or cuda13: JAX for NVIDIA GPUs; gp: PyTorch, for SAMPLER=gp; dashboard; wandb, mlflow: for TRACK

setup: $(VENV)/.stamp-run$(EXTRA) ## Set up .venv for running
	@:

setup-dev: $(VENV)/.stamp-dev ## Set up .venv for tests and development
	@:

$(VENV)/bin/uv:
	@test -n '$(PYTHON)' || { echo 'no python3 found: install Python 3.11 or 3.12 (Debian: apt-get install python3 python3-venv)' >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { echo '$(PYTHON): JaxParty needs Python 3.11 or 3.12; name one: make PYTHON=python3.11 …' >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo '$(PYTHON) has no ensurepip: install it (Debian: apt-get install python3-venv)' >&2; exit 2; }
	@echo 'setting up $(VENV) (once)'
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.stamp-run$(EXTRA): requirements/run.txt pyproject.toml $(VENV)/bin/uv
	@echo 'installing what running needs'
	@$(UV) -r requirements/run.txt
	@$(UV) --no-deps --editable .
	@$(if $(EXTRA),$(UV) --constraint <(grep -oE '^[a-zA-Z0-9_.-]+==[^ ]+( ;[^\\]+)?' requirements/run.txt) '.[$(EXTRA)]' && $(UV) --no-deps --editable .)
	@touch $@

$(VENV)/.stamp-dev: requirements/dev.txt $(VENV)/.stamp-run
	@echo 'installing what tests and development need'
	@$(UV) -r requirements/dev.txt
	@touch $@

sweep: setup ## Run a sweep: make sweep ALG=mappo SAMPLES=8 SCENARIO=p-base,p-no-rank
	@$(PY) -m launcher.sweep $(call arguments)

resume: setup ## Finish a sweep that was stopped or killed: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make resume SWEEP=experiment_results/…' >&2; exit 2; }
	@$(PY) -m launcher.sweep resume $(call quoted,SWEEP) $(call arguments,SWEEP)

run: setup ## Run one experiment: ALG=mappo ARGS='env/scenario=p-short'
	$(call only,ALG ARGS)@config=$$($(PY) -m mava_configs '$(or $(ALG),ippo)') && $(PY) -m jax_party.run --config-name "$$config" $(ARGS)

extend: setup ## Add configurations to a sweep, and run them: SWEEP=<folder> SAMPLES=8
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make extend SWEEP=experiment_results/… SAMPLES=8' >&2; exit 2; }
	@$(PY) -m launcher.sweep extend $(call quoted,SWEEP) $(call arguments,SWEEP)

promote: setup ## Train a sweep's best configurations again on fresh seeds: SWEEP=<folder> TOP=3 SEEDS=10
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make promote SWEEP=experiment_results/…' >&2; exit 2; }
	@$(PY) -m launcher.sweep promote $(call quoted,SWEEP) $(call arguments,SWEEP)

claim: setup ## Register a claim before its sweep runs: SWEEP_ARGS='ALG=mappo,ippo' CLAIM='ff_mappo > ff_ippo on …'
	@$(PY) -m launcher.sweep claim $(SWEEP_ARGS) $(call arguments,SWEEP_ARGS)

verdict: setup ## Test a sweep's claim on fresh seeds: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make verdict SWEEP=experiment_results/…' >&2; exit 2; }
	@$(PY) -m launcher.sweep verdict $(call quoted,SWEEP) $(call arguments,SWEEP)

rerun: setup ## Repeat a trial and compare every number: TRIAL=<id or folder>
	@test -n '$(TRIAL)' || { echo 'TRIAL: name the trial, by its id or its folder: make rerun TRIAL=ff_mappo-…' >&2; exit 2; }
	@$(PY) -m launcher.sweep rerun $(call quoted,TRIAL) $(call arguments,TRIAL)

collect: setup ## Rebuild a sweep's index: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make collect SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.collect $(call quoted,SWEEP)

index: setup ## Print the best trials of a sweep: SWEEP=<folder> TOP=10
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make index SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP TOP METRIC MODE PROMOTED STORAGE_ENDPOINT)@$(PY) -m results.index $(call quoted,SWEEP) \
	  $(if $(TOP),--top=$(call quoted,TOP)) $(if $(METRIC),--metric=$(call quoted,METRIC)) $(if $(MODE),--mode=$(call quoted,MODE)) \
	  $(if $(filter-out 0,$(PROMOTED)),--promoted)

power: setup ## Estimate how many seeds would separate a sweep's top two: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make power SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.power $(call quoted,SWEEP)

diff: setup ## Print the differences between two trials or sweeps: A=<id or folder> B=<id or folder>
	@test -n '$(A)' -a -n '$(B)' || { echo 'A, B: name two trials or two sweeps: make diff A=experiment_results/… B=…' >&2; exit 2; }
	$(call only,A B OUT STORAGE_ENDPOINT)@$(PY) -m results.diff $(call quoted,A) $(call quoted,B) $(if $(OUT),--root=$(call quoted,OUT))

ls: setup ## List all sweeps: OUT=experiment_results
	$(call only,OUT STORAGE_ENDPOINT)@$(PY) -m results.ls $(if $(OUT),$(call quoted,OUT))

report: setup ## Write report.html and plots/ of a sweep: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make report SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.report $(call quoted,SWEEP)

sensitivity: setup ## How much each hyperparameter matters, across scenarios: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make sensitivity SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.sensitivity $(call quoted,SWEEP)

dashboard: ## Optuna's dashboard and TensorBoard for a sweep, even while it runs: SWEEP=<folder>
	$(call only,SWEEP PORT STORAGE_ENDPOINT)@$(MAKE) setup EXTRA=dashboard
	@$(PY) -m results.dashboard $(if $(SWEEP),$(call quoted,SWEEP)) $(if $(PORT),--port=$(call quoted,PORT))

watch: setup ## A live table of a sweep in the terminal: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make watch SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.watch $(call quoted,SWEEP)

fetch: setup ## Download a trial from remote storage: TRIAL=s3://…/<trial id> TO=<folder>
	@test -n '$(TRIAL)' || { echo 'TRIAL: name the trial: make fetch TRIAL=s3://…/<trial id>' >&2; exit 2; }
	$(call only,TRIAL TO STORAGE_ENDPOINT)@$(PY) -m results.fetch $(call quoted,TRIAL) $(if $(TO),$(call quoted,TO))

vaults: setup ## Find trajectories and make data sets of them: SWEEP=<folder> QUERY='cooperation_rate > 0.5' DO=card
	@test -n '$(SWEEP)' || { echo "SWEEP: name a sweep, a trial or a vault: make vaults SWEEP=experiment_results/… QUERY='cooperation_rate > 0.5'" >&2; exit 2; }
	$(call only,SWEEP QUERY KIND DO TO ARGS STORAGE_ENDPOINT)@$(PY) -m results.vaults $(if $(DO),$(call quoted,DO),find) $(call quoted,SWEEP) \
	  $(if $(QUERY),--query=$(call quoted,QUERY)) $(if $(KIND),--kind=$(call quoted,KIND)) $(if $(TO),--to=$(call quoted,TO)) $(ARGS)

episode: setup ## Render an episode of a trained policy: TRIAL=<id or folder> OUT=episode.gif
	@test -n '$(TRIAL)' || { echo 'TRIAL: name the trial, by its id or its folder: make episode TRIAL=ff_mappo-…' >&2; exit 2; }
	$(call only,TRIAL SEED STEPS LEARNER OUT STORAGE_ENDPOINT)@$(PY) -m jax_party.episode $(call quoted,TRIAL) $(if $(SEED),--seed=$(call quoted,SEED)) \
	  $(if $(STEPS),--steps=$(call quoted,STEPS)) $(if $(LEARNER),--learner=$(call quoted,LEARNER)) $(if $(OUT),--out=$(call quoted,OUT))

# Most of the tests' time is XLA compilation; `make test-slow` and the benchmarks compile with XLA's defaults.
TEST_XLA = XLA_FLAGS="--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false $${XLA_FLAGS:-}"

test: setup-dev ## Lint, type-check and test (under 25 minutes on 2 cores)
	$(call only,ARGS)@$(MAKE) lint ARGS=
	@$(TEST_XLA) $(PY) -m pytest -n 2 --dist loadgroup $(ARGS)

test-slow: setup-dev ## The slower tests
	$(call only,ARGS)@$(PY) -m pytest -m slow $(ARGS)

bench: setup-dev ## Benchmarks: JSON in benchmark_results/, and tables
	$(call only,ARGS)@$(PY) -m benchmarks $(ARGS)

bench-learning: setup-dev ## Train every system at its defaults (takes a day): ARGS='--cases p-base --systems ff_mappo --seeds 2'
	$(call only,ARGS)@$(PY) -m benchmarks learning $(ARGS)

bench-engines: setup-dev ## Compare both engines at Mava's defaults; needs Mava: ARGS='--seeds 5 --steps 262144'
	$(call only,ARGS)@$(PY) -m benchmarks engines $(ARGS)

lint: setup-dev ## Run ruff, mypy and import-linter
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/mypy
	@said=$$($(VENV)/bin/lint-imports --cache-dir .cache/import_linter 2>&1) || { echo "$$said"; exit 1; }

format: setup-dev ## Format the code
	@$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

lock: $(VENV)/bin/uv ## Update the pinned requirements
	@for part in run dev; do $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	  --generate-hashes --no-header $$([ $$part = dev ] && echo '--extra dev --constraint requirements/run.txt') \
	  pyproject.toml -o requirements/$$part.txt; done

clean: ## Remove .venv and caches; results stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build
