#!/usr/bin/env bash
# What the tests of the demo's page need: Playwright and axe in .venv, and Chromium, unless a browser of its kind is there.
set -euo pipefail
cd "$(dirname "$0")/.."

.venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps -r requirements-browser.txt
if .venv/bin/python -c "import sys; from scripts.demo_pictures import find_chromium; sys.exit(find_chromium() is None)"; then exit 0; fi
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "error: no Chromium is found; as root on Debian: apt-get install chromium-headless-shell" >&2
    exit 2
fi
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium-headless-shell fonts-dejavu-core >/dev/null
