"""Critics of actions, several side by side."""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from dynamite_jax.data.types import Array
from dynamite_jax.networks.mlp import MLP


class Critics(nn.Module):
    """C networks of one shape: [..., F] -> [C, ..., n], or, of continuous actions, [..., F] and [..., A] -> [C, ...].

    Attributes:
        number: C.
        hidden: hidden layers of each.
        actions: n; 0 where actions are continuous.
        activation: name of the activation.
    """

    number: int
    hidden: Sequence[int]
    actions: int
    activation: str

    @nn.compact
    def __call__(self, features: Array, action: Array | None = None) -> Array:
        shared: Any = None  # all get the same inputs
        each = nn.vmap(
            MLP, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=shared, axis_size=self.number
        )
        inputs = features if action is None else jnp.concatenate([features, action], axis=-1)
        q = each(self.hidden, self.actions or 1, self.activation)(inputs)
        return q if self.actions else q[..., 0]
