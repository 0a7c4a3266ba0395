#!/usr/bin/env bash
# bash scripts/reply_tone.sh MODEL GPU [GPU ...]
exec bash "$(dirname "$0")/sweep.sh" reply_tone "$@"
