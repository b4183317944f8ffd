# make demo: real data, two ranks, a table and a report.   make test: the tests.   Both set up .venv by themselves.
# DEVICE=cpu|cuda and PYTHON=COMMAND override what set-up detects.
.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all test-cuda-stack test-kills test-reshard test-hosts test-slurm test-mutations test-random-mutants gpu-smoke results bench-peers paper paper-quick lint audit lock clean

export DEVICE PYTHON
export PATH := $(CURDIR)/.venv/bin:$(PATH)

DEMO_DATA := data/census
DEMO_CONFIG := census-demo
DEMO_RANKS := 2

help: ## this list
	@sed -n 's/^\([a-z%-]*\):.*## \(.*\)/  make \1: \2/p' Makefile

setup: ## make .venv with the pinned packages; again: nothing to do, no network
	@sh requirements/setup.sh

demo: setup ## fetch Census-Income, train PLE on two ranks, print the table, write report.html
	ple-rec prep census --out $(DEMO_DATA) --overwrite
	torchx run -s local_cwd launch/components.py:train --config $(DEMO_CONFIG) --nproc $(DEMO_RANKS) --overwrite True --check False
	@echo
	@echo "next, with .venv/bin on PATH (source .venv/bin/activate):"
	@echo "  ple-rec export $(DEMO_CONFIG) --out models/census --examples 24     # a self-contained model of this run, checked against it"
	@echo "  ple-rec serve models/census                                      # rank by HTTP, and a page at http://127.0.0.1:8000"

test: setup ## the tests, without the slow ones, by two processes; random examples are the same in every run
	PYTHONWARNDEFAULTENCODING=1 PYTHONWARNINGS=ignore::EncodingWarning python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder --hypothesis-profile=ci

test-all: setup ## the slow tests too, with new random examples; the tests on the CUDA stack; audit
	python -m pytest -q -m "slow or not slow"
	$(MAKE) test-cuda-stack
	$(MAKE) audit

test-cuda-stack: setup ## the tests on the versions of DEVICE=cuda, on a CPU, in an environment of their own (7 GB)
	@sh requirements/cuda-stack.sh
	PATH="$(CURDIR)/.venv-cuda-stack/bin:$$PATH" python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-kills: setup ## kill -9 at 20 random moments of training and saving: the same bits in the end
	python -m pytest -q -m slow tests/training/test_kills.py

test-reshard: setup ## checkpoints of 1, 2 and 4 ranks, row- and table-wise, loaded at each other
	python -m pytest -q tests/runtime/test_elastic.py

test-hosts: setup ## two hosts (network namespaces): lost, back, and the first one lost; root
	python -m pytest -q -s -m slow tests/launch/test_two_hosts.py

test-slurm: setup ## a real Slurm with two nodes: a job to its end, and preempted; root, installs Slurm by apt
	python -m pytest -q -s -m slow tests/launch/test_slurm.py

test-mutations: setup ## faults, each put into a copy of the code: which test catches it; 16 minutes
	@python -m tests.mutations.run

test-random-mutants: setup ## random changes of the code: which test catches each; MUTANTS="--seed 1 --count 50 --folder ple_rec/runs" are its options
	@python -m tests.mutations.random $(or $(MUTANTS),--seed 1 --count 50 --folder ple_rec/runs)

gpu-smoke: setup ## on a machine with a GPU: what it shows in ten minutes, as runs/gpu-smoke/page.md
	@python -W ignore -m benchmarks.gpu

bench-%: setup ## measure train, dense, tables, loader, prep, rates, checkpoint, serve, requests, daily, delta, delta_requests, histories, history_prep, history_train or history_loader; BENCH=... are its options
	@python -W ignore -m benchmarks.$* $(BENCH)

results: setup ## render docs/results into README.md, docs/*.md and their figures
	@python -m benchmarks.figures
	@python -m benchmarks.results

bench-peers: setup ## our training rate by those of torch-rechub, DeepCTR-Torch and the usual layers; BENCH=... are its options
	@sh benchmarks/peers/setup.sh
	@python -W ignore -m benchmarks.peers.run $(BENCH)

paper-quick: setup ## the paper's tables and figures on little data, in minutes: runs/paper-quick/paper.html
	@python -W ignore -m benchmarks.paper --quick --out runs/paper-quick $(PAPER)

paper: setup ## all of them: an estimate first, then hours, resumable; PAPER="--parts table5 --budget 2" are its options
	@python -W ignore -m benchmarks.paper $(PAPER)

lint: setup ## ruff check, ruff format --check, mypy --strict
	ruff check .
	ruff format --check .
	mypy --strict

audit: setup ## known vulnerabilities of the pinned packages (needs a registry that has advisories)
	@python requirements/audit.py

lock: setup ## remake requirements/*.txt from setup.cfg (needs a registry)
	python requirements/lock.py

clean: ## remove environments and caches; data/ and runs/ stay
	rm -rf .venv .venv-* build dist ./*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path "./.git/*" -prune -exec rm -rf {} +
