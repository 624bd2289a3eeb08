"""Action spaces: what actions are, and how they are encoded for a network."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

Array = jax.Array


@dataclass(frozen=True)
class Discrete:
    """`n` actions, numbered 0 .. n - 1; batches have shape [...] and an integer type."""

    n: int

    @property
    def size(self) -> int:
        """Numbers needed to show an action to a network (one-hot)."""
        return self.n

    def encode(self, action: Array) -> Array:
        """Network input for an action: one-hot, [...] -> [..., n]."""
        return jax.nn.one_hot(action, self.n)

    def clip(self, action: Array) -> Array:
        """The action that the environment executes: itself."""
        return action

    def zeros(self, batch: tuple[int, ...]) -> Array:
        """A batch of placeholder actions."""
        return jnp.zeros(batch, jnp.int32)


@dataclass(frozen=True)
class Box:
    """Actions in [-1, 1]^size; batches have shape [..., size]."""

    size: int

    def encode(self, action: Array) -> Array:
        """Network input for an action: what the environment executed."""
        return self.clip(action)

    def clip(self, action: Array) -> Array:
        """The action that the environment executes."""
        return jnp.clip(action, -1.0, 1.0)

    def zeros(self, batch: tuple[int, ...]) -> Array:
        """A batch of placeholder actions."""
        return jnp.zeros((*batch, self.size), jnp.float32)
