# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SECONDS_OF_FUZZ ?= 240
# the same inputs everywhere: what passed here is what is tried; 0: as many as the time allows
INPUTS_OF_FUZZ ?= 4000

.PHONY: help setup system weights demo serve-demo test check house fuzz format docs site bench clean

help:
	@echo "make demo    set up, then summarize, train, rank and evaluate on MovieLens-100K"
	@echo "make serve-demo  serve the run of make demo with its page on http://127.0.0.1:8000"
	@echo "make test    set up, then run the tests"
	@echo "make check   format, lint, types, architecture, generated docs"
	@echo "make house   sizes of the source against their limits"
	@echo "make fuzz    broken files, settings, runs and answers (SECONDS_OF_FUZZ=240)"
	@echo "make docs    write the generated pages of docs/"
	@echo "make site    build the documentation as a site into build/site"
	@echo "make bench   time each part on this machine, and write docs/performance.md"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("trsr needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt "setuptools>=77" torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e ".[local,openvino,openai,baselines,embeddings,images,tensorboard,sweep,serve,postgres,s3,index,cluster,mcp,onnx,dev]"
	touch $@

weights: setup
	$(BIN)/trsr get smollm2-135m

demo: weights
	$(BIN)/trsr get ml-100k
	$(BIN)/trsr get minilm
	$(BIN)/trsr run recipes/demo.toml

serve-demo: setup
	@test -d runs/demo || { echo "there is no runs/demo: give make demo first"; exit 1; }
	$(BIN)/trsr serve runs/demo --ranker blend

# what tests of the service need beside Python: on Debian, as root; elsewhere those tests skip
system:
	@if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	  missing=""; \
	  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || missing="postgresql"; \
	  command -v chromium >/dev/null || missing="$$missing chromium"; \
	  [ -z "$$missing" ] || { apt-get -q update && DEBIAN_FRONTEND=noninteractive \
	    apt-get -qy install --no-install-recommends $$missing; } \
	  || echo "could not install $$missing: tests that need them are skipped"; \
	fi

test: weights system
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
	$(BIN)/python tests/fuzz.py --seconds $(SECONDS_OF_FUZZ) --inputs $(INPUTS_OF_FUZZ) --limit 60

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
