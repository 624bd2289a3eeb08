"""What every learner steps with."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynamite_jax.data import sharing
from dynamite_jax.data.types import Array


def optimiser(learning_rate: Array | float, max_grad_norm: Array | float) -> optax.GradientTransformation:
    """Adam on gradients of bounded global norm; its state does not depend on the numbers.

    All parameters are updated as one flat vector: one kernel instead of several for each small array.
    """
    return optax.flatten(optax.chain(optax.clip_by_global_norm(max_grad_norm), optax.adam(learning_rate)))


def remaining(progress: Array, anneal: Array | float) -> Array:
    """Factor of an annealed number: 1, then falling linearly to 0 over the last fraction `anneal` of training."""
    return jnp.clip((1.0 - progress) / jnp.maximum(anneal, 1e-8), 0.0, 1.0)


def chosen_episodes(data: Any, chosen: Array) -> Any:
    """A minibatch of episodes or steps, [H, B, ...]."""
    return sharing.split(jax.tree.map(lambda x: x[:, chosen], data), axis=1)
