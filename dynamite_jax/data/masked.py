"""Means over the steps that count: those made before an episode had ended.

What lies after the end is selected away, never multiplied by 0, so that not even a NaN there reaches a mean.
"""

import jax.numpy as jnp
from jaxtyping import Bool, Float, Shaped

from dynamite_jax.data.types import Array


def total(x: Shaped[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Sum of `x` where `valid`."""
    return jnp.where(valid, x, 0.0).sum()


def mean(x: Shaped[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Mean of `x` where `valid`; 0 where no step is."""
    return total(x, valid) / jnp.maximum(valid.sum(), 1)


def deviation(x: Float[Array, "*shape"], valid: Bool[Array, "*shape"]) -> Float[Array, ""]:
    """Standard deviation of `x` where `valid`; 0 where no step is."""
    return jnp.sqrt(mean((x - mean(x, valid)) ** 2, valid))
