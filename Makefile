# What the README, the developers and the CI call. Everything sets itself up.
.PHONY: setup compiler peers demo test slow search fuzz lint bench conformance docs clean
V := .venv/bin

setup:
	@./scripts/setup.sh

compiler:
	@./scripts/compiler.sh

demo: setup
	@$(V)/keyvisor demo

peers:
	@./scripts/container_peers.sh

# All of them; or some: make test ARGS="tests/policy -k cases"
test: compiler peers setup
	@./scripts/test.sh $(ARGS)

# What takes minutes each: an image of a whole Debian, which is fetched, held against umoci
slow: compiler setup
	@./scripts/container_peers.sh mmdebstrap
	@$(V)/python -m pytest -m slow --timeout 1800 $(ARGS)

# Sequences of six calls that might bring a key out; `make test` tries those of five: make search ARGS="-k python"
search: compiler setup
	@KEYVISOR_TEST_SEARCH_DEPTH=6 $(V)/python -m pytest tests/firmware/broker/guard/test_search.py --timeout 14400 $(ARGS)

# One target under atheris, where it is installed: make fuzz ARGS="gate -max_total_time=600"
fuzz: setup
	@$(V)/python -m tests.fuzz.atheris_targets $(ARGS)

lint: setup
	@$(V)/ruff check .
	@$(V)/ruff format --check .
	@$(V)/mypy
	@$(V)/pyright
	@$(V)/lint-imports

# The broker beside its peers, about ten minutes: make bench ARGS="--quick --only requests,memory --json figures.json"
bench: compiler setup
	@$(V)/python -m bench.bench $(ARGS)

conformance: setup
	@./scripts/conformance_packages.sh
	@$(V)/python -m conformance

docs: setup
	@$(V)/python scripts/make_docs.py
	@$(V)/python scripts/make_policy_docs.py

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
