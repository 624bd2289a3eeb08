"""Ant and humanoid, which have to go where the context says: to a place, or in a direction.

Bodies, costs and falls are those of brax. The tasks follow AntGoal of VariBAD (github.com/lmzintgraf/varibad), AntDir
and HumanoidDir of PEARL (github.com/katerakelly/oyster); directions and places that change are our design.
"""

import warnings
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
from brax import envs
from brax.envs.base import State as BraxState

from dynamite_envs.brax import BraxDLCMDP
from dynamite_envs.dlcmdp import Array, check_flag, check_not_negative
from dynamite_envs.errors import UserError

BACKENDS = ("spring", "positional", "generalized")
WEIGHTS = {"ant": 1.0, "humanoid": 1.25}  # of the forward velocity in brax's reward


class Legged(BraxDLCMDP):
    """A body that has to turn round when the context does.

    Attributes:
        turn_deviation: a switch turns round by half a circle, give or take this deviation, rad.
        iid: 1 where a switch draws as the first context is drawn, whatever came before.
    """

    turn_deviation: Array | float = 0.5
    iid: Array | float = 0.0

    def turned(self, key: Array, angle: Array) -> Array:
        """The angle after a switch, from -pi to pi."""
        fresh_key, turn_key = jax.random.split(key)
        turned = angle + jnp.pi + self.turn_deviation * jax.random.normal(turn_key)
        wrapped = jnp.arctan2(jnp.sin(turned), jnp.cos(turned))
        return jnp.where(self.iid > 0, _any_angle(fresh_key), wrapped)


class Direction(Legged):
    """Reward is brax's, with the velocity along the context in place of that along x; the context is an angle, rad.

    The task ends where brax's does: when the body falls, and when an ant jumps too high.

    Attributes:
        weight: of the velocity.
    """

    weight: Array | float = 1.0

    def init_context(self, key: Array) -> Array:
        """Any angle alike."""
        return _any_angle(key)

    def next_context(self, key: Array, context: Array) -> Array:
        """Mostly back."""
        return self.turned(key, context)

    def reward(self, before: BraxState, after: BraxState, action: Array, context: Array) -> Array:
        """Velocity along the context, less brax's costs."""
        velocity = jnp.stack([after.metrics["x_velocity"], after.metrics["y_velocity"]])
        along = self.weight * jnp.dot(_unit(context), velocity)
        return after.reward - after.metrics["forward_reward"] + along

    def context_features(self, context: Array) -> Array:
        """Its cosine and sine, [2]."""
        return _unit(context)


class Goal(Legged):
    """Reward is -|x - goal x| - |y - goal y| - `control_cost` |a|^2; the context is the goal, [2], in m.

    The torso's place is observed, and falling does not end the task, since an end would be worth having.

    Attributes:
        reach: goals lie this far from the origin at most, m.
        control_cost: weight of the squared action.
    """

    reach: Array | float = 2.0
    control_cost: Array | float = 0.1

    def init_context(self, key: Array) -> Array:
        """Anywhere in the disc alike."""
        angle_key, distance_key = jax.random.split(key)
        return self._place(distance_key, _any_angle(angle_key))

    def next_context(self, key: Array, context: Array) -> Array:
        """Mostly on the other side."""
        turn_key, distance_key = jax.random.split(key)
        return self._place(distance_key, self.turned(turn_key, jnp.arctan2(context[1], context[0])))

    def reward(self, before: BraxState, after: BraxState, action: Array, context: Array) -> Array:
        """By where the torso is after the step."""
        away = jnp.abs(self.observe(after)[:2] - context).sum()
        return -away - self.control_cost * jnp.sum(action**2)

    def context_features(self, context: Array) -> Array:
        """The goal, [2]."""
        return context

    def _place(self, key: Array, angle: Array) -> Array:
        return self.reach * jnp.sqrt(jax.random.uniform(key)) * _unit(angle)


def _any_angle(key: Array) -> Array:
    return jax.random.uniform(key, minval=-jnp.pi, maxval=jnp.pi)


def _unit(angle: Array) -> Array:
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


@cache
def _body(robot: str, backend: str, ends: bool) -> Any:
    """One for all environments that want the same, so that programs compiled for it are found again."""
    goal = {} if ends else {"terminate_when_unhealthy": False, "exclude_current_positions_from_observation": False}
    with warnings.catch_warnings():  # of brax, that nobody develops its bodies any more
        warnings.simplefilter("ignore", UserWarning)
        return envs.get_environment(robot, backend=backend, **goal)


def make(robot: str, task: str, iid: bool = False, backend: str = "spring", **fields) -> Legged:
    """A robot of brax with the task `direction` or `goal`; `backend` computes its physics."""
    check_flag("iid", iid)
    if backend not in BACKENDS:
        raise UserError(f"backend is {backend!r}; it must be one of {', '.join(BACKENDS)}")
    if iid and "turn_deviation" in fields:
        raise UserError(f"turn_deviation is {fields['turn_deviation']!r}; where iid is True it would change nothing")
    check_not_negative(**{name: fields[name] for name in ("turn_deviation", "reach") if name in fields})
    fields = {"p": 0.01, "horizon": 200, "iid": float(iid), **fields}
    if task == "goal":
        return Goal(body=_body(robot, backend, False), **fields)
    return Direction(body=_body(robot, backend, True), **{"weight": WEIGHTS[robot], **fields})
