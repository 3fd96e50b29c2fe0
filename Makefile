# People and CI use the same targets. `make` lists them.

PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
LOWEST := .venv-lowest
MODELS ?=
EXAMPLE := examples/pedestrian

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-lowest test-avx2 web-check batch-check chaos fuzz check format gpu-check gpu-day bench bench-quick bench-speed recipes nano clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install package, web page and development tools into .venv (keeps a torch that is there)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install "$(TORCH)"
	$(BIN)/python -m pip install -e ".[dev,web]"
	touch $@

demo: $(STAMP)  ## edit the example clip with the built-in model
	$(BIN)/loraedit edit $(EXAMPLE)/source.mkv \
	  --first-frame $(EXAMPLE)/first_frame_edited.png \
	  --source-prompt "a person in a black coat over a grey background" \
	  --prompt "a person in an orange striped coat and a yellow hat over a grey background" \
	  --device cpu --out outputs/pedestrian.mp4 \
	  --run outputs/pedestrian-run

test: $(STAMP)  ## run the tests, one process per core
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --dist worksteal

test-lowest: $(STAMP)  ## run the tests with the lowest versions that pyproject.toml allows (installs into .venv-lowest)
	mkdir -p .cache && $(BIN)/python -m scripts.lowest_versions gguf quant web > .cache/lowest.txt
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -c .cache/lowest.txt -e ".[dev,web]"
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n auto --dist worksteal

test-avx2: $(STAMP)  ## run the tests of the CPU kernels as on a CPU without AVX-512
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto \
	  tests/families/test_wan_cpu.py tests/families/test_wan.py tests/training tests/runtime

web-check: $(STAMP)  ## check the web page: several people, killed servers, accessibility (needs Chromium and npm)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q tests/web/check_web.py

batch-check: $(STAMP)  ## run batches on a Ray cluster of several nodes, and kill workers and nodes (long)
	$(BIN)/python -m pip install -q -e ".[ray]"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -s tests/batch/check_batch.py

chaos: $(STAMP)  ## kill 200 runs at random moments and compare the results with an undisturbed run (resumes)
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.chaos --count 200

fuzz: $(STAMP)  ## give 5,000 damaged and hostile inputs to the command line (resumes)
	OMP_NUM_THREADS=1 $(BIN)/python -m scripts.fuzz --count 5000

check: $(STAMP)  ## check lint, format, types and structure
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python scripts/check_structure.py

format: $(STAMP)  ## fix and format the code with ruff
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

gpu-check: $(STAMP)  ## run every family and memory level once, small, on this machine's device (MODELS=... adds your own)
	$(BIN)/python -m scripts.gpu_check --models $(MODELS)

gpu-day: $(STAMP)  ## measure a 14B model with random weights on this machine's GPU, and write docs/gpu.md (minutes; resumes)
	$(BIN)/python -m scripts.gpu_day --results docs/gpu.jsonl --planned outputs/gpu-plans.json; status=$$?; \
	  $(BIN)/python -m scripts.gpu_day --results docs/gpu.jsonl --page docs/gpu.md && exit $$status

bench: $(STAMP)  ## run the benchmark and write docs/benchmark.md (long; resumes)
	$(BIN)/python -m benchmarks.propagation.run --page docs/benchmark.md

bench-quick: $(STAMP)  ## run the main methods of the benchmark on one case of each kind
	$(BIN)/python -m benchmarks.propagation.run --cases 1 --choices 0 \
	  --methods "source unchanged" "optical flow (DIS)" "no LoRA" "motion LoRA"

bench-speed: $(STAMP)  ## measure time and memory beside other libraries, and cost by size (minutes)
	$(BIN)/python -m pip install einops && $(BIN)/python -m pip install --no-deps diffsynth
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.speed.run --page docs/benchmark.md
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.cost --page docs/benchmark.md

recipes: $(STAMP)  ## compare the recipes and their parts, and write docs/recipes.md (long; resumes)
	$(BIN)/python -m benchmarks.recipes --page docs/recipes.md

nano: $(STAMP)  ## train the built-in model from scratch (very long; resumes)
	$(BIN)/python -m pip install -e ".[pretrain]"
	$(BIN)/python -m pretrain --ship

clean:  ## remove outputs and tool caches, but keep .venv
	rm -rf outputs build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests scripts examples pretrain benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
