"""Others at the same work: `PYTHON -m benchmarks.peers PEER COMMAND --model FOLDER`, with a PYTHON that has the peer.

Nothing here imports selfplay or its dependencies but NumPy, so a peer's environment needs the peer alone.
"""

from __future__ import annotations

from collections.abc import Mapping

ROLLOUT = {"batch": 32, "prompt_tokens": 64, "new_tokens": 128}
GROUPS = {"tasks": 8, "group": 8, "prompt_tokens": 64, "new_tokens": 64}

PEERS: Mapping[str, Mapping[str, Mapping[str, int]]] = {
    "transformers": {
        "rollout": ROLLOUT,
        "update": {"sequences": 64, "tokens": 128, "micro_rows": 16},
        "update-grouped": GROUPS | {"micro_rows": 16},
    },
    "trl": {"step": GROUPS | {"micro_rows": 64}},
    "tunix": {"rollout": ROLLOUT, "step": GROUPS | {"micro_rows": 64}},
}
"""Peer -> the commands of `python -m benchmarks` that it can do, with their sizes.

`micro_rows` are sequences computed at a time, the peer's own and not ours."""

PACKAGES: Mapping[str, tuple[str, ...]] = {
    "transformers": ("transformers", "torch"),
    "trl": ("trl", "transformers", "torch"),
    "tunix": ("google-tunix", "jax", "flax"),
}
"""Whose versions a result names."""
