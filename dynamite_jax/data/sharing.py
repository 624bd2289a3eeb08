"""The mesh of devices: seeds lie along one axis, and along the other one the environments of each of them.

Seeds are independent. Where several devices have one seed in common, each plays its share of the environments and
learns from its share of every minibatch; what is drawn, and what it means, is that of one device: arrays have the
same shapes, the compiler splits them, and sums their parts.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
from jax.sharding import PartitionSpec

SEED, ENV = AXES = ("seed", "env")


def shares() -> int:
    """Devices that have the seed in common which is traced."""
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.shape[ENV] if ENV in mesh.auto_axes else 1


def over_environments(function: Callable, env: Any) -> Callable:
    """Map a function of one environment's arrays over those of all, [E, ...], each device over those of its share.

    Args:
        function: of `env` and of one environment's arrays.
        env: the environment, which all have.
    """

    def of_device(env: Any, arrays: tuple) -> Any:
        return jax.vmap(partial(function, env))(*arrays)

    mapped = of_device
    if shares() > 1:
        # Not left to the compiler, which would not split what is no operation of its own, as the physics of C MuJoCo.
        parts = PartitionSpec(ENV)
        mapped = jax.shard_map(
            of_device, in_specs=(PartitionSpec(), parts), out_specs=parts, axis_names={ENV}, check_vma=False
        )
    return lambda *arrays: mapped(env, arrays)


def split(tree: Any, axis: int) -> Any:
    """Arrays of which each device has its share along an axis; all of them where it is not a multiple of the shares."""
    spec = PartitionSpec(*[None] * axis, ENV)

    def split_one(x: jax.Array) -> jax.Array:
        return x if x.shape[axis] % shares() else jax.lax.with_sharding_constraint(x, spec)

    return tree if shares() == 1 else jax.tree.map(split_one, tree)


def whole(tree: Any) -> Any:
    """Arrays that every device has whole, so that it can choose from them."""
    return tree if shares() == 1 else jax.lax.with_sharding_constraint(tree, PartitionSpec())
