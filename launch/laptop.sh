#!/usr/bin/env bash
# One laptop, CPU only: the learner and one actor process. Usage: launch/laptop.sh [RECIPE] [--any.field VALUE ...]
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"
export JAX_PLATFORMS=cpu
# Large pages: a large model spends less on page faults.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"
exec selfplay train "${1:-quickstart}" "${@:2}"
