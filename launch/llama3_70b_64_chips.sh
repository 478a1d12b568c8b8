#!/usr/bin/env bash
# Llama 3.1 70B with LoRA on a TPU slice of 64 chips of 32 GiB (16 hosts of 4), as planned in docs/scaling.md; no slice was at hand to
# run it. Run this on every host of it, with OUT on a file system that all of them see; docs/hosts.md.
# Usage: launch/llama3_70b_64_chips.sh RECIPE OUT [--any.field VALUE ...]
set -euo pipefail
exec "$(dirname "$0")/tpu_pod.sh" "${1:?RECIPE}" "${2:?OUT}" --policies.main.model meta-llama/Llama-3.1-70B \
    --policies.main.dtype bfloat16 --policies.main.lora.rank 16 --mesh.fsdp 8 --mesh.tensor 8 --update.remat block \
    --update.row-tokens 1024 --update.micro-rows 1 --roles.solve.max-new-tokens 768 --acquire.tasks-per-unit 8 \
    --propose.per-ask 8 --evaluate.tasks-per-unit 64 "${@:3}"
