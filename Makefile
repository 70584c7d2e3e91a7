# DRIFT: every command a person types. `make help` lists them; options are VARIABLE=value after the target.
SHELL := /bin/bash
.DEFAULT_GOAL := help
WORK ?= data/work
RECIPE ?= demo
N ?= 1
export HF_HUB_DISABLE_TELEMETRY = 1
export DO_NOT_TRACK = 1
export VLLM_NO_USAGE_STATS = 1
PY := .venv/bin/python
# Messages then name what a person types here, `OUT=`, and not the command's `--out`.
DRIFT := DRIFT_CALLER=make $(PY) -m pipelines
JOBS ?= 2
# Tests run in JOBS processes with one thread each; a file stays in one process, and files that start engines go first.
# The tests that T names run in one process, so that -s shows what a test prints.
PYTEST = $(if $(T),,OMP_NUM_THREADS=1) $(PY) -m pytest --durations=10 $(if $(T),$(T),-n $(JOBS) --dist loadfile --no-loadscope-reorder)
MKDOCS := NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
# Options that every stage takes. `option` and `flag` hand a variable on only when it is given.
COMMON = --work "$(WORK)" --recipe "$(RECIPE)" $(foreach s,$(SET),--set "$(s)")
option = $(if $($(1)),--$(2) "$($(1))")
flag = $(if $($(1)),--$(2))
# Options of the stages that ask a language model, passed on only when they are given.
ASK = $(call option,JUDGE,judge) $(call option,MODEL,model) $(call option,BASE_URL,base-url) $(call option,BUDGET,budget) \
  $(call flag,OFFLINE,offline) $(call flag,FINAL,final) $(foreach r,$(RESULTS),--results "$(r)")
# SQL goes through the environment as it was typed: its quotes and dollar signs are neither Make's nor the shell's.
override SQL := $(value SQL)
export SQL

.PHONY: help setup demo simulate convert rubric label distill review calibrate seed warm iter recipe eval report query export publish
.PHONY: test test-quick lint docs docs-reference bench arms clean

help: ## list the targets and their options
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile
	@echo "Options: WORK=folder (data/work)  RECIPE=name|file (demo)  SET=\"key=value …\"  RUN=name. Details: README.md"

setup: ## install into .venv from the lock for this machine [DEVICE=cpu|gpu PYTHON=…]
	@bash requirements/setup.sh

demo: setup ## the whole story on simulated logs with a tiny model: no key, no GPU, no network [WORK=data/demo SEED=0]
	@$(DRIFT) demo --work "$(if $(filter file,$(origin WORK)),data/demo,$(WORK))" $(call option,SEED,seed) $(foreach s,$(SET),--set "$(s)")

simulate: setup ## chat logs of simulated users
	@$(DRIFT) simulate $(COMMON)

convert: setup ## raw logs → conversations  SOURCE=wildchat|wildfeedback|lmsys|ultrafeedback|drift-release|chat|simulated INPUT=…
	@$(DRIFT) convert $(COMMON) $(call option,SOURCE,source) $(foreach i,$(INPUT),--input "$(i)")

rubric: setup ## learn a rubric  INPUT=thumbs.jsonl | LABELS=judge  JUDGE=openai|vllm|batch MODEL=…
	@$(DRIFT) rubric $(COMMON) $(foreach i,$(INPUT),--input "$(i)") $(call option,LABELS,labels) $(ASK)

label: setup ## conversations → labels  [JUDGE=local|dataset|cascade|openai|vllm|batch MODEL=… BASE_URL=… BUDGET=… SAMPLE=… ESTIMATE=1 CLASSIFIER=… NAME=table RUBRIC=… THRESHOLDS=… AGAIN=1]
	@$(DRIFT) label $(COMMON) $(ASK) $(call option,NAME,name) $(call option,RUBRIC,rubric) $(call option,THRESHOLDS,thresholds) \
	  $(call option,CLASSIFIER,classifier) $(call option,SAMPLE,sample) $(call flag,ESTIMATE,estimate) $(call flag,AGAIN,again)

