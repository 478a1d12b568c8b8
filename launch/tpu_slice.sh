#!/usr/bin/env bash
# The chips of ONE TPU host, as the `fsdp` axis of the learner's mesh; the sampler runs in the same process.
# For a slice of several hosts: launch/tpu_pod.sh.
# Set up once with: pip install -c constraints.txt '.[tpu]'. Usage: CHIPS=4 launch/tpu_slice.sh [RECIPE] [--any.field VALUE ...]
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"
export JAX_PLATFORMS=tpu
exec selfplay train "${1:-quickstart}" --cluster.actors 0 --mesh.fsdp "${CHIPS:-4}" "${@:2}"
