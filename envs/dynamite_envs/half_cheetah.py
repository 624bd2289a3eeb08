"""Half-cheetah on flat ground: the target speed, the direction or the wind is the context, alone or two at once.

The body is Gymnasium's HalfCheetah. Speed and direction tasks follow HalfCheetahVel and HalfCheetahDir of VariBAD
(github.com/lmzintgraf/varibad), with the control cost on the clipped action; wind and all kernels are our design.
"""

import jax
import jax.numpy as jnp
from flax import struct

from dynamite_envs.dlcmdp import Array, check_flag, check_not_negative, check_probability
from dynamite_envs.errors import UserError
from dynamite_envs.physics.backend import Motion, MuJoCoDLCMDP, Simulator
from dynamite_envs.spaces import Box

BODY = Simulator("half_cheetah", substeps=5)


class Task(struct.PyTreeNode):
    """The context; parts that don't vary are constant.

    Attributes:
        speed: target, m/s.
        direction: -1 or 1.
        wind: horizontal force on the torso, N.
    """

    speed: Array
    direction: Array
    wind: Array


class HalfCheetah(MuJoCoDLCMDP):
    """Reward is -|v - speed| or, where the direction varies, direction * v; less a cost of control.

    v is the mean forward velocity over a step. The parts that don't vary are `speed`, 1 and 0.

    Attributes:
        varies: parts of the `Task` that sessions redraw.
        torso_position: whether the observation also holds the torso's position, as VariBAD's does.
        speed: target where it does not vary, m/s.
        top_speed: targets lie between 0 and this, m/s.
        speed_deviation: the next target is normal around `top_speed` minus the old one, with this deviation, m/s.
        flip: probability that a switch turns the direction, and that it turns the wind.
        wind: least and greatest force, drawn uniformly between, N; 25 and 35 where nothing else varies.
        control_cost: weight of the squared action.
        iid: 1 where a switch draws as the first context is drawn, whatever came before.
    """

    varies: tuple[str, ...] = struct.field(pytree_node=False, default=("speed",))
    torso_position: bool = struct.field(pytree_node=False, default=False)
    speed: Array | float = 1.5
    top_speed: Array | float = 3.0
    speed_deviation: Array | float = 0.3
    flip: Array | float = 0.8
    wind: Array | tuple[float, float] = (10.0, 20.0)
    control_cost: Array | float = 0.05
    iid: Array | float = 0.0

    @property
    def observation_size(self) -> int:
        """Joint positions without rootx (8), velocities (9) and, if asked for, the torso's position (3)."""
        return 20 if self.torso_position else 17

    @property
    def action_space(self) -> Box:
        """Torques of thigh, shin and foot of the back and of the front leg, as fractions of their gears."""
        return Box(6)

    @property
    def decode_state(self) -> bool:
        """Wind changes the dynamics."""
        return "wind" in self.varies

    def init_physics(self, key: Array) -> Motion:
        """Gymnasium's: positions up to 0.1 from the model's, velocities of deviation 0.1."""
        position_key, velocity_key = jax.random.split(key)
        model = self.simulator.model
        qpos = jnp.asarray(model.qpos0, jnp.float32)
        qpos += jax.random.uniform(position_key, (model.nq,), minval=-0.1, maxval=0.1)
        return Motion(qpos, 0.1 * jax.random.normal(velocity_key, (model.nv,)), jnp.zeros(model.nv))

    def init_context(self, key: Array) -> Task:
        """Speed uniform up to `top_speed`; direction and wind to either side alike."""
        speed_key, direction_key, side_key, size_key = jax.random.split(key, 4)
        task = Task(
            speed=self.top_speed * jax.random.uniform(speed_key),
            direction=jax.random.rademacher(direction_key, dtype=jnp.float32),
            wind=jax.random.rademacher(side_key, dtype=jnp.float32) * self._gust(size_key),
        )
        return self._still(task)

    def next_context(self, key: Array, context: Task) -> Task:
        """Fast after slow, and mostly the other way; or as `init_context`."""
        fresh_key, speed_key, turn_key, side_key, size_key = jax.random.split(key, 5)
        speed = self.top_speed - context.speed + self.speed_deviation * jax.random.normal(speed_key)
        turn, side = (jnp.where(jax.random.bernoulli(k, self.flip), -1.0, 1.0) for k in (turn_key, side_key))
        task = Task(
            speed=jnp.clip(speed, 0.0, self.top_speed),
            direction=turn * context.direction,
            wind=side * jnp.sign(context.wind) * self._gust(size_key),
        )
        fresh, moved = self.init_context(fresh_key), self._still(task)
        return jax.tree.map(lambda a, b: jnp.where(self.iid > 0, a, b), fresh, moved)

    def dynamics(self, physics: Motion, context: Task, action: Array, key: Array) -> tuple[Motion, Array, Array]:
        """0.05 s under the wind; the reward by the way made."""
        applied = jnp.zeros_like(physics.qvel).at[0].set(context.wind)  # on rootx, as if it pushed the torso
        after = self.simulator.advance(physics, action, applied)
        return after, self.reward(physics, after, action, context), jnp.zeros((), bool)

    @property
    def relabels(self) -> bool:
        """Not where the wind varies, which changes how it moves."""
        return "wind" not in self.varies

    def reward(self, before: Motion, after: Motion, action: Array, context: Task) -> Array:
        """By the way made."""
        velocity = (after.qpos[0] - before.qpos[0]) / self.simulator.dt
        paid = context.direction * velocity if "direction" in self.varies else -jnp.abs(velocity - context.speed)
        return paid - self.control_cost * jnp.sum(action**2)

    def observe(self, physics: Motion) -> Array:
        """Joint positions without rootx, velocities; with `torso_position` x, y, z of the torso."""
        parts = [physics.qpos[1:], physics.qvel]
        if self.torso_position:
            x, z = physics.qpos[0], physics.qpos[1] + self.simulator.model.body("torso").pos[2]
            parts += [jnp.stack([x, jnp.zeros_like(x), z])]
        return jnp.concatenate(parts)

    def context_features(self, context: Task) -> Array:
        """The parts that vary."""
        return jnp.stack([getattr(context, part) for part in self.varies])

    def _gust(self, key: Array) -> Array:
        low, high = jnp.asarray(self.wind)
        return jax.random.uniform(key, minval=low, maxval=high)

    def _still(self, task: Task) -> Task:
        """The task with the parts that don't vary at their constants."""
        fixed = {"speed": self.speed, "direction": 1.0, "wind": 0.0}
        fixed = {part: jnp.asarray(value, jnp.float32) for part, value in fixed.items() if part not in self.varies}
        return task.replace(**fixed)


