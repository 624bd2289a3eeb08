"""Means over the steps that count: those made before an episode had ended.

What lies behind the end is selected away, never multiplied by 0, so that not even a NaN there reaches a mean.
"""

import jax.numpy as jnp

from dynamite_jax.data.types import Array


def total(x: Array, valid: Array) -> Array:
    """Sum of `x` where `valid`, which has its shape or broadcasts to it: [...] -> []."""
    return jnp.where(valid, x, 0.0).sum()


def mean(x: Array, valid: Array) -> Array:
    """Mean of `x` where `valid`, of the same shape; 0 where no step is: [...] -> []."""
    return total(x, valid) / jnp.maximum(valid.sum(), 1)


def deviation(x: Array, valid: Array) -> Array:
    """Standard deviation of `x` where `valid`, of the same shape; 0 where no step is: [...] -> []."""
    return jnp.sqrt(mean((x - mean(x, valid)) ** 2, valid))
