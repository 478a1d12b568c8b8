#!/usr/bin/env bash
# Qwen3-0.6B on one GPU of 80 GB, as planned in docs/scaling.md. Usage: launch/qwen3_0.6b_one_gpu.sh [RECIPE] [--any.field VALUE ...]
set -euo pipefail
exec "$(dirname "$0")/one_gpu.sh" "${1:-quickstart}" --policies.main.model Qwen/Qwen3-0.6B --policies.main.dtype bfloat16 \
    --update.row-tokens 1024 --update.micro-rows 4 --roles.solve.max-new-tokens 768 "${@:2}"
