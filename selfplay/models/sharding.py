"""The device mesh, where each parameter lies on it, and how a batch is split over it.

Axes: `data` repeats the parameters and splits the batch, `fsdp` splits both, `tensor` splits heads and inner width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import jax
import numpy as np
from jax import Array
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from selfplay.errors import UserError
from selfplay.models.config import ModelConfig
from selfplay.models.decoder import Params

AXES = ("data", "fsdp", "tensor")

BATCH_AXES = ("data", "fsdp")
"""Mesh axes that share the rows of a batch."""

P = PartitionSpec
T = TypeVar("T")

MATRIX_SPECS: dict[str, PartitionSpec] = {
    "attn.q": P("tensor", "fsdp"),
    "attn.k": P("tensor", "fsdp"),
    "attn.v": P("tensor", "fsdp"),
    "attn.o": P("fsdp", "tensor"),
    "mlp.gate": P("tensor", "fsdp"),
    "mlp.up": P("tensor", "fsdp"),
    "mlp.down": P("fsdp", "tensor"),
}
"""Matrix [out, in] -> mesh axis of each of its axes. Its bias lies as its outputs where `tensor` splits those."""

PARAMETER_SPECS: dict[str, PartitionSpec] = {
    "embed": P("tensor", "fsdp"),
    "head": P("tensor", "fsdp"),
    "norm.weight": P(None),
    "attn_norm.weight": P(None),
    "attn_post_norm.weight": P(None),
    "attn.q.bias": P("tensor"),
    "attn.k.bias": P("tensor"),
    "attn.v.bias": P("tensor"),
    "attn.o.bias": P(None),
    "attn.q_norm.weight": P(None),
    "attn.k_norm.weight": P(None),
    "mlp_norm.weight": P(None),
    "mlp_post_norm.weight": P(None),
    "mlp.gate.bias": P("tensor"),
    "mlp.up.bias": P("tensor"),
    "mlp.down.bias": P(None),
    **{f"{name}.weight": spec for name, spec in MATRIX_SPECS.items()},
    **{f"{name}.lora_a": P(spec[1], None) for name, spec in MATRIX_SPECS.items()},
    **{f"{name}.lora_b": P(None, spec[0]) for name, spec in MATRIX_SPECS.items()},
}
"""Parameter name (within its layer) -> mesh axis of each of its axes."""


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1) -> Mesh:
    """A mesh over the first data * fsdp * tensor devices; axes are Auto, so that the compiler places the rest.

    Over several processes it takes all devices of all: a process without one could not join in.
    """
    shape = (data, fsdp, tensor)
    if min(shape) < 1:
        raise UserError(f"mesh axes must be >= 1, got data={data} fsdp={fsdp} tensor={tensor}")
    needed, devices, processes = int(np.prod(shape)), jax.devices(), jax.process_count()
    if needed > len(devices) or (processes > 1 and needed != len(devices)):
        found = f"{len(devices)}" + (f" in {processes} processes, which must all be used" if processes > 1 else "")
        raise UserError(f"mesh data={data} fsdp={fsdp} tensor={tensor} needs {needed} devices, got {found}")
    return jax.make_mesh(shape, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:needed])


def parameter_spec(path: tuple[str, ...]) -> PartitionSpec:
    """The PartitionSpec of the parameter at a path of the tree, such as ("layers", "0", "attn", "q", "weight")."""
    name = ".".join(path[2:] if path[0] == "layers" else path)
    if name not in PARAMETER_SPECS:
        raise ValueError(f"parameter {'.'.join(path)!r} has no entry in PARAMETER_SPECS")
    return PARAMETER_SPECS[name]


def parameter_shardings(params: Params, mesh: Mesh) -> Params:
    """A tree like `params` (arrays or their shapes) of NamedShardings.

    Raises:
      UserError: an axis that the table splits does not divide over its mesh axis; nothing is left whole silently.
    """

    def one(path: Any, leaf: Any) -> NamedSharding:
        names = tuple(str(part.key) for part in path)
        spec = parameter_spec(names)
        for index, (axis, size) in enumerate(zip(spec, leaf.shape, strict=True)):
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f"parameter {'.'.join(names)}: axis {index} of size {size} does not divide over "
                    f"mesh.{axis} = {mesh.shape[axis]}"
                )
        return NamedSharding(mesh, spec)

    return dict(jax.tree_util.tree_map_with_path(one, params))


def check_mesh(config: ModelConfig, mesh: Mesh) -> None:
    """Refuse a mesh that would cut a query head in two.

    Key and value heads may be fewer than `tensor`: their matrices are split all the same, and the compiler gathers the
    few heads where queries of several devices share one.
    """
    tensor = mesh.shape["tensor"]
    if config.heads % tensor:
        raise UserError(f"{config.heads} attention heads do not divide over mesh.tensor = {tensor}")


def shard_params(params: Params, mesh: Mesh) -> Params:
    """The parameters laid out over the mesh."""
    return dict(place(params, parameter_shardings(params, mesh)))


def place(tree: Any, shardings: Any) -> Any:
    """Arrays laid out by their shardings (a tree, or one for all).

    Over several processes each device gets its part of what every process holds whole from its own process; what lies
    over all of them already is moved where it lies otherwise.
    """

    def one(leaf: Any, sharding: NamedSharding) -> jax.Array:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            moved: jax.Array = jax.device_put(leaf, sharding)
            return moved
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if all(sharding.is_fully_addressable for sharding in jax.tree.leaves(shardings)):
        return jax.device_put(tree, shardings)
    if isinstance(shardings, NamedSharding):
        shardings = jax.tree.map(lambda _: shardings, tree)
    return jax.tree.map(one, tree, shardings)


def fetch(tree: Any, mesh: Mesh) -> Any:
    """Small arrays on the mesh as NumPy arrays, whole, at every process."""
    if not mesh.is_multi_process:
        return jax.device_get(tree)
    return jax.tree.map(lambda leaf: np.asarray(leaf.addressable_data(0)), _whole(mesh, tree))


@partial(jax.jit, static_argnums=0)
def _whole(mesh: Mesh, tree: Any) -> Any:
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, P()))


def batch_parts(mesh: Mesh) -> int:
    """Devices (or groups of `tensor` devices) that share the rows of a batch."""
    return int(mesh.shape["data"] * mesh.shape["fsdp"])


def by_rows(f: Callable[..., T], mesh: Mesh | None, whole: int) -> Callable[..., T]:
    """`f` with each device at its own rows, without a word to the others; all of its results are split by rows.

    The compiler cannot see that rows keep to themselves. Left to it, devices exchange what they write into their caches
    in every layer, and a loop that ends when all rows have ended asks all of them at every turn. Where `tensor` splits
    heads it is left to it nevertheless: those devices must talk, and turn by turn alike.

    Args:
      mesh: None = `f` as it is.
      whole: how many of the arguments, the first ones, every device needs whole; the others are split by rows.
    """
    if mesh is None or mesh.shape["tensor"] > 1:
        return f
    rows = P(BATCH_AXES)

    def spread(*args: Any) -> T:
        specs = tuple(P() if place < whole else rows for place in range(len(args)))
        return jax.shard_map(f, mesh=mesh, in_specs=specs, out_specs=rows, check_vma=False)(*args)

    return spread


def stay_by_rows(x: Array, mesh: Mesh | None) -> Array:
    """Within `by_rows`, where that leaves a loop to the compiler: tell it that `x` is split by rows, so that weights
    travel to activations, once before the loop, and not activations to weights at every turn."""
    if mesh is None or mesh.shape["tensor"] == 1:
        return x
    placed: Array = jax.lax.with_sharding_constraint(x, batch_sharding(mesh))
    return placed


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The leading axis, rows, over (data, fsdp): rows come in multiples of `batch_parts`, never copied whole."""
    return NamedSharding(mesh, P(BATCH_AXES))


def slabs_sharding(mesh: Mesh) -> NamedSharding:
    """The same for several slabs of rows, [slabs rows ..]."""
    return NamedSharding(mesh, P(None, BATCH_AXES))
