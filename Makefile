.PHONY: environment quickstart real-quickstart test test-fast browser lint docs pocket-base gpu-check

environment:
	@bash scripts/make_environment.sh

quickstart: environment
	@.venv/bin/python quickstart.py

# RAW_DATA_DIR names the folder of llm-toys' file and, without a hub, of Synthetic-Persona-Chat's.
real-quickstart: environment
	@.venv/bin/python real_quickstart.py $(if $(RAW_DATA_DIR),--raw_data_dir $(RAW_DATA_DIR))

# Two processes side by side, whose waiting threads sleep instead of spinning.
test: environment
	@OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart 0

test-fast: environment
	@OMP_WAIT_POLICY=PASSIVE .venv/bin/python -m pytest -n 2 --dist loadfile -m "not slow"

# For the tests of the demo's page, which skip without a browser.
browser: environment
	@bash scripts/install_browser.sh

lint: environment
	@.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/lint-imports

docs: environment
	@.venv/bin/python -m scripts.document

pocket-base: environment
	@.venv/bin/python -m compositional.pocket.build_base_model

gpu-check:
	@nvidia-smi >/dev/null 2>&1 || { echo "error: no NVIDIA GPU is visible here (nvidia-smi): gpu-check needs one" >&2; exit 2; }
	@$(MAKE) --no-print-directory environment
	@.venv/bin/python -m pytest -m gpu
	@.venv/bin/python -m benchmarks.real_size --shape llama-3.2-1b
