"""A policy written by hand that is told where it itches: what ScratchItch pays an agent that need not learn."""

import jax.numpy as jnp

from envs.dlcmdp import Array, State
from envs.scratch_itch import REACH, Scratching, ScratchItch, itch_frame, jacobian, tool

AWAY = 0.07  # from the limb on the way to another place, m
CLOSE = 0.06  # to the side of the itch, as near as rubbing begins, m
DEPTH = 0.012  # by which rubbing aims below the skin, m
STROKE, PERIOD = 0.016, 8  # amplitude along the limb in m, and steps of a whole stroke
GAIN = 4.0  # joints aim this many times beyond what would bring the tip there, since they lag behind their targets
DAMPING = 0.05  # of the inverse kinematics, m


def act(env: ScratchItch, state: State) -> Array:
    """Go before the itch, then press and rub along the limb.

    Args:
        env: the environment.
        state: where it stands, its context included.

    Returns:
        The action, [7].
    """
    physics: Scratching = state.physics
    itch, normal, along = itch_frame(physics.female, state.context)
    from_itch = physics.tip - itch
    beside = jnp.linalg.norm(from_itch - jnp.dot(from_itch, normal) * normal)
    stroke = STROKE * jnp.sin(2 * jnp.pi * state.step / PERIOD)
    aim = itch + jnp.where(beside < CLOSE, stroke * along - DEPTH * normal, AWAY * normal)
    pose = env.simulator.pose(physics.qpos)
    moves = jacobian(pose, tool(pose)[0])
    change = moves @ jnp.linalg.solve(moves.T @ moves + DAMPING**2 * jnp.eye(3), aim - physics.tip)
    return jnp.clip(GAIN * change / REACH, -1.0, 1.0)
