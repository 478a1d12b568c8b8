#!/usr/bin/env bash
# One laptop, CPU only: the learner and one actor process. Usage: launch/laptop.sh [RECIPE] [--any.field VALUE ...]
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"
export JAX_PLATFORMS=cpu
# Large pages, as a large model spends less on page faults; one arena, and what is free goes back to the system.
malloc=glibc.malloc.hugetlb=1:glibc.malloc.arena_max=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=33554432
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-$malloc}"
exec selfplay train "${1:-quickstart}" "${@:2}"
