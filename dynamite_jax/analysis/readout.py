"""Readout: how much of the exact posterior a small network recovers from the inputs of a policy."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynamite_jax.data.types import Array, Params
from dynamite_jax.networks.mlp import MLP

HIDDEN = (64, 64)
UPDATES, BATCH, STEP_SIZE = 3000, 512, 3e-3
FITTED = 0.75  # share of the episodes that the reader is fitted to; the others test it


def error(features: Array, posterior: Array, key: Array) -> Array:
    """Error of the posterior that is read off, on episodes that the reader was not fitted to.

    A belief whose decoder predicts something other than probabilities may still hold the full posterior, and a
    recurrent memory has no decoder at all: the readout is the same measurement for every method.

    Args:
        features: inputs of the policy, normalised, [H, N, F].
        posterior: exact probabilities of the contexts, [H, N, n].
        key: of the reader's parameters and batches.

    Returns:
        Mean absolute error of the probabilities, [].
    """
    prediction = probabilities(features, posterior, key)
    return jnp.abs(prediction - posterior[:, -prediction.shape[1] :]).mean()


def probabilities(features: Array, posterior: Array, key: Array) -> Array:
    """Train a small network to read a posterior, or labels, off the inputs of a policy.

    Args:
        features: inputs of the policy, normalised, [H, N, F].
        posterior: probabilities to learn from, one-hot where they are labels, [H, N, n].
        key: of the reader's parameters and batches.

    Returns:
        Probabilities in the last `1 - FITTED` of the episodes, which the reader was not fitted to, [H, M, n].
    """
    horizon, episodes = posterior.shape[:2]
    split = int(FITTED * episodes)
    reader = MLP(HIDDEN, posterior.shape[-1], "tanh")
    init_key, key = jax.random.split(key)
    params = reader.init(init_key, features[0, :1])
    adam = optax.adam(optax.cosine_decay_schedule(STEP_SIZE, UPDATES))

    def logits(params: Params, features: Array) -> Any:
        return reader.apply(params, features)

    def loss(params: Params, features: Array, label: Array) -> Array:
        return optax.softmax_cross_entropy(logits(params, features), label).mean()

    def update(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        steps, chosen = jax.random.randint(key, (2, BATCH), 0, jnp.array([[horizon], [split]]))
        gradient = jax.grad(loss)(params, features[steps, chosen], posterior[steps, chosen])
        change, state = adam.update(gradient, state)
        return (optax.apply_updates(params, change), state), None

    (params, _), _ = jax.lax.scan(update, (params, adam.init(params)), jax.random.split(key, UPDATES))
    return jax.nn.softmax(logits(params, features[:, split:]))
