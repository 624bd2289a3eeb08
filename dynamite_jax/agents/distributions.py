"""Distributions of actions."""

from typing import Any

import jax.numpy as jnp

from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.data.types import Array


def policy_distribution(policy: Array, space: Discrete | Box) -> Any:
    """Distribution of actions: logits [..., n], or means and log-deviations [..., 2 size].

    Continuous actions are not squashed; the environment clips them, so that every log-probability is finite.
    """
    import distrax  # here, since it takes as long to import as JAX itself

    if isinstance(space, Discrete):
        return distrax.Categorical(logits=policy)
    mean, log_std = jnp.split(policy, 2, axis=-1)
    return distrax.MultivariateNormalDiag(mean, jnp.exp(log_std))
