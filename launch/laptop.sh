#!/usr/bin/env bash
# One laptop, CPU only: the learner and one actor process. Usage: launch/laptop.sh [RECIPE] [--any.field VALUE ...]
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"
export JAX_PLATFORMS=cpu
exec selfplay train "${1:-quickstart}" "${@:2}"
