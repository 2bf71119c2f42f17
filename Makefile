# Every target does its own set-up from a bare checkout: Python 3.11 or 3.12, make, a C compiler.
#   make demo       the quickstart: a real 135M model, six dataset variants, table, figures, report, and other judges
#   make test       the tests          make test-slow   those that need the quickstart model or minutes
#   make check      ruff, imports, mypy make chaos       sweeps killed, starved and damaged on purpose
#   make bench      the benchmarks, on a quiet machine: each value beside its goal
#   make coverage   what the intervals cover, each goal with PASS or FAIL, in minutes; make coverage-full: every cell
#   make site       the documentation as a site, in site/
#   make bench-tiny the benchmarks at a size of seconds: counters only, for CI
#   make gpu-check  on a GPU: what holds there and what does not, into gpu_check.json (docs/gpu.md)
#   make notebooks  the notebooks again, in place, on the demo's sweep (EM_SWEEP names another)
#   make lock       both lock files again, from pyproject.toml
# EM_BUILD=cpu|cuda chooses the build; without it cuda, if there is a GPU here or .venv was made for one.

# The first that runs. Both install from the same lock files; make PYTHON=python3.12 chooses.
PYTHON ?= $(or $(shell for p in python3.11 python3.12; do $$p -c '' 2>/dev/null && echo $$p && break; done),python3.11)
DEV := /dev
EM_BUILD ?= $(if $(wildcard $(DEV)/nvidia[0-9]* .venv/.installed-cuda),cuda,cpu)
BIN := .venv/bin
LOCK := launch/locks/$(EM_BUILD).txt
STAMP := .venv/.installed-$(EM_BUILD)
OTHER := .venv/.installed-$(if $(filter cuda,$(EM_BUILD)),cpu,cuda)
TORCH := $(shell grep -E '^torch==' $(LOCK) | cut -d' ' -f1)
PYTORCH_CPU := https://download.pytorch.org/whl/cpu
UV_PIN := uv==0.13.9
INSTALL := sh launch/locks/install.sh $(BIN)
CHAOS_KILLS ?= 50
CHAOS_GONE_S ?= 60
BENCHMARKS := sweep_cost noop_rerun sampling directions train_step interventions judge cli overlap report_answers stats

.PHONY: notebooks coverage coverage-full demo test test-slow chaos bench bench-tiny gpu-check check site lock install services

install: $(STAMP)

# --no-deps: a lock file is complete, and what it leaves out on purpose must stay out (see its first lines).
# A CPU torch may be missing from the machine's package index; then it comes from PyTorch's own. Both builds have the same
# version number and share folders, so an environment of the other build is made anew, and torch is asked at the end.
# uv installs in a third of pip's time; where it cannot be had, pip does all.
$(STAMP): $(LOCK) pyproject.toml
	@if [ -e $(OTHER) ]; then echo ".venv was made for the other build: it is made anew for $(EM_BUILD)"; rm -rf .venv; fi
	@echo "installs about 3 GB of packages into .venv: 1 to 3 minutes, without a word in between"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check '$(UV_PIN)' || echo "no $(UV_PIN): pip installs all, which takes longer"
	$(INSTALL) '$(TORCH)' || { [ $(EM_BUILD) = cpu ] && $(INSTALL) '$(TORCH)' --index-url $(PYTORCH_CPU); }
	$(INSTALL) -r $(LOCK)
	$(BIN)/pip uninstall --quiet --yes em 2>/dev/null || true   # the distribution's name up to 0.1.0
	$(INSTALL) --editable .
	@$(BIN)/python -c 'import sys, torch; found = "cuda" if torch.version.cuda else "cpu"; sys.exit(0 if found == "$(EM_BUILD)" \
		else f"torch {torch.__version__} in .venv is a build for {found} and EM_BUILD=$(EM_BUILD): remove .venv, run make again")'
	touch $(STAMP)

# What the tests drive besides Python: a browser and a SLURM of one machine, from Debian's packages. Without them those
# tests skip and say so.
services:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then sh tests/install_services.sh; \
	else echo "not root, or no apt-get: install chromium, slurm-wlm and munge yourself"; fi

demo: $(STAMP)
	@sh launch/demo.sh $(BIN)

test: $(STAMP)
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow and not chaos" --durations=30 $(ARGS)

test-slow: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m "slow and not chaos" --timeout=1800 $(ARGS)

# Faults on purpose: 50 random kills, a minute without the judge, full disks, flipped bits (docs/reliability.md).
# .ci/run has the size for CI.
chaos: $(STAMP)
	EM_CHAOS_KILLS=$(CHAOS_KILLS) EM_CHAOS_GONE_S=$(CHAOS_GONE_S) OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 \
		$(BIN)/python -m pytest -m chaos -o addopts="-ra --strict-markers --import-mode=importlib" $(ARGS)

# About 15 minutes on two idle cores; benchmarks/train_gpu.py is for a GPU. A benchmark that breaks has not passed either.
bench: $(STAMP)
	@lost=; for name in $(BENCHMARKS); do \
		echo "-- $$name"; HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/$$name.py > .venv/bench.txt 2>&1; code=$$?; \
		grep -E ' (PASS|FAIL|info)$$' .venv/bench.txt; \
		if [ $$code != 0 ]; then lost="$$lost $$name"; grep -q ' FAIL$$' .venv/bench.txt || tail -5 .venv/bench.txt; fi; \
	done; [ -z "$$lost" ] || { echo "not passed:$$lost"; exit 1; }

# The thinned grid. The full one continues benchmarks/coverage.csv: delete it after a change of the intervals.
coverage: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py

coverage-full: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/coverage.py --full

# Each in a process of its own, two at a time.
bench-tiny: $(STAMP)
	@OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/run_tiny.py $(BENCHMARKS) coverage train_gpu

# At most 20 minutes on one card, no network. Without a GPU every line of it is UNSEEN.
gpu-check: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python benchmarks/gpu_check $(ARGS)

notebooks: $(STAMP)
	HF_HUB_OFFLINE=1 $(BIN)/python notebooks/execute.py

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy
	$(BIN)/python docs/draw_rooms.py --check
	$(BIN)/python docs/build_site.py .venv/site

site: $(STAMP)
	$(BIN)/python docs/build_site.py site

# uv reads only pyproject.toml here; --find-links TORCH_WHEELS where PyTorch's index cannot be reached
lock:
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet '$(UV_PIN)'
	sh launch/locks/make_locks.sh $(BIN)/uv $(TORCH_WHEELS)
