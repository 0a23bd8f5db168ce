# JaxParty. `make help` lists the targets. Each sets up or updates .venv by itself.
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

# Variables given on make's command line, but for its own, go to the launcher, which refuses what it does not know.
OWN := PYTHON EXTRA ARGS VENV
GIVEN = $(foreach name,$(.VARIABLES),$(if $(findstring command line,$(origin $(name))),$(name)))
quoted = '$(subst ','\'',$($(1)))'
arguments = $(foreach name,$(filter-out $(OWN) $(1),$(GIVEN)),$(name)=$(call quoted,$(name)))
# $(call only,A B): refuse any other variable on make's command line.
only = $(foreach name,$(filter-out PYTHON EXTRA VENV $(1),$(GIVEN)),$(error $(name): `make $@` does not read it; it reads $(or $(1),none)))

# What reads results finds an object store of one's own where its clients look for it.
ifdef STORAGE_ENDPOINT
export AWS_ENDPOINT_URL := $(STORAGE_ENDPOINT)
endif

.PHONY: help setup setup-dev sweep resume extend promote claim verdict rerun run collect diff index power ls report sensitivity fetch vaults episode dashboard watch test test-slow bench bench-learning bench-engines lint format lock clean

help: ## List the targets and their variables
	@echo 'usage: make TARGET [VARIABLE=value ...]'; echo
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14
	@echo
	@sed -nE 's/^#> ?//p' $(MAKEFILE_LIST)

#> variables of `make sweep` (defaults are in sweeps/*.yaml):
#>   ALG          one or more, with commas; system or alias: ff_ippo (ippo), ff_mappo (mappo), rec_ippo, rec_mappo, ff_sable (sable), rec_sable,
#>                mat, ff_iql (idqn), rec_iql, rec_qmix (qmix), ff_isac (sac), ff_masac (masac), ff_hasac (hasac)
#>   ENGINE       native (our own systems), mava (those of an installed Mava: docs/mava.md)
#>   SAMPLES      configurations to draw for each scenario
#>   SCENARIO     one or more, with commas: p-base,p-no-rank
#>   TIMESTEPS    environment steps of each trial: 1e6
#>   EVALUATIONS  evaluations of each trial
#>   SEED         of the search and of the trials
#>   SEEDS        seeds of each trial, side by side; AGGREGATE  mean, iqm, median, min; BATCH  auto, map, vmap
#>   SCENARIO_MODE  what several scenarios are: grid, axis, mean (one configuration for all)
#>   SEARCH       random, grid, optuna, hyperopt, bohb; SAMPLER  of optuna: tpe, gp, cmaes, nsga2
#>   DUPLICATES   a configuration drawn again: seeds (new seeds), reuse (answered from its trials), refuse
#>   SCHEDULER    fifo, asha, median, hyperband, pbt, pb2
#>   FROM         folders of earlier sweeps whose trials the searcher is told of
#>   WORKERS      worker processes (one CPU core each, or one accelerator each)
#>   PACK         trials that share a worker, side by side
#>   DEVICES_PER_TRIAL  GPUs (or CPU cores) that each experiment is spread over; GPUS_PER_TRIAL  a share of one: 0.25
#>   BUDGET       what the sweep may spend: time=2h,steps=1e8,device_hours=4,trials=64
#>   PERIOD_TIMEOUT  how long an evaluation period may take before it is given up and tried again: 30m, none (auto)
#>   SPACE        a search space of your own: path to a YAML file like sweeps/ppo.yaml
#>   OUT          where sweep folders are made (experiment_results)
#>   STORAGE      where they are made instead: a path that all machines share, or s3://bucket/prefix; STORAGE_ENDPOINT  its server
#>   ADDRESS      a Ray cluster to join: auto, host:port or ray://host:port (docs/cluster.md)
#>   NAME         appended to the sweep's folder
#>   METRIC MODE  what to look for: episode_return max; several with commas
#>   AT           which networks of a trial are judged: final, last, last-5-avg, last-10-avg, avg, best (docs/statistics.md)
#>   CONSTRAINTS  bounds that trials must keep to: min_cooperation_rate=0.2
#>   TRACK        wandb or mlflow: keep every trial there, too (docs/dashboards.md); nothing is sent otherwise
#>   DASHBOARD=1  Ray's dashboard and metrics on 127.0.0.1 while the sweep runs
#>   OVERRIDES    further settings, as for Hydra: 'arch.num_envs=64 env.shared_reward=true', '+preset=mava'
#>   DRY_RUN=1    print the plan only
#>
#> variables of the others (sweep folders may be s3://…, and ADDRESS and STORAGE_ENDPOINT be given, too):
#>   resume       SWEEP=<sweep folder>; WORKERS; PACK; BUDGET; PERIOD_TIMEOUT; RETRY_FAILED=1 runs the failed trials again
#>   extend       SWEEP=<sweep folder> SAMPLES=8; as resume
#>   promote      SWEEP=<sweep folder>; TOP=3 SEEDS=10; RACE=0.95 plays in rounds and stops who cannot be the best; WORKERS; PACK
#>   power        SWEEP=<sweep folder>
#>   claim        SWEEP_ARGS='ALG=mappo,ippo SCENARIO=p-contest', as of `make sweep`;
#>                CLAIM='ff_mappo > ff_ippo on welfare in p-contest, alpha=0.05, seeds=20', several by semicolons
#>   verdict      SWEEP=<sweep folder>; WORKERS; PACK
#>   rerun        TRIAL=<trial id, or its folder>; OUT
#>   collect      SWEEP=<sweep folder>
#>   diff         A=<sweep folder, trial folder or trial id> B=<the other>; OUT=experiment_results, where ids are found
#>   ls           OUT=experiment_results
#>   fetch        TRIAL=s3://…/<trial id>; TO=<new folder>
#>   report       SWEEP=<sweep folder>
#>   sensitivity  SWEEP=<sweep folder>
#>   index        SWEEP=<sweep folder>; TOP=10; METRIC=equality MODE=max; PROMOTED=1 ranks the tests on fresh seeds, too
#>   vaults       SWEEP=<folder of a sweep, a trial or a vault>; QUERY='algorithm == "ff_mappo" and cooperation_rate > 0.5'; KIND=train or test;
#>                DO=find (default), card, verify, merge, thin, export; TO=<what is made>; ARGS='--best 20' (docs/trajectories.md)
#>   episode      TRIAL=<trial id, or its folder>; OUT=<file>.gif or .mp4; STEPS=100 SEED=0; LEARNER  its seed, of several
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

