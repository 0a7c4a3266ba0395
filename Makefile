.PHONY: environment quickstart test lint docs pocket-base

environment:
	@bash scripts/make_environment.sh

quickstart: environment
	@.venv/bin/python quickstart.py

test: environment
	@.venv/bin/python -m pytest

lint: environment
	@.venv/bin/ruff check . && .venv/bin/ruff format --check .

docs: environment
	@.venv/bin/python -m src.document_flags

pocket-base: environment
	@.venv/bin/python -m src.pocket.build_base_model
