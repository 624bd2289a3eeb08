"""Where a belief expects reward: steps that end all over the place, and what the reward decoder makes of them."""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import DLCMDP, State
from dynamite_envs.gridworld.grid import Grid
from dynamite_envs.physics.backend import Motion
from dynamite_envs.point_robot import PointRobot
from dynamite_envs.reacher import LINK, TIP, Reacher
from dynamite_jax.data.rollout import Agent
from dynamite_jax.data.types import AgentParams, Array

FINE = 41  # places along a side of a plane
HALF_PLANE = 1.6  # of the point robot


class Places(NamedTuple):
    """Steps without movement at places of a square.

    Attributes:
        extent: least and greatest x, least and greatest y of the square.
        observation: at each place, [rows, columns, O], y upwards.
        reached: whether the place can be reached, [rows, columns].
    """

    extent: tuple[float, float, float, float]
    observation: Array
    reached: Array


def places(env: DLCMDP, physics: Any) -> Places | None:
    """Places of an environment, whatever wraps it; None where it has no plane.

    Args:
        env: the environment.
        physics: a physical state of the episode, for what stays as it is.
    """
    env = env.unwrapped
    if isinstance(env, Grid):
        side = jnp.arange(env.cells)
        cells = jax.vmap(jax.vmap(lambda xy: env.observe(physics.replace(agent=xy))))(_square(side))
        return Places(_extent(-0.5, env.cells - 0.5), cells, jnp.ones(cells.shape[:2], bool))
    if isinstance(env, PointRobot):
        plane = _square(jnp.linspace(-HALF_PLANE, HALF_PLANE, FINE))
        return Places(_extent(-HALF_PLANE, HALF_PLANE), plane, jnp.ones(plane.shape[:2], bool))
    if isinstance(env, Reacher):
        reach = LINK + TIP
        plane = _square(jnp.linspace(-reach, reach, FINE))
        joints = jax.vmap(jax.vmap(_joints))(plane)
        still = jnp.zeros(2)
        observation = jax.vmap(jax.vmap(lambda qpos: env.observe(Motion(qpos, still, still))))(joints)
        distance = jnp.linalg.norm(plane, axis=-1)
        return Places(_extent(-reach, reach), observation, (distance <= reach) & (distance >= TIP - LINK))
    return None


def marks(env: DLCMDP, state: State) -> tuple[Array, Array]:
    """Where the agent is, and the goal: (x, y) of an environment that has `places`, [2] each."""
    env = env.unwrapped
    if isinstance(env, Grid):
        return state.physics.agent, state.physics.goals[state.context]
    if isinstance(env, PointRobot):
        return state.physics, env.goal(state.context)
    assert isinstance(env, Reacher)  # the last that has
    return env.tip(state.physics), state.context


def expected(agent: Agent, params: AgentParams, belief: Any, chosen: Places, key: Array) -> Array:
    """Reward that a belief expects at each place, NaN where none is reached, [rows, columns].

    Args:
        agent: whose belief `decodes`.
        params: of the agent.
        belief: state of the belief before one step.
        chosen: the places.
        key: of the samples of the latent.
    """
    shape = chosen.observation.shape
    observation = chosen.observation.reshape(-1, shape[-1])
    action = agent.space.zeros((len(observation),))
    summary = jax.tree.map(lambda x: x[0], agent.belief.summary(jax.tree.map(lambda x: x[None], belief)))
    decode = partial(agent.expected_reward, params, summary, key)
    return jnp.where(chosen.reached, decode(observation, action, observation).reshape(shape[:2]), jnp.nan)


def _extent(low: float, high: float) -> tuple[float, float, float, float]:
    return low, high, low, high


def _square(side: Array) -> Array:
    """Places (x, y) of a square, y upwards from row to row, [rows, columns, 2]."""
    return jnp.stack(jnp.meshgrid(side, side), axis=-1)


def _joints(tip: Array) -> Array:
    """Angles of shoulder and elbow that bring the tip to a place, [2]; the law of cosines."""
    squared = jnp.sum(tip**2)
    elbow = jnp.arccos(jnp.clip((squared - LINK**2 - TIP**2) / (2 * LINK * TIP), -1.0, 1.0))
    shoulder = jnp.arctan2(tip[1], tip[0]) - jnp.arctan2(TIP * jnp.sin(elbow), LINK + TIP * jnp.cos(elbow))
    return jnp.stack([shoulder, elbow])
