"""Readout: how much of the exact posterior a small network recovers from the inputs of a policy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dynamite_jax.data.types import Array, Gaussian, Params
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
    logits = _outputs(features, posterior, key, size=posterior.shape[-1], loss=optax.softmax_cross_entropy)
    return jax.nn.softmax(logits)


def numbers(features: Array, values: Array, valid: Array, key: Array) -> Gaussian:
    """Train a small network to read numbers, and how sure they are, off the inputs of a policy.

    Args:
        features: inputs of the policy, normalised, [H, N, F].
        values: the numbers, [H, N, C].
        valid: steps to learn from, [H, N].
        key: of the reader's parameters and batches.

    Returns:
        A normal distribution of each number in the last `1 - FITTED` of the episodes, which the reader was not fitted
        to, [H, M, C].
    """
    mean, deviation = values.mean((0, 1)), values.std((0, 1)) + 1e-6

    def split(outputs: Array) -> Gaussian:
        return Gaussian(*jnp.split(outputs, 2, axis=-1))

    def negative_log_likelihood(outputs: Array, target: Array) -> Array:
        belief, value, counts = split(outputs), target[..., :-1], target[..., -1]
        error = (value - belief.mean) ** 2 * jnp.exp(-belief.log_variance)
        return counts * 0.5 * (error + belief.log_variance).sum(-1)

    targets = jnp.concatenate([(values - mean) / deviation, valid[..., None]], axis=-1)
    outputs = _outputs(features, targets, key, size=2 * values.shape[-1], loss=negative_log_likelihood)
    belief = split(outputs)
    return Gaussian(mean + deviation * belief.mean, belief.log_variance + 2 * jnp.log(deviation))


def _outputs(features: Array, targets: Array, key: Array, *, size: int, loss: Callable[[Array, Array], Array]) -> Array:
    """Outputs of a reader in the episodes that it was not fitted to, [H, M, size].

    Args:
        features: its inputs, [H, N, F].
        targets: what it learns, [H, N, ...].
        key: of its parameters and batches.
        size: number of its outputs.
        loss: of outputs [B, size] and targets [B, ...], [B].
    """
    horizon, episodes = targets.shape[:2]
    fitted = int(FITTED * episodes)
    reader = MLP(HIDDEN, size, "tanh")
    init_key, key = jax.random.split(key)
    params = reader.init(init_key, features[0, :1])
    adam = optax.adam(optax.cosine_decay_schedule(STEP_SIZE, UPDATES))

    def outputs(params: Params, features: Array) -> Any:
        return reader.apply(params, features)

    def mean_loss(params: Params, features: Array, target: Array) -> Array:
        return loss(outputs(params, features), target).mean()

    def update(carry: tuple, key: Array) -> tuple[tuple, None]:
        params, state = carry
        steps, chosen = jax.random.randint(key, (2, BATCH), 0, jnp.array([[horizon], [fitted]]))
        gradient = jax.grad(mean_loss)(params, features[steps, chosen], targets[steps, chosen])
        change, state = adam.update(gradient, state)
        return (optax.apply_updates(params, change), state), None

    (params, _), _ = jax.lax.scan(update, (params, adam.init(params)), jax.random.split(key, UPDATES))
    return outputs(params, features[:, fitted:])
