# `make help` lists the targets. Everything runs from .venv, which the first target that needs it makes.

# Set on the command line, as in `make train ENV=reacher`; a variable of the shell (ENV is one) is not taken.
# OUT, RUN and DATA are one path each, with any letters and spaces. RUNS, METHODS, POLICY and ARGS are words of the
# shell, so that what holds a space is quoted inside: RUNS="'my run' other".
ENV     = gridworld
METHOD  = dynamite
METHODS =
SETTING =
DATA    =
POLICY  =
NAME    =
SEEDS   =
STEPS   =
SCALE   =
OUT     =
RUN     =
RUNS    =
ARGS    =
JOBS    =
HOSTS   =
DEVICES =
LAUNCH  =
PART    =

KNOWN   = ENV METHOD METHODS SETTING DATA POLICY NAME SEEDS STEPS SCALE OUT RUN RUNS ARGS JOBS HOSTS DEVICES LAUNCH PART EXTRAS PYTHON
GIVEN  := $(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),$(name)))
UNKNOWN = $(filter-out $(KNOWN) -* MAKE%,$(GIVEN))
$(if $(UNKNOWN),$(error $(firstword $(UNKNOWN)) is not a variable of this Makefile; known are $(KNOWN)))

# A value as one word of the shell, just as it was typed: quotes, dollars and spaces are kept.
QUOTE = '$(subst ','\'',$(value $(1)))'

SIZES = $(if $(SEEDS),--seeds $(SEEDS)) $(if $(STEPS),--steps $(STEPS))
SCALED = $(if $(SCALE),--scale $(SCALE))
AT_ONCE = $(if $(JOBS),--jobs $(JOBS))
SET = $(if $(SETTING),--setting $(SETTING))

# Every target says in its help which of them it takes; what it would leave unused is refused.
TAKEN = $(shell sed -n 's/^$(1):.*\#\# //p' $(firstword $(MAKEFILE_LIST)) | grep -o '[A-Z]*=' | tr -d =)
UNUSED = $(filter-out EXTRAS PYTHON $(call TAKEN,$(1)),$(filter $(KNOWN),$(GIVEN)))
$(foreach goal,$(MAKECMDGOALS),$(if $(call UNUSED,$(goal)),$(error make $(goal) takes no $(firstword $(call UNUSED,$(goal)))=; it takes $(or $(call TAKEN,$(goal)),none))))

VENV := .venv
BIN  := $(VENV)/bin
UV   := $(BIN)/uv

# Extras of the environment; where none are named, those it already has are kept.
OLD    := $(shell cat $(VENV)/.extras 2>/dev/null)
EXTRAS ?= $(OLD)
WANTED := $(strip $(EXTRAS))
EMPTY  :=
STAMP  := $(VENV)/.setup-$(subst $(EMPTY) $(EMPTY),-,$(strip dev $(WANTED)))

# The first of these that starts, is supported and can make an environment. Version managers leave
# names on the path that fail when run, so each candidate is run.
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	>/dev/null 2>&1 && echo $$python && break; done)

.DEFAULT_GOAL := help
.PHONY: help setup train collect to-minari from-minari pod-local eval plot export video beliefs report watch table ablations sweep-p tune bench versus-torch benchmark test test-learning test-faults test-slow lint format lock audit clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv from requirements.lock, hashes verified; EXTRAS="cuda12|cuda13|tpu wandb torch gym minari sb3 optuna notebook video report watch"

train: $(STAMP)  ## Train: ENV= METHOD= SEEDS= STEPS= SCALE=accelerator OUT= ARGS=; SETTING=offline DATA= learns from recorded episodes
	$(BIN)/dynamite-jax train --env $(ENV) --method $(METHOD) $(SET) $(if $(value DATA),--offline.data $(call QUOTE,DATA)) $(SIZES) $(SCALED) $(if $(value OUT),--out $(call QUOTE,OUT)) $(ARGS)

collect: $(STAMP)  ## Record episodes: ENV= POLICY="random mixed:RUN=0.5" OUT= ARGS=
	$(if $(value OUT),,$(error OUT= is missing: name the folder of the episodes, as in `make collect OUT=data/random`))
	$(BIN)/dynamite-jax collect --env $(ENV) $(if $(POLICY),--policy $(POLICY)) --out $(call QUOTE,OUT) $(ARGS)

to-minari: $(if $(value DATA),$(STAMP))  ## Write recorded episodes as a set of Minari's (EXTRAS=minari): DATA= NAME= ARGS=
	$(if $(value DATA),,$(error DATA= is missing: name the folder of the episodes, as in `make to-minari DATA=data/mixed NAME=gridworld/mixed-v0`))
	$(if $(value NAME),,$(error NAME= is missing: name the set as Minari does, as in `make to-minari DATA=data/mixed NAME=gridworld/mixed-v0`))
	$(BIN)/dynamite-jax to-minari --data $(call QUOTE,DATA) --name $(call QUOTE,NAME) $(ARGS)

