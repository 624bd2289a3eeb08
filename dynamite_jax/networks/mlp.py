"""Dense networks, and the Gaussian at the end of one.

Sizes follow public VariBAD code for small tasks unless a preset says otherwise.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp

from dynamite_jax.data.types import Array, Gaussian

ACTIVATIONS = {"tanh": nn.tanh, "relu": nn.relu, "silu": nn.silu}
LOG_VARIANCE_RANGE = (-10.0, 4.0)  # keeps KL terms finite; a posterior deviation of 0.007 is sharp enough


class MLP(nn.Module):
    """Dense layers with an activation between them and a linear end, [..., I] -> [..., O]."""

    hidden: Sequence[int]
    outputs: int
    activation: str = "relu"
    output_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activation = ACTIVATIONS[self.activation]
        for size in self.hidden:
            x = activation(nn.Dense(size, kernel_init=nn.initializers.he_normal())(x))
        return nn.Dense(
            self.outputs,
            kernel_init=nn.initializers.variance_scaling(self.output_scale**2, "fan_in", "truncated_normal"),
        )(x)


class GaussianHead(nn.Module):
    """Linear map to a diagonal Gaussian, [..., I] -> L means and log-variances."""

    latent: int

    @nn.compact
    def __call__(self, x: Array) -> Gaussian:
        mean, log_variance = jnp.split(nn.Dense(2 * self.latent)(x), 2, axis=-1)
        return Gaussian(mean, jnp.clip(log_variance, *LOG_VARIANCE_RANGE))
