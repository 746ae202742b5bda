# Every target sets up by itself: .venv is made when it is missing, and renewed when its requirements change.
.DEFAULT_GOAL := help

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS  := $(VENV)/.installed-docs

.PHONY: help setup demo reproduce sister words test check fmt docs tutorial bench golden tiny clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make .venv and install the pinned requirements into it

demo: $(STAMP)  ## Run the whole line on the toy corpus: a table on the screen and a page in demo/
	$(BIN)/rottrain demo --out demo

# FULL=1 runs three seeds in every table; ROT_TOKENIZER names a tokenizer.json in whose tokens words are counted, too.
reproduce: $(STAMP)  ## Make the tables of the paper in miniature, in reproduced/; run again, it resumes; FULL=1, ARGS
	$(BIN)/rottrain ablate reproduce/tiny.yaml --out reproduced --jobs 2 $(if $(FULL),--set 'other_seeds=[0, 1, 2]') \
	    $(if $(ROT_TOKENIZER),--set 'tokenizer=$(ROT_TOKENIZER)') $(ARGS)

# ROT_DATA names a folder with multiarith.json, svamp.json and gsm8k_train.jsonl.
# A run that was cut short lacks the file that is written last, and is made again; so is what an older script wrote.
WORDS := reproduced-words/corpus
WRITTEN := $(WORDS)/lengths/train.jsonl

$(WRITTEN): reproduce/words.py reproduce/lengths.py | $(STAMP)
	$(BIN)/python -m reproduce.words $(or $(ROT_DATA),.) --out $(WORDS)
	$(BIN)/python -m reproduce.lengths $(or $(ROT_DATA),.) --out $(WORDS)/lengths

sister: $(WRITTEN)  ## Train the sister of tiny that knows words, in build/sister; run again, it resumes
	$(BIN)/python -m reproduce.sister $(WORDS) --out build/sister

words: sister  ## Compare latents with words on questions that people wrote, in reproduced-words/
	$(BIN)/rottrain ablate reproduce/words.yaml --out reproduced-words --jobs 2 $(ARGS)

test: $(STAMP)  ## Run the tests; ARGS="-k strips" chooses among them
	$(BIN)/pytest -n auto --maxprocesses 4 $(ARGS)

check: $(STAMP)  ## Lint, format, types and import contracts, changing nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

fmt: $(STAMP)  ## Format the code and mend what the linter can mend
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

docs: $(DOCS)  ## Build the site of the documents into build/site, warnings being errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

tutorial: $(STAMP)  ## Run docs/tutorial.ipynb and store what its cells give
	$(BIN)/python -m tools.notebook

bench: $(STAMP)  ## Measure every figure against its baseline; ARGS="render generate" chooses among them
	$(BIN)/python -m bench $(ARGS)

golden: $(STAMP)  ## Draw the golden pictures in tests/golden anew
	$(BIN)/python -m tests.make_golden

tiny: $(STAMP)  ## Train the embedded model anew, from random weights
	$(BIN)/python -m rottrain.training.tiny --out build/tiny
	$(BIN)/python -m rottrain.training.tiny --out rotdata/weights/tiny --polish build/tiny

clean:  ## Remove what the other targets made, all but .venv
	rm -rf demo reproduced reproduced-words dist build .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# Only the site needs these.
$(DOCS): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	@touch $@

# torch goes first: asked for by its pinned version alone, pip takes the build that suits the machine.
$(STAMP): pyproject.toml constraints.txt
	@echo "Installing into $(VENV), which takes a few minutes the first time"
	@python=$$(for name in $(PYTHON) python3.11 python3; do \
	    "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo "$$name" && break; done) \
	    || { echo "Python 3.11 or later is needed: install it, or name it with PYTHON=..." >&2; exit 1; }; \
	    test -x $(BIN)/python || "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[test,dev]'
	@touch $@