def make(*varies: str, iid: bool = False, impl: str = "auto", worlds: int | None = None, **fields) -> HalfCheetah:
    """A half-cheetah whose `varies` change from session to session; `impl` and `worlds` as in `physics.Simulator`."""
    check_flag("iid", iid)
    used_where = {
        "speed": varies == ("wind",),
        "top_speed": "speed" in varies,
        "speed_deviation": "speed" in varies and not iid,
        "flip": varies != ("speed",) and not iid,
        "wind": "wind" in varies,
    }
    for name in fields:
        if not used_where.get(name, True):
            drawn = f"iid is {iid} and {' and '.join(varies)} vary"
            raise UserError(f"{name} is {fields[name]!r}; where {drawn} it would change nothing")
    check_probability("flip", fields.get("flip", 0.0))
    simulator = BODY.run_by(impl, worlds)
    check_not_negative(**{name: fields[name] for name in ("top_speed", "speed_deviation") if name in fields})
    match fields.get("wind", (0, 0)):
        case [int() | float() as low, int() | float() as high] if 0 <= low <= high:
            pass
        case wrong:
            raise UserError(f"wind is {wrong!r}; it must be two numbers, the least force and the greatest, 0 or more")
    if varies == ("wind",):
        fields = {"wind": (25.0, 35.0), **fields}  # less hardly shows in the reward
    fields = {"p": 0.02, "horizon": 200, "iid": float(iid), **fields}
    return HalfCheetah(varies=varies, simulator=simulator, **fields)
