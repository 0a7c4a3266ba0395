#!/usr/bin/env bash
# bash scripts/sum_tr.sh MODEL GPU [GPU ...]
exec bash "$(dirname "$0")/sweep.sh" sum_tr "$@"
