"""Grids with goals of which one pays; which one is the context. What the gridworld and the rings share.

Moves follow the grid of VariBAD's navigation task (Zintgraf et al., 2020; github.com/lmzintgraf/varibad):
5 x 5 cells, the actions noop, up, right, down, left, clipped at the edges.
"""

import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import Array, FiniteDLCMDP
from dynamite_envs.spaces import Discrete

MOVES = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))


class Cells(struct.PyTreeNode):
    """Integer coordinates: `agent` [2] and the `goals` [n, 2], one for each context."""

    agent: Array
    goals: Array


class Grid(FiniteDLCMDP):
    """Context m: goal m pays. A subclass says where agent and goals start, and what of them is observed.

    Attributes:
        active_reward: reward of a step that ends on the paying goal.
        inactive_reward: reward of a step that ends on another goal.
        step_reward: reward of any other step.
        cells: side length of the grid.
    """

    active_reward: Array | float = 1.0
    inactive_reward: Array | float = 0.0
    step_reward: Array | float = -0.1
    cells: int = struct.field(pytree_node=False, default=5)

    @property
    def action_space(self) -> Discrete:
        """Noop, up, right, down, left."""
        return Discrete(len(MOVES))

    def dynamics(self, physics: Cells, context: Array, action: Array, key: Array) -> tuple[Cells, Array, Array]:
        """Move, then pay by the cell reached."""
        agent = jnp.clip(physics.agent + jnp.array(MOVES, jnp.int32)[action], 0, self.cells - 1)
        after = physics.replace(agent=agent)
        return after, self.reward(physics, after, action, context), jnp.zeros((), bool)

    @property
    def relabels(self) -> bool:
        """Moves are the same under all contexts."""
        return True

    def reward(self, before: Cells, after: Cells, action: Array, context: Array) -> Array:
        """By the cell reached."""
        on_goal = self.on_goal(after)
        reward = jnp.where(jnp.any(on_goal), self.inactive_reward, self.step_reward)
        reward = jnp.where(on_goal[context], self.active_reward, reward)
        return jnp.asarray(reward, jnp.float32)

    def on_goal(self, physics: Cells) -> Array:
        """Whether the agent is on each goal, [n]."""
        return jnp.all(physics.goals == physics.agent[None], axis=-1)

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """Change of (x, y) of each action."""
        return MOVES

    def xy(self, cell: Array) -> Array:
        """Coordinates of a cell of given number, x times `cells` plus y, [2]."""
        return jnp.stack([cell // self.cells, cell % self.cells]).astype(jnp.int32)

    def scaled(self, xy: Array) -> Array:
        """Coordinates in [0, 1], of the same shape."""
        return xy.astype(jnp.float32) / (self.cells - 1)
