#!/usr/bin/env bash
# Make the benchmark's data sets below data/; --help lists the flags. Runs from any folder; data/ stands where it is typed.
set -euo pipefail
project=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=python3
if [ -z "${VIRTUAL_ENV:-}" ] && [ -x "$project/.venv/bin/python" ]; then python="$project/.venv/bin/python"; fi
PYTHONPATH="$project/src${PYTHONPATH:+:$PYTHONPATH}" exec "$python" -m compositional.preparation "$@"
