"""Episodes for the analysis: played by the deterministic policy, with physical states and beliefs."""

from typing import Any

import jax
from flax import struct

from dynamite_envs.dlcmdp import DLCMDP
from dynamite_jax.data.rollout import Agent, play
from dynamite_jax.data.types import AgentParams, Array, Rollout


class Episodes(struct.PyTreeNode):
    """N episodes of one agent, time-major.

    Attributes:
        rollout: observations, actions and rewards.
        physics: physical states s_0 .. s_H, leaves [H + 1, N, ...].
        beliefs: `Belief.summary` in these states, for the reward decoder, leaves [H + 1, N, ...].
    """

    rollout: Rollout
    physics: Any
    beliefs: Any


def play_episodes(
    agent: Agent, env: DLCMDP, params: AgentParams, *, episodes: int, reset_key: Array, action_key: Array
) -> Episodes:
    """Play one episode in each of `episodes` environments; the action is the mode of the policy."""
    start = jax.vmap(env.reset)(jax.random.split(reset_key, episodes))
    rollout, environments, beliefs = play(agent, env, params, environment=start, key=action_key, deterministic=True)
    return Episodes(rollout, environments.physics, beliefs)
