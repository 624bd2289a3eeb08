"""Gridworlds to test, and what a step in them pays and does."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from dynamite_envs import registry
from dynamite_envs.gridworld.env import Cells, Gridworld

NOOP, UP, RIGHT, DOWN, LEFT = range(5)
ASYMMETRIC = {"kernel": [[0.3, 0.7], [0.1, 0.9]], "initial": [0.8, 0.2]}
SETTINGS = {
    "default": {},
    "often": {"p": 0.4, "swap": 0.5},
    "never": {"p": 0.0},
    "always": {"p": 1.0, "swap": 0.9},
    "asymmetric": {"p": 0.3, **ASYMMETRIC},
    "costly": {"p": 0.2, "inactive_reward": -0.1, "initial": [0.6, 0.4]},
    "inverted": {"p": 0.2, "active_reward": -0.5, "inactive_reward": 0.5, "step_reward": 0.1},
    "untold": {"p": 0.3, "inactive_reward": 1.0, **ASYMMETRIC},
}


def make(**options: Any) -> Gridworld:
    env = registry.make("gridworld", **options)
    assert isinstance(env, Gridworld)
    return env


def at(agent: Any, goals: Any = ((0, 0), (4, 4))) -> Cells:
    return Cells(agent=jnp.array(agent, jnp.int32), goals=jnp.array(goals, jnp.int32))


def reward_of(env: Gridworld, on: int | None, context: int) -> float:
    """Reward of a step that ends on goal `on`, or on none."""
    if on is None:
        return float(env.step_reward)
    return float(env.active_reward if on == context else env.inactive_reward)


def transition(env: Gridworld) -> np.ndarray:
    """Contexts of one step to the next, switch or not."""
    kernel = np.asarray(env.kernel, float)
    return np.array([[(1 - float(env.p)) * (i == j) + float(env.p) * kernel[i, j] for j in (0, 1)] for i in (0, 1)])
