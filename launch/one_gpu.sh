#!/usr/bin/env bash
# One GPU: learner and sampler share it in one process. Set up once with: pip install -c constraints.txt '.[gpu]'
# Usage: launch/one_gpu.sh [RECIPE] [--any.field VALUE ...]
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"
export JAX_PLATFORMS=cuda XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-.9}"
exec selfplay train "${1:-quickstart}" --cluster.actors 0 "${@:2}"
