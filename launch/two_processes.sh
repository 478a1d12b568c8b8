#!/usr/bin/env bash
# Two learner processes of four pretend CPU devices each, on one machine: see docs/hosts.md.
# Usage: launch/two_processes.sh RECIPE --out DIR [--any.field VALUE ...]
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"
export JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=4
run=(selfplay train "$@" --mesh.fsdp 8 --hosts.processes 2 --hosts.coordinator "127.0.0.1:${PORT:-29400}")
"${run[@]}" --hosts.process-id 1 &
"${run[@]}" --hosts.process-id 0
wait $!