promote: setup ## Play a sweep's best configurations again on fresh seeds: SWEEP=<folder> TOP=3 SEEDS=10
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make promote SWEEP=experiment_results/…' >&2; exit 2; }
	@$(PY) -m launcher.sweep promote $(call quoted,SWEEP) $(call arguments,SWEEP)

claim: setup ## Claim what a sweep will show, before it runs: SWEEP_ARGS='ALG=mappo,ippo' CLAIM='ff_mappo > ff_ippo on …'
	@$(PY) -m launcher.sweep claim $(SWEEP_ARGS) $(call arguments,SWEEP_ARGS)

verdict: setup ## Test what was claimed on seeds that no search has seen: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make verdict SWEEP=experiment_results/…' >&2; exit 2; }
	@$(PY) -m launcher.sweep verdict $(call quoted,SWEEP) $(call arguments,SWEEP)

rerun: setup ## Repeat a trial and compare every number: TRIAL=<id or folder>
	@test -n '$(TRIAL)' || { echo 'TRIAL: name the trial, by its id or its folder: make rerun TRIAL=ff_mappo-…' >&2; exit 2; }
	@$(PY) -m launcher.sweep rerun $(call quoted,TRIAL) $(call arguments,TRIAL)

collect: setup ## Write the index of a sweep anew: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make collect SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.collect $(call quoted,SWEEP)

index: setup ## Print the best trials of a sweep: SWEEP=<folder> TOP=10
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make index SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP TOP METRIC MODE PROMOTED STORAGE_ENDPOINT)@$(PY) -m results.index $(call quoted,SWEEP) \
	  $(if $(TOP),--top=$(call quoted,TOP)) $(if $(METRIC),--metric=$(call quoted,METRIC)) $(if $(MODE),--mode=$(call quoted,MODE)) \
	  $(if $(filter-out 0,$(PROMOTED)),--promoted)

power: setup ## Say how many seeds would separate a sweep's top two: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make power SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.power $(call quoted,SWEEP)

diff: setup ## Print what differs between two trials or sweeps: A=<id or folder> B=<id or folder>
	@test -n '$(A)' -a -n '$(B)' || { echo 'A, B: name two trials or two sweeps: make diff A=experiment_results/… B=…' >&2; exit 2; }
	$(call only,A B OUT STORAGE_ENDPOINT)@$(PY) -m results.diff $(call quoted,A) $(call quoted,B) $(if $(OUT),--root=$(call quoted,OUT))

ls: setup ## List all sweeps: OUT=experiment_results
	$(call only,OUT STORAGE_ENDPOINT)@$(PY) -m results.ls $(if $(OUT),$(call quoted,OUT))

report: setup ## Write report.html and plots/ of a sweep: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make report SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.report $(call quoted,SWEEP)

sensitivity: setup ## What hangs on the hyperparameters, over several scenarios: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make sensitivity SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.sensitivity $(call quoted,SWEEP)

