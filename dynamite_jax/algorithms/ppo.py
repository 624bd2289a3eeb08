"""PPO (Schulman et al., 2017) on features that are fixed inputs: the beliefs get no gradient from here."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Bool, Float

from dynamite_envs.spaces import Box, Discrete
from dynamite_jax.agents.distributions import policy_distribution
from dynamite_jax.data import masked
from dynamite_jax.data.types import Array, Rollout


class Samples(struct.PyTreeNode):
    """Steps to learn from, [N, ...]: inputs, actions and advantages.

    Attributes:
        features: normalised inputs.
        action: of the rollout.
        log_prob: log-probability of the action in the rollout.
        value: critic's output in the rollout.
        advantage: in units of reward.
        target: of the critic's output.
        valid: whether the episode had not ended before the step; no other step counts.
    """

    features: Array
    action: Array
    log_prob: Array
    value: Array
    advantage: Array
    target: Array
    valid: Array


def advantages(
    reward: Float[Array, "H E"],
    terminated: Bool[Array, "H E"],
    value: Float[Array, "H+1 E"],
    gamma: Float[Array, ""] | float,
    lambda_: Float[Array, ""] | float,
) -> Float[Array, "H E"]:
    """Generalised advantage estimates (Schulman et al., 2016) over episodes.

    A terminated step has no value after it; the end of the horizon is a truncation, after which the critic's
    value of the last state counts.

    Args:
        reward: of each step.
        terminated: whether the task had ended after the step.
        value: of each state, the last row that of the state after the last step.
        gamma: discount.
        lambda_: mixing of n-step estimates.
    """
    import rlax  # here, since it brings along distrax, see `agents.distributions`

    def estimate(reward: Array, discount: Array, value: Array) -> Any:
        return rlax.truncated_generalized_advantage_estimation(reward, discount, lambda_, value)

    return jax.vmap(estimate, in_axes=1, out_axes=1)(reward, gamma * (1.0 - terminated), value)


def samples(
    rollout: Rollout,
    features: Float[Array, "H E F"],
    value: Float[Array, "H+1 E"],
    gamma: Float[Array, ""] | float,
    lambda_: Float[Array, ""] | float,
) -> Samples:
    """Steps of a rollout to learn from.

    Args:
        rollout: the episodes.
        features: normalised inputs.
        value: of each state, in units of reward.
        gamma: discount.
        lambda_: mixing of n-step estimates.

    Returns:
        Leaves [H, E, ...]; targets are in units of reward.
    """
    advantage = advantages(rollout.reward, rollout.terminated, value, gamma=gamma, lambda_=lambda_)
    return Samples(
        features=features,
        action=rollout.action,
        log_prob=rollout.log_prob,
        value=rollout.value[:-1],
        advantage=advantage,
        target=value[:-1] + advantage,
        valid=rollout.valid,
    )


def loss(
    policy: Float[Array, "N P"], value: Float[Array, " N"], batch: Samples, space: Discrete | Box, hyper: Any
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Clipped surrogate, clipped value error and entropy bonus.

    Args:
        policy: policy parameters under the current weights.
        value: critic's outputs under the current weights.
        batch: the minibatch, [N, ...]; advantages are normalised within it, and only its valid steps count.
        space: action space.
        hyper: `PPOConfig` with `clip`, `value_weight`, `entropy`.

    Returns:
        Scalar loss and named means; `action_deviation` where actions are continuous.
    """
    distribution = policy_distribution(policy, space)
    log_ratio = distribution.log_prob(batch.action) - batch.log_prob
    ratio = jnp.exp(log_ratio)
    mean = partial(masked.mean, valid=batch.valid)
    deviation = masked.deviation(batch.advantage, batch.valid)
    advantage = (batch.advantage - mean(batch.advantage)) / (deviation + 1e-8)
    clipped = jnp.clip(ratio, 1.0 - hyper.clip, 1.0 + hyper.clip)
    policy_loss = -mean(jnp.minimum(ratio * advantage, clipped * advantage))

    moved = batch.value + jnp.clip(value - batch.value, -hyper.clip, hyper.clip)
    value_loss = 0.5 * mean(jnp.maximum((value - batch.target) ** 2, (moved - batch.target) ** 2))
    entropy = mean(distribution.entropy())
    total = policy_loss + hyper.value_weight * value_loss - hyper.entropy * entropy
    terms = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": entropy,
        "approx_kl": mean(ratio - 1.0 - log_ratio),
        "clip_fraction": mean(jnp.abs(ratio - 1.0) > hyper.clip),
    }
    if isinstance(space, Box):
        terms["action_deviation"] = mean(distribution.stddev().mean(-1))
    return total, terms
