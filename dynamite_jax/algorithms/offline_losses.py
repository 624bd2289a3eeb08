"""Losses of the offline learners: IQL, TD3+BC, CQL and behaviour cloning, for actions of both kinds.

Shapes: B transitions, C critics, n discrete actions. Everything is in the critics' unit; `weight` [B] is 1 for
transitions that count and 0 for others.
"""

import jax
import jax.numpy as jnp

from dynamite_jax.data.types import Array


def mean(x: Array, weight: Array) -> Array:
    """Mean over the transitions that count, [..., B] -> []."""
    weight = jnp.broadcast_to(weight, x.shape)
    return (x * weight).sum() / jnp.maximum(weight.sum(), 1.0)


def target(reward: Array, following: Array, terminated: Array, gamma: Array | float) -> Array:
    """What a critic learns: r + gamma V(s'), without a future where the task has ended, [B]."""
    return reward + gamma * jnp.where(terminated, 0.0, following)


def squared_error(q: Array, wanted: Array, weight: Array) -> Array:
    """Mean over transitions of the squared errors of all critics, [C, B] and [B] -> []."""
    return len(q) * mean((q - wanted) ** 2, weight)


def expectile(value: Array, q: Array, weight: Array, level: Array | float) -> Array:
    """Squared error of a value as an expectile of q, [B] twice -> [] (Kostrikov et al., 2022)."""
    difference = q - value
    return mean(jnp.where(difference > 0, level, 1.0 - level) * difference**2, weight)


def advantage_weights(advantage: Array, temperature: Array | float, most: Array | float) -> Array:
    """How much each recorded action is imitated: exp(temperature x advantage), at most `most`, [B]."""
    return jnp.exp(jnp.minimum(temperature * advantage, jnp.log(most)))


def imitation(log_prob: Array, imitated: Array, weight: Array) -> Array:
    """Minus the log-likelihood of recorded actions, each by how much it is `imitated`, [B] twice -> []."""
    return -mean(jax.lax.stop_gradient(imitated) * log_prob, weight)


def td3_bc(q: Array, action: Array, recorded: Array, weight: Array, bc_weight: Array | float) -> Array:
    """Minus q in units of its own size, and the squared distance to recorded actions (Fujimoto and Gu, 2021).

    Args:
        q: first critic at the policy's actions, [B].
        action: the policy's, [B, A].
        recorded: actions, [B, A].
        weight: of transitions, [B].
        bc_weight: how much a unit of q counts.
    """
    unit = jax.lax.stop_gradient(mean(jnp.abs(q), weight))
    distance = ((action - recorded) ** 2).mean(-1)
    return mean(distance - bc_weight * q / jnp.maximum(unit, 1e-6), weight)


def conservatism(others: Array, q: Array, weight: Array) -> Array:
    """How much better critics think of all actions than of recorded ones (Kumar et al., 2020), summed over critics.

    Args:
        others: q of all n actions, or of n sampled ones less their log-densities and log n, [C, n, B].
        q: of recorded actions, [C, B].
        weight: of transitions, [B].
    """
    return len(q) * mean(jax.nn.logsumexp(others, axis=1) - q, weight)


def soft_policy(log_prob: Array, q: Array, weight: Array, entropy: Array | float) -> Array:
    """Minus the expected q of the policy and its entropy: of one sampled action, [B], or over all n, [n, B]."""
    if log_prob.ndim == 1:
        return mean(entropy * log_prob - q, weight)
    return mean((jnp.exp(log_prob) * (entropy * log_prob - q)).sum(0), weight)
