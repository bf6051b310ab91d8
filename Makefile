# make demo   set up .venv and run the whole path: record, label, distil, compare
# make test   set up .venv and run every check: lint, types, floors, tests
# make bench  set up .venv and rerun the published figures into docs/benchmarks.md

PY := .venv/bin/python
DEMO_DIR ?= demo_run
DEMO_ARGS ?=

.PHONY: help setup demo test lint types floors unit bench clean

help:
	@sed -n 's/^# //p' Makefile

setup:
	@tools/setup.sh

demo: setup
	@$(PY) -m kd_perception.cli.main demo --out $(DEMO_DIR) $(DEMO_ARGS)

test: setup lint types floors unit

lint:
	@$(PY) -m ruff check .

types:
	@$(PY) -m mypy

floors:
	@.venv/bin/lint-imports --no-cache

unit:
	@$(PY) -m pytest -n auto --maxprocesses 4 --dist loadfile \
		--cov --cov-report=term --cov-fail-under=90

bench: setup
	@$(PY) benchmarks/run_all.py

clean:
	rm -rf .venv build install log *.egg-info .mypy_cache .ruff_cache .pytest_cache .coverage*
