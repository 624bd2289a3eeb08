"""The exact filter of the point robot: a reward leaves the goals at the distance it was paid for."""

import jax
import jax.numpy as jnp

from dynamite_envs.exact import ExactSolution, predict
from dynamite_envs.point_robot import PointRobot

Array = jax.Array

ROUNDING = 1e-6  # of a computed distance, relative to the lengths it is made of; float32 has 1.2e-7


class PointRobotSolution(ExactSolution):
    """The posterior of the goals; goals at equal distance stay as likely, one against the other, as they were."""

    env: PointRobot

    def init_posterior(self) -> Array:
        """The distribution of the first goal."""
        return jnp.asarray(self.env.initial)

    def filter_step(self, posterior: Array, physics: Array, reward: Array) -> Array:
        """Drop the goals at another distance than the reward's, then let the session process move on.

        The goal that explains the reward best stays whatever rounding did, and those with it that rounding can't
        distinguish from it.
        """
        env = self.env
        goals = jax.vmap(env.goal)(jnp.arange(len(posterior)))
        distance = jnp.linalg.norm(physics - goals, axis=-1)
        miss = jnp.where(posterior > 0.0, jnp.abs(reward + distance), jnp.inf)
        consistent = miss <= jnp.min(miss) + ROUNDING * (1.0 + jnp.linalg.norm(physics))
        posterior = jnp.where(consistent, posterior, 0.0)
        return predict(env, posterior / jnp.sum(posterior))
