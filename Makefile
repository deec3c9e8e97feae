# Two commands do everything on a fresh machine: make demo, make test.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo quick replicate test lint benchmark release lock clean

demo: $(READY)  ## the whole pipeline on the pocket models, some 6 minutes
	$(BIN)/pbt demo

quick: $(READY)  ## the same on fewer questions, under 3 minutes
	$(BIN)/pbt demo --quick --out runs/demo-quick

replicate: $(READY)  ## five seeds, all evaluations, the four claims: about an hour
	$(BIN)/pbt replicate

test: $(READY)  ## all tests
	$(BIN)/pytest

lint: $(READY)  ## style, types, and the direction of imports
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

benchmark: $(READY)  ## generation against the engine's limit
	$(BIN)/python benchmarks/generation.py --questions 150 --loop-seconds 10 --ray 2

RUN ?= runs/replicate/seed-0
release: $(READY)  ## data.tar.gz and trees/sample: questions, models (raised if there are none), trees and pairs of RUN
	$(BIN)/pbt pocket questions
	rm -rf data/misinformation.jsonl data/run data/manifest.json
	$(BIN)/pbt pocket misinformation
	test -e data/pocket/llama/config.json || $(BIN)/pbt pocket build
	mkdir -p data/run/prefs trees/sample
	cp -r $(RUN)/trees data/run/trees
	cp -r $(addprefix $(RUN)/prefs/,README.md run.json funnel.json pairs.jsonl data) data/run/prefs/
	cp data/run/trees/run.json trees/sample/run.json
	awk 'NR % 40 == 1' data/run/trees/shard-0000-of-0001.jsonl > trees/sample/shard-0000-of-0001.jsonl
	$(BIN)/pbt data pack

# The lock names every package, so nothing is resolved here; --no-deps keeps the CUDA builds out (see requirements/).
$(READY): requirements/cpu.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, found " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps -e .
	$(BIN)/python requirements/check.py
	touch $@

lock:  ## remake requirements/*.txt; needs uv
	uv pip compile requirements/cpu.in --override requirements/cpu-override.txt \
		--universal --python-version 3.11 --no-emit-index-url --no-annotate --quiet -o requirements/cpu.txt
	uv pip compile requirements/gpu.in \
		--universal --python-version 3.11 --no-emit-index-url --no-annotate --quiet -o requirements/gpu.txt

clean:  ## everything that was made, but not the virtual environment
	rm -rf runs data build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
