"""Point robot: reach a goal on the unit semicircle; the goal's angle is the context.

Dynamics and reward follow the point environment of VariBAD (github.com/lmzintgraf/varibad); the eight goals
and their kernel are our design.
"""

import jax.numpy as jnp

from dynamite_envs.dlcmdp import Array, FiniteDLCMDP, check_count, check_flag, check_probability
from dynamite_envs.spaces import Box


class PointRobot(FiniteDLCMDP):
    """A point in the plane that moves by 0.1 a; reward is minus its distance to the goal (arbitrary unit)."""

    @property
    def observation_size(self) -> int:
        """Position x, y."""
        return 2

    @property
    def action_space(self) -> Box:
        """Velocity, [-1, 1]^2."""
        return Box(2)

    def init_physics(self, key: Array) -> Array:
        """Always the origin."""
        return jnp.zeros(2)

    def dynamics(self, physics: Array, context: Array, action: Array, key: Array) -> tuple[Array, Array, Array]:
        """s' = s + 0.1 a; reward -||s' - goal||."""
        after = physics + 0.1 * action
        return after, self.reward(physics, after, action, context), jnp.zeros((), bool)

    @property
    def relabels(self) -> bool:
        """Moves are the same under all contexts."""
        return True

    def reward(self, before: Array, after: Array, action: Array, context: Array) -> Array:
        """-||s' - goal||."""
        return -jnp.linalg.norm(after - self.goal(context))

    def observe(self, physics: Array) -> Array:
        """The position itself."""
        return physics

    def goal(self, context: Array) -> Array:
        """Goal position, [2]; the angles are spread evenly over [0, pi]."""
        angle = jnp.pi * context / (self.initial.shape[-1] - 1)
        return jnp.stack([jnp.cos(angle), jnp.sin(angle)])

    def context_features(self, context: Array) -> Array:
        """The goal position, [2]."""
        return self.goal(context)


def make(goals: int = 8, advance: float = 0.8, iid: bool = False, **fields) -> PointRobot:
    """Goals in order: a switch goes to the next one with probability `advance`, else anywhere; or all `iid`."""
    check_count("goals", goals, least=2)
    check_probability("advance", advance)
    check_flag("iid", iid)
    uniform = jnp.full((goals, goals), 1.0 / goals)
    ordered = advance * jnp.roll(jnp.eye(goals), 1, axis=1) + (1 - advance) * uniform
    fields = {"p": 0.04, "horizon": 100, "initial": uniform[0], **fields}
    return PointRobot(**{"kernel": uniform if iid else ordered, **fields})
