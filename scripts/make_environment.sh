#!/usr/bin/env bash
# Make .venv: the pinned CPU set, or the GPU set where an NVIDIA GPU is. Does nothing when it is complete and up to date.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    echo "error: Python 3.11 or newer is needed, $("$python" --version) was found; name another one with PYTHON=..." >&2
    exit 2
}
if nvidia-smi >/dev/null 2>&1; then requirements=requirements.txt; else requirements=requirements-cpu.txt; fi
wanted="$requirements $(cat "$requirements" requirements-dev.txt pyproject.toml | sha256sum | cut -d' ' -f1)"
if [ "$(cat .venv/.complete 2>/dev/null)" = "$wanted" ]; then exit 0; fi

echo "making .venv from $requirements (a few minutes, up to 3 GB)"
"$python" -m venv .venv
pip=".venv/bin/python -m pip --disable-pip-version-check"
if [ "$requirements" = requirements-cpu.txt ]; then
    torch=$(grep '^torch==' requirements-cpu.txt)
    # PyTorch's own index has a small build for CPUs. The default index is the second choice: where its build is for CUDA, it comes
    # with several GB of CUDA libraries.
    $pip install --quiet --no-deps --retries 0 --timeout 5 --index-url https://download.pytorch.org/whl/cpu "$torch" >/dev/null 2>&1 ||
        $pip install --quiet "$torch"
    $pip install --quiet --no-deps -r requirements-cpu.txt -r requirements-dev.txt
else
    $pip install --quiet -r requirements.txt -r requirements-dev.txt
fi
$pip install --quiet --no-deps --no-build-isolation --editable .
.venv/bin/python -c "import compositional, datasets, evaluate, lingua, nevergrad, openai, peft, ray, torch, transformers, vllm"
echo "$wanted" >.venv/.complete
