"""Gridworld with two goals of which one pays; which one is the context.

Moves follow the grid of VariBAD's navigation task (Zintgraf et al., 2020; github.com/lmzintgraf/varibad):
5 x 5 cells, the actions noop, up, right, down, left, clipped at the edges. That the paying goal alternates
during the episode is our design.
"""

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import Array, FiniteDLCMDP, check_count, check_probability
from dynamite_envs.spaces import Discrete

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


class Cells(struct.PyTreeNode):
    """Integer coordinates: `agent` [2] and the two `goals` [2, 2]."""

    agent: Array
    goals: Array


class Gridworld(FiniteDLCMDP):
    """Two distinct goal cells are drawn every episode and observed; context m: goal m pays.

    Attributes:
        active_reward: reward of a step that ends on the paying goal.
        inactive_reward: reward of a step that ends on the other goal.
        step_reward: reward of any other step.
        cells: side length of the grid.
    """

    contexts = 2
    active_reward: Array | float = 1.0
    inactive_reward: Array | float = 0.0
    step_reward: Array | float = -0.1
    cells: int = struct.field(pytree_node=False, default=5)

    @property
    def observation_size(self) -> int:
        """Agent, goal A and goal B, each x and y."""
        return 6

    @property
    def action_space(self) -> Discrete:
        """Noop, up, right, down, left."""
        return Discrete(len(MOVES))

    def init_physics(self, key: Array) -> Cells:
        """Start cell uniform over the grid, goals uniform over distinct pairs."""
        n = self.cells**2
        agent, first, offset = jax.random.randint(key, (3,), jnp.zeros(3, jnp.int32), jnp.array([n, n, n - 1]))
        second = (first + 1 + offset) % n
        return Cells(agent=self._xy(agent), goals=jnp.stack([self._xy(first), self._xy(second)]))

    def dynamics(self, physics: Cells, context: Array, action: Array, key: Array) -> tuple[Cells, Array, Array]:
        """Move, then pay by the cell reached."""
        agent = jnp.clip(physics.agent + jnp.array(MOVES, jnp.int32)[action], 0, self.cells - 1)
        physics = physics.replace(agent=agent)
        on_goal = self.on_goal(physics)
        reward = jnp.where(on_goal[context], self.active_reward, self.step_reward)
        reward = jnp.where(on_goal[1 - context], self.inactive_reward, reward)
        return physics, jnp.asarray(reward, jnp.float32), jnp.zeros((), bool)

    def observe(self, physics: Cells) -> Array:
        """All coordinates, scaled to [0, 1]."""
        xy = jnp.concatenate([physics.agent[None], physics.goals]).reshape(-1)
        return xy.astype(jnp.float32) / (self.cells - 1)

    def on_goal(self, physics: Cells) -> Array:
        """Whether the agent is on goal A, goal B, [2]."""
        return jnp.all(physics.goals == physics.agent[None], axis=-1)

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """Change of (x, y) of each action."""
        return MOVES

    def _xy(self, cell: Array) -> Array:
        return jnp.stack([cell // self.cells, cell % self.cells]).astype(jnp.int32)


def make(swap: float = 0.8, **fields) -> Gridworld:
    """The alternating-goals gridworld: `swap` is the probability that a switch changes the goal."""
    check_probability("swap", swap)
    check_count("cells", fields.get("cells", 2), least=2)
    fields = {"p": 0.07, "horizon": 60, "initial": [0.5, 0.5], **fields}
    return Gridworld(**{"kernel": [[1 - swap, swap], [swap, 1 - swap]], **fields})
