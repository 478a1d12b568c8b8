#!/usr/bin/env bash
# A TPU slice of several hosts: run this on every host of it, with OUT on a file system that all of them see; docs/hosts.md.
# Set up once with: pip install -c constraints.txt '.[tpu]'. Usage: launch/tpu_pod.sh RECIPE OUT --mesh.fsdp CHIPS [--any.field VALUE ...]
set -euo pipefail
PATH="$(dirname "$0")/../.venv/bin:$PATH"
export JAX_PLATFORMS=tpu
exec selfplay train "${1:?RECIPE}" --out "${2:?OUT}" --resume --cluster.actors 0 --hosts.processes auto "${@:3}"