from-minari: $(if $(value NAME),$(STAMP))  ## Read episodes from a set of Minari's (EXTRAS=minari): NAME= OUT= ENV= ARGS=
	$(if $(value NAME),,$(error NAME= is missing: name the set as Minari does, as in `make from-minari NAME=gridworld/mixed-v0 OUT=data/mixed`))
	$(if $(value OUT),,$(error OUT= is missing: name the folder of the episodes, as in `make from-minari NAME=gridworld/mixed-v0 OUT=data/mixed`))
	$(BIN)/dynamite-jax from-minari --name $(call QUOTE,NAME) $(if $(filter ENV,$(GIVEN)),--env $(ENV)) --out $(call QUOTE,OUT) $(ARGS)

pod-local: $(STAMP)  ## Train in several processes on this machine, as on hosts of a pod: HOSTS= DEVICES= ENV= METHOD= SEEDS= STEPS= OUT= ARGS= LAUNCH=
	$(if $(value OUT),,$(error OUT= is missing: all processes must name the same folder, as in `make pod-local OUT=runs/pod`))
	$(BIN)/python -m experiments.launch.pod_local $(if $(HOSTS),--hosts $(HOSTS)) $(if $(DEVICES),--devices $(DEVICES)) $(LAUNCH) \
	-- --env $(ENV) --method $(METHOD) $(SIZES) --out $(call QUOTE,OUT) $(ARGS)

eval: $(if $(value RUN),$(STAMP))  ## Evaluate a finished run: RUN= ARGS=
	$(if $(value RUN),,$(error RUN= is missing: name the run folder, as in `make eval RUN=runs/NAME`))
	$(BIN)/dynamite-jax eval --run $(call QUOTE,RUN) $(ARGS)

plot: $(if $(RUNS),$(STAMP))  ## Plot one or more runs: RUNS="a 'b c'" ARGS=
	$(if $(RUNS),,$(error RUNS= is missing: name the run folders, as in `make plot RUNS="runs/A runs/B"`))
	$(BIN)/dynamite-jax plot --runs $(RUNS) $(ARGS)

export: $(if $(value RUN),$(STAMP))  ## Write a trained policy as files: RUN= OUT= ARGS=
	$(if $(value RUN),,$(error RUN= is missing: name the run folder, as in `make export RUN=runs/NAME`))
	$(BIN)/dynamite-jax export --run $(call QUOTE,RUN) $(if $(value OUT),--out $(call QUOTE,OUT)) $(ARGS)

video: $(if $(value RUN)$(RUNS),$(STAMP))  ## Show an episode of a run, or of several side by side: RUN= or RUNS="a b" OUT= ARGS=
	$(if $(value RUN)$(RUNS),,$(error RUN= is missing: name the run folder, as in `make video RUN=runs/NAME`, or several as RUNS="runs/A runs/B"))
	$(BIN)/dynamite-jax video --runs $(if $(value RUN),$(call QUOTE,RUN)) $(RUNS) $(if $(value OUT),--out $(call QUOTE,OUT)) $(ARGS)

beliefs: $(if $(value RUN),$(STAMP))  ## Draw what an agent believes: RUN= OUT= ARGS=
	$(if $(value RUN),,$(error RUN= is missing: name the run folder, as in `make beliefs RUN=runs/NAME`))
	$(BIN)/dynamite-jax beliefs --run $(call QUOTE,RUN) $(if $(value OUT),--out $(call QUOTE,OUT)) $(ARGS)

report: $(if $(RUNS),$(STAMP))  ## Report on runs in one HTML file: RUNS="a 'b c'" OUT= ARGS=
	$(if $(RUNS),,$(error RUNS= is missing: name the run folders, as in `make report RUNS="runs/A runs/B"`))
	$(BIN)/dynamite-jax report --runs $(RUNS) $(if $(value OUT),--out $(call QUOTE,OUT)) $(ARGS)

watch: $(if $(value RUN),$(STAMP))  ## Watch a run in TensorBoard, while it trains too: RUN= ARGS=
	$(if $(value RUN),,$(error RUN= is missing: name the run folder, as in `make watch RUN=runs/NAME`))
	@test -f $(call QUOTE,RUN)/config.json || { printf "error: run is '%s'; it must be a run folder, one with a config.json\n" $(call QUOTE,RUN) >&2; exit 2; }
	$(BIN)/tensorboard --logdir $(call QUOTE,RUN) $(ARGS)

table: $(STAMP)  ## Compare methods: ENV= METHODS="a b" SEEDS= STEPS= SCALE= JOBS= ARGS=; SETTING=offline DATA=; goes on where it was cut off
	$(BIN)/dynamite-jax table --env $(ENV) $(SET) $(if $(value DATA),--data $(call QUOTE,DATA)) $(if $(METHODS),--methods $(METHODS)) $(SIZES) $(SCALED) $(AT_ONCE) $(ARGS)