dashboard: ## Optuna's dashboard and TensorBoard on a sweep, also while it runs: SWEEP=<folder>
	$(call only,SWEEP PORT STORAGE_ENDPOINT)@$(MAKE) setup EXTRA=dashboard
	@$(PY) -m results.dashboard $(if $(SWEEP),$(call quoted,SWEEP)) $(if $(PORT),--port=$(call quoted,PORT))

watch: setup ## A live table of a sweep in the terminal: SWEEP=<folder>
	@test -n '$(SWEEP)' || { echo 'SWEEP: name the sweep folder: make watch SWEEP=experiment_results/…' >&2; exit 2; }
	$(call only,SWEEP STORAGE_ENDPOINT)@$(PY) -m results.watch $(call quoted,SWEEP)

fetch: setup ## Bring a trial here from remote storage: TRIAL=s3://…/<trial id> TO=<folder>
	@test -n '$(TRIAL)' || { echo 'TRIAL: name the trial: make fetch TRIAL=s3://…/<trial id>' >&2; exit 2; }
	$(call only,TRIAL TO STORAGE_ENDPOINT)@$(PY) -m results.fetch $(call quoted,TRIAL) $(if $(TO),$(call quoted,TO))

vaults: setup ## Find trajectories, and make data sets of them: SWEEP=<folder> QUERY='cooperation_rate > 0.5' DO=card
	@test -n '$(SWEEP)' || { echo "SWEEP: name a sweep, a trial or a vault: make vaults SWEEP=experiment_results/… QUERY='cooperation_rate > 0.5'" >&2; exit 2; }
	$(call only,SWEEP QUERY KIND DO TO ARGS STORAGE_ENDPOINT)@$(PY) -m results.vaults $(if $(DO),$(call quoted,DO),find) $(call quoted,SWEEP) \
	  $(if $(QUERY),--query=$(call quoted,QUERY)) $(if $(KIND),--kind=$(call quoted,KIND)) $(if $(TO),--to=$(call quoted,TO)) $(ARGS)

episode: setup ## Show a trained policy at play: TRIAL=<id or folder> OUT=episode.gif
	@test -n '$(TRIAL)' || { echo 'TRIAL: name the trial, by its id or its folder: make episode TRIAL=ff_mappo-…' >&2; exit 2; }
	$(call only,TRIAL SEED STEPS LEARNER OUT STORAGE_ENDPOINT)@$(PY) -m jax_party.episode $(call quoted,TRIAL) $(if $(SEED),--seed=$(call quoted,SEED)) \
	  $(if $(STEPS),--steps=$(call quoted,STEPS)) $(if $(LEARNER),--learner=$(call quoted,LEARNER)) $(if $(OUT),--out=$(call quoted,OUT))

# Most of what the tests take is XLA's time to compile; `make test-slow` and the benchmarks compile as users do.
TEST_XLA = XLA_FLAGS="--xla_backend_optimization_level=0 $$XLA_FLAGS"

test: setup-dev ## Lint, type-check and test (under 25 minutes on 2 cores)
	$(call only,ARGS)@$(MAKE) lint ARGS=
	@$(TEST_XLA) $(PY) -m pytest -n 2 --dist loadgroup $(ARGS)

test-slow: setup-dev ## The slower tests
	$(call only,ARGS)@$(PY) -m pytest -m slow $(ARGS)

bench: setup-dev ## Benchmarks: JSON in benchmark_results/, and tables
	$(call only,ARGS)@$(PY) -m benchmarks $(ARGS)

bench-learning: setup-dev ## What every system learns at its defaults (a day): ARGS='--cases p-base --systems ff_mappo --seeds 2'
	$(call only,ARGS)@$(PY) -m benchmarks learning $(ARGS)

bench-engines: setup-dev ## Both engines at Mava's defaults, where Mava is importable: ARGS='--seeds 5 --steps 262144'
	$(call only,ARGS)@$(PY) -m benchmarks engines $(ARGS)

lint: setup-dev ## ruff, mypy, and who may import whom
	@$(VENV)/bin/ruff check . && $(VENV)/bin/ruff format --check --quiet . && $(VENV)/bin/mypy
	@said=$$($(VENV)/bin/lint-imports --cache-dir .cache/import_linter 2>&1) || { echo "$$said"; exit 1; }

format: setup-dev ## Format the code
	@$(VENV)/bin/ruff check --fix --quiet . ; $(VENV)/bin/ruff format .

lock: $(VENV)/bin/uv ## Resolve the pinned requirements anew
	@for part in run dev; do $(VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url \
	  --generate-hashes --no-header $$([ $$part = dev ] && echo '--extra dev --constraint requirements/run.txt') \
	  pyproject.toml -o requirements/$$part.txt; done

clean: ## Remove .venv and caches; results stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info build
