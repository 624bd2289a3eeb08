"""Reacher: a two-link arm whose tip shall be at a goal in the plane; the goal is the context and is not observed.

Arm and reward are those of Gymnasium's Reacher; goals that move during an episode are our design.
"""

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import Array, check_count, check_flag, check_not_negative, check_probability
from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import Motion, MuJoCoDLCMDP, Simulator
from dynamite_envs.spaces import Box

ARM = Simulator("reacher", substeps=2)
LINK, TIP = 0.1, 0.11  # from the shoulder to the elbow and from there to the tip, m


class Reacher(MuJoCoDLCMDP):
    """Reward is -|tip - goal| - |a|^2 after the step; the context is the goal, [2], in m.

    Attributes:
        goals: number of goals, spread evenly over a circle.
        radius: of that circle, m.
        advance: probability that a switch goes to the next goal on the circle; else to any of them.
        iid: 1 where every goal is drawn from the disc of `reach` instead.
        reach: radius of that disc, m.
        control_cost: weight of the squared action.
    """

    goals: int = struct.field(pytree_node=False, default=8)
    radius: Array | float = 0.16
    advance: Array | float = 0.8
    iid: Array | float = 0.0
    reach: Array | float = 0.2
    control_cost: Array | float = 1.0

    @property
    def observation_size(self) -> int:
        """Cosine and sine of both joints (4), their velocities (2), the tip's position (2)."""
        return 8

    @property
    def action_space(self) -> Box:
        """Torques of shoulder and elbow, as fractions of their gears."""
        return Box(2)

    def init_physics(self, key: Array) -> Motion:
        """Gymnasium's: angles up to 0.1 from straight, velocities up to 0.005."""
        position_key, velocity_key = jax.random.split(key)
        qpos = jax.random.uniform(position_key, (2,), minval=-0.1, maxval=0.1)
        qvel = jax.random.uniform(velocity_key, (2,), minval=-0.005, maxval=0.005)
        return Motion(qpos, qvel, jnp.zeros(2))

    def init_context(self, key: Array) -> Array:
        """Any goal of the circle, or any place of the disc."""
        return self._anywhere(key)

    def next_context(self, key: Array, context: Array) -> Array:
        """The next goal of the circle, or as the first."""
        advance_key, anywhere_key = jax.random.split(key)
        angle = jnp.arctan2(context[1], context[0]) + 2 * jnp.pi / self.goals
        advances = jax.random.bernoulli(advance_key, self.advance) & (self.iid == 0)
        return jnp.where(advances, _polar(self.radius, angle), self._anywhere(anywhere_key))

    def dynamics(self, physics: Motion, context: Array, action: Array, key: Array) -> tuple[Motion, Array, Array]:
        """0.02 s; the reward by where the tip is then."""
        after = self.simulator.advance(physics, action, jnp.zeros(2))
        return after, self.reward(physics, after, action, context), jnp.zeros((), bool)

    @property
    def relabels(self) -> bool:
        """The arm moves the same under all contexts."""
        return True

    def reward(self, before: Motion, after: Motion, action: Array, context: Array) -> Array:
        """By where the tip is then."""
        distance = jnp.linalg.norm(self.tip(after) - context)
        return -distance - self.control_cost * jnp.sum(action**2)

    def observe(self, physics: Motion) -> Array:
        """Cosines, sines, velocities, tip."""
        return jnp.concatenate([jnp.cos(physics.qpos), jnp.sin(physics.qpos), physics.qvel, self.tip(physics)])

    def tip(self, physics: Motion) -> Array:
        """Position of the tip in the plane, m, [2]."""
        shoulder, elbow = physics.qpos
        return _polar(LINK, shoulder) + _polar(TIP, shoulder + elbow)

    def context_features(self, context: Array) -> Array:
        """The goal, [2]."""
        return context

    def _anywhere(self, key: Array) -> Array:
        goal_key, turn_key, distance_key = jax.random.split(key, 3)
        goal = jax.random.randint(goal_key, (), 0, self.goals)
        on_circle = _polar(self.radius, 2 * jnp.pi * goal / self.goals)
        distance = self.reach * jnp.sqrt(jax.random.uniform(distance_key))
        in_disc = _polar(distance, 2 * jnp.pi * jax.random.uniform(turn_key))
        return jnp.where(self.iid > 0, in_disc, on_circle)


def _polar(radius: Array | float, angle: Array) -> Array:
    return radius * jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def make(iid: bool = False, impl: str = "auto", worlds: int | None = None, **fields) -> Reacher:
    """Goals in order: a switch goes to the next one with probability `advance`, else anywhere; or all `iid`.

    `impl` and `worlds` are as in `physics.Simulator`.
    """
    check_flag("iid", iid)
    for name in ("goals", "radius", "advance") if iid else ("reach",):
        if name in fields:
            raise UserError(f"{name} is {fields[name]!r}; where iid is {iid} it would change nothing")
    check_count("goals", fields.get("goals", 8), least=2)
    check_probability("advance", fields.get("advance", 0.8))
    simulator = ARM.run_by(impl, worlds)
    check_not_negative(**{name: fields[name] for name in ("radius", "reach") if name in fields})
    fields = {"p": 0.02, "horizon": 200, "iid": float(iid), **fields}
    return Reacher(simulator=simulator, **fields)
