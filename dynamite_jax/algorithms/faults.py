"""What is not finite in an update: the first quantity of all, and how many updates have had one."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_jax.data.types import Array

QUANTITIES = ("observation", "reward", "belief loss", "belief model", "policy loss", "policy")
"""What is looked at, in the order in which an update computes it."""


class Faults(struct.PyTreeNode):
    """Updates of one seed in which something was not finite.

    Attributes:
        count: how many there were, [].
        update: number of the first of them, from 0, [].
        quantity: what was not finite in it before all else, as its place in `QUANTITIES`, [].
    """

    count: Array
    update: Array
    quantity: Array

    @staticmethod
    def none() -> "Faults":
        """Before the first update."""
        return Faults(*[jnp.zeros((), jnp.int32) for _ in range(3)])

    def after(self, update: Array, quantities: Sequence[Any]) -> tuple[Array, "Faults"]:
        """Look at an update.

        Args:
            update: its number, [].
            quantities: a pytree of arrays for each of `QUANTITIES`.

        Returns:
            Whether all of them are finite, [], and the faults with those of this update.
        """
        each = jnp.array([_all_finite(quantity) for quantity in quantities])
        finite = each.all()
        is_first = (self.count == 0) & ~finite
        return finite, Faults(
            count=self.count + ~finite,
            update=jnp.where(is_first, update, self.update),
            quantity=jnp.where(is_first, jnp.argmin(each), self.quantity),
        )


def left_out(finite: Array, before: Any, after: Any, metrics: dict[str, Array]) -> tuple[Any, dict[str, Array]]:
    """An update that counts only where it is finite.

    Args:
        finite: whether it is, [].
        before: the state before it, a pytree of arrays.
        after: the state after it, likewise.
        metrics: its metrics, scalars.

    Returns:
        The state that goes on; and the metrics, nan where the update is left out, with `left_out`, which then is 1.
    """
    state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), after, before)
    metrics = {name: jnp.where(finite, value, jnp.nan) for name, value in metrics.items()}
    return state, metrics | {"left_out": 1.0 - finite}


def _all_finite(tree: Any) -> Array:
    return jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves(tree)]).all()
