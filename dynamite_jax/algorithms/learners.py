"""Learners of a policy from recorded transitions: what critics and policy of each learn, in one loss.

A learner gives the loss of the critics, of the policy, and of the value beside it, as one sum whose gradients do not
cross: what one part takes of another is fixed. So one optimiser steps through all of it, each part at its own rate.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.spaces import Discrete
from dynamite_jax.agents.actor_critic import bounded
from dynamite_jax.agents.agent import Agent
from dynamite_jax.agents.critics import Critics
from dynamite_jax.agents.distributions import policy_distribution
from dynamite_jax.algorithms import offline_losses as losses
from dynamite_jax.algorithms.algorithm import Metrics
from dynamite_jax.config import OfflineConfig
from dynamite_jax.data.types import Array, Params

SAMPLES = 8
"""Actions that CQL draws uniformly, from the policy, and from the policy in the next state, each so many."""


class Transitions(struct.PyTreeNode):
    """B recorded steps.

    Attributes:
        features: normalised inputs of policy and critics before the step, [B, F].
        following: likewise after it, [B, F].
        action: [B] or [B, A].
        reward: in the critics' unit, [B].
        terminated: whether the task ended, [B].
        weight: 1 for a step that counts, else 0, [B].
    """

    features: Array
    following: Array
    action: Array
    reward: Array
    terminated: Array
    weight: Array


class Weights(struct.PyTreeNode):
    """What learns: policy and value as the agent has them, and the critics."""

    policy: Params
    critics: Params


@dataclass(frozen=True)
class Networks:
    """How weights are applied."""

    agent: Agent
    critics: Critics

    def policy(self, params: Params, features: Array) -> tuple[Any, Array]:
        """Distribution of actions and value, [B]."""
        policy, value = self.agent.policy(params, features)
        return policy_distribution(policy, self.agent.space), value

    def q(self, params: Params, features: Array, action: Array) -> Array:
        """Of the actions taken, [C, B]."""
        if isinstance(self.agent.space, Discrete):
            return jnp.take_along_axis(self.all_q(params, features), action[None, :, None], axis=-1)[..., 0]
        q: Any = self.critics.apply(params, features, action)
        return q

    def first_q(self, params: Params, features: Array, action: Array) -> Array:
        """Of the first critic alone, at continuous actions, [B]."""
        first = jax.tree.map(lambda x: x[:1], params)
        q: Any = self.critics.clone(number=1).apply(first, features, action)
        return q[0]

    def all_q(self, params: Params, features: Array) -> Array:
        """Of all discrete actions, [C, B, n]."""
        q: Any = self.critics.apply(params, features)
        return q


Loss = Callable[[Networks, Weights, Params, Transitions, Array, OfflineConfig], tuple[Array, Metrics]]
"""(networks, weights, critics' target, batch, key, hyper) -> loss and its named parts."""

_fixed = jax.lax.stop_gradient


def iql(
    networks: Networks, weights: Weights, slow: Params, batch: Transitions, key: Array, hyper: OfflineConfig
) -> tuple[Array, Metrics]:
    """Implicit Q-learning (Kostrikov et al., 2022): no action is ever valued that was not recorded."""
    distribution, value = networks.policy(weights.policy, batch.features)
    following = _fixed(networks.policy(weights.policy, batch.following)[1])
    known = _fixed(networks.q(slow, batch.features, batch.action).min(0))
    wanted = losses.target(batch.reward, following, batch.terminated, hyper.gamma)
    q = networks.q(weights.critics, batch.features, batch.action)
    imitated = losses.advantage_weights(known - value, hyper.temperature, hyper.max_weight)
    parts = {
        "value_loss": losses.expectile(value, known, batch.weight, hyper.expectile),
        "critic_loss": losses.squared_error(q, wanted, batch.weight),
        "policy_loss": losses.imitation(distribution.log_prob(batch.action), imitated, batch.weight),
    }
    return sum(parts.values(), jnp.zeros(())), parts | {"q": losses.mean(q, batch.weight)}


def td3_bc(
    networks: Networks, weights: Weights, slow: Params, batch: Transitions, key: Array, hyper: OfflineConfig
) -> tuple[Array, Metrics]:
    """TD3 with behaviour cloning (Fujimoto and Gu, 2021), the policy's mode as its action.

    There is no slow copy of the policy: critics' targets are slow, and noise smooths them over actions.
    """

    def action(params: Params, features: Array) -> Array:
        return bounded(networks.policy(params, features)[0].mode(), -1.0, 1.0)

    noise = jnp.clip(hyper.noise * jax.random.normal(key, batch.action.shape), -2.5 * hyper.noise, 2.5 * hyper.noise)
    smoothed = jnp.clip(_fixed(action(weights.policy, batch.following)) + noise, -1.0, 1.0)
    following = _fixed(networks.q(slow, batch.following, smoothed).min(0))
    wanted = losses.target(batch.reward, following, batch.terminated, hyper.gamma)
    q = networks.q(weights.critics, batch.features, batch.action)
    chosen = action(weights.policy, batch.features)
    worth = networks.first_q(_fixed(weights.critics), batch.features, chosen)
    parts = {
        "critic_loss": losses.squared_error(q, wanted, batch.weight),
        "policy_loss": losses.td3_bc(worth, chosen, batch.action, batch.weight, hyper.bc_weight),
    }
    return sum(parts.values(), jnp.zeros(())), parts | {"q": losses.mean(q, batch.weight)}


def cql(
    networks: Networks, weights: Weights, slow: Params, batch: Transitions, key: Array, hyper: OfflineConfig
) -> tuple[Array, Metrics]:
    """Conservative Q-learning (Kumar et al., 2020): actions that were not recorded are worth less than they seem."""
    discrete = isinstance(networks.agent.space, Discrete)
    following_key, policy_key, others_key = jax.random.split(key, 3)
    distribution, _ = networks.policy(weights.policy, batch.features)
    after, _ = networks.policy(_fixed(weights.policy), batch.following)
    q = networks.q(weights.critics, batch.features, batch.action)
    if discrete:
        following = (after.probs * networks.all_q(slow, batch.following).min(0)).sum(-1)
        others = jnp.moveaxis(networks.all_q(weights.critics, batch.features), -1, 1)
        worth = _fixed(others.min(0))
        log_prob = jnp.moveaxis(jax.nn.log_softmax(distribution.logits), -1, 0)
    else:
        following = networks.q(slow, batch.following, _within(after.sample(seed=following_key))).min(0)
        others = _sampled(networks, weights, batch, distribution, after, others_key)
        action, log_prob = distribution.sample_and_log_prob(seed=policy_key)
        worth = networks.q(_fixed(weights.critics), batch.features, _within(action)).min(0)
    wanted = losses.target(batch.reward, _fixed(following), batch.terminated, hyper.gamma)
    parts = {
        "critic_loss": losses.squared_error(q, wanted, batch.weight),
        "conservatism": hyper.cql_weight * losses.conservatism(others, q, batch.weight),
        "policy_loss": losses.soft_policy(log_prob, worth, batch.weight, hyper.entropy),
    }
    return sum(parts.values(), jnp.zeros(())), parts | {"q": losses.mean(q, batch.weight)}


def bc(
    networks: Networks, weights: Weights, slow: Params, batch: Transitions, key: Array, hyper: OfflineConfig
) -> tuple[Array, Metrics]:
    """Behaviour cloning: recorded actions, whatever they were worth."""
    distribution, _ = networks.policy(weights.policy, batch.features)
    log_prob = distribution.log_prob(batch.action)
    loss = losses.imitation(log_prob, jnp.ones_like(log_prob), batch.weight)
    return loss, {"policy_loss": loss}


LEARNERS: dict[str, Loss] = {"iql": iql, "td3bc": td3_bc, "cql": cql, "bc": bc}


def _within(action: Array) -> Array:
    """The action that is executed, with a gradient that leads back into the box."""
    return bounded(action, -1.0, 1.0)


def _sampled(networks: Networks, weights: Weights, batch: Transitions, now: Any, after: Any, key: Array) -> Array:
    """q of sampled actions less their log-densities and that of their number: its log-sum-exp is of all in the box.

    Samples outside of the box count for nothing.

    Returns:
        [C, 3 `SAMPLES`, B].
    """
    uniform_key, now_key, after_key = jax.random.split(key, 3)
    size = batch.action.shape[-1]
    uniform = jax.random.uniform(uniform_key, (SAMPLES, *batch.action.shape), minval=-1.0)
    drawn = [(uniform, jnp.full(uniform.shape[:-1], -size * jnp.log(2.0)))]
    for each, each_key in ((now, now_key), (after, after_key)):
        drawn.append(each.sample_and_log_prob(seed=each_key, sample_shape=(SAMPLES,)))
    action, density = (jnp.concatenate(parts) for parts in zip(*_fixed(drawn), strict=True))
    q = jax.vmap(lambda action: networks.q(weights.critics, batch.features, action), out_axes=1)(action)
    inside = (jnp.abs(action) <= 1.0).all(-1)
    return jnp.where(inside, q - density, -jnp.inf) - jnp.log(len(action))
