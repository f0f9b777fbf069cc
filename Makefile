# What the README, the developers and the CI call. Everything sets itself up.
.PHONY: setup demo test lint bench docs clean
V := .venv/bin

setup:
	@./scripts/setup.sh

demo: setup
	@$(V)/keyvisor demo

test: setup
	@$(V)/python -m pytest $(ARGS)

lint: setup
	@$(V)/ruff check .
	@$(V)/ruff format --check .
	@$(V)/mypy
	@$(V)/pyright
	@$(V)/lint-imports

bench: setup
	@$(V)/python bench/bench.py $(ARGS)

docs: setup
	@$(V)/python scripts/make_docs.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
