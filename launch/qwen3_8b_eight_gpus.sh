#!/usr/bin/env bash
# Qwen3-8B on one host with eight GPUs of 80 GB, as planned in docs/scaling.md.
# Usage: launch/qwen3_8b_eight_gpus.sh [RECIPE] [--any.field VALUE ...]
set -euo pipefail
exec "$(dirname "$0")/one_gpu.sh" "${1:-quickstart}" --policies.main.model Qwen/Qwen3-8B --policies.main.dtype bfloat16 \
    --mesh.fsdp 8 --update.remat block --update.row-tokens 1024 --update.micro-rows 1 --roles.solve.max-new-tokens 768 \
    "${@:2}"