distill: setup ## a local judge of your own, from an LLM judge's labels  LABELS=judge-sample | GOLD=labelled turns  [NAME=…]
	@$(DRIFT) distill $(COMMON) $(call option,LABELS,labels) $(call option,GOLD,gold) $(call option,NAME,name)

calibrate: setup ## thresholds and a quality report of labels  GOLD=labelled turns | AGAINST=judge  [LABELS=judge RUBRIC=the one it used]
	@$(DRIFT) calibrate $(COMMON) $(call option,GOLD,gold) $(call option,AGAINST,against) $(call option,LABELS,labels) $(call option,RUBRIC,rubric)

review: setup ## read judged turns in the browser, accept or change labels  [LABELS=judge REVIEWER=name AGAINST=judge BLIND=1 FILTER=… PORT=…]
	@$(DRIFT) review $(COMMON) $(call option,LABELS,labels) $(call option,REVIEWER,reviewer) $(call option,AGAINST,against) \
	  $(call flag,BLIND,blind) $(call option,FILTER,filter) $(call option,PORT,port) $(call option,RUBRIC,rubric)

seed: setup ## labels → dsat, sat and seed  [LABELS=judge]
	@$(DRIFT) seed $(COMMON) $(call option,LABELS,labels)

warm: setup ## DPO on seed → M0  [MODEL=folder|Hub id]
	@$(DRIFT) warm $(COMMON) $(call option,MODEL,model) $(call option,RUN,run)

iter: setup ## rollouts of M(N-1), pairs, DPO → M(N)  N=1 [MODEL=… METHOD=drift|spin|iterdpo]
	@$(DRIFT) iter $(COMMON) --n "$(N)" $(call option,MODEL,model) $(call option,METHOD,method) $(call option,RUN,run)

recipe: setup ## what a recipe resolves to, beside the paper and the release; runs nothing  RECIPE=paper-7b [METHOD=…], or all options there are  OPTIONS=1
	@$(DRIFT) recipe --recipe "$(RECIPE)" $(foreach s,$(SET),--set "$(s)") $(call option,METHOD,method) $(call flag,OPTIONS,options)

eval: setup ## measure base, M0 … M(N)  N=1
	@$(DRIFT) eval $(COMMON) --n "$(N)" $(call option,MODEL,model) $(call option,RUN,run)

report: setup ## one self-contained HTML page of a run
	@$(DRIFT) report $(COMMON) $(call option,RUN,run)

query: setup ## DuckDB over the workspace  SQL="…" | Q=name [OUT=file.csv|.parquet|.json]
	@$(DRIFT) query --work "$(WORK)" $(if $(SQL),--sql "$$SQL") $(call option,Q,name) $(call option,OUT,out)

export: setup ## dsat, sat and seed in the DRIFT release's JSONL layout  OUT=folder
	@$(DRIFT) export $(COMMON) $(call option,OUT,out)

publish: setup ## data sets, or a model, and card to the Hub, one commit  REPO=owner/name [RUN=… MODEL_OF=iter2]
	@$(DRIFT) publish $(COMMON) $(call option,REPO,repo) $(call option,RUN,run) $(call option,MODEL_OF,model-of)

test: setup ## run all tests in JOBS processes (2), or those of T in one [T="paths or pytest options"]
	@$(PYTEST)

test-quick: setup ## run the tests that take no seconds each: no engine, training, browser or real logs
	@$(PYTEST) -m "not slow and not real and not browser"

lint: setup ## ruff, mypy, import borders, documentation
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy && .venv/bin/lint-imports --no-cache
	@$(MKDOCS)

docs: setup ## build the documentation into build/docs, strictly: a dead link or anchor fails
	@$(MKDOCS)

docs-reference: setup ## write the reference pages of options, tables and commands from the code
	@$(PY) -m pipelines.reference_pages

bench: setup ## benchmarks with their tables
	@for bench in convert classify judge resume review rollouts train; do $(PY) benches/$$bench.py || exit 1; done

arms: setup ## the demo over SEEDS with its control arms, the README's table  [SEEDS="1 2 3"]
	@$(PY) benches/arms.py $(SEEDS)

clean: ## remove .venv and caches; workspaces stay
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache *.egg-info
