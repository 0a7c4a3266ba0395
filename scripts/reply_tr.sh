#!/usr/bin/env bash
# bash scripts/reply_tr.sh MODEL GPU [GPU ...]
exec bash "$(dirname "$0")/sweep.sh" reply_tr "$@"