ablations: $(STAMP)  ## Compare DynaMITE with and without its parts: ENV= SEEDS= STEPS= JOBS= ARGS=
	$(BIN)/dynamite-jax ablations --env $(ENV) $(SIZES) $(AT_ONCE) $(ARGS)

sweep-p: $(STAMP)  ## Compare methods from p = 0 to p = 1: ENV= METHODS= SEEDS= STEPS= JOBS= ARGS=
	$(BIN)/dynamite-jax sweep-p --env $(ENV) $(if $(METHODS),--methods $(METHODS)) $(SIZES) $(AT_ONCE) $(ARGS)

tune: $(STAMP)  ## Search presets by a race, as many trials for each method: ENV= METHODS= SEEDS= STEPS= ARGS=
	$(BIN)/dynamite-jax tune --env $(ENV) $(if $(METHODS),--methods $(METHODS)) $(SIZES) $(ARGS)

bench: $(STAMP)  ## Measure training speed: ENV= METHOD= SEEDS= SCALE= ARGS=, or METHODS="a b" in turn
	$(BIN)/dynamite-jax bench --env $(ENV) --method $(METHOD) $(if $(METHODS),--methods $(METHODS)) $(if $(SEEDS),--seeds $(SEEDS)) $(SCALED) $(ARGS)

versus-torch: $(STAMP)  ## Measure training beside PyTorch (EXTRAS=torch): ENV=gridworld|halfcheetah_vel ARGS=
	$(BIN)/python -m experiments.versus_torch.benchmark --env $(ENV) $(ARGS)

benchmark: versus-torch  ## The old name of versus-torch (EXTRAS=torch): ENV= ARGS=

# On all cores, unless words of one's own choose something.
test: $(STAMP)  ## Run the tests, without trainings and slow ones: ARGS=
	$(BIN)/python -m pytest $(or $(ARGS),--numprocesses auto --dist worksteal)

test-learning: $(STAMP)  ## Train to known values: ARGS=
	$(BIN)/python -m pytest -m "learning and not slow" $(ARGS)

test-faults: $(STAMP)  ## Kill, damage and starve runs, and see that they go on: PART=0.1 of the rounds, ARGS=
	$(if $(PART),PART=$(PART)) $(BIN)/python -m pytest -m "" tests/faults $(ARGS)

test-slow: $(STAMP)  ## Run the slow tests: ARGS=
	$(BIN)/python -m pytest -m slow $(ARGS)

lint: $(STAMP)  ## Check style, format and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

format: $(STAMP)  ## Apply the format and the safe fixes of the linter
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

.PHONY: results docs
results: $(STAMP)  ## Write the pages made from results/ and from the code: docs/ and the summary of README.md
	$(BIN)/python -m experiments.pages.write

docs: $(STAMP)  ## Build the site into build/site/; a broken link fails
	$(BIN)/python -m experiments.pages.site

lock: | $(UV)  ## Refresh requirements.lock after a change in pyproject.toml; ARGS=--upgrade moves all
	$(UV) pip compile pyproject.toml --universal --python-version 3.11 --fork-strategy fewest \
	--all-extras --group pins --group build --generate-hashes --no-annotate --no-header \
	--output-file requirements.lock --quiet $(ARGS)

audit: | $(UV)  ## Look for known vulnerabilities in the packages of requirements.lock
	$(UV) tool run pip-audit@2.10.1 --strict --requirement requirements.lock --disable-pip --no-deps

clean:  ## Remove .venv, caches and build leftovers; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The lock holds every extra, so it constrains the installation: only what is asked for is installed, in the
# version of the lock, and a file whose hash the lock does not hold is refused. --exact takes away what other
# extras left behind: CUDA 12 beside CUDA 13. The project comes last, built by the setuptools of the lock.
$(STAMP): pyproject.toml requirements.lock | $(UV)
	@rm -f $(VENV)/.setup-*
	$(UV) pip install --python $(BIN)/python --require-hashes --only-binary :all: --constraints requirements.lock \
	--requirements pyproject.toml --group build --extra dev --extra docs $(patsubst %,--extra %,$(WANTED)) \
	$(if $(filter-out $(OLD),$(WANTED))$(filter-out $(WANTED),$(OLD)),--exact)
	$(UV) pip install --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@echo '$(WANTED)' >$(VENV)/.extras
	@touch $@

# pip installs uv, hash verified, and uv everything else: in seconds where pip needs minutes.
$(UV):
	$(if $(PYTHON),,$(error No working Python 3.11, 3.12 or 3.13 found: name one, as in `make setup PYTHON=/path/to/python3`))
	$(PYTHON) -m venv --clear $(VENV)
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock >$(VENV)/uv.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes --requirement $(VENV)/uv.txt
