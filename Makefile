# Two commands set everything up on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
REPEAT ?= 3
DEVICE ?= cpu
BIN := .venv/bin

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: .venv/installed        ## zero-shot, few-shot, SFT and PPO on the bundled model and tasks
	$(BIN)/rl4nlu demo

test: .venv/installed        ## all tests that need no more than a few minutes, on all cores
	$(BIN)/python -m pytest -m "not slow" --numprocesses auto --dist loadfile

test-slow: .venv/installed   ## the learning tests on real and bundled tasks
	$(BIN)/python -m pytest -m slow

faults: .venv/installed      ## kill -9 at 50 moments, SIGTERM and SIGINT at 20, a full disk at every write
	RL4NLU_KILLS=50 RL4NLU_TERMS=20 $(BIN)/python -m pytest tests/test_kill.py tests/test_guards.py --numprocesses auto --dist loadfile

soak: .venv/installed        ## 20,000 steps: neither memory nor the run folder grows
	$(BIN)/python -m pytest tests/test_soak.py -s

fuzz: .venv/installed        ## 10,000 odd files, flags, rows, prompts, answers and runs of each kind, other ones each time
	RL4NLU_FUZZ=10000 $(BIN)/python -m pytest tests/test_fuzz.py --numprocesses auto

pretrain-smoke: .venv/installed  ## a tiny model pre-trained on this repository's pages: it learns, goes on, and loads
	$(BIN)/python -m pytest tests/test_pretrain.py -m slow -k tiny

check: .venv/installed       ## format, lint, types, generated docs in step with the code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python scripts/docs.py --check

fix: .venv/installed         ## mend format and generated docs
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python scripts/docs.py

bench: .venv/installed       ## rl4nlu and its peers side by side, on the official files in DATA; writes docs/benchmarks.md
	sh benchmarks/environments.sh build/peers $(PYTHON)
	test -d build/models/llama15m || $(BIN)/python benchmarks/models.py build/models --data $(DATA)
	$(BIN)/python benchmarks/bench.py --data $(DATA) --model build/models/llama15m --environments build/peers --repeat $(REPEAT) --device $(DEVICE)

docs: .venv/docs             ## the documentation as a site in build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.venv/docs: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $@

speed: .venv/installed       ## examples a second of every stage with the bundled model
	$(BIN)/python benchmarks/speed.py

real: .venv/installed        ## the table of docs/results.md, from the official files in DATA
	$(BIN)/python scripts/real.py --data $(DATA)

.PHONY: demo test test-slow faults soak fuzz pretrain-smoke check fix bench docs speed real
