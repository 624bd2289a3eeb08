"""Ring gridworlds: goals at fixed cells around the edge, of which the one that pays goes round.

That the goals form a ring, and that the last context predicts the next one, are our design.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dynamite_envs.dlcmdp import Array, check_count, check_probability
from dynamite_envs.errors import UserError
from dynamite_envs.gridworld.grid import Cells, Grid

# Clockwise, x and y in halves of the side. Every other one is a corner.
PLACES = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))


class Ring(Grid):
    """Goals that neither move nor are observed: the corners, or the corners and the middles of the edges.

    Attributes:
        contexts: number of goals, 4 or 8.
    """

    contexts: int = struct.field(pytree_node=False, kw_only=True)

    @property
    def observation_size(self) -> int:
        """The agent's x and y."""
        return 2

    def init_physics(self, key: Array) -> Cells:
        """Start cell uniform over the grid."""
        return Cells(agent=self.xy(jax.random.randint(key, (), 0, self.cells**2)), goals=self.goals)

    def observe(self, physics: Cells) -> Array:
        """The agent's x and y, scaled to [0, 1], [2]."""
        return self.scaled(physics.agent)

    @property
    def goals(self) -> Array:
        """Coordinates of the goals in the order of the ring, [n, 2]."""
        halves = np.array(PLACES[:: len(PLACES) // self.contexts])
        return jnp.asarray(halves * (self.cells - 1) // 2, jnp.int32)


def make(goals: int, forward: float = 0.8, **fields) -> Ring:
    """A ring of goals.

    Args:
        goals: how many, 4 or 8.
        forward: probability that a switch goes to the next goal in the ring, and not to the previous one.
        **fields: of `Ring`.

    Raises:
        UserError: an argument that can't be one.
    """
    if type(goals) is not int or goals not in (4, 8):
        raise UserError(f"goals is {goals!r}; it must be 4 or 8")
    check_probability("forward", forward)
    cells = fields.get("cells", 5)
    check_count("cells", cells, least=2 if goals == 4 else 3)
    if goals == 8 and cells % 2 == 0:
        raise UserError(f"cells is {cells!r}; with 8 goals it must be odd, so that the edges have a middle")
    following = np.roll(np.eye(goals), 1, axis=1)
    kernel = forward * following + (1 - forward) * following.T
    fields = {"p": 0.07, "horizon": 60, "initial": np.full(goals, 1 / goals), "kernel": kernel, **fields}
    return Ring(contexts=goals, **fields)
