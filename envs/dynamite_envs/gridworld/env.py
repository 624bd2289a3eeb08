"""Gridworld with two goals of which one pays; which one is the context.

That the paying goal alternates during the episode is our design.
"""

import jax
import jax.numpy as jnp

from dynamite_envs.dlcmdp import Array, check_count, check_probability
from dynamite_envs.gridworld.grid import Cells, Grid


class Gridworld(Grid):
    """Two distinct goal cells are drawn every episode and observed."""

    contexts = 2

    @property
    def observation_size(self) -> int:
        """Agent, goal A and goal B, each x and y."""
        return 6

    def init_physics(self, key: Array) -> Cells:
        """Start cell uniform over the grid, goals uniform over distinct pairs."""
        n = self.cells**2
        agent, first, offset = jax.random.randint(key, (3,), jnp.zeros(3, jnp.int32), jnp.array([n, n, n - 1]))
        second = (first + 1 + offset) % n
        return Cells(agent=self.xy(agent), goals=jnp.stack([self.xy(first), self.xy(second)]))

    def observe(self, physics: Cells) -> Array:
        """All coordinates, scaled to [0, 1]."""
        return self.scaled(jnp.concatenate([physics.agent[None], physics.goals]).reshape(-1))


def make(swap: float = 0.8, **fields) -> Gridworld:
    """The alternating-goals gridworld: `swap` is the probability that a switch changes the goal."""
    check_probability("swap", swap)
    check_count("cells", fields.get("cells", 2), least=2)
    fields = {"p": 0.07, "horizon": 60, "initial": [0.5, 0.5], **fields}
    return Gridworld(**{"kernel": [[1 - swap, swap], [swap, 1 - swap]], **fields})
