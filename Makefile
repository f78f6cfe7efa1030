# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS_OF_FUZZ ?= 300

.PHONY: help setup weights demo serve-demo test check house fuzz format docs site bench clean

help:
	@echo "make demo    set up, then summarize, train, rank and evaluate on MovieLens-100K"
	@echo "make serve-demo  serve the demo's run with its page, after make demo"
	@echo "make test    set up, then run the tests"
	@echo "make check   format, lint, types, architecture, generated docs"
	@echo "make house   sizes of the source against their limits"
	@echo "make fuzz    broken files against init, check and prepare (SECONDS_OF_FUZZ=300)"
	@echo "make docs    write the generated pages of docs/"
	@echo "make site    build the documentation as a site into build/site"
	@echo "make bench   time each part on this machine, and write docs/performance.md"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("trsr needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools>=77" torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[local,openvino,openai,baselines,embeddings,tensorboard,sweep,serve,postgres,index,mcp,onnx,dev]"
	touch $@

weights: setup
	$(BIN)/trsr get smollm2-135m

demo: weights
	$(BIN)/trsr get ml-100k
	$(BIN)/trsr get minilm
	$(BIN)/trsr run recipes/demo.toml

serve-demo: setup
	$(BIN)/trsr serve runs/demo --ranker blend

test: weights
	$(BIN)/pytest -n auto --dist worksteal

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/docs.py --check

house: setup
	$(BIN)/python tools/house.py

fuzz: setup
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS_OF_FUZZ)

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: setup
	$(BIN)/python tools/docs.py

site: setup
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[site]"
	$(BIN)/mkdocs build --strict

bench: weights
	$(BIN)/python -m benchmarks all

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
