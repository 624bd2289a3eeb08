"""What is known exactly of every grid: the filter, and the posterior that a model of the reward implies."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dynamite_envs.exact import ExactSolution, predict
from dynamite_envs.gridworld.grid import Cells, Grid

Array = jax.Array


class GridSolution(ExactSolution):
    """A reward on goal k says whether k pays; elsewhere rewards say nothing."""

    env: Grid

    def init_posterior(self) -> Array:
        """The distribution of the first context."""
        return jnp.asarray(self.env.initial)

    def filter_step(self, posterior: Array, physics: Cells, reward: Array) -> Array:
        """Exact Bayes filter: a goal that pays is the context, a goal that does not is not.

        A reward that the posterior held to be impossible leaves the goals that it fits equally likely.
        """
        env = self.env
        on_goal = env.on_goal(physics)
        informative = jnp.any(on_goal) & (env.active_reward != env.inactive_reward)
        paid = jnp.abs(reward - env.active_reward) < jnp.abs(reward - env.inactive_reward)
        fits = jnp.where(paid, on_goal, ~on_goal) | ~informative
        weight = jnp.where(fits, posterior, 0.0)
        weight = jnp.where(jnp.any(weight > 0.0), weight, fits.astype(jnp.float32))
        return predict(env, weight / jnp.sum(weight))

    def decoded_posterior(self, physics: Cells, decode_reward: Callable[[Array, Array, Array], Array]) -> Array:
        """The reward expected for staying on a goal is linear in the probability that it pays.

        The probabilities so found, each in [0, 1], need not sum to 1; the nearest distribution is taken.
        """
        env = self.env
        goals = physics.goals
        on_goals = jax.vmap(lambda goal: env.observe(physics.replace(agent=goal)))(goals)
        expected = decode_reward(on_goals, jnp.zeros(len(goals), jnp.int32), on_goals)
        spread = env.active_reward - env.inactive_reward
        # Where all goals pay the same, rewards reveal nothing: an infinite spread leaves even odds.
        weight = jnp.clip((expected - env.inactive_reward) / jnp.where(spread == 0.0, jnp.inf, spread), 0.0, 1.0)
        return _nearest_distribution(weight)


def arrivals(side: int, moves: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Cell reached from each cell by each action, [actions, cells]; cell x, y has the number x times `side` plus y."""
    x, y = np.divmod(np.arange(side**2), side)
    reached = (np.clip(np.stack([x + dx, y + dy]), 0, side - 1) for dx, dy in moves)
    return np.stack([column * side + row for column, row in reached])


def _nearest_distribution(weight: Array) -> Array:
    """The distribution at the least Euclidean distance: all are moved by as much, and none below 0, [n] -> [n]."""
    falling = jnp.sort(weight)[::-1]
    excess = (jnp.cumsum(falling) - 1.0) / jnp.arange(1, len(weight) + 1)
    kept = jnp.sum(falling > excess)
    return jnp.maximum(weight - excess[kept - 1], 0.0)
