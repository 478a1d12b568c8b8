"""The device mesh, where each parameter lies on it, and how a batch is split over it.

Axes: `data` repeats the parameters and splits the batch, `fsdp` splits both, `tensor` splits heads and inner width.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from selfplay.errors import UserError
from selfplay.models.decoder import Params

AXES = ("data", "fsdp", "tensor")

P = PartitionSpec

PARAMETER_SPECS: dict[str, PartitionSpec] = {
    "embed": P("tensor", "fsdp"),
    "head": P("tensor", "fsdp"),
    "norm.weight": P(None),
    "attn_norm.weight": P(None),
    "attn_post_norm.weight": P(None),
    "attn.q.kernel": P("fsdp", "tensor"),
    "attn.k.kernel": P("fsdp", "tensor"),
    "attn.v.kernel": P("fsdp", "tensor"),
    "attn.o.kernel": P("tensor", "fsdp"),
    "attn.q.bias": P("tensor"),
    "attn.k.bias": P("tensor"),
    "attn.v.bias": P("tensor"),
    "attn.o.bias": P(None),
    "attn.q_norm.weight": P(None),
    "attn.k_norm.weight": P(None),
    "mlp_norm.weight": P(None),
    "mlp_post_norm.weight": P(None),
    "mlp.gate.kernel": P("fsdp", "tensor"),
    "mlp.gate.bias": P("tensor"),
    "mlp.up.kernel": P("fsdp", "tensor"),
    "mlp.up.bias": P("tensor"),
    "mlp.down.kernel": P("tensor", "fsdp"),
    "mlp.down.bias": P(None),
}
"""Parameter name (within its layer) -> mesh axis of each of its axes."""


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over the first data * fsdp * tensor devices; axes are Auto, so that the compiler places the rest."""
    shape = (data, fsdp, tensor)
    if min(shape) < 1:
        raise UserError(f"mesh axes must be >= 1, got data={data} fsdp={fsdp} tensor={tensor}")
    needed, devices = int(np.prod(shape)), jax.devices()
    if needed > len(devices):
        raise UserError(f"mesh data={data} fsdp={fsdp} tensor={tensor} needs {needed} devices, got {len(devices)}")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed])


def parameter_spec(path: tuple[str, ...]) -> PartitionSpec:
    """The PartitionSpec of the parameter at a path of the tree, such as ("layers", "0", "attn", "q", "kernel")."""
    name = ".".join(path[2:] if path[0] == "layers" else path)
    if name not in PARAMETER_SPECS:
        raise ValueError(f"parameter {'.'.join(path)!r} has no entry in PARAMETER_SPECS")
    return PARAMETER_SPECS[name]


def parameter_shardings(params: Params, mesh: Mesh) -> Params:
    """A tree like `params` of NamedShardings; an axis that does not divide its mesh axis stays whole."""

    def one(path: Any, leaf: Any) -> NamedSharding:
        axes = zip(parameter_spec(tuple(str(part.key) for part in path)), leaf.shape, strict=True)
        return NamedSharding(mesh, P(*(axis if axis and size % mesh.shape[axis] == 0 else None for axis, size in axes)))

    return dict(jax.tree_util.tree_map_with_path(one, params))


def shard_params(params: Params, mesh: Mesh) -> Params:
    """The parameters laid out over the mesh."""
    return dict(jax.device_put(params, parameter_shardings(params, mesh)))


def batch_rows(rows: int, mesh: Mesh) -> int:
    """Rows after padding: the next multiple of data * fsdp."""
    parts = int(mesh.shape["data"] * mesh.shape["fsdp"])
    return -(-rows // parts) * parts


def shard_batch(batch: Any, mesh: Mesh, *, uneven: Literal["refuse", "zeros"] = "refuse") -> Any:
    """Split the leading axis of every array over (data, fsdp); never copied whole to every device.

    Args:
      batch: any tree of arrays with one common leading axis B.
      uneven: what to do when B is no multiple of data * fsdp: refuse, or append rows of zeros (which are segment 0,
        mask False and weight 0 in a `records.Batch`, so that they count nowhere).
    """
    rows = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
    if len(rows) != 1:
        raise ValueError(f"a batch has one number of rows, got {sorted(rows)}")
    short = batch_rows(min(rows), mesh) - min(rows)
    if short and uneven == "refuse":
        parts = mesh.shape["data"] * mesh.shape["fsdp"]
        raise ValueError(f"{min(rows)} rows do not divide over data * fsdp = {parts} devices; pad with uneven='zeros'")
    if short:
        batch = jax.tree.map(lambda x: np.pad(np.asarray(x), [(0, short)] + [(0, 0)] * (x.ndim - 1)), batch)
    return jax.device_put(batch, NamedSharding(mesh, P(("data", "fsdp"))))
