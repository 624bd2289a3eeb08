"""A belief against the exact posterior of the context, and the regret of the actions it led to."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs.exact import BayesFilter, Regret, RewardPosterior
from dynamite_jax.analysis import readout, statistics
from dynamite_jax.analysis.rollouts import Episodes
from dynamite_jax.data.rollout import Agent
from dynamite_jax.data.types import AgentParams, Array
from dynamite_jax.runtime import loggers


def exact_posterior(solution: BayesFilter, episodes: Episodes) -> Array:
    """Probabilities of the contexts before each step, given the history before it, [H, N, n]."""
    count = episodes.rollout.reward.shape[1]

    def step(posterior: Array, evidence: tuple[Any, Array]) -> tuple[Array, Array]:
        physics, reward = evidence
        return jax.vmap(solution.filter_step)(posterior, physics, reward), posterior

    next_physics = jax.tree.map(lambda x: x[1:], episodes.physics)
    start = jnp.tile(solution.init_posterior(), (count, 1))
    return jax.lax.scan(step, start, (next_physics, episodes.rollout.reward))[1]


def decoded_posterior(
    solution: RewardPosterior, *, agent: Agent, params: AgentParams, episodes: Episodes, key: Array
) -> Array:
    """Probabilities of the contexts before each step, by the reward decoder of the belief, [H, N, n]."""

    def decode(physics: Any, belief: Any) -> Array:
        return solution.decoded_posterior(physics, partial(agent.expected_reward, params, belief, key))

    def decode_step(step: tuple[Any, Any]) -> Array:
        physics, beliefs = step
        return jax.vmap(decode)(physics, beliefs)

    steps = jax.tree.map(lambda x: x[:-1], (episodes.physics, episodes.beliefs))
    return jax.lax.map(decode_step, steps)


def errors(
    solution: BayesFilter,
    *,
    agent: Agent,
    params: AgentParams,
    episodes: Episodes,
    decoder_key: Array,
    reader_key: Array,
) -> dict[str, Array]:
    """Mean absolute errors of a probability, each [].

    Returns:
        `readout_error` of a posterior that is read off the policy's inputs; `decoded_error` of the reward decoder,
        where belief and environment have one; `error_of_knowing_nothing`, of the distribution of the first context.
    """
    exact = exact_posterior(solution, episodes)
    features = agent.normalise(params.normaliser, "features", episodes.rollout.features[:-1])
    result = {"readout_error": readout.error(features, exact, reader_key)}
    if agent.belief.decodes and isinstance(solution, RewardPosterior):
        decoded = decoded_posterior(solution, agent=agent, params=params, episodes=episodes, key=decoder_key)
        result["decoded_error"] = jnp.abs(decoded - exact).mean()
    return result | {"error_of_knowing_nothing": jnp.abs(exact - solution.init_posterior()).mean()}


def regret(solution: Regret, physics: Any, action: np.ndarray, reward: np.ndarray) -> loggers.Record:
    """Mean regret of each seed, from physical states [seeds, H + 1, N, ...], actions and rewards [seeds, H, N, ...]."""

    def merge_seeds(x: np.ndarray) -> np.ndarray:
        """[seeds, H, N, ...] -> [H, seeds N, ...]."""
        return np.concatenate(list(x), axis=1)

    regrets = solution.regret(jax.tree.map(merge_seeds, physics), merge_seeds(action), merge_seeds(reward))
    return statistics.summarise(regrets.reshape(len(reward), -1).mean(-1))
